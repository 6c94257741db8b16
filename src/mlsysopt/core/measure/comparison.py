"""Comparisons of callables and commands, in paired and interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from mlsysopt.core.errors import MeasureError, near_misses
from mlsysopt.core.measure.ratio import Ratio
from mlsysopt.core.measure.rounds import Comparison, Rounds
from mlsysopt.core.measure.sides import Reading, Runner, Side, SideFailed, runner
from mlsysopt.core.measure.surroundings import is_quiet
from mlsysopt.core.seeds import integer_seed
from mlsysopt.core.target import Metric

__all__ = ["compare", "compare_many"]

LOOKS = (6, 8, 12, 16, 20)
# A reading must last long enough that starting and stopping the clocks does not show.
LEAST_READING_S = 0.005

_CLOCKS = {
    "wall": Metric("s", "lower", clock="wall", twin="cpu"),
    "cpu": Metric("s", "lower", clock="cpu", twin="wall"),
}


def compare(
    baseline: Side,
    candidate: Side,
    *,
    metric: str = "time",
    better: Literal["higher", "lower"] = "lower",
    clock: Literal["auto", "wall", "cpu"] = "auto",
    looks: Sequence[int] = LOOKS,
    seed: int = 0,
    warmup: int = 1,
    max_seconds: float | None = None,
    names: tuple[str, str] = ("baseline", "candidate"),
    on_round: Callable[[Ratio], None] | None = None,
    min_reading_s: float = LEAST_READING_S,
) -> Ratio:
    """Compare two callables or commands until their ratio is decided or the looks are used up.

    Args:
        baseline: A callable that takes the round's seed or nothing, or a command.
        candidate: The same.
        metric: "time" is measured here; any other name must be in the mapping that a side returns
            (a command reports `wall_s`, `cpu_s` and `max_rss_bytes`).
        better: Which direction is an improvement.
        clock: Clock of "time"; "auto" is wall on a quiet machine and CPU seconds of the process
            tree otherwise, fixed before round one. The other clock is in `Ratio.other`.
        looks: Rounds after which the comparison may stop; the error rate holds over all of them.
        seed: The round's seeds are derived from it.
        warmup: Runs of each side that are thrown away.
        max_seconds: No round starts after so long, and none that cannot lead to another look.
        names: Names of the two sides.
        on_round: Called after each round with the ratio so far.
        min_reading_s: A shorter callable is called several times per reading, equally often on both
            sides; 0 turns that off. It needs a warm-up.

    Raises:
        MeasureError: a side failed, or reported something that has no ratio.
        UsageError: looks that cannot decide anything.

    >>> ratio = compare(lambda: sum(range(20_000)), lambda: sum(range(10_000)), clock="cpu")
    >>> ratio.verdict
    'proven'
    """
    if names[0] == names[1]:
        raise MeasureError(f"the two sides need different names, got {names[0]!r} twice")
    if clock not in ("auto", "wall", "cpu"):
        raise MeasureError(f"unknown clock {clock!r}; {near_misses(clock, ('auto', 'wall', 'cpu'), noun='clock')}")
    if metric == "time":
        ticking = clock if clock != "auto" else "wall" if is_quiet() else "cpu"
        loops = _loops((baseline, candidate), min_reading_s, seed) if warmup and min_reading_s > 0 else 1
        metrics, decide = {name: replace(_CLOCKS[name], better=better) for name in _CLOCKS}, ticking
        sides = [_clocked(runner(side, loops=loops)) for side in (baseline, candidate)]
    else:
        metrics, decide = {metric: Metric("", better)}, metric
        sides = [runner(side) for side in (baseline, candidate)]

    def result(comparison: Comparison) -> Ratio:
        ratio = comparison.ratios[names[1]][decide]
        if metric != "time":
            return ratio
        other = ratio.other and replace(ratio.other, metric="time")
        return replace(ratio, metric="time", other=other)

    rounds = Rounds(
        names[0],
        dict(zip(names, sides, strict=True)),
        metrics=metrics,
        decide=(decide,),
        looks=looks,
        seed=seed,
        max_seconds=max_seconds,
    )
    comparison = rounds.run(warmup, None if on_round is None else lambda so_far: on_round(result(so_far)))
    if comparison.failed:
        raise SideFailed(comparison.failed[names[1]])
    return result(comparison)


def compare_many(
    baseline: Side,
    candidates: Mapping[str, Side],
    *,
    metrics: Mapping[str, Metric],
    decide: Sequence[str],
    looks: Sequence[int] = LOOKS,
    seed: int = 0,
    warmup: int = 1,
    max_seconds: float | None = None,
    baseline_name: str = "baseline",
    on_round: Callable[[Comparison], None] | None = None,
) -> Comparison:
    """Compare several candidates with one baseline in the same rounds.

    A candidate leaves when each of its deciding metrics is settled, the comparison ends when all
    have left. Holm's procedure runs over the candidates, for each deciding metric by itself: a
    candidate that must win in all of them needs no correction over metrics. The other metrics are
    judged at the last look, with the interval of that look.

    Args:
        baseline: A callable that returns its metrics, or a command.
        candidates: Name -> the same. One that raises `SideFailed` is dropped.
        metrics: What the sides report; static ones are left out, a metric's twin becomes `Ratio.other`.
        decide: Metrics that must be settled.
        looks: Rounds after which the comparison may stop.
        seed: The round's seeds are derived from it.
        warmup: Runs of each side that are thrown away.
        max_seconds: No round starts after so long, and none that cannot lead to another look.
        baseline_name: Name of the baseline.
        on_round: Called after each round with everything so far.

    Raises:
        MeasureError: the baseline failed, a deciding metric was not reported, or a value has no ratio.
    """
    if not candidates:
        raise MeasureError("nothing to compare: give at least one candidate")
    if baseline_name in candidates:
        raise MeasureError(f"{baseline_name!r} names the baseline and a candidate; rename one of them")
    for name in decide:
        if name not in metrics:
            raise MeasureError(f"unknown metric {name!r}; {near_misses(name, metrics, noun='metric')}")
    if not decide:
        raise MeasureError(f"decide must name at least one metric; {near_misses('', metrics, noun='metric')}")
    sides = {name: runner(side) for name, side in {baseline_name: baseline, **candidates}.items()}
    rounds = Rounds(
        baseline_name,
        sides,
        metrics={name: metric for name, metric in metrics.items() if metric.kind != "static" or name in decide},
        decide=tuple(decide),
        looks=looks,
        seed=seed,
        max_seconds=max_seconds,
    )
    return rounds.run(warmup, on_round)


def _clocked(run: Runner) -> Runner:
    """Let a side report nothing but its two clocks; a clock that stood still is left out."""

    def timed_run(seed: int) -> Reading:
        reading = run(seed)
        clocks = {"wall": reading.wall_s, "cpu": reading.cpu_s}
        return replace(reading, values={name: value for name, value in clocks.items() if value > 0})

    return timed_run


def _loops(sides: Sequence[Side], least_s: float, seed: int) -> int:
    """Return how many calls make the shorter callable long enough to be timed."""
    most = 1
    for side in sides:
        loops = 1
        while callable(side):
            reading = runner(side, loops=loops)(integer_seed(seed, role="warm-up"))
            spent = reading.wall_s * loops
            if spent >= least_s or loops >= 1_000_000:
                break
            loops = min(loops * 10, max(loops + 1, int(loops * least_s / max(spent, 1e-9) * 1.2) + 1))
        most = max(most, loops)
    return most

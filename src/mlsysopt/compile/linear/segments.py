"""From times at grid points to a short table: the fewest segments that lose at most two per cent anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.compile.variants.price import between
from mlsysopt.core.errors import UsageError

__all__ = ["BASELINE", "LEAST_GAIN", "MOST_LOSS", "Costs", "Span", "decision", "segments", "weighted_seconds"]

BASELINE = "aten.nt"
MOST_LOSS = 1.02
LEAST_GAIN = 1.02


@dataclass(frozen=True, slots=True)
class Costs:
    """What each variant takes at each grid point; inf where it does not do the site.

    Attributes:
        rows: Row counts, rising.
        weights: How much each counts.
        seconds: Variant -> typical seconds, as many as rows.
        low, high: Ends of the intervals, in the same form; empty when the seconds are exact.
        sources: Variant -> "measured", "model" or "roofline" for each point; empty when unknown.
        blocks: Variant -> rows that it does at once; 1 where it is not listed.
        gains: Variant -> lower and upper bound of its gain over `over` at each point, where more is known of it than
            the intervals of the two times say; None at a point where it is not.
        over: Whom `gains` are over.
    """

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    seconds: Mapping[str, Sequence[float]]
    low: Mapping[str, Sequence[float]] = field(default_factory=dict)
    high: Mapping[str, Sequence[float]] = field(default_factory=dict)
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    gains: Mapping[str, Sequence[tuple[float, float] | None]] = field(default_factory=dict)
    over: str = ""

    def __post_init__(self) -> None:
        for about in (self.seconds, self.low, self.high, self.sources, self.gains):
            for name, values in about.items():
                if len(values) != len(self.rows):
                    raise UsageError(f"{name}: {len(values)} values for {len(self.rows)} grid points")

    def lows(self, variant: str) -> Sequence[float]:
        return self.low.get(variant, self.seconds[variant])

    def highs(self, variant: str) -> Sequence[float]:
        return self.high.get(variant, self.seconds[variant])

    def gain(self, variant: str, baseline: str, k: int) -> tuple[float, float]:
        """Return the bounds of the logarithm of a variant's gain over a baseline at a point."""
        told = self.gains[variant][k] if baseline == self.over and variant in self.gains else None
        if told is not None:
            return _log(told[0]), _log(told[1])
        low = _log_ratio(self.lows(baseline)[k], self.highs(variant)[k])
        return low, _log_ratio(self.highs(baseline)[k], self.lows(variant)[k])

    def at(self, variant: str, rows: int) -> float:
        """Return seconds at any number of rows; beyond the last point they grow with the rows."""
        times = self.seconds[variant]
        if rows >= self.rows[-1]:
            return times[-1] * rows / self.rows[-1]
        above = next(i for i, row in enumerate(self.rows) if row >= rows)
        if self.rows[above] == rows or above == 0:
            return times[above]
        ends = (self.rows[above - 1], times[above - 1]), (self.rows[above], times[above])
        if math.isinf(ends[0][1]) or math.isinf(ends[1][1]):
            return math.inf
        return between(rows, *ends, self.blocks.get(variant, 1))

    def only(self, variants: Sequence[str]) -> Costs:
        """Return the same for some of the variants."""
        kept = {name: self.seconds[name] for name in variants}
        return replace(self, seconds=kept)


@dataclass(frozen=True, slots=True)
class Span:
    """Grid points from first to last, both included, and the variant that does them."""

    first: int
    last: int
    variant: str


def segments(
    costs: Costs, *, baseline: str | None = BASELINE, most_loss: float = MOST_LOSS, least_gain: float = LEAST_GAIN
) -> list[Span]:
    """Return the fewest segments of which none loses more than allowed at any of its points.

    With a baseline, a variant counts as faster at a point only when the lower bound of its gain over the baseline
    reaches `least_gain` there, and takes a segment only when its weighted gain over the whole of it does. Among
    tables with equally many segments the one with the smallest weighted time is returned. Exact: dynamic programme
    over the ends of segments, O(points^2 * variants).

    Args:
        costs: Times at the grid points; at least one is finite at each.
        baseline: Variant that stays unless another is proven faster; None lets all compete alike.
        most_loss: Largest time of a segment's variant at one of its points, over the best one's.
        least_gain: What the baseline is left for.

    Raises:
        UsageError: no grid point, or one that no variant does.

    >>> costs = Costs((1, 8, 64), (0.3, 0.4, 0.3), {"aten.nt": [1.0, 2.0, 9.0], "panel.f32": [1.01, 1.0, 9.5]})
    >>> for span in segments(costs):
    ...     print(span)
    Span(first=0, last=1, variant='panel.f32')
    Span(first=2, last=2, variant='aten.nt')
    """
    n = len(costs.rows)
    if not n:
        raise UsageError("a table needs at least one grid point")
    gains = _gains(costs, baseline)
    best = _best(costs, gains, baseline, least_gain)
    # best_of[j]: fewest segments, their weighted time, where the last begins and its variant, for points before j.
    best_of: list[tuple[int, float, int, str]] = [(0, 0.0, 0, "")] + [(n + 1, math.inf, 0, "")] * n
    for j in range(1, n + 1):
        for name, times in costs.seconds.items():
            time = worth = weight = 0.0
            for i in range(j - 1, -1, -1):
                if not times[i] <= most_loss * best[i]:
                    break
                time += costs.weights[i] * times[i]
                worth += costs.weights[i] * gains[name][i] if costs.weights[i] else 0.0
                weight += costs.weights[i]
                if name != baseline and worth < weight * math.log(least_gain) - 1e-12:
                    continue
                count, before = best_of[i][0] + 1, best_of[i][1]
                if (count, before + time) < best_of[j][:2]:
                    best_of[j] = (count, before + time, i, name)
    spans: list[Span] = []
    j = n
    while j:
        _, _, i, name = best_of[j]
        spans.append(Span(i, j - 1, name))
        j = i
    return spans[::-1]


def decision(costs: Costs, *, baseline: str = BASELINE) -> Decision:
    """Return the table of a site: thresholds lie where the next variant overtakes between two grid points."""
    spans = segments(costs, baseline=baseline if baseline in costs.seconds else None)
    found: list[Segment] = []
    for before, span in zip([None, *spans[:-1]], spans, strict=True):
        first = 1 if before is None else _overtakes(costs, before, span)
        found.append(_segment(costs, span, first, baseline))
    return Decision(tuple(found))


def weighted_seconds(costs: Costs, spans: Sequence[Span]) -> float:
    """Return what a call takes on average, given how much each grid point counts."""
    return sum(costs.weights[k] * costs.seconds[s.variant][k] for s in spans for k in range(s.first, s.last + 1))


def _gains(costs: Costs, baseline: str | None) -> dict[str, list[float]]:
    """Return the logarithm of the lower bound of each variant's gain over the baseline."""
    if baseline is None:
        return {name: [math.inf] * len(costs.rows) for name in costs.seconds}
    if baseline not in costs.seconds:
        raise UsageError(f"baseline {baseline!r} is not among the variants: {', '.join(costs.seconds)}")
    points = range(len(costs.rows))
    return {name: [costs.gain(name, baseline, k)[0] for k in points] for name in costs.seconds}


def _log_ratio(time: float, other: float) -> float:
    if math.isinf(other):
        return -math.inf
    return math.inf if math.isinf(time) else math.log(max(time, 1e-12) / max(other, 1e-12))


def _log(factor: float) -> float:
    return math.log(factor) if factor > 0 else -math.inf


def _best(costs: Costs, gains: Mapping[str, Sequence[float]], baseline: str | None, least_gain: float) -> list[float]:
    """Return the smallest time at each point among the baseline and what is proven faster than it."""
    best: list[float] = []
    for k, row in enumerate(costs.rows):
        times = [
            values[k]
            for name, values in costs.seconds.items()
            if name == baseline or gains[name][k] >= math.log(least_gain) - 1e-12
        ]
        best.append(min(times, default=math.inf))
        if not math.isfinite(best[k]):
            raise UsageError(f"no variant does {row} rows; offered were {', '.join(costs.seconds) or 'none'}")
    return best


def _overtakes(costs: Costs, before: Span, after: Span) -> int:
    """Return the first number of rows at which the next segment's variant is not slower."""
    last, first = costs.rows[before.last], costs.rows[after.first]
    for rows in range(last + 1, first):
        if costs.at(after.variant, rows) <= costs.at(before.variant, rows):
            return rows
    return first


def _segment(costs: Costs, span: Span, first: int, baseline: str) -> Segment:
    inside = range(span.first, span.last + 1)
    typical = max(inside, key=lambda k: costs.weights[k])
    others = [name for name in costs.seconds if name != span.variant]
    shares = [costs.weights[k] for k in inside]
    times = {name: [_log(costs.seconds[name][k]) for k in inside] for name in others}
    runner_up = min(others, key=lambda name: _mean(times[name], shares), default="")
    sources = {costs.sources[span.variant][k] for k in inside} if span.variant in costs.sources else set[str]()
    gain = low = high = 1.0
    if span.variant != baseline and baseline in costs.seconds:
        bounds = [costs.gain(span.variant, baseline, k) for k in inside]
        middle = [_log_ratio(costs.seconds[baseline][k], costs.seconds[span.variant][k]) for k in inside]
        logs = (middle, [one[0] for one in bounds], [one[1] for one in bounds])
        gain, low, high = (math.exp(_mean(values, shares)) for values in logs)
    return Segment(
        first=first,
        variant=span.variant,
        gain=gain,
        low=low,
        high=high,
        source=_worst(sources),
        seconds=costs.seconds[span.variant][typical],
        runner_up=runner_up,
    )


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return a weighted mean; weights that are all 0 count alike."""
    whole = sum(weights)
    if not whole:
        return _mean(values, [1.0] * len(values))
    return sum(value * weight for value, weight in zip(values, weights, strict=True) if weight) / whole


def _worst(sources: set[str]) -> str:
    """Return the least certain source: a segment is as well known as the worst known of its points."""
    return next((one for one in ("roofline", "model", "measured") if one in sources), "measured")

"""Rounds: their order, seeds, stops, corrections, and what happens when a side fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from mlsysopt.core.errors import MeasureError, UsageError
from mlsysopt.core.measure import Comparison, Ratio, SideFailed, compare, compare_many
from mlsysopt.core.target import Failure, Metric

METRICS = {"throughput": Metric("ops/s", "higher"), "p99": Metric("us", "lower")}


def measured(mean: float, noise: float = 0.0, salt: int = 0) -> Callable[[int], Mapping[str, float]]:
    def side(seed: int) -> Mapping[str, float]:
        drawn = np.random.default_rng([seed, salt]).standard_normal()
        return {"throughput": mean * float(np.exp(noise * drawn)), "p99": 3.0}

    return side


def test_order_alternates_and_both_sides_get_the_same_fresh_seed() -> None:
    calls: list[tuple[str, int]] = []

    def side(name: str) -> Callable[[int], Mapping[str, float]]:
        def run(seed: int) -> Mapping[str, float]:
            calls.append((name, seed))
            return {"throughput": 1.0}

        return run

    found = compare_many(
        side("A"), {"B": side("B"), "C": side("C")}, metrics=METRICS, decide=["throughput"], looks=(6,), warmup=0
    )
    assert "".join(name for name, _ in calls) == "ABCCBA" * 3
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert [{seed for _, seed in each} for each in rounds] == [{seed} for seed in found.seeds]
    assert len(set(found.seeds)) == 6


def test_warm_up_is_thrown_away() -> None:
    calls: list[int] = []

    def side(seed: int) -> Mapping[str, float]:
        calls.append(seed)
        return {"throughput": 1.0}

    found = compare_many(side, {"B": side}, metrics=METRICS, decide=["throughput"], looks=(6,), warmup=2)
    assert len(calls) == 2 * (6 + 2)
    assert found.rounds == 6
    assert not set(calls[:4]) & set(found.seeds)


def test_stops_at_the_first_look_that_decides() -> None:
    found = compare_many(measured(1.0), {"B": measured(1.3)}, metrics=METRICS, decide=["throughput"])
    assert found.rounds == 6
    assert found.decided == ("B",)
    assert found.ratios["B"]["throughput"].verdict == "proven"
    assert found.ratios["B"]["p99"].verdict == "not proven"
    assert found.ratios["B"]["p99"].value == 1.0


def test_uses_all_looks_when_nothing_differs() -> None:
    found = compare_many(measured(1.0, 0.1, 1), {"B": measured(1.0, 0.1, 2)}, metrics=METRICS, decide=["throughput"])
    assert found.rounds == 20
    assert found.ratios["B"]["throughput"].verdict == "not proven"


def test_a_decided_candidate_leaves_and_keeps_its_verdict() -> None:
    found = compare_many(
        measured(1.0, 0.05, 1),
        {"far": measured(2.0, 0.05, 2), "same": measured(1.0, 0.05, 3)},
        metrics=METRICS,
        decide=["throughput"],
    )
    assert found.decided == ("far",)
    # Two candidates: six equal signs (p = 0.049) are not enough for Holm's 0.025.
    assert 6 < len(found.readings["far"]) < len(found.readings["same"]) == 20
    assert found.ratios["far"]["throughput"].p_value <= 0.05
    assert found.ratios["far"]["throughput"].verdict == "proven"


def test_holm_keeps_the_error_rate_over_candidates() -> None:
    wrong = 0
    for study in range(60):
        found = compare_many(
            measured(1.0, 0.1, 100 * study),
            {str(i): measured(1.0, 0.1, 100 * study + i) for i in range(1, 5)},
            metrics={"throughput": METRICS["throughput"]},
            decide=["throughput"],
            seed=study,
            warmup=0,
        )
        wrong += bool(found.decided)
    # 5 % of 60 studies is 3; 8 or more has a probability of 0.9 %.
    assert wrong <= 7


def test_every_deciding_metric_must_be_settled() -> None:
    found = compare_many(
        measured(1.0), {"B": measured(1.3)}, metrics=METRICS, decide=["throughput", "p99"], looks=(6, 8)
    )
    assert found.rounds == 8
    assert found.decided == ()
    assert found.ratios["B"]["throughput"].rounds == 6


def test_a_failed_candidate_is_dropped_and_the_others_go_on() -> None:
    failure = Failure("crashed", "out of memory")

    def breaks(seed: int) -> Mapping[str, float]:
        if len(seen) == 2:
            raise SideFailed(failure)
        seen.append(seed)
        return {"throughput": 1.0}

    seen: list[int] = []
    found = compare_many(
        measured(1.0), {"bad": breaks, "good": measured(2.0)}, metrics=METRICS, decide=["throughput"], warmup=0
    )
    assert found.failed == {"bad": failure}
    assert (len(found.readings["bad"]), found.decided) == (2, ("good",))
    # The dropped one still counts in the correction.
    assert found.ratios["good"]["throughput"].rounds > 6


def test_all_candidates_failed() -> None:
    def breaks(seed: int) -> Mapping[str, float]:
        raise SideFailed(Failure("rejected", "no"))

    found = compare_many(measured(1.0), {"bad": breaks}, metrics=METRICS, decide=["throughput"])
    assert (found.rounds, found.ratios, found.decided) == (0, {}, ())


def test_a_failed_baseline_ends_the_comparison() -> None:
    def breaks(seed: int) -> Mapping[str, float]:
        raise SideFailed(Failure("timeout", "8 s"))

    with pytest.raises(MeasureError, match="default, the baseline of this comparison, failed: timeout: 8 s"):
        compare_many(
            breaks, {"B": measured(1.0)}, metrics=METRICS, decide=["throughput"], baseline_name="default", warmup=0
        )


def test_other_exceptions_are_the_sides_own() -> None:
    def breaks() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        compare(breaks, breaks)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (lambda: {"p99": 1.0}, "B reported no 'throughput', which decides this comparison; it reported p99"),
        (lambda: None, "it reported nothing"),
        (lambda: {"throughput": 0.0}, "throughput of B was 0: a ratio needs finite values above 0"),
        (lambda: {"throughput": 1.0, "p99": -1.0}, "p99 of B was -1"),
    ],
)
def test_unusable_reports_are_refused_at_once(side: Callable[[], object], message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        compare_many(measured(1.0), {"B": side}, metrics=METRICS, decide=["throughput"], warmup=0)


def test_time_limit_stops_at_the_last_look_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("mlsysopt.core.measure.rounds.time.monotonic", lambda: now[0])

    def side(salt: int) -> Callable[[int], Mapping[str, float]]:
        inner = measured(1.0, 0.1, salt)

        def run(seed: int) -> Mapping[str, float]:
            now[0] += 0.5
            return inner(seed)

        return run

    def rounds(max_seconds: float) -> Comparison:
        now[0] = 0.0
        return compare_many(
            side(1), {"B": side(2)}, metrics=METRICS, decide=["throughput"], warmup=0, max_seconds=max_seconds
        )

    # A round takes 1 s: 11 rounds would fit, the look after 12 would not, so 8 are enough.
    assert rounds(11.0).rounds == 8
    assert rounds(12.0).rounds == 12
    short = rounds(3.0)
    assert short.rounds == 3
    assert short.ratios["B"]["throughput"].verdict == "not proven"
    assert short.ratios["B"]["throughput"].high == float("inf")


def test_on_round_sees_everything_so_far() -> None:
    seen: list[int] = []

    def show(so_far: Comparison) -> None:
        seen.append(so_far.rounds)

    compare_many(measured(1.0), {"B": measured(1.3)}, metrics=METRICS, decide=["throughput"], on_round=show)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_twin_metrics_stand_beside_each_other() -> None:
    metrics = {
        "throughput": Metric("ops/s", "higher", clock="wall", twin="throughput_cpu"),
        "throughput_cpu": Metric("ops/s", "higher", clock="cpu", twin="throughput"),
        "memory": Metric("B", "lower", kind="static"),
    }
    found = compare_many(
        lambda: {"throughput": 10.0, "throughput_cpu": 20.0, "memory": 0.0},
        {"B": lambda: {"throughput": 12.0, "throughput_cpu": 30.0, "memory": 0.0}},
        metrics=metrics,
        decide=["throughput"],
    )
    ratio = found.ratios["B"]["throughput"]
    assert (ratio.clock, ratio.value) == ("wall", pytest.approx(1.2))
    assert ratio.other is not None
    assert (ratio.other.clock, ratio.other.value, ratio.other.other) == ("cpu", pytest.approx(1.5), None)
    assert "memory" not in found.ratios["B"]


def test_compare_functions_by_cpu_time() -> None:
    seen: list[Ratio] = []
    found = compare(
        lambda: sum(range(60_000)), lambda: sum(range(30_000)), clock="cpu", on_round=seen.append, names=("old", "new")
    )
    assert found.verdict == "proven"
    assert 0.3 < found.value < 0.8
    assert (found.metric, found.clock, found.baseline, found.candidate) == ("time", "cpu", "old", "new")
    assert found.other is not None and found.other.clock == "wall" and found.other.metric == "time"
    assert len(seen) == found.rounds and "time" in str(found)


def test_auto_clock_is_fixed_by_the_pressure_before_round_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for quiet, clock in ((True, "wall"), (False, "cpu")):
        monkeypatch.setattr("mlsysopt.core.measure.comparison.is_quiet", lambda quiet=quiet: quiet)
        assert compare(lambda: sum(range(9000)), lambda: sum(range(9000)), looks=(6,)).clock == clock


def test_short_functions_are_called_equally_often_on_both_sides() -> None:
    calls = {"a": 0, "b": 0}

    def count(name: str) -> Callable[[], None]:
        def run() -> None:
            calls[name] += 1

        return run

    compare(count("a"), count("b"), looks=(6,), clock="wall", warmup=0)
    assert calls == {"a": 6, "b": 6}
    found = compare(count("a"), count("b"), looks=(6,), clock="wall")
    assert found.baseline_value < 1e-5
    assert found.other is not None and found.other.baseline_value < 1e-5
    assert min(calls.values()) > 6 * 1000


def test_returned_mappings_do_not_disturb_time() -> None:
    found = compare(lambda: {"time": -1.0}, lambda: {"time": -1.0}, looks=(6,), clock="wall")
    assert found.baseline_value > 0


def test_compare_a_reported_metric() -> None:
    found = compare(lambda: {"loss": 2.0}, lambda: {"loss": 1.0}, metric="loss")
    assert (found.value, found.verdict, found.clock) == (0.5, "proven", None)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: compare(len, len, names=("a", "a")), MeasureError, "different names"),
        (lambda: compare(len, len, clock="gpu"), MeasureError, "unknown clock 'gpu'"),  # type: ignore[arg-type]
        (lambda: compare(print, print, looks=(3,)), UsageError, "at least 6 rounds"),
        (lambda: compare_many(len, {}, metrics=METRICS, decide=["p99"]), MeasureError, "at least one candidate"),
        (lambda: compare_many(len, {"baseline": len}, metrics=METRICS, decide=["p99"]), MeasureError, "rename one"),
        (lambda: compare_many(len, {"a": len}, metrics=METRICS, decide=["p9"]), MeasureError, "did you mean p99"),
        (lambda: compare_many(len, {"a": len}, metrics=METRICS, decide=[]), MeasureError, "decide must name"),
    ],
)
def test_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()

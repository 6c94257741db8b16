"""Budgets, objectives and ratios to the default."""

from __future__ import annotations

import math

import pytest

from mlsysopt.core.errors import StudyError
from mlsysopt.core.study.budget import Budget
from mlsysopt.core.study.loop import smallest_budget_s
from mlsysopt.core.study.noise import noise_variance, shrunk_means, typical
from mlsysopt.core.study.objectives import log_ratio, log_ratios, parse_objectives
from mlsysopt.core.target import Metric

METRICS = {
    "throughput": Metric("1/s", "higher", clock="wall", twin="throughput_cpu"),
    "throughput_cpu": Metric("1/s", "higher", clock="cpu", twin="throughput"),
    "get_us": Metric("us", "lower"),
    "stalls": Metric("", "lower", may_be_zero=True),
    "memory_bytes": Metric("B", "lower", kind="static"),
}


@pytest.mark.parametrize(
    ("given", "trials", "seconds"), [(20, 20, None), ("7", 7, None), ("90s", None, 90.0), ("4min", None, 240.0)]
)
def test_budget_reads_trials_and_time(given: int | str, trials: int | None, seconds: float | None) -> None:
    assert Budget.parse(given) == Budget(trials, seconds)


@pytest.mark.parametrize("given", [0, 1, "-3", "soon", "0s", "", "4 parsecs"])
def test_budget_that_buys_nothing_is_refused(given: int | str) -> None:
    with pytest.raises(StudyError, match="budget"):
        Budget.parse(given)


def test_the_smallest_budget_is_the_sum_of_what_must_run() -> None:
    assert smallest_budget_s(10.0) == 10.0 * (3 + 2 + 12)


def test_the_clock_chooses_which_twin_is_told() -> None:
    assert parse_objectives("throughput", None, METRICS, clock="wall")[0].told == "throughput"
    assert parse_objectives("throughput", None, METRICS, clock="cpu")[0].told == "throughput_cpu"
    assert parse_objectives(None, "get_us", METRICS, clock="cpu")[0].told == "get_us"


@pytest.mark.parametrize(
    ("maximize", "minimize", "message"),
    [
        ("throughputs", None, "did you mean throughput"),
        ("get_us", None, "use minimize='get_us'"),
        (None, "throughput", "use maximize='throughput'"),
        (None, "memory_bytes", "without running"),
        (None, None, "nothing to improve"),
        (["throughput", "throughput"], None, "twice"),
    ],
)
def test_objectives_that_cannot_be_meant(maximize: str | None, minimize: str | None, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse_objectives(maximize, minimize, METRICS, clock="wall")


def test_log_ratio_of_a_counter_that_may_be_zero_is_finite_and_signed() -> None:
    counter = METRICS["stalls"]
    assert log_ratio(counter, 0.0, 0.0, 0.0) == 0.0
    assert log_ratio(counter, 10.0, 0.0, 10.0) == pytest.approx(math.log(2.0))
    assert log_ratio(counter, 0.0, 10.0, 10.0) == pytest.approx(-math.log(2.0))


def test_log_ratios_leave_out_what_one_side_lacks() -> None:
    found = log_ratios(METRICS, {"get_us": 20.0, "throughput": 5.0}, {"get_us": 10.0}, {})
    assert found == {"get_us": pytest.approx(math.log(2.0))}


def test_noise_ignores_a_slow_drift() -> None:
    drifting = [{"get_us": 100.0 * 1.01**i} for i in range(30)]
    jumping = [{"get_us": 100.0 * (1.2 if i % 2 else 1.0)} for i in range(30)]
    slow = noise_variance(METRICS, drifting, {})["get_us"]
    fast = noise_variance(METRICS, jumping, {})["get_us"]
    assert slow < 1e-4 < fast


def test_shrinking_prefers_what_was_measured_more_often() -> None:
    lucky, solid = shrunk_means([0.50, 0.45, 0.0, -0.1], [0.20, 0.01, 0.01, 0.01])[:2]
    assert solid > lucky


def test_typical_is_the_median() -> None:
    assert typical([{"a": 1.0}, {"a": 9.0}, {"a": 2.0, "b": 4.0}, {"a": 3.0}]) == {"a": 2.5, "b": 4.0}

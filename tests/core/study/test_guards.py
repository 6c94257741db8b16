"""Guards: what they read, what they refuse, what they say."""

from __future__ import annotations

import math

import pytest

from mlsysopt.core.errors import StudyError
from mlsysopt.core.study.guards import Guard, parse_guards
from mlsysopt.core.target import Metric

METRICS = {
    "p99_get_us": Metric("us", "lower"),
    "load_ops": Metric("1/s", "higher"),
    "memory_bytes": Metric("B", "lower"),
}


@pytest.mark.parametrize(
    ("text", "value", "reference", "kept"),
    [
        ("<= 1.1x", 109.0, 100.0, True),
        ("<= 1.1x", 111.0, 100.0, False),
        (">= 0.9x", 91.0, 100.0, True),
        (">= 0.9x", 89.0, 100.0, False),
        ("<= 256MiB", 256 * 2**20, 1.0, True),
        ("<= 256MiB", 256 * 2**20 + 1, 1.0, False),
        ("<= 1.1x", 5.0, 0.0, False),
        ("<= 1.1x", 0.0, 0.0, True),
    ],
)
def test_violation_is_positive_exactly_beyond_the_limit(text: str, value: float, reference: float, kept: bool) -> None:
    assert (Guard.parse("m", text).violation(value, reference) <= 0) is kept


def test_violation_of_a_ratio_is_a_difference_of_logs() -> None:
    assert Guard.parse("m", "<= 1.1x").violation(220.0, 100.0) == pytest.approx(math.log(2.0))


@pytest.mark.parametrize("text", ["1.1x", "< 1.1x", "<= fastx", "<= -1x", "<= nanx", "== 3", ""])
def test_unreadable_guard_says_what_is_allowed(text: str) -> None:
    with pytest.raises(StudyError, match=r"guard 'm'"):
        Guard.parse("m", text)


def test_a_users_guard_replaces_the_default_and_off_lifts_it() -> None:
    defaults = {"p99_get_us": "<= 1.1x", "load_ops": ">= 0.9x"}
    kept = parse_guards(["p99_get_us<=1.05x", "load_ops=off"], defaults, METRICS)
    assert [guard.text() for guard in kept] == ["p99_get_us <= 1.05x"]
    assert parse_guards({"p99_get_us": None}, defaults, METRICS)[0].metric == "load_ops"


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(StudyError, match="did you mean p99_get_us"):
        parse_guards(["p99_gets_us<=1.1x"], {}, METRICS)


def test_a_flag_without_a_limit_is_refused() -> None:
    with pytest.raises(StudyError, match="a metric, then a limit"):
        parse_guards(["p99_get_us"], {}, METRICS)

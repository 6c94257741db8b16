"""Guards: the search and the verification judge them by one rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from mlsysopt.core.measure import Ratio
from mlsysopt.core.study import Guard, Study
from mlsysopt.core.study.objectives import Objective
from mlsysopt.core.study.rating import Rating
from mlsysopt.core.target import Config, Measurement
from mlsysopt.testing.planted import Planted

ROUNDS = 6


def rating(*guards: Guard, target: Planted | None = None) -> Rating:
    target = target or Planted()
    return Rating(target, target.space(), [Objective("throughput", "higher", "throughput")], guards)


def ratio_of(metric: str, before: list[float], after: list[float], *, counter: bool = False) -> Ratio:
    return Ratio.of(before, after, metric=metric, better="lower", clock=None, may_be_zero=counter)


def measurement(values: Mapping[str, float]) -> Measurement:
    return Measurement(dict(values), {}, cpu_s=1.0, wall_s=1.0, started_at=0.0)


@pytest.mark.parametrize(
    ("guard", "before", "after", "kept"),
    [
        ("write_us <= 1.1x", 10.0, 10.9, True),
        ("write_us <= 1.1x", 10.0, 11.1, False),
        ("write_us <= 11", 10.0, 10.9, True),
        ("write_us <= 11", 10.0, 11.1, False),
        ("throughput >= 0.9x", 100.0, 91.0, True),
        ("throughput >= 0.9x", 100.0, 89.0, False),
        # A counter below one: 1 + value would hide that half as much again is stalled.
        ("stalls <= 1.1x", 0.2, 0.3, False),
        ("stalls <= 1.1x", 0.2, 0.21, True),
        ("stalls <= 1.1x", 0.0, 0.0, True),
        ("stalls <= 1.1x", 0.0, 2.0, False),
    ],
)
def test_search_and_verification_agree(guard: str, before: float, after: float, kept: bool) -> None:
    metric, limit = guard.split(" ", 1)
    parsed = Guard.parse(metric, limit)
    one = rating(parsed)
    rounds = [({metric: before}, {metric: after})] * ROUNDS
    pairs = [(measurement(default), measurement(got)) for default, got in rounds]
    ratio = ratio_of(metric, [before] * ROUNDS, [after] * ROUNDS, counter=metric == "stalls")
    check = one.check(parsed, rounds, {}, ratio)
    assert check is not None
    assert check.kept is kept
    assert (one.violation(parsed, pairs, {}) <= 0) is kept
    assert one.constraints(pairs, {})[metric] == one.excess(parsed, rounds, {})


def test_one_slow_round_decides_nothing() -> None:
    guard = Guard.parse("write_us", "<= 1.1x")
    before, after = [10.0] * ROUNDS, [10.0] * (ROUNDS - 1) + [90.0]
    rounds = [({"write_us": b}, {"write_us": a}) for b, a in zip(before, after, strict=True)]
    check = rating(guard).check(guard, rounds, {}, ratio_of("write_us", before, after))
    assert check is not None and check.kept and check.value == pytest.approx(1.0)


def test_the_guard_stands_on_the_rounds_of_its_ratio() -> None:
    guard = Guard.parse("write_us", "<= 1.1x")
    before, after = [10.0] * 9, [10.0] * 6 + [90.0] * 3
    rounds = [({"write_us": b}, {"write_us": a}) for b, a in zip(before, after, strict=True)]
    rounds[2] = ({"write_us": 10.0}, {})
    ratio = ratio_of("write_us", before[:5], after[:5])
    check = rating(guard).check(guard, rounds, {}, ratio)
    assert check is not None and check.kept


def test_what_was_not_measured_is_no_check_and_no_violation() -> None:
    guard = Guard.parse("write_us", "<= 1.1x")
    one = rating(guard)
    assert one.check(guard, [({}, {})], {}, None) is None
    assert one.violation(guard, [(measurement({}), measurement({}))], {}) == 0.0


def test_a_static_guard_is_computed() -> None:
    guard = Guard.parse("memory_bytes", "<= 1.5x")
    one = rating(guard)
    twice = {**Planted().space().default(), "buffer": 128}
    check = one.check(guard, [], twice, None)
    assert check is not None and (check.value, check.kept) == (2.0, False)
    assert one.refusals(twice) and one.violation(guard, [], twice) > 0


@dataclass(frozen=True)
class Counting(Planted):
    """Notes every configuration whose static values are computed."""

    asked: list[dict[str, object]] = field(default_factory=list)

    def static(self, config: Config) -> dict[str, float]:
        self.asked.append(dict(config))
        return super().static(config)


def test_the_static_values_of_the_default_are_computed_once_per_phase() -> None:
    target = Counting()
    result = Study(target, maximize="throughput", sampler="random", seed=3, guard={"memory_bytes": "<= 4GiB"}).run(12)
    assert result.status == "proven"
    assert [check.metric for check in result.candidates[0].guards] == ["write_us", "memory_bytes"]
    # Once in the search, once in the verification, whatever the number of trials.
    assert target.asked.count(target.space().default()) == 2

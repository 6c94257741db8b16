"""The stopping rule: its error rate, and that p-value, interval and verdict never disagree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats import SequentialRule, holm, holm_levels, signed_rank_interval, signed_rank_p
from mlsysopt.core.stats.signed_rank import attainable
from mlsysopt.core.stats.simulation import calibrate, null_ranks
from mlsysopt.core.stats.tables import PLANS

LOOKS = (6, 8, 12, 16, 20)
RULE = SequentialRule.for_looks(LOOKS)

DIFFERENCES = st.one_of(
    st.lists(st.integers(-3, 6).map(float), max_size=22),
    st.lists(st.floats(-1, 2, allow_nan=False), max_size=22),
)


def error_rate(boundaries: tuple[float, ...], studies: int) -> float:
    """Share of studies without effect in which some look is at or below its boundary."""
    wrong = 0
    for counts in null_ranks(LOOKS, studies, seed=99):
        some = np.zeros(counts.shape[1], dtype=bool)
        for n, row, boundary in zip(LOOKS, counts, boundaries, strict=True):
            some |= np.array(attainable(n))[row] <= boundary
        wrong += int(some.sum())
    return wrong / studies


def test_error_rate_over_all_looks() -> None:
    assert 0.045 <= error_rate(RULE.boundaries, 400_000) <= 0.05


def test_naive_five_percent_at_each_look_is_caught() -> None:
    assert error_rate((0.05,) * 5, 100_000) > 0.10


def test_next_attainable_level_would_be_too_much() -> None:
    looser = [min(p for p in attainable(n) if p > level) for n, level in zip(LOOKS, RULE.boundaries, strict=True)]
    assert error_rate(tuple(looser), 100_000) > 0.055


@pytest.mark.parametrize("noise", ["normal", "laplace", "cauchy", "discretised"])
def test_studies_without_effect_through_the_rule_itself(noise: str) -> None:
    rng = np.random.default_rng(21)
    draw = {
        "normal": lambda: rng.standard_normal(20),
        "laplace": lambda: rng.laplace(size=20),
        "cauchy": lambda: rng.standard_cauchy(20),
        "discretised": lambda: np.round(rng.standard_normal(20)),
    }[noise]
    decided = sum(RULE.standing(draw()).decided for _ in range(2500))
    # Three standard errors of 2500 studies above the promise.
    assert decided / 2500 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2500)


def test_first_look_decides_with_six_equal_signs() -> None:
    standing = RULE.standing([0.3, 0.1, 0.2, 0.25, 0.4, 0.15])
    assert (standing.look, standing.low, standing.high, standing.decided) == (6, 0.1, 0.4, True)
    assert not RULE.standing([0.3, -0.1, 0.2, 0.25, 0.4, 0.15]).decided
    assert not RULE.standing([0.3, 0.1, 0.2, 0.25, 0.4]).decided


@given(x=DIFFERENCES, alpha=st.sampled_from([0.05, 0.025, 0.05 / 3, 0.01, 0.1]))
@settings(deadline=None, max_examples=100)
def test_verdict_p_value_and_interval_agree(x: list[float], alpha: float) -> None:
    rule = RULE.at(alpha)
    for latest in (False, True):
        standing = rule.standing(x, latest=latest)
        excludes = standing.low > 0 or standing.high < 0
        assert excludes == standing.decided == (standing.p_value <= alpha)


@given(DIFFERENCES)
@settings(deadline=None, max_examples=60)
def test_p_value_only_falls_and_decisions_stay(x: list[float]) -> None:
    ps = [RULE.standing(x[:n]).p_value for n in range(len(x) + 1)]
    assert ps == sorted(ps, reverse=True)
    decided = [RULE.standing(x[:n]).decided for n in range(len(x) + 1)]
    assert decided == sorted(decided)


@given(st.lists(DIFFERENCES, min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_holm_and_intervals_at_its_levels_agree(candidates: list[list[float]]) -> None:
    ps = [RULE.p_value(RULE.looks_at(x)) for x in candidates]
    adjusted, levels = holm(ps), holm_levels(ps)
    for x, p, level in zip(candidates, adjusted, levels, strict=True):
        standing = RULE.at(level).standing(x)
        assert (standing.low > 0 or standing.high < 0) == (p <= 0.05)


def test_interval_uses_the_boundary_of_its_look() -> None:
    x = np.random.default_rng(3).standard_normal(14)
    assert RULE.reached(14) == 12
    assert RULE.interval(x) == signed_rank_interval(x[:12], 1 - RULE.level(12))
    assert RULE.interval(x[:5]) == (-math.inf, math.inf)


def test_committed_table_is_what_its_generator_writes() -> None:
    small = calibrate(LOOKS, 200_000, seed=5)
    committed = PLANS[LOOKS]
    assert committed.studies >= 1_000_000
    assert len(small.below) == len(committed.below)
    assert small.weights[1:] == committed.weights[1:]
    drawn, expected = (np.array(plan.below) / plan.studies for plan in (small, committed))
    # The weight of the first look may fall one step apart; away from it, both say the same.
    assert np.max(np.abs(drawn - expected)[expected > 0.06]) < 0.005


@pytest.mark.parametrize("looks", [(6, 12), (8, 16, 24), (10, 20, 30), (7, 9)])
def test_other_plans_are_simulated(looks: tuple[int, ...]) -> None:
    rule = SequentialRule.for_looks(looks)
    assert len(rule.boundaries) == len(looks)
    assert 0.02 < rule.boundaries[0] <= 0.03125
    assert rule.at(0.05) == rule


def test_one_look_is_the_plain_test() -> None:
    rule = SequentialRule.for_looks((10,))
    x = np.random.default_rng(8).standard_normal(10) + 0.7
    assert rule.standing(x).p_value == signed_rank_p(x)
    assert rule.interval(x) == signed_rank_interval(x)


@pytest.mark.parametrize("looks", [(), (5,), (4, 8), (8, 8), (12, 8), (6, 1000)])
def test_refused_looks(looks: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        SequentialRule.for_looks(looks)


def test_refused_questions() -> None:
    with pytest.raises(UsageError, match="no look after 7 rounds"):
        RULE.level(7)
    with pytest.raises(UsageError, match="6 p-values"):
        RULE.p_value([0.5] * 6)
    with pytest.raises(UsageError, match="alpha"):
        RULE.at(0.0)

"""Signed-rank test and interval against enumeration and SciPy, with and without ties."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats import hodges_lehmann, signed_rank_interval, signed_rank_p
from mlsysopt.core.stats.signed_rank import EXACT, attainable, interval_at

COARSE = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=10)
FINE = st.lists(st.floats(-100, 100, allow_nan=False), min_size=1, max_size=14)


def by_enumeration(x: list[float]) -> float:
    """All sign patterns of the given sizes, zeros ranked and dropped."""
    ranks = scipy.stats.rankdata(np.abs(x))
    kept = [(rank, value > 0) for rank, value in zip(ranks, x, strict=True) if value != 0]
    if not kept:
        return 1.0
    observed = sum(rank for rank, positive in kept if positive)
    sums = [
        sum(rank for (rank, _), taken in zip(kept, pattern, strict=True) if taken)
        for pattern in itertools.product((False, True), repeat=len(kept))
    ]
    low = sum(s <= observed for s in sums) / len(sums)
    high = sum(s >= observed for s in sums) / len(sums)
    return min(1.0, 2 * min(low, high))


def wilcoxon(x: Any, **options: Any) -> float:
    """SciPy's p-value; its stubs do not know the result."""
    return float(cast(Any, scipy.stats.wilcoxon(x, **options)).pvalue)


@given(COARSE)
@settings(deadline=None, max_examples=60)
def test_pratt_equals_enumeration(x: list[float]) -> None:
    assert signed_rank_p(x) == pytest.approx(by_enumeration(x), abs=1e-12)


@pytest.mark.parametrize("n", [3, 6, 12, 25, 40])
def test_equals_scipy_without_ties(n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n) + 0.3
    expected = wilcoxon(x, method="exact")
    assert signed_rank_p(x) == pytest.approx(expected, rel=1e-12)
    assert signed_rank_p(x, ties="bound") == pytest.approx(expected, rel=1e-12)


@given(x=COARSE, seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=100)
def test_bound_is_never_below_the_test_of_slightly_moved_data(x: list[float], seed: int) -> None:
    moved = np.array(x) + 1e-6 * np.random.default_rng(seed).standard_normal(len(x))
    assert signed_rank_p(x, ties="bound") >= signed_rank_p(moved) - 1e-12


@given(x=st.one_of(COARSE, FINE), alpha=st.sampled_from([0.01, 0.0234375, 0.03125, 0.05, 0.1, 0.3]))
@settings(deadline=None, max_examples=100)
def test_interval_excludes_zero_exactly_when_the_bound_is_small_enough(x: list[float], alpha: float) -> None:
    low, high = interval_at(x, alpha)
    assert (low > 0 or high < 0) == (signed_rank_p(x, ties="bound") <= alpha)


@given(FINE)
@settings(deadline=None, max_examples=60)
def test_estimate_lies_in_the_interval_and_turns_with_the_sign(x: list[float]) -> None:
    low, high = signed_rank_interval(x, 0.8)
    assert low <= hodges_lehmann(x) <= high
    assert signed_rank_interval([-value for value in x], 0.8) == (-high, -low)
    assert signed_rank_p([-value for value in x], ties="bound") == signed_rank_p(x, ties="bound")


def test_six_rounds_are_the_least_for_95_percent() -> None:
    assert signed_rank_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (-math.inf, math.inf)
    assert signed_rank_interval([5.0, 1.0, 3.0, 4.0, 6.0, 2.0]) == (1.0, 6.0)
    assert attainable(6)[0] == 0.03125


def test_published_interval() -> None:
    # Hollander, Wolfe and Chicken, example 3.3: Hamilton depression scale, 96 % interval -.786 to -.010, estimate -.46.
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    differences = np.array(after) - np.array(before)
    assert hodges_lehmann(differences) == pytest.approx(-0.46)
    assert signed_rank_interval(differences, 0.96) == pytest.approx((-0.786, -0.010))


def test_coverage_is_what_is_promised() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(2000):
        low, high = signed_rank_interval(rng.laplace(loc=0.7, size=8), 0.9)
        covered += low <= 0.7 <= high
    assert covered / 2000 >= 0.9 - 3 * math.sqrt(0.09 / 2000)


def test_normal_approximation_continues_the_exact_distribution() -> None:
    rng = np.random.default_rng(0)
    for n in (EXACT, EXACT + 1, 400):
        x = rng.standard_normal(n) + 0.12
        assert signed_rank_p(x) == pytest.approx(wilcoxon(x), rel=0.05)
        low, high = signed_rank_interval(x)
        assert low < 0.2 and high > 0.05 and high - low < 0.5
        assert (low > 0) == (signed_rank_p(x, ties="bound") <= 0.05)


def test_all_zero_says_nothing() -> None:
    for ties in ("pratt", "bound"):
        assert signed_rank_p([0.0] * 10, ties=ties) == 1.0
    assert signed_rank_interval([0.0] * 10) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("x", "message"),
    [([], "1 to 5000 values"), ([[1.0]], "flat sample"), ([1.0, math.nan], "nan at place 1"), ([math.inf], "inf")],
)
def test_refused_samples(x: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        signed_rank_p(x)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_refused_levels(level: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        signed_rank_interval([1.0], level)

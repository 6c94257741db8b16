"""Holm's procedure against its definition."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats import holm, holm_levels

PS = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def closed_testing(ps: list[float], alpha: float) -> list[bool]:
    """Reject a hypothesis when Bonferroni rejects every set of hypotheses that holds it."""
    sets = [s for size in range(1, len(ps) + 1) for s in itertools.combinations(range(len(ps)), size)]
    rejected = {s: len(s) * min(ps[i] for i in s) <= alpha for s in sets}
    return [all(rejected[s] for s in sets if i in s) for i in range(len(ps))]


@given(PS)
@settings(deadline=None, max_examples=100)
def test_equals_closed_testing_with_bonferroni(ps: list[float]) -> None:
    assert [p <= 0.05 for p in holm(ps)] == closed_testing(ps, 0.05)


@given(PS)
@settings(deadline=None, max_examples=100)
def test_levels_reject_what_adjusted_p_values_reject(ps: list[float]) -> None:
    # A power of two for alpha: the two ways round differently otherwise, by one part in 2**53.
    alpha = 2.0**-4
    if any(abs(k * p - alpha) < 1e-12 for p in ps for k in range(1, 7)):
        return
    assert [p <= level for p, level in zip(ps, holm_levels(ps, alpha), strict=True)] == [p <= alpha for p in holm(ps)]


def test_order_is_kept_and_nothing_exceeds_one() -> None:
    assert holm([0.9, 0.01, 0.8]) == [1.0, 0.03, 1.0]
    assert holm([]) == []


def test_refused() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        holm([1.2])

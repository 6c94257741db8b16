"""The smallest p-value over looks: error rates of t statistics, one-sided and two-sided, and equivalence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtr

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats import MinimumP, SequentialRule, holm, holm_many, two_one_sided
from mlsysopt.core.stats.simulation import T_SCORES, calibrate_t, null_t
from mlsysopt.core.stats.tables import T_PLANS

LOOKS = (3, 4, 6, 8, 10)


def smallest(sides: int, studies: int = 200_000) -> np.ndarray:
    freedom = np.array(LOOKS)[:, None] - 1.0
    found = []
    for t in null_t(LOOKS, studies, seed=77):
        p = stdtr(freedom, t)
        found.append((2 * np.minimum(p, 1 - p) if sides == 2 else p).min(axis=0))
    return np.concatenate(found)


@pytest.mark.parametrize("sides", [1, 2])
def test_the_error_rate_is_kept_at_every_level(sides: int) -> None:
    p = MinimumP.for_t(LOOKS, sides=sides).p_values(smallest(sides))
    for alpha in (0.2, 0.05, 0.01, 0.005):
        noise = 3 * math.sqrt(alpha * (1 - alpha) / len(p))
        assert alpha * 0.97 - noise <= np.mean(p <= alpha) <= alpha + noise


def test_without_the_table_five_looks_cost_three_times_the_error() -> None:
    assert 0.13 < np.mean(smallest(2) <= 0.05) < 0.16


def test_level_is_the_inverse() -> None:
    g = MinimumP.for_t(LOOKS)
    for alpha in (0.5, 0.05, 0.005, 1e-4):
        assert g.p_value(g.level(alpha)) == pytest.approx(alpha, rel=1e-9)


def test_below_the_table_the_union_bound_holds() -> None:
    g = MinimumP.for_t(LOOKS)
    assert g.p_value(1e-9) == pytest.approx(5e-9)
    assert g.level(1e-8) == pytest.approx(2e-9)
    ps = g.p_values(np.geomspace(1e-12, 1, 500))
    assert np.all(np.diff(ps) >= 0)
    assert np.isfinite(g.p_values(np.array([np.nan, 0.0]))).all()


def test_one_look_is_the_plain_test() -> None:
    g = MinimumP.for_t((10,))
    assert g.p_value(0.03) == pytest.approx(0.03)


def test_committed_table_is_what_its_generator_writes() -> None:
    small, committed = calibrate_t(LOOKS, 100_000, seed=5), T_PLANS[LOOKS]
    assert committed.studies >= 1_000_000
    for ours, theirs in ((small.one_sided, committed.one_sided), (small.two_sided, committed.two_sided)):
        assert len(theirs) == len(T_SCORES)
        assert np.max(np.abs(np.array(ours) / 100_000 - np.array(theirs) / committed.studies)) < 0.006


def test_signed_ranks_use_the_same_machinery() -> None:
    rule = SequentialRule.for_looks()
    g = rule.minimum()
    scores = np.array([0.0, 0.02, 0.5, 5.0])
    assert g.p_values(scores).tolist() == [g.p_value(float(score)) for score in scores]
    assert rule.p_value([0.03125]) == g.p_value(0.03125 / rule.weights[0])


@pytest.mark.parametrize("looks", [(), (1, 3), (4, 4), (6, 3)])
def test_refused_looks(looks: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="increasing"):
        MinimumP.for_t(looks)


def test_holm_many_is_holm_many_times() -> None:
    ps = np.random.default_rng(2).random((40, 7)) ** 3
    ps[0, :3] = 0.01
    assert np.allclose(holm_many(ps), [holm(list(row)) for row in ps])


def test_equivalence_at_the_margin_is_wrong_in_five_percent() -> None:
    rng = np.random.default_rng(3)
    x = 1.0 + rng.standard_normal((20_000, 12)) * 0.5
    mean, error = x.mean(axis=1), x.std(axis=1, ddof=1) / math.sqrt(12)
    below, above = two_one_sided(mean, error, np.full(20_000, 11.0), 1.0)
    assert np.mean(np.maximum(below, above) <= 0.05) == pytest.approx(0.05, abs=0.006)
    with pytest.raises(UsageError, match="margin"):
        two_one_sided(mean, error, np.array(11.0), 0.0)

"""Shrunken variances: against the published estimators' defining equations, and what the cap is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import digamma, polygamma

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats import moderate
from mlsysopt.core.stats.moderated import fitted_prior


def test_prior_of_many_rows_is_the_one_they_were_drawn_from() -> None:
    rng = np.random.default_rng(1)
    d, d0, s0 = 4, 6.0, 2.5
    truth = d0 * s0 / rng.chisquare(d0, 40_000)
    seen = truth * rng.chisquare(d, 40_000) / d
    prior, weight = fitted_prior(seen, np.full(40_000, float(d)))
    assert prior == pytest.approx(s0, rel=0.03)
    assert weight == pytest.approx(d0, rel=0.06)


def test_the_moments_of_the_logarithms_are_met() -> None:
    variance, d = np.array([0.2, 1.5, 3.0, 0.9, 12.0, 0.05]), 3.0
    prior, weight = fitted_prior(variance, np.full(6, d))
    e = np.log(variance) - digamma(d / 2) + math.log(d / 2)
    assert polygamma(1, weight / 2) == pytest.approx(e.var(ddof=1) - polygamma(1, d / 2), rel=1e-3)
    assert math.log(prior) == pytest.approx(e.mean() + digamma(weight / 2) - math.log(weight / 2), abs=1e-3)


def test_equal_variances_make_a_prior_without_doubt() -> None:
    prior, weight = fitted_prior(np.full(5, 2.0), np.full(5, 4.0))
    assert (float(prior), float(weight)) == (2.0, math.inf)
    shrunk = moderate(np.array([1.9, 2.0, 2.1]), np.array(4.0), cap=None)
    assert np.allclose(shrunk.variance, 2.0)
    assert np.all(np.isinf(shrunk.freedom))


def test_cap_limits_what_the_others_count() -> None:
    own = np.array([1.9, 2.0, 2.1])
    shrunk = moderate(own, np.array(4.0))
    assert np.all(shrunk.freedom == 8.0)
    assert np.allclose(shrunk.variance, (own + 2.0) / 2)
    assert np.all(moderate(own, np.array(4.0), cap=0.5).freedom == 6.0)


def test_a_row_alone_keeps_its_variance() -> None:
    shrunk = moderate(np.array([3.0, np.nan]), np.array(2.0))
    assert shrunk.variance[0] == 3.0
    assert shrunk.freedom[0] == 2.0
    assert np.isnan(shrunk.variance[1]) and np.isnan(shrunk.freedom[1])


def test_families_do_not_touch_one_another() -> None:
    rng = np.random.default_rng(4)
    variance = rng.chisquare(3, (5, 7))
    together = moderate(variance, np.array(3.0))
    for i in range(5):
        assert np.allclose(together.variance[i], moderate(variance[i], np.array(3.0)).variance)


def test_a_row_without_spread_does_not_break_the_fit() -> None:
    shrunk = moderate(np.array([0.0, 1.0, 1.2]), np.array(2.0))
    assert np.all(np.isfinite(shrunk.variance)) and shrunk.variance[0] > 0
    assert np.all(moderate(np.zeros(3), np.array(2.0)).variance == 0)


def test_the_centre_between_protects_the_noisy_rows() -> None:
    variance = np.array([0.05, 0.1, 0.2, 4.0])
    assert np.all(
        moderate(variance, np.array(2.0), centre="between").variance > moderate(variance, np.array(2.0)).variance
    )


@pytest.mark.parametrize(("variance", "freedom"), [([-1.0], 2.0), ([1.0], 0.5)])
def test_refused(variance: list[float], freedom: float) -> None:
    with pytest.raises(UsageError, match="at least"):
        moderate(np.array(variance), np.array(freedom))

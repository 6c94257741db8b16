"""Paired tests, proportions and conformal quantiles against SciPy and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats import clopper_pearson, conformal_quantile, paired_bootstrap, paired_t


def test_paired_t_equals_scipy() -> None:
    x = np.random.default_rng(1).standard_normal(9) + 0.4
    found, expected = paired_t(x, 0.9), cast(Any, scipy.stats.ttest_1samp(x, 0.0))
    interval = expected.confidence_interval(0.9)
    assert found.p_value == pytest.approx(float(expected.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_paired_bootstrap_equals_scipy() -> None:
    x = np.random.default_rng(2).exponential(size=25)
    found = paired_bootstrap(x, 0.9, seed=1, resamples=20_000)
    expected = scipy.stats.bootstrap(
        (x,), np.mean, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.03)
    assert found == paired_bootstrap(x, 0.9, seed=1, resamples=20_000)


def test_bootstrap_error_rate() -> None:
    rng = np.random.default_rng(3)
    rejected = sum(paired_bootstrap(rng.laplace(size=15), seed=i, resamples=399).p_value <= 0.05 for i in range(600))
    assert rejected / 600 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


@pytest.mark.parametrize("test", [paired_t, paired_bootstrap])
def test_constant_differences(test: Callable[[list[float]], object]) -> None:
    found = test([0.5, 0.5, 0.5])
    assert (found.low, found.high, found.p_value) == (0.5, 0.5, 0.0)  # type: ignore[attr-defined]
    assert test([0.0, 0.0]).p_value == 1.0  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="two finite"):
        test([1.0])


@given(n=st.integers(1, 60), data=st.data())
@settings(deadline=None, max_examples=60)
def test_clopper_pearson_equals_scipy(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    expected = scipy.stats.binomtest(k, n).proportion_ci(0.9)
    assert clopper_pearson(k, n, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_clopper_pearson_refuses(k: int, n: int) -> None:
    with pytest.raises(UsageError, match="0 <= k <= n"):
        clopper_pearson(k, n)


def test_conformal_coverage() -> None:
    rng = np.random.default_rng(5)
    scores = rng.exponential(size=(4000, 20))
    covered = np.mean([row[-1] <= conformal_quantile(row[:-1], 0.8) for row in scores])
    assert 0.8 - 0.02 <= covered <= 0.8 + 1 / 20 + 0.02


def test_conformal_quantile_at_whole_places() -> None:
    # 19 scores at 90 %: the 18th, although 20 * 0.9 is a hair above 18 in binary.
    assert conformal_quantile(list(range(1, 20)), 0.9) == 18.0
    assert conformal_quantile([1.0] * 8, 0.9) == math.inf
    with pytest.raises(UsageError, match="coverage"):
        conformal_quantile([1.0], 1.0)
    with pytest.raises(UsageError, match="scores"):
        conformal_quantile([], 0.5)

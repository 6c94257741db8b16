"""Every distribution over vectors passes the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from mlsysopt.infer.distributions import ALL
from mlsysopt.testing.distributions import DistributionCase as Case
from mlsysopt.testing.distributions import DistributionContract

# SciPy's stubs take its covariance for an int.
gaussian: Any = stats.multivariate_normal


class Renormed:
    """SciPy's Dirichlet, which wants rows that add up to 1 to the last bit."""

    def __init__(self, alpha: np.ndarray) -> None:
        self.alpha = alpha

    def logpdf(self, x: np.ndarray) -> float:
        return float(stats.dirichlet.logpdf(x / x.sum(), self.alpha))


class TestDirichlet(DistributionContract):
    distribution = ALL["Dirichlet"]
    cases = (
        Case((alpha := np.array([2.0, 3.0, 1.5]),), Renormed(alpha)),
        Case((alpha := np.array([1.0, 1.0, 1.0]),), Renormed(alpha)),
        Case((alpha := np.array([40.0, 9.0, 60.0]),), Renormed(alpha)),
        Case((alpha := np.array([0.3, 0.5, 4.0]),), Renormed(alpha), smooth=False),
        Case((np.array([0.01, 0.02, 5.0]),), smooth=False),
    )


class TestMultinomial(DistributionContract):
    distribution = ALL["Multinomial"]
    cases = tuple(
        Case((n, np.array(p)), stats.multinomial(n, p))
        for n, p in ((6, (0.2, 0.3, 0.5)), (0, (0.2, 0.3, 0.5)), (4, (0.5, 0.5, 0.0)), (5, (0.0, 1.0, 0.0)))
    )


class TestMultivariateNormal(DistributionContract):
    distribution = ALL["MultivariateNormal"]
    cases = tuple(
        Case((np.array(mean), np.array(covariance)), gaussian(mean, covariance))
        for mean, covariance in (
            ((0.0, 1.0), ((2.0, 0.5), (0.5, 1.0))),
            ((-3.0, 200.0), ((1e-4, 0.0), (0.0, 900.0))),
            ((0.0, 0.0), ((1.0, -0.8), (-0.8, 1.0))),
        )
    )

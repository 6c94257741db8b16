"""Every distribution over numbers with a fraction passes the contract."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from mlsysopt.infer.distributions import ALL
from mlsysopt.testing.distributions import DistributionCase as Case
from mlsysopt.testing.distributions import DistributionContract


class TestNormal(DistributionContract):
    distribution = ALL["Normal"]
    cases = (Case((0, 2), stats.norm(0, 2)), Case((-1.5, 0.3), stats.norm(-1.5, 0.3)))
    forbidden = ((math.inf, 1.0),)


class TestNormalVariance(DistributionContract):
    distribution = ALL["NormalVariance"]
    cases = (Case((0, 4), stats.norm(0, 2)), Case((-1.5, 0.09), stats.norm(-1.5, 0.3)))


class TestNormalPrecision(DistributionContract):
    distribution = ALL["NormalPrecision"]
    cases = (Case((0, 4), stats.norm(0, 0.5)), Case((-1.5, 0.25), stats.norm(-1.5, 2)))


class TestTruncatedNormal(DistributionContract):
    distribution = ALL["TruncatedNormal"]
    cases = tuple(
        Case((mean, sd, low, high), stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd))
        for mean, sd, low, high in (
            (0, 2, -1, math.inf),
            (0.5, 1.0, 0.2, 0.9),
            (0.0, 1.0, -0.7, 2.5),
            (3.0, 0.5, -math.inf, 1.0),
            (-2.0, 1.0, 1.0, 4.0),
            (0.0, 1.0, 8.0, math.inf),
            (0.0, 1.0, -7.1, -7.0),
            (0.0, 1.0, -math.inf, math.inf),
        )
    )
    forbidden = ((0.0, 1.0, 2.0, 1.0), (0.0, 1.0, math.inf, math.inf))


class TestHalfNormal(DistributionContract):
    distribution = ALL["HalfNormal"]
    cases = (Case((2,), stats.halfnorm(scale=2)), Case((0.01,), stats.halfnorm(scale=0.01)))


class TestCauchy(DistributionContract):
    distribution = ALL["Cauchy"]
    cases = (Case((0, 1), stats.cauchy(0, 1)), Case((-3.0, 0.2), stats.cauchy(-3.0, 0.2)))


class TestHalfCauchy(DistributionContract):
    distribution = ALL["HalfCauchy"]
    cases = (Case((1,), stats.halfcauchy(scale=1)), Case((2.5,), stats.halfcauchy(scale=2.5)))


class TestStudentT(DistributionContract):
    distribution = ALL["StudentT"]
    cases = (
        Case((3, 0, 1), stats.t(3, 0, 1)),
        Case((0.7, 1.0, 2.0), stats.t(0.7, 1.0, 2.0)),
        Case((50.0, -1.0, 0.2), stats.t(50.0, -1.0, 0.2)),
    )


class TestLaplace(DistributionContract):
    distribution = ALL["Laplace"]
    cases = (Case((0, 1), stats.laplace(0, 1)), Case((2.0, 0.3), stats.laplace(2.0, 0.3)))


class TestLogNormal(DistributionContract):
    distribution = ALL["LogNormal"]
    cases = (Case((0, 1), stats.lognorm(1)), Case((1.0, 0.3), stats.lognorm(0.3, scale=math.e)))


class TestGamma(DistributionContract):
    distribution = ALL["Gamma"]
    cases = (
        Case((2, 1), stats.gamma(2)),
        Case((0.4, 3.0), stats.gamma(0.4, scale=1 / 3.0)),
        Case((150.0, 0.1), stats.gamma(150.0, scale=10.0)),
        Case((0.01, 1.0), stats.gamma(0.01), smooth=False),
    )


class TestInverseGamma(DistributionContract):
    distribution = ALL["InverseGamma"]
    cases = (
        Case((2, 1), stats.invgamma(2)),
        Case((0.6, 3.0), stats.invgamma(0.6, scale=3.0)),
        Case((40.0, 0.1), stats.invgamma(40.0, scale=0.1)),
    )


class TestExponential(DistributionContract):
    distribution = ALL["Exponential"]
    cases = (Case((2,), stats.expon(scale=0.5)), Case((0.01,), stats.expon(scale=100.0)))


class TestBeta(DistributionContract):
    distribution = ALL["Beta"]
    cases = (
        Case((2, 3), stats.beta(2, 3)),
        Case((0.5, 0.5), stats.beta(0.5, 0.5)),
        Case((1.0, 1.0), stats.beta(1.0, 1.0)),
        Case((200.0, 0.9), stats.beta(200.0, 0.9)),
        Case((0.02, 0.03), smooth=False),
    )


class TestUniform(DistributionContract):
    distribution = ALL["Uniform"]
    cases = (Case((0, 2), stats.uniform(0, 2)), Case((-3.0, -2.5), stats.uniform(-3.0, 0.5)))
    forbidden = ((1.0, 1.0), (2.0, 1.0), (0.0, math.inf))


class TestFlat(DistributionContract):
    distribution = ALL["Flat"]
    cases = (Case(()),)

    def test_weighs_every_number_alike(self) -> None:
        assert self.distribution.improper
        assert {self.distribution.log_density(x) for x in (-1e300, 0.0, 3, np.float64(2.0))} == {0.0}


class TestHalfFlat(DistributionContract):
    distribution = ALL["HalfFlat"]
    cases = (Case(()),)

    def test_weighs_every_number_above_0_alike(self) -> None:
        assert self.distribution.improper
        assert {self.distribution.log_density(x) for x in (1e-300, 3, np.float64(1e300))} == {0.0}

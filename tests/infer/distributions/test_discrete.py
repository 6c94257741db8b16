"""Every distribution over whole numbers passes the contract."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from mlsysopt.infer.distributions import ALL
from mlsysopt.testing.distributions import DistributionCase as Case
from mlsysopt.testing.distributions import DistributionContract


class TestBernoulli(DistributionContract):
    distribution = ALL["Bernoulli"]
    cases = tuple(Case((p,), stats.bernoulli(p)) for p in (0.3, 0.0, 1.0, 0.999))


class TestBernoulliLogit(DistributionContract):
    distribution = ALL["BernoulliLogit"]
    cases = tuple(Case((logit,), stats.bernoulli(special.expit(logit))) for logit in (1, 0.0, -3.0))


class TestBinomial(DistributionContract):
    distribution = ALL["Binomial"]
    cases = tuple(
        Case((n, p), stats.binom(n, p))
        for n, p in ((10, 0.3), (0, 0.3), (10, 0.0), (10, 1.0), (200, 0.6), (1, 0.5), (300, 0.001))
    )


class TestCategorical(DistributionContract):
    distribution = ALL["Categorical"]
    cases = tuple(
        Case((np.array(p),), stats.rv_discrete(values=(range(len(p)), p)))
        for p in ((0.2, 0.3, 0.5), (0.0, 1.0, 0.0), (0.5, 0.0, 0.5), (1.0,))
    )


class TestPoisson(DistributionContract):
    distribution = ALL["Poisson"]
    cases = tuple(Case((rate,), stats.poisson(rate)) for rate in (3, 0.0, 0.01, 9.99, 10.0, 500.0))


class TestGeometric(DistributionContract):
    distribution = ALL["Geometric"]
    cases = tuple(Case((p,), stats.geom(p, loc=-1)) for p in (0.3, 1.0, 0.02))
    forbidden = ((0.0,),)


class TestNegativeBinomial(DistributionContract):
    distribution = ALL["NegativeBinomial"]
    cases = tuple(
        Case((r, p), stats.nbinom(r, p)) for r, p in ((3, 0.4), (0.1, 0.2), (2.5, 1.0), (80.0, 0.6), (1.0, 0.5))
    )
    forbidden = ((2.0, 0.0),)

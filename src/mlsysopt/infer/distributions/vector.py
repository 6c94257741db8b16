"""Distributions over vectors."""

from __future__ import annotations

from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.runtime import densities, draws

__all__ = ["DIRICHLET", "MULTINOMIAL", "MULTIVARIATE_NORMAL"]

DIRICHLET = Distribution(
    "Dirichlet", (Parameter("alpha", "positives"),), "simplex", densities.dirichlet_log_density, draws.dirichlet_draw
)
MULTINOMIAL = Distribution(
    "Multinomial", (Parameter("n", "count"), Parameter("p", "simplex")), "counts",
    densities.multinomial_log_density, draws.multinomial_draw, discrete=True,
)  # fmt: skip
MULTIVARIATE_NORMAL = Distribution(
    "MultivariateNormal", (Parameter("mean", "reals"), Parameter("covariance", "matrix")), "vector",
    densities.multivariate_normal_log_density, draws.multivariate_normal_draw,
)  # fmt: skip

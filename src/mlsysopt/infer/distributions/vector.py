"""Distributions over vectors."""

from __future__ import annotations

from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.runtime import densities as d
from mlsysopt.infer.runtime import draws

__all__ = ["VECTOR"]

VECTOR = (
    Distribution("Dirichlet", (Parameter("alpha", "positives"),), "simplex", d.dirichlet_log, draws.dirichlet_draw),
    Distribution(
        "Multinomial", (Parameter("n", "count"), Parameter("p", "simplex")), "counts", d.multinomial_log,
        draws.multinomial_draw, discrete=True,
    ),
    Distribution(
        "MultivariateNormal", (Parameter("mean", "reals"), Parameter("covariance", "matrix")), "vector",
        d.multivariate_normal_log, draws.multivariate_normal_draw,
    ),
)  # fmt: skip

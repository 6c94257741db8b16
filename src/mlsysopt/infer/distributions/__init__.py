"""Distributions, one definition each for drawing, weighing and gradients, compiled or not."""

from __future__ import annotations

from mlsysopt.infer.distributions.continuous import (
    BETA,
    CAUCHY,
    EXPONENTIAL,
    FLAT,
    GAMMA,
    HALF_CAUCHY,
    HALF_FLAT,
    HALF_NORMAL,
    INVERSE_GAMMA,
    LAPLACE,
    LOG_NORMAL,
    NORMAL,
    NORMAL_PRECISION,
    NORMAL_VARIANCE,
    STUDENT_T,
    TRUNCATED_NORMAL,
    UNIFORM,
)
from mlsysopt.infer.distributions.discrete import (
    BERNOULLI,
    BERNOULLI_LOGIT,
    BINOMIAL,
    CATEGORICAL,
    GEOMETRIC,
    NEGATIVE_BINOMIAL,
    POISSON,
)
from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.distributions.vector import DIRICHLET, MULTINOMIAL, MULTIVARIATE_NORMAL

__all__ = [
    "ALL",
    "BERNOULLI",
    "BERNOULLI_LOGIT",
    "BETA",
    "BINOMIAL",
    "CATEGORICAL",
    "CAUCHY",
    "DIRICHLET",
    "EXPONENTIAL",
    "FLAT",
    "GAMMA",
    "GEOMETRIC",
    "HALF_CAUCHY",
    "HALF_FLAT",
    "HALF_NORMAL",
    "INVERSE_GAMMA",
    "LAPLACE",
    "LOG_NORMAL",
    "MULTINOMIAL",
    "MULTIVARIATE_NORMAL",
    "NEGATIVE_BINOMIAL",
    "NORMAL",
    "NORMAL_PRECISION",
    "NORMAL_VARIANCE",
    "POISSON",
    "STUDENT_T",
    "TRUNCATED_NORMAL",
    "UNIFORM",
    "Distribution",
    "Parameter",
]

ALL: dict[str, Distribution] = {
    one.name: one
    for one in (
        NORMAL, NORMAL_VARIANCE, NORMAL_PRECISION, TRUNCATED_NORMAL, HALF_NORMAL, CAUCHY, HALF_CAUCHY, STUDENT_T,
        LAPLACE, LOG_NORMAL, GAMMA, INVERSE_GAMMA, EXPONENTIAL, BETA, UNIFORM, FLAT, HALF_FLAT, BERNOULLI,
        BERNOULLI_LOGIT, BINOMIAL, CATEGORICAL, POISSON, GEOMETRIC, NEGATIVE_BINOMIAL, DIRICHLET, MULTINOMIAL,
        MULTIVARIATE_NORMAL,
    )
}  # fmt: skip
"""By name; each parametrisation has one of its own."""

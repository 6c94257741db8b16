"""Distributions over whole numbers."""

from __future__ import annotations

from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.runtime import densities, draws

__all__ = ["BERNOULLI", "BERNOULLI_LOGIT", "BINOMIAL", "CATEGORICAL", "GEOMETRIC", "NEGATIVE_BINOMIAL", "POISSON"]

_P = Parameter("p", "unit")

BERNOULLI = Distribution(
    "Bernoulli", (_P,), "binary",
    densities.bernoulli_log_density, draws.bernoulli_draw, densities.bernoulli_gradient,
    discrete=True, states=densities.bernoulli_states,
)  # fmt: skip
BERNOULLI_LOGIT = Distribution(
    "BernoulliLogit", (Parameter("logit"),), "binary",
    densities.bernoulli_logit_log_density, draws.bernoulli_logit_draw, densities.bernoulli_logit_gradient,
    discrete=True, states=densities.bernoulli_logit_states,
)  # fmt: skip
# A count, though finite: with more trials than anybody wants to enumerate it is moved as one.
BINOMIAL = Distribution(
    "Binomial", (Parameter("n", "count"), _P), "count",
    densities.binomial_log_density, draws.binomial_draw, densities.binomial_gradient,
    discrete=True, states=densities.binomial_states,
)  # fmt: skip
CATEGORICAL = Distribution(
    "Categorical", (Parameter("p", "simplex"),), "states",
    densities.categorical_log_density, draws.categorical_draw,
    discrete=True, states=densities.categorical_states,
)  # fmt: skip
POISSON = Distribution(
    "Poisson", (Parameter("rate", "nonnegative"),), "count",
    densities.poisson_log_density, draws.poisson_draw, densities.poisson_gradient, discrete=True,
)  # fmt: skip
GEOMETRIC = Distribution(
    "Geometric", (_P,), "count",
    densities.geometric_log_density, draws.geometric_draw, densities.geometric_gradient, discrete=True,
)  # fmt: skip
NEGATIVE_BINOMIAL = Distribution(
    "NegativeBinomial", (Parameter("r", "positive"), _P), "count",
    densities.negative_binomial_log_density, draws.negative_binomial_draw, densities.negative_binomial_gradient,
    discrete=True,
)  # fmt: skip

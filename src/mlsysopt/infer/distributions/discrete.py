"""Distributions over whole numbers."""

from __future__ import annotations

from typing import Any

from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.runtime import densities as d
from mlsysopt.infer.runtime import draws

__all__ = ["DISCRETE"]

_P = Parameter("p", "unit")


def two(*_: Any) -> int:
    """0 and 1."""
    return 2


def up_to(n: int, *_: Any) -> int:
    """0 ... n."""
    return n + 1


def labels(p: Any) -> int:
    """As many as probabilities."""
    return p.shape[0]


DISCRETE = (
    Distribution(
        "Bernoulli",
        (_P,),
        "binary",
        d.bernoulli_log,
        draws.bernoulli_draw,
        d.bernoulli_gradient,
        discrete=True,
        states=two,
    ),
    Distribution(
        "BernoulliLogit",
        (Parameter("logit"),),
        "binary",
        d.bernoulli_logit_log,
        draws.bernoulli_logit_draw,
        d.bernoulli_logit_gradient,
        discrete=True,
        states=two,
    ),
    Distribution(
        "Binomial",
        (Parameter("n", "count"), _P),
        "states",
        d.binomial_log,
        draws.binomial_draw,
        d.binomial_gradient,
        discrete=True,
        states=up_to,
    ),
    Distribution(
        "Categorical",
        (Parameter("p", "simplex"),),
        "states",
        d.categorical_log,
        draws.categorical_draw,
        discrete=True,
        states=labels,
    ),
    Distribution(
        "Poisson",
        (Parameter("rate", "nonnegative"),),
        "count",
        d.poisson_log,
        draws.poisson_draw,
        d.poisson_gradient,
        discrete=True,
    ),
    Distribution(
        "Geometric", (_P,), "count", d.geometric_log, draws.geometric_draw, d.geometric_gradient, discrete=True
    ),
    Distribution(
        "NegativeBinomial",
        (Parameter("r", "positive"), _P),
        "count",
        d.negative_binomial_log,
        draws.negative_binomial_draw,
        d.negative_binomial_gradient,
        discrete=True,
    ),
)

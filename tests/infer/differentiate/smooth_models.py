"""Smooth models that between them use every function, transform and kind of site that has a gradient."""

# The words of the language carry nothing outside of a model.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportUndefinedVariable=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlsysopt.infer.language import (
    Bernoulli,
    BernoulliLogit,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Dirichlet,
    Exponential,
    Flat,
    Gamma,
    Geometric,
    HalfCauchy,
    HalfFlat,
    HalfNormal,
    InverseGamma,
    Laplace,
    LogNormal,
    Multinomial,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    TruncatedNormal,
    Uniform,
    array,
    dot,
    expm1,
    factor,
    observe,
    reduce,
    sigmoid,
)

RNG = np.random.default_rng(11)


def regression(y, x):
    intercept = Flat()
    slopes = Normal(0.0, 1.0).rows(x.shape[1])
    sd = HalfFlat()
    for i in range(len(y)):
        observe(y[i], Normal(intercept + dot(x[i], slopes), sd))


def functions(y, x, kind):
    a = Normal(0.0, 1.0)
    b = Gamma(3.0, 2.0)
    c = Beta(2.0, 2.0)
    v = Normal(0.5, 1.0).rows(4)
    scale = exp(0.3 * a) + sqrt(b)  # noqa: F821
    for i in range(len(y)):
        centre = log(b) * x[i] + log1p(c) - expm1(v[i] * 0.3) / (1.0 + c)  # noqa: F821
        bend = abs(v[i]) + min(a, v[i]) - max(v[i], x[i] * c) + sigmoid(a * x[i]) ** 2
        turn = b**c + c**3 + reduce("max", v[0:3]) * reduce("min", v) + x[i] / b - (-a)
        last = v[i] * v[i] if kind[i] == 1 else (log(c) if kind[i] == 2 else a - 2.0)  # noqa: F821
        observe(y[i], Normal(centre + bend + turn + last, scale))


def schools(y, sd):
    mean = Normal(0.0, 5.0)
    spread = HalfCauchy(5.0)
    raw = Normal(0.0, 1.0).rows(len(y))
    for j in range(len(y)):
        observe(y[j], Normal(mean + spread * raw[j], sd[j]))


def shares(label, votes, ballots, group, K: int):
    weight = Gamma(2.0, 1.0).rows(K)
    p = Dirichlet(weight).rows(len(ballots))
    even = Dirichlet(0.7, K)
    tilt = array(float, len(label), K)
    for i in range(len(label)):
        for k in range(K):
            tilt[i, k] = 0.5 * p[group[i], k] + 0.5 * even[k]
        observe(label[i], Categorical(tilt[i]))
    for j in range(len(ballots)):
        observe(votes[j], Multinomial(ballots[j], p[j]))


def steps(y, z, group):
    centre = Normal(0.0, 3.0).rows(3).ordered()
    size = TruncatedNormal(1.0, 2.0, low=0.0).rows(3).ordered()
    for i in range(len(y)):
        observe(y[i], Normal(centre[group[i]], 0.8))
        observe(z[i], Normal(size[group[i]], size[0]))


def bounded(y, z):
    low = Uniform(-2.0, 1.0)
    width = HalfNormal(2.0)
    x = Uniform(low, low + exp(width)).rows(3)  # noqa: F821
    above = TruncatedNormal(0.0, 1.0, low=low)
    below = TruncatedNormal(0.0, 1.5, high=0.5)
    inside = TruncatedNormal(above, 1.0, low=-1.0, high=2.0)
    for i in range(len(y)):
        observe(y[i], Normal(x[i] + above * below, 1.0))
        observe(z[i], TruncatedNormal(inside, exp(0.1 * below), low=-3.0, high=4.0))  # noqa: F821


def ragged(w):
    spread = LogNormal(0.0, 0.5)
    level = Normal(0.0, spread).rows(len(w))
    effect = array(float, like=w)
    for d in range(len(w)):
        for i in range(len(w[d])):
            effect[d, i] = Laplace(level[d], 1.0)
            observe(w[d, i], Poisson(exp(effect[d, i])))  # noqa: F821


def walk(y, gate):
    drift = Normal(0.0, 0.5)
    step = InverseGamma(3.0, 2.0)
    level = array(float, len(y))
    level[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        level[t] = Normal(level[t - 1] + drift, var=step)
    for t in range(len(y)):
        if gate[t] == 1:
            observe(y[t], StudentT(4.0, level[t], step))
        else:
            observe(y[t], Cauchy(level[t], 1.0))


def vectors(y, mean, covariance):
    x = MultivariateNormal(mean, covariance)
    for i in range(len(y)):
        observe(y[i], MultivariateNormal(x, covariance))


def counts(flips, wins, waits, losses, times, parts, pulls):
    p = Beta(2.0, 3.0)
    rate = Exponential(0.5)
    shape = HalfNormal(2.0)
    for i in range(len(flips)):
        observe(flips[i], Bernoulli(p * 0.9))
        observe(wins[i], Binomial(6, p))
        observe(waits[i], Geometric(p))
        observe(losses[i], NegativeBinomial(shape, p))
        observe(pulls[i], BernoulliLogit(rate - shape))
        observe(parts[i], Beta(shape, rate))
        observe(times[0, i], Gamma(shape, rate))
        observe(times[1, i], InverseGamma(shape, rate))
        observe(times[2, i], HalfCauchy(rate))
        observe(times[3, i], HalfNormal(shape))
        observe(times[4, i], Exponential(rate))
        observe(times[5, i], LogNormal(log(rate), shape))  # noqa: F821
        observe(times[6, i], Uniform(0.0, 10.0 + rate))
        observe(times[7, i], Laplace(rate, shape))
    factor(-rate * shape)


Case = tuple[Callable[..., None], dict[str, Any]]

CASES: dict[str, Case] = {
    "regression": (regression, {"y": RNG.normal(size=7), "x": RNG.normal(size=(7, 3))}),
    "functions": (
        functions,
        {"y": RNG.normal(size=4), "x": np.array([0.4, -1.2, 2.0, 0.1]), "kind": np.array([0, 1, 2, 1])},
    ),
    "schools": (
        schools,
        {"y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), "sd": np.array([15.0, 10, 16, 11, 9, 11, 10, 18])},
    ),
    "shares": (
        shares,
        {
            "label": np.array([0, 2, 1, 2, 0]),
            "votes": np.array([[2, 0, 3], [1, 4, 2]]),
            "ballots": np.array([5, 7]),
            "group": np.array([0, 1, 0, 1, 1]),
            "K": 3,
        },
    ),
    "steps": (steps, {"y": RNG.normal(size=5), "z": RNG.normal(size=5), "group": np.array([0, 1, 2, 1, 0])}),
    "bounded": (bounded, {"y": RNG.normal(size=3), "z": RNG.uniform(-2, 3, size=3)}),
    "ragged": (ragged, {"w": [np.array([1, 0, 2]), np.array([3, 4]), np.array([0])]}),
    "walk": (walk, {"y": RNG.normal(size=6), "gate": np.array([1, 0, 1, 1, 0, 1])}),
    "vectors": (
        vectors,
        {"y": RNG.normal(size=(4, 2)), "mean": np.array([0.5, -1.0]), "covariance": np.array([[2.0, 0.6], [0.6, 1.0]])},
    ),
    "counts": (
        counts,
        {
            "flips": np.array([0, 1, 1]),
            "wins": np.array([2, 6, 0]),
            "waits": np.array([0, 3, 1]),
            "losses": np.array([2, 0, 5]),
            "times": RNG.uniform(0.2, 3.0, size=(8, 3)),
            "parts": np.array([0.2, 0.9, 0.5]),
            "pulls": np.array([1, 0, 1]),
        },
    ),
}

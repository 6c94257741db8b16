"""Models with a joint Gaussian block, each small enough to write its conditional out."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlsysopt.infer.language import (
    Bernoulli,
    Flat,
    HalfNormal,
    InverseGamma,
    LogNormal,
    MultivariateNormal,
    Normal,
    array,
    dot,
    observe,
    reduce,
)

RNG = np.random.default_rng(5)
GROUP = np.array([0, 2, 1, 1, 0, 2, 2, 1, 0, 0, 1, 2])
X = RNG.normal(size=12).round(3)
Y = RNG.normal(size=12).round(3)
XS = RNG.normal(size=(12, 3)).round(3)
COVARIANCE = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, -0.4], [0.0, -0.4, 0.7]])


def hierarchy(y, x, group, J: int):
    mu = Normal(0.3, 2.0)
    tau = HalfNormal(1.0)
    sd = HalfNormal(1.0)
    slope = Normal(0.1, 1.5)
    alpha = array(float, J)
    for j in range(J):
        alpha[j] = Normal(mu, tau)
    for n in range(len(y)):
        observe(y[n], Normal(alpha[group[n]] + slope * x[n], sd))


def regression(y, xs):
    intercept = Flat()
    beta = Normal(0.5, 2.0).rows(xs.shape[1])
    variance = InverseGamma(2.0, 2.0)
    for n in range(len(y)):
        observe(y[n], Normal(intercept + dot(xs[n], beta), var=variance))


def line_pairs(y, x, group, J: int):
    a = Normal(0.0, 2.0).rows(J)
    b = Normal(1.0, precision=3.0).rows(J)
    sd = HalfNormal(1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a[group[n]] + b[group[n]] * x[n], sd * (1.0 + x[n] * x[n])))


def noncentred(y, sigma):
    mu = Normal(0.0, 5.0)
    tau = HalfNormal(5.0)
    e = Normal(0.0, 1.0).rows(len(y))
    for j in range(len(y)):
        observe(y[j], Normal(mu + tau * e[j], sigma[j]))


def crossed(y, left, right, J: int, K: int):
    mu = Flat()
    a = Normal(0.0, 0.7).rows(J)
    b = Normal(0.0, 1.3).rows(K)
    for n in range(len(y)):
        observe(y[n], Normal(mu + a[left[n]] - 2.0 * b[right[n]], 0.6))


def levels(y, group, state, J: int, S: int):
    mu = Normal(0.0, 3.0)
    upper = array(float, S)
    lower = array(float, J)
    for s in range(S):
        upper[s] = Normal(mu, 0.8)
    for j in range(J):
        lower[j] = Normal(upper[state[j]], 0.5)
    for n in range(len(y)):
        observe(y[n], Normal(lower[group[n]], 0.9))


def twice(y, left, right, K: int):
    a = Normal(0.5, 1.0).rows(K)
    for n in range(len(y)):
        observe(y[n], Normal(a[left[n]] + 2.0 * a[right[n]], 0.7))


def guarded(y, x, group, treated, J: int):
    a = array(float, J)
    b = Normal(0.0, 1.0).rows(J)
    effect = Normal(0.0, 2.0)
    for j in range(J):
        if j != 1:
            a[j] = Normal(0.2, 1.5)
    for n in range(len(y)):
        if group[n] != 1:
            if treated[n] == 1:
                observe(y[n], Normal(a[group[n]] + b[group[n]] * x[n] + effect, 0.5))
            else:
                observe(y[n], LogNormal(a[group[n]] + b[group[n]] * x[n], 0.8))


def factors(y, loading):
    f = array(float, y.shape[0], loading.shape[1])
    mean = Normal(0.0, 1.0).rows(y.shape[1])
    for n in range(y.shape[0]):
        for k in range(loading.shape[1]):
            f[n, k] = Normal(0.0, 1.0)
    for n in range(y.shape[0]):
        for m in range(y.shape[1]):
            observe(y[n, m], Normal(mean[m] + dot(loading[m], f[n]), 0.5))


def correlated(y, xs, group, covariance, J: int):
    centre = Normal(0.2, 1.0).rows(xs.shape[1])
    beta = array(float, J, xs.shape[1])
    for j in range(J):
        beta[j] = MultivariateNormal(centre, covariance)
    for n in range(len(y)):
        observe(y[n], Normal(dot(xs[n], beta[group[n]]), 0.7))


def vectors(y, mean, covariance):
    theta = MultivariateNormal(mean, covariance)
    for n in range(y.shape[0]):
        observe(y[n], MultivariateNormal(theta, covariance))


def conditional_cells(y, x, group, J: int):
    a = Normal(0.0, 1.0).rows(J)
    shift = Normal(0.0, 1.0)
    for n in range(len(y)):
        before = (a[group[n - 1]] if n > 0 else 0.0) * x[n]
        observe(y[n], Normal(shift + before + (2.0 * shift if x[n] > 0 else 0.1), 0.7))


def autoregression(y, K: int):
    base = Flat()
    beta = Flat().rows(K)
    sd = HalfNormal(1.0)
    for t in range(K, len(y)):
        observe(y[t], Normal(base + reduce("add", beta[0:K]) * y[t - 1] + beta[0] * y[t - 2], sd))


def in_index(y):
    z = Bernoulli(0.5)
    a = Normal(0.0, 1.0).rows(2)
    for n in range(len(y)):
        observe(y[n], Normal(a[z] + a[1 - z], 1.0))


def groups_and_slopes(y, xs, group, J: int):
    mu = Normal(0.3, 2.0)
    tau = HalfNormal(1.0)
    sd = HalfNormal(1.0)
    beta = Normal(0.0, 1.0).rows(xs.shape[1])
    alpha = array(float, J)
    for j in range(J):
        alpha[j] = Normal(mu, tau)
    for n in range(len(y)):
        observe(y[n], Normal(alpha[group[n]] + dot(xs[n], beta), sd))


def uneven(y, left, right, K: int):
    a = Normal(0.5, 1.0).rows(K)
    for n in range(len(y)):
        observe(y[n], Normal(a[left[n]] + 2.0 * a[right[n]], 0.7 + 0.1 * n))


def repeated(y, x, sd):
    a = Normal(0.5, 1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a + a * x[n], sd[n]))


def alone(y):
    a = Normal(0.0, 1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a, 1.0))


COUNTED = {"y": Y, "x": X, "group": GROUP, "J": 3}
CROSSED = {"y": Y, "left": GROUP, "right": GROUP[::-1] % 2, "J": 3, "K": 2}
LEVELS = {"y": Y, "group": np.arange(12) % 4, "state": np.array([0, 1, 1, 0]), "J": 4, "S": 2}
CORRELATED = {"y": Y, "xs": XS, "group": GROUP, "covariance": COVARIANCE, "J": 3}
CASES: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "hierarchy": (hierarchy, "mu", COUNTED, {"tau": 0.7, "sd": 0.4}, ("mu", "slope", "alpha")),
    "hierarchy from a cell": (hierarchy, "alpha", COUNTED, {"tau": 0.7, "sd": 0.4}, ("alpha", "mu", "slope")),
    "regression": (regression, "beta", {"y": Y, "xs": XS}, {"variance": 0.3}, ("beta", "intercept")),
    "line_pairs": (line_pairs, "a", COUNTED, {"sd": 0.6}, ("a", "b")),
    "noncentred": (noncentred, "e", {"y": Y, "sigma": np.abs(X) + 0.2}, {"tau": 1.7}, ("e", "mu")),
    "crossed": (crossed, "mu", CROSSED, {}, ("mu", "a", "b")),
    "levels": (levels, "mu", LEVELS, {}, ("mu", "upper", "lower")),
    "twice": (twice, "a", {"y": Y, "left": GROUP, "right": GROUP[::-1].copy(), "K": 3}, {}, ("a",)),
    "factors": (factors, "f", {"y": Y.reshape(4, 3), "loading": XS[:3, :2].copy()}, {}, ("f", "mean")),
    "correlated": (correlated, "centre", CORRELATED, {}, ("centre", "beta")),
    "vectors": (vectors, "theta", {"y": XS, "mean": np.ones(3), "covariance": COVARIANCE}, {}, ("theta",)),
    "conditional_cells": (conditional_cells, "a", COUNTED, {}, ("a", "shift")),
    "autoregression": (autoregression, "base", {"y": Y, "K": 2}, {"sd": 0.5}, ("base", "beta")),
}

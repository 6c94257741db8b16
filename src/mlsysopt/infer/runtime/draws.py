"""Draws: `(rng, *parameters)`, `(rng, out, *parameters)` for vectors; forbidden parameters give nan or -1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlsysopt.infer.runtime.numerics import cholesky

TINY = 1e-300


def normal_draw(rng: Any, mean: float, sd: float) -> float:
    """m + s e."""
    if not sd > 0.0:
        return math.nan
    return mean + sd * rng.standard_normal()


def normal_variance_draw(rng: Any, mean: float, var: float) -> float:
    """m + sqrt(v) e."""
    if not var > 0.0:
        return math.nan
    return mean + math.sqrt(var) * rng.standard_normal()


def normal_precision_draw(rng: Any, mean: float, precision: float) -> float:
    """m + e / sqrt(p)."""
    if not precision > 0.0:
        return math.nan
    return mean + rng.standard_normal() / math.sqrt(precision)


def standard_truncated_draw(rng: Any, low: float, high: float) -> float:
    """A standard normal between two bounds: by rejection, each proposal where it is good (Robert 1995)."""
    if low > 0.0:
        return -standard_truncated_draw_left(rng, -high, -low)
    if high < 0.0:
        return standard_truncated_draw_left(rng, low, high)
    if high - low > 1.2:
        while True:
            z = rng.standard_normal()
            if low <= z <= high:
                return z
    while True:
        z = low + (high - low) * rng.random()
        if math.log(1.0 - rng.random()) <= -0.5 * z * z:
            return z


def standard_truncated_draw_left(rng: Any, low: float, high: float) -> float:
    """A standard normal between two bounds at or below 0: uniform where they are near, else exponential."""
    a = -high
    b = -low
    if (b - a) * a < 1.0 and b - a < 2.0:
        while True:
            z = a + (b - a) * rng.random()
            if math.log(1.0 - rng.random()) <= 0.5 * (a * a - z * z):
                return -z
    if a < 0.4:
        while True:
            z = abs(rng.standard_normal())
            if a <= z <= b:
                return -z
    rate = 0.5 * (a + math.sqrt(a * a + 4.0))
    while True:
        z = a + rng.standard_exponential() / rate
        if z <= b and math.log(1.0 - rng.random()) <= -0.5 * (z - rate) * (z - rate):
            return -z


def truncated_normal_draw(rng: Any, mean: float, sd: float, low: float, high: float) -> float:
    """A normal between two bounds."""
    if not sd > 0.0 or not low < high or math.isnan(mean):
        return math.nan
    z = mean + sd * standard_truncated_draw(rng, (low - mean) / sd, (high - mean) / sd)
    return min(max(z, low), high)


def half_normal_draw(rng: Any, sd: float) -> float:
    """s |e|."""
    if not sd > 0.0:
        return math.nan
    return sd * abs(rng.standard_normal())


def cauchy_draw(rng: Any, location: float, scale: float) -> float:
    """A ratio of two normals."""
    if not scale > 0.0:
        return math.nan
    below = rng.standard_normal()
    while below == 0.0:
        below = rng.standard_normal()
    return location + scale * rng.standard_normal() / below


def half_cauchy_draw(rng: Any, scale: float) -> float:
    """Its absolute value."""
    if not scale > 0.0:
        return math.nan
    return abs(cauchy_draw(rng, 0.0, scale))


def student_t_draw(rng: Any, df: float, location: float, scale: float) -> float:
    """A normal over the root of a gamma."""
    if not df > 0.0 or not scale > 0.0:
        return math.nan
    return location + scale * rng.standard_normal() / math.sqrt(max(gamma_draw(rng, 0.5 * df, 0.5 * df), TINY))


def laplace_draw(rng: Any, location: float, scale: float) -> float:
    """A difference of two exponentials."""
    if not scale > 0.0:
        return math.nan
    return location + scale * (rng.standard_exponential() - rng.standard_exponential())


def log_normal_draw(rng: Any, mean: float, sd: float) -> float:
    """exp of a normal."""
    if not sd > 0.0:
        return math.nan
    z = mean + sd * rng.standard_normal()
    if z > 709.0:
        return math.inf
    return math.exp(z)


def log_gamma_draw(rng: Any, shape: float) -> float:
    """ln of a gamma of rate 1, also where that is too small for a double: ln G(a) = ln G(a+1) + ln(U) / a."""
    if shape >= 0.3:
        return math.log(max(rng.standard_gamma(shape), TINY))
    return math.log(max(rng.standard_gamma(shape + 1.0), TINY)) + math.log(1.0 - rng.random()) / shape


def gamma_draw(rng: Any, shape: float, rate: float) -> float:
    """Shape and rate."""
    if not shape > 0.0 or not rate > 0.0 or shape == math.inf:
        return math.nan
    if shape >= 0.3:
        return max(rng.standard_gamma(shape) / rate, TINY)
    return max(math.exp(log_gamma_draw(rng, shape)) / rate, TINY)


def inverse_gamma_draw(rng: Any, shape: float, scale: float) -> float:
    """scale over a gamma."""
    if not shape > 0.0 or not scale > 0.0 or shape == math.inf:
        return math.nan
    return scale / max(gamma_draw(rng, shape, 1.0), TINY)


def exponential_draw(rng: Any, rate: float) -> float:
    """Over the rate."""
    if not rate > 0.0:
        return math.nan
    return rng.standard_exponential() / rate


def beta_draw(rng: Any, a: float, b: float) -> float:
    """From two gammas in logs where shapes are small: never exactly 0 or 1 unless a double cannot tell."""
    if not a > 0.0 or not b > 0.0 or a == math.inf or b == math.inf:
        return math.nan
    x = log_gamma_draw(rng, a)
    y = log_gamma_draw(rng, b)
    d = y - x
    if d > 700.0:
        return TINY
    p = 1.0 / (1.0 + math.exp(d))
    return min(max(p, TINY), 1.0 - 1.1102230246251565e-16)


def uniform_draw(rng: Any, low: float, high: float) -> float:
    """Between the bounds."""
    if not low < high:
        return math.nan
    return low + (high - low) * rng.random()


def bernoulli_draw(rng: Any, p: float) -> int:
    """1 with probability p."""
    if not 0.0 <= p <= 1.0:
        return -1
    if rng.random() < p:
        return 1
    return 0


def bernoulli_logit_draw(rng: Any, logit: float) -> int:
    """1 with probability 1 / (1 + exp(-logit))."""
    if math.isnan(logit):
        return -1
    if logit < -700.0:
        return 0
    if rng.random() < 1.0 / (1.0 + math.exp(-logit)):
        return 1
    return 0


def binomial_draw(rng: Any, n: int, p: float) -> int:
    """Successes of n trials."""
    if n < 0 or not 0.0 <= p <= 1.0:
        return -1
    if n == 0 or p == 0.0:
        return 0
    if p == 1.0:
        return n
    return int(rng.binomial(n, p))


def poisson_draw(rng: Any, rate: float) -> int:
    """A count of this mean."""
    if not 0.0 <= rate < 1e18:
        return -1
    if rate == 0.0:
        return 0
    return int(rng.poisson(rate))


def geometric_draw(rng: Any, p: float) -> int:
    """Failures before the first success, by inversion."""
    if not 0.0 < p <= 1.0:
        return -1
    if p == 1.0:
        return 0
    x = math.floor(math.log(1.0 - rng.random()) / math.log1p(-p))
    return int(min(x, 9e18))


def negative_binomial_draw(rng: Any, r: float, p: float) -> int:
    """A Poisson of a gamma."""
    if not r > 0.0 or not 0.0 < p <= 1.0:
        return -1
    if p == 1.0:
        return 0
    return poisson_draw(rng, gamma_draw(rng, r, p / (1.0 - p)))


def draw_weights(rng: Any, weights: Any) -> int:
    """Index in proportion to weights that need not add up to 1; -1 where none is positive."""
    total = 0.0
    for k in range(weights.shape[0]):
        total += weights[k]
    if not total > 0.0 or total == math.inf:
        return -1
    left = rng.random() * total
    last = -1
    for k in range(weights.shape[0]):
        if weights[k] > 0.0:
            last = k
            left -= weights[k]
            if left < 0.0:
                return k
    return last


def draw_log_weights(rng: Any, logs: Any) -> int:
    """Index in proportion to exp(logs), which are overwritten; -1 where none is finite."""
    top = -math.inf
    for k in range(logs.shape[0]):
        if math.isnan(logs[k]):
            return -1
        top = max(top, logs[k])
    if top == -math.inf or top == math.inf:
        return -1
    for k in range(logs.shape[0]):
        logs[k] = math.exp(logs[k] - top)
    return draw_weights(rng, logs)


def categorical_draw(rng: Any, p: Any) -> int:
    """A label; -1 for a row without mass."""
    return draw_weights(rng, p)


def dirichlet_draw(rng: Any, out: Any, alpha: Any) -> None:
    """Gammas over their sum; in logs where a shape is small."""
    n = alpha.shape[0]
    small = False
    for k in range(n):
        if not 0.0 < alpha[k] < math.inf:
            for j in range(n):
                out[j] = math.nan
            return
        if alpha[k] < 0.3:
            small = True
    total = 0.0
    if small:
        top = -math.inf
        for k in range(n):
            out[k] = log_gamma_draw(rng, alpha[k])
            top = max(top, out[k])
        for k in range(n):
            out[k] = max(math.exp(out[k] - top), TINY)
            total += out[k]
    else:
        for k in range(n):
            out[k] = max(rng.standard_gamma(alpha[k]), TINY)
            total += out[k]
    for k in range(n):
        out[k] /= total


def multinomial_draw(rng: Any, out: Any, n: int, p: Any) -> None:
    """One binomial after another."""
    mass = 0.0
    for k in range(p.shape[0]):
        mass += p[k]
        out[k] = 0
    if n < 0 or not mass > 0.0:
        for k in range(p.shape[0]):
            out[k] = -1
        return
    left = n
    for k in range(p.shape[0]):
        if left == 0:
            return
        share = 1.0
        if p[k] < mass:
            share = max(p[k] / mass, 0.0)
        if k == p.shape[0] - 1:
            share = 1.0
        out[k] = binomial_draw(rng, left, share)
        left -= out[k]
        mass -= p[k]


def multivariate_normal_draw(rng: Any, out: Any, mean: Any, covariance: Any) -> None:
    """m + L e."""
    n = mean.shape[0]
    factor = np.zeros((n, n))
    if cholesky(covariance, factor) != 0:
        for i in range(n):
            out[i] = math.nan
        return
    noise = np.empty(n)
    for i in range(n):
        noise[i] = rng.standard_normal()
    for i in range(n):
        value = mean[i]
        for k in range(i + 1):
            value += factor[i, k] * noise[k]
        out[i] = value

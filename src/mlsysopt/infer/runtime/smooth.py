"""Between the numbers of a model and the whole line: what gradients need beside the densities."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.runtime.basics import exp_or_inf, log_or_inf, logistic, ratio
from mlsysopt.infer.runtime.gaussian import inverse_root

__all__ = [
    "all_finite",
    "bernoulli_logit_both",
    "line_slopes",
    "log_stretch",
    "power_slope",
    "pull_of_normal",
    "simplex_from_line",
    "simplex_slopes",
    "simplex_to_line",
    "step_to_line",
]

Floats = NDArray[np.float64]


def all_finite(x: Floats) -> bool:
    """Whether no number is infinite or nan."""
    for i in range(x.shape[0]):  # noqa: SIM110 nopython mode has no generators in all()
        if not math.isfinite(x[i]):
            return False
    return True


def log_logistic(x: float) -> float:
    """Return log(1 / (1 + exp(-x))) without overflow."""
    if x >= 0.0:
        return -math.log1p(math.exp(-x))
    return x - math.log1p(math.exp(x))


def log_stretch(u: float, low: float, high: float) -> float:
    """Return the logarithm of the derivative of `from_line`."""
    if high == math.inf:
        if low == -math.inf:
            return 0.0
        return u
    if low == -math.inf:
        return -u
    return log_or_inf(high - low) - abs(u) - 2.0 * math.log1p(math.exp(-abs(u)))


def line_slopes(u: float, low: float, high: float, g: float) -> tuple[float, float, float]:
    """Return d/du, d/dlow and d/dhigh of a density of slope g at `from_line(u, low, high)`, plus `log_stretch`."""
    if high == math.inf:
        if low == -math.inf:
            return g, 0.0, 0.0
        return g * exp_or_inf(u) + 1.0, g, 0.0
    if low == -math.inf:
        return g * exp_or_inf(-u) - 1.0, 0.0, g
    share = logistic(u)
    width = high - low
    inverse = ratio(1.0, width)
    return g * width * share * (1.0 - share) + 1.0 - 2.0 * share, g * (1.0 - share) - inverse, g * share + inverse


def step_to_line(x: float, before: float) -> float:
    """Return the logarithm of a step up; of none, where a draw underflowed, that of a tiny one."""
    return math.log(max(x - before, 1e-300))


def power_slope(x: float, value: float) -> float:
    """Return d/dy of x ** y, which is `value`."""
    if x > 0.0:
        return value * math.log(x)
    return 0.0


def bernoulli_logit_both(x: int, logit: float) -> tuple[float, float, float]:
    """Return log density, d/dx and d/dlogit of BernoulliLogit from one exponential."""
    if x != 0 and x != 1:
        return -math.inf, 0.0, 0.0
    e = math.exp(-abs(logit))
    softplus = math.log1p(e)
    if logit >= 0.0:
        share = 1.0 / (1.0 + e)
        softplus += logit
    else:
        share = e / (1.0 + e)
    return x * logit - softplus, 0.0, x - share


def pull_of_normal(x: Floats, mean: Floats, covariance: Floats) -> Floats:
    """Return the covariance's inverse times x - mean: the slope by the mean."""
    root = inverse_root(covariance)
    size = x.shape[0]
    found = np.zeros(size)
    for i in range(size):
        part = 0.0
        for j in range(i + 1):
            part += root[i, j] * (x[j] - mean[j])
        for j in range(i + 1):
            found[j] += root[i, j] * part
    return found


def simplex_from_line(x: Floats, start: int, row: Floats) -> float:
    """Break a stick by x[start], x[start + 1] ... into a row; return the logarithm of the determinant.

    Number k of K takes `logistic(x - log(K - 1 - k))` of what is left, so that zeros give equal parts.
    """
    size = row.shape[0]
    left = 1.0
    total = 0.0
    for k in range(size - 1):
        rest = size - 1 - k
        at = x[start + k] - math.log(float(rest))
        row[k] = left * logistic(at)
        left = left * logistic(-at)
        total += log_logistic(at) + rest * log_logistic(-at)
    row[size - 1] = left
    return total


def simplex_to_line(row: Floats, x: Floats, start: int) -> int:
    """Write where `simplex_from_line` would have broken the stick; zeros of underflow are taken as tiny."""
    size = row.shape[0]
    left = row[size - 1]
    for k in range(size - 2, -1, -1):
        x[start + k] = math.log(max(row[k], 1e-300)) - math.log(max(left, 1e-300)) + math.log(float(size - 1 - k))
        left += row[k]
    return 0


def simplex_slopes(x: Floats, start: int, row: Floats, slopes: Floats, gradient: Floats) -> int:
    """Write the gradient by the breaks of a stick, of a density with these slopes by the row's numbers."""
    size = row.shape[0]
    left = slopes[size - 1]
    for k in range(size - 2, -1, -1):
        rest = size - 1 - k
        share = logistic(x[start + k] - math.log(float(rest)))
        other = 1.0 - share
        gradient[start + k] = row[k] * other * (slopes[k] - left) + other - rest * share
        left = share * slopes[k] + other * left
    return 0

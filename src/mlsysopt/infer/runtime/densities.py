"""Log densities and their gradients, one function each: `(x, *parameters)`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlsysopt.infer.runtime.numerics import HALF_LOG_TWO_PI, cholesky, digamma, lgamma, log_beta, log_between

LOG_PI = 1.1447298858494002
LOG_TWO = 0.6931471805599453


def normal_log(x: float, mean: float, sd: float) -> float:
    """-(x-m)^2 / 2s^2 - ln s - ln sqrt(2 pi)."""
    if not sd > 0.0:
        return math.nan
    z = (x - mean) / sd
    return -0.5 * z * z - math.log(sd) - HALF_LOG_TWO_PI


def normal_gradient(x: float, mean: float, sd: float) -> tuple[float, float, float]:
    """Derivatives by x, mean and sd."""
    z = (x - mean) / sd
    return -z / sd, z / sd, (z * z - 1.0) / sd


def normal_variance_log(x: float, mean: float, var: float) -> float:
    """-(x-m)^2 / 2v - ln v / 2 - ln sqrt(2 pi)."""
    if not var > 0.0:
        return math.nan
    d = x - mean
    return -0.5 * d * d / var - 0.5 * math.log(var) - HALF_LOG_TWO_PI


def normal_variance_gradient(x: float, mean: float, var: float) -> tuple[float, float, float]:
    """Derivatives by x, mean and variance."""
    d = x - mean
    return -d / var, d / var, 0.5 * (d * d / var - 1.0) / var


def normal_precision_log(x: float, mean: float, precision: float) -> float:
    """-p (x-m)^2 / 2 + ln p / 2 - ln sqrt(2 pi)."""
    if not precision > 0.0:
        return math.nan
    d = x - mean
    return -0.5 * d * d * precision + 0.5 * math.log(precision) - HALF_LOG_TWO_PI


def normal_precision_gradient(x: float, mean: float, precision: float) -> tuple[float, float, float]:
    """Derivatives by x, mean and precision."""
    d = x - mean
    return -d * precision, d * precision, 0.5 / precision - 0.5 * d * d


def truncated_normal_log(x: float, mean: float, sd: float, low: float, high: float) -> float:
    """Normal over the mass between the bounds."""
    if not sd > 0.0 or not low < high:
        return math.nan
    if not low <= x <= high:
        return -math.inf
    z = (x - mean) / sd
    return -0.5 * z * z - math.log(sd) - HALF_LOG_TWO_PI - log_between((low - mean) / sd, (high - mean) / sd)


def truncated_normal_gradient(
    x: float, mean: float, sd: float, low: float, high: float
) -> tuple[float, float, float, float, float]:
    """Derivatives by x, mean, sd and the bounds."""
    z = (x - mean) / sd
    mass = log_between((low - mean) / sd, (high - mean) / sd)
    at_low = 0.0
    at_high = 0.0
    by_sd = 0.0
    if low != -math.inf:
        a = (low - mean) / sd
        at_low = math.exp(-0.5 * a * a - HALF_LOG_TWO_PI - mass)
        by_sd += a * at_low
    if high != math.inf:
        b = (high - mean) / sd
        at_high = math.exp(-0.5 * b * b - HALF_LOG_TWO_PI - mass)
        by_sd -= b * at_high
    return -z / sd, (z - at_low + at_high) / sd, (z * z - 1.0 - by_sd) / sd, at_low / sd, -at_high / sd


def half_normal_log(x: float, sd: float) -> float:
    """Twice the normal, above 0."""
    if not sd > 0.0:
        return math.nan
    if x < 0.0:
        return -math.inf
    z = x / sd
    return LOG_TWO - 0.5 * z * z - math.log(sd) - HALF_LOG_TWO_PI


def half_normal_gradient(x: float, sd: float) -> tuple[float, float]:
    """Derivatives by x and sd."""
    z = x / sd
    return -z / sd, (z * z - 1.0) / sd


def cauchy_log(x: float, location: float, scale: float) -> float:
    """-ln(pi s (1 + z^2))."""
    if not scale > 0.0:
        return math.nan
    z = (x - location) / scale
    return -LOG_PI - math.log(scale) - math.log1p(z * z)


def cauchy_gradient(x: float, location: float, scale: float) -> tuple[float, float, float]:
    """Derivatives by x, location and scale."""
    z = (x - location) / scale
    slope = 2.0 * z / (1.0 + z * z)
    return -slope / scale, slope / scale, (z * slope - 1.0) / scale


def half_cauchy_log(x: float, scale: float) -> float:
    """Twice the Cauchy, above 0."""
    if not scale > 0.0:
        return math.nan
    if x < 0.0:
        return -math.inf
    z = x / scale
    return LOG_TWO - LOG_PI - math.log(scale) - math.log1p(z * z)


def half_cauchy_gradient(x: float, scale: float) -> tuple[float, float]:
    """Derivatives by x and scale."""
    z = x / scale
    slope = 2.0 * z / (1.0 + z * z)
    return -slope / scale, (z * slope - 1.0) / scale


def student_t_log(x: float, df: float, location: float, scale: float) -> float:
    """Student's t of a location and scale."""
    if not df > 0.0 or not scale > 0.0:
        return math.nan
    z = (x - location) / scale
    head = lgamma(0.5 * (df + 1.0)) - lgamma(0.5 * df) - 0.5 * (LOG_PI + math.log(df)) - math.log(scale)
    return head - 0.5 * (df + 1.0) * math.log1p(z * z / df)


def student_t_gradient(x: float, df: float, location: float, scale: float) -> tuple[float, float, float, float]:
    """Derivatives by x, df, location and scale."""
    z = (x - location) / scale
    q = z * z / df
    slope = (df + 1.0) * z / df / (1.0 + q)
    by_df = 0.5 * (digamma(0.5 * (df + 1.0)) - digamma(0.5 * df) - 1.0 / df - math.log1p(q)) + 0.5 * (
        df + 1.0
    ) * q / df / (1.0 + q)
    return -slope / scale, by_df, slope / scale, (z * slope - 1.0) / scale


def laplace_log(x: float, location: float, scale: float) -> float:
    """-|x - m| / s - ln 2s."""
    if not scale > 0.0:
        return math.nan
    return -abs(x - location) / scale - LOG_TWO - math.log(scale)


def laplace_gradient(x: float, location: float, scale: float) -> tuple[float, float, float]:
    """Derivatives by x, location and scale."""
    sign = 0.0
    if x > location:
        sign = 1.0
    if x < location:
        sign = -1.0
    return -sign / scale, sign / scale, (abs(x - location) / scale - 1.0) / scale


def log_normal_log(x: float, mean: float, sd: float) -> float:
    """Normal of ln x, over x."""
    if not sd > 0.0:
        return math.nan
    if not x > 0.0:
        return -math.inf
    log = math.log(x)
    z = (log - mean) / sd
    return -0.5 * z * z - math.log(sd) - HALF_LOG_TWO_PI - log


def log_normal_gradient(x: float, mean: float, sd: float) -> tuple[float, float, float]:
    """Derivatives by x, mean and sd."""
    z = (math.log(x) - mean) / sd
    return -(z / sd + 1.0) / x, z / sd, (z * z - 1.0) / sd


def gamma_log(x: float, shape: float, rate: float) -> float:
    """a ln b + (a-1) ln x - b x - ln Gamma(a)."""
    if not shape > 0.0 or not rate > 0.0:
        return math.nan
    if not x > 0.0:
        return -math.inf
    return shape * math.log(rate) + (shape - 1.0) * math.log(x) - rate * x - lgamma(shape)


def gamma_gradient(x: float, shape: float, rate: float) -> tuple[float, float, float]:
    """Derivatives by x, shape and rate."""
    return (shape - 1.0) / x - rate, math.log(rate) + math.log(x) - digamma(shape), shape / rate - x


def inverse_gamma_log(x: float, shape: float, scale: float) -> float:
    """a ln b - (a+1) ln x - b / x - ln Gamma(a)."""
    if not shape > 0.0 or not scale > 0.0:
        return math.nan
    if not x > 0.0:
        return -math.inf
    return shape * math.log(scale) - (shape + 1.0) * math.log(x) - scale / x - lgamma(shape)


def inverse_gamma_gradient(x: float, shape: float, scale: float) -> tuple[float, float, float]:
    """Derivatives by x, shape and scale."""
    return (scale / x - shape - 1.0) / x, math.log(scale) - math.log(x) - digamma(shape), shape / scale - 1.0 / x


def exponential_log(x: float, rate: float) -> float:
    """ln b - b x."""
    if not rate > 0.0:
        return math.nan
    if x < 0.0:
        return -math.inf
    return math.log(rate) - rate * x


def exponential_gradient(x: float, rate: float) -> tuple[float, float]:
    """Derivatives by x and rate."""
    return -rate, 1.0 / rate - x


def beta_log(x: float, a: float, b: float) -> float:
    """(a-1) ln x + (b-1) ln(1-x) - ln B(a, b)."""
    if not a > 0.0 or not b > 0.0:
        return math.nan
    if not 0.0 < x < 1.0:
        return -math.inf
    return (a - 1.0) * math.log(x) + (b - 1.0) * math.log1p(-x) - log_beta(a, b)


def beta_gradient(x: float, a: float, b: float) -> tuple[float, float, float]:
    """Derivatives by x, a and b."""
    both = digamma(a + b)
    return (a - 1.0) / x - (b - 1.0) / (1.0 - x), math.log(x) - digamma(a) + both, math.log1p(-x) - digamma(b) + both


def uniform_log(x: float, low: float, high: float) -> float:
    """-ln(high - low)."""
    if not low < high:
        return math.nan
    if not low <= x <= high:
        return -math.inf
    return -math.log(high - low)


def uniform_gradient(x: float, low: float, high: float) -> tuple[float, float, float]:
    """Derivatives by x and the bounds."""
    return 0.0, 1.0 / (high - low), -1.0 / (high - low)


def flat_log(x: float) -> float:
    """0 everywhere."""
    return 0.0 * x


def flat_gradient(x: float) -> tuple[float]:
    """0 everywhere."""
    return (0.0 * x,)


def half_flat_log(x: float) -> float:
    """0 above 0."""
    if x > 0.0:
        return 0.0
    return -math.inf


def bernoulli_log(x: int, p: float) -> float:
    """ln p of 1, ln(1-p) of 0."""
    if not 0.0 <= p <= 1.0:
        return math.nan
    if x == 1 and p > 0.0:
        return math.log(p)
    if x == 0 and p < 1.0:
        return math.log1p(-p)
    return -math.inf


def bernoulli_gradient(x: int, p: float) -> tuple[float, float]:
    """Derivative by p."""
    if x == 1:
        return 0.0, 1.0 / p
    return 0.0, -1.0 / (1.0 - p)


def bernoulli_logit_log(x: int, logit: float) -> float:
    """-ln(1 + exp(-logit)) of 1, -ln(1 + exp(logit)) of 0."""
    if x != 0 and x != 1:
        return -math.inf
    if x == 1:
        logit = -logit
    if logit > 0.0:
        return -logit - math.log1p(math.exp(-logit))
    return -math.log1p(math.exp(logit))


def bernoulli_logit_gradient(x: int, logit: float) -> tuple[float, float]:
    """Derivative by the logit: x - p."""
    if logit >= 0.0:
        return 0.0, x - 1.0 / (1.0 + math.exp(-logit))
    e = math.exp(logit)
    return 0.0, x - e / (1.0 + e)


def binomial_log(x: int, n: int, p: float) -> float:
    """ln C(n, x) + x ln p + (n-x) ln(1-p)."""
    if n < 0 or not 0.0 <= p <= 1.0:
        return math.nan
    if x < 0 or x > n:
        return -math.inf
    total = lgamma(n + 1.0) - lgamma(x + 1.0) - lgamma(n - x + 1.0)
    if x > 0:
        if p == 0.0:
            return -math.inf
        total += x * math.log(p)
    if x < n:
        if p == 1.0:
            return -math.inf
        total += (n - x) * math.log1p(-p)
    return total


def binomial_gradient(x: int, n: int, p: float) -> tuple[float, float, float]:
    """Derivative by p."""
    return 0.0, 0.0, (x - n * p) / (p * (1.0 - p))


def poisson_log(x: int, rate: float) -> float:
    """x ln r - r - ln x!."""
    if not rate >= 0.0:
        return math.nan
    if x < 0:
        return -math.inf
    if rate == 0.0:
        if x == 0:
            return 0.0
        return -math.inf
    return x * math.log(rate) - rate - lgamma(x + 1.0)


def poisson_gradient(x: int, rate: float) -> tuple[float, float]:
    """Derivative by the rate."""
    return 0.0, x / rate - 1.0


def geometric_log(x: int, p: float) -> float:
    """ln p + x ln(1-p)."""
    if not 0.0 < p <= 1.0:
        return math.nan
    if x < 0:
        return -math.inf
    if p == 1.0:
        if x == 0:
            return 0.0
        return -math.inf
    return math.log(p) + x * math.log1p(-p)


def geometric_gradient(x: int, p: float) -> tuple[float, float]:
    """Derivative by p."""
    return 0.0, 1.0 / p - x / (1.0 - p)


def negative_binomial_log(x: int, r: float, p: float) -> float:
    """ln Gamma(x+r) - ln Gamma(r) - ln x! + r ln p + x ln(1-p)."""
    if not r > 0.0 or not 0.0 < p <= 1.0:
        return math.nan
    if x < 0:
        return -math.inf
    if p == 1.0:
        if x == 0:
            return 0.0
        return -math.inf
    return lgamma(x + r) - lgamma(r) - lgamma(x + 1.0) + r * math.log(p) + x * math.log1p(-p)


def negative_binomial_gradient(x: int, r: float, p: float) -> tuple[float, float, float]:
    """Derivatives by r and p."""
    return 0.0, digamma(x + r) - digamma(r) + math.log(p), r / p - x / (1.0 - p)


def categorical_log(x: int, p: Any) -> float:
    """ln p[x]."""
    if x < 0 or x >= p.shape[0]:
        return -math.inf
    if p[x] > 0.0:
        return math.log(p[x])
    if p[x] == 0.0:
        return -math.inf
    return math.nan


def dirichlet_log(x: Any, alpha: Any) -> float:
    """sum (a-1) ln x - ln B(a)."""
    total = 0.0
    mass = 0.0
    for k in range(alpha.shape[0]):
        if not alpha[k] > 0.0:
            return math.nan
        mass += alpha[k]
        if x[k] < 0.0:
            return -math.inf
        if alpha[k] != 1.0:
            if x[k] == 0.0:
                if alpha[k] > 1.0:
                    return -math.inf
                return math.inf
            total += (alpha[k] - 1.0) * math.log(x[k])
        total -= lgamma(alpha[k])
    return total + lgamma(mass)


def multinomial_log(x: Any, n: int, p: Any) -> float:
    """ln n! + sum (x ln p - ln x!)."""
    if n < 0:
        return math.nan
    left = n
    total = lgamma(n + 1.0)
    for k in range(p.shape[0]):
        if x[k] < 0:
            return -math.inf
        left -= x[k]
        if x[k] > 0:
            if not p[k] > 0.0:
                return -math.inf
            total += x[k] * math.log(p[k]) - lgamma(x[k] + 1.0)
    if left != 0:
        return -math.inf
    return total


def multivariate_normal_log(x: Any, mean: Any, covariance: Any) -> float:
    """By the Cholesky factor of the covariance."""
    n = mean.shape[0]
    factor = np.zeros((n, n))
    if cholesky(covariance, factor) != 0:
        return math.nan
    solved = np.empty(n)
    total = -n * HALF_LOG_TWO_PI
    for i in range(n):
        value = x[i] - mean[i]
        for k in range(i):
            value -= factor[i, k] * solved[k]
        solved[i] = value / factor[i, i]
        total -= 0.5 * solved[i] * solved[i] + math.log(factor[i, i])
    return total

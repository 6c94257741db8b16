"""Log densities and their gradients: `(x, *parameters)`, -inf outside of the support, nan for parameters not allowed.

Arguments are taken by `float` where they are divided or multiplied first: the scalars of NumPy warn of what overflows,
and whole numbers would wrap around. At the end of a support where a density would be infinite it counts as 0.
A gradient is nan wherever there is no density. Formulas are those of Johnson, Kotz and Balakrishnan, Continuous
Univariate Distributions, and Johnson, Kemp and Kotz, Univariate Discrete Distributions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.runtime.basics import exp_or_inf, logistic
from mlsysopt.infer.runtime.numerics import (
    HALF_LOG_TWO_PI,
    SIMPLEX_TOLERANCE,
    cholesky,
    digamma,
    is_count,
    is_positive,
    is_real,
    is_simplex,
    log1p_exp,
    log1p_square,
    log_beta,
    log_choose,
    log_gamma,
    log_gamma_ratio,
    normal_log_tail_mass,
    normal_within,
    solve_lower,
    square_pull,
    times_log,
    times_log1p,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOG_TWO = 0.6931471805599453
LOG_PI = 1.1447298858494002


# The real line.


def normal_log_density(x: float, mean: float, sd: float) -> float:
    """-z^2 / 2 - log(sd sqrt(2 pi)), z = (x - mean) / sd."""
    if not (is_real(mean) and is_positive(sd)):
        return math.nan
    z = (float(x) - float(mean)) / float(sd)
    return -0.5 * z * z - math.log(sd) - HALF_LOG_TWO_PI


def normal_gradient(x: float, mean: float, sd: float) -> tuple[float, float, float]:
    """-z / sd, z / sd, (z^2 - 1) / sd."""
    if not (is_real(mean) and is_positive(sd)):
        return math.nan, math.nan, math.nan
    z = (float(x) - float(mean)) / float(sd)
    pull = z / float(sd)
    return -pull, pull, z * pull - 1.0 / float(sd)


def normal_variance_log_density(x: float, mean: float, var: float) -> float:
    """-(x - mean)^2 / (2 var) - log(2 pi var) / 2."""
    if not (is_real(mean) and is_positive(var)):
        return math.nan
    d = float(x) - float(mean)
    return -0.5 * d * (d / float(var)) - 0.5 * math.log(var) - HALF_LOG_TWO_PI


def normal_variance_gradient(x: float, mean: float, var: float) -> tuple[float, float, float]:
    """-d / var, d / var, (d^2 / var - 1) / (2 var), d = x - mean."""
    if not (is_real(mean) and is_positive(var)):
        return math.nan, math.nan, math.nan
    d = float(x) - float(mean)
    pull = d / float(var)
    return -pull, pull, 0.5 * (pull * pull - 1.0 / float(var))


def normal_precision_log_density(x: float, mean: float, precision: float) -> float:
    """-precision (x - mean)^2 / 2 + log(precision / (2 pi)) / 2."""
    if not (is_real(mean) and is_positive(precision)):
        return math.nan
    d = float(x) - float(mean)
    return -0.5 * d * (d * float(precision)) + 0.5 * math.log(precision) - HALF_LOG_TWO_PI


def normal_precision_gradient(x: float, mean: float, precision: float) -> tuple[float, float, float]:
    """-d precision, d precision, (1 / precision - d^2) / 2, d = x - mean."""
    if not (is_real(mean) and is_positive(precision)):
        return math.nan, math.nan, math.nan
    d = float(x) - float(mean)
    pull = d * float(precision)
    return -pull, pull, 0.5 * (1.0 / float(precision) - d * d)


def cauchy_log_density(x: float, location: float, scale: float) -> float:
    """-log(pi scale (1 + z^2)), z = (x - location) / scale."""
    if not (is_real(location) and is_positive(scale)):
        return math.nan
    return -LOG_PI - math.log(scale) - log1p_square((float(x) - float(location)) / float(scale))


def cauchy_gradient(x: float, location: float, scale: float) -> tuple[float, float, float]:
    """-2 q / scale, 2 q / scale, (2 z q - 1) / scale, q = z / (1 + z^2)."""
    if not (is_real(location) and is_positive(scale)):
        return math.nan, math.nan, math.nan
    z = (float(x) - float(location)) / float(scale)
    pull = 2.0 * square_pull(z)
    return -pull / float(scale), pull / float(scale), (z * pull - 1.0) / float(scale)


def student_t_log_density(x: float, df: float, location: float, scale: float) -> float:
    """log(Gamma((df + 1) / 2) / (Gamma(df / 2) sqrt(pi df) scale)) - (df + 1) / 2 log(1 + z^2 / df)."""
    if not (is_positive(df) and is_real(location) and is_positive(scale)):
        return math.nan
    z = (float(x) - float(location)) / float(scale)
    constant = log_gamma_ratio(0.5 * df, 0.5) - 0.5 * (LOG_PI + math.log(df)) - math.log(scale)
    return constant - 0.5 * (df + 1.0) * log1p_square(z / math.sqrt(df))


def student_t_gradient(x: float, df: float, location: float, scale: float) -> tuple[float, float, float, float]:
    """By x, df, location and scale, with w = z / sqrt(df) and q = w / (1 + w^2)."""
    if not (is_positive(df) and is_real(location) and is_positive(scale)):
        return math.nan, math.nan, math.nan, math.nan
    root = math.sqrt(df)
    w = (float(x) - float(location)) / float(scale) / root
    most = float(df) + 1.0
    share = most * (w * square_pull(w))
    pull = most * square_pull(w) / root
    by_df = digamma(0.5 * most) - digamma(0.5 * df) - log1p_square(w) + (share - 1.0) / float(df)
    return -pull / float(scale), 0.5 * by_df, pull / float(scale), (share - 1.0) / float(scale)


def laplace_log_density(x: float, location: float, scale: float) -> float:
    """-|x - location| / scale - log(2 scale)."""
    if not (is_real(location) and is_positive(scale)):
        return math.nan
    return -abs(float(x) - float(location)) / float(scale) - LOG_TWO - math.log(scale)


def laplace_gradient(x: float, location: float, scale: float) -> tuple[float, float, float]:
    """-sign / scale, sign / scale, (|x - location| / scale - 1) / scale; 0 by x at the location itself."""
    if not (is_real(location) and is_positive(scale)):
        return math.nan, math.nan, math.nan
    d = float(x) - float(location)
    pull = 0.0
    if d > 0.0:
        pull = 1.0 / float(scale)
    elif d < 0.0:
        pull = -1.0 / float(scale)
    return -pull, pull, (abs(d) / float(scale) - 1.0) / float(scale)


def flat_log_density(x: float) -> float:
    """0 for every number."""
    if is_real(x):
        return 0.0
    return -math.inf


def flat_gradient(x: float) -> tuple[float]:
    """0."""
    if is_real(x):
        return (0.0,)
    return (math.nan,)


# Above 0.


def half_flat_log_density(x: float) -> float:
    """0 for every number above 0."""
    if is_positive(x):
        return 0.0
    return -math.inf


def half_flat_gradient(x: float) -> tuple[float]:
    """0."""
    if is_positive(x):
        return (0.0,)
    return (math.nan,)


def half_normal_log_density(x: float, sd: float) -> float:
    """Twice the normal density."""
    if not is_positive(sd):
        return math.nan
    if not x >= 0.0:
        return -math.inf
    z = float(x) / float(sd)
    return -0.5 * z * z - math.log(sd) + (LOG_TWO - HALF_LOG_TWO_PI)


def half_normal_gradient(x: float, sd: float) -> tuple[float, float]:
    """-z / sd, (z^2 - 1) / sd."""
    if not (x >= 0.0 and is_positive(sd)):
        return math.nan, math.nan
    z = float(x) / float(sd)
    return -z / float(sd), (z * z - 1.0) / float(sd)


def half_cauchy_log_density(x: float, scale: float) -> float:
    """Twice the Cauchy density."""
    if not is_positive(scale):
        return math.nan
    if not x >= 0.0:
        return -math.inf
    return LOG_TWO - LOG_PI - math.log(scale) - log1p_square(float(x) / float(scale))


def half_cauchy_gradient(x: float, scale: float) -> tuple[float, float]:
    """-2 q / scale, (2 z q - 1) / scale, q = z / (1 + z^2)."""
    if not (x >= 0.0 and is_positive(scale)):
        return math.nan, math.nan
    z = float(x) / float(scale)
    pull = 2.0 * square_pull(z)
    return -pull / float(scale), (z * pull - 1.0) / float(scale)


def log_normal_log_density(x: float, mean: float, sd: float) -> float:
    """Normal density of log x, over x."""
    if not (is_real(mean) and is_positive(sd)):
        return math.nan
    if not x > 0.0:
        return -math.inf
    y = math.log(x)
    z = (y - float(mean)) / float(sd)
    return -0.5 * z * z - y - math.log(sd) - HALF_LOG_TWO_PI


def log_normal_gradient(x: float, mean: float, sd: float) -> tuple[float, float, float]:
    """-(1 + z / sd) / x, z / sd, (z^2 - 1) / sd, z = (log x - mean) / sd."""
    if not (x > 0.0 and is_real(mean) and is_positive(sd)):
        return math.nan, math.nan, math.nan
    z = (math.log(x) - float(mean)) / float(sd)
    pull = z / float(sd)
    return -(1.0 + pull) / float(x), pull, z * pull - 1.0 / float(sd)


def gamma_log_density(x: float, shape: float, rate: float) -> float:
    """shape log(rate) - log Gamma(shape) + (shape - 1) log x - rate x."""
    if not (is_positive(shape) and is_positive(rate)):
        return math.nan
    if not (x >= 0.0 and x < math.inf):
        return -math.inf
    return shape * math.log(rate) - log_gamma(shape) + times_log(shape - 1.0, x) - float(rate) * float(x)


def gamma_gradient(x: float, shape: float, rate: float) -> tuple[float, float, float]:
    """(shape - 1) / x - rate, log(rate x) - digamma(shape), shape / rate - x."""
    if not (x > 0.0 and is_positive(shape) and is_positive(rate)):
        return math.nan, math.nan, math.nan
    by_shape = math.log(rate) + math.log(x) - digamma(shape)
    return (float(shape) - 1.0) / float(x) - float(rate), by_shape, float(shape) / float(rate) - float(x)


def inverse_gamma_log_density(x: float, shape: float, scale: float) -> float:
    """shape log(scale) - log Gamma(shape) - (shape + 1) log x - scale / x."""
    if not (is_positive(shape) and is_positive(scale)):
        return math.nan
    if not x > 0.0:
        return -math.inf
    return shape * math.log(scale) - log_gamma(shape) - (shape + 1.0) * math.log(x) - float(scale) / float(x)


def inverse_gamma_gradient(x: float, shape: float, scale: float) -> tuple[float, float, float]:
    """(scale / x - shape - 1) / x, log(scale / x) - digamma(shape), shape / scale - 1 / x."""
    if not (x > 0.0 and is_positive(shape) and is_positive(scale)):
        return math.nan, math.nan, math.nan
    y = 1.0 / float(x)
    by_shape = math.log(scale) - math.log(x) - digamma(shape)
    return (float(scale) * y - float(shape) - 1.0) * y, by_shape, float(shape) / float(scale) - y


def exponential_log_density(x: float, rate: float) -> float:
    """log(rate) - rate x."""
    if not is_positive(rate):
        return math.nan
    if not x >= 0.0:
        return -math.inf
    return math.log(rate) - float(rate) * float(x)


def exponential_gradient(x: float, rate: float) -> tuple[float, float]:
    """-rate, 1 / rate - x."""
    if not (x >= 0.0 and is_positive(rate)):
        return math.nan, math.nan
    return -float(rate), 1.0 / float(rate) - float(x)


# Between two ends.


def beta_log_density(x: float, a: float, b: float) -> float:
    """(a - 1) log x + (b - 1) log(1 - x) - log B(a, b)."""
    if not (is_positive(a) and is_positive(b)):
        return math.nan
    if not (x >= 0.0 and x <= 1.0):
        return -math.inf
    return times_log(a - 1.0, x) + times_log1p(b - 1.0, -x) - log_beta(a, b)


def beta_gradient(x: float, a: float, b: float) -> tuple[float, float, float]:
    """(a - 1) / x - (b - 1) / (1 - x); by a: log x - digamma(a) + digamma(a + b); by b as by a, of 1 - x."""
    if not (x > 0.0 and x < 1.0 and is_positive(a) and is_positive(b)):
        return math.nan, math.nan, math.nan
    both = digamma(a + b)
    by_x = (float(a) - 1.0) / float(x) - (float(b) - 1.0) / (1.0 - float(x))
    return by_x, math.log(x) - digamma(a) + both, math.log1p(-x) - digamma(b) + both


def uniform_log_density(x: float, low: float, high: float) -> float:
    """-log(high - low)."""
    width = float(high) - float(low)
    if not is_positive(width):
        return math.nan
    if not (x >= low and x <= high):
        return -math.inf
    return -math.log(width)


def uniform_gradient(x: float, low: float, high: float) -> tuple[float, float, float]:
    """0, 1 / (high - low), -1 / (high - low)."""
    width = float(high) - float(low)
    if not (is_positive(width) and x >= low and x <= high):
        return math.nan, math.nan, math.nan
    return 0.0, 1.0 / width, -1.0 / width


def uniform_bounds(low: float, high: float) -> tuple[float, float]:
    """Its two ends."""
    return float(low), float(high)


def truncated_normal_log_density(x: float, mean: float, sd: float, low: float, high: float) -> float:
    """Normal density over its mass between the ends; in a tail both are taken relative to the nearer end."""
    if not (is_real(mean) and is_positive(sd) and low < high):
        return math.nan
    if not (x >= low and x <= high):
        return -math.inf
    scale = float(sd)
    a = (float(low) - float(mean)) / scale
    b = (float(high) - float(mean)) / scale
    if a > 0.0:
        t = (float(x) - float(low)) / scale
        return -t * (a + 0.5 * t) - math.log(sd) - normal_log_tail_mass(a, (float(high) - float(low)) / scale)
    if b < 0.0:
        t = (float(high) - float(x)) / scale
        return -t * (0.5 * t - b) - math.log(sd) - normal_log_tail_mass(-b, (float(high) - float(low)) / scale)
    z = (float(x) - float(mean)) / scale
    return -0.5 * z * z - math.log(sd) - HALF_LOG_TWO_PI - normal_within(a, b)


def truncated_normal_gradient(
    x: float, mean: float, sd: float, low: float, high: float
) -> tuple[float, float, float, float, float]:
    """By x, mean, sd and the ends; d and e are the densities of the standard normal at them, over its mass between."""
    if not (is_real(mean) and is_positive(sd) and low < high and x >= low and x <= high):
        return math.nan, math.nan, math.nan, math.nan, math.nan
    scale = float(sd)
    a = (float(low) - float(mean)) / scale
    b = (float(high) - float(mean)) / scale
    z = (float(x) - float(mean)) / scale
    d = 0.0
    e = 0.0
    width = (float(high) - float(low)) / scale
    if a > 0.0:
        mass = normal_log_tail_mass(a, width)
        d = exp_or_inf(-mass)
        e = exp_or_inf(-width * (a + 0.5 * width) - mass)
    elif b < 0.0:
        mass = normal_log_tail_mass(-b, width)
        d = exp_or_inf(-width * (0.5 * width - b) - mass)
        e = exp_or_inf(-mass)
    else:
        mass = normal_within(a, b) + HALF_LOG_TWO_PI
        d = exp_or_inf(-0.5 * a * a - mass)
        e = exp_or_inf(-0.5 * b * b - mass)
    moment = 0.0
    if d > 0.0:
        moment += a * d
    if e > 0.0:
        moment -= b * e
    return -z / scale, (z - d + e) / scale, (z * z - 1.0 - moment) / scale, d / scale, -e / scale


def truncated_normal_bounds(mean: float, sd: float, low: float, high: float) -> tuple[float, float]:
    """Its two ends."""
    return float(low), float(high)


# Whole numbers.


def bernoulli_log_density(x: int, p: float) -> float:
    """log p of 1, log(1 - p) of 0."""
    if not (p >= 0.0 and p <= 1.0):
        return math.nan
    if x == 1:
        return times_log(1.0, p)
    if x == 0:
        return times_log1p(1.0, -p)
    return -math.inf


def bernoulli_gradient(x: int, p: float) -> tuple[float, float]:
    """By p: 1 / p of 1, -1 / (1 - p) of 0."""
    if x == 1 and p > 0.0 and p <= 1.0:
        return 0.0, 1.0 / float(p)
    if x == 0 and p >= 0.0 and p < 1.0:
        return 0.0, -1.0 / (1.0 - p)
    return math.nan, math.nan


def bernoulli_states(p: float) -> int:
    """0 and 1."""
    return 2


def bernoulli_logit_log_density(x: int, logit: float) -> float:
    """-log(1 + exp(-logit)) of 1, -log(1 + exp(logit)) of 0."""
    if math.isnan(logit):
        return math.nan
    if x == 1:
        return -log1p_exp(-logit)
    if x == 0:
        return -log1p_exp(logit)
    return -math.inf


def bernoulli_logit_gradient(x: int, logit: float) -> tuple[float, float]:
    """By the logit: x - p."""
    if x == 1:
        return 0.0, logistic(-logit)
    if x == 0:
        return 0.0, -logistic(logit)
    return math.nan, math.nan


def bernoulli_logit_states(logit: float) -> int:
    """0 and 1."""
    return 2


def binomial_log_density(x: int, n: int, p: float) -> float:
    """log(n over x) + x log p + (n - x) log(1 - p)."""
    if not (is_count(n) and p >= 0.0 and p <= 1.0):
        return math.nan
    if not (is_count(x) and x <= n):
        return -math.inf
    return log_choose(float(n), float(x)) + times_log(float(x), p) + times_log1p(float(n - x), -p)


def binomial_gradient(x: int, n: int, p: float) -> tuple[float, float, float]:
    """By p: x / p - (n - x) / (1 - p)."""
    if not (is_count(n) and p >= 0.0 and p <= 1.0 and is_count(x) and x <= n):
        return math.nan, math.nan, math.nan
    if (p == 0.0 and x > 0) or (p == 1.0 and x < n):
        return math.nan, math.nan, math.nan
    slope = 0.0
    if x > 0:
        slope += float(x) / float(p)
    if x < n:
        slope -= float(n - x) / (1.0 - p)
    return 0.0, 0.0, slope


def binomial_states(n: int, p: float) -> int:
    """0 ... n."""
    return int(n) + 1


def poisson_log_density(x: int, rate: float) -> float:
    """x log(rate) - rate - log x!."""
    if not (rate >= 0.0 and rate < math.inf):
        return math.nan
    if not is_count(x):
        return -math.inf
    return times_log(float(x), rate) - rate - log_gamma(x + 1.0)


def poisson_gradient(x: int, rate: float) -> tuple[float, float]:
    """By the rate: x / rate - 1."""
    if not (is_count(x) and rate >= 0.0 and rate < math.inf):
        return math.nan, math.nan
    if rate > 0.0:
        return 0.0, float(x) / float(rate) - 1.0
    if x > 0:
        return math.nan, math.nan
    return 0.0, -1.0


def geometric_log_density(x: int, p: float) -> float:
    """log p + x log(1 - p)."""
    if not (p > 0.0 and p <= 1.0):
        return math.nan
    if not is_count(x):
        return -math.inf
    return math.log(p) + times_log1p(float(x), -p)


def geometric_gradient(x: int, p: float) -> tuple[float, float]:
    """By p: 1 / p - x / (1 - p)."""
    if not (is_count(x) and p > 0.0 and p <= 1.0):
        return math.nan, math.nan
    if p < 1.0:
        return 0.0, 1.0 / float(p) - float(x) / (1.0 - p)
    if x > 0:
        return math.nan, math.nan
    return 0.0, 1.0


def negative_binomial_log_density(x: int, r: float, p: float) -> float:
    """log(Gamma(x + r) / (Gamma(r) x!)) + r log p + x log(1 - p); the first is 1 / ((x + r) B(r, x + 1))."""
    if not (is_positive(r) and p > 0.0 and p <= 1.0):
        return math.nan
    if not is_count(x):
        return -math.inf
    return r * math.log(p) + times_log1p(float(x), -p) - log_beta(float(r), x + 1.0) - math.log(x + r)


def negative_binomial_gradient(x: int, r: float, p: float) -> tuple[float, float, float]:
    """By r: digamma(x + r) - digamma(r) + log p; by p: r / p - x / (1 - p)."""
    if not (is_count(x) and is_positive(r) and p > 0.0 and p <= 1.0):
        return math.nan, math.nan, math.nan
    by_r = digamma(float(x) + r) - digamma(r) + math.log(p)
    if p < 1.0:
        return 0.0, by_r, float(r) / float(p) - float(x) / (1.0 - p)
    if x > 0:
        return math.nan, math.nan, math.nan
    return 0.0, by_r, float(r)


def categorical_log_density(x: int, p: Floats) -> float:
    """log p[x]."""
    if not is_simplex(p):
        return math.nan
    if not (is_count(x) and x < p.shape[0]):
        return -math.inf
    return times_log(1.0, p[int(x)])


def categorical_states(p: Floats) -> int:
    """As many as probabilities."""
    return p.shape[0]


# Vectors.


def dirichlet_log_density(x: Floats, alpha: Floats) -> float:
    """log Gamma(sum alpha) + sum((alpha - 1) log x - log Gamma(alpha))."""
    total = 0.0
    mass = 0.0
    found = 0.0
    once = 0.0
    outside = x.shape[0] != alpha.shape[0]
    for k in range(alpha.shape[0]):
        if not is_positive(alpha[k]):
            return math.nan
        mass += alpha[k]
        # Shapes of a row are mostly equal, and log_gamma is most of the cost.
        if k == 0 or alpha[k] != alpha[k - 1]:
            once = log_gamma(alpha[k])
        found -= once
        if not outside:
            outside = not x[k] >= 0.0
            total += x[k]
            found += times_log(alpha[k] - 1.0, x[k])
    if outside or not abs(total - 1.0) <= SIMPLEX_TOLERANCE:
        return -math.inf
    return found + log_gamma(mass)


def multinomial_log_density(x: Ints, n: int, p: Floats) -> float:
    """log n! + sum(x log p - log x!)."""
    if not (is_count(n) and is_simplex(p)):
        return math.nan
    if x.shape[0] != p.shape[0]:
        return -math.inf
    left = float(n)
    found = log_gamma(n + 1.0)
    for k in range(p.shape[0]):
        if not is_count(x[k]):
            return -math.inf
        left -= x[k]
        found += times_log(float(x[k]), p[k]) - log_gamma(x[k] + 1.0)
    if left != 0.0:
        return -math.inf
    return found


def multivariate_normal_log_density(x: Floats, mean: Floats, covariance: Floats) -> float:
    """-|L^-1 (x - mean)|^2 / 2 - sum log L_ii - d log(2 pi) / 2, covariance = L L'."""
    size = mean.shape[0]
    if covariance.shape[0] != size or covariance.shape[1] != size:
        return math.nan
    root = np.empty((size, size))
    if not cholesky(covariance, root):
        return math.nan
    away = np.empty(size)
    outside = x.shape[0] != size
    for i in range(size):
        if not is_real(mean[i]):
            return math.nan
        if not outside:
            outside = not is_real(x[i])
            away[i] = x[i] - mean[i]
    if outside:
        return -math.inf
    solve_lower(root, away)
    found = -size * HALF_LOG_TWO_PI
    for i in range(size):
        found -= 0.5 * away[i] * away[i] + math.log(root[i, i])
    return found

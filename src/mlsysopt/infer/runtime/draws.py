"""Draws: `(rng, *parameters)` returns a number, `(rng, out, *parameters)` fills a vector.

Parameters that are not allowed give nan, or -1 for whole numbers. Of the generator only methods are used that give the
same bits in compiled code: random, standard_normal, standard_exponential, standard_gamma, poisson and binomial.
What is above 0 never underflows to 0, and what is below 1 never rounds to 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.runtime.basics import exp_or_inf, logistic
from mlsysopt.infer.runtime.numerics import (
    LARGEST_COUNT,
    cholesky,
    exp_all,
    is_count,
    is_positive,
    is_real,
    is_simplex,
)

__all__ = [
    "bernoulli_draw",
    "bernoulli_logit_draw",
    "beta_draw",
    "binomial_draw",
    "categorical_draw",
    "cauchy_draw",
    "dirichlet_draw",
    "draw_log_weights",
    "draw_weights",
    "exponential_draw",
    "gamma_draw",
    "gamma_log_draw",
    "gamma_unit_draw",
    "geometric_draw",
    "half_cauchy_draw",
    "half_normal_draw",
    "inverse_gamma_draw",
    "laplace_draw",
    "log_normal_draw",
    "multinomial_draw",
    "multivariate_normal_draw",
    "negative_binomial_draw",
    "normal_draw",
    "normal_precision_draw",
    "normal_variance_draw",
    "poisson_draw",
    "student_t_draw",
    "truncated_normal_draw",
    "uniform_draw",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TINY = 2.2250738585072014e-308
HUGE = 1.7976931348623157e308
BELOW_ONE = 0.9999999999999999
ONE_OVER_E = 0.36787944117144233
LOG_SHAPE = 0.1
"""From this shape on a gamma draw is far from underflow: an exponential of 53 random bits is below 45."""
LOG_ROW = 0.03
"""The same for a row: one draw in a billion then underflows, and counts as the smallest double beside the others."""


def kept_positive(x: float) -> float:
    """Keep a number that is above 0 off 0 and off infinity."""
    if x < TINY:
        return TINY
    if x > HUGE:
        return HUGE
    return x


def kept_finite(x: float) -> float:
    """Keep a number off infinity."""
    if x > HUGE:
        return HUGE
    if x < -HUGE:
        return -HUGE
    return x


# The real line.


def normal_draw(rng: np.random.Generator, mean: float, sd: float) -> float:
    """mean + sd e."""
    if not (is_real(mean) and is_positive(sd)):
        return math.nan
    return mean + sd * rng.standard_normal()


def normal_variance_draw(rng: np.random.Generator, mean: float, var: float) -> float:
    """mean + sqrt(var) e."""
    if not (is_real(mean) and is_positive(var)):
        return math.nan
    return mean + math.sqrt(var) * rng.standard_normal()


def normal_precision_draw(rng: np.random.Generator, mean: float, precision: float) -> float:
    """mean + e / sqrt(precision)."""
    if not (is_real(mean) and is_positive(precision)):
        return math.nan
    return mean + rng.standard_normal() / math.sqrt(precision)


def standard_cauchy_draw(rng: np.random.Generator) -> float:
    """The ratio of two normals."""
    below = rng.standard_normal()
    while below == 0.0:
        below = rng.standard_normal()
    return rng.standard_normal() / below


def cauchy_draw(rng: np.random.Generator, location: float, scale: float) -> float:
    """location + scale c."""
    if not (is_real(location) and is_positive(scale)):
        return math.nan
    return kept_finite(location + float(scale) * standard_cauchy_draw(rng))


def student_t_draw(rng: np.random.Generator, df: float, location: float, scale: float) -> float:
    """location + scale e / sqrt(g / (df / 2)), g of Gamma(df / 2, 1); by logarithms, for g may be below a double."""
    if not (is_positive(df) and is_real(location) and is_positive(scale)):
        return math.nan
    half = 0.5 * df
    stretch = kept_positive(exp_or_inf(0.5 * (math.log(half) - gamma_log_draw(rng, half))))
    return kept_finite(location + float(scale) * (stretch * rng.standard_normal()))


def laplace_draw(rng: np.random.Generator, location: float, scale: float) -> float:
    """An exponential of either sign."""
    if not (is_real(location) and is_positive(scale)):
        return math.nan
    if rng.random() < 0.5:
        return location - scale * rng.standard_exponential()
    return location + scale * rng.standard_exponential()


# Above 0.


def half_normal_draw(rng: np.random.Generator, sd: float) -> float:
    """sd |e|."""
    if not is_positive(sd):
        return math.nan
    return kept_positive(float(sd) * abs(rng.standard_normal()))


def half_cauchy_draw(rng: np.random.Generator, scale: float) -> float:
    """scale |c|."""
    if not is_positive(scale):
        return math.nan
    return kept_positive(float(scale) * abs(standard_cauchy_draw(rng)))


def log_normal_draw(rng: np.random.Generator, mean: float, sd: float) -> float:
    """exp(mean + sd e)."""
    if not (is_real(mean) and is_positive(sd)):
        return math.nan
    return kept_positive(exp_or_inf(float(mean) + float(sd) * rng.standard_normal()))


def gamma_unit_draw(rng: np.random.Generator, shape: float) -> float:
    """A draw of Gamma(shape, 1), shape not tiny."""
    if shape < 1.0:
        x = math.exp(-rng.standard_exponential() / float(shape))
        return gamma_below_one_draw(rng, float(shape), x, rng.random() * (1.0 + ONE_OVER_E * float(shape)))
    return kept_positive(rng.standard_gamma(float(shape)))


def gamma_below_one_draw(rng: np.random.Generator, shape: float, x: float, u: float) -> float:
    """A draw of Gamma(shape, 1), shape < 1, by rejection: Ahrens and Dieter's GS, Computing 1974.

    Below 1 the density lies under t^(shape - 1), above under exp(-t): masses in the ratio 1 to shape / e. A proposal
    costs an exponential and a uniform number, and of a small shape nearly all are accepted.

    Args:
        rng: Of the chain.
        shape: Below 1.
        x: The first proposal from below 1, exp(-e / shape), e exponential.
        u: Uniform between 0 and 1 + shape / e: says which part is proposed from, and whether x is accepted.
    """
    while True:
        if u < 1.0:
            # 1 - x lies below exp(-x), and mostly decides.
            if u < 1.0 - x or u < math.exp(-x):
                return x
        else:
            x = 1.0 + rng.standard_exponential()
            if rng.random() < math.exp((shape - 1.0) * math.log(x)):
                return x
        x = math.exp(-rng.standard_exponential() / shape)
        u = rng.random() * (1.0 + ONE_OVER_E * shape)


def gamma_log_draw(rng: np.random.Generator, shape: float) -> float:
    """Logarithm of a draw of Gamma(shape, 1), however small: as `gamma_below_one_draw`, log x kept."""
    if shape >= LOG_SHAPE:
        return math.log(gamma_unit_draw(rng, shape))
    while True:
        u = rng.random() * (1.0 + ONE_OVER_E * float(shape))
        if u < 1.0:
            log = -rng.standard_exponential() / float(shape)
            x = math.exp(log)
            if u < 1.0 - x or u < math.exp(-x):
                return log
        else:
            x = 1.0 + rng.standard_exponential()
            log = math.log(x)
            if rng.random() < math.exp((float(shape) - 1.0) * log):
                return log


def gamma_draw(rng: np.random.Generator, shape: float, rate: float) -> float:
    """g / rate, g of Gamma(shape, 1); by logarithms where that may be below a double."""
    if not (is_positive(shape) and is_positive(rate)):
        return math.nan
    if shape < LOG_SHAPE:
        return kept_positive(exp_or_inf(gamma_log_draw(rng, shape) - math.log(rate)))
    return kept_positive(gamma_unit_draw(rng, shape) / float(rate))


def inverse_gamma_draw(rng: np.random.Generator, shape: float, scale: float) -> float:
    """scale / g, g of Gamma(shape, 1)."""
    if not (is_positive(shape) and is_positive(scale)):
        return math.nan
    if shape < LOG_SHAPE:
        return kept_positive(exp_or_inf(math.log(scale) - gamma_log_draw(rng, shape)))
    return kept_positive(float(scale) / gamma_unit_draw(rng, shape))


def exponential_draw(rng: np.random.Generator, rate: float) -> float:
    """E / rate."""
    if not is_positive(rate):
        return math.nan
    return kept_positive(rng.standard_exponential() / float(rate))


# Between two ends.


def beta_draw(rng: np.random.Generator, a: float, b: float) -> float:
    """g / (g + h), g of Gamma(a, 1), h of Gamma(b, 1); by logarithms where they may be below a double."""
    if not (is_positive(a) and is_positive(b)):
        return math.nan
    if a < LOG_SHAPE or b < LOG_SHAPE:
        share = logistic(gamma_log_draw(rng, a) - gamma_log_draw(rng, b))
    else:
        one = gamma_unit_draw(rng, a)
        share = one / (one + gamma_unit_draw(rng, b))
    if share < TINY:
        return TINY
    if share > BELOW_ONE:
        return BELOW_ONE
    return share


def uniform_draw(rng: np.random.Generator, low: float, high: float) -> float:
    """low + (high - low) u."""
    width = float(high) - float(low)
    if not is_positive(width):
        return math.nan
    return low + width * rng.random()


def truncated_normal_draw(rng: np.random.Generator, mean: float, sd: float, low: float, high: float) -> float:
    """A normal between two ends, which may be one; by rejection that accepts a third at least wherever they are."""
    if not (is_real(mean) and is_positive(sd) and low <= high and low < math.inf and high > -math.inf):
        return math.nan
    scale = float(sd)
    width = (float(high) - float(low)) / scale
    a = (float(low) - float(mean)) / scale
    b = (float(high) - float(mean)) / scale
    # The step from an end is drawn where mean + sd z would have few digits left for it.
    if a > 0.0:
        x = low + scale * tail_draw(rng, a, width)
    elif b < 0.0:
        x = high - scale * tail_draw(rng, -b, width)
    elif width > 1.0:
        z = rng.standard_normal()
        while not (z >= a and z <= b):
            z = rng.standard_normal()
        x = mean + scale * z
    else:
        t = width * rng.random()
        while rng.random() > math.exp(-0.5 * (a + t) * (a + t)):
            t = width * rng.random()
        x = low + scale * t
    if x < low:
        return float(low)
    if x > high:
        return float(high)
    return x


def tail_draw(rng: np.random.Generator, a: float, width: float) -> float:
    """t of density exp(-a t - t^2 / 2) from 0 to width, a >= 0: exponential proposals, Robert, Stat. Comp. 1995."""
    if not width > 0.0:
        return 0.0
    ahead = 2.0 / (math.sqrt(a * a + 4.0) + a)
    rate = a + ahead
    share = math.expm1(-rate * width)
    while True:
        t = -math.log1p(rng.random() * share) / rate
        if rng.random() <= math.exp(-0.5 * (t - ahead) * (t - ahead)):
            return t


# Whole numbers.


def bernoulli_draw(rng: np.random.Generator, p: float) -> int:
    """u < p."""
    if not (p >= 0.0 and p <= 1.0):
        return -1
    if rng.random() < p:
        return 1
    return 0


def bernoulli_logit_draw(rng: np.random.Generator, logit: float) -> int:
    """u < 1 / (1 + exp(-logit))."""
    if math.isnan(logit):
        return -1
    if rng.random() < logistic(logit):
        return 1
    return 0


def binomial_draw(rng: np.random.Generator, n: int, p: float) -> int:
    """The generator's, which needs no draw where the outcome is certain."""
    if not (is_count(n) and p >= 0.0 and p <= 1.0):
        return -1
    if n == 0 or p == 0.0:
        return 0
    if p == 1.0:
        return int(n)
    return int(rng.binomial(int(n), p))


def poisson_draw(rng: np.random.Generator, rate: float) -> int:
    """The generator's; up to a rate of 2^53, above which a double has no whole numbers of its own."""
    if not (rate >= 0.0 and rate <= LARGEST_COUNT):
        return -1
    if rate == 0.0:
        return 0
    return int(rng.poisson(float(rate)))


def geometric_draw(rng: np.random.Generator, p: float) -> int:
    """Whole part of an exponential of rate -log(1 - p)."""
    if not (p > 0.0 and p <= 1.0):
        return -1
    if p == 1.0:
        return 0
    x = rng.standard_exponential() / -math.log1p(-p)
    if x > LARGEST_COUNT:
        return int(LARGEST_COUNT)
    return int(x)


def negative_binomial_draw(rng: np.random.Generator, r: float, p: float) -> int:
    """Poisson of a gamma rate."""
    if not (is_positive(r) and p > 0.0 and p <= 1.0):
        return -1
    if p == 1.0:
        return 0
    rate = gamma_draw(rng, r, float(p) / (1.0 - p))
    if rate > LARGEST_COUNT:
        return int(LARGEST_COUNT)
    return int(rng.poisson(rate))


def draw_weights(rng: np.random.Generator, weights: Floats) -> int:
    """An index, in proportion to weights that need not add up to 1; -1 where none is above 0, or one below 0 or nan."""
    total = 0.0
    last = -1
    for k in range(weights.shape[0]):
        if not weights[k] >= 0.0:
            return -1
        if weights[k] > 0.0:
            last = k
        total += weights[k]
    if last < 0 or total == math.inf:
        return -1
    left = rng.random() * total
    for k in range(last):
        if left < weights[k]:
            return k
        left -= weights[k]
    return last


def draw_log_weights(rng: np.random.Generator, logs: Floats) -> int:
    """An index, in proportion to exp(logs); -1 where all are -inf or one is inf or nan."""
    top = -math.inf
    for k in range(logs.shape[0]):
        if not logs[k] < math.inf:
            return -1
        if logs[k] > top:
            top = logs[k]
    if top == -math.inf:
        return -1
    weights = np.empty(logs.shape[0])
    for k in range(logs.shape[0]):
        weights[k] = math.exp(logs[k] - top)
    return draw_weights(rng, weights)


def categorical_draw(rng: np.random.Generator, p: Floats) -> int:
    """An index, in proportion to probabilities."""
    if not is_simplex(p):
        return -1
    return draw_weights(rng, p)


# Vectors.


def dirichlet_draw(rng: np.random.Generator, out: Floats, alpha: Floats) -> None:
    """Gammas of each shape over their sum; by logarithms where they may be below a double."""
    size = alpha.shape[0]
    wrong = 0
    tiny = 0
    for k in range(size):
        wrong += not (alpha[k] > 0.0 and alpha[k] < math.inf)
        tiny += alpha[k] < LOG_ROW
    if wrong > 0 or out.shape[0] != size:
        for k in range(out.shape[0]):
            out[k] = math.nan
        return
    if tiny > 0:
        top = -math.inf
        for k in range(size):
            out[k] = gamma_log_draw(rng, alpha[k])
            if out[k] > top:
                top = out[k]
        for k in range(size):
            out[k] = math.exp(out[k] - top)
    else:
        gamma_row_draw(rng, out, alpha)
    total = 0.0
    for k in range(size):
        total += out[k]
    if total == 0.0:
        # Each of them underflowed: a row of one cell, once in a billion.
        total = TINY
        out[size - 1] = TINY
    for k in range(size):
        out[k] = kept_positive(out[k] / total)


def gamma_row_draw(rng: np.random.Generator, out: Floats, alpha: Floats) -> None:
    """Draws of Gamma(alpha[k], 1), no shape tiny: the first proposals of shapes below 1 take one pass of `exp`."""
    for k in range(alpha.shape[0]):
        out[k] = 0.0
        if alpha[k] < 1.0:
            out[k] = rng.standard_exponential() / -float(alpha[k])
    exp_all(out)
    for k in range(alpha.shape[0]):
        if alpha[k] < 1.0:
            u = rng.random() * (1.0 + ONE_OVER_E * float(alpha[k]))
            # What nearly always accepts stands here: a call takes half as long as the draw.
            if not u < 1.0 - out[k]:
                out[k] = gamma_below_one_draw(rng, float(alpha[k]), float(out[k]), u)
        else:
            out[k] = rng.standard_gamma(float(alpha[k]))


def multinomial_draw(rng: np.random.Generator, out: Ints, n: int, p: Floats) -> None:
    """One binomial after another, of what is left for the states that are left; the last possible takes the rest."""
    if not (is_count(n) and is_simplex(p)) or out.shape[0] != p.shape[0]:
        for k in range(out.shape[0]):
            out[k] = -1
        return
    mass = 0.0
    last = 0
    for k in range(p.shape[0]):
        out[k] = 0
        mass += p[k]
        if p[k] > 0.0:
            last = k
    left = int(n)
    for k in range(last):
        if p[k] < mass:
            out[k] = binomial_draw(rng, left, p[k] / mass)
        else:
            out[k] = left
        left -= out[k]
        mass -= p[k]
    out[last] = left


def multivariate_normal_draw(rng: np.random.Generator, out: Floats, mean: Floats, covariance: Floats) -> None:
    """mean + L e, covariance = L L'."""
    size = mean.shape[0]
    allowed = out.shape[0] == size and covariance.shape[0] == size and covariance.shape[1] == size
    for i in range(size):
        if not is_real(mean[i]):
            allowed = False
    root = np.empty((size, size))
    if not allowed or not cholesky(covariance, root):
        for i in range(out.shape[0]):
            out[i] = math.nan
        return
    for i in range(size):
        out[i] = rng.standard_normal()
    for m in range(size):
        i = size - 1 - m
        total = mean[i]
        for k in range(i + 1):
            total += root[i, k] * out[k]
        out[i] = total

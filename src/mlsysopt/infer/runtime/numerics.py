"""Special functions and small matrices in scalar loops: the same bits compiled and not, which `math.lgamma` has not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HALF_LOG_TWO_PI",
    "LARGEST_COUNT",
    "SIMPLEX_TOLERANCE",
    "cholesky",
    "digamma",
    "exp_all",
    "is_count",
    "is_positive",
    "is_real",
    "is_simplex",
    "log1p_exp",
    "log1p_square",
    "log_beta",
    "log_choose",
    "log_gamma",
    "log_gamma_ratio",
    "normal_beyond",
    "normal_log_tail_mass",
    "normal_scaled_tail",
    "normal_within",
    "solve_lower",
    "square_pull",
    "times_log",
    "times_log1p",
]

Floats = NDArray[np.float64]

HALF_LOG_TWO_PI = 0.9189385332046727
ROOT_TWO_PI = 2.5066282746310002
LARGEST_COUNT = 9007199254740992.0
"""2^53; above it a double has no whole numbers of its own any more."""
SIMPLEX_TOLERANCE = 1e-6
"""How far a row of probabilities may be from 1: they are often read from a file with six digits."""
SYMMETRY_TOLERANCE = 1e-6
"""How far two halves of a covariance may be apart, in units of the two standard deviations."""


LOG_TWO_HIGH, LOG_TWO_LOW = 0.6931471803691238, 1.9082149292705877e-10
"""log 2 in two parts: whole multiples of the first are exact up to 2^20."""
ONE_OVER_LOG_TWO = 1.4426950408889634
ROUNDING = 6755399441055744.0
"""1.5 * 2^52: what is added to it is rounded to a whole number, which then stands in the low bits of the sum."""
LEAST_EXPONENT = -708.0
"""exp of it is still a normal double."""


# Exponentials.


def exp_all(x: Floats) -> None:
    """Put exp(x) in place of each number, to one unit in the last place; 0 below -708 and for nan, x <= 709.

    libm takes one number at a time; these loops have no branch and no call, so that a processor takes several.
    2^n exp(r) with x = n log 2 + r, |r| <= log(2) / 2, and exp(r) by its series, the terms in pairs.
    """
    bits = np.empty(x.shape[0], np.int64)
    power = bits.view(np.float64)
    for i in range(x.shape[0]):
        power[i] = (float(x[i]) if x[i] >= LEAST_EXPONENT else LEAST_EXPONENT) * ONE_OVER_LOG_TWO + ROUNDING
    for i in range(x.shape[0]):
        whole = float(power[i]) - ROUNDING
        r = ((float(x[i]) if x[i] >= LEAST_EXPONENT else LEAST_EXPONENT) - whole * LOG_TWO_HIGH) - whole * LOG_TWO_LOW
        s = r * r
        a = 0.5 + r * 0.16666666666666666 + s * (0.041666666666666664 + r * 0.008333333333333333)
        b = 0.001388888888888889 + r * 0.0001984126984126984 + s * (2.48015873015873e-05 + r * 2.7557319223985893e-06)
        c = 2.755731922398589e-07 + r * 2.505210838544172e-08 + s * (2.08767569878681e-09 + r * 1.6059043836821613e-10)
        value = 1.0 + (r + s * (a + s * s * (b + s * s * c)))
        x[i] = value if x[i] >= LEAST_EXPONENT else 0.0
    for i in range(x.shape[0]):
        # The low bits of ROUNDING's own are 0, and a double's exponent is 1023 more than the power of two.
        bits[i] = (bits[i] + (1023 - 0x4338000000000000)) << 52
    for i in range(x.shape[0]):
        x[i] *= power[i]


# Gamma and beta functions.


def gamma_series(z: float) -> float:
    """log Gamma(2 + z), |z| <= 1/2: z (1 - g) + sum (-z)^k (zeta(k) - 1) / k; Abramowitz and Stegun 6.1.33."""
    y = z * z
    even = 0.32246703342411321824 + y * (0.020580808427784547879 + y * (0.0028905103307415232858 + y * (
        0.00050966952474304242234 + y * (9.9457512781808533715e-05 + y * (2.0507212775670691553e-05 + y * (
        4.3748667899074878042e-06 + y * (9.5514121304074198329e-07 + y * (2.1207184805554665869e-07 + y * (
        4.7698101693639805658e-08 + y * (1.0838659214896954091e-08 + y * (2.4836745438024783172e-09 + y * (
        5.7313672416788620133e-10))))))))))))  # fmt: skip
    odd = 0.42278433509846713939 + y * (-0.067352301053198095133 + y * (-0.0073855510286739852663 + y * (
        -0.0011927539117032609771 + y * (-0.00022315475845357937976 + y * (-4.49262367381331417e-05 + y * (
        -9.439488275268395904e-06 + y * (-2.0392157538013662368e-06 + y * (-4.4924691987645660433e-07 + y * (
        -1.0043224823968099609e-07 + y * (-2.271109460894316491e-08 + y * (-5.1834750419700466551e-09 + y * (
        -1.1921401405860912074e-09))))))))))))  # fmt: skip
    return z * (odd + z * even)


def stirling_rest(x: float) -> float:
    """log Gamma(x) less Stirling's (x - 1/2) log x - x + log sqrt(2 pi), x >= 10; Abramowitz and Stegun 6.1.41."""
    r = 1.0 / x
    y = r * r
    return r * (1.0 / 12.0 - y * (1.0 / 360.0 - y * (1.0 / 1260.0 - y * (1.0 / 1680.0 - y * (
        1.0 / 1188.0 - y * (691.0 / 360360.0 - y / 156.0))))))  # fmt: skip


def log_gamma(x: float) -> float:
    """log Gamma(x) of x > 0: a series around 2, recurrence up to 10, Stirling's series above."""
    if not x > 0.0:
        return math.nan
    if x >= 10.0:
        return (x - 0.5) * (math.log(x) - 1.0) + (HALF_LOG_TWO_PI - 0.5) + stirling_rest(x)
    if x < 0.5:
        return gamma_series(x) - math.log1p(x) - math.log(x)
    if x < 1.5:
        return gamma_series(x - 1.0) - math.log(x)
    y = float(x)
    product = 1.0
    while y > 2.5:
        y -= 1.0
        product *= y
    return gamma_series(y - 2.0) + math.log(product)


def digamma(x: float) -> float:
    """Derivative of log Gamma(x), x > 0: recurrence up to 10, then Abramowitz and Stegun 6.3.18."""
    if not x > 0.0:
        return math.nan
    below = 0.0
    y = float(x)
    while y < 10.0:
        below += 1.0 / y
        y += 1.0
    r = 1.0 / y
    s = r * r
    rest = s * (1.0 / 12.0 - s * (1.0 / 120.0 - s * (1.0 / 252.0 - s * (1.0 / 240.0 - s * (
        1.0 / 132.0 - s * (691.0 / 32760.0 - s / 12.0))))))  # fmt: skip
    return math.log(y) - 0.5 * r - rest - below


def log_gamma_ratio(x: float, a: float) -> float:
    """log(Gamma(x + a) / Gamma(x)), a >= 0; for large x a difference of Stirling's series, which loses no digits."""
    y = x + a
    if x < 10.0:
        return log_gamma(y) - log_gamma(x)
    return (x - 0.5) * math.log1p(a / x) + a * (math.log(y) - 1.0) + (stirling_rest(y) - stirling_rest(x))


def log_beta(a: float, b: float) -> float:
    """log of the beta function; for large arguments a difference of Stirling's series, which loses no digits."""
    p = min(a, b)
    q = max(a, b)
    if p < 10.0:
        return log_gamma(p) - log_gamma_ratio(q, p)
    share = p / q
    found = (p - 0.5) * math.log(share / (1.0 + share)) - q * math.log1p(share) - 0.5 * math.log(q) + HALF_LOG_TWO_PI
    return found + stirling_rest(p) + stirling_rest(q) - stirling_rest(p + q)


def log_choose(n: float, k: float) -> float:
    """log of n over k, 0 <= k <= n: 1 / ((n + 1) B(k + 1, n - k + 1))."""
    return -math.log(n + 1.0) - log_beta(k + 1.0, n - k + 1.0)


# Logarithms.


def log1p_exp(x: float) -> float:
    """log(1 + exp(x)) without overflow."""
    if x > 0.0:
        return x + math.log1p(math.exp(-x))
    return math.log1p(math.exp(x))


def log1p_square(x: float) -> float:
    """log(1 + x^2) without overflow."""
    size = abs(x)
    if size < 1e8:
        return math.log1p(x * x)
    return 2.0 * math.log(size)


def square_pull(x: float) -> float:
    """x / (1 + x^2), half the derivative of log(1 + x^2), without overflow."""
    if abs(x) < 1e8:
        return x / (1.0 + x * x)
    return 1.0 / x


def times_log(a: float, x: float) -> float:
    """a log(x), 0 where a is 0; -inf at x = 0 for any other a: a density that is infinite there counts as none."""
    if a == 0.0:
        return 0.0
    if x > 0.0:
        return a * math.log(x)
    return -math.inf


def times_log1p(a: float, x: float) -> float:
    """a log(1 + x), 0 where a is 0; -inf at x = -1 for any other a."""
    if a == 0.0:
        return 0.0
    if x > -1.0:
        return a * math.log1p(x)
    return -math.inf


# The standard normal.


def normal_scaled_tail(x: float) -> float:
    """exp(x^2 / 2) P(Z > x), x >= 0: rational functions of Cody, Math. Comp. 1969, in the form of SPECFUN's ANORM."""
    if x <= 0.67448975:
        return math.exp(0.5 * x * x) * (0.5 - normal_near(x))
    if x <= 5.656854249492381:
        above = 1.0765576773720192317e-8
        above = (above * x + 0.39894151208813466764) * x + 8.8831497943883759412
        above = (above * x + 93.506656132177855979) * x + 597.27027639480026226
        above = (above * x + 2494.5375852903726711) * x + 6848.1904505362823326
        above = (above * x + 11602.651437647350124) * x + 9842.7148383839780218
        below = (x + 22.266688044328115691) * x + 235.38790178262499861
        below = (below * x + 1519.377599407554805) * x + 6485.558298266760755
        below = (below * x + 18615.571640885098091) * x + 34900.952721145977266
        below = (below * x + 38912.003286093271411) * x + 19685.429676859990727
        return above / below
    r = 1.0 / x
    y = r * r
    above = (0.02307344176494017303 * y + 0.21589853405795699) * y + 0.1274011611602473639
    above = (above * y + 0.022235277870649807) * y + 0.001421619193227893466
    above = (above * y + 2.9112874951168792e-5) * y
    below = (y + 1.28426009614491121) * y + 0.468238212480865118
    below = (below * y + 0.0659881378689285515) * y + 0.00378239633202758244
    below = below * y + 7.29751555083966205e-5
    return (1.0 / ROOT_TWO_PI - above / below) * r


def normal_near(x: float) -> float:
    """P(0 < Z < x), |x| <= 0.674: a rational function, as `normal_scaled_tail`."""
    y = x * x
    above = (0.065682337918207449113 * y + 2.2352520354606839287) * y + 161.02823106855587881
    above = (above * y + 1067.6894854603709582) * y + 18154.981253343561249
    below = (y + 47.20258190468824187) * y + 976.09855173777669322
    below = (below * y + 10260.932208618978205) * y + 45507.789335026729956
    return x * (above / below)


def normal_beyond(x: float) -> float:
    """P(Z > x), x >= 0."""
    if x > 39.0:
        return 0.0
    # exp of a rounded square would lose digits; the square of few bits is exact.
    few = math.floor(x * 16.0) / 16.0
    return math.exp(-0.5 * few * few) * math.exp(-0.5 * (x - few) * (x + few)) * normal_scaled_tail(x)


def normal_within(low: float, high: float) -> float:
    """log P(low < Z < high), low <= 0 <= high."""
    if low < -0.67448975 and high > 0.67448975:
        return math.log1p(-(normal_beyond(-low) + normal_beyond(high)))
    left = normal_near(-low) if low >= -0.67448975 else 0.5 - normal_beyond(-low)
    right = normal_near(high) if high <= 0.67448975 else 0.5 - normal_beyond(high)
    if left + right > 0.0:
        return math.log(left + right)
    return math.nan


def normal_log_tail_mass(a: float, width: float) -> float:
    """log of P(a < Z < a + width), a >= 0, over the density at a: by a series, or as a difference of scaled tails.

    nan where a double cannot tell.
    """
    if not (a < math.inf and width > 0.0):
        return math.nan
    p = a * width
    if p + width < 1e-3:
        p2 = p * p
        w2 = width * width
        rest = (p2 * p2 - 6.0 * p2 * w2 + 3.0 * w2 * w2) / 120.0 - p * (p2 - 3.0 * w2) / 24.0
        return math.log(width) + math.log1p(rest + (p2 - w2) / 6.0 - 0.5 * p)
    near = normal_scaled_tail(a)
    whole = math.log(near * ROOT_TWO_PI)
    b = a + width
    if b == math.inf:
        return whole
    fall = -width * (a + 0.5 * width) + math.log(normal_scaled_tail(b) / near)
    return whole + math.log(-math.expm1(fall))


# What parameters may be, and matrices.


def is_real(x: float) -> bool:
    """Whether a number is neither infinite nor nan."""
    return abs(x) < math.inf


def is_positive(x: float) -> bool:
    """Whether a number is above 0 and not infinite."""
    return x > 0.0 and x < math.inf


def is_count(x: float) -> bool:
    """Whether a number is 0, 1, 2 ..."""
    return x >= 0.0 and x <= LARGEST_COUNT and x == math.floor(x)


def is_simplex(p: Floats) -> bool:
    """Whether a row holds probabilities that add up to 1."""
    total = 0.0
    for k in range(p.shape[0]):
        if not p[k] >= 0.0:
            return False
        total += p[k]
    return abs(total - 1.0) <= SIMPLEX_TOLERANCE


def cholesky(matrix: Floats, root: Floats) -> bool:
    """Write the lower triangle L of a symmetric matrix L L'; False where it is not positive definite."""
    size = matrix.shape[0]
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= root[i, k] * root[j, k]
            if i == j:
                if not (total > 0.0 and total < math.inf):
                    return False
                root[i, i] = math.sqrt(total)
            else:
                apart = abs(matrix[i, j] - matrix[j, i])
                if not apart <= SYMMETRY_TOLERANCE * math.sqrt(abs(matrix[i, i])) * math.sqrt(abs(matrix[j, j])):
                    return False
                root[i, j] = total / root[j, j]
        for j in range(i + 1, size):
            root[i, j] = 0.0
    return True


def solve_lower(root: Floats, b: Floats) -> None:
    """Overwrite b by L^-1 b."""
    for i in range(b.shape[0]):
        total = b[i]
        for k in range(i):
            total -= root[i, k] * b[k]
        b[i] = total / root[i, i]

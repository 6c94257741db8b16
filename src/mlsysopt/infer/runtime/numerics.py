"""Special functions and small linear algebra in scalar loops: the same bits un-jitted and jitted."""

from __future__ import annotations

import math

HALF_LOG_TWO_PI = 0.9189385332046727


def lgamma(x: float) -> float:
    """ln Gamma(x) for x > 0: recurrence up to 15, then Stirling's series."""
    if not x > 0.0:
        return math.nan
    if x == math.inf:
        return math.inf
    shift = 1.0
    below = 0.0
    while x < 15.0:
        shift *= x
        x += 1.0
        if shift > 1e250:
            below += math.log(shift)
            shift = 1.0
    below += math.log(shift)
    r = 1.0 / x
    r2 = r * r
    series = r * (1.0 / 12.0 - r2 * (1.0 / 360.0 - r2 * (1.0 / 1260.0 - r2 * (1.0 / 1680.0 - r2 / 1188.0))))
    return (x - 0.5) * math.log(x) - x + HALF_LOG_TWO_PI + series - below


def digamma(x: float) -> float:
    """Derivative of ln Gamma for x > 0: recurrence, then the asymptotic series."""
    if not x > 0.0:
        return math.nan
    below = 0.0
    while x < 15.0:
        below += 1.0 / x
        x += 1.0
    r = 1.0 / x
    r2 = r * r
    series = r2 * (1.0 / 12.0 - r2 * (1.0 / 120.0 - r2 * (1.0 / 252.0 - r2 * (1.0 / 240.0 - r2 / 132.0))))
    return math.log(x) - 0.5 * r - series - below


def log_beta(a: float, b: float) -> float:
    """ln B(a, b)."""
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def log_tail(x: float) -> float:
    """ln P(Z > x) of a standard normal: Marsaglia's series in the middle, a continued fraction in the tail."""
    if x > 4.0:
        fraction = x
        for k in range(60, 0, -1):
            fraction = x + k / fraction
        return -0.5 * x * x - HALF_LOG_TWO_PI - math.log(fraction)
    if x < -4.0:
        return math.log1p(-math.exp(log_tail_far(-x)))
    term = x
    total = x
    k = 1.0
    while abs(term) > 1e-17 * abs(total):
        k += 2.0
        term *= x * x / k
        total += term
    return math.log(0.5 - total * math.exp(-0.5 * x * x - HALF_LOG_TWO_PI))


def log_tail_far(x: float) -> float:
    """ln P(Z > x) for x > 4, by a continued fraction."""
    fraction = x
    for k in range(60, 0, -1):
        fraction = x + k / fraction
    return -0.5 * x * x - HALF_LOG_TWO_PI - math.log(fraction)


def log_between(low: float, high: float) -> float:
    """ln P(low < Z < high) of a standard normal, also far in one tail."""
    if not low < high:
        return -math.inf
    if low == -math.inf and high == math.inf:
        return 0.0
    if low < 0.0 < high:
        left = 0.0
        right = 0.0
        if low != -math.inf:
            left = math.exp(log_tail(-low))
        if high != math.inf:
            right = math.exp(log_tail(high))
        return math.log1p(-(left + right))
    if high <= 0.0:
        low, high = -high, -low
    near = log_tail(low)
    if high == math.inf:
        return near
    gap = log_tail(high) - near
    if gap >= 0.0:
        return -math.inf
    return near + math.log(-math.expm1(gap))


def cholesky(matrix: object, out: object) -> int:
    """Write the lower factor of a symmetric matrix into `out`; 0, or 1 + the row at which it is not positive."""
    n = matrix.shape[0]  # type: ignore[attr-defined]
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]  # type: ignore[index]
            for k in range(j):
                total -= out[i, k] * out[j, k]  # type: ignore[index]
            if i == j:
                if not total > 0.0:
                    return i + 1
                out[i, i] = math.sqrt(total)  # type: ignore[index]
            else:
                out[i, j] = total / out[j, j]  # type: ignore[index]
        for j in range(i + 1, n):
            out[i, j] = 0.0  # type: ignore[index]
    return 0

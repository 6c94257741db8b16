"""Draws from Gaussians in information form: precision Q and Q times the mean, by Cholesky factors in place.

Every draw overwrites what it is given; the last argument holds it afterwards. What can fail returns 0, or 1 + the place
of the first number that nothing pins down.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "add_arrow_row",
    "add_dense_row",
    "draw_arrow",
    "draw_banded",
    "draw_dense",
    "draw_single_arrow",
    "draw_tridiagonal",
    "inverse_root",
]

Floats = NDArray[np.float64]

PIVOT_TOLERANCE = 1e-14
"""A pivot below this part of its diagonal is rounding: the matrix is singular."""


def add_dense_row(q: Floats, h: Floats, row: Floats, w: float, r: float) -> None:
    """Add the equation `row . x = r` of precision w."""
    for i in range(row.shape[0]):
        a = row[i] * w
        if a != 0.0:
            h[i] += a * r
            for j in range(i + 1):
                q[i, j] += a * row[j]


def add_arrow_row(
    a: Floats, b: Floats, u: Floats, q: Floats, h: Floats, inner: Floats, row: Floats, w: float, r: float
) -> None:
    """Add the equation `inner . z + row . x = r` of precision w; z are the numbers of one group, x the shared ones."""
    for i in range(inner.shape[0]):
        c = inner[i] * w
        if c != 0.0:
            u[i] += c * r
            for j in range(i + 1):
                a[i, j] += c * inner[j]
            for j in range(row.shape[0]):
                b[i, j] += c * row[j]
    add_dense_row(q, h, row, w, r)


def inverse_root(covariance: Floats) -> Floats:
    """Return L^-1 of a covariance L L'; nan where it is not positive definite."""
    n = covariance.shape[0]
    root = np.zeros((n, n))
    inverse = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            s = covariance[i, j]
            for m in range(j):
                s -= root[i, m] * root[j, m]
            if i == j:
                if not (s > PIVOT_TOLERANCE * covariance[i, i] and s < math.inf):
                    inverse[:, :] = math.nan
                    return inverse
                root[i, i] = math.sqrt(s)
            else:
                root[i, j] = s / root[j, j]
    for j in range(n):
        inverse[j, j] = 1.0 / root[j, j]
        for i in range(j + 1, n):
            s = 0.0
            for m in range(j, i):
                s -= root[i, m] * inverse[m, j]
            inverse[i, j] = s / root[i, i]
    return inverse


def root_of_precision(q: Floats, scale: Floats) -> int:
    """Overwrite the lower triangle by its Cholesky factor; `scale` is the diagonal that pivots are judged by."""
    n = q.shape[0]
    column = np.empty(n)
    for k in range(n):
        pivot = q[k, k]
        if not (pivot > PIVOT_TOLERANCE * scale[k] and pivot < math.inf):
            return k + 1
        root = math.sqrt(pivot)
        q[k, k] = root
        for i in range(k + 1, n):
            value = q[i, k] / root
            q[i, k] = value
            column[i] = value
        # Row by row with the column copied: the inner loop runs over neighbours in memory.
        for i in range(k + 1, n):
            value = column[i]
            for j in range(k + 1, i + 1):
                q[i, j] -= value * column[j]
    return 0


def draw_dense(rng: Any, q: Floats, h: Floats) -> int:
    """Draw from N(Q^-1 h, Q^-1), of whose Q only the lower triangle counts."""
    n = h.shape[0]
    scale = np.empty(n)
    for i in range(n):
        scale[i] = q[i, i]
    return draw_dense_by(rng, q, scale, h)


def draw_dense_by(rng: Any, q: Floats, scale: Floats, h: Floats) -> int:
    """Draw as `draw_dense` does; `scale` is the diagonal that pivots are judged by."""
    n = h.shape[0]
    status = root_of_precision(q, scale)
    if status != 0:
        return status
    for i in range(n):
        s = h[i]
        for j in range(i):
            s -= q[i, j] * h[j]
        h[i] = s / q[i, i]
    for k in range(n):
        i = n - 1 - k
        value = (h[i] + rng.standard_normal()) / q[i, i]
        h[i] = value
        for j in range(i):
            h[j] -= q[i, j] * value
    return 0


def draw_arrow(rng: Any, a: Floats, b: Floats, u: Floats, q: Floats, h: Floats) -> int:
    """Draw the numbers of all groups, into u, and the shared ones, into h.

    Groups are independent given the shared numbers, so they are eliminated first (Schur complement): O(groups * d^2).

    Args:
        rng: Random stream.
        a: Precision inside of each group, shape (groups, k, k).
        b: Precision between a group and the shared numbers, shape (groups, k, d).
        u: Right hand side of each group, shape (groups, k).
        q: Precision of the shared numbers, shape (d, d).
        h: Right hand side of the shared numbers, shape (d,).
    """
    n, k = u.shape
    d = h.shape[0]
    scale = np.empty(d)
    for i in range(d):
        scale[i] = q[i, i]
    for g in range(n):
        for i in range(k):
            for j in range(i + 1):
                s = a[g, i, j]
                for m in range(j):
                    s -= a[g, i, m] * a[g, j, m]
                if i == j:
                    if not (s > PIVOT_TOLERANCE * a[g, i, i] and s < math.inf):
                        return g + 1
                    a[g, i, i] = math.sqrt(s)
                else:
                    a[g, i, j] = s / a[g, j, j]
        for i in range(k):
            root = a[g, i, i]
            s = u[g, i]
            for j in range(i):
                s -= a[g, i, j] * u[g, j]
            s /= root
            u[g, i] = s
            for p in range(d):
                t = b[g, i, p]
                for j in range(i):
                    t -= a[g, i, j] * b[g, j, p]
                t /= root
                b[g, i, p] = t
                if t != 0.0:
                    h[p] -= t * s
                    for r in range(p + 1):
                        q[p, r] -= t * b[g, i, r]
    if draw_dense_by(rng, q, scale, h) != 0:
        return 1
    for g in range(n):
        for m in range(k):
            i = k - 1 - m
            s = u[g, i] + rng.standard_normal()
            for p in range(d):
                s -= b[g, i, p] * h[p]
            for j in range(i + 1, k):
                s -= a[g, j, i] * u[g, j]
            u[g, i] = s / a[g, i, i]
    return 0


def draw_single_arrow(rng: Any, a: Floats, b: Floats, u: Floats, q: Floats, h: Floats) -> int:
    """Draw as `draw_arrow` does, where every group is one number: a and u have shape (groups,), b (groups, d)."""
    n, d = b.shape
    scale = np.empty(d)
    for i in range(d):
        scale[i] = q[i, i]
    for g in range(n):
        pivot = a[g]
        if not (pivot > 0.0 and pivot < math.inf):
            return g + 1
        for p in range(d):
            t = b[g, p] / pivot
            h[p] -= t * u[g]
            for r in range(p + 1):
                q[p, r] -= t * b[g, r]
    if draw_dense_by(rng, q, scale, h) != 0:
        return 1
    for g in range(n):
        s = u[g]
        for p in range(d):
            s -= b[g, p] * h[p]
        u[g] = s / a[g] + rng.standard_normal() / math.sqrt(a[g])
    return 0


def draw_tridiagonal(rng: Any, diagonal: Floats, below: Floats, h: Floats) -> int:
    """Filter forwards, draw backwards: numbers of which each has a precision with the one before it only."""
    n = h.shape[0]
    for t in range(n):
        pivot = diagonal[t]
        scale = pivot
        if t > 0:
            link = below[t] / diagonal[t - 1]
            pivot -= link * below[t]
            h[t] -= link * h[t - 1]
        if not (pivot > PIVOT_TOLERANCE * scale and pivot < math.inf):
            return t + 1
        diagonal[t] = pivot
    value = 0.0
    for m in range(n):
        t = n - 1 - m
        s = h[t]
        if m > 0:
            s -= below[t + 1] * value
        value = s / diagonal[t] + rng.standard_normal() / math.sqrt(diagonal[t])
        h[t] = value
    return 0


def draw_banded(rng: Any, band: Floats, h: Floats) -> int:
    """Filter forwards, draw backwards; `band[p, c]` is the precision between p and p - c, shape (n, width + 1)."""
    n, width = h.shape[0], band.shape[1] - 1
    for p in range(n):
        scale = band[p, 0]
        for m in range(width + 1):
            c = width - m
            o = p - c
            if o < 0:
                continue
            s = band[p, c]
            for e in range(c + 1, min(width, p) + 1):
                s -= band[p, e] * band[o, e - c]
            if c > 0:
                band[p, c] = s / band[o, 0]
            elif s > PIVOT_TOLERANCE * scale and s < math.inf:
                band[p, 0] = math.sqrt(s)
            else:
                return p + 1
        s = h[p]
        for c in range(1, min(width, p) + 1):
            s -= band[p, c] * h[p - c]
        h[p] = s / band[p, 0]
    for m in range(n):
        p = n - 1 - m
        s = h[p] + rng.standard_normal()
        for c in range(1, min(width, m) + 1):
            s -= band[p + c, c] * h[p + c]
        h[p] = s / band[p, 0]
    return 0

"""Slice sampling of many cells side by side, and the sums that stand for a cell's readers.

A cell is one row of a table of numbers: where it is, its bracket, and what it waits for. Whoever can evaluate densities
asks `slice_step` for the next place to look at; so one cell at a time and all cells in one pass over the data take the
same steps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.runtime.basics import exp_or_inf, log_or_inf, logistic

__all__ = [
    "SLICE_COLUMNS",
    "chance_form",
    "from_line",
    "inverse_form",
    "line_jacobian",
    "location_form",
    "positive_or_nan",
    "rate_form",
    "scale_form",
    "slice_begin",
    "slice_step",
    "slice_width",
    "to_line",
]

Floats = NDArray[np.float64]

SLICE_AT, SLICE_PHASE, SLICE_VALUE, SLICE_FROM, SLICE_WIDTH = 0, 1, 2, 3, 4
SLICE_LEVEL, SLICE_LOW, SLICE_HIGH, SLICE_LEFT, SLICE_RIGHT, SLICE_TRIES = 5, 6, 7, 8, 9, 10
SLICE_COLUMNS = 11
SLICE_STEPS = 50
"""Steps out of a bracket in both directions together, split between them at random: that keeps it reversible."""
SLICE_SHRINKS = 200
"""After so many halvings, more than a double has bits, the cell stays where it is."""
SLICE_RATE = 0.1
SLICE_REACH = 3.0
"""Widths go towards so many mean moves: about two and a half standard deviations of a normal."""


def slice_begin(s: Floats, i: int, at: float, value: float, width: float) -> None:
    """Put a cell into the table: where it is on the line, its value, and how wide its first bracket is."""
    s[i, SLICE_AT] = at
    s[i, SLICE_FROM] = at
    s[i, SLICE_VALUE] = value
    s[i, SLICE_WIDTH] = width
    s[i, SLICE_PHASE] = 1.0
    s[i, SLICE_TRIES] = 0.0


def slice_step(rng: np.random.Generator, s: Floats, i: int, density: float) -> int:
    """Go one step on, given the log density at `s[i, SLICE_AT]`.

    Returns 0 where another density is needed, 1 where the cell has moved there, 2 where it stays at its old value, and
    -1 where the old value itself has no density.

    References:
        Neal, Slice Sampling, Annals of Statistics 2003, figures 3 and 5.
    """
    phase = s[i, SLICE_PHASE]
    width = s[i, SLICE_WIDTH]
    if phase == 1.0:
        if not (density > -math.inf and density < math.inf):
            s[i, SLICE_PHASE] = 0.0
            return -1
        s[i, SLICE_LEVEL] = density - rng.exponential(1.0)
        s[i, SLICE_LOW] = s[i, SLICE_FROM] - width * rng.random()
        s[i, SLICE_HIGH] = s[i, SLICE_LOW] + width
        s[i, SLICE_LEFT] = math.floor(SLICE_STEPS * rng.random())
        s[i, SLICE_RIGHT] = SLICE_STEPS - 1.0 - s[i, SLICE_LEFT]
    elif phase == 2.0:
        if density > s[i, SLICE_LEVEL]:
            s[i, SLICE_LOW] -= width
            s[i, SLICE_LEFT] -= 1.0
        else:
            s[i, SLICE_LEFT] = 0.0
    elif phase == 3.0:
        if density > s[i, SLICE_LEVEL]:
            s[i, SLICE_HIGH] += width
            s[i, SLICE_RIGHT] -= 1.0
        else:
            s[i, SLICE_RIGHT] = 0.0
    else:
        if density >= s[i, SLICE_LEVEL]:
            s[i, SLICE_PHASE] = 0.0
            return 1
        s[i, SLICE_TRIES] += 1.0
        if s[i, SLICE_TRIES] >= SLICE_SHRINKS:
            s[i, SLICE_AT] = s[i, SLICE_FROM]
            s[i, SLICE_PHASE] = 0.0
            return 2
        if s[i, SLICE_AT] < s[i, SLICE_FROM]:
            s[i, SLICE_LOW] = s[i, SLICE_AT]
        else:
            s[i, SLICE_HIGH] = s[i, SLICE_AT]
    if s[i, SLICE_LEFT] > 0.0:
        s[i, SLICE_PHASE] = 2.0
        s[i, SLICE_AT] = s[i, SLICE_LOW]
    elif s[i, SLICE_RIGHT] > 0.0:
        s[i, SLICE_PHASE] = 3.0
        s[i, SLICE_AT] = s[i, SLICE_HIGH]
    else:
        s[i, SLICE_PHASE] = 4.0
        s[i, SLICE_AT] = s[i, SLICE_LOW] + rng.random() * (s[i, SLICE_HIGH] - s[i, SLICE_LOW])
    return 0


def slice_width(s: Floats, i: int, least: float) -> float:
    """Return a cell's width after one more move; only warming up may ask."""
    width = s[i, SLICE_WIDTH]
    return max(least, width + SLICE_RATE * (SLICE_REACH * abs(s[i, SLICE_AT] - s[i, SLICE_FROM]) - width))


def to_line(x: float, low: float, high: float) -> float:
    """Return where a number between two ends, or above or below one, lies on the whole line; nan outside of them.

    A number on an end itself, where a draw underflowed, is taken as the nearest one inside.
    """
    if not (x >= low and x <= high):
        return math.nan
    if high == math.inf:
        if low == -math.inf:
            return x
        return math.log(max(x - low, 1e-300))
    if low == -math.inf:
        return -math.log(max(high - x, 1e-300))
    if not high > low:
        return math.nan
    share = (x - low) / (high - low)
    if low != 0.0:
        share = max(share, 1e-15)
    return math.log(max(share, 1e-300)) - math.log(max(1.0 - share, 1e-15))


def from_line(u: float, low: float, high: float) -> float:
    """Return the number that `to_line` put at a place."""
    if high == math.inf:
        if low == -math.inf:
            return u
        return low + exp_or_inf(u)
    if low == -math.inf:
        return high - exp_or_inf(-u)
    return low + (high - low) * logistic(u)


def line_jacobian(u: float, low: float, high: float) -> float:
    """Return the logarithm of the derivative of `from_line`, without a constant."""
    if high == math.inf:
        if low == -math.inf:
            return 0.0
        return u
    if low == -math.inf:
        return -u
    return -abs(u) - 2.0 * math.log1p(math.exp(-abs(u)))


def positive_or_nan(x: float) -> float:
    """Return a number above 0 as it is, nan for any other: a multiplier of a scale has to be one."""
    if x > 0.0:
        return x
    return math.nan


def scale_form(n: float, total: float, v: float) -> float:
    """Log density of n normals of standard deviation c v, with the sum of ((x - m) / c) squared; up to a constant."""
    if n == 0.0:
        return 0.0
    if v > 0.0:
        return -n * math.log(v) - 0.5 * (total / v) / v
    return -math.inf


def inverse_form(a: float, b: float, v: float) -> float:
    """Return -a log v - b / v, what normals give their variance and Laplaces their scale."""
    if a == 0.0:
        return 0.0
    if v > 0.0:
        return -a * math.log(v) - b / v
    return -math.inf


def rate_form(a: float, b: float, v: float) -> float:
    """Return a log v - b v, what Poisson counts, waiting times and normals give their rate or precision."""
    if a == 0.0:
        if v >= 0.0:
            return -b * v
        return 0.0 if b == 0.0 else -math.inf
    if v > 0.0:
        return a * math.log(v) - b * v
    return -math.inf


def chance_form(a: float, b: float, v: float) -> float:
    """Return a log v + b log(1 - v), what successes and failures give their probability."""
    if a == 0.0 and b == 0.0:
        return 0.0
    if v <= 0.0 or v >= 1.0:
        return -math.inf
    return a * log_or_inf(v) + b * math.log1p(-v)


def location_form(w: float, g: float, step: float) -> float:
    """Log density of normals after a step of their mean, less that before: precision and slope where it stood."""
    return step * (g - 0.5 * w * step)

"""Between values and the unit cube, one column per parameter (n for a permutation of n).

Every value owns an interval of [0, 1]; its position is the middle of that interval. So a uniform
position gives a uniform value, and rounding a position gives the nearest value. A special value
owns a slice at the end of the cube that is nearest to it: 0 before the range, for instance.

Internally a column holds *codes*: numbers as they are, a choice as its place, a permutation as a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mlsysopt.core.space.expressions import Array
from mlsysopt.core.space.parameters import Bool, Choice, Float, Int, Parameter, Permutation

__all__ = ["code", "codes_at", "dims", "operand", "plain", "positions"]

# Share of the cube that one special value gets, as long as at least half is left for the range.
_SPECIAL_SHARE = 0.1


def dims(parameter: Parameter) -> int:
    """Return the number of columns of a parameter."""
    return parameter.n if isinstance(parameter, Permutation) else 1


def codes_at(parameter: Parameter, u: Array) -> Array:
    """Return the codes at positions of the cube.

    Args:
        parameter: What the positions are of.
        u: Positions, shape (m, dims); values outside [0, 1] count as its ends.

    Returns:
        Shape (m,), for a permutation (m, n).
    """
    u = np.clip(u, 0.0, 1.0)
    if isinstance(parameter, Permutation):
        return np.argsort(u, axis=1, kind="stable")
    u = u[:, 0]
    if isinstance(parameter, Bool):
        return u >= 0.5
    if isinstance(parameter, Choice):
        return _cells(u, parameter.count)
    below, above, share = _slices(parameter)
    if not below and not above:
        return _in_range(parameter, u)
    inside = (u - share * len(below)) / (1.0 - share * (len(below) + len(above)))
    codes = _in_range(parameter, np.clip(inside, 0.0, 1.0))
    for place, value in enumerate(below):
        codes[(u >= share * place) & (u < share * (place + 1))] = value
    for place, value in enumerate(reversed(above)):
        codes[(u <= 1.0 - share * place) & (u > 1.0 - share * (place + 1))] = value
    return codes


def positions(parameter: Parameter, codes: Array) -> Array:
    """Return the middle of the interval of every code, shape (m, dims)."""
    if isinstance(parameter, Permutation):
        u = np.empty(codes.shape)
        np.put_along_axis(u, codes, (np.arange(parameter.n) + 0.5) / parameter.n, axis=1)
        return u
    if isinstance(parameter, Bool):
        return np.where(codes, 0.75, 0.25)[:, None]
    if isinstance(parameter, Choice):
        return ((codes + 0.5) / parameter.count)[:, None]
    below, above, share = _slices(parameter)
    inside = np.clip(_of_range(parameter, codes), 0.0, 1.0)
    u = share * len(below) + inside * (1.0 - share * (len(below) + len(above)))
    for place, value in enumerate(below):
        u[codes == value] = share * (place + 0.5)
    for place, value in enumerate(reversed(above)):
        u[codes == value] = 1.0 - share * (place + 0.5)
    return u[:, None]


def code(parameter: Parameter, values: Sequence[Any]) -> Array:
    """Return the codes of allowed values."""
    match parameter:
        case Permutation():
            return np.array(values, dtype=np.int64).reshape(len(values), parameter.n)
        case Choice():
            return np.array([parameter.index(value) for value in values], dtype=np.int64)
        case Bool():
            return np.array(values, dtype=bool)
        case Int():
            return np.array(values, dtype=np.int64)
        case Float():
            return np.array(values, dtype=np.float64)


def plain(parameter: Parameter, codes: Array) -> list[Any]:
    """Return codes as plain Python values."""
    match parameter:
        case Permutation():
            return [tuple(row) for row in codes.tolist()]
        case Choice():
            return [parameter.choices[place] for place in codes.tolist()]
        case _:
            return codes.tolist()


def operand(parameter: Parameter, codes: Array) -> Array:
    """Return codes as a column that expressions calculate with."""
    if isinstance(parameter, Choice):
        return _operands(parameter)[codes]
    return codes.astype(np.float64)


@lru_cache(maxsize=1024)
def _operands(parameter: Choice) -> Array:
    if not holds_text(parameter):
        return np.array([float(choice) for choice in parameter.choices])
    column = np.empty(parameter.count, dtype=object)
    column[:] = parameter.choices
    return column


def holds_text(parameter: Parameter) -> bool:
    """Return whether expressions must treat it as text."""
    return isinstance(parameter, Choice) and not all(isinstance(choice, int | float) for choice in parameter.choices)


def _slices(parameter: Int | Float) -> tuple[list[Any], list[Any], float]:
    if not parameter.special:
        return [], [], 0.0
    below = sorted(value for value in parameter.special if value < parameter.low)
    above = sorted(value for value in parameter.special if value > parameter.high)
    return below, above, min(_SPECIAL_SHARE, 0.5 / len(parameter.special))


def _cells(u: Array, count: int) -> Array:
    return np.minimum((u * count).astype(np.int64), count - 1)


def _ends(parameter: Int | Float) -> tuple[float, float]:
    """Return the logarithms between which a log range lies; a whole number owns half a step around it."""
    if isinstance(parameter, Int):
        return math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
    return math.log(parameter.low), math.log(parameter.high)


def _in_range(parameter: Int | Float, u: Array) -> Array:
    if isinstance(parameter, Int):
        if not parameter.log:
            return parameter.low + _cells(u, parameter.count) * parameter.step
        low, high = _ends(parameter)
        return np.clip(np.rint(np.exp(low + u * (high - low))).astype(np.int64), parameter.low, parameter.high)
    if parameter.step is not None:
        cells, inverse = np.unique(_cells(u, parameter.count or 1), return_inverse=True)
        return np.array([parameter.grid_value(cell) for cell in cells.tolist()])[inverse]
    if parameter.log:
        low, high = _ends(parameter)
        values = np.exp(low + u * (high - low))
    else:
        values = parameter.low + u * (parameter.high - parameter.low)
    # The ends themselves, not what rounding makes of them.
    values = np.where(u >= 1.0, parameter.high, np.where(u <= 0.0, parameter.low, values))
    return np.clip(values, parameter.low, parameter.high)


def _of_range(parameter: Int | Float, codes: Array) -> Array:
    inside = np.clip(codes, parameter.low, parameter.high)
    if parameter.log:
        low, high = _ends(parameter)
        return (np.log(inside) - low) / (high - low)
    if isinstance(parameter, Int):
        return ((inside - parameter.low) / parameter.step + 0.5) / parameter.count
    if parameter.step is not None:
        return (np.rint((inside - parameter.low) / parameter.step) + 0.5) / (parameter.count or 1)
    return (inside - parameter.low) / (parameter.high - parameter.low)

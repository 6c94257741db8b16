"""Numbers of rows at which times are known, and how much each counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlsysopt.core.errors import UsageError

__all__ = ["MOST_ROWS", "Grid", "grid", "parse_rows"]

MOST_ROWS = 512
"""Largest number of rows that is looked at unless more are declared."""

# Three steps per doubling above 3: a step of a third is about where one block of rows more starts to matter.
_FIRST = (1, 2, 3)
_LIKELY_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Grid:
    """Grid of row counts.

    Attributes:
        rows: Rising, the first is 1.
        weights: How much each counts, as many as rows, of sum 1.
    """

    rows: tuple[int, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.rows)


def grid(most: int = MOST_ROWS, likely: Sequence[int] = ()) -> Grid:
    """Return the grid up to a largest number of rows.

    A point weighs as much as its share of the axis log M; rows called likely get three quarters of the whole
    among them.

    Args:
        most: Largest number of rows that will arrive, >= 1.
        likely: Rows that arrive most often; each becomes a point.

    Raises:
        UsageError: a number of rows below 1.

    >>> grid(16).rows
    (1, 2, 3, 4, 6, 8, 12, 16)
    >>> focused = grid(16, likely=[10])
    >>> focused.rows[6], focused.weights[6] > 0.75
    (10, True)
    """
    wrong = [given for given in (most, *likely) if given < 1]
    if wrong:
        raise UsageError(f"rows must be at least 1, got {wrong[0]}")
    points = {*_steps(max(most, *likely, 1)), most, *likely}
    rows = tuple(sorted(points))
    weights = list(_log_uniform(rows))
    chosen = set(likely)
    if chosen:
        weights = [
            weight * (1 - _LIKELY_SHARE) + (_LIKELY_SHARE / len(chosen) if row in chosen else 0.0)
            for row, weight in zip(rows, weights, strict=True)
        ]
    return Grid(rows, tuple(weights))


def parse_rows(text: str) -> Grid:
    """Read `1..512` (the grid in that range) or `8,32,128` (these).

    Raises:
        UsageError: neither of the two.

    >>> parse_rows("1..4").rows, parse_rows("8,32").rows
    ((1, 2, 3, 4), (8, 32))
    """
    try:
        if ".." in text:
            low, high = (int(part) for part in text.split("..", 1))
            found = grid(high)
            rows = tuple(row for row in found.rows if row >= low) if low >= 1 else ()
        else:
            rows = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        rows = ()
    if not rows or rows[0] < 1:
        raise UsageError(f"rows {text!r}: allowed are a range such as 1..512 or a list such as 8,32,128")
    return Grid(rows, _log_uniform(rows))


def _steps(most: int) -> list[int]:
    rows = list(_FIRST)
    power = 4
    while rows[-1] < most:
        rows += [power, power * 3 // 2]
        power *= 2
    return [row for row in rows if row <= most]


def _log_uniform(rows: Sequence[int]) -> tuple[float, ...]:
    """Return the share of the logarithmic axis that is nearest to each point."""
    if len(rows) == 1:
        return (1.0,)
    logs = [math.log(row) for row in rows]
    borders = [logs[0], *((a + b) / 2 for a, b in itertools.pairwise(logs)), logs[-1]]
    whole = borders[-1] - borders[0]
    return tuple((b - a) / whole for a, b in itertools.pairwise(borders))

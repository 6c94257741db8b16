"""What the cost of training depends on: a few exact sums over the ratings, and two measured walks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["EXACT", "WALKS", "Characteristics", "characteristics_of"]

EXACT = ("R", "U", "I", "Su", "Si", "Mu", "Mi")
WALKS = ("Wu", "Wi")

_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Characteristics:
    """Sizes of one data set, under the names that cost terms use.

    Attributes:
        R: Ratings.
        U: Users with at least one rating.
        I: Items with at least one rating.
        Su: Sum over users of the square of their number of ratings.
        Si: The same over items.
        Mu: Most ratings of one user.
        Mi: Most ratings of one item.
        Wu: Seconds of one bare walk over the ratings, user by user; nan where it was not timed.
        Wi: The same, item by item.
        W1: Bytes up to which random updates run at the speed of the cache.
        W2: Bytes from which they run at the speed of memory.
    """

    R: int
    U: int
    I: int  # noqa: E741 (the symbol of the literature)
    Su: int
    Si: int
    Mu: int
    Mi: int
    Wu: float = math.nan
    Wi: float = math.nan
    # A square of 2 MiB lies in most second-level caches, one of 100 MiB in none; the staircase probe knows better.
    W1: float = 2.0 * 2**20
    W2: float = 100.0 * 2**20

    def __post_init__(self) -> None:
        for name in EXACT:
            if getattr(self, name) > _LARGEST:
                raise UsageError(f"{name} = {getattr(self, name)} does not fit in 64 bits: the data are too large")
        if not 0 < self.W1 < self.W2:
            raise UsageError(f"the ramp needs 0 < W1 < W2, got W1={self.W1}, W2={self.W2}")

    def with_walk(self, *, Wu: float | None = None, Wi: float | None = None) -> Characteristics:
        """Return the same with the measured seconds of a walk by user, by item, or both."""
        return replace(self, Wu=self.Wu if Wu is None else float(Wu), Wi=self.Wi if Wi is None else float(Wi))

    def with_ramp(self, *, W1: float, W2: float) -> Characteristics:
        """Return the same with the ends of this machine's ramp from cache to memory, in bytes."""
        return replace(self, W1=float(W1), W2=float(W2))

    def ramp(self, working_set_bytes: float) -> float:
        """Return how much of the way from cache to memory a working set has gone, 0 to 1.

        >>> sizes = Characteristics(R=4, U=2, I=3, Su=10, Si=6, Mu=3, Mi=2).with_ramp(W1=1e6, W2=1e8)
        >>> sizes.ramp(1e5), round(sizes.ramp(1e7), 6), sizes.ramp(1e9)
        (0.0, 0.5, 1.0)
        """
        if working_set_bytes <= self.W1:
            return 0.0
        return min(1.0, math.log(working_set_bytes / self.W1) / math.log(self.W2 / self.W1))

    def symbols(self) -> dict[str, float]:
        """Return name -> value of what a term may mention; walks that were not timed are left out."""
        walks = {name: getattr(self, name) for name in WALKS if not math.isnan(getattr(self, name))}
        return {**{name: float(getattr(self, name)) for name in EXACT}, **walks}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Characteristics:
        """Read what `as_dict` wrote."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in content.items() if name in known}
        values |= {name: math.nan for name, value in values.items() if value is None}
        return cls(**values)


def characteristics_of(user: npt.NDArray[np.int32], item: npt.NDArray[np.int32]) -> Characteristics:
    """Count one pass over the ratings.

    Args:
        user: Code of each rating's user, shape (R,).
        item: Code of each rating's item, shape (R,).

    Raises:
        UsageError: a sum that does not fit in 64 bits.

    >>> import numpy as np
    >>> characteristics_of(np.array([0, 0, 1], dtype=np.int32), np.array([0, 1, 0], dtype=np.int32)).symbols()
    {'R': 3.0, 'U': 2.0, 'I': 2.0, 'Su': 5.0, 'Si': 5.0, 'Mu': 2.0, 'Mi': 2.0}
    """
    found: dict[str, int] = {"R": len(user)}
    for side, codes, number in (("u", user, "U"), ("i", item, "I")):
        counts = np.bincount(codes) if len(codes) else np.zeros(1, dtype=np.int64)
        found[number] = int(np.count_nonzero(counts))
        found[f"M{side}"] = int(counts.max())
        found[f"S{side}"] = square_sum(counts)
    return Characteristics(**found)


def square_sum(counts: npt.NDArray[np.int64]) -> int:
    """Return the exact sum of squares; numpy's own would wrap around without a word."""
    total, largest = int(counts.sum()), int(counts.max(initial=0))
    if total * largest <= _LARGEST:
        return int(np.sum(counts.astype(np.int64) ** 2))
    return sum(int(count) ** 2 for count in counts)

"""Timing of one short function: thread CPU time, calibrated loops, caches that do not help."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlsysopt.core.errors import UsageError
from mlsysopt.core.measure.hardware import cache_bytes

__all__ = ["Timing", "last_level_bytes", "left_out", "timed"]

# Where the system does not say: larger than most caches that one core can call its own.
_FALLBACK_CACHE_BYTES = 64 << 20
# Servers report hundreds of megabytes that all their guests share: more than this is not copied.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of CPU time per call.

    Attributes:
        median_s: Median over the repeats.
        low_s: Lower end of the distribution-free 95 % interval for the median.
        high_s: Upper end.
        loops: Calls per repeat.
        sets: Copies of the working set that were rotated; 1 means a warm cache.
    """

    median_s: float
    low_s: float
    high_s: float
    loops: int
    sets: int = 1


def timed(fn: Callable[..., object], *, cold: Sequence[Any] = (), min_time_s: float = 0.05, repeats: int = 7) -> Timing:
    """Time a function in this thread.

    Args:
        fn: Called with the arrays of `cold` as arguments, in their order.
        cold: Arrays (anything with `nbytes` and `copy()`) that a real run would find outside the
            caches. Copies of them are rotated, twice as large as the last-level cache together, at
            most 1 GiB and an eighth of the memory.
        min_time_s: Least CPU time of one repeat; the loops are calibrated to it.
        repeats: At least 6, so that a 95 % interval exists.

    >>> timing = timed(lambda: sum(range(1000)), min_time_s=0.001)
    >>> 0 < timing.low_s <= timing.median_s <= timing.high_s
    True
    """
    if repeats < 6:
        raise UsageError(f"at least 6 repeats are needed for a 95 % interval, got {repeats}")
    if not min_time_s > 0:
        raise UsageError(f"min_time_s must be positive, got {min_time_s}")
    sets = _working_sets(cold)
    rotation = itertools.cycle(sets)
    loops = 1
    while (spent := _repeat(fn, rotation, loops)) < min_time_s:
        # Towards the goal in one step once the clock shows anything, at most tenfold at a time.
        aim = math.ceil(loops * min_time_s / spent * 1.1) if spent > 0 else loops * 10
        loops = min(max(aim, loops + 1), loops * 10)
    seconds = sorted(_repeat(fn, rotation, loops) / loops for _ in range(repeats))
    middle = (seconds[(repeats - 1) // 2] + seconds[repeats // 2]) / 2
    dropped = left_out(repeats)
    return Timing(middle, seconds[dropped], seconds[-1 - dropped], loops, len(sets))


def _repeat(fn: Callable[..., object], rotation: itertools.cycle[tuple[Any, ...]], loops: int) -> float:
    arguments = [next(rotation) for _ in range(loops)]
    start = time.thread_time()
    for given in arguments:
        fn(*given)
    return time.thread_time() - start


def left_out(n: int, level: float = 0.95) -> int:
    """Return how many values the sign-test interval of the median leaves out at each end."""
    tail, k = 0.0, 0
    while True:
        tail += math.comb(n, k) / 2**n
        if 2 * tail > 1 - level:
            return k - 1
        k += 1


def _working_sets(cold: Sequence[Any]) -> list[tuple[Any, ...]]:
    if not cold:
        return [()]
    one = sum(int(array.nbytes) for array in cold)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = min(2 * last_level_bytes(), _MOST_BYTES, memory // 8)
    copies = max(2, math.ceil(wanted / max(one, 1)))
    # Tiny arrays would need millions of Python objects; a million rotated calls are cold enough.
    return [tuple(array.copy() for array in cold) for _ in range(min(copies, 1_000_000))]


def last_level_bytes() -> int:
    """Return the size of the last-level cache, a guess where the system does not tell."""
    return max(cache_bytes(), default=_FALLBACK_CACHE_BYTES)

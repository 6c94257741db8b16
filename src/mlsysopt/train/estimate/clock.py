"""This machine's speed: a reference pair around every sample, bare walks, the staircase of its caches."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DEFAULT_RAMP", "Reference", "References", "Staircase", "staircase", "walk"]

MiB = 2**20

DEFAULT_RAMP = (2.0 * MiB, 100.0 * MiB)
"""Ends of the ramp from cache to memory where no probe was made, in bytes."""

# Objects of 24 bytes and their pointers, together 64 MiB: more than most cores have caches of their own.
_HEAP_OBJECTS = 2 * MiB
# A walk in steps of this many objects lands on another page each time.
_STRIDE = 509
_TOUCHES = 30_000
_ADDITIONS = 30_000
_STAIR_UPDATES = 100_000
_STAIRS_MIB = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Below this rise from the lowest to the highest step there is no staircase to be seen.
_LEAST_RISE = 1.3
_WALK_LEAST_S = 0.01


@dataclass(frozen=True, slots=True)
class Reference:
    """One reading of the reference pair, CPU seconds.

    Attributes:
        arithmetic_s: A fixed loop that stays in the registers.
        walk_s: A fixed walk over objects of a 64 MiB heap.
    """

    arithmetic_s: float
    walk_s: float

    def over(self, best: Reference) -> float:
        """Return how much slower than the best reading this one is, as a ratio of the worse of the two.

        >>> Reference(1.0, 3.0).over(Reference(1.0, 2.0))
        1.5
        """
        return max(self.arithmetic_s / best.arithmetic_s, self.walk_s / best.walk_s)


class References:
    """Reads the reference pair and remembers the best reading of each.

    The heap is made at the first reading and kept: it has to be the same for every sample.
    """

    def __init__(self) -> None:
        self._heap: list[float] = []
        self._best: Reference | None = None

    @property
    def best(self) -> Reference | None:
        """The least of each so far, None before the first reading."""
        return self._best

    def read(self) -> Reference:
        """Time the pair once; some milliseconds, a fifth of a second the first time."""
        if not self._heap:
            self._heap = [float(number) for number in range(_HEAP_OBJECTS)]
            self._read_once()
        return self._read_once()

    def _read_once(self) -> Reference:
        started = time.thread_time()
        total = 0
        for number in range(_ADDITIONS):
            total += number & 7
        middle = time.thread_time()
        sum(sum(self._heap[start::_STRIDE]) for start in range(_TOUCHES * _STRIDE // _HEAP_OBJECTS))
        ended = time.thread_time()
        found = Reference(max(middle - started, 1e-9), max(ended - middle, 1e-9))
        best = self._best or found
        self._best = Reference(min(best.arithmetic_s, found.arithmetic_s), min(best.walk_s, found.walk_s))
        return found

    def around(self, before: Reference, after: Reference) -> float:
        """Return how much slower than the best the machine was around a sample, at least 1."""
        assert self._best is not None
        return max(1.0, before.over(self._best), after.over(self._best))


def walk(trainset: Any, side: str) -> float:
    """Return CPU seconds of one bare loop over the ratings of a Surprise trainset.

    Args:
        trainset: With `ur` and `ir`: code -> list of (code, rating).
        side: `user` or `item`: in whose order.
    """
    lists = (trainset.ur if side == "user" else trainset.ir).values()
    passes, started = 0, time.process_time()
    while True:
        for ratings in lists:
            for _, _ in ratings:
                pass
        passes += 1
        spent = time.process_time() - started
        # One pass over small data is shorter than the clock is fine.
        if spent >= _WALK_LEAST_S:
            return spent / passes


@dataclass(frozen=True, slots=True)
class Staircase:
    """Cost of random updates by the size of what is updated.

    Attributes:
        sizes_bytes: Working sets, rising.
        seconds: CPU seconds of one update at each size.
    """

    sizes_bytes: tuple[int, ...]
    seconds: tuple[float, ...]

    def ramp(self) -> tuple[float, float]:
        """Return the sizes at which the rise begins and ends: 10 and 90 % of it, between the steps.

        >>> Staircase((1, 2, 4, 8, 16, 32), (1.0, 1.0, 2.0, 3.0, 3.0, 3.0)).ramp()
        (2.2973967099940698, 6.964404506368992)
        """
        # A neighbour's burst makes one step high: a larger working set is never cheaper.
        costs = np.minimum.accumulate(np.array(self.seconds)[::-1])[::-1]
        # The plateau is several steps wide: one noisy end must not move it.
        low, high = float(costs[0]), float(np.median(costs[-3:]))
        if high < _LEAST_RISE * low:
            return DEFAULT_RAMP
        sizes = np.log2(np.array(self.sizes_bytes, dtype=np.float64))
        rise = high - low
        return 2.0 ** self._crossing(sizes, costs, low + 0.1 * rise), 2.0 ** self._crossing(
            sizes, costs, low + 0.9 * rise
        )

    @staticmethod
    def _crossing(sizes: Any, costs: Any, level: float) -> float:
        above = int(np.argmax(costs >= level))
        if above == 0:
            return float(sizes[0])
        part = (level - costs[above - 1]) / (costs[above] - costs[above - 1])
        return float(sizes[above - 1] + part * (sizes[above] - sizes[above - 1]))


def staircase(*, most_bytes: int | None = None, steps_mib: Sequence[int] = _STAIRS_MIB) -> Staircase:
    """Measure random read-modify-write over growing arrays; about a second, once per machine.

    Args:
        most_bytes: Larger arrays are left out; None takes all.
        steps_mib: Sizes in MiB, rising.
    """
    allowed = [step for step in steps_mib if most_bytes is None or step * MiB <= most_bytes] or [steps_mib[0]]
    whole = np.zeros(allowed[-1] * MiB // 8)
    seconds: list[float] = []
    for step in allowed:
        part = whole[: step * MiB // 8]
        # An odd multiplier visits every place once, in an order that no prefetcher follows.
        places = (np.arange(_STAIR_UPDATES, dtype=np.int64) * 2_654_435_761) % len(part)

        def update(part: Any = part, places: Any = places) -> None:
            part[places] += 1.0

        seconds.append(_best_of(update, 4) / _STAIR_UPDATES)
    return Staircase(tuple(step * MiB for step in allowed), tuple(seconds))


def _best_of(action: Callable[[], object], times: int) -> float:
    best = math.inf
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(times):
            started = time.thread_time()
            action()
            best = min(best, time.thread_time() - started)
    finally:
        if collecting:
            gc.enable()
    return best

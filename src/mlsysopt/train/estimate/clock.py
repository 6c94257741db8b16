"""This machine's speed: a fixed loop around every sample, bare walks, the staircase of its caches."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DEFAULT_RAMP", "Staircase", "evened", "pace", "staircase", "walks"]

MiB = 2**20

DEFAULT_RAMP = (2.0 * MiB, 100.0 * MiB)
"""Ends of the ramp from cache to memory where no probe was made, in bytes."""

_ADDITIONS = 30_000
_READINGS = 3
# Readings at both ends of a training say half as much of a training this long as of a short one. Regressed on
# each other over two minutes of readings on two shared cores, that share is 0.9 after 0.1 s, 0.71 after 0.5,
# 0.55 after 1, 0.42 after 2, 0.28 after 4, 0.16 after 6.
_HALF_S = 1.3
_STAIR_UPDATES = 100_000
_STAIRS_MIB = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Below this rise from the lowest to the highest step there is no staircase to be seen.
_LEAST_RISE = 1.3
_WALK_LEAST_S = 0.02
_WALK_PASSES = 2
_WALK_LONG_S = 0.5


def pace() -> float:
    """Return CPU seconds of a fixed loop that stays in the registers; some milliseconds.

    What a neighbour on the same core takes away, it takes from this loop as well: read beside a training,
    it tells how fast the machine was just then. The least of a few readings, since the first one after a
    wait runs in cold caches.
    """
    return min(_loop() for _ in range(_READINGS))


def evened(seconds: float, *, read_s: float, pace_s: float, lasted_s: float) -> float:
    """Return what a training would have cost at another pace of the machine.

    A short one ran at the pace that was read beside it. A long one saw many paces, whatever it was when it
    began and ended: the longer it lasted, the less is corrected.

    Args:
        seconds: What it cost.
        read_s: Pace that was read at both its ends, see `pace`.
        pace_s: The other pace.
        lasted_s: Elapsed seconds between the two readings.

    >>> [round(evened(1.0, read_s=2e-3, pace_s=1e-3, lasted_s=lasted), 2) for lasted in (0.0, 1.3, 100.0)]
    [0.5, 0.71, 0.99]
    """
    return seconds * (pace_s / read_s) ** (1.0 / (1.0 + lasted_s / _HALF_S))


def _loop() -> float:
    started = time.thread_time()
    total = 0
    for number in range(_ADDITIONS):
        total += number & 7
    return max(time.thread_time() - started, 1e-9)


def walks(trainset: Any, names: Sequence[str]) -> dict[str, float]:
    """Return CPU seconds of a bare loop over the ratings of a Surprise trainset, in the steady state of a training.

    A training passes again and again, over both sides in turn where it needs both: what the last pass left
    in the caches is there for the next one. So the first pass counts only where it takes long: such data
    fit into no cache.

    Args:
        trainset: With `ur` and `ir`: code -> list of (code, rating).
        names: `Wu` walks user by user, `Wi` item by item.

    Returns:
        Name -> seconds of one pass.
    """
    sides = {name: (trainset.ur if name == "Wu" else trainset.ir).values() for name in names}
    first = {name: _pass(lists) for name, lists in sides.items()}
    if sum(first.values()) > _WALK_LONG_S:
        return first
    spent = dict.fromkeys(names, 0.0)
    passes, started = 0, time.process_time()
    # One pass over small data is shorter than the clock is fine.
    while names and (passes < _WALK_PASSES or time.process_time() - started < _WALK_LEAST_S):
        for name, lists in sides.items():
            spent[name] += _pass(lists)
        passes += 1
    return {name: seconds / max(passes, 1) for name, seconds in spent.items()}


def _pass(lists: Iterable[Iterable[tuple[int, float]]]) -> float:
    started = time.process_time()
    for ratings in lists:
        for _, _ in ratings:
            pass
    return time.process_time() - started


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

"""Shared memory of System V that a dead process left behind: it outlives whoever made it."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Segment", "remove_segments", "segments_of", "started_at"]

log = logging.getLogger("mlsysopt.processes")

_TABLE = Path("/proc/sysvipc/shm")
_REMOVE = 0  # IPC_RMID
# Members of a killed group detach when the kernel gets to them.
_DETACH_S, _LOOK_S = 1.0, 0.01
# The table counts whole seconds.
_GRAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of the kernel's table.

    Attributes:
        id: Number of the segment.
        maker: Process that made it.
        attached: How many processes use it now.
        made_at: Seconds since the epoch.
    """

    id: int
    maker: int
    attached: int
    made_at: float


def segments_of(makers: Collection[int], *, since: float = 0.0) -> list[Segment]:
    """Return the segments that these processes made, not before a time; none where the system does not tell.

    Args:
        makers: Process numbers.
        since: Seconds since the epoch: an older segment was made by another process of that number.
    """
    found: list[Segment] = []
    with suppress(OSError, IndexError, ValueError):
        for row in _TABLE.read_text().splitlines()[1:]:
            words = row.split()
            one = Segment(int(words[1]), int(words[4]), int(words[6]), float(words[13]))
            if one.maker in makers and one.made_at >= since - _GRAIN_S:
                found.append(one)
    return found


def remove_segments(makers: Collection[int], *, since: float) -> list[Segment]:
    """Remove the segments of dead processes as soon as nobody uses them.

    Args:
        makers: Processes that have ended.
        since: When the first of them started, seconds since the epoch.

    Returns:
        What was removed; one that is still in use, or belongs to somebody else, stays.
    """
    removed: list[Segment] = []
    deadline = time.monotonic() + _DETACH_S
    while left := segments_of(makers, since=since):
        for one in left:
            if one.attached == 0 and _remove(one.id):
                log.info("removed shared memory segment %d that process %d left behind", one.id, one.maker)
                removed.append(one)
        if all(one.attached == 0 for one in left) or time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_S)
    return removed


def started_at(ticks: int) -> float:
    """Return when a process started, seconds since the epoch, from its start ticks."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


def _remove(number: int) -> bool:
    return ctypes.CDLL(None, use_errno=True).shmctl(number, _REMOVE, None) == 0

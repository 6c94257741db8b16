"""What else the machine was doing while something was measured."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Conditions", "Counters", "conditions", "counters", "is_quiet"]

_PRESSURE = Path("/proc/pressure/cpu")
_STAT = Path("/proc/stat")
# user, nice, system, idle, iowait, irq, softirq, steal: what comes after counts guests a second time.
_STEAL, _FIELDS = 7, 8


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters that only grow; two of them give the share in between."""

    steal_ticks: int | None
    all_ticks: int | None
    major_faults: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """State of the machine around one measurement.

    Attributes:
        load1: Load average of the last minute.
        pressure_avg10: Percent of the last 10 s in which some task waited for a CPU; None where the
            kernel does not tell.
        steal_share: Share of CPU time that the hypervisor gave to others; None where unknown.
        major_faults: Page faults of this process and its finished children that needed a disk.
        at: Seconds since the epoch.
    """

    load1: float
    pressure_avg10: float | None
    steal_share: float | None
    major_faults: int
    at: float


def conditions(since: Counters | None = None) -> Conditions:
    """Read the state of the machine.

    Args:
        since: Counters taken before the measurement; steal and faults are counted from there,
            and without it since the start of the machine and of this process.
    """
    now = counters()
    before = since or Counters(0, 0, 0)
    return Conditions(
        load1=os.getloadavg()[0],
        pressure_avg10=_pressure(),
        steal_share=_share(before, now),
        major_faults=now.major_faults - before.major_faults,
        at=time.time(),
    )


def counters() -> Counters:
    """Read the counters that `conditions(since=...)` compares with."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    steal, everything = _ticks()
    return Counters(steal, everything, own.ru_majflt + children.ru_majflt)


def is_quiet(threshold: float = 10.0) -> bool:
    """Whether tasks waited for a CPU in less than `threshold` percent of the last 10 s.

    A kernel that does not tell counts as not quiet.
    """
    pressure = _pressure()
    return pressure is not None and pressure < threshold


def _pressure() -> float | None:
    """Parse `some avg10=0.12 avg60=...`."""
    try:
        first = _PRESSURE.read_text().split("\n", 1)[0]
        return float(first.split("avg10=", 1)[1].split(" ", 1)[0])
    except (OSError, IndexError, ValueError):
        return None


def _ticks() -> tuple[int | None, int | None]:
    try:
        with _STAT.open() as stat:
            fields = [int(word) for word in stat.readline().split()[1 : 1 + _FIELDS]]
    except (OSError, ValueError):
        return None, None
    return (fields[_STEAL], sum(fields)) if len(fields) == _FIELDS else (None, None)


def _share(before: Counters, now: Counters) -> float | None:
    if before.steal_ticks is None or before.all_ticks is None or now.steal_ticks is None or now.all_ticks is None:
        return None
    passed = now.all_ticks - before.all_ticks
    # Less than one tick went by: nothing can have been stolen that the kernel would show.
    return (now.steal_ticks - before.steal_ticks) / passed if passed > 0 else 0.0

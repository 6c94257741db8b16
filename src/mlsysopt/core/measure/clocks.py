"""CPU seconds of a whole process tree."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path

from mlsysopt.core.processes.identity import stat_fields
from mlsysopt.core.processes.memory import descendants

__all__ = ["Stopwatch", "tree_cpu"]

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def tree_cpu(pid: int | None = None) -> float:
    """Return user + system seconds used so far by a process, its finished and its living descendants.

    Args:
        pid: Root of the tree; None is this process.

    A difference of two calls is what happened in between, also for a child that was alive at the
    first call and had ended, and been waited for, at the second. Missed are children that nobody
    waited for and grandchildren that outlived their parent. On systems without `/proc`, living
    children count only once they have ended.
    """
    if pid is not None:
        return sum(_process_cpu(member) for member in [pid, *descendants(pid)])
    return time.process_time() + _others_cpu()


class Stopwatch:
    """Elapsed and CPU seconds of what runs inside the `with` block; walking the tree is left out.

    >>> with Stopwatch() as watch:
    ...     total = sum(range(100_000))
    >>> watch.wall_s > 0 and watch.cpu_s > 0
    True
    """

    __slots__ = ("_cpu", "_others", "_wall", "cpu_s", "wall_s")

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def __enter__(self) -> Stopwatch:
        self._others = _others_cpu()
        self._wall = time.perf_counter()
        self._cpu = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        own = time.process_time() - self._cpu
        self.wall_s = time.perf_counter() - self._wall
        # A child whose counter is coarse while it lives may seem to lose time when it ends.
        self.cpu_s = own + max(0.0, _others_cpu() - self._others)


def _others_cpu() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(_process_cpu(pid) for pid in descendants(os.getpid()))


def _process_cpu(pid: int) -> float:
    """Return the seconds of one living process and of the children it has waited for.

    The scheduler's counters are exact to the nanosecond but forget threads that ended; the tick
    counters remember them but are coarse: the larger one is nearer to the truth.
    """
    try:
        fields = stat_fields(_PROC / str(pid))
        own, waited = (int(fields[i]) + int(fields[i + 1]) for i in (11, 13))
    except (OSError, IndexError, ValueError):
        return 0.0
    exact = 0
    with suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:
        for thread in threads:
            # One that has just ended must not hide those after it.
            with suppress(OSError, IndexError, ValueError), open(f"{thread.path}/schedstat") as counters:
                exact += int(counters.read().split()[0])
    return max(own / _TICKS, exact / 1e9) + waited / _TICKS

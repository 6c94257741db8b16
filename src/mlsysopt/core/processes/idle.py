"""When another process has come to rest: none of its threads runs, nothing is read or written."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Hold", "Rest"]


@dataclass(frozen=True, slots=True)
class Hold:
    """Where a child is made to wait until its background threads have nothing left to do.

    From a certain line on its standard output is not read, so that whoever writes more than a pipe holds has
    to wait; it is read on once no thread has run for a while. What the child prints behind that line must be
    more than a page (the pipe) and what it buffers itself, or it would not have to wait.

    Attributes:
        after: Text of the line.
        idle_s: For how long nothing must have happened.
    """

    after: str
    idle_s: float = 0.3


class Rest:
    """For how long a process has been at rest; to be asked every few hundredths of a second.

    Args:
        pid: Its number.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._spent = self._counters()
        self._since = time.monotonic()

    def lasted_s(self) -> float:
        """Return the seconds since it was last seen at work."""
        spent = self._counters()
        if spent != self._spent or self._at_work():
            self._spent, self._since = spent, time.monotonic()
        return time.monotonic() - self._since

    def _counters(self) -> tuple[str, ...]:
        """Return CPU ticks, and bytes and calls of input and output, of all threads."""
        found: list[str] = []
        with suppress(OSError):
            found += _fields(Path(f"/proc/{self._pid}/stat"))[11:13]
        with suppress(OSError):
            found += Path(f"/proc/{self._pid}/io").read_text().splitlines()
        return tuple(found)

    def _at_work(self) -> bool:
        """Whether a thread runs, could run, or waits for a disk."""
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{self._pid}/task"):
                with suppress(OSError):
                    if _fields(Path(f"/proc/{self._pid}/task/{thread}/stat"))[0] in "RD":
                        return True
        return False


def _fields(stat: Path) -> list[str]:
    # The name in parentheses may hold spaces and parentheses itself.
    return stat.read_text(errors="replace").rpartition(")")[2].split()

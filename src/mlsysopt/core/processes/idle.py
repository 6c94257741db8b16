"""When another process has come to rest: none of its threads runs, nothing is read or written."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlsysopt.core.processes.identity import stat_fields

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
        self._folder = Path(f"/proc/{pid}")
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
            found += stat_fields(self._folder)[11:13]
        with suppress(OSError):
            found += (self._folder / "io").read_text().splitlines()
        return tuple(found)

    def _at_work(self) -> bool:
        """Whether a thread runs, could run, or waits for a disk."""
        with suppress(OSError):
            for thread in (self._folder / "task").iterdir():
                with suppress(OSError):
                    if stat_fields(thread)[0] in "RD":
                        return True
        return False

"""Which process is meant: numbers are used again, so a process is its number *and* its start time."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Owner", "start_ticks", "stat_fields", "this_process"]


@dataclass(frozen=True, slots=True)
class Owner:
    """One process of one boot of one machine.

    Attributes:
        host: Name of the machine and its machine id; homes can be shared between machines.
        boot: Identity of the boot, "" where the system does not tell.
        namespace: Process namespace: a container counts its processes anew.
        pid: Process number.
        ticks: Its start time in clock ticks since boot.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    ticks: int

    @property
    def stem(self) -> str:
        """A file name that no other process of this machine has."""
        return f"{self.pid}-{self.ticks}-{self.boot[:8]}"

    def sees(self, other: Owner) -> bool:
        """Whether the other one's process number means the same process here."""
        return bool(self.boot) and (self.boot, self.namespace) == (other.boot, other.namespace)

    def is_dead(self, other: Owner) -> bool:
        """Whether the other one certainly no longer runs; False when that cannot be known."""
        if self.sees(other):
            return start_ticks(other.pid) != other.ticks
        # Same machine, started anew since.
        return self.host == other.host and bool(self.boot) and bool(other.boot) and self.boot != other.boot

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Owner:
        """Read what `to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        host, boot, namespace = (str(fields[name]) for name in ("host", "boot", "namespace"))
        return cls(host, boot, namespace, int(fields["pid"]), int(fields["ticks"]))


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone or a zombie.

    >>> start_ticks(os.getpid()) is not None
    True
    """
    try:
        fields = stat_fields(Path(f"/proc/{pid}"))
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def stat_fields(folder: Path) -> list[str]:
    """Return what the kernel tells of a process or thread behind its name: state first, the start time twentieth.

    Args:
        folder: `/proc/PID`, or `/proc/PID/task/THREAD`.

    Raises:
        OSError: it is gone.
    """
    # The name in parentheses may hold spaces and parentheses itself.
    return (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def this_process() -> Owner:
    """Return the owner that this process is; asked anew each time, since a fork is another one."""
    pid = os.getpid()
    return Owner(f"{socket.gethostname()} {_machine_id()}".strip(), _boot(), _namespace(), pid, start_ticks(pid) or 0)


@cache
def _boot() -> str:
    return _line("/proc/sys/kernel/random/boot_id")


@cache
def _machine_id() -> str:
    return _line("/etc/machine-id")


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""

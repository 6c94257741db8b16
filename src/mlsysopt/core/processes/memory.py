"""Memory of process trees: who is in a tree, what it really takes, what the machine has left."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = [
    "RESERVE_BYTES",
    "available_bytes",
    "descendants",
    "forget_peak",
    "over_limit",
    "peak_rss_bytes",
    "tree_pss_bytes",
]

RESERVE_BYTES = 256 * 2**20
"""What the watchdog keeps free for the rest of the machine."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """Return the living children of a process, their children and so on; zombies included.

    A daemon that has left its parent is no longer among them.
    """
    found: list[int] = []
    pending = [pid]
    while pending:
        direct = _children(pending.pop())
        found += direct
        pending += direct
    return found


def tree_pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process and its descendants.

    A page that k processes share counts 1/k in each, so the sum is what ending the tree would free.
    Processes that end meanwhile, or belong to somebody else, count as nothing.
    """
    return sum(_pss_bytes(member) for member in [pid, *descendants(pid)])


def available_bytes() -> int | None:
    """Return the memory that a new process could use: of the machine, or of the container if that is less.

    None where the system does not tell.
    """
    free = [value for value in (_field("/proc/meminfo", "MemAvailable:"), _container_bytes()) if value is not None]
    return min(free) if free else None


def over_limit(pid: int, limit_bytes: int | None) -> str | None:
    """Return why a process tree has to be ended for its memory, None while it need not.

    Either it takes more than its limit, or it is large and the machine has no reserve left.
    """
    # Pages that nobody shares make both sums equal; reading the exact one holds up the process.
    resident = sum(_resident_bytes(member) for member in [pid, *descendants(pid)])
    if limit_bytes is not None and resident > limit_bytes and tree_pss_bytes(pid) > limit_bytes:
        return "limit"
    if resident > RESERVE_BYTES:
        free = available_bytes()
        if free is not None and free < RESERVE_BYTES:
            return "reserve"
    return None


def peak_rss_bytes(pid: int) -> int:
    """Return the largest resident size so far of one living process, 0 when it is gone."""
    return _field(f"/proc/{pid}/status", "VmHWM:") or 0


def forget_peak() -> None:
    """Set this process's peak back to its present size; where the system refuses, it stays what it was."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _children(pid: int) -> list[int]:
    """List children by the kernel's own list, which is kept per thread."""
    found: list[int] = []
    with suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:
        for thread in threads:
            with suppress(OSError):
                found += [int(word) for word in Path(thread.path, "children").read_text().split()]
    return found


def _pss_bytes(pid: int) -> int:
    found = _field(f"/proc/{pid}/smaps_rollup", "Pss:")
    return found if found is not None else _resident_bytes(pid)


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _field(path: str, name: str) -> int | None:
    """Read one `Name:  123 kB` line as bytes."""
    with suppress(OSError), open(path) as lines:
        for line in lines:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None


def _container_bytes() -> int | None:
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        # Cached file pages count as used, but make room at once.
        rows = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - used + int(rows.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None

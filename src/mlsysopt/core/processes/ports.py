"""TCP ports of this machine: a free one, and who listens on one."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["LOOPBACK", "answers", "free_port", "listens"]

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"


def free_port() -> int:
    """Return a port on which nobody listens now; bind it soon, another process may ask as well.

    >>> 1024 <= free_port() < 65536
    True
    """
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether somebody accepts connections on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def listens(pids: Iterable[int], port: int) -> bool | None:
    """Whether one of the processes holds the socket that listens on a port; None when that cannot be seen."""
    wanted = {f"socket:[{inode}]" for inode in _listeners(port)}
    if not wanted:
        return None
    seen = False
    for pid in pids:
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                seen = True
                with suppress(OSError):
                    if os.readlink(entry.path) in wanted:
                        return True
    return False if seen else None


def _listeners(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for row in Path(table).read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == _LISTEN and re.search(rf":{port:04X}$", fields[1]):
                    inodes.add(fields[9])
    return inodes

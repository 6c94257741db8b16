"""Ending processes that are not ours to wait for: what a dead run left behind, grandchildren."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlsysopt.core.processes.identity import start_ticks

__all__ = ["TOKEN", "Stray", "carriers", "end_all"]

TOKEN = "MLSYSOPT_OWNER"
"""Environment variable in which every child carries its owner's token."""

# KILL cannot be refused, but a process that waits for a disk dies only after it.
_DEATH_S = 5.0


@dataclass(frozen=True, slots=True)
class Stray:
    """One process that was ended."""

    pid: int
    name: str


def carriers(token: str) -> list[int]:
    """Return the processes, except this one, whose environment carries a token.

    Processes of other users cannot be asked and are left out, unless this is root.
    """
    mark = f"{TOKEN}={token}".encode()
    found: list[int] = []
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdecimal()]
    for pid in pids:
        if pid != os.getpid():
            with suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.append(pid)
    return found


def end_all(known: Iterable[tuple[int, int]], token: str) -> list[Stray]:
    """Kill processes by number and start time, and whatever carries the token; wait until they are gone.

    Args:
        known: (process number, start ticks); a number that now belongs to another process is left alone.
        token: The ledger's token.
    """
    ended: list[Stray] = []
    # Twice: a process may have forked between the look and the kill.
    for attempt in range(2):
        pairs = list(known) if attempt == 0 else []
        pairs += [(pid, ticks) for pid in carriers(token) if (ticks := start_ticks(pid)) is not None]
        ended += _kill(dict.fromkeys(pairs))
        if not pairs:
            break
    return ended


def _kill(pairs: Iterable[tuple[int, int]]) -> list[Stray]:
    handles: list[int] = []
    killed: list[Stray] = []
    try:
        for pid, ticks in pairs:
            with suppress(OSError):
                handle = os.pidfd_open(pid)
                handles.append(handle)
                # The handle is fixed to one process: checked after it is held, the check stays true.
                if start_ticks(pid) == ticks:
                    name = _name(pid)
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    killed.append(Stray(pid, name))
                    continue
                os.close(handles.pop())
        _await(handles, _DEATH_S)
    finally:
        for handle in handles:
            os.close(handle)
    return killed


def _await(handles: list[int], timeout_s: float) -> None:
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    left, deadline = len(handles), time.monotonic() + timeout_s
    while left and (now := time.monotonic()) < deadline:
        for handle, _ in poll.poll((deadline - now) * 1000):
            poll.unregister(handle)
            left -= 1


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""

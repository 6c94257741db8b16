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

from mlsysopt.core.processes.identity import start_ticks, stat_fields

__all__ = ["TOKEN", "Stray", "carriers", "end_all"]

TOKEN = "MLSYSOPT_OWNER"
"""Environment variable in which every child carries its owner's token."""

# KILL cannot be refused, but a process that waits for a disk dies only after it.
_DEATH_S = 5.0

# A process that is just starting a program has no environment to read yet: how long that may take to wait for,
# how often to look, and how old such a process can be.
_EXEC_S, _LOOK_S, _YOUNG_S = 2.0, 0.01, 30.0

# Flags of the kernel in /proc/PID/stat: on its way out; a thread of the kernel itself.
_EXITING, _KERNEL = 0x4, 0x200000


@dataclass(frozen=True, slots=True)
class Stray:
    """One process that was ended."""

    pid: int
    name: str


def carriers(token: str) -> list[int]:
    """Return the processes, except this one, whose environment carries a token.

    Processes of other users cannot be asked and are left out, unless this is root.
    """
    return _look(token)[0]


def end_all(known: Iterable[tuple[int, int]], token: str) -> list[Stray]:
    """Kill processes by number and start time, and whatever carries the token; wait until they are gone.

    Args:
        known: (process number, start ticks); a number that now belongs to another process is left alone.
        token: The ledger's token.
    """
    ended = _kill(dict.fromkeys(known))
    deadline = time.monotonic() + _DEATH_S
    patience = time.monotonic() + _EXEC_S
    # Until a look finds nothing: a process may fork between the look and its end.
    while (now := time.monotonic()) < deadline:
        found, unclear = _look(token)
        pairs = [(pid, ticks) for pid in found if (ticks := start_ticks(pid)) is not None]
        ended += _kill(dict.fromkeys(pairs))
        if not pairs:
            if not unclear or now > patience:
                break
            time.sleep(_LOOK_S)
    return ended


def _look(token: str) -> tuple[list[int], bool]:
    """Return who carries the token, and whether some young process cannot tell yet."""
    mark = f"{TOKEN}={token}".encode()
    found: list[int] = []
    unclear = False
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdecimal()]
    for pid in pids:
        if pid != os.getpid():
            with suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes()
                if mark in variables.split(b"\0"):
                    found.append(pid)
                elif not variables:
                    unclear = unclear or _is_starting(pid)
    return found, unclear


def _is_starting(pid: int) -> bool:
    """Whether a process without an environment is so young that it may be between fork and its program."""
    fields = stat_fields(Path(f"/proc/{pid}"))
    if fields[0] in "ZX" or int(fields[6]) & (_EXITING | _KERNEL):
        return False
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK") < _YOUNG_S


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

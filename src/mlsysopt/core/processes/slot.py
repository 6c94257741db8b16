"""One slot per machine for work that is timed: two timings never share the cores."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mlsysopt.core.errors import InfrastructureError

__all__ = ["exclusive_slot", "holds_slot"]

log = logging.getLogger("mlsysopt.processes")

_held = threading.local()


def holds_slot() -> bool:
    """Whether this thread is inside `exclusive_slot`."""
    return bool(getattr(_held, "depth", 0))


@contextmanager
def exclusive_slot() -> Generator[None]:
    """Wait for this machine's timing slot and hold it; a thread that holds it may enter again.

    The lock is the kernel's: it is free as soon as its holder is gone, however that ended. It is
    shared by all users of the machine that see the same folder of temporary files.

    Raises:
        InfrastructureError: there is no place for the lock file.

    >>> with exclusive_slot(), exclusive_slot():
    ...     holds_slot()
    True
    """
    if holds_slot():
        _held.depth += 1
        try:
            yield
        finally:
            _held.depth -= 1
        return
    descriptor = _open(Path(tempfile.gettempdir()) / "mlsysopt-exclusive.lock")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another run that holds this machine's timing slot")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        _held.depth = 1
        yield
    finally:
        _held.depth = 0
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        except PermissionError:
            # In a sticky folder others may not open this file to write; a lock needs no writing.
            return os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        raise InfrastructureError(f"cannot open the lock file {path}: {error.strerror or error}") from error

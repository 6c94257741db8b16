"""The garbage collector, kept out of work that makes many objects and drops few."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock

__all__ = ["uncollected"]

_lock = Lock()
_inside = 0
_was_on = False


@contextmanager
def uncollected() -> Generator[None]:
    """Hold the collector of cycles back; a context manager, or a decorator.

    A compiler's data live until it is done, and a process with torch in it has a million objects beside them: a
    collection finds nothing, in half a second. Calls may nest and run in several threads; the last one out turns the
    collector on, if the first one in found it on.

    >>> with uncollected():
    ...     gc.isenabled()
    False
    """
    global _inside, _was_on
    with _lock:
        if _inside == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _was_on:
                gc.enable()

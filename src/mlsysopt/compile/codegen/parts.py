"""Code that many modules call and no program changes: the innermost blocks of products, compiled once in a process.

A module declares what it needs; `workshop` links the parts that its declarations name. `begin` starts a part in a
thread of its own before anybody needs it: LLVM works without the interpreter lock.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from threading import Lock, Thread
from typing import TYPE_CHECKING

from mlsysopt.compile.codegen.microkernel import ELEMENT_BYTES, write_part
from mlsysopt.compile.codegen.objects import Source
from mlsysopt.compile.codegen.target import new_module

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["begin", "needed", "object_code"]

_lock = Lock()
_made: dict[tuple[Isa, str], Future[bytes]] = {}


def needed(declared: Iterable[str]) -> tuple[str, ...]:
    """Return the forms of weights whose blocks are among the functions that modules declare.

    >>> needed(["stream_int8", "printf"])
    ('int8',)
    """
    names = set(declared)
    return tuple(form for form in ELEMENT_BYTES if names & {f"multiply_{form}", f"stream_{form}"})


def begin(isa: Isa, form: str, *, cached: bool = True) -> Future[bytes]:
    """Start to compile a part, unless that was done before.

    Args:
        isa: What it may use.
        form: "f32", "bf16" or "int8".
        cached: Whether it is taken from disk, and kept there.
    """
    with _lock:
        found = _made.get((isa, form))
        if found is not None and not (found.done() and found.exception()):
            return found
        module = new_module(f"part_{form}")
        write_part(module, isa, form)
        source = Source.of(module)
        future = _made[isa, form] = Future()

    def compiled() -> None:
        try:
            future.set_result(source.object_code(isa, cached=cached))
        except BaseException as error:  # it is the waiting thread's
            future.set_exception(error)

    Thread(target=compiled, name=f"mlsysopt-{module.name}").start()
    return future


def object_code(isa: Isa, form: str, *, cached: bool = True) -> bytes:
    """Return a part.

    Raises:
        CodegenError: LLVM refuses it.
    """
    return begin(isa, form, cached=cached).result()


def _after_fork() -> None:
    """A child has no thread that would finish what its parent began."""
    global _lock
    _lock = Lock()
    for key in [key for key, future in _made.items() if not future.done()]:
        del _made[key]


os.register_at_fork(after_in_child=_after_fork)

"""Modules on their way through LLVM, one after the other in a thread beside the one that writes them.

LLVM works without the interpreter lock, so that a program's first kernels are compiled while its last ones are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from mlsysopt.compile.codegen.objects import Library, Source, load
from mlsysopt.compile.codegen.parts import needed, object_code
from mlsysopt.compile.codegen.target import new_module

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["Workshop", "build"]

_FULL = 600
"""Instructions of a module that is worth a start of LLVM: some 50 ms of work."""


class Workshop:
    """Compiles what it is handed and links it in the end; a context manager.

    Args:
        isa: What the code may use.
        cached: Whether object code is taken from disk, and kept there.
        timed: Entered by the thread that compiles, for as long as it does.
    """

    def __init__(self, isa: Isa, *, cached: bool, timed: Callable[[], AbstractContextManager[None]]) -> None:
        self._isa, self._cached, self._timed = isa, cached, timed
        self._thread = ThreadPoolExecutor(1, "mlsysopt-llvm")
        self._handed: list[tuple[Source, Future[bytes]]] = []

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

    def advanced(self, module: ir.Module) -> ir.Module:
        """Return where to write on: the same module, or the next one when that is full and was handed over.

        The next module declares what the one before defines and declares, so that every kernel is written once.
        """
        if _instructions(module) < _FULL:
            return module
        self.hand_over(module)
        return _after(module)

    def hand_over(self, module: ir.Module) -> None:
        """Compile a module that is complete."""
        source = Source.of(module)

        def compiled() -> bytes:
            with self._timed():
                return source.object_code(self._isa, cached=self._cached)

        self._handed.append((source, self._thread.submit(compiled)))

    def linked(self) -> Library:
        """Wait for all that was handed over and link it with the parts that it calls.

        Raises:
            CodegenError: LLVM refuses a module.
        """
        own = [future.result() for _, future in self._handed]
        return _linked([source for source, _ in self._handed], own, self._isa, cached=self._cached)


def build(module: ir.Module, isa: Isa, *, cached: bool = True) -> Library:
    """Compile one module and load it; every function that it defines with external linkage has an address.

    Args:
        module: The code.
        isa: What it may use.
        cached: Whether object code of the same text is taken from disk, and kept there.

    Raises:
        CodegenError: LLVM refuses the text, which is written to the state folder.
    """
    source = Source.of(module)
    return _linked([source], [source.object_code(isa, cached=cached)], isa, cached=cached)


def _linked(sources: Sequence[Source], own: Sequence[bytes], isa: Isa, *, cached: bool) -> Library:
    forms = needed(name for source in sources for name in source.declared)
    parts = [object_code(isa, form, cached=cached) for form in forms]
    return load([*own, *parts], [name for source in sources for name in source.functions])


def _instructions(module: ir.Module) -> int:
    return sum(len(block.instructions) for function in module.functions for block in function.blocks)


def _after(module: ir.Module) -> ir.Module:
    from llvmlite import ir

    following = new_module(module.name)
    for one in module.functions:
        if one.linkage in ("", "external") and not one.name.startswith("llvm."):
            declared = ir.Function(following, one.function_type, one.name)
            declared.calling_convention = one.calling_convention
            for word in one.attributes:
                declared.attributes.add(word)
    return following

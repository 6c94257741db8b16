"""The one calling convention of every kernel.

    void kernel(ptr* buffers, const i64* params, i64 begin, i64 end, ptr scratch)

`buffers` holds addresses of operands and results in an order that the kernel documents, `params` sizes and strides
in elements. The work is cut into units that are independent of each other; a call does those in [begin, end), so
that a thread takes a range. `scratch` is private to the call, aligned to 64 bytes; its bytes are a formula of the
params. A kernel touches nothing but these and returns nothing. Buffers of results never overlap those of operands
unless a kernel says that it works in place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llvmlite import ir

__all__ = ["Kernel", "KernelBuilder", "begin_kernel", "entry"]

_CALL = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """A kernel's place in a module.

    Attributes:
        name: Function in the module; equal work has an equal name, so that it is emitted once.
        buffers: What each buffer is, in order; for people and for checks.
        params: What each parameter is, in order.
        units: Number of units of work for given params.
        scratch_bytes: Bytes of scratch for given params.
    """

    name: str
    buffers: tuple[str, ...]
    params: tuple[str, ...]
    units: Callable[[Sequence[int]], int]
    scratch_bytes: Callable[[Sequence[int]], int]


@dataclass
class KernelBuilder:
    """The body of a kernel that is being written.

    Attributes:
        module: Where it goes.
        function: It.
        ir: Writes instructions at the end of the current block.
        buffers, params, begin, end, scratch: Its arguments.
    """

    module: ir.Module
    function: ir.Function
    ir: ir.IRBuilder
    buffers: Any
    params: Any
    begin: Any
    end: Any
    scratch: Any

    def buffer(self, i: int) -> Any:
        """Load the address of a buffer."""
        from llvmlite import ir

        place = self.ir.gep(self.buffers, [ir.Constant(ir.IntType(64), i)], source_etype=ir.PointerType())
        return self.ir.load(place, typ=ir.PointerType())

    def param(self, i: int) -> Any:
        """Load a parameter."""
        from llvmlite import ir

        i64 = ir.IntType(64)
        place = self.ir.gep(self.params, [ir.Constant(i64, i)], source_etype=i64)
        return self.ir.load(place, typ=i64)


def begin_kernel(module: ir.Module, name: str) -> KernelBuilder:
    """Start a kernel; the caller writes its body and ends it with `ret_void`."""
    from llvmlite import ir

    ptr, i64 = ir.PointerType(), ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ptr, ptr, i64, i64, ptr]), name)
    for argument, word in zip(function.args, ("buffers", "params", "begin", "end", "scratch"), strict=True):
        argument.name = word
    for i in (0, 1, 4):
        function.args[i].add_attribute("noalias")
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    return KernelBuilder(module, function, builder, *function.args)


def entry(address: int) -> Callable[[Sequence[int], Sequence[int], int, int, int], None]:
    """Return a Python function for a kernel: addresses of buffers, params, begin, end, address of scratch.

    For tests and for kernels that are called one at a time; a flow calls kernels without Python.
    """
    call = _CALL(address)

    def run(buffers: Sequence[int], params: Sequence[int], begin: int, end: int, scratch: int = 0) -> None:
        addresses = (ctypes.c_void_p * max(len(buffers), 1))(*buffers)
        numbers = (ctypes.c_int64 * max(len(params), 1))(*params)
        call(ctypes.addressof(addresses), ctypes.addressof(numbers), begin, end, scratch)

    return run

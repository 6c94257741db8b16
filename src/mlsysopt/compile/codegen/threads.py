"""Forks of generated code, in the thread pool that is already there.

torch keeps its threads in an OpenMP library; code that brought a pool of its own would share the processor with it
badly. So a fork is one call of that library's `GOMP_parallel`, by address; where there is none, work is done on the
calling thread.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.loops import address, i64, internal, least

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["emit_fork", "pool"]

_LIBRARIES = ("libgomp", "libiomp5", "libomp")


def emit_fork(module: ir.Module, isa: Isa) -> ir.Function:
    """Return the function that does a kernel's units on several threads; it is written once in a module.

        void fork(ptr kernel, ptr buffers, ptr params, i64 units, i64 threads, ptr scratch, i64 scratch_bytes, ptr pool)

    Units are cut into `threads` ranges of almost equal length, one a thread; the range of each is the same in every
    call. Thread t has `scratch_bytes`, rounded up to 64, from scratch + t times that. `pool` is the address from
    `pool()`; with 0, with one thread or with one unit the kernel is called here, once, with all units. A pool that
    gives fewer threads than asked has them take several ranges.
    """
    from llvmlite import ir

    known = module.globals.get("fork")
    if known is not None:
        return known
    ptr, int64, i32 = ir.PointerType(), ir.IntType(64), ir.IntType(32)
    function = internal(module, "fork", [ptr, ptr, ptr, int64, int64, ptr, int64, ptr])
    kernel, buffers, params, units, threads, scratch, scratch_bytes, crew = function.args
    entry = ir.FunctionType(ir.VoidType(), [ptr, ptr, int64, int64, ptr])
    b = ir.IRBuilder(function.append_basic_block("entry"))
    shares = least(b, threads, units)
    alone = b.or_(b.icmp_unsigned("==", crew, ir.Constant(ptr, None)), b.icmp_signed("<=", shares, i64(1)))
    with b.if_else(alone) as (here, there):
        with here:
            b.call(_Callee(kernel, entry), [buffers, params, i64(0), units, scratch])
        with there:
            job = b.alloca(_job())
            job.type = ptr  # llvmlite's own is a pointer to the struct, through which no field can be stored
            each = b.and_(b.add(scratch_bytes, i64(63)), i64(-64))
            for i, value in enumerate((kernel, buffers, params, units, shares, scratch, each, i64(0))):
                b.store(value, _field(b, job, i))
            fork = ir.FunctionType(ir.VoidType(), [ptr, ptr, i32, i32])
            b.call(_Callee(crew, fork), [_share(module), job, b.trunc(shares, i32), ir.Constant(i32, 0)])
    b.ret_void()
    return function


def pool() -> int:
    """Return the address of `GOMP_parallel` in the OpenMP library of this process, 0 when none is loaded.

    torch's own library comes first, whatever its file is called; nothing is loaded for the sake of this.
    """
    for path in sorted(set(_loaded()), key=lambda one: "torch" not in Path(one).parts):
        try:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
        except (AttributeError, OSError):
            continue
    return 0


def _loaded() -> Iterable[str]:
    """Return the files of OpenMP libraries that are mapped into this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        path = line[line.find("/") :] if "/" in line else ""
        if Path(path).name.startswith(_LIBRARIES):
            yield path


def _job() -> ir.LiteralStructType:
    """Kernel, buffers, params, units, shares, scratch, bytes of scratch for a share, next share."""
    from llvmlite import ir

    ptr, int64 = ir.PointerType(), ir.IntType(64)
    return ir.LiteralStructType([ptr, ptr, ptr, int64, int64, ptr, int64, int64])


def _field(b: ir.IRBuilder, job: ir.Value, index: int) -> ir.Value:
    from llvmlite import ir

    place = [ir.Constant(ir.IntType(32), i) for i in (0, index)]
    return b.gep(job, place, source_etype=_job())


class _Callee:
    """A function known by its address; llvmlite calls what has a type of functions and a reference."""

    def __init__(self, place: Any, kind: ir.FunctionType) -> None:
        self.type = kind.return_type
        self.function_type = kind
        self.get_reference = place.get_reference


def _share(module: ir.Module) -> ir.Function:
    """Return what every thread of the pool runs: shares of the job, until none is left."""
    from llvmlite import ir

    ptr, int64 = ir.PointerType(), ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ptr]), "fork_share")
    function.linkage = "internal"
    (job,) = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    types = [ptr, ptr, ptr, int64, int64, ptr, int64]
    kernel, buffers, params, units, shares, scratch, each = (
        b.load(_field(b, job, i), typ=kind) for i, kind in enumerate(types)
    )
    head, body, done = (b.append_basic_block(word) for word in ("head", "body", "done"))
    b.branch(head)
    b.position_at_end(head)
    share = b.atomic_rmw("add", _field(b, job, 7), i64(1), "monotonic")
    b.cbranch(b.icmp_signed("<", share, shares), body, done)
    b.position_at_end(body)
    begin, end = (b.sdiv(b.mul(one, units), shares) for one in (share, b.add(share, i64(1))))
    place = address(b, scratch, b.mul(share, each), ir.IntType(8))
    entry = ir.FunctionType(ir.VoidType(), [ptr, ptr, int64, int64, ptr])
    b.call(_Callee(kernel, entry), [buffers, params, begin, end, place])
    b.branch(head)
    b.position_at_end(done)
    b.ret_void()
    return function

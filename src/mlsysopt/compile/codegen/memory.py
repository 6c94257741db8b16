"""Floats between memory and vectors: any address, any number of lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.lanes import intrinsic, number
from mlsysopt.compile.codegen.loops import address, i64, internal, least, loop, most, splat

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["copy_rows", "first_lanes", "read", "write"]


def first_lanes(b: ir.IRBuilder, count: Any, lanes: int) -> Any:
    """Return a mask whose first `count` lanes are set; below 0 none, above `lanes` all."""
    from llvmlite import ir

    i32 = ir.IntType(32)
    bounded = b.trunc(most(b, least(b, count, i64(lanes)), i64(0)), i32)
    numbers = ir.Constant(ir.VectorType(i32, lanes), list(range(lanes)))
    return b.icmp_signed("<", numbers, splat(b, bounded, lanes))


def read(b: ir.IRBuilder, place: Any, lanes: int, count: Any = None) -> Any:
    """Load floats from any address; behind the first `count` lanes, where nothing is read, are zeros."""
    from llvmlite import ir

    kind = ir.VectorType(ir.FloatType(), lanes)
    if count is None:
        return b.load(place, typ=kind, align=4)
    mask = first_lanes(b, count, lanes)
    given = [place, ir.Constant(ir.IntType(32), 4), mask, number(kind, 0.0)]
    return intrinsic(b, f"llvm.masked.load.v{lanes}f32.p0", given, kind)


def write(b: ir.IRBuilder, place: Any, x: Any, count: Any = None) -> None:
    """Store floats at any address, all lanes or the first `count`."""
    from llvmlite import ir

    if count is None:
        b.store(x, place, align=4)
        return
    given = [x, place, ir.Constant(ir.IntType(32), 4), first_lanes(b, count, x.type.count)]
    intrinsic(b, f"llvm.masked.store.v{x.type.count}f32.p0", given, ir.VoidType())


def copy_rows(module: ir.Module, isa: Isa) -> ir.Function:
    """Return the function that copies a matrix of f32: void(from, stride, to, stride, rows, columns)."""
    from llvmlite import ir

    known = module.globals.get("copy_rows")
    if known is not None:
        return known
    ptr, int64, f32 = ir.PointerType(), ir.IntType(64), ir.FloatType()
    function = internal(module, "copy_rows", [ptr, int64, ptr, int64, int64, int64])
    source, lds, target, ldt, rows, columns = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    whole = b.and_(columns, i64(-isa.lanes))
    with loop(b, 0, rows) as row:
        here, there = address(b, source, b.mul(row.index, lds), f32), address(b, target, b.mul(row.index, ldt), f32)
        with loop(b, 0, whole, isa.lanes) as column:
            write(b, address(b, there, column.index, f32), read(b, address(b, here, column.index, f32), isa.lanes))
        with loop(b, whole, columns) as column:
            one = b.load(address(b, here, column.index, f32), typ=f32)
            b.store(one, address(b, there, column.index, f32))
    b.ret_void()
    return function

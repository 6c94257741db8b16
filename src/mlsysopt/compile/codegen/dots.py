"""Products of a few rows with a plain matrix, both read along their rows: what packing the matrix would not pay for.

    out[r, c] = sum over k of x[r, k] * w[c, k]        c < columns, k < depth

As many rows of the matrix as a vector has lanes are read side by side, each into sums of its own; halving them
together leaves the sum of row c in lane c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.lanes import Lanes, number
from mlsysopt.compile.codegen.loops import address, i64, internal, least, loop
from mlsysopt.compile.codegen.memory import read, write

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["dots"]


def dots(module: ir.Module, isa: Isa) -> ir.Function:
    """Return the function that multiplies rows by rows, written once in a module.

        void dots(ptr x, i64 ldx, ptr w, i64 ldw, i64 depth, ptr out, i64 ldo, i64 rows, i64 columns)

    Strides in elements. Columns of `out` behind `columns` up to the next vector are written too; of x and w nothing
    is read outside.
    """
    from llvmlite import ir

    known = module.globals.get("dots")
    if known is not None:
        return known
    ptr, int64, f32 = ir.PointerType(), ir.IntType(64), ir.FloatType()
    function = internal(module, "dots", [ptr, int64, ptr, int64, int64, ptr, int64, int64, int64])
    x, ldx, w, ldw, depth, out, ldo, rows, columns = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    lanes, vector = isa.lanes, ir.VectorType(f32, isa.lanes)
    arithmetic = Lanes(b, vector, isa)
    whole, last = b.and_(depth, i64(-lanes)), b.sub(columns, i64(1))
    with loop(b, 0, columns, lanes) as group:
        # Rows behind the last are read as the last.
        numbers = [least(b, b.add(group.index, i64(j)), last) for j in range(lanes)]
        beside = [address(b, w, b.mul(one, ldw), f32) for one in numbers]
        with loop(b, 0, rows) as row:
            here = address(b, x, b.mul(row.index, ldx), f32)

            def turned(start: Any, sums: Sequence[Any], count: Any = None, here: Any = here) -> list[Any]:
                factor = read(b, address(b, here, start, f32), lanes, count)
                return [
                    arithmetic.fma(read(b, address(b, line, start, f32), lanes, count), factor, total)
                    for line, total in zip(beside, sums, strict=True)
                ]

            with loop(b, 0, whole, lanes, [number(vector, 0.0)] * lanes) as part:
                part.values = turned(part.index, part.values)
            with loop(b, whole, depth, lanes, part.results) as tail:
                tail.values = turned(tail.index, tail.values, b.sub(depth, tail.index))
            write(b, address(b, out, b.add(b.mul(row.index, ldo), group.index), f32), _totals(b, tail.results))
    b.ret_void()
    return function


def _totals(b: ir.IRBuilder, sums: Sequence[Any]) -> Any:
    """Return the vector whose lane j is what the lanes of vector j add up to."""
    from llvmlite import ir

    left, lanes = list(sums), len(sums)
    half = lanes // 2
    while half:
        low = [j if not j & half else lanes + j - half for j in range(lanes)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), order) for order in (low, [j + half for j in low])]
        pairs = zip(left[:half], left[half:], strict=True)
        left = [
            b.fadd(b.shuffle_vector(one, other, masks[0]), b.shuffle_vector(one, other, masks[1]))
            for one, other in pairs
        ]
        half //= 2
    return left[0]

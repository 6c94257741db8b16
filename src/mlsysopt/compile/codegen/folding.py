"""Reductions in registers: an accumulator for each lane, folded across lanes at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.arithmetic import FLAGS, Arithmetic, register
from mlsysopt.compile.codegen.lanes import anywhere, folded, intrinsic, number, spelling

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.program import Program
    from mlsysopt.compile.codegen.target import Isa

__all__ = ["Folding", "foldings"]

_FLOATS = ("f32", "f64", "f16", "bf16")


class Folding:
    """One reduction node.

    Attributes:
        op: "sum", "max", "min", "prod", "any" or "all".
        dtype: Element type of operand and result.
    """

    def __init__(self, builder: ir.IRBuilder, isa: Isa, op: str, dtype: str) -> None:
        self.builder, self.op, self.dtype = builder, op, dtype
        self.arithmetic = Arithmetic(builder, isa)

    @property
    def logical(self) -> bool:
        return self.op in ("any", "all")

    def start(self, lanes: int) -> Any:
        """Return the accumulator of nothing: 0, 1, the lowest or highest number, false or true."""
        from llvmlite import ir

        if self.logical:
            # Masks of one bit have no registers of their own before AVX-512: 32 bits, all set or none.
            return number(ir.VectorType(ir.IntType(32), lanes), -1 if self.op == "all" else 0)
        return number(ir.VectorType(register(self.dtype), lanes), self._identity())

    def _identity(self) -> float | int:
        if self.op in ("sum", "prod"):
            unit = 0 if self.op == "sum" else 1
            return float(unit) if self.dtype in _FLOATS else unit
        sign = -1 if self.op == "max" else 1
        if self.dtype in _FLOATS:
            return sign * math.inf
        if self.dtype == "u8":
            return 0 if self.op == "max" else 255
        bits = int(self.dtype[1:])
        return -(2 ** (bits - 1)) if self.op == "max" else 2 ** (bits - 1) - 1

    def step(self, total: Any, value: Any, mask: Any = None) -> Any:
        """Return the accumulator with one more vector in it, of which only the masked lanes count."""
        if self.logical:
            value = self.builder.sext(value, total.type)
        if mask is not None:
            value = self.builder.select(mask, value, self.start(total.type.count))
        return self.merge(total, value)

    def merge(self, a: Any, b: Any) -> Any:
        """Return two accumulators as one."""
        w: Any = self.builder
        if self.logical:
            return (w.or_ if self.op == "any" else w.and_)(a, b)
        floats = self.dtype in _FLOATS
        if self.op == "sum":
            return w.fadd(a, b, flags=FLAGS) if floats else w.add(a, b)
        if self.op == "prod":
            return w.fmul(a, b, flags=FLAGS) if floats else w.mul(a, b)
        return self.arithmetic.apply("maximum" if self.op == "max" else "minimum", [self.dtype] * 2, [a, b], self.dtype)

    def vector(self, total: Any) -> Any:
        """Return the results of a "column" program, one in each lane."""
        return self.builder.icmp_signed("!=", total, number(total.type, 0)) if self.logical else total

    def across(self, total: Any) -> Any:
        """Return the result over all lanes."""
        kind = total.type.element
        if self.logical:
            name = "or" if self.op == "any" else "and"
            bits = intrinsic(self.builder, f"llvm.vector.reduce.{name}.{spelling(total.type)}", [total], kind)
            return self.builder.icmp_signed("!=", bits, number(kind, 0))
        word = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}[self.op]
        if self.dtype not in _FLOATS:
            sign = "" if self.op in ("sum", "prod") else "u" if self.dtype == "u8" else "s"
            return intrinsic(self.builder, f"llvm.vector.reduce.{sign}{word}.{spelling(total.type)}", [total], kind)
        if self.op in ("max", "min"):
            return self._extreme(total)
        # Free to add in any order, LLVM adds in pairs.
        first = number(kind, -0.0 if self.op == "sum" else 1.0)
        name = f"llvm.vector.reduce.f{word}.{spelling(total.type)}"
        return intrinsic(self.builder, name, [first, total], kind, ("reassoc",))

    def _extreme(self, total: Any) -> Any:
        """Return the largest or smallest lane, and NaN, of which the comparisons would lose sight, where one is."""
        b, kind = self.builder, total.type.element
        lost = anywhere(b, b.fcmp_unordered("uno", total, total))
        relation = ">" if self.op == "max" else "<"
        found = folded(b, total, lambda x, y: b.select(b.fcmp_ordered(relation, x, y), x, y))
        return b.select(lost, number(kind, math.nan), found)

    @property
    def blocked(self) -> bool:
        """Whether long rows are cut into blocks, so that roundings do not pile up in one accumulator."""
        return self.op == "sum" and self.dtype in _FLOATS


def foldings(program: Program, builder: ir.IRBuilder, isa: Isa) -> dict[int, Folding]:
    """Return what folds each reduction of a program, by the node's number."""
    nodes = ((number, program.nodes[number]) for one in program.passes for number in one.reductions)
    return {number: Folding(builder, isa, node.op, node.dtype) for number, node in nodes}

"""Arithmetic on floats of any width in LLVM's text: one way of writing for scalars and vectors, f32 and f64.

No instruction carries a fast-math flag: functions that split numbers into parts rely on every rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.loops import splat

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["Lanes", "anywhere", "bfloat", "broadcast", "element", "folded", "intrinsic", "like", "number", "spelling"]


def element(kind: Any) -> Any:
    """Return the type of one lane; a scalar is its own."""
    from llvmlite import ir

    return kind.element if isinstance(kind, ir.VectorType) else kind


def like(kind: Any, one: Any) -> Any:
    """Return the type with elements `one` and as many lanes as `kind`."""
    from llvmlite import ir

    return ir.VectorType(one, kind.count) if isinstance(kind, ir.VectorType) else one


@cache
def bfloat() -> Any:
    """Return LLVM's type of a bf16, which llvmlite has no name for."""
    from llvmlite import ir

    class BFloat(ir.Type):
        def _to_string(self) -> str:
            return "bfloat"

    return BFloat()


def number(kind: Any, value: float | int) -> Any:
    """Return a constant in every lane."""
    from llvmlite import ir

    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)
    return ir.Constant(kind, value)


def broadcast(builder: ir.IRBuilder, x: Any, lanes: int) -> Any:
    """Return a vector with a scalar in every lane; a constant stays one."""
    from llvmlite import ir

    if isinstance(x, ir.Constant):
        return ir.Constant(ir.VectorType(x.type, lanes), [x] * lanes)
    return splat(builder, x, lanes)


def spelling(kind: Any) -> str:
    """Return how intrinsics spell a type: f32, v8f32, v8i1 ..."""
    from llvmlite import ir

    one = element(kind)
    if isinstance(one, ir.IntType):
        word = f"i{one.width}"
    else:
        word = {"half": "f16", "float": "f32", "double": "f64"}[str(one)]
    return f"v{kind.count}{word}" if isinstance(kind, ir.VectorType) else word


def intrinsic(
    builder: ir.IRBuilder, name: str, arguments: Sequence[Any], result: Any, flags: tuple[str, ...] = ()
) -> Any:
    """Call an intrinsic by its full name, declaring it in the builder's module at first use."""
    from llvmlite import ir

    known = builder.module.globals.get(name)
    if known is None:
        known = ir.Function(builder.module, ir.FunctionType(result, [one.type for one in arguments]), name)
    return builder.call(known, list(arguments), fastmath=flags)


class Lanes:
    """Writes arithmetic on one type of floats.

    Attributes:
        builder: Where instructions go.
        kind: float, double, or a vector of one of them.
        whole: The type of integers as wide.
        bits: 32 or 64.
        isa: What the processor has.
    """

    def __init__(self, builder: ir.IRBuilder, kind: Any, isa: Isa) -> None:
        from llvmlite import ir

        self.builder, self.kind, self.isa = builder, kind, isa
        self.bits = 64 if isinstance(element(kind), ir.DoubleType) else 32
        self.whole = like(kind, ir.IntType(self.bits))

    def of(self, value: float) -> Any:
        return number(self.kind, value)

    def integer(self, value: int) -> Any:
        return number(self.whole, value)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b)

    def div(self, a: Any, b: Any) -> Any:
        return self.builder.fdiv(a, b)

    def neg(self, a: Any) -> Any:
        return self.builder.fneg(a)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c, rounded once where the processor can; elsewhere `llvm.fma` would be a call of libm."""
        name = "fma" if "+fma" in self.isa.features else "fmuladd"
        return self.call(name, a, b, c)

    def horner(self, coefficients: Sequence[float], x: Any) -> Any:
        """Return the polynomial with these coefficients, constant term first."""
        result = self.of(coefficients[-1])
        for one in coefficients[-2::-1]:
            result = self.fma(result, x, self.of(one))
        return result

    def call(self, name: str, *arguments: Any) -> Any:
        """Call an intrinsic that takes and returns this type."""
        return intrinsic(self.builder, f"llvm.{name}.{spelling(self.kind)}", arguments, self.kind)

    def abs(self, a: Any) -> Any:
        return self.call("fabs", a)

    def compare(self, relation: str, a: Any, b: Any) -> Any:
        """Compare, false if either is NaN; `!=` is true then, and "uno" asks for NaN."""
        if relation == "uno":
            return self.builder.fcmp_unordered("uno", a, b)
        if relation == "!=":
            return self.builder.fcmp_unordered("!=", a, b)
        return self.builder.fcmp_ordered(relation, a, b)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return self.builder.select(condition, a, b)

    def at_most(self, limit: float, x: Any) -> Any:
        """Return the smaller of a limit and x; NaN stays NaN. One instruction, in this order of operands."""
        bound = self.of(limit)
        return self.select(self.compare("<", bound, x), bound, x)

    def at_least(self, limit: float, x: Any) -> Any:
        """Return the larger of a limit and x; NaN stays NaN."""
        bound = self.of(limit)
        return self.select(self.compare(">", bound, x), bound, x)

    def to_bits(self, x: Any) -> Any:
        return self.builder.bitcast(x, self.whole)

    def from_bits(self, x: Any) -> Any:
        return self.builder.bitcast(x, self.kind)


def anywhere(b: ir.IRBuilder, condition: Any) -> Any:
    """Return i1: whether a condition holds in any lane; that of a scalar is itself."""
    from llvmlite import ir

    if not isinstance(condition.type, ir.VectorType):
        return condition
    return intrinsic(b, f"llvm.vector.reduce.or.{spelling(condition.type)}", [condition], ir.IntType(1))


def folded(b: ir.IRBuilder, x: Any, fold: Any) -> Any:
    """Return one number from all lanes, halves first."""
    from llvmlite import ir

    lanes = x.type.count
    i32 = ir.IntType(32)
    half = lanes // 2
    while half:
        order = [(lane + half) % lanes for lane in range(lanes)]
        mask = ir.Constant(ir.VectorType(i32, lanes), order)
        x = fold(x, b.shuffle_vector(x, x, mask))
        half //= 2
    return b.extract_element(x, ir.Constant(i32, 0))

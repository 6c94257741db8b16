"""What the graph's elementwise kinds mean, in registers: every kind in every element type that its type rule allows.

Booleans are i1 in registers, f16 and bf16 are f32. Results are those of numpy; where numpy warns - an integer divided
by zero, a float that no integer can hold - the result is some number, and never a trap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen import halves, mathfn
from mlsysopt.compile.codegen.division import float_division, integer_division, integer_power
from mlsysopt.compile.codegen.lanes import Lanes, element, intrinsic, like, number, spelling
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["FLAGS", "Arithmetic", "supports"]

FLAGS = ("contract",)
"""A product and a sum may become one instruction; nothing may assume that there is no NaN or infinity."""

_FLOATS = ("f32", "f64", "f16", "bf16")
_INTEGERS = ("i64", "i32", "i16", "i8", "u8")
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("add", "sub", "mul", "floordiv", "mod", "pow", "maximum", "minimum"), _INTEGERS + _FLOATS),
    **dict.fromkeys(("neg", "abs", "sign", "relu", "lt", "le", "gt", "ge"), _INTEGERS + _FLOATS),
    **dict.fromkeys(("eq", "ne", "where", "cast"), ("bool", *_INTEGERS, *_FLOATS)),
    **dict.fromkeys(("and", "or", "xor"), ("bool", *_INTEGERS)),
    **dict.fromkeys(set(mathfn.FUNCTIONS) - {"neg", "abs", "sign", "relu", "pow"}, _FLOATS),
    "div": _FLOATS,
    "is_nan": _FLOATS,
    "not": ("bool",),
}
_REDUCTIONS = {
    **dict.fromkeys(("sum", "prod", "max", "min"), _INTEGERS + _FLOATS),
    **dict.fromkeys(("any", "all"), ("bool",)),
}


def supports(op: str, dtype: str) -> bool:
    """Return whether a fused kernel can compute a node.

    Args:
        op: Elementwise kind of the graph, "gelu", "gelu_tanh", "silu", "relu", or a reduction of `Program`.
        dtype: Element type of its operands; of "where", that of the branches.

    >>> supports("erf", "f32"), supports("erf", "i32"), supports("sort", "f32")
    (True, False, False)
    """
    return dtype in _KINDS.get(op, ()) or dtype in _REDUCTIONS.get(op, ())


class Arithmetic:
    """Writes one node at a time.

    Attributes:
        builder: Where instructions go.
        isa: What the processor has.
    """

    def __init__(self, builder: ir.IRBuilder, isa: Isa) -> None:
        self.builder, self.isa = builder, isa

    def apply(self, op: str, dtypes: Sequence[str], values: Sequence[Any], to: str) -> Any:
        """Return a node's value.

        Args:
            op: An elementwise kind.
            dtypes: Element types of the operands.
            values: Operands, all scalars or all vectors of equally many lanes.
            to: The node's element type; only "cast" needs it.

        Raises:
            UsageError: the kind is not defined for the type.
        """
        b = self.builder
        about = dtypes[1] if op == "where" else dtypes[0]
        if about not in _KINDS.get(op, ()):
            raise UsageError(f"{op} of {about} has no native form; ask supports({op!r}, {about!r}) before fusing it")
        if op == "where":
            return b.select(*values)
        if op == "cast":
            return self.cast(values[0], dtypes[0], to)
        if op in _COMPARISONS:
            return self._compare(_COMPARISONS[op], about, *values)
        if op == "is_nan":
            return b.fcmp_unordered("uno", values[0], values[0])
        if op in ("and", "or", "xor"):
            return {"and": b.and_, "or": b.or_, "xor": b.xor}[op](*values)
        if op == "not":
            return b.not_(values[0])
        return self._of_floats(op, values) if about in _FLOATS else self._of_integers(op, about, values)

    def _of_floats(self, op: str, values: Sequence[Any]) -> Any:
        b = self.builder
        simple: dict[str, Callable[..., Any]] = {"add": b.fadd, "sub": b.fsub, "mul": b.fmul, "div": b.fdiv}
        if op in simple:
            return simple[op](*values, flags=FLAGS)
        if op in ("maximum", "minimum"):
            return self.extreme(op, *values)
        if op in ("floordiv", "mod"):
            return float_division(Lanes(b, values[0].type, self.isa), op, *values)
        return mathfn.emit(b, b.module, op, values[0], self.isa, *values[1:])

    def _of_integers(self, op: str, dtype: str, values: Sequence[Any]) -> Any:
        b, x = self.builder, values[0]
        simple: dict[str, Callable[..., Any]] = {"add": b.add, "sub": b.sub, "mul": b.mul}
        if op in simple:
            return simple[op](*values)
        zero = number(x.type, 0)
        if op == "neg":
            return b.neg(x)
        if op in ("maximum", "minimum"):
            return b.select(self._compare(">" if op == "maximum" else "<", dtype, *values), *values)
        if op in ("floordiv", "mod"):
            return integer_division(b, op, dtype != "u8", *values)
        if op == "pow":
            return integer_power(b, *values)
        below = self._compare("<", dtype, x, zero)
        if op == "relu":
            return b.select(below, zero, x)
        if op == "abs":
            return b.select(below, b.neg(x), x)
        positive = self._compare(">", dtype, x, zero)  # sign
        return b.select(positive, number(x.type, 1), b.select(below, number(x.type, -1), zero))

    def _compare(self, relation: str, dtype: str, x: Any, y: Any) -> Any:
        b = self.builder
        if dtype in _FLOATS:
            return (b.fcmp_unordered if relation == "!=" else b.fcmp_ordered)(relation, x, y)
        return (b.icmp_unsigned if dtype in ("u8", "bool") else b.icmp_signed)(relation, x, y)

    def extreme(self, op: str, x: Any, y: Any) -> Any:
        """Return the larger or smaller float, NaN if either is: only `llvm.maximum` says so and stays in vectors."""
        return intrinsic(self.builder, f"llvm.{op}.{spelling(x.type)}", [x, y], x.type, ("nsz",))

    def cast(self, x: Any, source: str, to: str) -> Any:
        """Return a value in another element type, as numpy's astype."""
        from llvmlite import ir

        b = self.builder
        if to == "bool":
            if source in _FLOATS:
                return b.fcmp_unordered("!=", x, number(x.type, 0.0))
            return x if source == "bool" else b.icmp_unsigned("!=", x, number(x.type, 0))
        kind = like(x.type, register(to))
        if source in _FLOATS and to in _FLOATS:
            if kind == x.type:
                value = x
            else:
                value = (b.fpext if isinstance(register(to), ir.DoubleType) else b.fptrunc)(x, kind)
            if to in ("f16", "bf16") and source != to:
                value = halves.to_f32(b, self.isa, to, halves.from_f32(b, self.isa, to, value))
            return value
        if source in _FLOATS:
            # numpy goes through a wider type: a float below 0 becomes a large u8, not 0.
            wide = like(x.type, ir.IntType(max(32, element(kind).width)))
            whole = b.fptosi(x, wide)
            return whole if wide == kind else b.trunc(whole, kind)
        signed = source not in ("u8", "bool")
        if to in _FLOATS:
            value = (b.sitofp if signed else b.uitofp)(x, kind)
            return self.cast(value, "f32", to) if to in ("f16", "bf16") else value
        have, want = element(x.type).width, element(kind).width
        if have == want:
            return x
        return b.trunc(x, kind) if have > want else (b.sext if signed else b.zext)(x, kind)


def register(dtype: str) -> Any:
    """Return LLVM's type of one element in a register."""
    from llvmlite import ir

    if dtype in ("f32", "f16", "bf16"):
        return ir.FloatType()
    if dtype == "f64":
        return ir.DoubleType()
    return ir.IntType(1 if dtype == "bool" else int(dtype[1:]))

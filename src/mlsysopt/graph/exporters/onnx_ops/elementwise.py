"""Arithmetic, comparisons, activations and casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from mlsysopt.graph.exporters.onnx_ops.registry import writes
from mlsysopt.graph.exporters.onnx_ops.writer import Writer, exact_float, exact_number
from mlsysopt.graph.ir import Op
from mlsysopt.graph.types import DType, f32, f64

__all__: list[str] = []


def _renamed(kinds: dict[str, str]) -> None:
    """Register ops that are one operator, operands as they stand."""

    def writer(kind: str) -> Callable[[Writer, Op], bool]:
        return lambda w, op: w.apply(kind, op)

    for ours, theirs in kinds.items():
        writes(ours)(writer(theirs))


_renamed(
    {
        "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min",
        "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
        "neg": "Neg", "abs": "Abs", "sign": "Sign", "not": "Not",
        "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "erf": "Erf", "sin": "Sin",
        "cos": "Cos", "tan": "Tan", "tanh": "Tanh", "sigmoid": "Sigmoid", "floor": "Floor", "ceil": "Ceil",
        "round": "Round", "is_nan": "IsNaN", "relu": "Relu", "hardswish": "HardSwish",
    }
)  # fmt: skip


@writes("ne")
def _ne(w: Writer, op: Op) -> bool:
    w.result("Not", [w.emit("Equal", w.inputs(op))], op)
    return False


@writes("and", "or", "xor")
def _logic(w: Writer, op: Op) -> bool:
    word = op.kind.capitalize()
    w.result(word if op.operands[0].type.dtype.is_bool else f"Bitwise{word}", w.inputs(op), op)
    return True


@writes("where")
def _where(w: Writer, op: Op) -> bool:
    w.result("Where", w.inputs(op), op)
    return True


@writes("cast")
def _cast(w: Writer, op: Op) -> bool:
    w.cast(w.name(op.operands[0]), cast("DType", op.attrs["to"]), output=w.name(op.result))
    return op.operands[0].type.dtype is not op.attrs["to"]


@writes("floordiv")
def _floordiv(w: Writer, op: Op) -> bool:
    a, b = w.inputs(op)
    element = op.result.type.dtype
    if element.is_float:
        w.result("Floor", [w.emit("Div", [a, b])], op)
        return False
    if element.low == 0:
        w.result("Div", [a, b], op)
        return True
    # ONNX divides toward zero; without the remainder, which has the sign of the divisor, both are the floor.
    w.result("Div", [w.emit("Sub", [a, w.emit("Mod", [a, b])]), b], op)
    return False


@writes("mod")
def _mod(w: Writer, op: Op) -> bool:
    a, b = w.inputs(op)
    if not op.result.type.dtype.is_float:
        w.result("Mod", [a, b], op)
        return True
    # For reals ONNX has C's remainder alone, with the sign of the dividend.
    floor = w.emit("Floor", [w.emit("Div", [a, b])])
    w.result("Sub", [a, w.emit("Mul", [floor, b])], op)
    return False


@writes("expm1", "log1p")
def _near_one(w: Writer, op: Op) -> bool:
    (x,) = w.inputs(op)
    element = op.result.type.dtype
    # Near zero the sum loses digits; double precision has enough to spare for the others.
    wide = f64 if element is f32 else element
    inner = x if wide is element else w.cast(x, wide)
    one = w.scalar(1.0, wide)
    if op.kind == "expm1":
        made = w.emit("Sub", [w.emit("Exp", [inner]), one])
    else:
        made = w.emit("Log", [w.emit("Add", [inner, one])])
    w.cast(made, element, output=w.name(op.result))
    return False


@writes("rsqrt")
def _rsqrt(w: Writer, op: Op) -> bool:
    w.result("Reciprocal", [w.emit("Sqrt", w.inputs(op))], op)
    return False


@writes("clip")
def _clip(w: Writer, op: Op) -> bool:
    element = op.result.type.dtype
    bounds = [op.attrs["low"], op.attrs["high"]]
    names = ["" if bound is None else w.scalar(cast("float", bound), element) for bound in bounds]
    while names and not names[-1]:
        names.pop()
    if not names:
        w.result("Identity", w.inputs(op), op)
        return False
    if not w.allows("Clip", element):
        # Narrow floats: the bounds have their type, so there is nothing to widen.
        names = [name and w.cast(name, f32) for name in names]
    exact = w.apply("Clip", op, inputs=[*w.inputs(op), *names])
    return exact and all(bound is None or exact_number(bound, element) for bound in bounds)


@writes("leaky_relu")
def _leaky_relu(w: Writer, op: Op) -> bool:
    return w.apply("LeakyRelu", op, alpha=op.attrs["slope"]) and exact_float(op.attrs["slope"])


@writes("elu")
def _elu(w: Writer, op: Op) -> bool:
    return w.apply("Elu", op, alpha=op.attrs["alpha"]) and exact_float(op.attrs["alpha"])


@writes("hardsigmoid")
def _hardsigmoid(w: Writer, op: Op) -> bool:
    return w.apply("HardSigmoid", op, alpha=1 / 6, beta=0.5)


@writes("gelu")
def _gelu(w: Writer, op: Op) -> bool:
    if w.opset < 20:
        return w.decomposed(op)
    return w.apply("Gelu", op, approximate=op.attrs["approximate"])

"""Arithmetic, comparisons, activations and casts."""

from __future__ import annotations

import math
from collections.abc import Callable

from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.registry import reads
from mlsysopt.graph.importers.onnx_ops.types import number_of
from mlsysopt.graph.ir import Value
from mlsysopt.graph.types import boolean

__all__: list[str] = []


def _renamed(kinds: dict[str, str]) -> None:
    """Register operators that are one op of ours, operands as they stand."""

    def reader(kind: str) -> Callable[[Node], Value]:
        return lambda node: node.done(kind, *node.values())

    for theirs, ours in kinds.items():
        reads(theirs)(reader(ours))


_renamed(
    {
        "Add": "add", "Sub": "sub", "Mul": "mul",
        "Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge",
        "And": "and", "Or": "or", "Xor": "xor", "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
        "Neg": "neg", "Abs": "abs", "Sign": "sign", "Not": "not",
        "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Erf": "erf",
        "Sin": "sin", "Cos": "cos", "Tan": "tan", "Tanh": "tanh", "Sigmoid": "sigmoid",
        "Floor": "floor", "Ceil": "ceil", "IsNaN": "is_nan", "Where": "where",
        "HardSwish": "hardswish",
    }
)  # fmt: skip


@reads("Round")
def _round(node: Node) -> Value:
    return node.done("round", node.value(0))


@reads("Identity")
def _identity(node: Node) -> Value:
    return node.value(0)


@reads("Dropout")
def _dropout(node: Node) -> tuple[Value, Value | None]:
    training = node.numbers(2)
    if node.has(2) and (training is None or bool(training)):
        node.refuse("dropout in training mode; export the model for inference")
    x = node.value(0)
    mask = node.emit("full", value=True, shape=x.shape, dtype=boolean) if node.reads_output(1) else None
    return x, mask


@reads("Div")
def _div(node: Node) -> Value:
    a, b = node.values()
    if a.type.dtype.is_float:
        return node.done("div", a, b)
    if a.type.dtype.low == 0:
        return node.done("floordiv", a, b)
    # ONNX rounds toward zero, floordiv down: divide the magnitudes, then give the sign back.
    magnitude = node.emit("floordiv", node.emit("abs", a), node.emit("abs", b))
    return node.done("mul", magnitude, node.emit("mul", node.emit("sign", a), node.emit("sign", b)))


@reads("Mod")
def _mod(node: Node) -> Value:
    a, b = node.values()
    if not node.attr("fmod", 0):
        return node.done("mod", a, b)
    # The remainder of C takes the sign of the dividend.
    return node.done("mul", node.emit("sign", a), node.emit("mod", node.emit("abs", a), node.emit("abs", b)))


@reads("Pow")
def _pow(node: Node) -> Value:
    base, exponent = node.values()
    if base.type.dtype.is_int and exponent.type.dtype.is_float:
        raised = node.emit("pow", node.cast(base, exponent.type.dtype), exponent)
        return node.done("cast", raised, to=base.type.dtype)
    return node.done("pow", base, node.cast(exponent, base.type.dtype))


@reads("Max", "Min", "Sum")
def _variadic(node: Node) -> Value:
    kind = {"Max": "maximum", "Min": "minimum", "Sum": "add"}[node.kind]
    first, *rest = node.values()
    total = first
    for i, other in enumerate(rest):
        total = (node.done if i == len(rest) - 1 else node.emit)(kind, total, other)
    return total


@reads("Mean")
def _mean(node: Node) -> Value:
    total = _variadic_sum(node)
    return node.done("div", total, node.scalar(len(node.inputs), total))


def _variadic_sum(node: Node) -> Value:
    total, *rest = node.values()
    for other in rest:
        total = node.emit("add", total, other)
    return total


@reads("BitwiseNot")
def _bitwise_not(node: Node) -> Value:
    x = node.value(0)
    return node.done("xor", x, node.scalar(-1 if x.type.dtype.low else x.type.dtype.high or 0, x))


@reads("Cast")
def _cast(node: Node) -> Value:
    to = node.dtype_attr("to")
    x = node.value(0)
    return x if x.type.dtype is to else node.done("cast", x, to=to)


@reads("CastLike")
def _cast_like(node: Node) -> Value:
    return node.cast(node.value(0), node.value(1).type.dtype)


@reads("Clip")
def _clip(node: Node) -> Value:
    x = node.value(0)
    bounds: list[float | int | None] = []
    for i in (1, 2):
        found = node.numbers(i)
        if node.has(i) and found is None:
            return _clip_by_values(node, x)
        bounds.append(None if found is None else number_of(found, x.type.dtype))
    low, high = bounds
    if low is None and high is None:
        return x
    return node.done("clip", x, low=low, high=high)


def _clip_by_values(node: Node, x: Value) -> Value:
    if node.has(1):
        x = node.emit("maximum", x, node.value(1))
    return node.done("minimum", x, node.value(2)) if node.has(2) else x


@reads("Relu")
def _relu(node: Node) -> Value:
    return node.done("relu", node.value(0))


@reads("Gelu")
@reads("Gelu", domain="com.microsoft")
def _gelu(node: Node) -> Value:
    return node.done("gelu", node.value(0), approximate=node.attr("approximate", "none"))


@reads("FastGelu", "BiasGelu", domain="com.microsoft")
def _biased_gelu(node: Node) -> Value:
    x = node.value(0)
    if node.has(1):
        x = node.emit("add", x, node.value(1))
    return node.done("gelu", x, approximate="tanh" if node.kind == "FastGelu" else "none")


@reads("QuickGelu", domain="com.microsoft")
def _quick_gelu(node: Node) -> Value:
    x = node.value(0)
    scaled = node.emit("mul", x, node.scalar(node.attr("alpha", 1.702), x))
    return node.done("mul", x, node.emit("sigmoid", scaled))


@reads("HardSigmoid")
def _hard_sigmoid(node: Node) -> Value:
    x = node.value(0)
    alpha, beta = node.attr("alpha", 0.2), node.attr("beta", 0.5)
    if beta == 0.5 and math.isclose(alpha, 1 / 6, rel_tol=1e-6):
        return node.done("hardsigmoid", x)
    line = node.emit("add", node.emit("mul", x, node.scalar(alpha, x)), node.scalar(beta, x))
    return node.done("clip", line, low=0.0, high=1.0)


@reads("LeakyRelu")
def _leaky_relu(node: Node) -> Value:
    return node.done("leaky_relu", node.value(0), slope=node.attr("alpha", 0.01))


@reads("PRelu")
def _p_relu(node: Node) -> Value:
    x, slope = node.values()
    zero = node.scalar(0, x)
    below = node.emit("mul", node.emit("minimum", x, zero), slope)
    return node.done("add", node.emit("maximum", x, zero), below)


@reads("Elu")
def _elu(node: Node) -> Value:
    return node.done("elu", node.value(0), alpha=node.attr("alpha", 1.0))


@reads("Celu")
def _celu(node: Node) -> Value:
    x, alpha = node.value(0), node.attr("alpha", 1.0)
    zero = node.scalar(0, x)
    below = node.emit("expm1", node.emit("div", node.emit("minimum", x, zero), node.scalar(alpha, x)))
    return node.done("add", node.emit("maximum", x, zero), node.emit("mul", below, node.scalar(alpha, x)))


@reads("Selu")
def _selu(node: Node) -> Value:
    alpha, gamma = node.attr("alpha", 1.6732631921768188), node.attr("gamma", 1.0507010221481323)
    x = node.value(0)
    return node.done("mul", node.emit("elu", x, alpha=alpha), node.scalar(gamma, x))


@reads("ThresholdedRelu")
def _thresholded_relu(node: Node) -> Value:
    x = node.value(0)
    above = node.emit("gt", x, node.scalar(node.attr("alpha", 1.0), x))
    return node.done("where", above, x, node.scalar(0, x))


def _softplus(node: Node, x: Value) -> Value:
    # log(1 + exp(x)) overflows; this form does not.
    tail = node.emit("log1p", node.emit("exp", node.emit("neg", node.emit("abs", x))))
    return node.emit("add", node.emit("maximum", x, node.scalar(0, x)), tail)


@reads("Softplus")
def _softplus_node(node: Node) -> Value:
    return _softplus(node, node.value(0))


@reads("Mish")
def _mish(node: Node) -> Value:
    x = node.value(0)
    return node.done("mul", x, node.emit("tanh", _softplus(node, x)))


@reads("Softsign")
def _softsign(node: Node) -> Value:
    x = node.value(0)
    return node.done("div", x, node.emit("add", node.emit("abs", x), node.scalar(1, x)))


@reads("Sinh", "Cosh")
def _hyperbolic(node: Node) -> Value:
    x = node.value(0)
    up, down = node.emit("exp", x), node.emit("exp", node.emit("neg", x))
    both = node.emit("sub" if node.kind == "Sinh" else "add", up, down)
    return node.done("mul", both, node.scalar(0.5, x))


@reads("IsInf")
def _is_inf(node: Node) -> Value:
    x = node.value(0)
    up, down = node.attr("detect_positive", 1), node.attr("detect_negative", 1)
    if up and down:
        return node.done("eq", node.emit("abs", x), node.scalar(math.inf, x))
    if not up and not down:
        return node.done("full", value=False, shape=x.shape, dtype=boolean)
    return node.done("eq", x, node.scalar(math.inf if up else -math.inf, x))

"""ATen overloads that work on single elements: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import math
from typing import Any

from mlsysopt.graph.importers.aten.registry import Call, Number, Unsupported, aten
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, boolean

__all__: list[str] = []

Scalar = Value | Number

_UNARY = {
    "ceil": "ceil", "cos": "cos", "erf": "erf", "exp": "exp", "expm1": "expm1", "floor": "floor", "log": "log",
    "log1p": "log1p", "reciprocal": "reciprocal", "round": "round", "rsqrt": "rsqrt", "sigmoid": "sigmoid",
    "silu": "silu", "sin": "sin", "sqrt": "sqrt", "tan": "tan", "tanh": "tanh", "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
}  # fmt: skip
_ANY_NUMBER = {"abs": "abs", "neg": "neg", "relu": "relu", "sgn": "sign", "sign": "sign"}
_BINARY = {
    "floor_divide": "floordiv", "maximum": "maximum", "minimum": "minimum", "mul.Scalar": "mul", "mul.Tensor": "mul",
    "remainder.Scalar": "mod", "remainder.Tensor": "mod",
}  # fmt: skip
_COMPARED = {
    f"{word}.{overload}": word for word in ("eq", "ne", "lt", "le", "gt", "ge") for overload in ("Tensor", "Scalar")
}
_LOGICAL = {
    name.format(word): word
    for word in ("and", "or", "xor")
    for name in ("bitwise_{}.Tensor", "bitwise_{}.Scalar", "__{}__.Tensor", "__{}__.Scalar", "logical_{}.default")
}


def _register_unary(overload: str, kind: str) -> None:
    @aten(overload)
    def unary(c: Call, x: Value, *_: Any) -> Value:
        if x.type.dtype.is_int and kind in ("floor", "ceil", "round"):
            return x
        return c.op(kind, c.cast(x, c.dtype))


def _register_any_number(overload: str, kind: str) -> None:
    @aten(overload)
    def unary(c: Call, x: Value) -> Value:
        if kind == "relu" and not x.type.dtype.is_float:
            return c.op("maximum", x, c.number(0, x.type.dtype))
        return c.op(kind, x)


def _register_binary(overload: str, kind: str) -> None:
    @aten(overload)
    def binary(c: Call, a: Scalar, b: Scalar, *_: Any) -> Value:
        if c.dtype.is_bool:
            # Products, maxima and minima of truth values are logical.
            kinds = {"mul": "and", "minimum": "and", "maximum": "or"}
            if kind not in kinds:
                raise Unsupported(f"{kind} of bool")
            return c.op(kinds[kind], c.operand(a, boolean), c.operand(b, boolean))
        return c.op(kind, c.operand(a, c.dtype), c.operand(b, c.dtype))


def _register_compared(overload: str, kind: str) -> None:
    @aten(overload)
    def compared(c: Call, a: Scalar, b: Scalar) -> Value:
        common = c.promoted(a, b)
        if common.is_bool and kind not in ("eq", "ne"):
            from mlsysopt.graph.types import u8

            common = u8
        return c.op(kind, c.operand(a, common), c.operand(b, common))


def _register_logical(overload: str, kind: str) -> None:
    logical = overload.startswith("logical")

    @aten(overload)
    def combined(c: Call, a: Scalar, b: Scalar) -> Value:
        common = boolean if logical else c.dtype
        return c.op(kind, _truth(c, a) if logical else c.operand(a, common), c.operand(b, common))


for _overload, _kind in _UNARY.items():
    _register_unary(_overload, _kind)
for _overload, _kind in _ANY_NUMBER.items():
    _register_any_number(_overload, _kind)
for _overload, _kind in _BINARY.items():
    _register_binary(_overload, _kind)
for _overload, _kind in _COMPARED.items():
    _register_compared(_overload, _kind)
for _overload, _kind in _LOGICAL.items():
    _register_logical(_overload, _kind)


def _truth(c: Call, x: Scalar) -> Value:
    return c.operand(x, boolean)


def _scaled(c: Call, x: Scalar, factor: Number) -> Value:
    value = c.operand(x, c.dtype)
    return value if factor == 1 else c.op("mul", value, c.number(factor, c.dtype))


@aten("add.Tensor", "add.Scalar")
def add(c: Call, a: Scalar, b: Scalar, alpha: Number = 1) -> Value:
    if c.dtype.is_bool:
        return c.op("or", c.operand(a, boolean), c.operand(b, boolean))
    if not isinstance(b, Value) and not isinstance(b, Dim) and b == 0 and isinstance(a, Value):
        return c.cast(a, c.dtype)
    return c.op("add", c.operand(a, c.dtype), _scaled(c, b, alpha))


@aten("sub.Tensor", "sub.Scalar")
def sub(c: Call, a: Scalar, b: Scalar, alpha: Number = 1) -> Value:
    return c.op("sub", c.operand(a, c.dtype), _scaled(c, b, alpha))


@aten("rsub.Tensor", "rsub.Scalar")
def rsub(c: Call, a: Scalar, b: Scalar, alpha: Number = 1) -> Value:
    return c.op("sub", c.operand(b, c.dtype), _scaled(c, a, alpha))


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor")
def div(c: Call, a: Scalar, b: Scalar) -> Value:
    return c.op("div", c.operand(a, c.dtype), c.operand(b, c.dtype))


@aten("div.Tensor_mode", "div.Scalar_mode")
def div_mode(c: Call, a: Scalar, b: Scalar, rounding_mode: str | None = None) -> Value:
    left, right = c.operand(a, c.dtype), c.operand(b, c.dtype)
    if rounding_mode is None:
        return c.op("div", left, right)
    if rounding_mode == "floor":
        return c.op("floordiv", left, right)
    if c.dtype.is_float:
        return _toward_zero(c, c.op("div", left, right))
    # Integers: |a| // |b| with the sign of the quotient.
    size = c.op("floordiv", c.op("abs", left), c.op("abs", right))
    return c.op("mul", size, c.op("mul", c.op("sign", left), c.op("sign", right)))


def _toward_zero(c: Call, x: Value) -> Value:
    return c.op("where", c.op("lt", x, c.number(0, x.type.dtype)), c.op("ceil", x), c.op("floor", x))


@aten("trunc", "fix")
def trunc(c: Call, x: Value) -> Value:
    return _toward_zero(c, x) if x.type.dtype.is_float else x


@aten("fmod.Tensor", "fmod.Scalar")
def fmod(c: Call, a: Scalar, b: Scalar) -> Value:
    left, right = c.operand(a, c.dtype), c.operand(b, c.dtype)
    rest = c.op("mod", c.op("abs", left), c.op("abs", right))
    return c.op("mul", rest, c.op("sign", left))


@aten("pow.Tensor_Tensor", "pow.Tensor_Scalar", "pow.Scalar")
def power(c: Call, a: Scalar, b: Scalar) -> Value:
    if isinstance(a, Value) and not isinstance(b, Value | Dim):
        x = c.cast(a, c.dtype)
        if b == 1:
            return x
        if b == 2:
            return c.op("mul", x, x)
        if c.dtype.is_float and b in _ROOTS:
            return c.op(_ROOTS[b], x)
    return c.op("pow", c.operand(a, c.dtype), c.operand(b, c.dtype))


_ROOTS = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


@aten("square")
def square(c: Call, x: Value) -> Value:
    return c.op("mul", x, x)


@aten("exp2")
def exp2(c: Call, x: Value) -> Value:
    return c.op("pow", c.number(2, c.dtype), c.cast(x, c.dtype))


@aten("log2")
def log2(c: Call, x: Value) -> Value:
    return c.op("mul", c.op("log", c.cast(x, c.dtype)), c.number(1 / math.log(2), c.dtype))


@aten("log10")
def log10(c: Call, x: Value) -> Value:
    return c.op("mul", c.op("log", c.cast(x, c.dtype)), c.number(1 / math.log(10), c.dtype))


@aten("erfc")
def erfc(c: Call, x: Value) -> Value:
    return c.op("sub", c.number(1, c.dtype), c.op("erf", c.cast(x, c.dtype)))


@aten("logical_not")
def logical_not(c: Call, x: Value) -> Value:
    return c.op("not", _truth(c, x))


@aten("bitwise_not")
def bitwise_not(c: Call, x: Value) -> Value:
    if x.type.dtype.is_bool:
        return c.op("not", x)
    return c.op("xor", x, c.number(-1, x.type.dtype)) if x.type.dtype.low else _complement(c, x)


def _complement(c: Call, x: Value) -> Value:
    assert x.type.dtype.high is not None
    return c.op("xor", x, c.number(x.type.dtype.high, x.type.dtype))


@aten("isnan")
def isnan(c: Call, x: Value) -> Value:
    return c.op("is_nan", x)


@aten("isinf")
def isinf(c: Call, x: Value) -> Value:
    return c.op("eq", c.op("abs", x), c.number(math.inf, x.type.dtype))


@aten("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def where(c: Call, condition: Value, a: Scalar, b: Scalar) -> Value:
    return c.op("where", _truth(c, condition), c.operand(a, c.dtype), c.operand(b, c.dtype))


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(c: Call, x: Value, mask: Value, value: Scalar) -> Value:
    return c.op("where", mask, c.operand(value, c.dtype), x)


@aten("clamp", "clip")
def clamp(c: Call, x: Value, low: Number | None = None, high: Number | None = None) -> Value:
    if isinstance(low, Dim) or isinstance(high, Dim):
        return clamp_tensor(c, x, _maybe(c, low), _maybe(c, high))
    return c.op("clip", c.cast(x, c.dtype), low=low, high=high)


def _maybe(c: Call, bound: Number | None) -> Value | None:
    return None if bound is None else c.number(bound, c.dtype)


@aten("clamp.Tensor", "clip.Tensor")
def clamp_tensor(c: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    made = c.cast(x, c.dtype)
    if low is not None:
        made = c.op("maximum", made, c.cast(low, c.dtype))
    return made if high is None else c.op("minimum", made, c.cast(high, c.dtype))


@aten("clamp_min", "clamp_min.Tensor")
def clamp_min(c: Call, x: Value, low: Scalar) -> Value:
    return clamp(c, x, low) if isinstance(low, int | float) else clamp_tensor(c, x, c.operand(low, c.dtype))


@aten("clamp_max", "clamp_max.Tensor")
def clamp_max(c: Call, x: Value, high: Scalar) -> Value:
    if isinstance(high, int | float):
        return clamp(c, x, None, high)
    return clamp_tensor(c, x, None, c.operand(high, c.dtype))


@aten("hardtanh")
def hardtanh(c: Call, x: Value, low: float = -1, high: float = 1) -> Value:
    return c.op("clip", x, low=low, high=high)


@aten("relu6")
def relu6(c: Call, x: Value) -> Value:
    return c.op("clip", x, low=0, high=6)


@aten("gelu")
def gelu(c: Call, x: Value, approximate: str = "none") -> Value:
    return c.op("gelu", x, approximate=approximate)


@aten("leaky_relu")
def leaky_relu(c: Call, x: Value, slope: float = 0.01) -> Value:
    return c.op("leaky_relu", x, slope=float(slope))


@aten("elu")
def elu(c: Call, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale != 1:
        raise Unsupported("elu with a scale inside")
    made = c.op("elu", x, alpha=float(alpha))
    return made if scale == 1 else c.op("mul", made, c.number(float(scale), c.dtype))


@aten("softplus")
def softplus(c: Call, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    # log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which does not overflow.
    scaled = x if beta == 1 else c.op("mul", x, c.number(float(beta), c.dtype))
    tail = c.op("log1p", c.op("exp", c.op("neg", c.op("abs", scaled))))
    made = c.op("add", c.op("relu", scaled), tail)
    return made if beta == 1 else c.op("div", made, c.number(float(beta), c.dtype))


@aten("mish")
def mish(c: Call, x: Value) -> Value:
    return c.op("mul", x, c.op("tanh", softplus(c, x)))


@aten("log_sigmoid")
def log_sigmoid(c: Call, x: Value) -> Value:
    return c.op("neg", softplus(c, c.op("neg", x)))


@aten("selu")
def selu(c: Call, x: Value) -> Value:
    # The constants that keep mean 0 and variance 1 (Klambauer et al., 2017).
    return elu(c, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@aten("prelu", "_prelu_kernel")
def prelu(c: Call, x: Value, slope: Value) -> Value:
    if slope.type.rank == 1 and x.type.rank > 1:
        slope = c.reshape(slope, (slope.shape[0], *([1] * (x.type.rank - 2))))
    return c.op("where", c.op("gt", x, c.number(0, c.dtype)), x, c.op("mul", x, slope))


@aten("addcmul")
def addcmul(c: Call, x: Value, a: Value, b: Value, value: Number = 1) -> Value:
    return c.op("add", c.cast(x, c.dtype), _scaled(c, c.op("mul", c.cast(a, c.dtype), c.cast(b, c.dtype)), value))


@aten("addcdiv")
def addcdiv(c: Call, x: Value, a: Value, b: Value, value: Number = 1) -> Value:
    return c.op("add", c.cast(x, c.dtype), _scaled(c, c.op("div", c.cast(a, c.dtype), c.cast(b, c.dtype)), value))


@aten("lerp.Scalar", "lerp.Tensor")
def lerp(c: Call, a: Value, b: Value, weight: Scalar) -> Value:
    return c.op("add", a, c.op("mul", c.operand(weight, c.dtype), c.op("sub", b, a)))


@aten("to.device", "to.dtype", "to.dtype_layout", "to.other", "_to_copy", may_return_operand=True)
def to(c: Call, x: Value, *_: Any) -> Value:
    return c.cast(x, c.dtype)


@aten("copy")
def copy(c: Call, x: Value, source: Value, *_: Any) -> Value:
    return c.broadcast(c.cast(source, x.type.dtype), x.shape)


@aten("type_as", may_return_operand=True)
def type_as(c: Call, x: Value, like: Value) -> Value:
    return c.cast(x, like.type.dtype)


@aten("alias", "clone", "contiguous", "detach", "lift_fresh", "lift_fresh_copy", "positive", "resolve_conj",
      "resolve_neg", may_return_operand=True)  # fmt: skip
def same(c: Call, x: Value, *_: Any) -> Value:
    return x


@aten("dropout", "alpha_dropout", "feature_dropout", may_return_operand=True)
def dropout(c: Call, x: Value, p: float, train: bool | None = None) -> Value:
    if train and p:
        raise Unsupported("random numbers: call model.eval() first")
    return x


@aten("prims.convert_element_type", may_return_operand=True)
def convert_element_type(c: Call, x: Value, to: DType) -> Value:
    return c.cast(x, to)

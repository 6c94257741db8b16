"""Named activation functions: elementwise composites of one operand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mlsysopt.graph.ir import Attrs, Op, Value
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, define
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType

if TYPE_CHECKING:
    from mlsysopt.graph.builder import Builder

__all__: list[str] = []


def _activation(
    kind: str,
    meaning: Callable[[Array, Mapping[str, Any]], Array],
    parts: Callable[[Builder, Value, Attrs], Value],
    about: str,
    *,
    flops: int | Callable[[Attrs], int],
    attrs: Mapping[str, AttrSpec] | None = None,
    integers: bool = False,
) -> OpDef:
    allowed = ("int", "float") if integers else ("float",)

    def infer(rule: Inference, types: Sequence[TensorType], given: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        rule.require(x.dtype.kind in allowed, f"{kind}: not defined for {x.dtype}; allowed are {' and '.join(allowed)}")
        return (TensorType(x.dtype, x.shape),)

    def cost(op: Op) -> Dim:
        return op.results[0].type.elements * (flops if isinstance(flops, int) else flops(op.attrs))

    return OpDef(
        kind,
        1,
        infer,
        lambda arrays, given: (meaning(arrays[0], given),),
        attrs or {},
        flops=cost,
        in_place=(0,),
        elementwise=True,
        decompose=lambda b, operands, given: (parts(b, operands[0], given),),
        about=about,
    )


def _relu(x: Array, attrs: Mapping[str, Any]) -> Array:
    import numpy as np

    return np.maximum(x, np.zeros((), x.dtype))


def _relu_parts(b: Builder, x: Value, attrs: Attrs) -> Value:
    return b.op("maximum", x, b.scalar(0.0 if x.type.dtype.is_float else 0, x))


_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715


def _gelu(x: Array, attrs: Mapping[str, Any]) -> Array:
    import numpy as np

    if attrs["approximate"] == "tanh":
        return 0.5 * x * (1 + np.tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x)))
    from scipy import special

    return 0.5 * x * (1 + special.erf(x * math.sqrt(0.5)))


def _gelu_parts(b: Builder, x: Value, attrs: Attrs) -> Value:
    def scaled(value: Value, factor: float) -> Value:
        return b.op("mul", value, b.scalar(factor, x))

    if attrs["approximate"] == "tanh":
        cube = b.op("mul", b.op("mul", x, x), x)
        inner = b.op("tanh", scaled(b.op("add", x, scaled(cube, _TANH_CUBIC)), _TANH_SCALE))
    else:
        inner = b.op("erf", scaled(x, math.sqrt(0.5)))
    return b.op("mul", scaled(x, 0.5), b.op("add", inner, b.scalar(1.0, x)))


def _silu(x: Array, attrs: Mapping[str, Any]) -> Array:
    import numpy as np

    return x / (1 + np.exp(-x))


def _silu_parts(b: Builder, x: Value, attrs: Attrs) -> Value:
    return b.op("mul", x, b.op("sigmoid", x))


def _hardsigmoid(x: Array, attrs: Mapping[str, Any]) -> Array:
    import numpy as np

    return np.clip(x + 3, 0, 6) / 6


def _hardsigmoid_parts(b: Builder, x: Value, attrs: Attrs) -> Value:
    return b.op("div", b.op("clip", b.op("add", x, b.scalar(3.0, x)), low=0.0, high=6.0), b.scalar(6.0, x))


def _hardswish_parts(b: Builder, x: Value, attrs: Attrs) -> Value:
    return b.op("mul", x, _hardsigmoid_parts(b, x, attrs))


def _leaky_relu(x: Array, attrs: Mapping[str, Any]) -> Array:
    import numpy as np

    return np.where(x > 0, x, x * attrs["slope"])


def _leaky_relu_parts(b: Builder, x: Value, attrs: Attrs) -> Value:
    small = b.op("mul", x, b.scalar(cast("float", attrs["slope"]), x))
    return b.op("where", b.op("gt", x, b.scalar(0.0, x)), x, small)


def _elu(x: Array, attrs: Mapping[str, Any]) -> Array:
    import numpy as np

    return np.where(x > 0, x, attrs["alpha"] * np.expm1(x))


def _elu_parts(b: Builder, x: Value, attrs: Attrs) -> Value:
    small = b.op("mul", b.op("expm1", x), b.scalar(cast("float", attrs["alpha"]), x))
    return b.op("where", b.op("gt", x, b.scalar(0.0, x)), x, small)


define(
    _activation("relu", _relu, _relu_parts, "max(x, 0)", flops=1, integers=True),
    _activation(
        "gelu", _gelu, _gelu_parts, "x * normal distribution function(x), exact by erf or approximated by tanh",
        flops=lambda given: 9 if given["approximate"] == "tanh" else 5,
        attrs={"approximate": AttrSpec("str", "none", ("none", "tanh"))},
    ),
    _activation("silu", _silu, _silu_parts, "x * sigmoid(x)", flops=2),
    _activation("hardsigmoid", _hardsigmoid, _hardsigmoid_parts, "clip(x + 3, 0, 6) / 6", flops=3),
    _activation(
        "hardswish", lambda x, attrs: x * _hardsigmoid(x, attrs), _hardswish_parts, "x * clip(x + 3, 0, 6) / 6", flops=4
    ),
    _activation(
        "leaky_relu", _leaky_relu, _leaky_relu_parts, "x, below zero slope * x", flops=3,
        attrs={"slope": AttrSpec("float", 0.01)},
    ),
    _activation(
        "elu", _elu, _elu_parts, "x, below zero alpha * (exp(x) - 1)", flops=4, attrs={"alpha": AttrSpec("float", 1.0)}
    ),
)  # fmt: skip

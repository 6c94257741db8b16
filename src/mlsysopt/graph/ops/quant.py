"""Integers that stand for reals: into them and out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mlsysopt.graph.ir import Attrs, Op
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, Formula, OpDef, define
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, Quant, TensorType, f32, i8

__all__: list[str] = []


def _check(rule: Inference, x: TensorType, attrs: Attrs, kind: str) -> Quant:
    scale, zero = cast("tuple[float, ...]", attrs["scale"]), cast("tuple[int, ...]", attrs["zero_point"])
    axis = cast("int | None", attrs["axis"])
    rule.require(bool(scale) and min(scale) > 0, f"{kind}: scales {scale} must be above 0")
    rule.require(len(scale) == len(zero), f"{kind}: {len(scale)} scales and {len(zero)} zero points")
    if axis is None:
        rule.require(len(scale) == 1, f"{kind}: {len(scale)} scales need an axis")
    else:
        rule.equal(
            x.shape[rule.axis(axis, x.rank, kind)], Dim.of(len(scale)), f"{kind}: scales and size of axis {axis}"
        )
    return Quant(scale, zero, axis)


def _quantize_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    element = cast("DType", attrs["dtype"])
    rule.require(x.dtype.is_float, f"quantize: not defined for {x.dtype}; allowed is float")
    rule.require(element.is_int, f"quantize: {element} is no integer type")
    return (TensorType(element, x.shape, quant=_check(rule, x, attrs, "quantize")),)


def _dequantize_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    element = cast("DType", attrs["dtype"])
    rule.require(x.dtype.is_int, f"dequantize: not defined for {x.dtype}; allowed is int")
    rule.require(element.is_float, f"dequantize: {element} is no float type")
    _check(rule, x, attrs, "dequantize")
    return (TensorType(element, x.shape),)


def _along(values: Sequence[float], axis: int | None, rank: int, element: Any) -> Array:
    import numpy as np

    line = np.asarray(values, element)
    return line[0] if axis is None else line.reshape(-1, *(1,) * (rank - axis - 1))


def _quantize(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    (x,) = arrays
    scale = _along(attrs["scale"], attrs["axis"], x.ndim, x.dtype)
    zero = _along(attrs["zero_point"], attrs["axis"], x.ndim, x.dtype)
    element: DType = attrs["dtype"]
    stored = np.clip(np.rint(x / scale) + zero, cast("int", element.low), cast("int", element.high))
    return (stored.astype(element.numpy()),)


def _dequantize(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    (x,) = arrays
    element = attrs["dtype"].numpy()
    zero = _along(attrs["zero_point"], attrs["axis"], x.ndim, np.int64)
    scale = _along(attrs["scale"], attrs["axis"], x.ndim, element)
    return ((x.astype(np.int64) - zero).astype(element) * scale,)


def _per_element(count: int) -> Formula:
    def flops(op: Op) -> Dim:
        return op.results[0].type.elements * count

    return flops


_ATTRS = {
    "scale": AttrSpec("floats"),
    "zero_point": AttrSpec("ints"),
    "axis": AttrSpec("int", None, optional=True),
}

define(
    OpDef(
        "quantize", 1, _quantize_type, _quantize, {**_ATTRS, "dtype": AttrSpec("dtype", i8)}, flops=_per_element(4),
        in_place=(0,), about="round(x / scale) + zero_point, halves to even, cut to the range of the type",
    ),
    OpDef(
        "dequantize", 1, _dequantize_type, _dequantize, {**_ATTRS, "dtype": AttrSpec("dtype", f32)},
        flops=_per_element(2), about="scale * (x - zero_point)",
    ),
)  # fmt: skip

"""ATen overloads that normalise: layer, batch, group and root-mean-square norms, softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlsysopt.graph.importers.aten.registry import Call, Unsupported, aten, axis_of
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType

__all__: list[str] = []

Shape = Sequence[Dim | int]


def _layer_norm(c: Call, x: Value, shape: Shape, weight: Value | None, bias: Value | None, eps: float) -> Value:
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))
    if weight is None and bias is not None:
        weight = c.full(1, shape, bias.type.dtype)
    operands = [value for value in (x, weight, bias) if value is not None]
    return c.op("layer_norm", *operands, axes=axes, eps=float(eps))


@aten("layer_norm")
def layer_norm(
    c: Call, x: Value, shape: Shape, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5, *_: Any
) -> Value:
    return _layer_norm(c, x, shape, weight, bias, eps)


@aten("native_layer_norm")
def native_layer_norm(
    c: Call, x: Value, shape: Shape, weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value | None, ...]:
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))
    return (
        _layer_norm(c, x, shape, weight, bias, eps) if 0 in c.used else None,
        c.op("mean", x, axes=axes, keepdims=True) if 1 in c.used else None,
        _inverse_spread(c, x, axes, eps) if 2 in c.used else None,
    )


def _inverse_spread(c: Call, x: Value, axes: tuple[int, ...], eps: float) -> Value:
    spread = c.op("var", x, axes=axes, keepdims=True, correction=0)
    return c.op("rsqrt", c.op("add", spread, c.number(float(eps), x.type.dtype)))


@aten("rms_norm", "_fused_rms_norm")
def rms_norm(c: Call, x: Value, shape: Shape, weight: Value | None = None, eps: float | None = None) -> Any:
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))
    operands = (x,) if weight is None else (x, weight)
    made = c.op("rms_norm", *operands, axes=axes, eps=_smallest(x.type.dtype) if eps is None else float(eps))
    if len(c.results) == 1:
        return made
    if 1 in c.used:
        raise Unsupported("the inverse root mean square is used")
    return made, None


def _smallest(dtype: DType) -> float:
    # torch takes the spacing of the element type at 1.
    return {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-23, "f64": 2.0**-52}[dtype.name]


def _batch_norm(
    c: Call, x: Value, weight: Value | None, bias: Value | None, mean: Value | None, var: Value | None, eps: float
) -> Value:
    if mean is None or var is None:
        raise Unsupported("batch normalisation without running statistics")
    channels = x.shape[1]
    scale = weight if weight is not None else c.full(1, (channels,), mean.type.dtype)
    shift = bias if bias is not None else c.full(0, (channels,), mean.type.dtype)
    return c.op("batch_norm", x, mean, var, scale, shift, eps=float(eps))


@aten("batch_norm")
def batch_norm(
    c: Call, x: Value, weight: Value | None, bias: Value | None, mean: Value | None, var: Value | None, train: bool,
    momentum: float, eps: float, *_: Any,
) -> Value:  # fmt: skip
    if train:
        raise Unsupported("batch normalisation in training mode: call model.eval() first")
    return _batch_norm(c, x, weight, bias, mean, var, eps)


@aten("_native_batch_norm_legit_no_training")
def native_batch_norm(
    c: Call, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, momentum: float, eps: float
) -> tuple[Value | None, ...]:
    if c.used & {1, 2}:
        raise Unsupported("saved statistics of a batch normalisation in evaluation mode are used")
    return _batch_norm(c, x, weight, bias, mean, var, eps), None, None


def _group_norm(c: Call, x: Value, groups: int, weight: Value | None, bias: Value | None, eps: float) -> Value:
    channels = x.shape[1]
    scale = weight if weight is not None else c.full(1, (channels,), x.type.dtype)
    shift = bias if bias is not None else c.full(0, (channels,), x.type.dtype)
    return c.op("group_norm", x, scale, shift, groups=groups, eps=float(eps))


@aten("group_norm")
def group_norm(
    c: Call, x: Value, groups: int, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5, *_: Any
) -> Value:
    return _group_norm(c, x, groups, weight, bias, eps)


@aten("native_group_norm")
def native_group_norm(
    c: Call, x: Value, weight: Value | None, bias: Value | None, batch: Any, channels: Any, inner: Any, groups: int,
    eps: float,
) -> tuple[Value | None, ...]:  # fmt: skip
    if c.used & {1, 2}:
        raise Unsupported("saved statistics of a group normalisation are used")
    return _group_norm(c, x, groups, weight, bias, eps), None, None


@aten("instance_norm")
def instance_norm(
    c: Call, x: Value, weight: Value | None, bias: Value | None, mean: Value | None, var: Value | None, own: bool,
    momentum: float, eps: float, *_: Any,
) -> Value:  # fmt: skip
    if not own:
        return _batch_norm(c, x, weight, bias, mean, var, eps)
    return _group_norm(c, x, int(x.shape[1]), weight, bias, eps)


@aten("softmax.int", "_softmax")
def softmax(c: Call, x: Value, axis: int, *_: Any) -> Value:
    return c.op("softmax", c.cast(x, c.dtype), axis=axis_of(axis, x.type.rank))


@aten("log_softmax.int", "_log_softmax")
def log_softmax(c: Call, x: Value, axis: int, *_: Any) -> Value:
    return c.op("log_softmax", c.cast(x, c.dtype), axis=axis_of(axis, x.type.rank))

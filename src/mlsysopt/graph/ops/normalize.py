"""Normalisations: composites that centre and scale, each with its decomposition into simpler ops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mlsysopt.graph.ir import Attrs, Value
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, TypeRule, Variadic, define, per_element
from mlsysopt.graph.types import TensorType

if TYPE_CHECKING:
    from mlsysopt.graph.builder import Builder

__all__: list[str] = []


def _over_trailing(kind: str) -> TypeRule:
    def infer(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        rule.float_dtype(list(types), kind)
        axes = cast("tuple[int, ...]", attrs["axes"])
        trailing = tuple(range(x.rank - len(axes), x.rank))
        rule.require(bool(axes) and axes == trailing, f"{kind}: axes {axes} must be the last ones of rank {x.rank}")
        for one, what in zip(types[1:], ("weight", "bias"), strict=False):
            rule.require(one.rank == len(axes), f"{kind}: the {what} has rank {one.rank}, {len(axes)} is needed")
            for i, size in enumerate(one.shape):
                rule.equal(size, x.shape[axes[i]], f"{kind}: {what} along axis {i}")
        return (TensorType(x.dtype, x.shape),)

    return infer


def _mean_of(x: Array, axes: tuple[int, ...]) -> Array:
    return x.sum(axes, keepdims=True, dtype=x.dtype) / x.dtype.type(math.prod(x.shape[axis] for axis in axes))


def _scaled(y: Array, weights: Sequence[Array]) -> Array:
    if weights:
        y = y * weights[0]
    return y + weights[1] if len(weights) > 1 else y


def _layer_norm(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    x, *weights = arrays
    centred = x - _mean_of(x, attrs["axes"])
    return (_scaled(centred / np.sqrt(_mean_of(centred * centred, attrs["axes"]) + attrs["eps"]), weights),)


def _rms_norm(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    x, *weights = arrays
    return (_scaled(x / np.sqrt(_mean_of(x * x, attrs["axes"]) + attrs["eps"]), weights),)


def _scaled_parts(b: Builder, y: Value, weights: Sequence[Value]) -> Value:
    if weights:
        y = b.op("mul", y, weights[0])
    return b.op("add", y, weights[1]) if len(weights) > 1 else y


def _unit(b: Builder, x: Value, square: Value, axes: tuple[int, ...], attrs: Attrs) -> Value:
    eps = b.scalar(cast("float", attrs["eps"]), x)
    return b.op("mul", x, b.op("rsqrt", b.op("add", b.op("mean", square, axes=axes, keepdims=True), eps)))


def _centred(b: Builder, x: Value, axes: tuple[int, ...]) -> Value:
    return b.op("sub", x, b.op("mean", x, axes=axes, keepdims=True))


def _layer_norm_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    axes = cast("tuple[int, ...]", attrs["axes"])
    centred = _centred(b, operands[0], axes)
    y = _unit(b, centred, b.op("mul", centred, centred), axes, attrs)
    return (_scaled_parts(b, y, operands[1:]),)


def _rms_norm_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    x = operands[0]
    y = _unit(b, x, b.op("mul", x, x), cast("tuple[int, ...]", attrs["axes"]), attrs)
    return (_scaled_parts(b, y, operands[1:]),)


def _per_channel(rule: Inference, x: TensorType, others: Sequence[TensorType], kind: str) -> None:
    rule.require(x.rank >= 2, f"{kind}: the input has rank {x.rank}; N and C are needed")
    for one in others:
        rule.require(one.rank == 1, f"{kind}: rank {one.rank} for a value per channel, 1 is needed")
        rule.equal(one.shape[0], x.shape[1], f"{kind}: channels")


def _batch_norm_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    rule.float_dtype(list(types), "batch_norm")
    _per_channel(rule, types[0], types[1:], "batch_norm")
    return (TensorType(types[0].dtype, types[0].shape),)


def _batch_norm(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    x = arrays[0]
    mean, var, weight, bias = (one.reshape(-1, *(1,) * (x.ndim - 2)) for one in arrays[1:])
    return ((x - mean) / np.sqrt(var + attrs["eps"]) * weight + bias,)


def _over_channels(b: Builder, one: Value, rank: int) -> Value:
    return b.op("reshape", one, shape=(one.shape[0], *(1,) * (rank - 2)))


def _batch_norm_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    x, mean, var, weight, bias = operands
    inverse = b.op("rsqrt", b.op("add", var, b.scalar(cast("float", attrs["eps"]), var)))
    rank = x.type.rank
    scale = _over_channels(b, b.op("mul", weight, inverse), rank)
    centred = b.op("sub", x, _over_channels(b, mean, rank))
    return (b.op("add", b.op("mul", centred, scale), _over_channels(b, bias, rank)),)


def _group_norm_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    x, groups = types[0], cast("int", attrs["groups"])
    rule.float_dtype(list(types), "group_norm")
    _per_channel(rule, x, types[1:], "group_norm")
    rule.require(groups >= 1, f"group_norm: groups must be at least 1, got {groups}")
    channels = x.shape[1]
    divides = not channels.is_constant or int(channels) % groups == 0
    rule.require(divides, f"group_norm: {channels} channels are not a multiple of {groups} groups")
    return (TensorType(x.dtype, x.shape),)


def _group_norm(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    x, weight, bias = arrays
    groups = attrs["groups"]
    if x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels are not a multiple of {groups} groups")
    parted = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    axes = tuple(range(2, parted.ndim))
    centred = parted - _mean_of(parted, axes)
    unit = centred / np.sqrt(_mean_of(centred * centred, axes) + attrs["eps"])
    weight, bias = (one.reshape(-1, *(1,) * (x.ndim - 2)) for one in (weight, bias))
    return (unit.reshape(x.shape) * weight + bias,)


def _group_norm_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    x, weight, bias = operands
    groups, rank = cast("int", attrs["groups"]), x.type.rank
    channels, *spatial = x.shape[1:]
    parted = b.op("reshape", x, shape=(x.shape[0], groups, channels // groups, *spatial))
    axes = tuple(range(2, rank + 1))
    centred = _centred(b, parted, axes)
    unit = b.op("reshape", _unit(b, centred, b.op("mul", centred, centred), axes, attrs), shape=x.shape)
    return (_scaled_parts(b, unit, [_over_channels(b, weight, rank), _over_channels(b, bias, rank)]),)


_TRAILING = {"axes": AttrSpec("ints"), "eps": AttrSpec("float", 1e-5)}

define(
    OpDef(
        "layer_norm", Variadic(1, 3), _over_trailing("layer_norm"), _layer_norm, _TRAILING, flops=per_element(8),
        in_place=(0,), decompose=_layer_norm_parts,
        about="zero mean and unit variance over the last axes, then weight and bias",
    ),
    OpDef(
        "rms_norm", Variadic(1, 2), _over_trailing("rms_norm"), _rms_norm, _TRAILING, flops=per_element(5),
        in_place=(0,), decompose=_rms_norm_parts, about="unit mean square over the last axes, then weight",
    ),
    OpDef(
        "batch_norm", 5, _batch_norm_type, _batch_norm, {"eps": AttrSpec("float", 1e-5)}, flops=per_element(4),
        in_place=(0,), decompose=_batch_norm_parts,
        about="x, mean, variance, weight, bias per channel (axis 1), with the statistics of training",
    ),
    OpDef(
        "group_norm", 3, _group_norm_type, _group_norm, {"groups": AttrSpec("int"), "eps": AttrSpec("float", 1e-5)},
        flops=per_element(8), in_place=(0,), decompose=_group_norm_parts,
        about="zero mean and unit variance over groups of channels (axis 1), then weight and bias per channel",
    ),
)  # fmt: skip

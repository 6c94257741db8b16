"""Contractions: matrix products, convolutions and transposed convolutions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mlsysopt.graph.ir import Attrs, Op
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, Variadic, define
from mlsysopt.graph.ops.windows import Windows, padded, view
from mlsysopt.graph.symbolic import Dim, multiplied
from mlsysopt.graph.types import TensorType

__all__: list[str] = []


def _numbers(rule: Inference, types: Sequence[TensorType], kind: str) -> None:
    element = rule.same_dtype(list(types), kind)
    rule.require(not element.is_bool, f"{kind}: not defined for bool; cast the operands to numbers")


def _rows_columns(shape: tuple[Dim, ...], transposed: bool) -> tuple[Dim, Dim]:
    return (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])


def _matmul_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    a, b = types
    _numbers(rule, types, "matmul")
    rule.require(min(a.rank, b.rank) >= 2, f"matmul: ranks {a.rank} and {b.rank}; reshape vectors to matrices first")
    rows, inner = _rows_columns(a.shape, cast("bool", attrs["transpose_a"]))
    other, columns = _rows_columns(b.shape, cast("bool", attrs["transpose_b"]))
    rule.equal(inner, other, "matmul: contracted sizes")
    batch = rule.broadcast_shapes([a.shape[:-2], b.shape[:-2]], "matmul batch")
    return (TensorType(a.dtype, (*batch, rows, columns)),)


def _matmul(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    a, b = arrays
    if attrs["transpose_a"]:
        a = a.swapaxes(-1, -2)
    if attrs["transpose_b"]:
        b = b.swapaxes(-1, -2)
    return (a @ b,)


def _matmul_flops(op: Op) -> Dim:
    a = op.operands[0].type
    inner = a.shape[-2] if op.attrs["transpose_a"] else a.shape[-1]
    return op.results[0].type.elements * inner * 2


def _spatial(rule: Inference, types: Sequence[TensorType], kind: str) -> int:
    """Check what both convolutions ask of operands; return the number of spatial axes."""
    _numbers(rule, types, kind)
    x, w = types[:2]
    rule.require(3 <= x.rank <= 5, f"{kind}: the input has rank {x.rank}; N, C and 1 to 3 spatial axes are needed")
    rule.require(w.rank == x.rank, f"{kind}: weight of rank {w.rank} for an input of rank {x.rank}")
    sizes = w.shape[2:]
    rule.require(all(size.is_constant for size in sizes), f"{kind}: kernel sizes must be numbers, got {w}")
    return x.rank - 2


def _kernel(w: TensorType) -> tuple[int, ...]:
    return tuple(int(size) for size in w.shape[2:])


def _bias(rule: Inference, types: Sequence[TensorType], channels: Dim, kind: str) -> None:
    if len(types) == 3:
        rule.require(types[2].rank == 1, f"{kind}: the bias has rank {types[2].rank}, 1 is needed")
        rule.equal(types[2].shape[0], channels, f"{kind}: bias and output channels")


def _conv_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    _spatial(rule, types, "conv")
    x, w = types[:2]
    groups = cast("int", attrs["groups"])
    rule.require(groups >= 1, f"conv: groups must be at least 1, got {groups}")
    rule.equal(x.shape[1], w.shape[1] * groups, "conv: input channels and weight channels times groups")
    outputs = w.shape[0]
    divides = not outputs.is_constant or int(outputs) % groups == 0
    rule.require(divides, f"conv: {outputs} output channels are not a multiple of {groups} groups")
    windows = Windows.of(attrs, _kernel(w))
    windows.check(rule, "conv")
    _bias(rule, types, outputs, "conv")
    return (TensorType(x.dtype, (x.shape[0], outputs, *windows.sizes(rule, x.shape[2:], "conv"))),)


def _conv(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    x, w = arrays[:2]
    groups: int = attrs["groups"]
    windows = Windows.of(Attrs(attrs), w.shape[2:])
    counts = windows.counts(x.shape[2:])
    cells = view(padded(x, windows, counts, 0), windows, counts)
    y = _depthwise(cells, w, groups) if w.shape[1] == 1 and groups > 1 else _grouped(cells, w, groups)
    return (_plus_bias(y, arrays),)


def _grouped(cells: Array, w: Array, groups: int) -> Array:
    """Columns of each image times the weights of each group."""
    import numpy as np

    spatial = w.ndim - 2
    batch, channels = cells.shape[:2]
    counts = cells.shape[2 + spatial :]
    per_window = channels // groups * math.prod(w.shape[2:])
    weights = w.reshape(groups, w.shape[0] // groups, per_window)
    y = np.empty((batch, groups, w.shape[0] // groups, math.prod(counts)), cells.dtype)
    for image in range(batch):  # one at a time: the columns of a batch need not fit in memory
        columns = cells[image].reshape(groups, per_window, math.prod(counts))
        np.matmul(weights, columns, out=y[image])
    return y.reshape(batch, w.shape[0], *counts)


def _depthwise(cells: Array, w: Array, groups: int) -> Array:
    """One input channel a group: a matrix product would have nothing to contract but the kernel."""
    import numpy as np

    spatial = w.ndim - 2
    counts = cells.shape[2 + spatial :]
    per_group = w.shape[0] // groups
    y = np.zeros((cells.shape[0], groups, per_group, *counts), cells.dtype)
    for place in itertools.product(*(range(k) for k in w.shape[2:])):
        factor = w[(slice(None), 0, *place)].reshape(groups, per_group, *(1,) * spatial)
        y += factor * cells[(slice(None), slice(None), *place)][:, :, None]
    return y.reshape(cells.shape[0], w.shape[0], *counts)


def _plus_bias(y: Array, arrays: Sequence[Array]) -> Array:
    return y + arrays[2].reshape(-1, *(1,) * (y.ndim - 2)) if len(arrays) == 3 else y


def _conv_flops(op: Op) -> Dim:
    w, y = op.operands[1].type, op.results[0].type
    products = y.elements * multiplied(w.shape[1:]) * 2
    return products + y.elements if len(op.operands) == 3 else products


def _transpose_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    kind = "conv_transpose"
    rank = _spatial(rule, types, kind)
    x, w = types[:2]
    groups = cast("int", attrs["groups"])
    rule.require(groups >= 1, f"{kind}: groups must be at least 1, got {groups}")
    rule.equal(x.shape[1], w.shape[0], f"{kind}: input channels and first axis of the weight")
    inputs = w.shape[0]
    divides = not inputs.is_constant or int(inputs) % groups == 0
    rule.require(divides, f"{kind}: {inputs} input channels are not a multiple of {groups} groups")
    windows = Windows.of(attrs, _kernel(w))
    windows.check(rule, kind)
    extra = cast("tuple[int, ...]", attrs["output_padding"]) or (0,) * rank
    rule.require(len(extra) == rank, f"{kind}: output_padding {extra} needs one entry per spatial axis, {rank}")
    for more, stride, d in zip(extra, windows.strides, windows.dilation, strict=True):
        rule.require(0 <= more < max(stride, d), f"{kind}: output_padding {extra} must be below stride or dilation")
    outputs = w.shape[1] * groups
    _bias(rule, types, outputs, kind)
    sizes = tuple(_grown(windows, extra, i, size) for i, size in enumerate(x.shape[2:]))
    for size in sizes:
        rule.at_most(Dim.of(0), size, f"{kind}: output size")
    return (TensorType(x.dtype, (x.shape[0], outputs, *sizes)),)


def _grown(windows: Windows, extra: Sequence[int], i: int, size: Dim) -> Dim:
    return (size - 1) * windows.strides[i] + (windows.extent[i] + extra[i] - sum(windows.padding[i]))


def _conv_transpose(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    x, w = arrays[:2]
    rank, groups = x.ndim - 2, attrs["groups"]
    windows = Windows.of(Attrs(attrs), w.shape[2:])
    extra = attrs["output_padding"] or (0,) * rank
    batch, channels, spatial = x.shape[0], x.shape[1], x.shape[2:]
    per_group = w.shape[1]
    sizes = [int(_grown(windows, extra, i, Dim.of(size))) for i, size in enumerate(spatial)]
    if min(sizes) < 1 or min(spatial) < 1:
        raise ValueError(f"an input of {spatial} has no output left: {tuple(sizes)}")
    weights = w.reshape(groups, channels // groups, per_group * windows.elements).swapaxes(1, 2)
    pixels = x.reshape(batch, groups, channels // groups, math.prod(spatial))
    parts = (weights @ pixels).reshape(batch, groups, per_group, *windows.kernel, *spatial)
    whole = [(size - 1) * windows.strides[i] + windows.extent[i] + extra[i] for i, size in enumerate(spatial)]
    y = np.zeros((batch, groups, per_group, *whole), x.dtype)
    for place in itertools.product(*(range(k) for k in windows.kernel)):
        ends = tuple(
            slice(at * d, at * d + (size - 1) * s + 1, s)
            for at, d, s, size in zip(place, windows.dilation, windows.strides, spatial, strict=True)
        )
        y[(..., *ends)] += parts[(slice(None), slice(None), slice(None), *place)]
    cut = tuple(slice(before, before + size) for (before, _), size in zip(windows.padding, sizes, strict=True))
    y = y[(..., *cut)].reshape(batch, groups * per_group, *sizes)
    return (_plus_bias(y, arrays),)


def _transpose_flops(op: Op) -> Dim:
    x, w, y = op.operands[0].type, op.operands[1].type, op.results[0].type
    products = x.elements * multiplied(w.shape[1:]) * 2
    return products + y.elements if len(op.operands) == 3 else products


_WINDOW_ATTRS = {
    "strides": AttrSpec("ints", ()),
    "padding": AttrSpec("pairs", ()),
    "dilation": AttrSpec("ints", ()),
    "groups": AttrSpec("int", 1),
}

define(
    OpDef(
        "matmul", 2, _matmul_type, _matmul,
        {"transpose_a": AttrSpec("bool", False), "transpose_b": AttrSpec("bool", False)},
        flops=_matmul_flops, about="product of the last two axes, transposed on request; batch axes broadcast",
    ),
    OpDef(
        "conv", Variadic(2, 3), _conv_type, _conv, _WINDOW_ATTRS, flops=_conv_flops,
        about="cross-correlation of N, C, spatial with O, C/groups, kernel, and a bias; empty attributes are 1 or 0",
    ),
    OpDef(
        "conv_transpose", Variadic(2, 3), _transpose_type, _conv_transpose,
        {**_WINDOW_ATTRS, "output_padding": AttrSpec("ints", ())}, flops=_transpose_flops,
        about="the gradient of a convolution with respect to its input: weight C, O/groups, kernel",
    ),
)  # fmt: skip

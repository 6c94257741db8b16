"""Quantisation as ONNX writes it: integer tensors beside their scales and zero points."""

from __future__ import annotations

import numpy as np

from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.registry import reads
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, u8

__all__: list[str] = []


def _parameters(node: Node, x: Value) -> tuple[tuple[float, ...], tuple[int, ...], int | None] | None:
    """Return scales, zero points and axis when they are known numbers."""
    scale, zero = node.numbers(1), node.numbers(2)
    if scale is None or (node.has(2) and zero is None):
        return None
    if node.attr("block_size", 0):
        node.refuse("block-wise quantisation is not supported")
    # Scales are results of a calibration, not decimal numbers that a person wrote: taken exactly.
    scales = tuple(float(one) for one in np.asarray(scale, np.float64).reshape(-1))
    zeros = (0,) * len(scales) if zero is None else tuple(int(one) for one in np.asarray(zero).reshape(-1))
    axis = node.axis(1, x.type.rank) if np.ndim(scale) and len(scales) > 1 else None
    return scales, zeros, axis


def _stored(node: Node) -> DType:
    """Return the element type of the quantised tensor: that of the zero point."""
    return node.value(2).type.dtype if node.has(2) else u8


@reads("QuantizeLinear")
def _quantize(node: Node) -> Value:
    x = node.value(0)
    known = _parameters(node, x)
    to = _stored(node)
    if known is not None:
        scale, zero, axis = known
        return node.done("quantize", x, scale=scale, zero_point=zero, axis=axis, dtype=to)
    rounded = node.emit("round", node.emit("div", x, _along(node, node.value(1), x)))
    if node.has(2):
        rounded = node.emit("add", rounded, _along(node, node.cast(node.value(2), x.type.dtype), x))
    bounded = node.emit("clip", rounded, low=float(to.low or 0), high=float(to.high or 0))
    return node.done("cast", bounded, to=to)


@reads("DequantizeLinear")
def _dequantize(node: Node) -> Value:
    x = node.value(0)
    known = _parameters(node, x)
    scale = node.value(1) if known is None else None
    if known is not None:
        element = node.session.element(node.inputs[1])
        return node.done("dequantize", x, scale=known[0], zero_point=known[1], axis=known[2], dtype=element)
    assert scale is not None
    real = node.cast(x, scale.type.dtype)
    if node.has(2):
        real = node.emit("sub", real, _along(node, node.cast(node.value(2), scale.type.dtype), x))
    return node.done("mul", real, _along(node, scale, x))


def _along(node: Node, value: Value, x: Value) -> Value:
    """Reshape one number a channel so that it broadcasts against the tensor."""
    if value.type.rank == 0:
        return value
    axis = node.axis(1, x.type.rank)
    return node.reshape(value, [value.shape[0] if i == axis else Dim.of(1) for i in range(x.type.rank)])

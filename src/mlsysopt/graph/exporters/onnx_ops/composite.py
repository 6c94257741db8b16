"""Named composites that ONNX has too; the others are written as the simpler ops that they mean."""

from __future__ import annotations

from typing import cast

import numpy as np

from mlsysopt.graph.exporters.onnx_ops.registry import writes
from mlsysopt.graph.exporters.onnx_ops.writer import Writer, exact_float
from mlsysopt.graph.importers.onnx_ops.types import TO_ONNX
from mlsysopt.graph.ir import Op
from mlsysopt.graph.types import DType, f32, i8, u8

__all__: list[str] = []


@writes("softmax", "log_softmax")
def _softmax(w: Writer, op: Op) -> bool:
    return w.apply("Softmax" if op.kind == "softmax" else "LogSoftmax", op, axis=op.attrs["axis"])


@writes("layer_norm")
def _layer_norm(w: Writer, op: Op) -> bool:
    axes = cast("tuple[int, ...]", op.attrs["axes"])
    names = w.inputs(op)
    x = op.operands[0].type
    sizes = [x.shape[axis].constant for axis in axes]
    if len(names) == 1:
        if any(size is None for size in sizes):
            return w.decomposed(op)
        names.append(w.constant(np.ones([size or 0 for size in sizes], x.dtype.numpy())))
    one = w.apply("LayerNormalization", op, inputs=names, axis=axes[0], epsilon=op.attrs["eps"])
    return one and len(op.operands) > 1 and exact_float(op.attrs["eps"])


@writes("rms_norm")
def _rms_norm(w: Writer, op: Op) -> bool:
    axes = cast("tuple[int, ...]", op.attrs["axes"])
    if w.opset < 23 or len(op.operands) < 2:
        return w.decomposed(op)
    one = w.apply("RMSNormalization", op, axis=axes[0], epsilon=op.attrs["eps"])
    return one and exact_float(op.attrs["eps"])


@writes("batch_norm")
def _batch_norm(w: Writer, op: Op) -> bool:
    x, mean, var, weight, bias = w.inputs(op)
    element = op.result.type.dtype
    if not w.allows("BatchNormalization", element):
        return w.decomposed(op)
    w.result("BatchNormalization", [x, weight, bias, mean, var], op, epsilon=op.attrs["eps"])
    return exact_float(op.attrs["eps"])


@writes("quantize", "dequantize")
def _quantize(w: Writer, op: Op) -> bool:
    (x,) = op.operands
    scales = cast("tuple[float, ...]", op.attrs["scale"])
    zeros = cast("tuple[int, ...]", op.attrs["zero_point"])
    axis, element = cast("int | None", op.attrs["axis"]), cast("DType", op.attrs["dtype"])
    shape = () if axis is None else (len(scales),)
    real, stored = (x.type.dtype, element) if op.kind == "quantize" else (element, x.type.dtype)
    if real is not f32 or stored not in (i8, u8):
        return _in_steps(w, op, real, stored)
    names = [
        w.name(x),
        w.constant(np.asarray(scales, np.float32).reshape(shape)),
        w.constant(np.asarray(zeros, stored.numpy()).reshape(shape)),
    ]
    kind = "QuantizeLinear" if op.kind == "quantize" else "DequantizeLinear"
    w.result(kind, names, op, axis=axis)
    return all(float(np.float32(one)) == one for one in scales) and (axis is None or len(scales) > 1)


def _in_steps(w: Writer, op: Op, real: DType, stored: DType) -> bool:
    """Write the arithmetic out, in element types that ONNX does not quantise."""
    (x,) = op.operands
    axis = cast("int | None", op.attrs["axis"])
    shape = () if axis is None else (-1, *(1,) * (x.type.rank - axis - 1))
    wide = real if w.allows("Round", real) else f32
    numbers = [
        w.constant(np.asarray(op.attrs[name], np.float64).astype(wide.numpy()).reshape(shape))
        for name in ("scale", "zero_point")
    ]
    given = w.name(x) if x.type.dtype is wide else w.cast(w.name(x), wide)
    if op.kind == "quantize":
        rounded = w.emit("Round", [w.emit("Div", [given, numbers[0]])])
        moved = w.emit("Add", [rounded, numbers[1]])
        bounds = [w.scalar(float(one or 0), wide) for one in (stored.low, stored.high)]
        made, target = w.emit("Clip", [moved, *bounds]), stored
    else:
        made, target = w.emit("Mul", [w.emit("Sub", [given, numbers[1]]), numbers[0]]), real
    w.emit("Cast", [made], output=w.name(op.result), to=TO_ONNX[target])
    return False

"""Matrix products, convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from mlsysopt.graph.exporters.onnx_ops.registry import writes
from mlsysopt.graph.exporters.onnx_ops.writer import Writer
from mlsysopt.graph.ir import Op, Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import i64

__all__: list[str] = []


def _turned(w: Writer, value: Value) -> str:
    """Swap the last two axes."""
    rank = value.type.rank
    return w.emit("Transpose", [w.name(value)], perm=[*range(rank - 2), rank - 1, rank - 2])


@writes("matmul")
def _matmul(w: Writer, op: Op) -> bool:
    a, b = op.operands
    turned = bool(op.attrs["transpose_a"]), bool(op.attrs["transpose_b"])
    names = [_turned(w, value) if turn else w.name(value) for value, turn in zip((a, b), turned, strict=True)]
    return w.apply("MatMul", op, inputs=names) and not any(turned)


@writes("linear")
def _linear(w: Writer, op: Op) -> bool:
    x, weight, *bias = op.operands
    if x.type.rank == 2 and w.allows("Gemm", x.type.dtype):
        w.result("Gemm", w.inputs(op), op, transB=1)
        return True
    if not w.allows("MatMul", x.type.dtype):
        return w.decomposed(op)
    product = w.emit("MatMul", [w.name(x), _turned(w, weight)], output="" if bias else w.name(op.result))
    if bias:
        w.result("Add", [product, w.name(bias[0])], op)
    return False


def _window(op: Op) -> dict[str, Any]:
    """Return the attributes of a window; those that are left to their default stay away."""
    padding = cast("tuple[tuple[int, int], ...]", op.attrs["padding"])
    return {
        "strides": op.attrs["strides"] or None,
        "pads": [before for before, _ in padding] + [after for _, after in padding] if padding else None,
        "dilations": op.attrs.get("dilation", ()) or None,
    }


def _kernel(op: Op) -> list[int]:
    return [int(size) for size in op.operands[1].shape[2:]]


@writes("conv")
def _conv(w: Writer, op: Op) -> bool:
    return w.apply("Conv", op, kernel_shape=_kernel(op), group=op.attrs["groups"], **_window(op))


@writes("conv_transpose")
def _conv_transpose(w: Writer, op: Op) -> bool:
    extra = op.attrs["output_padding"] or None
    return w.apply(
        "ConvTranspose", op, kernel_shape=_kernel(op), group=op.attrs["groups"], output_padding=extra, **_window(op)
    )


@writes("max_pool", "avg_pool")
def _pool(w: Writer, op: Op) -> bool:
    attrs = _window(op)
    kernel = cast("Sequence[int]", op.attrs["kernel"])
    exact = attrs["strides"] is not None
    attrs["strides"] = attrs["strides"] or kernel
    if op.kind == "max_pool":
        kind = "MaxPool"
    else:
        kind = "AveragePool"
        attrs["count_include_pad"] = int(bool(op.attrs["count_include_pad"]))
        del attrs["dilations"]
    one = w.apply(kind, op, kernel_shape=kernel, ceil_mode=int(bool(op.attrs["ceil_mode"])), **attrs)
    return one and exact


@writes("adaptive_avg_pool")
def _adaptive(w: Writer, op: Op) -> bool:
    (x,) = op.operands
    output = cast("tuple[int, ...]", op.attrs["output"])
    if set(output) == {1} and w.allows("GlobalAveragePool", x.type.dtype):
        w.result("GlobalAveragePool", w.inputs(op), op)
        return False
    name, rank = w.name(x), x.type.rank
    for i, count in enumerate(output):
        last = i == len(output) - 1
        # Each part is a weighted sum along the axis: a matrix product with the axis at the end.
        swapped = list(range(rank))
        swapped[2 + i], swapped[-1] = swapped[-1], swapped[2 + i]
        straight = swapped == list(range(rank))
        turned = name if straight else w.emit("Transpose", [name], perm=swapped)
        weights = _shares(w, x.shape[2 + i], count, op)
        ends = last and straight
        name = w.emit("MatMul", [turned, weights], output=w.name(op.result) if ends else "")
        if not straight:
            name = w.emit("Transpose", [name], output=w.name(op.result) if last else "", perm=swapped)
    return False


def _shares(w: Writer, size: Dim, count: int, op: Op) -> str:
    """Return the matrix (size, count) whose column k averages the elements of part k."""
    element = op.result.type.dtype
    number = w.size(size)
    ends = [np.arange(count, dtype=np.int64), np.arange(1, count + 1, dtype=np.int64)]
    parts = w.scalar(count, i64)
    start = w.emit("Div", [w.emit("Mul", [w.constant(ends[0]), number]), parts])
    limit = w.emit("Mul", [w.constant(ends[1]), number])
    limit = w.emit("Div", [w.emit("Add", [limit, w.scalar(count - 1, i64)]), parts])
    lone = w.emit("Squeeze", [number, w.ints([0])])
    places = w.emit("Range", [w.scalar(0, i64), lone, w.scalar(1, i64)])
    column = w.emit("Unsqueeze", [places, w.ints([1])])
    inside = w.emit("And", [w.emit("GreaterOrEqual", [column, start]), w.emit("Less", [column, limit])])
    width = w.cast(w.emit("Sub", [limit, start]), element)
    return w.emit("Div", [w.cast(inside, element), width])

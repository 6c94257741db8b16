"""Ops that move elements, and those that make them from sizes."""

from __future__ import annotations

from typing import cast

import numpy as np

from mlsysopt.graph.exporters.onnx_ops.registry import writes
from mlsysopt.graph.exporters.onnx_ops.writer import Writer, exact_number
from mlsysopt.graph.importers.symbolic_values import missing_size, slice_bounds
from mlsysopt.graph.ir import Op
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, bf16, i16, i32, i64

__all__: list[str] = []

_ZERO, _ONE = Dim.of(0), Dim.of(1)
_END = 2**63 - 1


def _dims(op: Op, name: str) -> tuple[Dim, ...]:
    return cast("tuple[Dim, ...]", op.attrs[name])


@writes("reshape")
def _reshape(w: Writer, op: Op) -> bool:
    x, target = op.operands[0], list(_dims(op, "shape"))
    given = list(target)
    for i, size in enumerate(target):
        # 0 keeps an axis; a size that is 0 cannot be written so.
        if i < x.type.rank and size.constant is None and size == x.shape[i]:
            given[i] = _ZERO
    open_axes = [i for i, size in enumerate(given) if size.constant is None]
    if len(open_axes) == 1 and all(size.constant != 0 for i, size in enumerate(target) if i not in open_axes):
        (i,) = open_axes
        others = target[:i] + target[i + 1 :]
        if missing_size(x.shape, others) == target[i] and not _may_be_empty(w, others):
            given[i] = Dim.of(-1)
    if any(size == _ZERO for size in target):
        w.result("Reshape", [w.name(x), w.shape(target)], op, allowzero=1)
        return True
    w.result("Reshape", [w.name(x), w.shape(given)], op)
    return True


def _may_be_empty(w: Writer, sizes: list[Dim]) -> bool:
    # With -1 beside an axis of size 0 there is nothing to divide by.
    return any((w.facts.range(size)[0] or 0) < 1 for size in sizes if size.constant is None)


@writes("transpose")
def _transpose(w: Writer, op: Op) -> bool:
    w.result("Transpose", w.inputs(op), op, perm=op.attrs["perm"])
    return True


@writes("broadcast")
def _broadcast(w: Writer, op: Op) -> bool:
    (x,) = op.operands
    target = _dims(op, "shape")
    offset = len(target) - x.type.rank
    # An axis that keeps its size is asked for as 1, which keeps it.
    given = [_ONE if i >= offset and x.shape[i - offset] == size else size for i, size in enumerate(target)]
    w.result("Expand", [w.name(x), w.shape(given)], op)
    return x.shape != target


@writes("slice")
def _slice(w: Writer, op: Op) -> bool:
    (x,) = op.operands
    starts, limits = _dims(op, "starts"), _dims(op, "limits")
    strides = cast("tuple[int, ...]", op.attrs["strides"])
    axes = [i for i, size in enumerate(x.shape) if starts[i] != _ZERO or limits[i] != size or strides[i] != 1]
    if not axes:
        w.result("Identity", w.inputs(op), op)
        return False
    ends = [Dim.of(_END) if limits[i] == x.shape[i] else limits[i] for i in axes]
    exact = all(
        slice_bounds(starts[i], end, x.shape[i], w.facts) == (starts[i], limits[i])
        for i, end in zip(axes, ends, strict=True)
    )
    names = [w.name(x), w.shape([starts[i] for i in axes]), w.shape(ends), w.ints(axes)]
    if any(strides[i] != 1 for i in axes):
        names.append(w.ints([strides[i] for i in axes]))
    w.result("Slice", names, op)
    return exact


@writes("flip")
def _flip(w: Writer, op: Op) -> bool:
    axes = cast("tuple[int, ...]", op.attrs["axes"])
    if not axes:
        w.result("Identity", w.inputs(op), op)
        return False
    back = w.ints([-1] * len(axes))
    w.result("Slice", [*w.inputs(op), back, w.ints([-_END] * len(axes)), w.ints(axes), back], op)
    return axes == tuple(sorted(axes))


@writes("concat")
def _concat(w: Writer, op: Op) -> bool:
    w.result("Concat", w.inputs(op), op, axis=op.attrs["axis"])
    return len(op.operands) > 1


@writes("split")
def _split(w: Writer, op: Op) -> bool:
    outputs = [w.name(value) for value in op.results]
    w.emit_many("Split", [*w.inputs(op), w.shape(_dims(op, "sizes"))], outputs, axis=op.attrs["axis"])
    return len(outputs) > 1


@writes("pad")
def _pad(w: Writer, op: Op) -> bool:
    padding, mode = cast("tuple[tuple[int, int], ...]", op.attrs["padding"]), op.attrs["mode"]
    element, value = op.result.type.dtype, op.attrs["value"]
    names = [*w.inputs(op), w.ints([before for before, _ in padding] + [after for _, after in padding])]
    if mode == "constant":
        names.append(w.scalar(cast("float", value), element))
    w.result("Pad", names, op, mode=mode)
    moves = any(before or after for before, after in padding)
    unread = 0.0 if element.is_float else False if element.is_bool else 0
    kept = exact_number(value, element) if mode == "constant" else type(value) is type(unread) and value == unread
    return moves and kept


@writes("full")
def _full(w: Writer, op: Op) -> bool:
    element, shape = cast("DType", op.attrs["dtype"]), _dims(op, "shape")
    value = np.asarray(op.attrs["value"]).astype(element.numpy())
    exact = exact_number(op.attrs["value"], element)
    if not shape:
        w.constant(value, output=w.name(op.result))
        return exact
    from onnx import numpy_helper

    if element is bf16 and w.opset < 20:
        filling = numpy_helper.from_array(value.reshape(1).astype(np.float32))
        w.cast(w.emit("ConstantOfShape", [w.shape(shape)], value=filling), element, output=w.name(op.result))
        return False
    filling = numpy_helper.from_array(value.reshape(1))
    w.result("ConstantOfShape", [w.shape(shape)], op, value=filling)
    return exact


@writes("size")
def _size(w: Writer, op: Op) -> bool:
    size = cast("Dim", op.attrs["dim"])
    if size.constant is not None:
        w.constant(np.asarray(size.constant, np.int64), output=w.name(op.result))
        return False
    w.result("Squeeze", [w.size(size), w.ints([0])], op)
    return True


@writes("iota")
def _iota(w: Writer, op: Op) -> bool:
    shape, axis, element = _dims(op, "shape"), cast("int", op.attrs["axis"]), cast("DType", op.attrs["dtype"])
    count = w.emit("Squeeze", [w.size(shape[axis]), w.ints([0])])
    counted = element if element in (i16, i32, i64) else i64
    if counted is not i64:
        count = w.cast(count, counted)
    plain = len(shape) == 1 and counted is element
    bounds = [w.scalar(0, counted), count, w.scalar(1, counted)]
    line = w.emit("Range", bounds, output=w.name(op.result) if plain else "")
    if plain:
        return counted is i64
    if counted is not element:
        # Counting in whole numbers is exact however long the axis is.
        line = w.cast(line, element, output=w.name(op.result) if len(shape) == 1 else "")
    if len(shape) > 1:
        column = w.emit("Reshape", [line, w.ints([-1, *(1,) * (len(shape) - axis - 1)])])
        w.result("Expand", [column, w.shape(shape)], op)
    return False

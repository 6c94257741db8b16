"""Reductions."""

from __future__ import annotations

from typing import cast

import numpy as np

from mlsysopt.graph.exporters.onnx_ops.registry import writes
from mlsysopt.graph.exporters.onnx_ops.writer import Writer
from mlsysopt.graph.ir import Op
from mlsysopt.graph.types import boolean, i32

__all__: list[str] = []

_KINDS = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd"}


def _axes(op: Op) -> tuple[int, ...]:
    return cast("tuple[int, ...]", op.attrs["axes"])


@writes(*_KINDS)
def _reduce(w: Writer, op: Op) -> bool:
    axes = _axes(op)
    if not axes:
        w.result("Identity", w.inputs(op), op)
        return False
    names = [*w.inputs(op), w.ints(axes)]
    return w.apply(_KINDS[op.kind], op, inputs=names, keepdims=int(bool(op.attrs["keepdims"]))) and axes == tuple(
        sorted(axes)
    )


@writes("any", "all")
def _truth(w: Writer, op: Op) -> bool:
    if not _axes(op):
        w.result("Identity", w.inputs(op), op)
        return False
    # Before opset 20 only numbers have a maximum.
    numbers = w.cast(w.name(op.operands[0]), i32)
    kind = "ReduceMax" if op.kind == "any" else "ReduceMin"
    found = w.emit(kind, [numbers, w.ints(_axes(op))], keepdims=int(bool(op.attrs["keepdims"])))
    w.cast(found, boolean, output=w.name(op.result))
    return False


@writes("argmax", "argmin")
def _arg(w: Writer, op: Op) -> bool:
    kind = "ArgMax" if op.kind == "argmax" else "ArgMin"
    return w.apply(kind, op, axis=op.attrs["axis"], keepdims=int(bool(op.attrs["keepdims"])))


@writes("cumsum")
def _cumsum(w: Writer, op: Op) -> bool:
    axis = w.constant(np.asarray(op.attrs["axis"], np.int64))
    return w.apply("CumSum", op, inputs=[*w.inputs(op), axis])

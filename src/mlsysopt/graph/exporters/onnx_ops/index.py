"""Lookups, scattering and selection."""

from __future__ import annotations

from mlsysopt.graph.exporters.onnx_ops.registry import writes
from mlsysopt.graph.exporters.onnx_ops.writer import Writer
from mlsysopt.graph.ir import Op, Value
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.types import f32, i32, i64

__all__: list[str] = []


def _places(w: Writer, value: Value) -> tuple[str, bool]:
    """Return indices in a type that ONNX takes, and whether they had it."""
    if value.type.dtype in (i32, i64):
        return w.name(value), True
    return w.cast(w.name(value), i64), False


@writes("gather", "gather_elements")
def _gather(w: Writer, op: Op) -> bool:
    x, indices = op.operands
    name, plain = _places(w, indices)
    w.result("Gather" if op.kind == "gather" else "GatherElements", [w.name(x), name], op, axis=op.attrs["axis"])
    cut = op.kind == "gather_elements" and any(
        a.constant is not None and b.constant is not None and a != b
        for i, (a, b) in enumerate(zip(x.shape, indices.shape, strict=True))
        if i != op.attrs["axis"]
    )
    return plain and not cut


@writes("embedding")
def _embedding(w: Writer, op: Op) -> bool:
    table, ids = op.operands
    w.result("Gather", [w.name(table), _places(w, ids)[0]], op, axis=0)
    return False


@writes("scatter", "scatter_add")
def _scatter(w: Writer, op: Op) -> bool:
    x, indices, updates = op.operands
    name, plain = _places(w, indices)
    reduction = "none" if op.kind == "scatter" else "add"
    names = [w.name(x), name, w.name(updates)]
    w.result("ScatterElements", names, op, axis=op.attrs["axis"], reduction=reduction)
    return plain


@writes("nonzero")
def _nonzero(w: Writer, op: Op) -> bool:
    w.apply("NonZero", op)
    return False  # the name of its symbol is kept in the note


@writes("masked_select")
def _masked_select(w: Writer, op: Op) -> bool:
    x, mask = op.operands
    shape = Inference(w.facts).broadcast_shapes([x.shape, mask.shape], "masked_select")
    flat = w.ints([-1])
    names = [
        w.emit(
            "Reshape", [w.name(one) if one.shape == shape else w.emit("Expand", [w.name(one), w.shape(shape)]), flat]
        )
        for one in (x, mask)
    ]
    element = x.type.dtype
    if w.allows("Compress", element):
        w.result("Compress", names, op, axis=0)
    else:
        found = w.emit("Compress", [w.cast(names[0], f32), names[1]], axis=0)
        w.cast(found, element, output=w.name(op.result))
    return False

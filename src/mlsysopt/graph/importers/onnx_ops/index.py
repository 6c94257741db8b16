"""Reading and writing at places that are data."""

from __future__ import annotations

from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.registry import reads
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import multiplied
from mlsysopt.graph.types import i64

__all__: list[str] = []

_SCATTERS = {"none": "scatter", "add": "scatter_add"}


@reads("Gather")
def _gather(node: Node) -> Value:
    x, indices = node.values()
    return node.done("gather", x, indices, axis=node.axis(0, x.type.rank))


@reads("GatherElements")
def _gather_elements(node: Node) -> Value:
    x, indices = node.values()
    axis = node.axis(0, x.type.rank)
    return node.done("gather_elements", _cut(node, x, indices, axis), indices, axis=axis)


def _cut(node: Node, x: Value, indices: Value, axis: int) -> Value:
    """Cut the data to the indices' extent beside the axis: ONNX lets the indices be smaller there."""
    for other in range(x.type.rank):
        if other != axis and not node.proves(x.shape[other], indices.shape[other]):
            known = x.shape[other].constant is not None and indices.shape[other].constant is not None
            if known:
                x = node.take(x, other, 0, indices.shape[other])
    return x


def _flat_places(node: Node, x: Value, indices: Value, batch: int) -> tuple[Value, int]:
    """Return the row-major number of the element that the last axis of `indices` names."""
    count = indices.shape[-1].constant
    if count is None:
        node.refuse(f"the last size of the indices must be fixed, got {indices.type}")
    if batch:
        node.refuse(f"batch_dims {batch}; only 0 is supported")
    indices = node.cast(indices, i64)
    last = indices.type.rank - 1
    total: Value | None = None
    for i in range(count):
        place = node.reshape(node.take(indices, last, i, i + 1), indices.shape[:-1])
        size = node.size(x.shape[i])
        negative = node.emit("lt", place, node.scalar(0, place))
        place = node.emit("where", negative, node.emit("add", place, size), place)
        total = place if total is None else node.emit("add", node.emit("mul", total, size), place)
    if total is None:
        node.refuse("the indices name no axis")
    return total, count


@reads("GatherND")
def _gather_nd(node: Node) -> Value:
    x, indices = node.values()
    places, count = _flat_places(node, x, indices, node.attr("batch_dims", 0))
    rows = multiplied(x.shape[:count])
    return node.done("gather", node.reshape(x, (rows, *x.shape[count:])), places, axis=0)


def _scatter(node: Node) -> str:
    """Return which op a scatter's `reduction` asks for."""
    reduction = node.attr("reduction", "none")
    if reduction not in _SCATTERS:
        node.refuse(f"reduction {reduction!r}; supported are none and add")
    return _SCATTERS[reduction]


@reads("ScatterElements")
def _scatter_elements(node: Node) -> Value:
    x, indices, updates = node.values()
    kind = _scatter(node)
    return node.done(kind, x, indices, updates, axis=node.axis(0, x.type.rank))


@reads("ScatterND")
def _scatter_nd(node: Node) -> Value:
    x, indices, updates = node.values()
    kind = _scatter(node)
    places, count = _flat_places(node, x, indices, 0)
    rows, columns = multiplied(x.shape[:count]), multiplied(x.shape[count:])
    flat = (places.type.elements, columns)
    wide = node.broadcast(node.reshape(places, (flat[0], 1)), flat)
    found = node.emit(kind, node.reshape(x, (rows, columns)), wide, node.reshape(updates, flat), axis=0)
    return node.reshape(found, x.shape)

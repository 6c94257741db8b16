"""Reductions, cumulative sums and the places of extremes."""

from __future__ import annotations

from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.registry import reads
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import i64

__all__: list[str] = []


def _axes(node: Node, rank: int) -> tuple[int, ...] | None:
    """Return the axes to reduce; None when nothing is to be reduced."""
    # ReduceSum took axes as an input at 13, the others at 18.
    since = 13 if node.kind == "ReduceSum" else 18
    axes = node.axes(rank, since=since)
    if axes:
        return axes
    return None if node.attr("noop_with_empty_axes", 0) else tuple(range(rank))


_PLAIN = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}


@reads(*_PLAIN)
def _reduce(node: Node) -> Value:
    x = node.value(0)
    axes = _axes(node, x.type.rank)
    if axes is None or not x.type.rank:
        return x
    kind = _PLAIN[node.kind]
    if x.type.dtype.is_bool:
        kind = {"max": "any", "min": "all"}.get(kind, kind)
    return node.done(kind, x, axes=axes, keepdims=bool(node.attr("keepdims", 1)))


@reads("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
def _composed(node: Node) -> Value:
    x = node.value(0)
    axes, keepdims = _axes(node, x.type.rank), bool(node.attr("keepdims", 1))

    def total(value: Value) -> Value:
        return value if axes is None else node.emit("sum", value, axes=axes, keepdims=keepdims)

    if node.kind == "ReduceL1":
        return total(node.emit("abs", x))
    if node.kind == "ReduceLogSum":
        return node.done("log", total(x))
    if node.kind == "ReduceLogSumExp":
        if axes is None:
            return x
        # The largest element goes out of the exponent, so that nothing overflows.
        peak = node.emit("max", x, axes=axes, keepdims=True)
        summed = node.emit("log", total(node.emit("exp", node.emit("sub", x, peak))))
        kept = peak if keepdims else node.reshape(peak, summed.shape)
        return node.done("add", summed, kept)
    squares = total(node.emit("mul", x, x))
    return node.done("sqrt", squares) if node.kind == "ReduceL2" else squares


@reads("ArgMax", "ArgMin")
def _arg(node: Node) -> Value:
    x = node.value(0)
    axis = node.axis(0, x.type.rank)
    kind, keepdims = node.kind.lower(), bool(node.attr("keepdims", 1))
    if not node.attr("select_last_index", 0):
        return node.done(kind, x, axis=axis, keepdims=keepdims)
    turned = node.emit(kind, node.emit("flip", x, axes=(axis,)), axis=axis, keepdims=keepdims)
    return node.done("sub", node.size(x.shape[axis] - 1, i64), turned)


@reads("CumSum")
def _cumsum(node: Node) -> Value:
    x = node.value(0)
    (axis,) = node.known_ints(1, "axis")
    axis = node.positive(axis, x.type.rank)
    turned = bool(node.attr("reverse", 0))
    if turned:
        x = node.emit("flip", x, axes=(axis,))
    total = node.emit("cumsum", x, axis=axis)
    if node.attr("exclusive", 0):
        before = tuple((1, 0) if i == axis else (0, 0) for i in range(x.type.rank))
        shifted = node.emit("pad", total, padding=before, mode="constant", value=0.0 if x.type.dtype.is_float else 0)
        total = node.take(shifted, axis, Dim.of(0), x.shape[axis])
    return node.emit("flip", total, axes=(axis,)) if turned else total

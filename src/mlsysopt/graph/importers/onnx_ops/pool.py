"""Pooling."""

from __future__ import annotations

from mlsysopt.graph.importers.onnx_ops.contract import window_padding
from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.registry import reads
from mlsysopt.graph.ir import Value

__all__: list[str] = []


@reads("MaxPool")
def _max_pool(node: Node) -> tuple[Value, ...]:
    if node.reads_output(1):
        node.refuse("the places of the maxima (output 1) are not supported")
    x, kernel = node.value(0), node.attr("kernel_shape")
    strides, dilation = node.attr("strides", (1,) * len(kernel)), node.attr("dilations", ())
    found = node.done(
        "max_pool",
        x,
        kernel=kernel,
        strides=strides,
        padding=window_padding(node, x.shape[2:], kernel, strides, dilation),
        dilation=dilation,
        ceil_mode=bool(node.attr("ceil_mode", 0)),
    )
    return (found,)


@reads("AveragePool")
def _average_pool(node: Node) -> Value:
    x, kernel = node.value(0), node.attr("kernel_shape")
    strides, dilation = node.attr("strides", (1,) * len(kernel)), node.attr("dilations", (1,) * len(kernel))
    if set(dilation) != {1}:
        node.refuse(f"dilations {dilation}; only 1 is supported")
    return node.done(
        "avg_pool",
        x,
        kernel=kernel,
        strides=strides,
        padding=window_padding(node, x.shape[2:], kernel, strides, dilation),
        ceil_mode=bool(node.attr("ceil_mode", 0)),
        count_include_pad=bool(node.attr("count_include_pad", 0)),
    )


@reads("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node) -> Value:
    x = node.value(0)
    kind = "mean" if node.kind == "GlobalAveragePool" else "max"
    return node.done(kind, x, axes=tuple(range(2, x.type.rank)), keepdims=True)

"""Normalisations and softmax."""

from __future__ import annotations

from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.registry import reads
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim, multiplied

__all__: list[str] = []


@reads("Softmax", "LogSoftmax")
def _softmax(node: Node) -> Value:
    x = node.value(0)
    kind = "softmax" if node.kind == "Softmax" else "log_softmax"
    return node.done(kind, x, axis=node.axis(-1, x.type.rank))


@reads("BatchNormalization")
def _batch_norm(node: Node) -> tuple[Value, ...]:
    if node.attr("training_mode", 0):
        node.refuse("batch normalisation in training mode; export the model for inference")
    x, scale, bias, mean, var = node.values()
    return (node.done("batch_norm", x, mean, var, scale, bias, eps=node.attr("epsilon", 1e-5)),)


@reads("LayerNormalization")
def _layer_norm(node: Node) -> tuple[Value, ...]:
    if node.reads_output(1) or node.reads_output(2):
        node.refuse("mean and inverse deviation (outputs 1 and 2) are not supported")
    return (_layer_normed(node, node.value(0), node.value(1), node.maybe(2)),)


def _layer_normed(node: Node, x: Value, scale: Value, bias: Value | None, eps: float = 1e-5) -> Value:
    axes = tuple(range(node.axis(-1, x.type.rank), x.type.rank))
    eps = node.attr("epsilon", eps)
    shape = tuple(x.shape[axis] for axis in axes)
    operands = [x]
    late: list[tuple[str, Value]] = []
    for kind, value in (("mul", scale), ("add", bias)):
        if value is None:
            continue
        fits = len(value.shape) == len(shape) and all(map(node.proves, value.shape, shape))
        if fits and not late:
            operands.append(value)
        else:
            late.append((kind, value))
    found = (node.emit if late else node.done)("layer_norm", *operands, axes=axes, eps=eps)
    for kind, value in late:
        found = node.emit(kind, found, value)
    return found


@reads("SkipLayerNormalization", domain="com.microsoft")
def _skip_layer_norm(node: Node) -> tuple[Value | None, ...]:
    total = node.emit("add", node.value(0), node.value(1))
    if node.has(4):
        total = node.emit("add", total, node.value(4))
    return _layer_normed(node, total, node.value(2), node.maybe(3), 1e-12), None, None, total


@reads("RMSNormalization")
@reads("SimplifiedLayerNormalization")
def _rms_norm(node: Node) -> tuple[Value, ...]:
    if node.reads_output(1):
        node.refuse("the inverse deviation (output 1) is not supported")
    x, scale = node.value(0), node.value(1)
    axes = tuple(range(node.axis(-1, x.type.rank), x.type.rank))
    eps = node.attr("epsilon", 1e-5)
    if scale.type.rank == len(axes):
        return (node.done("rms_norm", x, scale, axes=axes, eps=eps),)
    return (node.done("mul", node.emit("rms_norm", x, axes=axes, eps=eps), scale),)


@reads("SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_rms_norm(node: Node) -> tuple[Value | None, ...]:
    total = node.emit("add", node.value(0), node.value(1))
    if node.has(3):
        total = node.emit("add", total, node.value(3))
    axes = (total.type.rank - 1,)
    found = node.done("rms_norm", total, node.value(2), axes=axes, eps=node.attr("epsilon", 1e-12))
    return found, None, None, total


@reads("InstanceNormalization")
def _instance_norm(node: Node) -> Value:
    x, scale, bias = node.values()
    if (channels := x.shape[1].constant) is None:
        node.refuse(f"the number of channels must be fixed, got {x.type}")
    return node.done("group_norm", x, scale, bias, groups=channels, eps=node.attr("epsilon", 1e-5))


@reads("GroupNormalization")
def _group_norm(node: Node) -> Value:
    x, scale, bias = node.values()
    groups, eps = node.attr("num_groups"), node.attr("epsilon", 1e-5)
    if node.opset < 21:
        # Before 21 there is one scale a group; ours has one a channel.
        each = x.shape[1] // groups
        scale, bias = (
            node.reshape(node.broadcast(node.reshape(one, (groups, 1)), (Dim.of(groups), each)), (x.shape[1],))
            for one in (scale, bias)
        )
    return node.done("group_norm", x, scale, bias, groups=groups, eps=eps)


@reads("LpNormalization")
def _lp_norm(node: Node) -> Value:
    x = node.value(0)
    axis = node.axis(-1, x.type.rank)
    if node.attr("p", 2) == 1:
        length = node.emit("sum", node.emit("abs", x), axes=(axis,), keepdims=True)
    else:
        length = node.emit("sqrt", node.emit("sum", node.emit("mul", x, x), axes=(axis,), keepdims=True))
    return node.done("div", x, length)


@reads("MeanVarianceNormalization")
def _mean_variance(node: Node) -> Value:
    x = node.value(0)
    axes = tuple(node.positive(axis, x.type.rank) for axis in node.attr("axes", (0, 2, 3)))
    centred = node.emit("sub", x, node.emit("mean", x, axes=axes, keepdims=True))
    deviation = node.emit("sqrt", node.emit("var", x, axes=axes, keepdims=True))
    return node.done("div", centred, node.emit("add", deviation, node.scalar(1e-9, x)))


@reads("LRN")
def _lrn(node: Node) -> Value:
    x, width = node.value(0), node.attr("size")
    alpha, beta, bias = node.attr("alpha", 1e-4), node.attr("beta", 0.75), node.attr("bias", 1.0)
    rest = multiplied(x.shape[2:])
    # The mean of squares over neighbouring channels is a pooling along them, padding counted.
    squares = node.reshape(node.emit("mul", x, x), (x.shape[0], Dim.of(1), x.shape[1], rest))
    around = ((width - 1) // 2, width - 1 - (width - 1) // 2)
    pooled = node.emit(
        "avg_pool", node.emit("pad", squares, padding=((0, 0), (0, 0), around, (0, 0)), mode="constant", value=0.0),
        kernel=(width, 1), strides=(1, 1), padding=((0, 0), (0, 0)),
    )  # fmt: skip
    mean = node.reshape(pooled, x.shape)
    base = node.emit("add", node.emit("mul", mean, node.scalar(alpha, x)), node.scalar(bias, x))
    return node.done("div", x, node.emit("pow", base, node.scalar(beta, x)))

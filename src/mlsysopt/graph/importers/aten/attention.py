"""ATen overloads for attention, embeddings and losses."""

from __future__ import annotations

from typing import Any

from mlsysopt.graph.importers.aten.registry import Call, Unsupported, aten
from mlsysopt.graph.ir import Value
from mlsysopt.graph.ops.composite import safe_softmax
from mlsysopt.graph.symbolic import Dim

__all__: list[str] = []


@aten("scaled_dot_product_attention")
def attention(
    c: Call,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    dropout: float = 0,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> Value:
    if dropout:
        raise Unsupported("attention with dropout: call model.eval() first")
    if grouped and q.shape[-3] != k.shape[-3]:
        k, v = (_repeated(c, part, q.shape[-3]) for part in (k, v))
    operands = (q, k, v)
    if mask is not None:
        operands = (*operands, mask if mask.type.dtype.is_bool else c.cast(mask, q.type.dtype))
    return c.op("attention", *operands, causal=causal, scale=None if scale is None else float(scale))


def _repeated(c: Call, x: Value, heads: Dim) -> Value:
    # Each of the fewer heads serves as many of the queries' heads, next to each other.
    *outer, few, length, width = x.shape
    wide = c.broadcast(c.reshape(x, (*outer, few, 1, length, width)), (*outer, few, heads // few, length, width))
    return c.reshape(wide, (*outer, heads, length, width))


@aten("embedding")
def embedding(c: Call, table: Value, ids: Value, *_: Any) -> Value:
    return c.op("embedding", table, ids)


_REDUCTIONS = ("none", "mean", "sum")


def _picked_loss(
    c: Call, scores: Value, labels: Value, reduction: int, ignored: int, axis: int, weight: Value | None
) -> tuple[Value, Value]:
    """Return the loss, and the weight of all labels that count."""
    zero = c.number(0, labels.type.dtype)
    counts = c.op("ne", labels, c.number(ignored, labels.type.dtype))
    safe = c.op("where", counts, labels, zero)
    shape = (*labels.shape[:axis], 1, *labels.shape[axis:])
    picked = c.reshape(c.op("gather_elements", scores, c.reshape(safe, shape), axis=axis), labels.shape)
    loss = c.op("neg", picked)
    share = c.cast(counts, scores.type.dtype)
    if weight is not None:
        share = c.op("mul", share, c.op("gather", weight, safe, axis=0))
        loss = c.op("mul", loss, c.op("gather", weight, safe, axis=0))
    loss = c.op("where", counts, loss, c.number(0, scores.type.dtype))
    axes = tuple(range(labels.type.rank))
    total = c.op("sum", share, axes=axes, keepdims=False) if axes else share
    word = _REDUCTIONS[reduction]
    if word == "none" or not axes:
        return loss, total
    loss = c.op("sum", loss, axes=axes, keepdims=False)
    return (c.op("div", loss, total) if word == "mean" else loss), total


@aten("cross_entropy_loss")
def cross_entropy(
    c: Call,
    logits: Value,
    labels: Value,
    weight: Value | None = None,
    reduction: int = 1,
    ignored: int = -100,
    smoothing: float = 0,
) -> Value:
    # The op `cross_entropy` knows no label that is left out, as torch's -100 is: it would read past the row.
    if labels.type.dtype.is_float:
        raise Unsupported("cross entropy against probabilities")
    if smoothing:
        raise Unsupported("cross entropy with label smoothing")
    axis = 0 if logits.type.rank == 1 else 1
    scores = c.op("log_softmax", logits, axis=axis)
    return _picked_loss(c, scores, labels, reduction, ignored, axis, weight)[0]


@aten("nll_loss_nd", "nll_loss", "nll_loss2d")
def nll_loss(
    c: Call, scores: Value, labels: Value, weight: Value | None = None, reduction: int = 1, ignored: int = -100
) -> Value:
    return _picked_loss(c, scores, labels, reduction, ignored, 0 if scores.type.rank == 1 else 1, weight)[0]


@aten("nll_loss_forward", "nll_loss2d_forward")
def nll_loss_forward(
    c: Call, scores: Value, labels: Value, weight: Value | None, reduction: int, ignored: int
) -> tuple[Value | None, ...]:
    axis = 0 if scores.type.rank == 1 else 1
    return _picked_loss(c, scores, labels, reduction, ignored, axis, weight)


@aten("mse_loss")
def mse_loss(c: Call, a: Value, b: Value, reduction: int = 1) -> Value:
    gap = c.op("sub", a, b)
    squares = c.op("mul", gap, gap)
    word = _REDUCTIONS[reduction]
    if word == "none" or not squares.type.rank:
        return squares
    return c.op(word, squares, axes=tuple(range(squares.type.rank)), keepdims=False)


@aten("_safe_softmax")
def softmax_or_zeros(c: Call, x: Value, axis: int, *_: Any) -> Value:
    least, zero = (c.number(value, x.type.dtype) for value in (float("-inf"), 0))
    return safe_softmax(c.op, x, axis % x.type.rank, least=least, zero=zero)

"""Softmax, linear layers, attention and losses, each with its decomposition into simpler ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mlsysopt.graph.ir import Attrs, Op, Value
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, TypeRule, Variadic, define, per_element
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType, i64

if TYPE_CHECKING:
    from mlsysopt.graph.builder import Builder

__all__ = ["safe_softmax"]


def _along_axis(kind: str) -> TypeRule:
    def infer(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        rule.float_dtype(list(types), kind)
        rule.axis(cast("int", attrs["axis"]), x.rank, kind)
        return (TensorType(x.dtype, x.shape),)

    return infer


def _softmax_of(x: Array, axis: int) -> Array:
    import numpy as np

    if not x.shape[axis]:
        return x
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True, dtype=x.dtype)


def _log_softmax_of(x: Array, axis: int) -> Array:
    import numpy as np

    if not x.shape[axis]:
        return x
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True, dtype=x.dtype))


def _softmax(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    return (_softmax_of(arrays[0], attrs["axis"]),)


def _log_softmax(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    return (_log_softmax_of(arrays[0], attrs["axis"]),)


def _shifted(b: Builder, x: Value, axis: int) -> Value:
    return b.op("sub", x, b.op("max", x, axes=(axis,), keepdims=True))


def _softmax_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    axis = cast("int", attrs["axis"])
    exponentials = b.op("exp", _shifted(b, operands[0], axis))
    return (b.op("div", exponentials, b.op("sum", exponentials, axes=(axis,), keepdims=True)),)


def safe_softmax(op: Callable[..., Value], x: Value, axis: int, *, least: Value, zero: Value) -> Value:
    """Add a softmax that is 0, not NaN, where all is -inf; `op` adds an op, `least` is -inf."""
    allowed = op("any", op("ne", x, least), axes=(axis,), keepdims=True)
    weights = op("softmax", op("where", allowed, x, zero), axis=axis)
    return op("where", allowed, weights, zero)


def _log_softmax_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    axis = cast("int", attrs["axis"])
    shifted = _shifted(b, operands[0], axis)
    total = b.op("sum", b.op("exp", shifted), axes=(axis,), keepdims=True)
    return (b.op("sub", shifted, b.op("log", total)),)


define(
    OpDef(
        "softmax", 1, _along_axis("softmax"), _softmax,
        {"axis": AttrSpec("int")}, flops=per_element(5), in_place=(0,), decompose=_softmax_parts,
        about="exponentials over their sum along an axis, shifted by the largest",
    ),
    OpDef(
        "log_softmax", 1, _along_axis("log_softmax"), _log_softmax,
        {"axis": AttrSpec("int")}, flops=per_element(5), in_place=(0,), decompose=_log_softmax_parts,
        about="logarithm of softmax",
    ),
)  # fmt: skip


def _linear_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    x, w = types[:2]
    element = rule.same_dtype(list(types), "linear")
    rule.require(not element.is_bool, "linear: not defined for bool; cast the operands to numbers")
    rule.require(
        w.rank == 2 and x.rank >= 1, f"linear: ranks {x.rank} and {w.rank}; x[..., in] and w[out, in] are needed"
    )
    rule.equal(x.shape[-1], w.shape[1], "linear: input features")
    if len(types) == 3:
        rule.require(types[2].rank == 1, f"linear: the bias has rank {types[2].rank}, 1 is needed")
        rule.equal(types[2].shape[0], w.shape[0], "linear: bias and output features")
    return (TensorType(x.dtype, (*x.shape[:-1], w.shape[0])),)


def _linear(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    x, w, *bias = arrays
    y = (x.reshape(-1, x.shape[-1]) if x.shape[-1] else x.reshape(math.prod(x.shape[:-1]), 0)) @ w.T
    y = y.reshape(*x.shape[:-1], w.shape[0])
    return (y + bias[0] if bias else y,)


def _linear_flops(op: Op) -> Dim:
    y, inner = op.results[0].type, op.operands[1].type.shape[1]
    products = y.elements * inner * 2
    return products + y.elements if len(op.operands) == 3 else products


def _linear_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    x, w, *bias = operands
    if x.type.rank == 1:
        row = b.op("reshape", x, shape=(1, x.shape[0]))
        y = b.op("reshape", b.op("matmul", row, w, transpose_b=True), shape=(w.shape[0],))
    else:
        y = b.op("matmul", x, w, transpose_b=True)
    return (b.op("add", y, bias[0]) if bias else y,)


def _attention_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    q, k, v = types[:3]
    rule.float_dtype(list(types[:3]), "attention")
    rule.require(
        min(q.rank, k.rank, v.rank) >= 2, "attention: q, k and v need at least the axes of length and features"
    )
    rule.equal(q.shape[-1], k.shape[-1], "attention: features of q and k")
    length = rule.equal(k.shape[-2], v.shape[-2], "attention: lengths of k and v")
    batch = rule.broadcast_shapes([one.shape[:-2] for one in (q, k, v)], "attention batch")
    if len(types) == 4:
        mask = types[3]
        allowed = mask.dtype.is_bool or mask.dtype is q.dtype
        rule.require(allowed, f"attention: the mask must be bool (True keeps) or {q.dtype} (added), got {mask.dtype}")
        scores = (*batch, q.shape[-2], length)
        rule.require(mask.rank <= len(scores), f"attention: the mask has rank {mask.rank}, at most {len(scores)} fits")
        for i, (size, wanted) in enumerate(zip(reversed(mask.shape), reversed(scores), strict=False)):
            rule.equal(rule.broadcast(size, wanted, "attention mask"), wanted, f"attention: mask along axis {-1 - i}")
    return (TensorType(q.dtype, (*batch, q.shape[-2], v.shape[-1])),)


def _attention(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    q, k, v, *mask = arrays
    scale = attrs["scale"] if attrs["scale"] is not None else 1 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0
    scores = (q @ k.swapaxes(-1, -2)) * q.dtype.type(scale)
    if attrs["causal"]:
        rows, columns = np.ogrid[: scores.shape[-2], : scores.shape[-1]]
        scores = np.where(columns <= rows, scores, -np.inf)
    if mask:
        scores = np.where(mask[0], scores, -np.inf) if mask[0].dtype == np.bool_ else scores + mask[0]
        allowed = (scores != -np.inf).any(-1, keepdims=True)
        weights = np.where(allowed, _softmax_of(np.where(allowed, scores, 0), -1), 0).astype(scores.dtype)
    else:
        weights = _softmax_of(scores, -1)
    return (weights @ v,)


def _attention_flops(op: Op) -> Dim:
    q, k, v = (value.type for value in op.operands[:3])
    result = op.results[0].type
    scores = result.elements // result.shape[-1] if result.shape[-1] != 0 else Dim.of(0)
    scores = scores * k.shape[-2]
    return scores * q.shape[-1] * 2 + scores * v.shape[-1] * 2 + scores * 6


def _attention_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    q, k, v, *mask = operands
    features = q.shape[-1]
    if attrs["scale"] is not None:
        scale = b.scalar(cast("float", attrs["scale"]), q)
    elif features.is_constant:
        scale = b.scalar(1 / math.sqrt(int(features)) if int(features) else 1.0, q)
    else:
        scale = b.op("rsqrt", b.op("cast", b.op("size", dim=features), to=q.type.dtype))
    scores = b.op("mul", b.op("matmul", q, k, transpose_b=True), scale)
    least = b.scalar(-math.inf, q)
    if attrs["causal"]:
        shape = scores.shape[-2:]
        rows, columns = (b.op("iota", shape=shape, axis=axis, dtype=i64) for axis in (0, 1))
        scores = b.op("where", b.op("le", columns, rows), scores, least)
    if mask:
        masks_out = mask[0].type.dtype.is_bool
        scores = b.op("where", mask[0], scores, least) if masks_out else b.op("add", scores, mask[0])
    axis = scores.type.rank - 1
    if not mask:
        return (b.op("matmul", b.op("softmax", scores, axis=axis), v),)
    return (b.op("matmul", safe_softmax(b.op, scores, axis, least=least, zero=b.scalar(0, q)), v),)


def _cross_entropy_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    logits, labels = types
    rule.float_dtype(list(types[:1]), "cross_entropy")
    rule.require(labels.dtype.is_int, f"cross_entropy: labels must be integers, got {labels.dtype}")
    fits = logits.rank == 2 and labels.rank == 1
    rule.require(fits, f"cross_entropy: logits[N, C] and labels[N] are needed, got {logits} and {labels}")
    rule.equal(logits.shape[0], labels.shape[0], "cross_entropy: rows of logits and labels")
    return (TensorType(logits.dtype, labels.shape if attrs["reduction"] == "none" else ()),)


def _cross_entropy(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    logits, labels = arrays
    wrong = (labels < 0) | (labels >= logits.shape[1])
    if wrong.any():
        row = int(wrong.argmax())
        raise IndexError(f"label {int(labels[row])} of row {row} is outside 0..{logits.shape[1] - 1}")
    loss = -_log_softmax_of(logits, 1)[np.arange(len(labels)), labels]
    if attrs["reduction"] == "none":
        return (loss,)
    total = loss.sum(dtype=loss.dtype)
    return (total / loss.dtype.type(len(loss)) if attrs["reduction"] == "mean" else total,)


def _cross_entropy_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    logits, labels = operands
    rows = labels.shape[0]
    found = b.op(
        "gather_elements", b.op("log_softmax", logits, axis=1), b.op("reshape", labels, shape=(rows, 1)), axis=1
    )
    loss = b.op("neg", b.op("reshape", found, shape=(rows,)))
    reduction = {"mean": "mean", "sum": "sum"}.get(cast("str", attrs["reduction"]))
    return (loss if reduction is None else b.op(reduction, loss, axes=(0,)),)


define(
    OpDef(
        "linear", Variadic(2, 3), _linear_type, _linear, flops=_linear_flops, decompose=_linear_parts,
        about="x[..., in] times the transpose of w[out, in], plus a bias",
    ),
    OpDef(
        "attention", Variadic(3, 4), _attention_type, _attention,
        {"causal": AttrSpec("bool", False), "scale": AttrSpec("float", None, optional=True)},
        flops=_attention_flops, decompose=_attention_parts,
        about="softmax(q k' * scale + mask) v, 0 where the mask, bool (True keeps) or added, leaves no key; scale is "
        "1/sqrt(E) unless given",
    ),
    OpDef(
        "cross_entropy", 2, _cross_entropy_type, _cross_entropy,
        {"reduction": AttrSpec("str", "mean", ("mean", "sum", "none"))}, flops=per_element(6),
        decompose=_cross_entropy_parts, about="minus the log softmax of each row of logits at its label",
    ),
)  # fmt: skip

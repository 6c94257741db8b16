"""ATen overloads that make tensors from numbers and sizes, or put them in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlsysopt.graph.importers.aten.registry import Call, Number, Unsupported, aten
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim, ceildiv
from mlsysopt.graph.types import i64

__all__ = ["triangle"]

Sizes = Sequence[Dim | int]


def _filled(c: Call, value: Number, shape: Sizes) -> Value:
    if isinstance(value, Dim) and value.constant is None:
        return c.broadcast(c.number(value, c.dtype), shape)
    return c.full(int(value) if isinstance(value, Dim) else value, shape, c.dtype)


@aten("full")
def full(c: Call, shape: Sizes, value: Number, *_: Any) -> Value:
    return _filled(c, value, shape)


@aten("zeros")
def zeros(c: Call, shape: Sizes, *_: Any) -> Value:
    return _filled(c, 0, shape)


@aten("ones")
def ones(c: Call, shape: Sizes, *_: Any) -> Value:
    return _filled(c, 1, shape)


@aten("full_like")
def full_like(c: Call, x: Value, value: Number, *_: Any) -> Value:
    return _filled(c, value, x.shape)


@aten("zeros_like")
def zeros_like(c: Call, x: Value, *_: Any) -> Value:
    return _filled(c, 0, x.shape)


@aten("ones_like")
def ones_like(c: Call, x: Value, *_: Any) -> Value:
    return _filled(c, 1, x.shape)


@aten("new_full")
def new_full(c: Call, x: Value, shape: Sizes, value: Number, *_: Any) -> Value:
    return _filled(c, value, shape)


@aten("new_zeros")
def new_zeros(c: Call, x: Value, shape: Sizes, *_: Any) -> Value:
    return _filled(c, 0, shape)


@aten("new_ones")
def new_ones(c: Call, x: Value, shape: Sizes, *_: Any) -> Value:
    return _filled(c, 1, shape)


@aten("scalar_tensor")
def scalar_tensor(c: Call, value: Number, *_: Any) -> Value:
    return c.number(value, c.dtype)


@aten("arange")
def arange(c: Call, end: Number, *_: Any) -> Value:
    return _range(c, 0, end, 1)


@aten("arange.start")
def arange_start(c: Call, start: Number, end: Number, *_: Any) -> Value:
    return _range(c, start, end, 1)


@aten("arange.start_step")
def arange_step(c: Call, start: Number, end: Number, step: Number = 1, *_: Any) -> Value:
    return _range(c, start, end, step)


def _range(c: Call, start: Number, end: Number, step: Number) -> Value:
    if isinstance(start, float) or isinstance(end, float) or isinstance(step, float):
        counts = c.shape  # torch counted already; only the numbers need the floats
    else:
        counts = (ceildiv(Dim.of(end) - Dim.of(start), Dim.of(step)),)
    made = c.op("iota", shape=counts, axis=0, dtype=c.dtype)
    if step != 1:
        made = c.op("mul", made, c.number(step, c.dtype))
    return made if start == 0 else c.op("add", made, c.number(start, c.dtype))


@aten("eye", "eye.m")
def eye(c: Call, rows: Dim | int, *_: Any) -> Value:
    row = c.op("iota", shape=c.shape, axis=0, dtype=i64)
    column = c.op("iota", shape=c.shape, axis=1, dtype=i64)
    return c.cast(c.op("eq", row, column), c.dtype)


def triangle(c: Call, rows: Dim, columns: Dim, diagonal: Number, *, upper: bool) -> Value:
    """Return the mask of a triangle: elements on and below a diagonal, or on and above it."""
    row = c.op("iota", shape=(rows, columns), axis=0, dtype=i64)
    column = c.op("iota", shape=(rows, columns), axis=1, dtype=i64)
    if diagonal != 0:
        row = c.op("add", row, c.number(diagonal, i64))
    return c.op("ge" if upper else "le", column, row)


@aten("tril")
def tril(c: Call, x: Value, diagonal: Number = 0) -> Value:
    mask = triangle(c, x.shape[-2], x.shape[-1], diagonal, upper=False)
    return c.op("where", mask, x, c.number(0, c.dtype))


@aten("triu")
def triu(c: Call, x: Value, diagonal: Number = 0) -> Value:
    mask = triangle(c, x.shape[-2], x.shape[-1], diagonal, upper=True)
    return c.op("where", mask, x, c.number(0, c.dtype))


@aten("one_hot")
def one_hot(c: Call, x: Value, classes: Dim | int = -1) -> Value:
    if not isinstance(classes, Dim) and classes < 0:
        raise Unsupported("one_hot without a number of classes: its width depends on the data")
    wide = c.op("iota", shape=c.shape, axis=x.type.rank, dtype=x.type.dtype)
    return c.cast(c.op("eq", wide, c.reshape(x, (*x.shape, 1))), c.dtype)

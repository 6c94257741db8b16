"""ATen overloads that reduce axes, and running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mlsysopt.graph.importers.aten.registry import Call, Unsupported, aten, axes_of, axis_of
from mlsysopt.graph.ir import Value
from mlsysopt.graph.types import DType, boolean

__all__: list[str] = []

Axes = Sequence[int] | int | None


def _reduced(c: Call, kind: str, x: Value, axes: Axes, keep: bool, **attrs: Any) -> Value:
    # A tensor without axes is its own sum, mean, maximum.
    if not x.type.rank:
        return c.op("sub", x, x) if kind == "var" else x
    return c.op(kind, x, axes=axes_of(axes, x.type.rank), keepdims=keep, **attrs)


@aten("sum.dim_IntList")
def sum_axes(c: Call, x: Value, axes: Axes, keep: bool = False, dtype: DType | None = None) -> Value:
    return _reduced(c, "sum", c.cast(x, c.dtype), axes, keep)


@aten("sum")
def sum_all(c: Call, x: Value, dtype: DType | None = None) -> Value:
    return _reduced(c, "sum", c.cast(x, c.dtype), None, False)


@aten("mean.dim")
def mean_axes(c: Call, x: Value, axes: Axes, keep: bool = False, dtype: DType | None = None) -> Value:
    return _reduced(c, "mean", c.cast(x, c.dtype), axes, keep)


@aten("mean")
def mean_all(c: Call, x: Value, dtype: DType | None = None) -> Value:
    return _reduced(c, "mean", c.cast(x, c.dtype), None, False)


@aten("prod")
def prod_all(c: Call, x: Value, dtype: DType | None = None) -> Value:
    return _reduced(c, "prod", c.cast(x, c.dtype), None, False)


@aten("prod.dim_int")
def prod_axis(c: Call, x: Value, axis: int, keep: bool = False, dtype: DType | None = None) -> Value:
    return _reduced(c, "prod", c.cast(x, c.dtype), axis, keep)


@aten("amax")
def amax(c: Call, x: Value, axes: Axes = None, keep: bool = False) -> Value:
    return _reduced(c, "max", x, axes, keep)


@aten("amin")
def amin(c: Call, x: Value, axes: Axes = None, keep: bool = False) -> Value:
    return _reduced(c, "min", x, axes, keep)


@aten("max")
def max_all(c: Call, x: Value) -> Value:
    return _reduced(c, "max", x, None, False)


@aten("min")
def min_all(c: Call, x: Value) -> Value:
    return _reduced(c, "min", x, None, False)


@aten("max.other")
def max_other(c: Call, a: Value, b: Value) -> Value:
    return c.op("maximum", c.cast(a, c.dtype), c.cast(b, c.dtype))


@aten("min.other")
def min_other(c: Call, a: Value, b: Value) -> Value:
    return c.op("minimum", c.cast(a, c.dtype), c.cast(b, c.dtype))


@aten("max.dim")
def max_axis(c: Call, x: Value, axis: int, keep: bool = False) -> tuple[Value | None, ...]:
    return _extreme(c, "max", x, axis, keep)


@aten("min.dim")
def min_axis(c: Call, x: Value, axis: int, keep: bool = False) -> tuple[Value | None, ...]:
    return _extreme(c, "min", x, axis, keep)


def _extreme(c: Call, kind: str, x: Value, axis: int, keep: bool) -> tuple[Value | None, ...]:
    values = _reduced(c, kind, x, axis, keep) if 0 in c.used else None
    places = None
    if 1 in c.used:
        places = c.op(f"arg{kind}", x, axis=axis_of(axis, x.type.rank), keepdims=keep)
    return values, places


@aten("argmax")
def argmax(c: Call, x: Value, axis: int | None = None, keep: bool = False) -> Value:
    return _place(c, "argmax", x, axis, keep)


@aten("argmin")
def argmin(c: Call, x: Value, axis: int | None = None, keep: bool = False) -> Value:
    return _place(c, "argmin", x, axis, keep)


def _place(c: Call, kind: str, x: Value, axis: int | None, keep: bool) -> Value:
    if axis is None:
        if keep:
            raise Unsupported(f"{kind} over all axes that keeps them")
        return c.op(kind, c.reshape(x, (x.type.elements,)), axis=0, keepdims=False)
    return c.op(kind, x, axis=axis_of(axis, x.type.rank), keepdims=keep)


def _correction(correction: float | None) -> int:
    if correction is not None and correction != int(correction):
        raise Unsupported(f"variance with correction {correction}, which is no integer")
    return 1 if correction is None else int(correction)


@aten("var.correction")
def var_correction(c: Call, x: Value, axes: Axes = None, correction: float | None = None, keep: bool = False) -> Value:
    return _reduced(c, "var", x, axes, keep, correction=_correction(correction))


@aten("var.dim")
def var_axes(c: Call, x: Value, axes: Axes, unbiased: bool = True, keep: bool = False) -> Value:
    return _reduced(c, "var", x, axes, keep, correction=int(unbiased))


@aten("var")
def var_all(c: Call, x: Value, unbiased: bool = True) -> Value:
    return _reduced(c, "var", x, None, False, correction=int(unbiased))


@aten("std.correction")
def std_correction(c: Call, x: Value, axes: Axes = None, correction: float | None = None, keep: bool = False) -> Value:
    return c.op("sqrt", var_correction(c, x, axes, correction, keep))


@aten("std.dim")
def std_axes(c: Call, x: Value, axes: Axes, unbiased: bool = True, keep: bool = False) -> Value:
    return c.op("sqrt", var_axes(c, x, axes, unbiased, keep))


@aten("std")
def std_all(c: Call, x: Value, unbiased: bool = True) -> Value:
    return c.op("sqrt", var_all(c, x, unbiased))


@aten("var_mean.correction")
def var_mean(
    c: Call, x: Value, axes: Axes = None, correction: float | None = None, keep: bool = False
) -> tuple[Value | None, ...]:
    return (
        var_correction(c, x, axes, correction, keep) if 0 in c.used else None,
        _reduced(c, "mean", x, axes, keep) if 1 in c.used else None,
    )


@aten("var_mean.dim")
def var_mean_axes(c: Call, x: Value, axes: Axes, unbiased: bool = True, keep: bool = False) -> tuple[Value | None, ...]:
    return var_mean(c, x, axes, int(unbiased), keep)


@aten("any", "any.dim", "any.dims")
def any_axes(c: Call, x: Value, axes: Axes = None, keep: bool = False) -> Value:
    return _reduced(c, "any", c.cast(x, boolean), axes, keep)


@aten("all", "all.dim", "all.dims")
def all_axes(c: Call, x: Value, axes: Axes = None, keep: bool = False) -> Value:
    return _reduced(c, "all", c.cast(x, boolean), axes, keep)


@aten("cumsum")
def cumsum(c: Call, x: Value, axis: int, dtype: DType | None = None) -> Value:
    return c.op("cumsum", c.cast(x, c.dtype), axis=axis_of(axis, x.type.rank))


@aten("logsumexp")
def logsumexp(c: Call, x: Value, axes: Axes, keep: bool = False) -> Value:
    highest = _reduced(c, "max", x, axes, True)
    total = c.op("log", _reduced(c, "sum", c.op("exp", c.op("sub", x, highest)), axes, True))
    made = c.op("add", total, highest)
    return made if keep else c.reshape(made, c.shape)


@aten("linalg_vector_norm", "norm.ScalarOpt_dim")
def vector_norm(c: Call, x: Value, *arguments: Any) -> Value:
    order, axes, keep = (*arguments, None, False)[:3] if len(arguments) < 3 else arguments[:3]
    order = 2 if order is None else order
    x = c.cast(x, c.dtype)
    if order == 2:
        return c.op("sqrt", _reduced(c, "sum", c.op("mul", x, x), axes, bool(keep)))
    if order == 1:
        return _reduced(c, "sum", c.op("abs", x), axes, bool(keep))
    if order == math.inf:
        return _reduced(c, "max", c.op("abs", x), axes, bool(keep))
    raise Unsupported(f"vector norm of order {order}")

"""Reductions over axes, and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mlsysopt.graph.facts import Answer
from mlsysopt.graph.ir import Attrs, Op, Value
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, define
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType, boolean, i64

if TYPE_CHECKING:
    from mlsysopt.graph.builder import Builder

__all__: list[str] = []

_ZERO, _ONE = Dim.of(0), Dim.of(1)


def _reduced(shape: tuple[Dim, ...], axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    if keepdims:
        return tuple(_ONE if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def _per_operand_element(op: Op) -> Dim:
    return op.operands[0].type.elements


def _reduction(
    kind: str,
    meaning: Callable[[Array, tuple[int, ...], bool, Mapping[str, Any]], Array],
    about: str,
    *,
    kinds: tuple[str, ...] = ("int", "float"),
    of_empty: bool = True,
    linear: bool = False,
    attrs: Mapping[str, AttrSpec] | None = None,
    flops: Callable[[Op], Dim] = _per_operand_element,
    decompose: Callable[[Builder, Sequence[Value], Attrs], Sequence[Value]] | None = None,
) -> OpDef:
    def infer(rule: Inference, types: Sequence[TensorType], given: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        rule.require(x.dtype.kind in kinds, f"{kind}: not defined for {x.dtype}; allowed are {' and '.join(kinds)}")
        axes = cast("tuple[int, ...]", given["axes"])
        for axis in axes:
            rule.axis(axis, x.rank, kind)
            empty = rule.facts.eq(x.shape[axis], _ZERO) is Answer.YES
            rule.require(of_empty or not empty, f"{kind}: axis {axis} has size 0, and {kind} of nothing is not defined")
        rule.require(len(set(axes)) == len(axes), f"{kind}: axes {axes} name one axis twice")
        element = boolean if kinds == ("bool",) else x.dtype
        return (TensorType(element, _reduced(x.shape, axes, cast("bool", given["keepdims"]))),)

    def run(arrays: Sequence[Array], given: Mapping[str, Any]) -> tuple[Array, ...]:
        (x,) = arrays
        axes = given["axes"]
        if not of_empty and any(x.shape[axis] == 0 for axis in axes):
            raise ValueError(f"{kind} over an axis of size 0 is not defined")
        return (meaning(x, axes, given["keepdims"], given),)

    return OpDef(
        kind,
        1,
        infer,
        run,
        {"axes": AttrSpec("ints"), "keepdims": AttrSpec("bool", False), **(attrs or {})},
        flops=flops,
        linear=linear,
        decompose=decompose,
        about=about,
    )


def _mean(x: Array, axes: tuple[int, ...], keepdims: bool, attrs: Mapping[str, Any]) -> Array:
    # Not numpy's: it warns about an empty slice, where the mean is simply not a number.
    return x.sum(axes, keepdims=keepdims, dtype=x.dtype) / x.dtype.type(math.prod(x.shape[axis] for axis in axes))


def _var(x: Array, axes: tuple[int, ...], keepdims: bool, attrs: Mapping[str, Any]) -> Array:
    count = math.prod(x.shape[axis] for axis in axes)
    centred = x - _mean(x, axes, True, attrs)
    freedom = x.dtype.type(max(count - attrs["correction"], 0))
    return (centred * centred).sum(axes, keepdims=keepdims, dtype=x.dtype) / freedom


def _var_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    (x,) = operands
    axes, correction = cast("tuple[int, ...]", attrs["axes"]), cast("int", attrs["correction"])
    centred = b.op("sub", x, b.op("mean", x, axes=axes, keepdims=True))
    square = b.op("mul", centred, centred)
    if not correction:
        return (b.op("mean", square, axes=axes, keepdims=attrs["keepdims"]),)
    total = b.op("sum", square, axes=axes, keepdims=attrs["keepdims"])
    count = _ONE
    for axis in axes:
        count = count * x.shape[axis]
    freedom = b.op("cast", b.op("size", dim=count - correction), to=x.type.dtype)
    return (b.op("div", total, b.op("maximum", freedom, b.scalar(0.0, x))),)


def _simple(name: str) -> Callable[[Array, tuple[int, ...], bool, Mapping[str, Any]], Array]:
    def call(x: Array, axes: tuple[int, ...], keepdims: bool, attrs: Mapping[str, Any]) -> Array:
        import numpy as np

        return getattr(np, name)(x, axes, keepdims=keepdims)

    return call


define(
    _reduction(
        "sum", lambda x, axes, keep, attrs: x.sum(axes, keepdims=keep, dtype=x.dtype), "sum; integers wrap", linear=True
    ),
    _reduction("prod", lambda x, axes, keep, attrs: x.prod(axes, keepdims=keep, dtype=x.dtype), "product"),
    _reduction("max", _simple("max"), "largest; NaN if any is", of_empty=False),
    _reduction("min", _simple("min"), "smallest; NaN if any is", of_empty=False),
    _reduction("mean", _mean, "arithmetic mean; NaN of nothing", kinds=("float",), linear=True),
    _reduction(
        "var", _var, "variance: squared distances from the mean over n - correction", kinds=("float",),
        attrs={"correction": AttrSpec("int", 0)}, flops=lambda op: _per_operand_element(op) * 4, decompose=_var_parts,
    ),
    _reduction("any", _simple("any"), "whether one holds", kinds=("bool",)),
    _reduction("all", _simple("all"), "whether every one holds", kinds=("bool",)),
)  # fmt: skip


def _arg(kind: str, about: str) -> OpDef:
    def infer(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        rule.require(x.dtype.kind in ("int", "float"), f"{kind}: not defined for {x.dtype}; allowed are int and float")
        axis = rule.axis(cast("int", attrs["axis"]), x.rank, kind)
        empty = rule.facts.eq(x.shape[axis], _ZERO) is Answer.YES
        rule.require(not empty, f"{kind}: axis {axis} has size 0, and {kind} of nothing is not defined")
        return (TensorType(i64, _reduced(x.shape, (axis,), cast("bool", attrs["keepdims"]))),)

    def run(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
        import numpy as np

        return (getattr(np, kind)(arrays[0], attrs["axis"], keepdims=attrs["keepdims"]),)

    return OpDef(
        kind,
        1,
        infer,
        run,
        {"axis": AttrSpec("int"), "keepdims": AttrSpec("bool", False)},
        flops=_per_operand_element,
        about=about,
    )


def _cumsum_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    rule.require(x.dtype.kind in ("int", "float"), f"cumsum: not defined for {x.dtype}; allowed are int and float")
    rule.axis(cast("int", attrs["axis"]), x.rank, "cumsum")
    return (TensorType(x.dtype, x.shape),)


define(
    _arg("argmax", "place of the first largest element, NaN counting as largest"),
    _arg("argmin", "place of the first smallest element, NaN counting as smallest"),
    OpDef(
        "cumsum", 1, _cumsum_type, lambda arrays, attrs: (arrays[0].cumsum(attrs["axis"], dtype=arrays[0].dtype),),
        {"axis": AttrSpec("int")}, flops=_per_operand_element, in_place=(0,), linear=True,
        about="running sum along an axis",
    ),
)  # fmt: skip

"""Pooling over spatial axes; a global average is `mean` over them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mlsysopt.graph.ir import Attrs, Op
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, TypeRule, define
from mlsysopt.graph.ops.windows import Windows, padded, view
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType

__all__: list[str] = []


def _spatial(rule: Inference, x: TensorType, given: Sequence[int], name: str, kind: str) -> None:
    rule.require(3 <= x.rank <= 5, f"{kind}: the input has rank {x.rank}; N, C and 1 to 3 spatial axes are needed")
    rule.require(len(given) == x.rank - 2, f"{kind}: {name} {given} needs one entry per spatial axis, {x.rank - 2}")


def _windows(attrs: Mapping[str, Any]) -> Windows:
    kernel = attrs["kernel"]
    found = Windows.of(Attrs(attrs), kernel, ceil=attrs["ceil_mode"])
    return found if attrs["strides"] else Windows(kernel, kernel, found.padding, found.dilation, found.ceil)


def _pool_type(kind: str, kinds: tuple[str, ...]) -> TypeRule:
    def infer(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        rule.require(x.dtype.kind in kinds, f"{kind}: not defined for {x.dtype}; allowed are {' and '.join(kinds)}")
        _spatial(rule, x, cast("tuple[int, ...]", attrs["kernel"]), "kernel", kind)
        windows = _windows(attrs)
        windows.check(rule, kind, below_kernel=True)
        return (TensorType(x.dtype, (*x.shape[:2], *windows.sizes(rule, x.shape[2:], kind))),)

    return infer


def _per_window(op: Op) -> Dim:
    kernel = cast("tuple[int, ...]", op.attrs["kernel"])
    count = 1
    for size in kernel:
        count *= size
    return op.results[0].type.elements * count


def _max_pool(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    (x,) = arrays
    windows = _windows(attrs)
    counts = windows.counts(x.shape[2:])
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    cells = view(padded(x, windows, counts, least), windows, counts)
    return (_over_places(cells, windows, np.maximum),)


def _over_places(cells: Array, windows: Windows, combine: Any) -> Array:
    # Place by place: a reduction over the axes of a strided view is several times slower.
    total: Array | None = None
    for place in itertools.product(*(range(k) for k in windows.kernel)):
        one = cells[(slice(None), slice(None), *place)]
        total = one.copy() if total is None else combine(total, one, out=total)
    assert total is not None
    return total


def _avg_pool(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    (x,) = arrays
    windows = _windows(attrs)
    counts = windows.counts(x.shape[2:])
    cells = view(padded(x, windows, counts, 0), windows, counts)
    total = _over_places(cells, windows, np.add)
    divisor = np.ones((), x.dtype)
    for i, count in enumerate(counts):
        before, after = windows.padding[i]
        first = np.arange(count) * windows.strides[i]
        last = first + windows.kernel[i]
        # What hangs over the padding is never counted, the padding itself only on request.
        low, high = (
            (0, before + x.shape[2 + i] + after) if attrs["count_include_pad"] else (before, before + x.shape[2 + i])
        )
        inside = np.minimum(last, high) - np.maximum(first, low)
        divisor = divisor[..., None] * inside.astype(x.dtype)
    return (total / divisor,)


def _adaptive_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    rule.require(x.dtype.is_float, f"adaptive_avg_pool: not defined for {x.dtype}; allowed is float")
    output = cast("tuple[int, ...]", attrs["output"])
    _spatial(rule, x, output, "output", "adaptive_avg_pool")
    rule.require(min(output) >= 1, f"adaptive_avg_pool: output {output} must be at least 1")
    for size in x.shape[2:]:
        rule.at_most(Dim.of(1), size, "adaptive_avg_pool: spatial size")
    return (TensorType(x.dtype, (*x.shape[:2], *(Dim.of(size) for size in output))),)


def _adaptive(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    (y,) = arrays
    for i, count in enumerate(attrs["output"]):
        axis = 2 + i
        size = y.shape[axis]
        if size < 1:
            raise ValueError("a spatial axis has size 0: the mean of nothing is not defined")
        parts = [
            y.take(range(k * size // count, -(-(k + 1) * size // count)), axis).sum(axis, keepdims=True, dtype=y.dtype)
            / y.dtype.type(-(-(k + 1) * size // count) - k * size // count)
            for k in range(count)
        ]
        y = np.concatenate(parts, axis)
    return (y,)


_ATTRS = {
    "kernel": AttrSpec("ints"),
    "strides": AttrSpec("ints", ()),
    "padding": AttrSpec("pairs", ()),
    "ceil_mode": AttrSpec("bool", False),
}

define(
    OpDef(
        "max_pool", 1, _pool_type("max_pool", ("int", "float")), _max_pool,
        {**_ATTRS, "dilation": AttrSpec("ints", ())}, flops=_per_window,
        about="largest of each window; strides are the kernel unless given",
    ),
    OpDef(
        "avg_pool", 1, _pool_type("avg_pool", ("float",)), _avg_pool,
        {**_ATTRS, "count_include_pad": AttrSpec("bool", True)}, flops=_per_window, linear=True,
        about="mean of each window; strides are the kernel unless given",
    ),
    OpDef(
        "adaptive_avg_pool", 1, _adaptive_type, _adaptive, {"output": AttrSpec("ints")},
        flops=lambda op: op.operands[0].type.elements, linear=True,
        about="means of as many nearly equal parts of each spatial axis as asked for",
    ),
)  # fmt: skip

"""ATen overloads that pool images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlsysopt.graph.importers.aten.contract import many
from mlsysopt.graph.importers.aten.registry import Call, Unsupported, aten
from mlsysopt.graph.ir import Value

__all__: list[str] = []

Ints = Sequence[int] | int


def _strides(strides: Ints | None, window: tuple[int, ...]) -> tuple[int, ...]:
    # torch writes "as the window" as an empty list.
    if strides is None or (not isinstance(strides, int) and not strides):
        return window
    return many(strides, len(window))


def _pooled(
    c: Call, op: str, x: Value, spatial: int, kernel: Ints, strides: Ints | None, padding: Ints, **more: Any
) -> Value:
    window = many(kernel, spatial)
    pads = tuple((p, p) for p in many(padding, spatial))
    return _batched(c, op, x, spatial, kernel=window, strides=_strides(strides, window), padding=pads, **more)


def _batched(c: Call, op: str, x: Value, spatial: int, **attributes: Any) -> Value:
    """Apply an op that takes batches, also to a single image."""
    if x.type.rank != spatial + 1:
        return c.op(op, x, **attributes)
    return c.reshape(c.op(op, c.reshape(x, (1, *x.shape)), **attributes), c.shape)


def _register(spatial: int) -> None:
    @aten(f"max_pool{spatial}d")
    def max_pool(
        c: Call,
        x: Value,
        kernel: Ints,
        strides: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil: bool = False,
    ) -> Value:
        dilations = many(dilation, spatial)
        return _pooled(c, "max_pool", x, spatial, kernel, strides, padding, dilation=dilations, ceil_mode=ceil)

    @aten(*([f"max_pool{spatial}d_with_indices"] if spatial > 1 else []))
    def max_pool_places(c: Call, x: Value, *window: Any) -> tuple[Value | None, ...]:
        if 1 in c.used:
            raise Unsupported("the places of the maxima are used")
        return max_pool(c, x, *window), None

    @aten(f"avg_pool{spatial}d")
    def avg_pool(
        c: Call,
        x: Value,
        kernel: Ints,
        strides: Ints | None = None,
        padding: Ints = 0,
        ceil: bool = False,
        with_padding: bool = True,
        divisor: int | None = None,
    ) -> Value:
        if divisor is not None:
            raise Unsupported("average pooling with a divisor of its own")
        counted = {"ceil_mode": ceil, "count_include_pad": with_padding}
        return _pooled(c, "avg_pool", x, spatial, kernel, strides, padding, **counted)

    @aten(f"adaptive_avg_pool{spatial}d", *([f"_adaptive_avg_pool{spatial}d"] if spatial > 1 else []))
    def adaptive_average(c: Call, x: Value, output: Ints) -> Value:
        return _adaptive(c, x, spatial, output, "mean")

    @aten(f"adaptive_max_pool{spatial}d")
    def adaptive_max(c: Call, x: Value, output: Ints) -> tuple[Value | None, ...]:
        if 1 in c.used:
            raise Unsupported("the places of the maxima are used")
        return _adaptive(c, x, spatial, output, "max"), None


def _adaptive(c: Call, x: Value, spatial: int, output: Ints, kind: str) -> Value:
    sizes = c.shape[-spatial:]
    axes = tuple(range(x.type.rank - spatial, x.type.rank))
    if x.shape[-spatial:] == sizes:
        return x
    if all(size == 1 for size in sizes):
        return c.op(kind, x, axes=axes, keepdims=True)
    if kind != "mean" or any(size.constant is None for size in sizes):
        raise Unsupported(f"adaptive pooling to {', '.join(map(str, sizes))}")
    return _batched(c, "adaptive_avg_pool", x, spatial, output=tuple(int(size) for size in sizes))


for _spatial in (1, 2, 3):
    _register(_spatial)

"""ATen overloads that pool images."""

from __future__ import annotations

from collections.abc import Sequence

from mlsysopt.graph.importers.aten.contract import many
from mlsysopt.graph.importers.aten.registry import Call, Unsupported, aten
from mlsysopt.graph.ir import Value

__all__: list[str] = []

Ints = Sequence[int] | int


def _max(
    c: Call, x: Value, spatial: int, kernel: Ints, strides: Ints | None, padding: Ints, dilation: Ints, ceil: bool
) -> Value:
    window = many(kernel, spatial)
    single = x.type.rank == spatial + 1
    made = c.op(
        "max_pool",
        c.reshape(x, (1, *x.shape)) if single else x,
        kernel=window,
        strides=_strides(strides, window),
        padding=tuple((p, p) for p in many(padding, spatial)),
        dilation=many(dilation, spatial),
        ceil_mode=ceil,
    )
    return c.reshape(made, c.shape) if single else made


def _strides(strides: Ints | None, window: tuple[int, ...]) -> tuple[int, ...]:
    # torch writes "as the window" as an empty list.
    if strides is None or (not isinstance(strides, int) and not strides):
        return window
    return many(strides, len(window))


def _average(
    c: Call,
    x: Value,
    spatial: int,
    kernel: Ints,
    strides: Ints | None,
    padding: Ints,
    ceil: bool,
    with_padding: bool,
    divisor: int | None,
) -> Value:
    if divisor is not None:
        raise Unsupported("average pooling with a divisor of its own")
    window = many(kernel, spatial)
    single = x.type.rank == spatial + 1
    made = c.op(
        "avg_pool",
        c.reshape(x, (1, *x.shape)) if single else x,
        kernel=window,
        strides=_strides(strides, window),
        padding=tuple((p, p) for p in many(padding, spatial)),
        ceil_mode=ceil,
        count_include_pad=with_padding,
    )
    return c.reshape(made, c.shape) if single else made


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
        return _max(c, x, spatial, kernel, strides, padding, dilation, ceil)

    @aten(*([f"max_pool{spatial}d_with_indices"] if spatial > 1 else []))
    def max_pool_places(
        c: Call,
        x: Value,
        kernel: Ints,
        strides: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil: bool = False,
    ) -> tuple[Value | None, ...]:
        if 1 in c.used:
            raise Unsupported("the places of the maxima are used")
        return _max(c, x, spatial, kernel, strides, padding, dilation, ceil), None

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
        return _average(c, x, spatial, kernel, strides, padding, ceil, with_padding, divisor)

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
    single = x.type.rank == spatial + 1
    made = c.op(
        "adaptive_avg_pool", c.reshape(x, (1, *x.shape)) if single else x, output=tuple(int(size) for size in sizes)
    )
    return c.reshape(made, c.shape) if single else made


for _spatial in (1, 2, 3):
    _register(_spatial)

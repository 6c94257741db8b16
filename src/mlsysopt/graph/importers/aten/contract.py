"""ATen overloads that multiply and add: matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlsysopt.graph.importers.aten.registry import Call, Number, Unsupported, aten
from mlsysopt.graph.ir import Value

__all__ = ["many"]

Ints = Sequence[int] | int


def _untransposed(c: Call, value: Value) -> tuple[Value, bool]:
    """Return what a value is the transpose of, its last two axes swapped, and whether it is one."""
    op = c.made_by(value, "transpose")
    if op is not None:
        rank = value.type.rank
        if op.attrs["perm"] == (*range(rank - 2), rank - 1, rank - 2):
            return op.operands[0], True
    return value, False


def _product(c: Call, a: Value, b: Value) -> Value:
    left, left_turned = _untransposed(c, a)
    right, right_turned = _untransposed(c, b)
    return c.op("matmul", left, right, transpose_a=left_turned, transpose_b=right_turned)


@aten("mm", "bmm")
def mm(c: Call, a: Value, b: Value, *_: Any) -> Value:
    return _product(c, a, b)


@aten("matmul")
def matmul(c: Call, a: Value, b: Value) -> Value:
    if a.type.rank > 1 and b.type.rank > 1:
        return _product(c, a, b)
    left = c.reshape(a, (1, *a.shape)) if a.type.rank == 1 else a
    right = c.reshape(b, (*b.shape, 1)) if b.type.rank == 1 else b
    return c.reshape(_product(c, left, right), c.shape)


@aten("mv", "dot")
def mv(c: Call, a: Value, b: Value) -> Value:
    return matmul(c, a, b)


@aten("outer")
def outer(c: Call, a: Value, b: Value) -> Value:
    left = c.reshape(c.cast(a, c.dtype), (*a.shape, 1))
    return c.op("mul", left, c.reshape(c.cast(b, c.dtype), (1, *b.shape)))


@aten("addmm", "baddbmm", "addmv")
def addmm(c: Call, x: Value, a: Value, b: Value, beta: Number = 1, alpha: Number = 1) -> Value:
    weight, turned = _untransposed(c, b)
    if turned and beta == 1 and alpha == 1 and x.type.rank == 1 and weight.type.rank == 2:
        return c.op("linear", a, weight, x)
    product = matmul(c, a, b)
    if alpha != 1:
        product = c.op("mul", product, c.number(alpha, c.dtype))
    if beta == 0:
        return product
    return c.op("add", product, x if beta == 1 else c.op("mul", x, c.number(beta, c.dtype)))


@aten("linear")
def linear(c: Call, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if weight.type.rank != 2:
        raise Unsupported(f"linear with a weight of rank {weight.type.rank}")
    operands = (x, weight) if bias is None else (x, weight, bias)
    if x.type.rank == 1:
        row = c.op("linear", c.reshape(x, (1, *x.shape)), *operands[1:])
        return c.reshape(row, c.shape)
    return c.op("linear", *operands)


def many(value: Ints, spatial: int) -> tuple[int, ...]:
    """Return one number per spatial axis; a single one stands for all."""
    if isinstance(value, int):
        return (value,) * spatial
    numbers = tuple(int(one) for one in value)
    return numbers * spatial if len(numbers) == 1 else numbers


def _batched(c: Call, x: Value, spatial: int) -> tuple[Value, bool]:
    # torch takes one image without its batch axis.
    if x.type.rank == spatial + 1:
        return c.reshape(x, (1, *x.shape)), True
    return x, False


def _conv(
    c: Call, x: Value, w: Value, b: Value | None, strides: Ints, padding: Ints | str, dilation: Ints, groups: int
) -> Value:
    spatial = w.type.rank - 2
    strides, dilation = many(strides, spatial), many(dilation, spatial)
    if isinstance(padding, str):
        pairs = [(0, 0)] * spatial
        if padding == "same":
            # torch puts the odd element behind.
            pairs = [_halves(d * (int(k) - 1)) for d, k in zip(dilation, w.shape[2:], strict=True)]
    else:
        pairs = [(p, p) for p in many(padding, spatial)]
    x, single = _batched(c, x, spatial)
    operands = (x, w) if b is None else (x, w, b)
    made = c.op("conv", *operands, strides=strides, padding=tuple(pairs), dilation=dilation, groups=groups)
    return c.reshape(made, c.shape) if single else made


def _halves(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


@aten("conv1d", "conv2d", "conv3d", "conv1d.padding", "conv2d.padding", "conv3d.padding")
def conv(
    c: Call,
    x: Value,
    w: Value,
    b: Value | None = None,
    strides: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Value:
    return _conv(c, x, w, b, strides, padding, dilation, groups)


def _conv_transpose(
    c: Call, x: Value, w: Value, b: Value | None, strides: Ints, padding: Ints, output_padding: Ints, groups: int,
    dilation: Ints,
) -> Value:  # fmt: skip
    spatial = w.type.rank - 2
    x, single = _batched(c, x, spatial)
    operands = (x, w) if b is None else (x, w, b)
    made = c.op(
        "conv_transpose",
        *operands,
        strides=many(strides, spatial),
        padding=tuple((p, p) for p in many(padding, spatial)),
        dilation=many(dilation, spatial),
        groups=groups,
        output_padding=many(output_padding, spatial),
    )
    return c.reshape(made, c.shape) if single else made


@aten("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input")
def conv_transpose(
    c: Call,
    x: Value,
    w: Value,
    b: Value | None = None,
    strides: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Value:
    return _conv_transpose(c, x, w, b, strides, padding, output_padding, groups, dilation)


@aten("convolution")
def convolution(
    c: Call,
    x: Value,
    w: Value,
    b: Value | None,
    strides: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Value:
    if transposed:
        return _conv_transpose(c, x, w, b, strides, padding, output_padding, groups, dilation)
    return _conv(c, x, w, b, strides, padding, dilation, groups)

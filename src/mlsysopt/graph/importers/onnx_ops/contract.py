"""Matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.registry import reads
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim, ceildiv, multiplied
from mlsysopt.graph.types import i32

__all__ = ["window_padding"]


@reads("MatMul")
def _matmul(node: Node) -> Value:
    a, b = node.values()
    return product(node, a, b)


def product(node: Node, a: Value, b: Value, *, transpose_a: bool = False, transpose_b: bool = False) -> Value:
    """Multiply as numpy does: a vector counts as a row on the left, as a column on the right."""
    if a.type.rank > 1 and b.type.rank > 1:
        return node.done("matmul", a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    left = node.reshape(a, (1, *a.shape)) if a.type.rank == 1 else a
    right = node.reshape(b, (*b.shape, 1)) if b.type.rank == 1 else b
    found = node.emit("matmul", left, right)
    shape = list(found.shape)
    if b.type.rank == 1:
        del shape[-1]
    if a.type.rank == 1:
        del shape[-1 if b.type.rank == 1 else -2]
    return node.reshape(found, shape)


@reads("FusedMatMul", domain="com.microsoft")
def _fused_matmul(node: Node) -> Value:
    if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
        node.refuse("transposed batch axes are not supported")
    a, b = node.values()
    found = product(node, a, b, transpose_a=bool(node.attr("transA", 0)), transpose_b=bool(node.attr("transB", 0)))
    alpha = node.attr("alpha", 1.0)
    return found if alpha == 1.0 else node.emit("mul", found, node.scalar(alpha, found))


@reads("MatMulInteger")
def _matmul_integer(node: Node) -> Value:
    a, b = node.cast(node.value(0), i32), node.cast(node.value(1), i32)
    if node.has(2):
        zero = node.cast(node.value(2), i32)
        a = node.emit("sub", a, node.reshape(zero, (*zero.shape, 1)) if zero.type.rank == 1 else zero)
    if node.has(3):
        b = node.emit("sub", b, node.cast(node.value(3), i32))
    return product(node, a, b)


@reads("Gemm")
def _gemm(node: Node) -> Value:
    a, b, c = node.value(0), node.value(1), node.maybe(2)
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    turned_a, turned_b = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    scaled = alpha != 1.0 or (c is not None and beta != 1.0)
    if turned_b and not turned_a and not scaled:
        if c is None:
            return node.done("linear", a, b)
        if c.type.rank == 1 and node.proves(c.shape[0], b.shape[0]):
            return node.done("linear", a, b, c)
    found = node.emit("matmul", a, b, transpose_a=turned_a, transpose_b=turned_b)
    if alpha != 1.0:
        found = node.emit("mul", found, node.scalar(alpha, found))
    if c is None or beta == 0.0:
        return found
    if beta != 1.0:
        c = node.emit("mul", c, node.scalar(beta, c))
    return node.done("add", found, c)


def window_padding(
    node: Node, sizes: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Return the padding of each spatial axis, () for none; `auto_pad` is worked out from the sizes.

    Raises:
        ImportFailed: `auto_pad` needs a size that is a symbol.
    """
    mode = node.attr("auto_pad", "NOTSET")
    rank = len(kernel)
    if mode == "VALID" or (mode == "NOTSET" and "pads" not in node.attributes):
        return ()
    if mode == "NOTSET":
        pads = node.attr("pads")
        return tuple((pads[i], pads[rank + i]) for i in range(rank))
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        node.refuse(f"auto_pad {mode!r}; allowed are NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    found: list[tuple[int, int]] = []
    ones = (1,) * rank
    for size, wide, stride, step in zip(sizes, kernel, strides or ones, dilation or ones, strict=True):
        window = step * (wide - 1) + 1
        # The last window starts stride * (ceil(size / stride) - 1); what it overhangs is padded.
        overhang = (ceildiv(size, stride) - 1) * stride + window - size
        if (total := overhang.constant) is None:
            if node.facts.divisible(size, stride).name != "YES":
                node.refuse(f"auto_pad {mode} with stride {stride} needs a fixed size, got {size}; declare it in dims=")
            total = window - stride
        total = max(total, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(found)


@reads("Conv")
def _conv(node: Node) -> Value:
    x, w, b = node.value(0), node.value(1), node.maybe(2)
    kernel = _kernel(node, w)
    strides, dilation = node.attr("strides", ()), node.attr("dilations", ())
    return node.done(
        "conv",
        *((x, w) if b is None else (x, w, b)),
        strides=strides,
        padding=window_padding(node, x.shape[2:], kernel, strides, dilation),
        dilation=dilation,
        groups=node.attr("group", 1),
    )


@reads("ConvTranspose")
def _conv_transpose(node: Node) -> Value:
    x, w, b = node.value(0), node.value(1), node.maybe(2)
    kernel = _kernel(node, w)
    strides, dilation = node.attr("strides", ()), node.attr("dilations", ())
    extra = node.attr("output_padding", ())
    if node.attr("output_shape", None) is None and not node.attr("auto_pad", "NOTSET").startswith("SAME"):
        padding = window_padding(node, x.shape[2:], kernel, strides, dilation)
    else:
        padding = _grown_padding(node, x.shape[2:], kernel)
    return node.done(
        "conv_transpose",
        *((x, w) if b is None else (x, w, b)),
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=node.attr("group", 1),
        output_padding=extra,
    )


def _grown_padding(node: Node, sizes: Sequence[Dim], kernel: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the padding that a transposed convolution needs for the output size asked for."""
    rank, mode = len(kernel), node.attr("auto_pad", "NOTSET")
    strides, dilation = node.attr("strides", (1,) * rank), node.attr("dilations", (1,) * rank)
    extra, wanted = node.attr("output_padding", (0,) * rank), node.attr("output_shape", None)
    padding: list[tuple[int, int]] = []
    for i, size in enumerate(sizes):
        whole = (size - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilation[i] + 1
        total = whole - (size * strides[i] if wanted is None else wanted[i - rank])
        number = total.constant
        if number is None or number < 0:
            node.refuse(f"output size of axis {i} asks for a padding of {total}; a number >= 0 is supported")
        small, large = number // 2, number - number // 2
        padding.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(padding)


def _kernel(node: Node, w: Value) -> tuple[int, ...]:
    sizes = [size.constant for size in w.shape[2:]]
    if any(size is None for size in sizes):
        node.refuse(f"the kernel's spatial sizes must be numbers, got {w.type}")
    return tuple(size for size in sizes if size is not None)


@reads("Einsum")
def _einsum(node: Node) -> Value:
    equation = node.attr("equation").replace(" ", "")
    values = node.values()
    left, arrow, target = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left.replace(",", "")))
        target = "".join(one for one in letters if left.count(one) == 1)
    plain = all(len(set(term)) == len(term) and term.isalpha() for term in terms)
    if len(terms) > 2 or not plain or any(len(t) != v.type.rank for t, v in zip(terms, values, strict=True)):
        node.refuse(f"equation {equation!r}: one or two operands without repeated letters and '...' are supported")
    if len(terms) == 1:
        return _permuted(node, *_summed(node, values[0], terms[0], target), target)
    (a, left_term), (b, right_term) = (
        _summed(node, value, term, target + other)
        for value, term, other in zip(values, terms, reversed(terms), strict=True)
    )
    batch = [one for one in left_term if one in right_term and one in target]
    ties = [one for one in left_term if one in right_term and one not in target]
    rows = [one for one in left_term if one not in right_term]
    columns = [one for one in right_term if one not in left_term]
    size = {**dict(zip(right_term, b.shape, strict=True)), **dict(zip(left_term, a.shape, strict=True))}

    def grouped(value: Value, term: str, first: Sequence[str], second: Sequence[str]) -> Value:
        moved = node.transpose(value, [term.index(one) for one in (*batch, *first, *second)])
        shape = [size[one] for one in batch] + [multiplied(size[one] for one in part) for part in (first, second)]
        return node.reshape(moved, shape)

    found = node.emit("matmul", grouped(a, left_term, rows, ties), grouped(b, right_term, ties, columns))
    letters = "".join([*batch, *rows, *columns])
    return _permuted(node, node.reshape(found, [size[one] for one in letters]), letters, target)


def _summed(node: Node, value: Value, term: str, kept: str) -> tuple[Value, str]:
    """Sum over letters that nobody else has."""
    axes = tuple(i for i, one in enumerate(term) if one not in kept)
    if not axes:
        return value, term
    return node.emit("sum", value, axes=axes, keepdims=False), "".join(one for one in term if one in kept)


def _permuted(node: Node, value: Value, letters: str, target: str) -> Value:
    return node.transpose(value, [letters.index(one) for one in target])

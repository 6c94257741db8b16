"""Ops that a generated program grows by: each takes operands that fit, or none."""

from __future__ import annotations

from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DTYPES, f32, i64
from mlsysopt.testing.growing import Growing, Maker, drawn_size

__all__ = ["makers"]


def makers(reductions: bool, views: bool, contractions: bool, several_results: bool) -> tuple[Maker, ...]:
    """Return the ops that may occur, those that shall be frequent more than once."""
    found: list[Maker] = [_unary, _binary, _binary, _compare, _where, _cast, _source]
    found += [_reduce, _reduce, _softmax, _norm, _cumsum] if reductions else []
    found += [_reshape, _transpose, _broadcast, _slice, _concat, _pad, _flip] if views else []
    found += [_matmul, _linear, _embedding, _window] if contractions else []
    found += [_split] if several_results else []
    return tuple(found)


def _is_float(value: Value) -> bool:
    return value.type.dtype.is_float


def _is_number(value: Value) -> bool:
    return not value.type.dtype.is_bool


def _fit_together(a: Value, b: Value) -> bool:
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    return a.type.dtype is b.type.dtype and all(x == y or x == 1 or y == 1 for x, y in pairs)


def _unary(p: Growing) -> Value | None:
    x = p.operand(_is_number)
    if x is None:
        return None
    bounded = ("neg", "abs", "tanh", "sigmoid", "sin", "erf", "relu", "silu", "gelu", "floor", "hardswish")
    return p.b.op(p.choice.pick(bounded if _is_float(x) else ("neg", "abs", "relu", "sign")), x)


def _binary(p: Growing) -> Value | None:
    a = p.operand(_is_number)
    if a is None:
        return None
    b = p.operand(lambda value: _fit_together(a, value)) or a
    kind = p.choice.pick(("add", "sub", "mul", "maximum", "minimum"))
    return p.b.op(kind, a, b) if p.choice.integer(0, 3) else p.b.op(kind, a, p.b.scalar(p.choice.integer(1, 3), a))


def _compare(p: Growing) -> Value | None:
    a = p.operand(lambda value: True)
    if a is None:
        return None
    b = p.operand(lambda value: _fit_together(a, value)) or a
    return p.b.op(p.choice.pick(("eq", "and", "or") if a.type.dtype.is_bool else ("lt", "ge", "ne")), a, b)


def _where(p: Growing) -> Value | None:
    condition = p.operand(lambda value: value.type.dtype.is_bool)
    if condition is None:
        return None
    a = p.operand(lambda value: value.type.rank == condition.type.rank and value.shape == condition.shape)
    return p.b.op("where", condition, a, p.b.scalar(0, a)) if a is not None and _is_number(a) else None


def _cast(p: Growing) -> Value | None:
    x = p.operand(lambda value: True)
    if x is None or (_is_float(x) and p.choice.integer(0, 1)):
        return None
    # From floats only to f64: what an integer near a rounding boundary becomes depends on the precision.
    names = ("f64", "f32") if _is_float(x) else ("f32", "i32", "i64")
    return p.b.op("cast", x, to=DTYPES[p.choice.pick(names)])


def _source(p: Growing) -> Value | None:
    shape = tuple(drawn_size(p.choice, p.symbols) for _ in range(p.choice.integer(1, 2)))
    if p.choice.integer(0, 2):
        return p.b.op("iota", shape=shape, axis=len(shape) - 1, dtype=i64)
    return p.b.op("cast", p.b.op("size", dim=shape[0]), to=f32)


def _reduce(p: Growing) -> Value | None:
    x = p.operand(lambda value: _is_number(value) and value.type.rank >= 1)
    if x is None:
        return None
    kind = p.choice.pick(("sum", "max", "min", "mean", "var", "argmax") if _is_float(x) else ("sum", "max", "argmin"))
    axis, keepdims = p.choice.integer(0, x.type.rank - 1), bool(p.choice.integer(0, 1))
    if kind.startswith("arg"):
        return p.b.op(kind, x, axis=axis, keepdims=keepdims)
    axes = (axis,) if p.choice.integer(0, 2) else tuple(range(axis, x.type.rank))
    return p.b.op(kind, x, axes=axes, keepdims=keepdims)


def _softmax(p: Growing) -> Value | None:
    x = p.operand(lambda value: _is_float(value) and value.type.rank >= 1)
    kind = p.choice.pick(("softmax", "log_softmax"))
    return None if x is None else p.b.op(kind, x, axis=p.choice.integer(0, x.type.rank - 1))


def _norm(p: Growing) -> Value | None:
    x = p.operand(lambda value: _is_float(value) and value.type.rank >= 1)
    kind = p.choice.pick(("layer_norm", "rms_norm"))
    return None if x is None else p.b.op(kind, x, axes=(x.type.rank - 1,))


def _cumsum(p: Growing) -> Value | None:
    x = p.operand(lambda value: _is_number(value) and value.type.rank >= 1)
    return None if x is None else p.b.op("cumsum", x, axis=p.choice.integer(0, x.type.rank - 1))


def _reshape(p: Growing) -> Value | None:
    x = p.operand(lambda value: value.type.rank >= 2)
    if x is None:
        return None
    i = p.choice.integer(0, x.type.rank - 2)
    merged = (*x.shape[:i], x.shape[i] * x.shape[i + 1], *x.shape[i + 2 :])
    shapes = [merged, (x.type.elements,), (*x.shape[: i + 1], Dim.of(1), *x.shape[i + 1 :])]
    return p.b.op("reshape", x, shape=p.choice.pick(shapes if x.type.rank < 5 else shapes[:2]))


def _transpose(p: Growing) -> Value | None:
    x = p.operand(lambda value: value.type.rank >= 2)
    if x is None:
        return None
    perm = list(range(x.type.rank))
    for i in range(len(perm) - 1, 0, -1):
        j = p.choice.integer(0, i)
        perm[i], perm[j] = perm[j], perm[i]
    return p.b.op("transpose", x, perm=tuple(perm))


def _broadcast(p: Growing) -> Value | None:
    x = p.operand(lambda value: value.type.rank <= 3)
    if x is None:
        return None
    grown = tuple(drawn_size(p.choice, p.symbols) if size == 1 else size for size in x.shape)
    return p.b.op("broadcast", x, shape=(drawn_size(p.choice, p.symbols), *grown))


def _slice(p: Growing) -> Value | None:
    x = p.operand(lambda value: value.type.rank >= 1)
    if x is None:
        return None
    starts, limits, strides = [0] * x.type.rank, list(x.shape), [1] * x.type.rank
    axis = p.choice.integer(0, x.type.rank - 1)
    size = x.shape[axis]
    if size.is_constant:
        starts[axis] = p.choice.integer(0, int(size) - 1)
        limits[axis] = Dim.of(p.choice.integer(starts[axis] + 1, int(size)))
    strides[axis] = p.choice.integer(1, 3)
    return p.b.op("slice", x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))


def _concat(p: Growing) -> Value | None:
    a = p.operand(lambda value: value.type.rank >= 1)
    if a is None:
        return None
    axis = p.choice.integer(0, a.type.rank - 1)

    def fits(b: Value) -> bool:
        alike = b.type.dtype is a.type.dtype and b.type.rank == a.type.rank
        return alike and all(i == axis or x == y for i, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)))

    return p.b.op("concat", a, p.operand(fits) or a, axis=axis)


def _pad(p: Growing) -> Value | None:
    x = p.operand(lambda value: _is_number(value) and value.type.rank >= 1)
    if x is None:
        return None
    padding = tuple((p.choice.integer(0, 2), p.choice.integer(0, 1)) for _ in x.shape)
    return p.b.op("pad", x, padding=padding, mode=p.choice.pick(("constant", "edge")))


def _flip(p: Growing) -> Value | None:
    x = p.operand(lambda value: value.type.rank >= 1)
    return None if x is None else p.b.op("flip", x, axes=(p.choice.integer(0, x.type.rank - 1),))


def _split(p: Growing) -> tuple[Value, ...] | None:
    x = p.operand(lambda value: value.type.rank >= 1)
    if x is None:
        return None
    axis = p.choice.integer(0, x.type.rank - 1)
    size = x.shape[axis]
    least = p.b.facts.range(size)[0]
    if least is None or least < 2:  # no part is ever empty
        return None
    first = p.choice.integer(1, least - 1)
    return p.b.op("split", x, axis=axis, sizes=(Dim.of(first), size - first))


def _matmul(p: Growing) -> Value | None:
    a = p.operand(lambda value: _is_float(value) and 2 <= value.type.rank <= 4)
    if a is None:
        return None
    inner = a.shape[-1]
    b = p.operand(lambda value: value.type.dtype is a.type.dtype and value.type.rank == 2 and value.shape[0] == inner)
    return p.b.op("matmul", a, a, transpose_b=True) if b is None else p.b.op("matmul", a, b)


def _linear(p: Growing) -> Value | None:
    x = p.operand(lambda value: value.type.dtype is f32 and value.type.rank >= 1 and value.shape[-1].is_constant)
    if x is None:
        return None
    width = p.choice.integer(1, 4)
    return p.b.op("linear", x, p.weight(width, int(x.shape[-1])), p.weight(width))


def _embedding(p: Growing) -> Value | None:
    # Only straight from an input: the integers of an input that is looked up are drawn to fit the table.
    ids = [value for value in p.inputs if value.type.dtype is i64]
    return p.b.op("embedding", p.weight(5, p.choice.integer(1, 3)), p.choice.pick(ids)) if ids else None


def _window(p: Growing) -> Value | None:
    x = p.operand(lambda value: value.type.dtype is f32 and value.type.rank == 4 and value.shape[1].is_constant)
    if x is None:
        return None
    stride = p.choice.integer(1, 2)
    padding = ((1, 1), (1, 1))
    kind = p.choice.pick(("conv", "depthwise", "max_pool", "avg_pool"))
    channels = int(x.shape[1])
    if kind == "conv":
        weight = p.weight(p.choice.integer(1, 4), channels, 3, 3)
        return p.b.op("conv", x, weight, strides=(stride, stride), padding=padding)
    if kind == "depthwise":
        return p.b.op("conv", x, p.weight(channels, 1, 3, 3), padding=padding, groups=channels)
    ceil = bool(p.choice.integer(0, 1))
    return p.b.op(kind, x, kernel=(3, 3), strides=(stride, stride), padding=padding, ceil_mode=ceil)

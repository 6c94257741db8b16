"""Operators that move, cut, repeat or make elements without looking at them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mlsysopt.graph.facts import Answer
from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.registry import reads
from mlsysopt.graph.importers.onnx_ops.types import number_of
from mlsysopt.graph.importers.symbolic_values import missing_size, slice_bounds
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim, ceildiv, maximum
from mlsysopt.graph.types import i64

__all__: list[str] = []

_ZERO, _ONE = Dim.of(0), Dim.of(1)


def _reshaped(node: Node, shape: Sequence[Dim | int]) -> Value:
    return node.done("reshape", node.value(0), shape=tuple(Dim.of(size) for size in shape))


@reads("Reshape")
def _reshape(node: Node) -> Value:
    x = node.value(0)
    given = list(node.dims(1, "the target shape"))
    if not node.attr("allowzero", 0):
        for i, size in enumerate(given):
            if size == _ZERO:
                if i >= x.type.rank:
                    node.refuse(f"target shape {[*map(str, given)]} keeps axis {i}, which {x.type} does not have")
                given[i] = x.shape[i]
    open_axes = [i for i, size in enumerate(given) if size == Dim.of(-1)]
    if len(open_axes) > 1:
        node.refuse(f"target shape {[*map(str, given)]} has more than one -1")
    for i in open_axes:
        given[i] = missing_size(x.shape, given[:i] + given[i + 1 :])
    return _reshaped(node, given)


@reads("Flatten")
def _flatten(node: Node) -> Value:
    x = node.value(0)
    axis = node.attr("axis", 1)
    axis = axis + x.type.rank if axis < 0 else axis
    sides = [_ONE, _ONE]
    for i, size in enumerate(x.shape):
        sides[i >= axis] = sides[i >= axis] * size
    return _reshaped(node, sides)


@reads("Squeeze")
def _squeeze(node: Node) -> Value:
    x = node.value(0)
    axes = node.axes(x.type.rank)
    if axes is None:
        axes = tuple(i for i, size in enumerate(x.shape) if size == _ONE)
    for axis in axes:
        node.builder.rule.equal(x.shape[axis], _ONE, f"Squeeze of axis {axis}")
    return _reshaped(node, [size for i, size in enumerate(x.shape) if i not in axes])


@reads("Unsqueeze")
def _unsqueeze(node: Node) -> Value:
    x = node.value(0)
    rank = x.type.rank + len(node.known_ints(1, "axes"))
    axes = node.axes(rank) or ()
    sizes = iter(x.shape)
    return _reshaped(node, [_ONE if i in axes else next(sizes) for i in range(rank)])


@reads("Transpose")
def _transpose(node: Node) -> Value:
    x = node.value(0)
    return node.done("transpose", x, perm=tuple(node.attr("perm", tuple(reversed(range(x.type.rank))))))


@reads("Expand")
def _expand(node: Node) -> Value:
    x = node.value(0)
    given = node.dims(1, "the target shape")
    shape = node.builder.rule.broadcast_shapes([x.shape, given], "Expand")
    return x if shape == x.shape else node.done("broadcast", x, shape=shape)


@reads("Tile")
def _tile(node: Node) -> Value:
    x = node.value(0)
    repeats = node.dims(1, "the repeats")
    if all(one == _ONE for one in repeats):
        return x
    # [a, b] -> [1, a, 1, b] -> [r, a, s, b] -> [r*a, s*b]
    apart = node.reshape(x, [one for size in x.shape for one in (_ONE, size)])
    wide = node.broadcast(apart, [one for pair in zip(repeats, x.shape, strict=True) for one in pair])
    return node.done("reshape", wide, shape=tuple(r * size for r, size in zip(repeats, x.shape, strict=True)))


@reads("Slice")
def _slice(node: Node) -> Value:
    x = node.value(0)
    starts, ends = node.dims(1, "starts"), node.dims(2, "ends")
    axes = node.known_ints(3, "axes") or tuple(range(len(starts)))
    steps = node.known_ints(4, "steps") or (1,) * len(starts)
    begin, limit, stride = [_ZERO] * x.type.rank, list(x.shape), [1] * x.type.rank
    turned: list[int] = []
    for given, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = node.positive(given, x.type.rank)
        size = x.shape[axis]
        if step > 0:
            begin[axis], limit[axis] = slice_bounds(start, end, size, node.facts)
        else:
            # Element i counts as size - 1 - i from the other end.
            turned.append(axis)
            first, last = (_from_end(bound, size, node) for bound in (start, end))
            begin[axis], limit[axis] = slice_bounds(first, last, size, node.facts)
        stride[axis] = abs(step)
    if turned:
        x = node.emit("flip", x, axes=tuple(sorted(turned)))
    whole = all(
        b == _ZERO and m == size and s == 1 for b, m, size, s in zip(begin, limit, x.shape, stride, strict=True)
    )
    if whole:
        return x
    return node.done("slice", x, starts=tuple(begin), limits=tuple(limit), strides=tuple(stride))


def _from_end(bound: Dim, size: Dim, node: Node) -> Dim:
    number = bound.constant
    if number is not None and number >= 2**31 - 1:
        return _ZERO
    if number is not None and number <= -(2**31 - 1):
        return size
    if (sign := node.facts.le(0, bound)) is Answer.UNKNOWN:
        node.refuse(f"a negative step with the bound {bound}, whose sign is not known; declare ranges in dims=")
    place = bound if sign is Answer.YES else bound + size
    turned = size - 1 - place
    return turned if node.facts.le(0, turned) is Answer.YES else maximum(0, turned)


@reads("Concat")
def _concat(node: Node) -> Value:
    values = node.values()
    if len(values) == 1:
        return values[0]
    return node.done("concat", *values, axis=node.axis(0, values[0].type.rank))


@reads("Split")
def _split(node: Node) -> Sequence[Value]:
    x = node.value(0)
    axis = node.axis(0, x.type.rank)
    size = x.shape[axis]
    if node.has(1):
        sizes = node.dims(1, "the sizes of the parts")
    else:
        parts = node.attr("num_outputs", len(node.outputs))
        each = ceildiv(size, parts) if (size % parts) != _ZERO else size // parts
        if size.constant is None and size % parts != _ZERO and node.facts.divisible(size, parts) is Answer.YES:
            each = size // parts
        sizes = (*(each,) * (parts - 1), size - each * (parts - 1))
    if len(sizes) == 1:
        return [x]
    made = node.builder.op("split", x, axis=axis, sizes=tuple(sizes), names=list(node.outputs))
    return made


@reads("Pad")
def _pad(node: Node) -> Value:
    x, mode = node.value(0), node.attr("mode", "constant")
    amounts = node.dims(1, "the padding")
    axes = node.known_ints(3, "axes") or tuple(range(x.type.rank))
    if mode not in ("constant", "reflect", "edge"):
        node.refuse(f"mode {mode!r}; allowed are constant, reflect, edge")
    number = node.numbers(2)
    if node.has(2) and number is None:
        node.refuse("the filling must be constant")
    zero = 0.0 if x.type.dtype.is_float else False if x.type.dtype.is_bool else 0
    filling = zero if number is None else number_of(np.asarray(number), x.type.dtype)
    pairs = [(_ZERO, _ZERO)] * x.type.rank
    for i, axis in enumerate(axes):
        pairs[node.positive(axis, x.type.rank)] = (amounts[i], amounts[len(axes) + i])
    for axis, (before, after) in enumerate(pairs):
        # A negative amount cuts off.
        cut = tuple(-(one.constant or 0) if (one.constant or 0) < 0 else 0 for one in (before, after))
        if any(cut):
            x = node.take(x, axis, cut[0], x.shape[axis] - cut[1])
            pairs[axis] = (before if not cut[0] else _ZERO, after if not cut[1] else _ZERO)
    numbers = [(before.constant, after.constant) for before, after in pairs]
    if all(a is not None and b is not None for a, b in numbers):
        padding = tuple((a or 0, b or 0) for a, b in numbers)
        return x if not any(map(any, padding)) else node.done("pad", x, padding=padding, mode=mode, value=filling)
    if mode != "constant":
        node.refuse(f"mode {mode!r} by a symbolic amount")
    return _padded_by_symbols(node, x, pairs, filling)


def _padded_by_symbols(node: Node, x: Value, pairs: Sequence[tuple[Dim, Dim]], filling: float | int) -> Value:
    for axis, pair in enumerate(pairs):
        sides: list[Value | None] = [None, None]
        for i, amount in enumerate(pair):
            if node.facts.le(0, amount) is not Answer.YES:
                node.refuse(f"padding by {amount}, which could be negative; declare ranges in dims=")
            if amount != _ZERO:
                shape = tuple(amount if at == axis else size for at, size in enumerate(x.shape))
                sides[i] = node.emit("full", value=filling, shape=shape, dtype=x.type.dtype)
        parts = [one for one in (sides[0], x, sides[1]) if one is not None]
        if len(parts) > 1:
            x = node.emit("concat", *parts, axis=axis)
    return x


@reads("ConstantOfShape")
def _constant_of_shape(node: Node) -> Value:
    filling = node.tensor_attr("value")
    assert filling is not None
    element = node.dtype_of(filling)
    shape = node.dims(0, "the shape")
    return node.done("full", value=number_of(filling, element), shape=shape, dtype=element)


@reads("Range")
def _range(node: Node) -> Value:
    start, limit, delta = (node.sizes(i) for i in range(3))
    if start is None or limit is None or delta is None:
        return _range_of_numbers(node)
    step, first = delta.dims[0], start.dims[0]
    length = ceildiv(limit.dims[0] - first, step) if step != _ONE else limit.dims[0] - first
    if node.facts.le(0, length) is not Answer.YES:
        length = maximum(0, length)
    element = start.dtype
    plain = first == _ZERO and step == _ONE
    counted = (node.done if plain else node.emit)("iota", shape=(length,), axis=0, dtype=element)
    if step != _ONE:
        counted = node.emit("mul", counted, node.size(step, element))
    return counted if first == _ZERO else node.done("add", counted, node.size(first, element))


def _range_of_numbers(node: Node) -> Value:
    found = [node.numbers(i) for i in range(3)]
    if any(one is None for one in found):
        node.refuse("the bounds are computed from data; sizes that depend on data are not supported here")
    start, limit, delta = (one.reshape(()).item() for one in found if one is not None)
    element = node.value(0).type.dtype
    length = max(0, math.ceil((limit - start) / delta))
    counted = node.cast(node.iota((Dim.of(length),), 0), element)
    scaled = node.emit("mul", counted, node.scalar(delta, counted))
    return node.done("add", scaled, node.scalar(start, counted))


@reads("EyeLike")
def _eye_like(node: Node) -> Value:
    x = node.value(0)
    element = node.dtype_attr("dtype") if "dtype" in node.attributes else x.type.dtype
    rows, columns = node.iota(x.shape, 0), node.iota(x.shape, 1)
    on = node.emit("eq", node.emit("add", rows, node.scalar(node.attr("k", 0), rows)), columns)
    return node.done("cast", on, to=element)


@reads("Trilu")
def _trilu(node: Node) -> Value:
    x = node.value(0)
    plane = x.shape[-2:]
    rows, columns = node.iota(plane, 0), node.iota(plane, 1)
    offset = node.emit("sub", columns, rows)
    diagonal = node.reshape(node.value(1), ()) if node.has(1) else node.scalar(0, offset)
    kept = node.emit("ge" if node.attr("upper", 1) else "le", offset, diagonal)
    element = x.type.dtype
    if element.is_bool:
        return node.done("and", x, kept)
    zero = node.emit("full", value=0.0 if element.is_float else 0, shape=(), dtype=element)
    return node.done("where", kept, x, zero)


@reads("DepthToSpace")
def _depth_to_space(node: Node) -> Value:
    x, block = node.value(0), node.attr("blocksize")
    n, c, h, w = x.shape
    depth = c // (block * block)
    if node.attr("mode", "DCR") == "DCR":
        apart, perm = (n, Dim.of(block), Dim.of(block), depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        apart, perm = (n, depth, Dim.of(block), Dim.of(block), h, w), (0, 1, 4, 2, 5, 3)
    moved = node.transpose(node.reshape(x, apart), perm)
    return node.done("reshape", moved, shape=(n, depth, h * block, w * block))


@reads("SpaceToDepth")
def _space_to_depth(node: Node) -> Value:
    x, block = node.value(0), node.attr("blocksize")
    n, c, h, w = x.shape
    apart = node.reshape(x, (n, c, h // block, block, w // block, block))
    moved = node.transpose(apart, (0, 3, 5, 1, 2, 4))
    return node.done("reshape", moved, shape=(n, c * block * block, h // block, w // block))


@reads("Resize")
def _resize(node: Node) -> Value:
    x, mode = node.value(0), node.attr("mode", "nearest")
    axes = node.attr("axes", tuple(range(x.type.rank)))
    factors = [1] * x.type.rank
    if node.has(3):
        for axis, wanted in zip(axes, node.dims(3, "the target sizes"), strict=True):
            ratio = _ratio(wanted, x.shape[axis])
            if ratio is None:
                node.refuse(f"size {x.shape[axis]} to {wanted}: only whole multiples are supported")
            factors[axis] = ratio
    else:
        scales = node.numbers(2)
        if scales is None:
            node.refuse("the scales must be constant")
        for axis, scale in zip(axes, np.asarray(scales).reshape(-1), strict=True):
            if scale != round(float(scale)) or scale < 1:
                node.refuse(f"scale {scale} of axis {axis}: only whole multiples are supported")
            factors[axis] = int(scale)
    if all(factor == 1 for factor in factors):
        return x
    place = node.attr("coordinate_transformation_mode", "half_pixel")
    rounding = node.attr("nearest_mode", "round_prefer_floor")
    # Both pairs repeat each element `factor` times.
    repeats = (place, rounding) in {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}
    if mode != "nearest" or not (repeats or (place == "half_pixel" and rounding == "round_prefer_ceil")):
        node.refuse(f"mode {mode!r} with {place!r} and {rounding!r}; supported is nearest that repeats elements")
    apart = node.reshape(x, [one for size in x.shape for one in (size, _ONE)])
    wide = node.broadcast(apart, [Dim.of(one) for pair in zip(x.shape, factors, strict=True) for one in pair])
    return node.done("reshape", wide, shape=tuple(size * f for size, f in zip(x.shape, factors, strict=True)))


def _ratio(wanted: Dim, size: Dim) -> int | None:
    ratio = (wanted // size).constant
    return ratio if ratio is not None and ratio >= 1 and size * ratio == wanted else None


@reads("OneHot")
def _one_hot(node: Node) -> Value:
    indices, values = node.cast(node.value(0), i64), node.value(2)
    (depth,) = node.dims(1, "the depth")
    axis = node.axis(-1, indices.type.rank + 1)
    size = node.size(depth)
    inside = node.emit(
        "where", node.emit("lt", indices, node.scalar(0, indices)), node.emit("add", indices, size), indices
    )
    shape = list(indices.shape)
    shape.insert(axis, _ONE)
    lanes = [depth if i == axis else _ONE for i in range(len(shape))]
    hit = node.emit("eq", node.reshape(inside, shape), node.iota(lanes, axis))
    off, on = (node.reshape(node.take(values, 0, i, i + 1), ()) for i in (0, 1))
    return node.done("where", hit, on, off)


@reads("Compress")
def _compress(node: Node) -> Value:
    x, chosen = node.value(0), node.value(1)
    axis = node.attr("axis", None)
    if axis is None:
        x, axis = node.reshape(x, (x.type.elements,)), 0
    places = node.emit("nonzero", chosen, symbol=node.session.fresh_symbol("u"))
    return node.done("gather", x, node.reshape(places, places.shape[1:]), axis=node.positive(axis, x.type.rank))


@reads("NonZero")
def _nonzero(node: Node) -> Value:
    x = node.value(0)
    return node.done("nonzero", x, symbol=node.session.fresh_symbol("u"))

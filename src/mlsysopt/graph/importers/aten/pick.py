"""ATen overloads that pick or put elements by index or mask."""

from __future__ import annotations

from collections.abc import Sequence

from mlsysopt.graph.importers.aten.registry import Call, Number, Unsupported, aten, axis_of
from mlsysopt.graph.ir import Op, Value
from mlsysopt.graph.symbolic import Dim, multiplied
from mlsysopt.graph.types import i64

__all__: list[str] = []

_SAME_ORDER = ("reshape", "broadcast", "cast")


@aten("index_select")
def index_select(c: Call, x: Value, axis: int, indices: Value) -> Value:
    return c.op("gather", x, indices, axis=axis_of(axis, x.type.rank))


@aten("gather")
def gather(c: Call, x: Value, axis: int, indices: Value, sparse: bool = False) -> Value:
    axis = axis_of(axis, x.type.rank)
    return c.op("gather_elements", _cut(c, x, axis, indices.shape), indices, axis=axis)


def _cut(c: Call, x: Value, axis: int, shape: Sequence[Dim]) -> Value:
    # torch lets the indices be shorter along the other axes.
    for i, size in enumerate(shape):
        if i != axis and size != x.shape[i]:
            x = c.slice(x, i, 0, size)
    return x


@aten("scatter_add")
def scatter_add(c: Call, x: Value, axis: int, indices: Value, updates: Value) -> Value:
    return c.op("scatter_add", x, indices, _fitted(c, updates, indices.shape), axis=axis_of(axis, x.type.rank))


@aten("scatter.value", "scatter.src")
def scatter(c: Call, x: Value, axis: int, indices: Value, update: Value | Number) -> Value:
    axis = axis_of(axis, x.type.rank)
    rows = [size for i, size in enumerate(x.shape) if i != axis]
    single = indices.shape[axis] == 1 and [size for i, size in enumerate(indices.shape) if i != axis] == rows
    if not single:
        wide = update if isinstance(update, Value) else c.full(float(update), indices.shape, x.type.dtype)
        return c.op("scatter", x, indices, _fitted(c, c.cast(wide, x.type.dtype), indices.shape), axis=axis)
    # One element per row: a comparison with the place says where, and stays elementwise.
    places = c.op("iota", shape=x.shape, axis=axis, dtype=indices.type.dtype)
    if isinstance(update, Value):
        update = _fitted(c, update, indices.shape)
    return c.op("where", c.op("eq", places, indices), c.operand(update, x.type.dtype), x)


def _fitted(c: Call, updates: Value, shape: Sequence[Dim]) -> Value:
    # torch reads as many updates as there are indices.
    for axis, size in enumerate(shape):
        if updates.type.rank and updates.shape[axis] != size:
            updates = c.slice(updates, axis, 0, size)
    return updates


@aten("nonzero")
def nonzero(c: Call, x: Value) -> Value:
    places = c.op("nonzero", x, symbol=_fresh(c.shape[0]))
    return c.transpose(places, (1, 0))


@aten("masked_select")
def masked_select(c: Call, x: Value, mask: Value) -> Value:
    return c.op("masked_select", x, c.broadcast(mask, x.shape), symbol=_fresh(c.shape[0]))


def _fresh(count: Dim) -> str:
    (symbol,) = count.symbols
    return symbol


@aten("index.Tensor")
def index(c: Call, x: Value, indices: Sequence[Value | None]) -> Value:
    """Pick by several index tensors at once, as numpy's advanced indexing does."""
    places = [(axis, one) for axis, one in enumerate(indices) if one is not None]
    if any(one.type.dtype.is_bool for _, one in places):
        if len(places) == 1 and places[0][1].shape == x.shape:
            return masked_select(c, x, places[0][1])
        raise Unsupported("a mask among several indices, or one that covers some axes only")
    if len(places) == 1:
        axis, one = places[0]
        return c.op("gather", x, one, axis=axis)
    axes = [axis for axis, _ in places]
    together = axes == list(range(axes[0], axes[-1] + 1))
    whole = _whole_axes(c, x, places) if len(places) == x.type.rank else None
    if whole is not None:
        return whole
    # The indexed axes become one, at their place or in front; one index counts through it.
    front = axes[0] if together else 0
    others = [axis for axis in range(x.type.rank) if axis not in axes]
    perm = [*others[:front], *axes, *others[front:]]
    moved = c.transpose(x, perm)
    count = multiplied(x.shape[axis] for axis in axes)
    kept = moved.shape
    flat = c.reshape(moved, (*kept[:front], count, *kept[front + len(axes) :]))
    total: Value | None = None
    for axis, one in places:
        one = _counted_from_front(c, c.cast(one, i64), x.shape[axis])
        total = one if total is None else c.op("add", c.op("mul", total, c.number(x.shape[axis], i64)), one)
    assert total is not None
    return c.op("gather", flat, total, axis=front)


def _whole_axes(c: Call, x: Value, places: Sequence[tuple[int, Value]]) -> Value | None:
    """Return a view when each index counts through a whole axis, as masks built from `arange` do."""
    rank = c.type.rank
    order: list[tuple[int, int]] = []
    for axis, one in places:
        source = _counting(c, one)
        if source is None or source.result.shape != (x.shape[axis],):
            return None
        wide = [i for i, size in enumerate(one.shape) if size != 1]
        if len(wide) > 1 or (wide and one.shape[wide[0]] != x.shape[axis]):
            return None
        if not wide:
            return None
        order.append((rank - one.type.rank + wide[0], axis))
    if len({place for place, _ in order}) != len(order):
        return None
    order.sort()
    return c.reshape(c.transpose(x, [axis for _, axis in order]), c.shape)


def _counting(c: Call, value: Value) -> Op | None:
    """Return the `iota` of one axis that a value is a reshape of."""
    op = c.producers.get(value)
    while op is not None and op.kind == "reshape":
        op = c.producers.get(op.operands[0])
    return op if op is not None and op.kind == "iota" and op.result.type.rank == 1 else None


def _not_negative(c: Call, value: Value) -> bool:
    op = c.producers.get(value)
    while op is not None and op.kind in _SAME_ORDER:
        op = c.producers.get(op.operands[0])
    return op is not None and op.kind in ("iota", "size", "argmax", "argmin", "nonzero")


def _counted_from_front(c: Call, indices: Value, size: Dim) -> Value:
    """Turn indices that count from the end into those that count from the front."""
    if _not_negative(c, indices) or not indices.type.dtype.low:
        return indices
    behind = c.op("add", indices, c.number(size, indices.type.dtype))
    return c.op("where", c.op("lt", indices, c.number(0, indices.type.dtype)), behind, indices)


@aten("index_put", "_unsafe_index_put")
def index_put(c: Call, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False) -> Value:
    (first, *rest) = indices
    if first is None or rest:
        raise Unsupported("writing by more than one index")
    if first.type.dtype.is_bool:
        if accumulate or values.type.rank:
            raise Unsupported("writing several values by a mask")
        mask = c.reshape(first, (*first.shape, *([1] * (x.type.rank - first.type.rank))))
        return c.op("where", mask, c.cast(values, x.type.dtype), x)
    if not accumulate:
        raise Unsupported("writing by index where two indices may be equal")
    inner = x.shape[1:]
    count = first.type.elements
    shape = (count, *inner)
    updates = c.reshape(c.broadcast(c.cast(values, x.type.dtype), (*first.shape, *inner)), shape)
    places = c.reshape(first, (count, *([1] * len(inner))))
    return c.op("scatter_add", x, c.broadcast(places, shape), updates, axis=0)


@aten("_unsafe_index.Tensor")
def unsafe_index(c: Call, x: Value, indices: Sequence[Value | None]) -> Value:
    return index(c, x, indices)

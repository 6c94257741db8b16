"""ATen overloads that move elements without computing: views, slices, joins, padding, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlsysopt.graph.facts import Answer, Origin
from mlsysopt.graph.importers.aten.registry import Call, Unsupported, aten, axis_of
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim

__all__: list[str] = []

Size = Dim | int
Sizes = Sequence[Size]


@aten("view", "reshape", "_unsafe_view", "view_as", "reshape_as", "flatten.using_ints", "unflatten.int", "unsqueeze",
      "squeeze.dim", "squeeze.dims", "_reshape_alias", "_reshape_copy", "view_copy", "unsqueeze_copy",
)  # fmt: skip
def reshaped(c: Call, x: Value, *_: Any) -> Value:
    # torch has worked out the shape, -1 included.
    return c.reshape(x, c.shape)


@aten("squeeze", "squeeze_copy")
def squeezed(c: Call, x: Value) -> Value:
    # A size that varies stays only as long as it is not 1; torch takes that for granted, a program has to say it.
    for size in c.shape:
        if c.builder.facts.eq(size, 1) is not Answer.NO:
            c.builder.facts = c.builder.facts.with_le(2, size, Origin("squeeze of all axes of size 1", str(c.loc)))
    return c.reshape(x, c.shape)


@aten("expand", "expand_as", "broadcast_to", "expand_copy")
def expanded(c: Call, x: Value, *_: Any) -> Value:
    return c.broadcast(x, c.shape)


@aten("permute", "permute_copy")
def permute(c: Call, x: Value, axes: Sequence[int]) -> Value:
    return c.transpose(x, [axis_of(axis, x.type.rank) for axis in axes])


@aten("transpose.int", "swapaxes", "swapdims")
def transpose(c: Call, x: Value, a: int, b: int) -> Value:
    perm = list(range(x.type.rank))
    if perm:
        a, b = axis_of(a, len(perm)), axis_of(b, len(perm))
        perm[a], perm[b] = perm[b], perm[a]
    return c.transpose(x, perm)


@aten("t", "numpy_T")
def turned(c: Call, x: Value) -> Value:
    return c.transpose(x, list(reversed(range(x.type.rank))))


@aten("mT", "adjoint")
def turned_last(c: Call, x: Value) -> Value:
    return transpose(c, x, -2, -1)


@aten("movedim.int", "movedim.intlist")
def movedim(c: Call, x: Value, source: Sequence[int] | int, target: Sequence[int] | int) -> Value:
    rank = x.type.rank
    sources = [axis_of(axis, rank) for axis in ([source] if isinstance(source, int) else source)]
    targets = [axis_of(axis, rank) for axis in ([target] if isinstance(target, int) else target)]
    moved = dict(zip(targets, sources, strict=True))
    rest = iter(axis for axis in range(rank) if axis not in sources)
    return c.transpose(x, [moved[axis] if axis in moved else next(rest) for axis in range(rank)])


@aten("broadcast_tensors")
def broadcast_tensors(c: Call, parts: Sequence[Value]) -> tuple[Value | None, ...]:
    return tuple(c.broadcast(part, one.shape) for part, one in zip(parts, c.results, strict=True) if one is not None)


@aten("meshgrid", "meshgrid.indexing")
def meshgrid(c: Call, parts: Sequence[Value], indexing: str = "ij") -> tuple[Value | None, ...]:
    made: list[Value] = []
    for i, part in enumerate(parts):
        axis = 1 - i if indexing == "xy" and i < 2 and len(parts) > 1 else i
        shape = [part.type.elements if k == axis else Dim.of(1) for k in range(len(parts))]
        made.append(c.broadcast(c.reshape(part, shape), c.shape))
    return tuple(made)


def _start(c: Call, start: Size | None, size: Dim) -> Dim:
    start = Dim.of(0 if start is None else start)
    if start.constant is not None:
        return start if start.constant >= 0 else size + start
    return size + start if c.builder.facts.le(start, Dim.of(-1)) is Answer.YES else start


@aten("slice.Tensor", "slice_copy.Tensor")
def sliced(
    c: Call, x: Value, axis: int = 0, start: Size | None = None, end: Size | None = None, step: Size = 1
) -> Value:
    axis = axis_of(axis, x.type.rank)
    stride = int(step)
    first, length = _start(c, start, x.shape[axis]), c.shape[axis]
    limit = first + length if stride == 1 else first + (length - 1) * stride + 1
    return c.slice(x, axis, first, limit, stride)


@aten("narrow")
def narrow(c: Call, x: Value, axis: int, start: Size, length: Size) -> Value:
    axis = axis_of(axis, x.type.rank)
    first = _start(c, start, x.shape[axis])
    return c.slice(x, axis, first, first + length)


@aten("select.int", "select_copy.int")
def select(c: Call, x: Value, axis: int, index: Size) -> Value:
    axis = axis_of(axis, x.type.rank)
    first = _start(c, index, x.shape[axis])
    return c.reshape(c.slice(x, axis, first, first + 1), c.shape)


@aten("unbind.int")
def unbind(c: Call, x: Value, axis: int = 0) -> tuple[Value | None, ...]:
    axis = axis_of(axis, x.type.rank)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return tuple(c.reshape(c.slice(x, axis, i, i + 1), shape) if i in c.used else None for i in range(len(c.results)))


@aten("split.Tensor", "split_with_sizes", "split.sizes", "chunk", "tensor_split.sections", "unsafe_split.Tensor",
      "unsafe_chunk")  # fmt: skip
def split(c: Call, x: Value, parts: Any, axis: int = 0) -> tuple[Value | None, ...]:
    axis = axis_of(axis, x.type.rank)
    sizes = tuple(one.shape[axis] for one in c.results if one is not None)
    if len(sizes) == 1:
        return (x,)
    return c.ops("split", x, axis=axis, sizes=sizes)


@aten("cat", "concat", "concatenate")
def cat(c: Call, parts: Sequence[Value], axis: int = 0) -> Value:
    rank = c.type.rank
    # torch lets an empty list of numbers stand among tensors of any rank.
    values = [c.cast(part, c.dtype) for part in parts if part.type.rank == rank]
    return values[0] if len(values) == 1 else c.op("concat", *values, axis=axis_of(axis, rank))


@aten("stack")
def stack(c: Call, parts: Sequence[Value], axis: int = 0) -> Value:
    axis = axis_of(axis, c.type.rank)
    values = [c.cast(part, c.dtype) for part in parts]
    widened = [c.reshape(value, (*value.shape[:axis], 1, *value.shape[axis:])) for value in values]
    return widened[0] if len(widened) == 1 else c.op("concat", *widened, axis=axis)


def _padded(c: Call, x: Value, amounts: Sequence[Size], mode: str, value: float | None) -> Value:
    """Pad by torch's list: two numbers per axis, the last axis first."""
    if any(Dim.of(amount).constant is None for amount in amounts):
        raise Unsupported("padding whose amount depends on a size")
    numbers = [int(amount) for amount in amounts]
    rank = x.type.rank
    pairs = [(0, 0)] * rank
    for i in range(len(numbers) // 2):
        pairs[rank - 1 - i] = (numbers[2 * i], numbers[2 * i + 1])
    # A negative amount cuts off.
    for axis, (before, behind) in enumerate(pairs):
        if before < 0 or behind < 0:
            x = c.slice(x, axis, max(-before, 0), x.shape[axis] - max(-behind, 0))
    pairs = [(max(before, 0), max(behind, 0)) for before, behind in pairs]
    if not any(before or behind for before, behind in pairs):
        return x
    number = (float if x.type.dtype.is_float else int)(value or 0)
    return c.op("pad", x, padding=tuple(pairs), mode=mode, value=number)


@aten("pad", may_return_operand=True)
def pad(c: Call, x: Value, amounts: Sequence[Size], mode: str = "constant", value: float | None = None) -> Value:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes:
        raise Unsupported(f"padding of mode {mode!r}")
    return _padded(c, x, amounts, modes[mode], value)


@aten("constant_pad_nd")
def constant_pad(c: Call, x: Value, amounts: Sequence[Size], value: float = 0) -> Value:
    return _padded(c, x, amounts, "constant", value)


@aten("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(c: Call, x: Value, amounts: Sequence[Size]) -> Value:
    return _padded(c, x, amounts, "reflect", None)


@aten("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(c: Call, x: Value, amounts: Sequence[Size]) -> Value:
    return _padded(c, x, amounts, "edge", None)


@aten("flip")
def flip(c: Call, x: Value, axes: Sequence[int]) -> Value:
    return c.op("flip", x, axes=tuple(sorted(axis_of(axis, x.type.rank) for axis in axes)))


@aten("roll")
def roll(c: Call, x: Value, shifts: Sequence[Size], axes: Sequence[int] = ()) -> Value:
    if not axes:
        flat = c.reshape(x, (x.type.elements,))
        return c.reshape(_rolled(c, flat, 0, shifts[0]), x.shape)
    for axis, shift in zip(axes, shifts, strict=True):
        x = _rolled(c, x, axis_of(axis, x.type.rank), shift)
    return x


def _rolled(c: Call, x: Value, axis: int, shift: Size) -> Value:
    size = x.shape[axis]
    first = (-Dim.of(shift)) % size
    if first == 0:
        return x
    return c.op("concat", c.slice(x, axis, first, size), c.slice(x, axis, 0, first), axis=axis)


@aten("repeat", "tile")
def repeat(c: Call, x: Value, times: Sizes) -> Value:
    rank = max(x.type.rank, len(times))
    shape = (*([Dim.of(1)] * (rank - x.type.rank)), *x.shape)
    counts = [*([1] * (rank - len(times))), *times]
    narrow_shape = [size for one in shape for size in (Dim.of(1), one)]
    wide_shape = [size for one, count in zip(shape, counts, strict=True) for size in (Dim.of(count), one)]
    return c.reshape(c.broadcast(c.reshape(x, narrow_shape), wide_shape), c.shape)


@aten("repeat_interleave.self_int")
def repeat_interleave(c: Call, x: Value, times: Size, axis: int | None = None, *_: Any) -> Value:
    if axis is None:
        x, axis = c.reshape(x, (x.type.elements,)), 0
    axis = axis_of(axis, x.type.rank)
    before, behind = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = c.broadcast(c.reshape(x, (*before, 1, *behind)), (*before, times, *behind))
    return c.reshape(wide, c.shape)


@aten("slice_scatter")
def slice_scatter(
    c: Call,
    x: Value,
    part: Value,
    axis: int = 0,
    start: Size | None = None,
    end: Size | None = None,
    step: Size = 1,
) -> Value:
    if step != 1:
        raise Unsupported("writing every n-th element")
    axis = axis_of(axis, x.type.rank)
    first = _start(c, start, x.shape[axis])
    return _replaced(c, x, c.cast(part, x.type.dtype), axis, first, first + part.shape[axis])


@aten("select_scatter")
def select_scatter(c: Call, x: Value, part: Value, axis: int, index: Size) -> Value:
    axis = axis_of(axis, x.type.rank)
    first = _start(c, index, x.shape[axis])
    part = c.reshape(c.cast(part, x.type.dtype), (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    return _replaced(c, x, part, axis, first, first + 1)


def _replaced(c: Call, x: Value, part: Value, axis: int, first: Dim, limit: Dim) -> Value:
    size = x.shape[axis]
    pieces = [part]
    if first != 0:
        pieces.insert(0, c.slice(x, axis, 0, first))
    if limit != size:
        pieces.append(c.slice(x, axis, limit, size))
    return part if len(pieces) == 1 else c.op("concat", *pieces, axis=axis)

"""Ops that move elements, and those that make them from sizes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mlsysopt.graph.ir import Attrs
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, Variadic, define
from mlsysopt.graph.symbolic import Dim, ceildiv, multiplied
from mlsysopt.graph.types import DType, TensorType, i64

__all__: list[str] = []

_ZERO, _ONE = Dim.of(0), Dim.of(1)


def _ints(attrs: Attrs, name: str) -> tuple[int, ...]:
    return cast("tuple[int, ...]", attrs[name])


def _dims(attrs: Attrs, name: str) -> tuple[Dim, ...]:
    return cast("tuple[Dim, ...]", attrs[name])


def _reshape_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    shape = _dims(attrs, "shape")
    rule.equal(x.elements, multiplied(shape), "reshape: element counts")
    return (TensorType(x.dtype, shape),)


def _transpose_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    perm = _ints(attrs, "perm")
    rule.require(sorted(perm) == list(range(x.rank)), f"transpose: {perm} is no permutation of {x.rank} axes")
    return (TensorType(x.dtype, tuple(x.shape[axis] for axis in perm)),)


def _broadcast_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    shape = _dims(attrs, "shape")
    rule.require(len(shape) >= x.rank, f"broadcast: {x} has more axes than the {len(shape)} asked for")
    for size, wanted in zip(reversed(x.shape), reversed(shape), strict=False):
        rule.equal(rule.broadcast(size, wanted, "broadcast"), wanted, "broadcast")
    return (TensorType(x.dtype, shape),)


def _broadcast(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    return (np.broadcast_to(arrays[0], attrs["shape"]),)


def _slice_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    starts, limits, strides = _dims(attrs, "starts"), _dims(attrs, "limits"), _ints(attrs, "strides")
    for name, given in (("starts", starts), ("limits", limits), ("strides", strides)):
        shown = ", ".join(map(str, given))
        rule.require(len(given) == x.rank, f"slice: {name} ({shown}) needs one entry per axis, {x.rank}")
    rule.require(min(strides, default=1) >= 1, f"slice: strides {strides} must be at least 1")
    sizes: list[Dim] = []
    for i, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True)):
        rule.at_most(_ZERO, start, f"slice: start of axis {i}")
        rule.at_most(start, limit, f"slice: start and limit of axis {i}")
        rule.at_most(limit, x.shape[i], f"slice: limit and size of axis {i}")
        sizes.append(limit - start if stride == 1 else ceildiv(limit - start, stride))
    return (TensorType(x.dtype, tuple(sizes)),)


def _slice(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    (x,) = arrays
    where: list[slice] = []
    for size, start, limit, stride in zip(x.shape, attrs["starts"], attrs["limits"], attrs["strides"], strict=True):
        if not 0 <= start <= limit <= size:
            raise ValueError(f"slice {start}:{limit} does not lie in an axis of size {size}")
        where.append(slice(start, limit, stride))
    return (x[tuple(where)],)


def _concat_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    element = rule.same_dtype(list(types), "concat")
    first = types[0]
    axis = rule.axis(cast("int", attrs["axis"]), first.rank, "concat")
    shape = list(first.shape)
    for other in types[1:]:
        rule.require(other.rank == first.rank, f"concat: ranks {first.rank} and {other.rank} must be equal")
        for i, size in enumerate(other.shape):
            shape[i] = shape[i] + size if i == axis else rule.equal(shape[i], size, f"concat: sizes of axis {i}")
    return (TensorType(element, tuple(shape)),)


def _concat(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    return (np.concatenate(list(arrays), attrs["axis"]),)


def _split_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    axis = rule.axis(cast("int", attrs["axis"]), x.rank, "split")
    sizes = _dims(attrs, "sizes")
    rule.require(len(sizes) >= 1, "split: sizes must name at least one part")
    total = _ZERO
    for size in sizes:
        rule.at_most(_ZERO, size, "split: size of a part")
        total = total + size
    rule.equal(total, x.shape[axis], f"split: parts and size of axis {axis}")
    return tuple(TensorType(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes)


def _split(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    (x,) = arrays
    axis, parts, start = attrs["axis"], list[Array](), 0
    for size in attrs["sizes"]:
        parts.append(x[(*(slice(None),) * axis, slice(start, start + size))])
        start += size
    if min(attrs["sizes"]) < 0 or start != x.shape[axis]:
        raise ValueError(f"parts {attrs['sizes']} do not make up an axis of size {x.shape[axis]}")
    return tuple(parts)


def _pad_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    padding, mode = cast("tuple[tuple[int, int], ...]", attrs["padding"]), attrs["mode"]
    rule.require(len(padding) == x.rank, f"pad: padding {padding} needs one pair per axis, {x.rank}")
    for i, (before, after) in enumerate(padding):
        rule.require(min(before, after) >= 0, f"pad: padding {padding} must not be negative; use slice to cut")
        if mode != "constant" and before + after:
            least = max(before, after) + 1 if mode == "reflect" else 1
            rule.at_most(Dim.of(least), x.shape[i], f"pad: {mode} and size of axis {i}")
    sizes = tuple(size + (before + after) for size, (before, after) in zip(x.shape, padding, strict=True))
    return (TensorType(x.dtype, sizes),)


def _pad(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    (x,) = arrays
    padding, mode = attrs["padding"], attrs["mode"]
    if mode == "constant":
        return (np.pad(x, padding, constant_values=np.asarray(attrs["value"]).astype(x.dtype)),)
    for size, (before, after) in zip(x.shape, padding, strict=True):
        if before + after and size < (max(before, after) + 1 if mode == "reflect" else 1):
            raise ValueError(f"pad by {before} and {after} in mode {mode} needs a larger axis than {size}")
    return (np.pad(x, padding, mode),)


def _flip_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    for axis in _ints(attrs, "axes"):
        rule.axis(axis, x.rank, "flip")
    return (x.plain(),)


def _flip(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    return (np.flip(arrays[0], attrs["axes"]),)


def _iota_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    shape, element = _dims(attrs, "shape"), cast("DType", attrs["dtype"])
    rule.axis(cast("int", attrs["axis"]), len(shape), "iota")
    rule.require(not element.is_bool, "iota: not defined for bool; compare an integer iota instead")
    return (TensorType(element, shape),)


def _iota(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    shape, axis = attrs["shape"], attrs["axis"]
    line = np.arange(shape[axis]).astype(attrs["dtype"].numpy())
    return (np.broadcast_to(line.reshape(-1, *(1,) * (len(shape) - axis - 1)), shape),)


def _full_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    element, value = cast("DType", attrs["dtype"]), cast("float", attrs["value"])
    if element.is_int:
        rule.require(float(value).is_integer(), f"full: {value} is no {element}")
        low, high = cast("int", element.low), cast("int", element.high)
        rule.require(low <= value <= high, f"full: {value} is outside {low}..{high} of {element}")
    if element.is_bool:
        rule.require(value in (0, 1), f"full: {value} is no bool")
    return (TensorType(element, _dims(attrs, "shape")),)


def _full(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    return (np.broadcast_to(np.asarray(attrs["value"]).astype(attrs["dtype"].numpy()), attrs["shape"]),)


def _size(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    return (np.asarray(attrs["dim"], np.int64),)


define(
    OpDef(
        "reshape", 1, _reshape_type, lambda arrays, attrs: (arrays[0].reshape(attrs["shape"]),),
        {"shape": AttrSpec("dims")}, in_place=(0,), linear=True, view=True, about="the same elements in another shape",
    ),
    OpDef(
        "transpose", 1, _transpose_type, lambda arrays, attrs: (arrays[0].transpose(attrs["perm"]),),
        {"perm": AttrSpec("ints")}, linear=True, about="axes in another order: result axis i is operand axis perm[i]",
    ),
    OpDef(
        "broadcast", 1, _broadcast_type, _broadcast, {"shape": AttrSpec("dims")}, linear=True,
        about="repeated along new axes and axes of size 1",
    ),
    OpDef(
        "slice", 1, _slice_type, _slice,
        {"starts": AttrSpec("dims"), "limits": AttrSpec("dims"), "strides": AttrSpec("ints")}, linear=True,
        read_bytes=lambda op: op.results[0].type.bytes,
        about="start:limit:stride of each axis, 0 <= start <= limit <= size",
    ),
    OpDef(
        "concat", Variadic(1), _concat_type, _concat, {"axis": AttrSpec("int")}, linear=True,
        about="joined along an axis",
    ),
    OpDef(
        "split", 1, _split_type, _split, {"axis": AttrSpec("int"), "sizes": AttrSpec("dims")}, linear=True,
        about="cut along an axis into parts of given sizes, one result each",
    ),
    OpDef(
        "pad", 1, _pad_type, _pad,
        {
            "padding": AttrSpec("pairs"), "mode": AttrSpec("str", "constant", ("constant", "reflect", "edge")),
            "value": AttrSpec("number", 0),
        },
        about="elements added before and after each axis",
    ),
    OpDef("flip", 1, _flip_type, _flip, {"axes": AttrSpec("ints")}, linear=True, about="reversed along axes"),
    OpDef(
        "iota", 0, _iota_type, _iota,
        {"shape": AttrSpec("dims"), "axis": AttrSpec("int", 0), "dtype": AttrSpec("dtype", i64)},
        about="the place along an axis: 0, 1, 2, ...",
    ),
    OpDef(
        "full", 0, _full_type, _full,
        {"value": AttrSpec("number"), "shape": AttrSpec("dims"), "dtype": AttrSpec("dtype")},
        about="one number everywhere",
    ),
    OpDef(
        "size", 0, lambda rule, types, attrs: (TensorType(i64, ()),), _size, {"dim": AttrSpec("dim")},
        about="a size as data",
    ),
)  # fmt: skip

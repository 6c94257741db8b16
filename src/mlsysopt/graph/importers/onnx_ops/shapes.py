"""Shape arithmetic: operators on integer tensors that are known as formulas, computed while the model is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.importers.symbolic_values import LARGEST, Sizes, filled, truncated_quotient
from mlsysopt.graph.symbolic import Dim, maximum, minimum, multiplied
from mlsysopt.graph.types import DType, boolean

if TYPE_CHECKING:
    from mlsysopt.graph.importers.onnx_ops.node import Node

__all__ = ["FOLDS", "folded"]

Array: TypeAlias = Any


def folded(node: Node) -> tuple[Sizes, ...] | None:
    """Return what a node computes when all it reads is known, None otherwise."""
    fold = FOLDS.get(node.kind) if node.domain == "" else None
    return None if fold is None else fold(node)


Fold: TypeAlias = "Callable[[Node], tuple[Sizes, ...] | None]"
FOLDS: dict[str, Fold] = {}


def _fold(*kinds: str) -> Callable[[Fold], Fold]:
    def register(function: Fold) -> Fold:
        for kind in kinds:
            FOLDS[kind] = function
        return function

    return register


def _one(array: Array, dtype: DType) -> tuple[Sizes, ...] | None:
    array = np.asarray(array, object)
    return (Sizes(array, dtype),) if array.size <= LARGEST else None


def _all(node: Node) -> list[Sizes] | None:
    found = [node.sizes(i) for i in range(len(node.inputs))]
    return None if any(one is None for one in found) else [one for one in found if one is not None]


@_fold("Shape")
def _shape(node: Node) -> tuple[Sizes, ...] | None:
    sizes = node.shape(0)
    if sizes is None:
        return None
    start, end = node.attr("start", 0), node.attr("end", len(sizes))
    low = max(0, min(len(sizes), start + len(sizes) if start < 0 else start))
    high = max(0, min(len(sizes), end + len(sizes) if end < 0 else end))
    return (Sizes.of(sizes[low:high]),)


@_fold("Size")
def _size(node: Node) -> tuple[Sizes, ...] | None:
    sizes = node.shape(0)
    if sizes is None:
        return None
    return (Sizes.of(multiplied(sizes)),)


@_fold("Identity")
def _identity(node: Node) -> tuple[Sizes, ...] | None:
    found = node.sizes(0)
    return None if found is None else (found,)


@_fold("Cast")
def _cast(node: Node) -> tuple[Sizes, ...] | None:
    found, to = node.sizes(0), node.dtype_attr("to")
    if found is None or to.is_float:
        return None
    if to is found.dtype:
        return (found,)
    if found.dtype is boolean:
        return (Sizes.of_array(found.numbers(), to),)
    if to is boolean:
        return _compared(node, found.array, filled(found.array.shape, [Dim.of(0)] * found.array.size), "ne")
    low, high = to.low, to.high
    fits = all(low is not None and high is not None and low <= one <= high for one in found.ints or ())
    # A symbolic size is taken to fit 32 bits, a narrower type is computed as data.
    return (Sizes(found.array, to),) if fits and (found.is_known or to.bytes >= 4) else None


@_fold("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
def _arithmetic(node: Node) -> tuple[Sizes, ...] | None:
    parts = _all(node)
    if not parts or parts[0].dtype is boolean or not all(part.dtype is parts[0].dtype for part in parts):
        return None
    compute = _ARITHMETIC.get(node.kind)
    if compute is None or (node.kind == "Mod" and node.attr("fmod", 0)):
        return None
    total = parts[0].array
    for part in parts[1:]:
        left, right = np.broadcast_arrays(total, part.array)
        made = [compute(a, b, node.facts) for a, b in zip(left.reshape(-1), right.reshape(-1), strict=True)]
        if any(one is None for one in made):
            return None
        total = filled(left.shape, made)
    return _one(total, parts[0].dtype)


def _mod(a: Dim, b: Dim, facts: Facts) -> Dim | None:
    return a % b if facts.eq(b, 0) is Answer.NO else None


_ARITHMETIC: dict[str, Callable[[Dim, Dim, Facts], Dim | None]] = {
    "Add": lambda a, b, facts: a + b,
    "Sub": lambda a, b, facts: a - b,
    "Mul": lambda a, b, facts: a * b,
    "Div": truncated_quotient,
    "Mod": _mod,
    "Min": lambda a, b, facts: minimum(a, b),
    "Max": lambda a, b, facts: maximum(a, b),
}


@_fold("Neg", "Abs")
def _signed(node: Node) -> tuple[Sizes, ...] | None:
    found = node.sizes(0)
    if found is None:
        return None
    made = [-one if node.kind == "Neg" else maximum(one, -one) for one in found.array.reshape(-1)]
    return _one(filled(found.array.shape, made), found.dtype)


@_fold("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def _comparison(node: Node) -> tuple[Sizes, ...] | None:
    parts = _all(node)
    if not parts or any(part.dtype is boolean for part in parts):
        return None
    word = {"Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge"}[node.kind]
    return _compared(node, parts[0].array, parts[1].array, word)


def _compared(node: Node, left: Array, right: Array, word: str) -> tuple[Sizes, ...] | None:
    facts = node.facts
    left, right = np.broadcast_arrays(left, right)
    ask: dict[str, Callable[[Dim, Dim], Answer]] = {
        "eq": facts.eq,
        "ne": facts.eq,
        "le": facts.le,
        "ge": lambda a, b: facts.le(b, a),
        "lt": lambda a, b: facts.le(a + 1, b),
        "gt": lambda a, b: facts.le(b + 1, a),
    }
    answers = [ask[word](a, b) for a, b in zip(left.reshape(-1), right.reshape(-1), strict=True)]
    if any(answer is Answer.UNKNOWN for answer in answers):
        return None
    truth = [(answer is Answer.YES) != (word == "ne") for answer in answers]
    return _one(filled(left.shape, truth), boolean)


@_fold("And", "Or", "Xor", "Not")
def _logic(node: Node) -> tuple[Sizes, ...] | None:
    parts = _all(node)
    if not parts:
        return None
    arrays = [part.array.astype(bool) for part in parts]
    if node.kind == "Not":
        found = ~arrays[0]
    else:
        found = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}[node.kind](*arrays)
    return (Sizes.of_array(found, boolean),) if found.size <= LARGEST else None


@_fold("Where")
def _where(node: Node) -> tuple[Sizes, ...] | None:
    parts = _all(node)
    if not parts:
        return None
    choose, a, b = np.broadcast_arrays(*(part.array for part in parts))
    made = [y if c else n for c, y, n in zip(choose.reshape(-1), a.reshape(-1), b.reshape(-1), strict=True)]
    return _one(filled(choose.shape, made), parts[1].dtype)


@_fold("Concat")
def _concat(node: Node) -> tuple[Sizes, ...] | None:
    parts = _all(node)
    if not parts:
        return None
    return _one(np.concatenate([part.array for part in parts], axis=node.attr("axis", 0)), parts[0].dtype)


@_fold("Gather")
def _gather(node: Node) -> tuple[Sizes, ...] | None:
    data, indices = node.sizes(0), node.sizes(1)
    if data is None or indices is None or not indices.is_known:
        return None
    axis = node.attr("axis", 0)
    places = indices.numbers().astype(np.int64)
    length = data.array.shape[axis] if data.array.ndim else 0
    if places.size and (places.min() < -length or places.max() >= length):
        node.refuse(f"index outside 0..{length - 1}: {places.tolist()}")
    return _one(np.take(data.array, places, axis=axis), data.dtype)


@_fold("Slice")
def _slice(node: Node) -> tuple[Sizes, ...] | None:
    data = node.sizes(0)
    starts, ends = node.ints(1), node.ints(2)
    if data is None or starts is None or ends is None:
        return None
    axes = node.ints(3) if node.has(3) else tuple(range(len(starts)))
    steps = node.ints(4) if node.has(4) else (1,) * len(starts)
    if axes is None or steps is None:
        return None
    cuts = [slice(None)] * data.array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # With a negative step an end before the first element cannot be written as a Python index.
        stop = None if step < 0 and end < -data.array.shape[axis] else end
        cuts[axis] = slice(start, stop, step)
    return _one(data.array[tuple(cuts)], data.dtype)


@_fold("Squeeze", "Unsqueeze", "Reshape", "Flatten")
def _reshaped(node: Node) -> tuple[Sizes, ...] | None:
    data = node.sizes(0)
    if data is None:
        return None
    if node.kind == "Flatten":
        axis = node.attr("axis", 1) % (data.array.ndim + 1)
        return _one(data.array.reshape(int(np.prod(data.array.shape[:axis])), -1), data.dtype)
    if node.kind == "Squeeze" and not node.has(1):
        return _one(data.array.squeeze(), data.dtype)
    given = node.ints(1)
    if given is None:
        return None
    if node.kind == "Squeeze":
        return _one(data.array.squeeze(given), data.dtype)
    if node.kind == "Unsqueeze":
        return _one(np.expand_dims(data.array, given), data.dtype)
    if not node.attr("allowzero", 0):
        given = tuple(data.array.shape[i] if size == 0 else size for i, size in enumerate(given))
    return _one(data.array.reshape(given), data.dtype)


@_fold("Transpose")
def _transpose(node: Node) -> tuple[Sizes, ...] | None:
    data = node.sizes(0)
    return None if data is None else _one(data.array.transpose(node.attr("perm", None)), data.dtype)


@_fold("Split")
def _split(node: Node) -> tuple[Sizes, ...] | None:
    data = node.sizes(0)
    if data is None:
        return None
    axis = node.attr("axis", 0)
    if node.has(1):
        parts = node.ints(1)
        if parts is None:
            return None
        cuts = np.cumsum(parts)[:-1]
    else:
        count, length = len(node.outputs), data.array.shape[axis]
        cuts = np.arange(1, count) * -(-length // count)
    return tuple(Sizes(part, data.dtype) for part in np.split(data.array, cuts, axis=axis))


@_fold("ConstantOfShape")
def _constant_of_shape(node: Node) -> tuple[Sizes, ...] | None:
    shape = node.ints(0)
    filling = node.tensor_attr("value")
    if shape is None or filling is None or filling.dtype.kind not in "iub" or np.prod(shape) > LARGEST:
        return None
    return (Sizes.of_array(np.full(shape, filling.reshape(-1)[0]), node.dtype_of(filling)),)


@_fold("Expand", "Tile")
def _repeated(node: Node) -> tuple[Sizes, ...] | None:
    data, shape = node.sizes(0), node.ints(1)
    if data is None or shape is None or np.prod(shape) * data.array.size > LARGEST:
        return None
    if node.kind == "Tile":
        return _one(np.tile(data.array, shape), data.dtype)
    return _one(np.broadcast_to(data.array, np.broadcast_shapes(data.array.shape, shape)), data.dtype)


@_fold("Range")
def _range(node: Node) -> tuple[Sizes, ...] | None:
    parts = _all(node)
    if not parts or not all(part.is_known for part in parts):
        return None
    start, limit, delta = (int(part.numbers().reshape(())) for part in parts)
    if delta == 0 or (limit - start) // delta > LARGEST:
        return None
    return (Sizes.of([Dim.of(one) for one in range(start, limit, delta)], parts[0].dtype),)


@_fold("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduced(node: Node) -> tuple[Sizes, ...] | None:
    data = node.sizes(0)
    if data is None or data.array.ndim != 1 or not data.array.size or data.dtype is boolean:
        return None
    total = data.dims[0]
    for size in data.dims[1:]:
        total = {
            "ReduceProd": lambda a, b: a * b,
            "ReduceSum": lambda a, b: a + b,
            "ReduceMax": maximum,
            "ReduceMin": minimum,
        }[node.kind](total, size)
    return _one(filled((1,) if node.attr("keepdims", 1) else (), [total]), data.dtype)

"""Ops whose operands say where: lookups, scattering, selection.

An index may be negative, counted from the end as in numpy; an index outside the axis is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mlsysopt.graph.ir import Attrs, Op
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, TypeRule, define
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType, i64

__all__: list[str] = []


def _indices(rule: Inference, one: TensorType, kind: str) -> None:
    rule.require(one.dtype.is_int, f"{kind}: indices must be integers, got {one.dtype}")


def _checked(indices: Array, size: int, *, negative: bool = True) -> Array:
    """Return the indices.

    Raises:
        IndexError: one of them is outside the axis; the first such one is named.
    """
    least = -size if negative else 0
    wrong = (indices < least) | (indices >= size)
    if wrong.any():
        where = tuple(int(i) for i in zip(*wrong.nonzero(), strict=True).__next__())
        raise IndexError(f"index {int(indices[where])} at {where} is outside {least}..{size - 1} (size {size})")
    return indices


def _gather_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    x, indices = types
    _indices(rule, indices, "gather")
    axis = rule.axis(cast("int", attrs["axis"]), x.rank, "gather")
    return (TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])),)


def _gather(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    x, indices = arrays
    axis = attrs["axis"]
    return (x.take(_checked(indices, x.shape[axis]), axis),)


def _along_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    x, indices = types
    _indices(rule, indices, "gather_elements")
    axis = rule.axis(cast("int", attrs["axis"]), x.rank, "gather_elements")
    _fits(rule, x, indices, axis, "gather_elements")
    return (TensorType(x.dtype, indices.shape),)


def _fits(rule: Inference, x: TensorType, indices: TensorType, axis: int, kind: str) -> None:
    rule.require(
        x.rank == indices.rank, f"{kind}: ranks {x.rank} and {indices.rank} of operand and indices must be equal"
    )
    for i, (size, given) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if i != axis:
            rule.at_most(given, size, f"{kind}: indices and operand along axis {i}")


def _places(indices: Array, x: Array, axis: int) -> tuple[Array, ...]:
    """Return the full index of each element that an index tensor names along one axis."""
    import numpy as np

    for i, (given, size) in enumerate(zip(indices.shape, x.shape, strict=True)):
        if i != axis and given > size:
            raise IndexError(f"indices of size {given} along axis {i} of size {size}")
    where = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    where[axis] = _checked(indices, x.shape[axis])
    return tuple(where)


def _along(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    x, indices = arrays
    return (x[_places(indices, x, attrs["axis"])],)


def _scatter_type(kind: str) -> TypeRule:
    def infer(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        x, indices, updates = types
        _indices(rule, indices, kind)
        element = rule.same_dtype([x, updates], kind)
        rule.require(kind == "scatter" or not element.is_bool, f"{kind}: not defined for bool")
        axis = rule.axis(cast("int", attrs["axis"]), x.rank, kind)
        _fits(rule, x, indices, axis, kind)
        rule.require(
            updates.rank == indices.rank, f"{kind}: indices and updates have ranks {indices.rank}, {updates.rank}"
        )
        for i, (size, given) in enumerate(zip(indices.shape, updates.shape, strict=True)):
            rule.equal(size, given, f"{kind}: indices and updates along axis {i}")
        return (x.plain(),)

    return infer


def _scatter_add(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    x, indices, updates = arrays
    y = x.copy()
    np.add.at(y, _places(indices, x, attrs["axis"]), updates)
    return (y,)


def _scatter(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    x, indices, updates = arrays
    y = x.copy()
    y[_places(indices, x, attrs["axis"])] = updates
    return (y,)


def _embedding_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    table, ids = types
    _indices(rule, ids, "embedding")
    rule.require(table.rank >= 1, "embedding: the table needs an axis to look up along")
    return (TensorType(table.dtype, (*ids.shape, *table.shape[1:])),)


def _embedding(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    table, ids = arrays
    return (table.take(_checked(ids, table.shape[0], negative=False), 0),)


def _nonzero_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    return (TensorType(i64, (Dim.of(x.rank), Dim.of(cast("str", attrs["symbol"])))),)


def _nonzero(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    (x,) = arrays
    return (np.argwhere(x).T.astype(np.int64),)


def _selected_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    x, mask = types
    rule.require(mask.dtype.is_bool, f"masked_select: the mask must be bool, got {mask.dtype}")
    rule.broadcast_shapes([x.shape, mask.shape], "masked_select")
    return (TensorType(x.dtype, (Dim.of(cast("str", attrs["symbol"])),)),)


def _selected(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    x, mask = np.broadcast_arrays(*arrays)
    return (x[mask],)


def _updates(op: Op) -> Dim:
    return op.operands[2].type.elements


def _looked_up(op: Op) -> Dim:
    # Of a table, what is looked up; not the table.
    return op.results[0].type.bytes + op.operands[1].type.bytes


_AXIS = {"axis": AttrSpec("int")}

define(
    OpDef(
        "gather", 2, _gather_type, _gather, _AXIS, read_bytes=_looked_up,
        about="slices of the operand at the indices, as numpy.take",
    ),
    OpDef(
        "gather_elements", 2, _along_type, _along, _AXIS, read_bytes=_looked_up,
        about="an element for each index, as numpy.take_along_axis",
    ),
    OpDef(
        "scatter_add", 3, _scatter_type("scatter_add"), _scatter_add, _AXIS, flops=_updates, in_place=(0,),
        about="the operand with updates added at the indices; repeated indices add up",
    ),
    OpDef(
        "scatter", 3, _scatter_type("scatter"), _scatter, _AXIS, in_place=(0,),
        about="the operand with updates put at the indices; which of repeated indices wins is not defined",
    ),
    OpDef(
        "embedding", 2, _embedding_type, _embedding, read_bytes=_looked_up,
        about="rows of a table by non-negative number"
    ),
    OpDef(
        "nonzero", 1, _nonzero_type, _nonzero, {"symbol": AttrSpec("str")}, fresh=True,
        about="places of the elements that are not 0, one a column; their number is a new symbol",
    ),
    OpDef(
        "masked_select", 2, _selected_type, _selected, {"symbol": AttrSpec("str")}, fresh=True,
        about="elements where a mask holds, in row-major order; their number is a new symbol",
    ),
)  # fmt: skip

"""A program as arrays, for simulators that are compiled: readable objects for people, numbers for searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlsysopt.graph.ir import Graph, Value
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

__all__ = ["Flat", "flatten"]


@dataclass(frozen=True, slots=True)
class Flat:
    """Ops and values by number. Values: inputs, then constants, then results in the order of the ops.

    Attributes:
        kinds: Names of the kinds; `kind` points into it.
        kind: Kind of each op, shape (ops,).
        operand_start: Where the operands of each op begin in `operand`, shape (ops + 1,).
        operand: Values read, shape (reads,).
        result_start: First result of each op, shape (ops + 1,); its results are consecutive.
        bytes: Bytes of each value, of all its parts together, shape (values,).
        local_bytes: Bytes that one device holds, shape (values,).
        flops: Floating-point operations of each op, of all devices together, shape (ops,).
        scratch: Bytes each op needs while it runs, shape (ops,).
        devices: Devices of the mesh of each op, 1 when it has none, shape (ops,).
        inputs: Number of inputs.
        constants: Number of constants.
        outputs: Values returned, shape (outputs,).
    """

    kinds: tuple[str, ...]
    kind: Ints
    operand_start: Ints
    operand: Ints
    result_start: Ints
    bytes: Ints
    local_bytes: Ints
    flops: Ints
    scratch: Ints
    devices: Ints
    inputs: int
    constants: int
    outputs: Ints


def flatten(graph: Graph, values: Mapping[str, int] | None = None, /, **sizes: int) -> Flat:
    """Return a program as arrays for given sizes of its symbols.

    Args:
        graph: The program.
        values: Symbol -> size.
        sizes: The same by keyword.

    >>> from mlsysopt.graph import parse
    >>> flat = flatten(parse("graph @f(%x: f32[B]) { %y = add(%x, %x) : f32[B] return %y }"), B=3)
    >>> flat.kinds, flat.operand.tolist(), flat.bytes.tolist(), flat.flops.tolist()
    (('add',), [0, 0], [12, 12], [3])
    """
    import numpy as np

    given = {**(values or {}), **sizes}
    known: dict[Dim, int] = {}
    by_type: dict[int, tuple[int, int, int]] = {}

    def number(size: Dim) -> int:
        found = known.get(size)
        if found is None:
            found = known[size] = size.at(given)
        return found

    def sized(value: Value) -> tuple[int, int, int]:
        one = value.type
        found = by_type.get(id(one))
        if found is None:
            whole = number(one.bytes)
            found = by_type[id(one)] = (
                whole,
                whole if one.placement is None else _local(value, number),
                _devices(value),
            )
        return found

    place: dict[str, int] = {}
    sizes_of: list[tuple[int, int, int]] = []
    for value in (*graph.inputs, *(constant.value for constant in graph.constants)):
        place[value.name] = len(sizes_of)
        sizes_of.append(sized(value))
    kinds: dict[str, int] = {}
    columns_of_ops: tuple[list[int], ...] = tuple([] for _ in range(7))
    kind, operand, operand_start, result_start, flops, scratch, devices = columns_of_ops
    for op in graph.ops:
        found = lookup(op.kind)
        kind.append(kinds.setdefault(op.kind, len(kinds)))
        operand_start.append(len(operand))
        operand += [place[value.name] for value in op.operands]
        result_start.append(len(sizes_of))
        for value in op.results:
            place[value.name] = len(sizes_of)
            sizes_of.append(sized(value))
        flops.append(number(found.flops(op)))
        scratch.append(number(found.scratch_bytes(op)))
        devices.append(max([sizes_of[-1][2], *(sized(value)[2] for value in op.operands)]))
    operand_start.append(len(operand))
    result_start.append(len(sizes_of))
    columns = np.array(sizes_of, np.int64).reshape(-1, 3)

    def ints(numbers: list[int]) -> Ints:
        return np.array(numbers, np.int64)

    return Flat(
        kinds=tuple(kinds),
        kind=ints(kind),
        operand_start=ints(operand_start),
        operand=ints(operand),
        result_start=ints(result_start),
        bytes=columns[:, 0].copy(),
        local_bytes=columns[:, 1].copy(),
        flops=ints(flops),
        scratch=ints(scratch),
        devices=ints(devices),
        inputs=len(graph.inputs),
        constants=len(graph.constants),
        outputs=ints([place[value.name] for value in graph.outputs]),
    )


def _local(value: Value, number: Callable[[Dim], int]) -> int:
    placement = value.type.placement
    count = value.type.dtype.bytes
    for axis, size in enumerate(value.shape):
        parts = placement.shards(axis) if placement is not None else 1
        count *= -(-number(size) // parts)
    return count


def _devices(value: Value) -> int:
    return value.type.placement.mesh.devices if value.type.placement is not None else 1

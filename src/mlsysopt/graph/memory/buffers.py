"""Which values share bytes, who reads them, and how large they are: what all of memory planning asks.

A view (a reshape) holds the bytes of its operand, so buffers, not values, are what lives and dies.
An op that waits for nothing and needs no scratch (a scalar, a ramp, a cast of a weight) is *lazy*:
it is best run right before its first reader, whatever the order of the others, so planning never
has to place it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.symbolic import Dim

__all__ = ["Accounting", "Buffer", "Buffers", "Size", "buffers_of", "buffers_of_graph"]

Size = TypeVar("Size", int, Dim)
"""A number of bytes, or a formula of it."""


@dataclass(frozen=True, slots=True)
class Accounting:
    """What counts as memory of the program.

    Attributes:
        inputs: Inputs count until their last reader and may be overwritten by it; otherwise they
            are the caller's: not counted, never overwritten.
        outputs: Outputs count from their making to the end; otherwise their bytes are the caller's.
        weights: Constants count, all the time.
        in_place: Whether a result may take the bytes of an operand that dies there.
    """

    inputs: bool = True
    outputs: bool = True
    weights: bool = False
    in_place: bool = True

    def __str__(self) -> str:
        words = [f"inputs {'counted' if self.inputs else 'not counted'}"]
        words.append(f"outputs {'counted' if self.outputs else 'not counted'}")
        words.append(f"weights {'counted' if self.weights else 'not counted'}")
        words.append("results in place" if self.in_place else "nothing in place")
        return ", ".join(words)


@dataclass(slots=True)
class Buffer(Generic[Size]):
    """Bytes that one or several values share.

    Attributes:
        values: The values, the one that was made first in front.
        size: Bytes.
        producer: Index of the op that makes it, -1 for an input.
        readers: Indices of the ops that read any of its values, views of it included.
        stays: Whether it is needed after the last op.
        lazy: Whether its op is best run right before its first reader.
    """

    values: list[Value]
    size: Size
    producer: int
    readers: list[int]
    stays: bool = False
    lazy: bool = False


@dataclass(frozen=True, slots=True)
class Buffers(Generic[Size]):
    """Buffers of a program and how its ops use them; indices are places in `graph.ops`.

    Attributes:
        items: Every buffer that counts.
        reads: Op -> buffers that it reads, each once.
        makes: Op -> buffers that it makes; views make none.
        reuses: Op -> buffers whose bytes its first result may take when they die there.
        scratch: Op -> bytes it needs while it runs.
        needs: Op -> ops that must run before it.
        fixed: Bytes that are there all the time: weights, when they count.
    """

    items: Sequence[Buffer[Size]]
    reads: Sequence[tuple[int, ...]]
    makes: Sequence[tuple[int, ...]]
    reuses: Sequence[tuple[int, ...]]
    scratch: Sequence[Size]
    needs: Sequence[tuple[int, ...]]
    fixed: Size

    @property
    def lazy_ops(self) -> frozenset[int]:
        return frozenset(buffer.producer for buffer in self.items if buffer.lazy)


def buffers_of(graph: Graph, sizes: Mapping[str, int], accounting: Accounting) -> Buffers[int]:
    """Return the buffers of a program for given sizes of its symbols."""
    known: dict[Dim, int] = {}

    def number(size: Dim) -> int:
        if size not in known:
            known[size] = size.at(sizes)
        return known[size]

    return _buffers(graph, accounting, number, int.__eq__, 0)


def buffers_of_graph(graph: Graph, accounting: Accounting, equal: Callable[[Dim, Dim], bool]) -> Buffers[Dim]:
    """Return the buffers of a program with sizes as formulas; `equal` says which are proven equal."""
    return _buffers(graph, accounting, lambda size: size, equal, Dim.of(0))


def _buffers(
    graph: Graph,
    accounting: Accounting,
    sized: Callable[[Dim], Size],
    equal: Callable[[Size, Size], bool],
    zero: Size,
) -> Buffers[Size]:
    items: list[Buffer[Size]] = []
    of_value: dict[Value, int] = {}
    if accounting.inputs:
        for value in graph.inputs:
            of_value[value] = len(items)
            items.append(Buffer([value], sized(value.type.bytes), -1, []))
    fixed = zero
    if accounting.weights:
        for constant in graph.constants:
            fixed = fixed + sized(constant.type.bytes)
    made_by = {value: index for index, op in enumerate(graph.ops) for value in op.results}
    reads: list[tuple[int, ...]] = []
    makes: list[tuple[int, ...]] = []
    reuses: list[tuple[int, ...]] = []
    scratch: list[Size] = []
    for index, op in enumerate(graph.ops):
        found = lookup(op.kind)
        read = tuple(dict.fromkeys(of_value[value] for value in op.operands if value in of_value))
        for buffer in read:
            items[buffer].readers.append(index)
        scratch.append(sized(found.scratch_bytes(op)))
        made: list[int] = []
        if found.view and op.operands[0] in of_value:
            whole = of_value[op.operands[0]]
            items[whole].values.append(op.result)
            of_value[op.result] = whole
        elif not found.view:
            waits = any(value in made_by for value in op.operands)
            lazy = not read and not waits and len(op.results) == 1 and scratch[-1] == zero
            for value in op.results:
                of_value[value] = len(items)
                made.append(len(items))
                items.append(Buffer([value], sized(value.type.bytes), index, [], lazy=lazy))
        reads.append(read)
        makes.append(tuple(made))
        reuses.append(_reusable(op, found.in_place, made, of_value, items, equal) if accounting.in_place else ())
    for value in dict.fromkeys(graph.outputs):
        if value not in of_value:
            continue
        buffer = items[of_value[value]]
        if accounting.outputs or buffer.producer < 0:
            buffer.stays = True
        else:
            buffer.size = zero
    for buffer in items:
        if buffer.producer < 0 and not buffer.readers and not buffer.stays:
            buffer.size = zero  # nobody reads this input: the program does not need it
        buffer.lazy = buffer.lazy and bool(buffer.readers) and not buffer.stays
    needs = [tuple(dict.fromkeys(made_by[value] for value in op.operands if value in made_by)) for op in graph.ops]
    return Buffers(items, reads, makes, reuses, scratch, needs, fixed)


def _reusable(
    op: Op,
    in_place: Sequence[int],
    made: Sequence[int],
    of_value: Mapping[Value, int],
    items: Sequence[Buffer[Size]],
    equal: Callable[[Size, Size], bool],
) -> tuple[int, ...]:
    # Only bytes of the same number: what remained of a larger buffer would be nobody's.
    if not made:
        return ()
    size = items[made[0]].size
    found: list[int] = []
    for place in in_place:
        buffer = of_value.get(op.operands[place]) if place < len(op.operands) else None
        if buffer is not None and buffer not in found and equal(items[buffer].size, size):
            found.append(buffer)
    return tuple(found)

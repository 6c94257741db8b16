"""Slots for programs whose sizes are not known: each slot is as large as the largest of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.memory.buffers import Accounting, Buffer, buffers_of_graph
from mlsysopt.graph.memory.liveness import check_order, walk, with_lazy
from mlsysopt.graph.memory.typical import typical_sizes
from mlsysopt.graph.symbolic import Dim, maximum

__all__ = ["Slots", "slots"]

# Two buffers of unproven order share a slot when neither is likely to be twice the other.
_ALIKE = 2.0


@dataclass(frozen=True, slots=True)
class Slots:
    """An assignment of buffers to slots.

    Attributes:
        sizes: Bytes of each slot, a formula; members that are proven to be smaller are left out of it.
        members: Names of the values in each slot, in the order in which they live there.
        of: Value -> slot.
    """

    sizes: tuple[Dim, ...]
    members: tuple[tuple[str, ...], ...]
    of: Mapping[str, int]

    @property
    def total(self) -> Dim:
        """Bytes of all slots, a formula."""
        return sum(self.sizes, Dim.of(0))

    def __str__(self) -> str:
        rows = [
            f"slot {i}: {size} B for {', '.join(names)}"
            for i, (size, names) in enumerate(zip(self.sizes, self.members, strict=True))
        ]
        return "\n".join([*rows, f"total: {self.total} B"])


@dataclass(slots=True)
class _Slot:
    size: Dim
    typical: int
    free_from: int
    members: list[str]


def slots(graph: Graph, order: Sequence[int] | None = None, accounting: Accounting | None = None) -> Slots:
    """Colour the lifetimes of buffers: a slot is taken again when its size is proven or likely to fit.

    Args:
        graph: The program.
        order: Order of the ops; None takes the one in which they stand.
        accounting: What counts; a buffer that is taken over in place keeps its slot.
    """
    facts = graph.facts
    buffers = buffers_of_graph(graph, accounting or Accounting(), lambda a, b: facts.eq(a, b) is Answer.YES)
    steps = with_lazy(buffers, range(len(graph.ops))) if order is None else check_order(buffers, order)
    typical = typical_sizes(facts, graph.symbols)
    lives = walk(buffers, steps)
    first = [max(step, 0) for step in lives.first]
    found: list[_Slot] = []
    of: dict[str, int] = {}
    slot_of: dict[int, int] = {}
    for i in sorted(range(len(buffers.items)), key=lambda i: (first[i], -buffers.items[i].size.at(typical))):
        buffer = buffers.items[i]
        usual = buffer.size.at(typical)
        taken = lives.taken.get(i)
        place = slot_of[taken] if taken is not None else _fitting(found, buffer, usual, first[i], facts)
        if place is None:
            place = len(found)
            found.append(_Slot(buffer.size, usual, 0, []))
        slot_of[i] = place
        slot = found[place]
        if facts.le(buffer.size, slot.size) is not Answer.YES:
            slot.size = (
                buffer.size if facts.le(slot.size, buffer.size) is Answer.YES else maximum(slot.size, buffer.size)
            )
            slot.typical = max(slot.typical, usual)
        slot.free_from = lives.last[i] + 1
        for value in buffer.values:
            slot.members.append(value.name)
            of[value.name] = place
    return Slots(tuple(slot.size for slot in found), tuple(tuple(slot.members) for slot in found), of)


def _fitting(found: Sequence[_Slot], buffer: Buffer[Dim], usual: int, first: int, facts: Facts) -> int | None:
    able: list[tuple[int, int]] = []
    for place, slot in enumerate(found):
        if slot.free_from > first:
            continue
        large, small = max(slot.typical, usual, 1), max(1, min(slot.typical, usual))
        ordered = facts.le(buffer.size, slot.size) is Answer.YES or facts.le(slot.size, buffer.size) is Answer.YES
        if ordered or large / small < _ALIKE:
            able.append((abs(slot.typical - usual), place))
    return min(able)[1] if able else None

"""Peak memory as a formula of the symbols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.memory.buffers import Accounting, buffers_of_graph
from mlsysopt.graph.memory.liveness import check_order, walk, with_lazy
from mlsysopt.graph.memory.typical import typical_sizes
from mlsysopt.graph.symbolic import Dim, maximum

__all__ = ["Peak", "peak"]

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest of several formulas: live bytes at the steps that may be the peak.

    Attributes:
        candidates: Formulas none of which is proven to be at most another one.
        ops: Name of an op at each of them.
        accounting: What was counted.
    """

    candidates: tuple[Dim, ...]
    ops: tuple[str, ...]
    accounting: Accounting

    @property
    def formula(self) -> Dim:
        """The peak in bytes as one size."""
        return maximum(*self.candidates)

    def at(self, values: Mapping[str, int] | None = None, /, **sizes: int) -> int:
        """Return the peak in bytes for given sizes."""
        return max(candidate.at(values, **sizes) for candidate in self.candidates)

    def __str__(self) -> str:
        if len(self.candidates) == 1:
            return f"{self.candidates[0]} B at {self.ops[0]} ({self.accounting})"
        shown = [f"{size} at {op}" for size, op in zip(self.candidates, self.ops, strict=True)][:_SHOWN]
        more = [f"{len(self.candidates) - _SHOWN} more"] if len(self.candidates) > _SHOWN else []
        return f"max of {', '.join([*shown, *more])} B ({self.accounting})"


def peak(graph: Graph, order: Sequence[int] | None = None, accounting: Accounting | None = None) -> Peak:
    """Return the peak memory of an order of the ops, a formula of the symbols.

    An operand's bytes are taken over in place where the facts prove that both have one size.

    Args:
        graph: The program.
        order: Indices into `graph.ops`; None takes the order in which they stand.
        accounting: What counts.
    """
    counted = accounting or Accounting()
    facts = graph.facts
    buffers = buffers_of_graph(graph, counted, lambda a, b: facts.eq(a, b) is Answer.YES)
    steps = with_lazy(buffers, range(len(graph.ops))) if order is None else check_order(buffers, order)
    live = walk(buffers, steps).live
    if not live:
        standing = sum((one.size for one in buffers.items if one.producer < 0), buffers.fixed)
        return Peak((standing,), ("",), counted)
    first: dict[Dim, str] = {}
    for step, size in zip(steps, live, strict=True):
        first.setdefault(size, graph.ops[step].name)
    kept = _largest(list(first), facts)
    return Peak(tuple(kept), tuple(first[size] for size in kept), counted)


def _largest(sizes: list[Dim], facts: Facts) -> list[Dim]:
    """Drop every formula that is proven to be at most another one."""
    # Large ones first, by their value at sizes that are typical: they are the ones that cover others.
    typical = typical_sizes(facts, {name for size in sizes for name in size.symbols})
    ordered = sorted(sizes, key=lambda size: size.at(typical), reverse=True)
    kept: list[Dim] = []
    for size in ordered:
        if not any(facts.le(size, other) is Answer.YES for other in kept):
            kept = [other for other in kept if facts.le(other, size) is not Answer.YES]
            kept.append(size)
    return kept

"""Live bytes at each step of an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.memory.buffers import Accounting, Buffers, Size, buffers_of

__all__ = ["Accounting", "Profile", "Walk", "check_order", "profile", "walk", "with_lazy"]


@dataclass(frozen=True, slots=True)
class Profile:
    """Live bytes over time.

    Attributes:
        order: Indices of ops, in the order in which they run.
        bytes: Live bytes while each of them runs, scratch included.
        peak_bytes: The largest.
        peak_op: Name of the op at the peak.
        accounting: What was counted.
    """

    order: tuple[int, ...]
    bytes: tuple[int, ...]
    peak_bytes: int
    peak_op: str
    accounting: Accounting


@dataclass(frozen=True, slots=True)
class Walk(Generic[Size]):
    """What an order makes of the buffers.

    Attributes:
        live: Bytes while each step runs, numbers or formulas as the buffers have them.
        first: Buffer -> step from which it is needed; -1 from the start.
        last: Buffer -> step after which it is free: 0 for an input that nobody reads, the number of
            steps when it stays.
        taken: Buffer -> buffer whose bytes it took over.
    """

    live: list[Size]
    first: list[int]
    last: list[int]
    taken: dict[int, int]


def profile(
    graph: Graph,
    order: Sequence[int] | None = None,
    accounting: Accounting | None = None,
    /,
    **sizes: int,
) -> Profile:
    """Return the live bytes of an order of the ops.

    Args:
        graph: The program.
        order: Indices into `graph.ops`; None takes the order in which they stand, each lazy op
            (a scalar, a ramp) moved to its first reader as every order of ours has it.
        accounting: What counts.
        sizes: Sizes of the symbols.
    """
    counted = accounting or Accounting()
    buffers = buffers_of(graph, sizes, counted)
    steps = with_lazy(buffers, range(len(graph.ops))) if order is None else check_order(buffers, order)
    found = walk(buffers, steps)
    top = max(range(len(found.live)), key=found.live.__getitem__) if found.live else -1
    name = graph.ops[steps[top]].name if top >= 0 else ""
    peak_bytes = found.live[top] if top >= 0 else buffers.fixed + sum(one.size for one in buffers.items)
    return Profile(tuple(steps), tuple(found.live), peak_bytes, name, counted)


def with_lazy(buffers: Buffers[Any], order: Sequence[int]) -> list[int]:
    """Return an order with each lazy op right before its first reader."""
    lazy = buffers.lazy_ops
    placed: set[int] = set()
    steps: list[int] = []
    for op in order:
        if op in lazy:
            continue
        for need in buffers.needs[op]:
            if need in lazy and need not in placed:
                placed.add(need)
                steps.append(need)
        steps.append(op)
    return steps


def check_order(buffers: Buffers[Any], order: Sequence[int]) -> list[int]:
    """Return the order as a list.

    Raises:
        UsageError: an op is missing, stands twice, or stands before one that it reads.
    """
    steps = list(order)
    if sorted(steps) != list(range(len(buffers.needs))):
        raise UsageError(f"an order holds each of the {len(buffers.needs)} ops once, got {len(steps)} indices")
    place = {op: step for step, op in enumerate(steps)}
    for op in steps:
        for need in buffers.needs[op]:
            if place[need] > place[op]:
                raise UsageError(
                    f"op {op} stands at step {place[op]}, before op {need} at {place[need]}, which it reads"
                )
    return steps


def walk(buffers: Buffers[Size], steps: Sequence[int]) -> Walk[Size]:
    """Run through an order and keep books."""
    items = buffers.items
    left = [len(buffer.readers) for buffer in items]
    first = [-1] * len(items)
    last = [len(steps) if buffer.stays else 0 for buffer in items]
    taken: dict[int, int] = {}
    live = buffers.fixed
    for buffer in items:
        if buffer.producer < 0:
            live = live + buffer.size
    while_running: list[Size] = []
    for step, op in enumerate(steps):
        dying = list[int]()
        for buffer in buffers.reads[op]:
            left[buffer] -= 1
            if not left[buffer] and not items[buffer].stays:
                dying.append(buffer)
        made = buffers.makes[op]
        for buffer in made:
            first[buffer] = step
            live = live + items[buffer].size
        reused = next((buffer for buffer in buffers.reuses[op] if buffer in dying), None)
        if reused is not None:
            taken[made[0]] = reused
            while_running.append(live - items[made[0]].size + buffers.scratch[op])
        else:
            while_running.append(live + buffers.scratch[op])
        for buffer in (*dying, *(one for one in made if not left[one] and not items[one].stays)):
            last[buffer] = step
            live = live - items[buffer].size
    return Walk(while_running, first, last, taken)

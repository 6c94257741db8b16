"""Where each buffer lies in one arena: offsets without overlap, as close to the peak as can be.

Buffers are rectangles of time and bytes. Several greedy packings are tried; when none meets the
lower bound (the largest sum of what is alive at one moment), CP-SAT looks for a better one.

References:
    E. Burke, G. Kendall, G. Whitwell, *A new placement heuristic for the orthogonal stock-cutting
    problem*, Operations Research 52(4), 2004 (best fit).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.memory.buffers import Accounting, buffers_of
from mlsysopt.graph.memory.liveness import check_order, walk, with_lazy

__all__ = ["Packing", "Rectangle", "offsets", "pack"]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Bytes that are needed for a while.

    Attributes:
        name: Value or op that they belong to.
        first: First step.
        last: Last step, inclusive.
        size: Bytes, rounded up to the alignment.
    """

    name: str
    first: int
    last: int
    size: int

    def overlaps(self, other: Rectangle) -> bool:
        """Whether both are needed at one step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Packing:
    """Offsets in one arena.

    Attributes:
        rectangles: What was packed; a buffer that was taken over in place is one with its heir.
        offsets: First byte of each.
        total_bytes: Size of the arena.
        lower_bytes: No packing is smaller.
        proof: "exact" when both are equal, else "bound".
        names: Value -> place in `rectangles`.
    """

    rectangles: tuple[Rectangle, ...]
    offsets: tuple[int, ...]
    total_bytes: int
    lower_bytes: int
    proof: Literal["exact", "bound"]
    names: Mapping[str, int]

    def offset(self, name: str) -> int:
        """Return the first byte of a value.

        Raises:
            UsageError: the value has no bytes of its own: an input or weight that was not counted.
        """
        if name not in self.names:
            raise UsageError(f"%{name} has no bytes in the arena: it is not counted, or no value of the program")
        return self.offsets[self.names[name]]

    def overlaps(self) -> list[tuple[str, str]]:
        """Return pairs that are needed at one step and share bytes: none, unless something is broken."""
        found: list[tuple[str, str]] = []
        by_start = sorted(range(len(self.rectangles)), key=lambda i: self.rectangles[i].first)
        for at, i in enumerate(by_start):
            a = self.rectangles[i]
            for j in by_start[at + 1 :]:
                b = self.rectangles[j]
                if b.first > a.last:
                    break
                if self.offsets[i] < self.offsets[j] + b.size and self.offsets[j] < self.offsets[i] + a.size:
                    found.append((a.name, b.name))
        return found


def offsets(
    graph: Graph,
    order: Sequence[int] | None = None,
    accounting: Accounting | None = None,
    /,
    *,
    align: int = 64,
    seconds: float = 5.0,
    **sizes: int,
) -> Packing:
    """Place every buffer of a program in one arena.

    Args:
        graph: The program.
        order: Order of the ops, e.g. `best_order(...).ops`; None takes the one in which they stand.
        accounting: What counts.
        align: Sizes and offsets are multiples of it.
        seconds: Time for CP-SAT when no greedy packing meets the lower bound; 0 leaves it out.
        sizes: Sizes of the symbols.
    """
    if align < 1:
        raise UsageError(f"align must be at least 1, got {align}")
    buffers = buffers_of(graph, sizes, accounting or Accounting())
    steps = with_lazy(buffers, range(len(graph.ops))) if order is None else check_order(buffers, order)
    found = walk(buffers, steps)
    heir = {old: new for new, old in found.taken.items()}
    rectangles: list[Rectangle] = []
    names: dict[str, int] = {}
    for i, buffer in enumerate(buffers.items):
        if i in found.taken:
            continue
        chain = [i]
        while chain[-1] in heir:
            chain.append(heir[chain[-1]])
        first, last = max(found.first[i], 0), found.last[chain[-1]]
        for one in chain:
            names.update((value.name, len(rectangles)) for value in buffers.items[one].values)
        rectangles.append(Rectangle(buffer.values[0].name, first, last, _round(buffer.size, align)))
    for step, op in enumerate(steps):
        if buffers.scratch[op]:
            name = f"{graph.ops[op].name}.scratch"
            rectangles.append(Rectangle(name, step, step, _round(buffers.scratch[op], align)))
    packed = pack(rectangles, seconds=seconds, align=align)
    return Packing(packed.rectangles, packed.offsets, packed.total_bytes, packed.lower_bytes, packed.proof, names)


def pack(rectangles: Sequence[Rectangle], *, seconds: float = 5.0, align: int = 1) -> Packing:
    """Place rectangles whose sizes are multiples of `align` without overlap, as low as possible."""
    bound = _bound(rectangles)
    best: list[int] = []
    total = -1
    for key in _ORDERS:
        placed = _best_fit(rectangles, sorted(range(len(rectangles)), key=lambda i: key(rectangles[i])))
        height = max((offset + r.size for offset, r in zip(placed, rectangles, strict=True)), default=0)
        if total < 0 or height < total:
            best, total = placed, height
        if total == bound:
            break
    if total > bound and seconds > 0:
        better = _solve(rectangles, best, bound, total, seconds, align)
        if better is not None:
            best = better
            total = max(offset + r.size for offset, r in zip(best, rectangles, strict=True))
    proof: Literal["exact", "bound"] = "exact" if total == bound else "bound"
    return Packing(
        tuple(rectangles), tuple(best), max(total, 0), bound, proof, {r.name: i for i, r in enumerate(rectangles)}
    )


# Orders in which the greedy packing takes the rectangles; each is best for some programs.
_ORDERS: tuple[Callable[[Rectangle], tuple[int, ...]], ...] = (
    lambda r: (-r.size, r.first),
    lambda r: (-r.size * (r.last - r.first + 1), r.first),
    lambda r: (r.first - r.last, -r.size),
    lambda r: (r.first, -r.size),
    lambda r: (-r.last, -r.size),
)


def _round(size: int, align: int) -> int:
    return -(-size // align) * align


def _bound(rectangles: Sequence[Rectangle]) -> int:
    changes: dict[int, int] = {}
    for r in rectangles:
        changes[r.first] = changes.get(r.first, 0) + r.size
        changes[r.last + 1] = changes.get(r.last + 1, 0) - r.size
    live = top = 0
    for step in sorted(changes):
        live += changes[step]
        top = max(top, live)
    return top


def _best_fit(rectangles: Sequence[Rectangle], order: Sequence[int]) -> list[int]:
    """Place each in the smallest gap that holds it, else on top of what it overlaps."""
    placed = [0] * len(rectangles)
    done: list[int] = []
    for i in order:
        r = rectangles[i]
        taken = sorted((placed[j], placed[j] + rectangles[j].size) for j in done if rectangles[j].overlaps(r))
        at, best, gap = 0, -1, -1
        for low, high in taken:
            room = low - at
            if room >= r.size and (gap < 0 or room < gap):
                best, gap = at, room
            at = max(at, high)
        placed[i] = best if best >= 0 else at
        done.append(i)
    return placed


def _solve(
    rectangles: Sequence[Rectangle], hint: Sequence[int], bound: int, total: int, seconds: float, align: int
) -> list[int] | None:
    """Ask CP-SAT for offsets below `total`; None when it finds none in time."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise MissingExtra.of("packing buffers beyond greedy", "graph") from None
    model = cp_model.CpModel()
    top = total // align - 1
    height = model.new_int_var(bound // align, top, "height")
    starts = list[cp_model.IntVar]()
    spans = list[cp_model.IntervalVar]()
    times = list[cp_model.IntervalVar]()
    for i, r in enumerate(rectangles):
        size = r.size // align
        start = model.new_int_var(0, max(0, top - size), f"at{i}")
        model.add(start + size <= height)
        model.add_hint(start, hint[i] // align)
        starts.append(start)
        if size:
            spans.append(model.new_fixed_size_interval_var(start, size, f"bytes{i}"))
            times.append(model.new_fixed_size_interval_var(r.first, r.last - r.first + 1, f"time{i}"))
    model.add_no_overlap_2d(spans, times)
    model.minimize(height)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [solver.value(start) * align for start in starts]

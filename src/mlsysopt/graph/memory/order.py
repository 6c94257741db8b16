"""The order of the ops with the smallest peak, with a proof or a bound.

Minimax search over sets of executed ops: the live bytes after a set do not depend on the order in
which it was executed, so the best way to a set is all that counts. Sets are expanded by the
smallest peak on the way to them; the first complete one is optimal, and when time runs out, the
peak of the set at hand is a lower bound for every order.

Three observations make it fast. An op that is ordered with respect to all others cuts the program:
the parts are solved alone. An op whose running does not exceed the peak so far and leaves no more
bytes than before is run at once: what it frees can only grow as others run, so no order is lost.
Lazy ops (see `buffers`) are not searched at all.

References:
    E. Liberis, L. Dudziak, N. Lane, *uNAS*, EuroMLSys 2021, section 4 (peak memory over orders).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlsysopt.graph.ir import Graph
from mlsysopt.graph.memory.buffers import Accounting, Buffers, buffers_of
from mlsysopt.graph.memory.liveness import walk, with_lazy

__all__ = ["Order", "best_order"]

_BEAM = 512
# Above so many ops a part is neither searched greedily nor by beam: both look at every op at every step.
_SEARCHED = 1200
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Order:
    """An order of the ops and what it costs.

    Attributes:
        ops: Indices into `graph.ops`, in the order in which they should run.
        peak_bytes: Peak of this order.
        default_bytes: Peak of the order in which the ops stand.
        lower_bytes: No order has a smaller peak.
        proof: "exact" when `peak_bytes == lower_bytes`, else "bound".
        accounting: What was counted.
    """

    ops: tuple[int, ...]
    peak_bytes: int
    default_bytes: int
    lower_bytes: int
    proof: Literal["exact", "bound"]
    accounting: Accounting

    @property
    def gap(self) -> float:
        """How far the peak may be above the optimum, relative to the lower bound; 0 when exact."""
        return self.peak_bytes / self.lower_bytes - 1.0 if self.lower_bytes else 0.0

    def __str__(self) -> str:
        word = "exact" if self.proof == "exact" else f"not proven optimal, at most {self.gap:.1%} above the best"
        ratio = self.default_bytes / self.peak_bytes if self.peak_bytes else 1.0
        return f"peak {self.peak_bytes} B, {ratio:.2f}x less than {self.default_bytes} B as given ({word})"


def best_order(graph: Graph, accounting: Accounting | None = None, /, *, seconds: float = 2.0, **sizes: int) -> Order:
    """Return the order of the ops with the smallest peak for given sizes.

    Args:
        graph: The program.
        accounting: What counts as memory.
        seconds: Time for each part of the program that is solved alone; beyond it a beam search
            answers, with the bound that was reached.
        sizes: Sizes of the symbols.
    """
    counted = accounting or Accounting()
    buffers = buffers_of(graph, sizes, counted)
    default = with_lazy(buffers, range(len(graph.ops)))
    default_peak = max(walk(buffers, default).live, default=_standing(buffers))
    order: list[int] = []
    lower = 0
    for part in _parts(buffers):
        solved, bound = _Part(buffers, part, order).solve(seconds)
        order += solved
        lower = max(lower, bound)
    steps = with_lazy(buffers, order)
    peak = max(walk(buffers, steps).live, default=_standing(buffers))
    if peak > default_peak:
        steps, peak = default, default_peak
    # An input that is there at the start counts even where no op runs beside it.
    lower = min(peak, max(lower, _standing(buffers) if not order else 0))
    return Order(tuple(steps), peak, default_peak, lower, "exact" if lower == peak else "bound", counted)


def _standing(buffers: Buffers[int]) -> int:
    return buffers.fixed + sum(buffer.size for buffer in buffers.items if buffer.producer < 0)


def _parts(buffers: Buffers[int]) -> list[list[int]]:
    """Cut the ops at those that are ordered with respect to all others.

    In an order in which the ops can run, `p` is one exactly when every op before it has a reader at
    or before `p`, and every op after it reads one at or after `p`.
    """
    lazy = buffers.lazy_ops
    ops = [op for op in range(len(buffers.needs)) if op not in lazy]
    place = {op: i for i, op in enumerate(ops)}
    first_reader = [_NEVER] * len(ops)
    last_need = [-1] * len(ops)
    for i, op in enumerate(ops):
        for need in buffers.needs[op]:
            if need in place:
                j = place[need]
                first_reader[j] = min(first_reader[j], i)
                last_need[i] = max(last_need[i], j)
    after = [_NEVER] * (len(ops) + 1)
    for i in range(len(ops) - 1, -1, -1):
        after[i] = min(after[i + 1], last_need[i])
    parts: list[list[int]] = []
    start, before = 0, -1
    for i in range(len(ops)):
        if before <= i and after[i + 1] >= i:
            parts.append(ops[start : i + 1])
            start = i + 1
        before = max(before, first_reader[i])
    if start < len(ops):
        parts.append(ops[start:])
    return parts


class _Part:
    """The ops between two cuts, with bit masks over them; everything before has run."""

    def __init__(self, buffers: Buffers[int], ops: Sequence[int], before: Sequence[int]) -> None:
        self.ops = list(ops)
        self.full = (1 << len(ops)) - 1
        place = {op: i for i, op in enumerate(self.ops)}
        done = set(before)
        self.needs = [sum(1 << place[need] for need in buffers.needs[op] if need in place) for op in self.ops]
        touched = dict.fromkeys(b for op in self.ops for b in (*buffers.reads[op], *buffers.makes[op]))
        local = {b: i for i, b in enumerate(touched)}
        self.size = [buffers.items[b].size for b in touched]
        self.readers = [sum(1 << place[r] for r in buffers.items[b].readers if r in place) for b in touched]
        # Needed beyond this part: a later reader, or the end.
        self.stays = [
            buffers.items[b].stays or any(r not in place and r not in done for r in buffers.items[b].readers)
            for b in touched
        ]
        started = [any(r in done for r in buffers.items[b].readers) for b in touched]
        self.lazy = [buffers.items[b].lazy and not begun for b, begun in zip(touched, started, strict=True)]
        self.reads = [tuple(local[b] for b in buffers.reads[op]) for op in self.ops]
        self.makes = [tuple(local[b] for b in buffers.makes[op]) for op in self.ops]
        self.reuses = [tuple(local[b] for b in buffers.reuses[op]) for op in self.ops]
        self.scratch = [buffers.scratch[op] for op in self.ops]
        self.base = self._live_before(buffers, done)

    def _live_before(self, buffers: Buffers[int], done: set[int]) -> int:
        live = buffers.fixed
        for buffer in buffers.items:
            if buffer.lazy:
                exists = any(reader in done for reader in buffer.readers)
            else:
                exists = buffer.producer < 0 or buffer.producer in done
            if exists and (buffer.stays or any(reader not in done for reader in buffer.readers)):
                live += buffer.size
        return live

    def step(self, mask: int, live: int, op: int) -> tuple[int, int]:
        """Return bytes while `op` runs after the set `mask`, and live bytes afterwards."""
        bit = 1 << op
        added = freed = 0
        reused = False
        for b in self.reads[op]:
            readers = self.readers[b]
            if self.lazy[b] and not readers & mask:
                added += self.size[b]
            if not self.stays[b] and readers & ~mask == bit:
                freed += self.size[b]
                if not reused and b in self.reuses[op]:
                    reused = True
        for b in self.makes[op]:
            added += self.size[b]
            if not self.stays[b] and not self.readers[b]:
                freed += self.size[b]
        running = live + added + self.scratch[op]
        if reused:
            running -= self.size[self.makes[op][0]]
        return running, live + added - freed

    def solve(self, seconds: float) -> tuple[list[int], int]:
        """Return the ops in the best order found, and a lower bound for the peak."""
        if len(self.ops) == 1:
            return self.ops, self.step(0, self.base, 0)[0]
        deadline = time.monotonic() + seconds
        large = len(self.ops) > _SEARCHED
        greedy, incumbent = self._as_given() if large else self._beam(1)
        # (peak, -executed, set): among equal peaks the deepest first.
        heap: list[tuple[int, int, int]] = []
        came: dict[int, tuple[int, tuple[int, ...]]] = {}
        lives: dict[int, int] = {}
        self._push(heap, came, lives, -1, (), 0, self.base, 0)
        visited = 0
        while heap:
            peak, _, mask = heapq.heappop(heap)
            if mask == self.full:
                return self._path(came, mask), peak
            if peak >= incumbent:
                break
            visited += 1
            if visited % 256 == 0 and time.monotonic() > deadline:
                beam, found = (greedy, incumbent) if large else self._beam(_BEAM)
                return (beam if found < incumbent else greedy), peak
            live = lives[mask]
            for op in self._ready(mask):
                running, after = self.step(mask, live, op)
                top = running if running > peak else peak
                if top < incumbent:
                    self._push(heap, came, lives, mask, (op,), mask | 1 << op, after, top)
        return greedy, incumbent

    def _push(
        self,
        heap: list[tuple[int, int, int]],
        came: dict[int, tuple[int, tuple[int, ...]]],
        lives: dict[int, int],
        origin: int,
        path: tuple[int, ...],
        mask: int,
        live: int,
        peak: int,
    ) -> None:
        mask, live, forced = self._forced(mask, live, peak)
        if mask in came and came[mask][0] <= peak:
            return
        lives[mask] = live
        came[mask] = (peak, (origin, *path, *forced))
        heapq.heappush(heap, (peak, -mask.bit_count(), mask))

    def _forced(self, mask: int, live: int, peak: int) -> tuple[int, int, list[int]]:
        """Run every ready op that neither exceeds the peak nor leaves more bytes than before."""
        forced: list[int] = []
        again = True
        while again:
            again = False
            for op in self._ready(mask):
                running, after = self.step(mask, live, op)
                if running <= peak and after <= live:
                    mask, live, again = mask | 1 << op, after, True
                    forced.append(op)
                    break
        return mask, live, forced

    def _ready(self, mask: int) -> list[int]:
        needs = self.needs
        return [op for op in range(len(needs)) if not mask >> op & 1 and needs[op] & mask == needs[op]]

    def _path(self, came: dict[int, tuple[int, tuple[int, ...]]], mask: int) -> list[int]:
        backwards: list[tuple[int, ...]] = []
        while mask >= 0:
            _, (origin, *ops) = came[mask]
            backwards.append(tuple(ops))
            mask = origin
        return [self.ops[op] for ops in reversed(backwards) for op in ops]

    def _as_given(self) -> tuple[list[int], int]:
        mask, live, peak = 0, self.base, 0
        for op in range(len(self.ops)):
            running, live = self.step(mask, live, op)
            mask, peak = mask | 1 << op, max(peak, running)
        return self.ops, peak

    def _beam(self, width: int) -> tuple[list[int], int]:
        """Return an order and its peak by keeping the best `width` sets of each size."""
        level: dict[int, tuple[int, int]] = {0: (0, self.base)}
        trail: list[dict[int, tuple[int, int]]] = []
        for _ in self.ops:
            found: dict[int, tuple[int, int, int, int]] = {}
            for mask, (peak, live) in level.items():
                for op in self._ready(mask):
                    running, after = self.step(mask, live, op)
                    entry = (max(peak, running), after, mask, op)
                    known = found.get(mask | 1 << op)
                    if known is None or entry[:2] < known[:2]:
                        found[mask | 1 << op] = entry
            best = heapq.nsmallest(width, found.items(), key=lambda item: item[1][:2])
            trail.append({mask: (origin, op) for mask, (_, _, origin, op) in best})
            level = {mask: (peak, live) for mask, (peak, live, _, _) in best}
        backwards: list[int] = []
        mask = self.full
        for steps in reversed(trail):
            mask, op = steps[mask]
            backwards.append(self.ops[op])
        return backwards[::-1], level[self.full][0]

"""A table that goes on learning: now and then a call runs both candidates, and twenty such pairs may move a threshold.

One call in 500 pays for the comparison; a cell of the grid that was judged once stays as it is, so the table is at
most as long as the grid.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from dataclasses import replace

from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats.sequential import SequentialRule, Standing

__all__ = ["EVERY", "PAIRS", "Refiner"]

EVERY = 500
PAIRS = 20


class Refiner:
    """What a table has learned from calls since it was made.

    `due` says whether a call should run a second variant, `record` takes both times. Threads may call at once.

    Args:
        decision: The table to begin with.
        rows: Grid of row counts; a verdict holds for one cell, from a point up to the next.
        every: One call in how many is compared.
        alpha: Error rate of one verdict.

    >>> refiner = Refiner(Decision((Segment(1, "aten.nt", runner_up="panel.f32"),)), rows=(1, 8, 64), every=1)
    >>> for _ in range(20):
    ...     challenger = refiner.due(10)
    ...     refiner.record(10, "aten.nt", challenger, seconds=2.0, challenger_seconds=1.0)
    >>> refiner.decision.at(7), refiner.decision.at(8), refiner.decision.at(63), refiner.decision.at(64)
    ('aten.nt', 'panel.f32', 'panel.f32', 'aten.nt')
    """

    def __init__(self, decision: Decision, rows: tuple[int, ...], *, every: int = EVERY, alpha: float = 0.01) -> None:
        if every < 1:
            raise UsageError(f"every must be at least 1, got {every}")
        self.decision = decision
        self.rows, self.every = rows, every
        # One look at a fixed number of pairs: with a look after each pair, noise alone would move a threshold.
        self.rule = SequentialRule.for_looks((PAIRS,), alpha)
        self.calls = 0
        self.pairs: dict[tuple[int, str, str], list[float]] = {}
        self.judged: set[tuple[int, str, str]] = set()
        self.lock = threading.Lock()

    def due(self, rows: int) -> str | None:
        """Count a call and return the variant that it should run as well, None for most calls.

        The challenger is the variant beyond the nearest threshold when that one lies next to the cell of these
        rows, else the runner-up of their segment.
        """
        self.calls += 1
        if self.calls % self.every:
            return None
        decision, cell = self.decision, self._cell(rows)
        place = decision.index(rows)
        own = decision.segments[place]
        for name in (*self._beyond(decision, place, cell), own.runner_up):
            if name and name != own.variant and (cell, own.variant, name) not in self.judged:
                return name
        return None

    def record(self, rows: int, variant: str, challenger: str, *, seconds: float, challenger_seconds: float) -> None:
        """Take the times of one call; a clear verdict changes `decision` for the cell of these rows."""
        if not (seconds > 0 and challenger_seconds > 0):
            return
        key = (self._cell(rows), variant, challenger)
        with self.lock:
            if key in self.judged:
                return
            logs = self.pairs.setdefault(key, [])
            logs.append(math.log(challenger_seconds) - math.log(seconds))
            if len(logs) < PAIRS:
                return
            standing = self.rule.standing(logs)
            self.judged.add(key)
            del self.pairs[key]
            if standing.decided and standing.high < 0:
                self.decision = self._moved(rows, challenger, standing)

    def _cell(self, rows: int) -> int:
        return max(bisect_right(self.rows, rows) - 1, 0)

    def _ends(self, cell: int) -> tuple[int, int | None]:
        """Return the first number of rows of a cell and the first one after it, None for the last cell."""
        first = 1 if cell == 0 else self.rows[cell]
        return first, self.rows[cell + 1] if cell + 1 < len(self.rows) else None

    def _beyond(self, decision: Decision, place: int, cell: int) -> list[str]:
        first, after = self._ends(cell)
        segments = decision.segments
        names: list[str] = []
        if place and segments[place].first >= first:
            names.append(segments[place - 1].variant)
        if after is not None and place + 1 < len(segments) and segments[place + 1].first <= after:
            names.append(segments[place + 1].variant)
        return names

    def _moved(self, rows: int, winner: str, standing: Standing) -> Decision:
        """Return the table in which the cell of these rows goes to another variant; equal neighbours become one."""
        old = self.decision
        first, after = self._ends(self._cell(rows))
        loser = old.segments[old.index(rows)]
        slow, fast = math.exp(-standing.high), math.exp(-standing.low)
        middle = math.sqrt(slow * fast)
        fresh = replace(
            loser,
            first=first,
            variant=winner,
            gain=loser.gain * middle,
            low=loser.low * slow,
            high=loser.high * fast,
            source="measured",
            seconds=loser.seconds / middle,
            runner_up=loser.variant,
        )
        found = [*(one for one in old.segments if one.first < first), fresh]
        if after is not None:
            found.append(replace(old.segments[old.index(after)], first=after))
            found += [one for one in old.segments if one.first > after]
        merged: list[Segment] = []
        for one in found:
            if not merged or merged[-1].variant != one.variant:
                merged.append(one)
        return Decision(tuple(merged))

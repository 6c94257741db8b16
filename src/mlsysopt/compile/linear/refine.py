"""A table that goes on learning: now and then a call runs both candidates, and twenty such pairs may move a threshold.

One call in 500 pays for the comparison; what was judged once in a cell of the grid stays as it is, so that learning
ends, and the table has no more thresholds than it had and the grid has points.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlsysopt.compile.linear.segments import BASELINE
from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats.sequential import SequentialRule

__all__ = ["BACKGROUND", "EVERY", "OFF", "PAIRS", "Refiner", "Verdict"]

OFF, BACKGROUND = "off", "background"
EVERY = 500
PAIRS = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pairs of one cell have shown.

    Attributes:
        rows: Rows of the last call.
        first, after: First rows of the cell and the first ones behind it, None for the last cell.
        variant, challenger: What ran there, and what was tried.
        low, high: Interval of log(time of the challenger / time of the variant).
    """

    rows: int
    first: int
    after: int | None
    variant: str
    challenger: str
    low: float
    high: float

    @property
    def faster(self) -> bool:
        """Whether the challenger is proven faster."""
        return self.high < 0


class Refiner:
    """What a table has learned from calls since it was made.

    `due` says whether a call should run a second variant, `record` takes both times. Threads may call at once.

    Args:
        decision: The table to begin with.
        rows: Grid of row counts; a verdict holds within one cell, from a point up to the next.
        able: Variants that may be tried; None means all that the table names.
        every: One call in how many is compared.
        alpha: Error rate of one verdict.
        tell: Called after each verdict. Copies and pickles go without it.

    >>> refiner = Refiner(Decision((Segment(1, "aten.nt", runner_up="panel.f32"),)), rows=(1, 8, 64), every=1)
    >>> for _ in range(20):
    ...     challenger = refiner.due(10)
    ...     refiner.record(10, "aten.nt", challenger, seconds=2.0, challenger_seconds=1.0)
    >>> refiner.decision.at(7), refiner.decision.at(8), refiner.decision.at(63), refiner.decision.at(64)
    ('aten.nt', 'panel.f32', 'panel.f32', 'aten.nt')
    """

    def __init__(
        self,
        decision: Decision,
        rows: tuple[int, ...],
        *,
        able: Sequence[str] | None = None,
        every: int = EVERY,
        alpha: float = 0.01,
        tell: Callable[[Refiner], None] | None = None,
    ) -> None:
        if every < 1:
            raise UsageError(f"every must be at least 1, got {every}")
        self.decision = decision
        self.rows, self.every, self.tell = rows, every, tell
        named = (*decision.variants, *(one.runner_up for one in decision.segments if one.runner_up))
        self.able = tuple(dict.fromkeys(named if able is None else able))
        # One look at a fixed number of pairs: with a look after each pair, noise alone would move a threshold.
        self.rule = SequentialRule.for_looks((PAIRS,), alpha)
        self.calls = 0
        self.moved = 0
        self.pairs: dict[tuple[int, str, str], list[float]] = {}
        self.judged: set[tuple[int, str, str]] = set()
        self.verdicts: list[Verdict] = []
        self.lock = threading.Lock()

    def due(self, rows: int) -> str | None:
        """Count a call and return the variant that it should run as well, None for most calls.

        The challenger is the variant beyond the nearest threshold when that one lies next to the cell of these
        rows, else the runner-up of their segment, else another that may be tried.
        """
        self.calls += 1
        if self.calls % self.every:
            return None
        decision, cell = self.decision, self._cell(rows)
        place = decision.index(rows)
        own = decision.segments[place]
        for name in (*self._beyond(decision, place, cell), own.runner_up, *self.able):
            if name in self.able and name != own.variant and (cell, own.variant, name) not in self.judged:
                return name
        return None

    def first_of(self, rows: int, variant: str, challenger: str) -> str:
        """Return which of both runs first: the other one than last time, as the second finds x in the cache."""
        taken = len(self.pairs.get((self._cell(rows), variant, challenger), ()))
        return challenger if taken % 2 else variant

    def record(self, rows: int, variant: str, challenger: str, *, seconds: float, challenger_seconds: float) -> None:
        """Take the times of one call; a clear verdict changes `decision` within the cell of these rows."""
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
            del self.pairs[key]
            self._judge(Verdict(rows, *self._ends(key[0]), variant, challenger, standing.low, standing.high))
        if self.tell is not None:
            self.tell(self)

    def recall(self, verdicts: Iterable[Verdict]) -> None:
        """Take over what was judged before; what was about another grid or another table changes nothing."""
        with self.lock:
            for one in verdicts:
                known = (one.first, one.after) == self._ends(self._cell(one.rows))
                if known and {one.variant, one.challenger} <= set(self.able):
                    self._judge(one)

    def _judge(self, verdict: Verdict) -> None:
        self.judged.add((self._cell(verdict.rows), verdict.variant, verdict.challenger))
        self.verdicts.append(verdict)
        # Meanwhile another comparison may have given the cell to somebody else.
        if verdict.faster and self.decision.at(verdict.rows) == verdict.variant:
            self.decision = self._changed(verdict)
            self.moved += 1

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

    def _changed(self, verdict: Verdict) -> Decision:
        """Return the table in which the challenger has those rows of the cell in which the other one ran.

        Equal neighbours become one.
        """
        old, place = self.decision, self.decision.index(verdict.rows)
        loser, behind = old.segments[place], old.segments[place + 1 : place + 2]
        first = max(verdict.first, loser.first)
        after = min([one for one in (verdict.after, *(one.first for one in behind)) if one is not None], default=None)
        slow, fast = math.exp(-verdict.high), math.exp(-verdict.low)
        middle = math.sqrt(slow * fast)
        gains = loser.gain * middle, loser.low * slow, loser.high * fast
        gain, low, high = (1.0, 1.0, 1.0) if verdict.challenger == BASELINE else gains
        fresh = replace(
            loser,
            first=first,
            variant=verdict.challenger,
            gain=gain,
            low=low,
            high=high,
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

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("lock", "tell")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock(), tell=None)

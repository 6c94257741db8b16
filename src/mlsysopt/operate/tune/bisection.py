"""Where one side of a range ends: outward by growing steps, then bisection, then two checks.

A search here is a generator that asks for values and is told what came of them. It remembers nothing
else, so it can be run again from the start with what is known: results that turned out to be void are
simply left out.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mlsysopt.core.space import Float, Int

__all__ = ["Ask", "End", "Line", "Phase", "Verdict", "replay", "search"]

Phase = Literal["start", "outward", "choice", "bisection", "check"]

# Ratios to the default; the next one would be the span.
_FACTORS = (4.0, 16.0, 256.0, 2.0**16)
_CLOSE_RATIO = 1.5
_CLOSE_SHARE = 1 / 16
_FIRST_SHARE = 0.25
_BESIDE = 0.05
# A factor of four, in steps of the bisection: no server has a hole in so narrow a gap.
_WORTH_A_CHECK = 3.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one probe of one value said.

    Attributes:
        ok: Whether the system started with exactly this value.
        kind: Kind of the failure, "" when it started.
        message: What the system said.
        used: What the system used instead.
        stated: Bounds that the message states.
    """

    ok: bool
    kind: str = ""
    message: str = ""
    used: float | None = None
    stated: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A value that has to be tried next.

    Attributes:
        good: The outermost value so far that starts.
        bad: The innermost value so far that does not; None while there is none.
        width: How far apart they are, in steps of the bisection.
        why: What was said of `bad`.
        end: What is left to be confirmed, in a check.
    """

    value: float
    phase: Phase
    good: float
    bad: float | None = None
    width: float = 0.0
    why: Verdict | None = None
    end: End | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Where a side ends.

    Attributes:
        value: The outermost value that starts.
        origin: What ended it: "refused", "timeout", "server message", or the origin of the limit.
        message: What the system said there.
        refused: The innermost value that does not start; None where the limit itself does.
        contradiction: Why this is no end of an interval, "" where it is one.
        start: Where a search that contradicted itself had started.
    """

    value: float
    origin: str
    message: str = ""
    refused: float | None = None
    contradiction: str = ""
    start: float = 0.0


class Line:
    """The values of a number, by ratios or by differences.

    Args:
        parameter: Its range.
        grain: The smallest step that the system can tell apart.
    """

    def __init__(self, parameter: Int | Float, grain: int = 1) -> None:
        self._parameter, self._grain = parameter, grain
        self.log = parameter.log

    def snap(self, value: float) -> float:
        """Return the allowed value next to any."""
        one = self._parameter
        if isinstance(one, Float):
            # Systems print about six digits; more would look like a correction.
            return one.nearest(float(f"{value:.6g}"))
        whole = round(value / self._grain) * self._grain if one.log else round(value)
        return min(max(whole, one.low), one.high) if one.log else one.nearest(whole)

    def inward(self, value: float, end: float) -> float:
        """Return an end on the grid, not beyond `value`."""
        found = self.snap(value)
        if found > value >= end and isinstance(self._parameter, Int):
            return max(found - max(self._grain, self._parameter.step), end)
        return found

    def between(self, a: float, b: float) -> float | None:
        """Return a value in the middle of two; None where there is none between them."""
        middle = self.snap(math.sqrt(a) * math.sqrt(b) if self.log else (a + b) / 2)
        return middle if min(a, b) < middle < max(a, b) else None

    def width(self, a: float, b: float) -> float:
        """Return the distance of two values; at most 1 is close enough."""
        low, high = min(a, b), max(a, b)
        if self.log:
            return math.log(high / low) / math.log(_CLOSE_RATIO)
        return (high - low) / (_CLOSE_SHARE * (self._parameter.high - self._parameter.low))

    def close(self, a: float, b: float) -> bool:
        """Whether an end between two values needs no further search."""
        return self.width(a, b) <= 1.0 or self.between(a, b) is None

    def outward(self, start: float, end: float) -> list[float]:
        """Return the values to try from a start to an end, which is the last one."""
        if start == end:
            return []
        if self.log:
            steps = [start * factor if end > start else start / factor for factor in _FACTORS]
        else:
            steps = [start + _FIRST_SHARE * (end - start)]
        low, high = min(start, end), max(start, end)
        snapped = [self.snap(step) for step in steps if low < step < high]
        kept = [step for step in snapped if low < step < high and self.width(step, end) > 1.0]
        return [*dict.fromkeys(kept), end]

    def beside(self, bad: float, good: float, end: float) -> float | None:
        """Return a value that ought to fare like `bad`: a little beyond it, or short of it where nothing is."""
        for share in (_BESIDE, -_BESIDE):
            away = 1.0 if bad > good else -1.0
            if self.log:
                value = self.snap(bad * (1 + share) ** away)
            else:
                value = self.snap(bad + away * share * _CLOSE_SHARE * (self._parameter.high - self._parameter.low))
            if value != bad and (good < value <= end if bad > good else end <= value < good):
                return value
        return None

    def told(self, verdict: Verdict, good: float, bad: float) -> float | None:
        """Return where the system says that the side ends: from `good`, which may be it, to short of `bad`."""
        up = bad > good
        given = verdict.used
        if verdict.stated is not None:
            given = verdict.stated[1] if up else verdict.stated[0]
        if given is None or not (good <= given < bad if up else bad < given <= good):
            return None
        return given


def search(line: Line, start: float, end: float, origin: str) -> Generator[Ask, Verdict, End]:
    """Search one side of a range.

    Args:
        line: The values.
        start: One that is known to start.
        end: The last one that may be tried, above or below `start`.
        origin: Who says that nothing beyond `end` may be tried.
    """
    good, bads, told = [start], list[tuple[float, Verdict]](), None
    steps = line.outward(start, end)
    while True:
        while steps and not bads:
            value = steps.pop(0)
            one = yield Ask(value, "outward", good[-1], width=line.width(good[-1], end))
            if one.ok:
                good.append(value)
            else:
                bads.append((value, one))
        if not bads:
            break
        told = yield from _bisected(line, good, bads)
        bad, why = bads[-1]
        beside = line.beside(bad, good[-1], end) if why.kind == "timeout" else None
        if beside is None:
            break
        again = yield Ask(beside, "bisection", good[-1], bad, line.width(good[-1], bad), why)
        if not again.ok:
            break
        # It was not the value that took so long: the machine was busy.
        good = [*(one for one in good if abs(one - start) < abs(beside - start)), beside]
        bads = [one for one in bads if abs(one[0] - start) > abs(beside - start)]
        steps = [one for one in steps if abs(one - start) > abs(beside - start)]
    if bads:
        bad, why = bads[-1]
        ended_by = "server message" if told is not None else "timeout" if why.kind == "timeout" else "refused"
        found = End(good[-1], ended_by, why.message, bad)
    else:
        why = Verdict(True)
        found = End(good[-1], origin)
    first = bads[0][0] if bads else None
    contradiction = yield from _checked(line, good, first, end, found, why)
    if contradiction:
        return End(end, origin, found.message, found.refused, contradiction, start)
    return found


def _bisected(
    line: Line, good: list[float], bads: list[tuple[float, Verdict]]
) -> Generator[Ask, Verdict, float | None]:
    """Move the last good and the last bad value together; return where the system said that it ends, if it did."""
    while True:
        bad, why = bads[-1]
        told = line.told(why, good[-1], bad)
        if told == good[-1] or (told is None and line.close(good[-1], bad)):
            return told
        value = told if told is not None else line.between(good[-1], bad)
        assert value is not None
        one = yield Ask(value, "bisection", good[-1], bad, line.width(good[-1], bad), why)
        if not one.ok:
            bads.append((value, one))
            continue
        good.append(value)
        if value == told:
            return told


def _checked(
    line: Line, good: list[float], first: float | None, end: float, found: End, why: Verdict
) -> Generator[Ask, Verdict, str]:
    """Try one value inside and one outside; return what speaks against an interval.

    Args:
        good: What has started, outward.
        first: The outermost value that was refused.
        end: The last value that may be tried.
        found: What is to be confirmed.
        why: What was said of the innermost value that was refused.
    """
    bad = found.refused
    gaps = pairwise(good)
    a, b = max(gaps, key=lambda gap: line.width(*gap), default=(good[0], good[0]))
    inside = line.between(a, b) if line.width(a, b) > _WORTH_A_CHECK else None
    if inside is not None:
        verdict = yield Ask(inside, "check", good[-1], bad, end=found)
        if not verdict.ok:
            return f"{a} and {b} start, {inside} between them does not: {verdict.message or verdict.kind}"
    if bad is None or first is None:
        return ""
    if why.kind == "timeout":
        # Killing costs most, and the value beside it has been tried already.
        return ""
    outside = line.between(first, end) if line.width(first, end) > 1.0 else line.between(bad, first)
    if outside is not None:
        verdict = yield Ask(outside, "check", good[-1], bad, end=found)
        further = verdict.used is not None and line.told(verdict, bad, outside) is not None
        if verdict.ok or further:
            return f"{bad} does not start, {outside} beyond it does"
    return ""


def replay(asking: Generator[Ask, Verdict, End], tried: Mapping[float, Verdict]) -> Ask | End:
    """Run a search with what is known; return the first value that is not, or where it ends."""
    try:
        ask = next(asking)
        while ask.value in tried:
            ask = asking.send(tried[ask.value])
    except StopIteration as done:
        return done.value
    return ask

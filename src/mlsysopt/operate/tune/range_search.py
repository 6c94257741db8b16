"""The search for the range of one knob: what is known of it, what to try next, what a probe of it says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.core.space import Bool, Choice, Float, Int
from mlsysopt.core.target import Failure, Outcome
from mlsysopt.operate.tune.bisection import Ask, End, Line, Verdict, replay, search
from mlsysopt.operate.tune.knobs import SPAN
from mlsysopt.operate.tune.ranges import FoundBound, FoundSide

if TYPE_CHECKING:
    from mlsysopt.operate.tune.server_target import ServerTarget

__all__ = ["RangeSearch", "said"]

_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?: ?[A-Za-z0-9]+)?"
_STATED = [re.compile(pattern, re.IGNORECASE) for pattern in (
    rf"\({_NUMBER} ?\.\. ?{_NUMBER}\)", rf"between {_NUMBER} and {_NUMBER}", rf"in the range {_NUMBER} to {_NUMBER}",
)]  # fmt: skip
# Time and process in front of a line: they differ from one start to the next.
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d[ T][\d:.,]+( [A-Z]{3,5}| ?[+-]\d\d:?\d\d)? *)?(\[\d+\] *)?")


class RangeSearch:
    """The search for the range of one knob: what was tried, and what to try next."""

    def __init__(self, target: ServerTarget, name: str) -> None:
        self.name = name
        self.key = f"{target.range_key()} {name}"
        self.run = 0.0
        self.doubted: set[str] = set()
        self._tried: dict[Any, Verdict] = {}
        self._memory: dict[str, Ask | End] | None = None
        self._target, self._knob = target, target.catalogue.knobs[name]
        self._parameter = target.space()[name]
        self.live = self._knob.change == "live" and getattr(target.server, "set_live", None) is not None

    # --- what was tried --------------------------------------------------------------------------

    @property
    def tried(self) -> Mapping[Any, Verdict]:
        """Value -> what came of it."""
        return self._tried

    def learn(self, tried: Mapping[Any, Verdict]) -> None:
        """Take what probes said."""
        self._tried.update(tried)
        self._memory = None

    def forget(self, values: Iterable[Any]) -> None:
        """Drop what turned out to be void: it will be asked again."""
        for value in values:
            self._tried.pop(value, None)
        self._memory = None

    # --- what to try -----------------------------------------------------------------------------

    def asks(self) -> list[Ask]:
        """Return what can be tried now; empty at the end."""
        found = [Ask(value, "choice", value) for value in self._choices() if value not in self.tried]
        return [*(one for one in self._sides().values() if isinstance(one, Ask)), *found]

    def _choices(self) -> list[Any]:
        one = self._parameter
        values: Sequence[Any] = (
            (True, False) if isinstance(one, Bool) else one.choices if isinstance(one, Choice)
            else one.special if isinstance(one, Int | Float) else ()
        )  # fmt: skip
        return [value for value in values if value != one.default]

    def _sides(self) -> Mapping[str, Ask | End]:
        if self._memory is None:
            self._memory = self._searched()
        return self._memory

    def _searched(self) -> dict[str, Ask | End]:
        """Return what is to be tried at each end, or where it is; "start" where none is known to start."""
        if not isinstance(self._parameter, Int | Float):
            return {}
        line = Line(self._parameter, self._knob.scale if self._knob.kind == "int" else 1)
        limits = {side: self._limit(line, side) for side in ("low", "high")}
        start = self._start(line, limits["low"][0], limits["high"][0])
        if start is None or isinstance(start, Ask):
            return {} if start is None else {"start": start}
        sides: dict[str, Ask | End] = {}
        for side, (end, origin) in limits.items():
            # A default beyond the memory budget, say, is where its side ends.
            end = min(end, start) if side == "low" else max(end, start)
            sides[side] = replay(search(line, start, end, origin), self.tried)
        return sides

    def doubt(self) -> None:
        """Forget, once, what was refused on a side that contradicts itself: one bad moment looks the same."""
        for side, end in self._sides().items():
            if isinstance(end, End) and end.contradiction and side not in self.doubted:
                self.doubted.add(side)
                inner = end.start
                beyond = [value for value, one in self.tried.items()
                          if not one.ok and (value < inner if side == "low" else value > inner)]  # fmt: skip
                self.forget(beyond)

    def _limit(self, line: Line, side: str) -> tuple[float, str]:
        """Return the last value that may be tried, and who says so."""
        one = self._parameter
        assert isinstance(one, Int | Float)
        listed = self._knob.low if side == "low" else self._knob.high
        origin: str = one.low_origin if side == "low" else one.high_origin
        end: float = one.low if side == "low" else one.high
        # A listed end that no ratio reaches, such as 0 or infinity, was replaced by a span.
        if origin in ("declared", "metadata") and (listed is None or (isinstance(one, Float) and end != listed)):
            origin = "span"
        near = one.default if one.default is not None and one.default not in one.special else None
        if one.log and near is not None:
            span = line.snap(near / SPAN if side == "low" else near * SPAN)
            if (span > end) == (side == "low") and span != end:
                end, origin = span, "span"
        memory = line.inward(self._target.memory_bytes, one.low) if one.unit == "B" and self._knob.memory else end
        if side == "high" and memory < end:
            end, origin = memory, "memory budget"
        return end, origin

    def _start(self, line: Line, low: float, high: float) -> float | Ask | None:
        """Return a value of the range that starts, what to try for that, or None where none was found."""
        one = self._parameter
        assert isinstance(one, Int | Float)
        own = self._target.catalogue.from_native(self.name, self._knob.default)
        if one.default == own and one.default not in one.special:
            return own  # pyright: ignore[reportReturnType]
        middle = line.between(low, high)
        first = [one.default] if one.default is not None and one.default not in one.special else []
        quarters = [line.between(low, middle), line.between(middle, high)] if middle is not None else []
        options = [*first, middle, low, *quarters, high]
        options += [verdict.used for value in options if (verdict := self.tried.get(value)) is not None]
        for value in options:
            if value is None or one.fault(value) is not None or value in one.special:
                continue
            if value not in self.tried:
                return Ask(value, "start", value)
            if self.tried[value].ok:
                return value
        return None

    # --- what came of it -------------------------------------------------------------------------

    def verdict(self, value: Any, outcome: Outcome) -> Verdict:
        """Return what an outcome says about the value that was tried."""
        if not isinstance(outcome, Failure):
            return Verdict(True)
        catalogue = self._target.catalogue
        used = outcome.extra.get("corrected", {}).get(self.name)
        used = catalogue.from_native(self.name, used) if used is not None else None
        number = isinstance(self._parameter, Int | Float)
        return Verdict(
            False, outcome.kind, said(outcome),
            used if number and isinstance(used, int | float) else None,
            self._stated(value, outcome) if number else None,
        )  # fmt: skip

    def _stated(self, value: float, outcome: Failure) -> tuple[float, float] | None:
        """Return the bounds that a message states for this value, in the units of the space."""
        if self.name not in outcome.extra.get("named", (self.name,)):
            return None
        for text in (outcome.reason, *outcome.log_tail.splitlines()):
            for pattern in _STATED:
                match = pattern.search(text)
                if match is None:
                    continue
                kind = int if self._knob.kind == "int" else float
                low, high = (
                    self._target.catalogue.from_native(self.name, kind(float(word))) for word in match.groups()
                )
                assert isinstance(low, int | float) and isinstance(high, int | float)
                if low < high and not low <= value <= high:
                    return low, high
        return None

    def found(self) -> FoundBound:
        """Return what is known so far."""
        sides = self._sides()
        ends = {side: self._found_side(side, sides.get(side)) for side in ("low", "high")}
        refused = tuple(
            (value, self.tried[value].message or self.tried[value].kind)
            for value in self._choices()
            if value in self.tried and not self.tried[value].ok
        )
        number = isinstance(self._parameter, Int | Float)
        unit = self._parameter.unit if isinstance(self._parameter, Int | Float) else "choice"
        return FoundBound(
            self.name, ends["low"] if number else None, ends["high"] if number else None, refused,
            len(self.tried), unit, not self.asks(),
        )  # fmt: skip

    def _found_side(self, side: str, state: Ask | End | None) -> FoundSide | None:
        one = self._parameter
        if not isinstance(one, Int | Float):
            return None
        if isinstance(state, End):
            return FoundSide(state.value, state.origin, state.message, state.refused, contradiction=state.contradiction)
        own = (one.low, one.low_origin) if side == "low" else (one.high, one.high_origin)
        if state is None:
            # No value of the range is known to start.
            return None if "start" not in self._sides() else FoundSide(*own, state="untried")
        if state.end is not None:
            return FoundSide(state.end.value, state.end.origin, state.end.message, state.bad, "unchecked")
        if state.phase == "outward" and not self._moved(state, side):
            return FoundSide(*own, state="untried")
        if state.why is None:
            return FoundSide(state.good, "time", state="coarse")
        origin = "timeout" if state.why.kind == "timeout" else "refused"
        return FoundSide(state.good, origin, state.why.message, state.bad, "coarse")

    def _moved(self, ask: Ask, side: str) -> bool:
        """Whether a search outward has got anywhere."""
        return any(verdict.ok and (value <= ask.good if side == "low" else value >= ask.good)
                   for value, verdict in self.tried.items())  # fmt: skip


def said(failure: Failure) -> str:
    """Return the reason of a failure without what differs from one start to the next."""
    return _STAMP.sub("", failure.reason).removeprefix("FATAL:").strip()

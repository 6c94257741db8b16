"""What range discovery found: bounds with their origin, how they change a space, how a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.core.quantities import format_bytes, format_seconds
from mlsysopt.core.report.columns import aligned
from mlsysopt.core.space import Bool, Float, Int, Space
from mlsysopt.core.target import Value

if TYPE_CHECKING:
    from mlsysopt.operate.tune.server_target import ServerTarget

__all__ = ["Discovery", "FoundBound", "FoundSide", "narrowed"]

_WIDEST_MESSAGE = 52


@dataclass(frozen=True, slots=True)
class FoundSide:
    """One end of a range, in the units of the space.

    Attributes:
        value: The outermost value that may be used.
        origin: "metadata" (or whoever else said where the range ends), "server message", "refused", "timeout",
            "memory budget", "span", or "time" where it was up before anything was refused.
        message: What the server said beyond it.
        refused: The innermost value that does not start, None where there is none.
        state: "found"; before time was up: "unchecked", found but not confirmed; "coarse", the outermost value that
            started so far; "untried", as it was.
        contradiction: Why this is no end of an interval: the side then stays as it was.
    """

    value: float
    origin: str
    message: str = ""
    refused: float | None = None
    state: str = "found"
    contradiction: str = ""

    @property
    def applies(self) -> bool:
        """Whether the space should take it."""
        return self.state != "untried" and not self.contradiction

    def words(self) -> str:
        """Return why it ends here, for people."""
        if self.contradiction:
            return f"{self.origin}: not an interval"
        if self.state == "untried":
            return f"not tried ({self.origin})"
        words = f"{self.origin}: {self.message}" if self.message else self.origin
        if self.state != "found":
            words = f"{self.state}, {words}"
        return words if len(words) <= _WIDEST_MESSAGE else f"{words[: _WIDEST_MESSAGE - 3].rstrip()}..."


@dataclass(frozen=True, slots=True)
class FoundBound:
    """What was found for one knob.

    Attributes:
        low: Lower end; None for a switch or a choice, and where no value of the range starts.
        high: Upper end.
        refused: Choices and special values that do not start, each with what the server said.
        probes: Starts that this took, of any run that is remembered.
        unit: "B" for sizes.
        complete: Whether nothing is left to try.
    """

    name: str
    low: FoundSide | None = None
    high: FoundSide | None = None
    refused: tuple[tuple[Value, str], ...] = ()
    probes: int = 0
    unit: str = ""
    complete: bool = True

    @property
    def sides(self) -> Mapping[str, FoundSide]:
        """The ends that there are: "low", "high"."""
        both = {"low": self.low, "high": self.high}
        return {name: side for name, side in both.items() if side is not None}

    def shown(self, value: Value) -> str:
        """Return a value for people."""
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, str | tuple):
            return str(value)
        if self.unit == "B" and value > 0:
            return format_bytes(value)
        return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"

    def lines(self) -> list[str]:
        """Return what people must know about it beside its ends."""
        found = [f"{self.name}: {self.shown(value)} is refused: {said}" for value, said in self.refused]
        for name, side in self.sides.items():
            if side.contradiction:
                found.append(f"{self.name}: its {name} side is not an interval: {side.contradiction}")
        if self.low is None and self.high is None and self.unit != "choice":
            found.append(f"{self.name}: no value of its range was seen to start")
        for state, words in (("coarse", "coarse"), ("unchecked", "not checked"), ("untried", "not tried")):
            sides = [name for name, side in self.sides.items() if side.state == state]
            if sides:
                ends = "both ends are" if len(sides) == 2 else f"its {sides[0]} end is"
                found.append(f"{self.name}: {ends} {words}, time was up")
        return found


@dataclass(frozen=True, slots=True)
class Discovery:
    """The result of `discover`.

    Attributes:
        target: The target with the ranges that were found.
        found: Knob by knob.
        probes: Starts of this run.
        seconds: Elapsed seconds of this run, set-up included.
        voided: Probes that the machine had spoiled; they were repeated.
        complete: Whether every range was searched to its end.
        notes: What people must know, one line each.
    """

    target: ServerTarget
    found: tuple[FoundBound, ...]
    probes: int
    seconds: float
    voided: int = 0
    complete: bool = True
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Return a table for people."""
        header = ("knob", "low", "high", "probes", "low ends by", "high ends by")
        rows: list[Sequence[str]] = [header]
        for one in self.found:
            low, high = one.low, one.high
            rows.append(
                (
                    one.name,
                    one.shown(low.value) if low else "-",
                    one.shown(high.value) if high else "-",
                    str(one.probes),
                    low.words() if low else "-",
                    high.words() if high else "-",
                )
            )
        void = f", {self.voided} of them void and repeated" if self.voided else ""
        end = f"{self.probes} probes in {format_seconds(self.seconds)}{void}"
        return "\n".join(
            [*aligned(rows, right=(1, 2, 3)), "", *self.notes, end if self.complete else f"{end}; not complete"]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the same for machines."""

        def side(one: FoundSide | None) -> dict[str, Any] | None:
            if one is None:
                return None
            return {name: getattr(one, name) for name in FoundSide.__slots__}

        return {
            "target": self.target.name,
            "version": self.target.version,
            "knobs": [
                {
                    "name": one.name, "low": side(one.low), "high": side(one.high), "probes": one.probes,
                    "refused": [{"value": value, "message": said} for value, said in one.refused],
                    "complete": one.complete,
                }
                for one in self.found
            ],
            "probes": self.probes, "seconds": self.seconds, "voided": self.voided, "complete": self.complete,
            "notes": list(self.notes),
        }  # fmt: skip


def narrowed(space: Space, found: Iterable[FoundBound]) -> Space:
    """Return a space with the ranges that were found.

    A refused choice or special value becomes a constraint, not a shorter list: trials of an earlier run, in
    which it was a choice, stay readable.
    """
    for one in found:
        parameter = space[one.name]
        rules = [text for value, _ in one.refused if (text := excluded(one.name, value, parameter)) is not None]
        if rules:
            space = space.require(*rules, origin="discovered")
        if isinstance(parameter, Int | Float):
            low, high = _ends(parameter, one)
            if low is not None or high is not None:
                space = space.with_bounds(one.name, low, high, origin="discovered")
    return space


def excluded(name: str, value: Value, parameter: object) -> str | None:
    """Return the expression that keeps a value out; None where it is the default."""
    if value == getattr(parameter, "default", None):
        return None
    if isinstance(parameter, Bool):
        return f"not {name}" if value else name
    return f"{name} != {value!r}"


def _ends(parameter: Int | Float, one: FoundBound) -> tuple[Any, Any]:
    low = one.low.value if one.low is not None and one.low.applies else None
    high = one.high.value if one.high is not None and one.high.applies else None
    if (parameter.low if low is None else low) < (parameter.high if high is None else high):
        return low, high
    # Only one value starts, and a range needs two: the nearest refused one comes with it.
    if high is not None and one.high is not None and one.high.refused is not None:
        return low, one.high.refused
    if low is not None and one.low is not None and one.low.refused is not None:
        return one.low.refused, high
    return None, None


def notes_of(found: Sequence[FoundBound]) -> tuple[str, ...]:
    """Return all that people must know about them."""
    return tuple(line for one in found for line in one.lines())

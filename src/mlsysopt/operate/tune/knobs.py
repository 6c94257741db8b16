"""From the live server's list of knobs to a space: groups, fences, units, special values."""

from __future__ import annotations

import fnmatch
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mlsysopt.core.errors import SpaceError, UsageError, near_misses
from mlsysopt.core.space import Bool, Choice, Expression, Float, Int, Parameter, Space
from mlsysopt.core.target import Config, Value
from mlsysopt.operate.tune.server import Knob, Server

__all__ = ["SPAN", "Catalogue", "parameter_of"]

log = logging.getLogger("mlsysopt.tune")

SPAN = 2.0**20
"""How far from the default a range goes where nobody says where it ends."""

# Ranges wider than this are searched by ratios.
_LOG_RATIO = 64.0
_LARGEST_INT = 2**61


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All settings that a server listed, and what may be done with them.

    Attributes:
        server: Name of the server, for messages.
        knobs: Name -> knob.
        groups: Group -> what it is about.
        fences: Group -> patterns of fenced knobs.
        presets: Name -> knobs that are often tuned together; the first is what is tuned when nobody says.
    """

    server: str
    knobs: Mapping[str, Knob]
    groups: Mapping[str, str]
    fences: Mapping[str, Sequence[str]]
    presets: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @classmethod
    def of(cls, server: Server, knobs: Iterable[Knob]) -> Catalogue:
        """Return the catalogue of a server file and what its live server listed."""
        presets: Mapping[str, Sequence[str]] = getattr(server, "presets", {})
        return cls(server.name, {knob.name: knob for knob in knobs}, server.groups, server.fences, presets)

    def fence(self, name: str) -> str | None:
        """Return the group that fences a knob, None when it is free."""
        for group, patterns in self.fences.items():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                return group
        return None

    def chosen(self, asked: str | Sequence[str] | None, *, unfence: Sequence[str] = ()) -> list[Knob]:
        """Return the knobs that a user asked for.

        Args:
            asked: Presets, groups and names; None means the first preset, or every group of the server.
            unfence: Fences that are lifted.

        Raises:
            UsageError: an unknown name or fence, a fenced knob, one that cannot be set.
        """
        for group in unfence:
            if group not in self.fences:
                raise UsageError(f"no fence {group!r} here: {near_misses(group, self.fences, noun='fence')}")
        words = [*self.presets][:1] or [*self.groups] if asked is None else _words(asked)
        found: dict[str, Knob] = {}
        for word in words:
            if word in self.presets:
                # Another version of the server may not have all of them.
                found |= {name: self._by_name(name, unfence) for name in self.presets[word] if name in self.knobs}
            elif word in self.groups:
                found |= {
                    knob.name: knob
                    for knob in self.knobs.values()
                    if knob.group == word and knob.change != "fixed" and self._free(knob.name, unfence)
                }
            else:
                found[word] = self._by_name(word, unfence)
        if not found:
            raise UsageError(f"{self.server} has no free knob in {', '.join(words)}: ask for other groups, or by name")
        return list(found.values())

    def _free(self, name: str, unfence: Sequence[str]) -> bool:
        fence = self.fence(name)
        return fence is None or fence in unfence

    def _by_name(self, name: str, unfence: Sequence[str]) -> Knob:
        knob = self.knobs.get(name)
        if knob is None:
            known = [*self.presets, *self.groups, *self.knobs]
            raise UsageError(f"{self.server} has no knob or group {name!r}; {near_misses(name, known, noun='knob')}")
        if knob.change == "fixed":
            raise UsageError(f"knob {name!r} of {self.server} cannot be set: it is fixed when the server is built")
        if not self._free(name, unfence):
            fence = self.fence(name)
            raise UsageError(
                f"knob {name!r} of {self.server} is fenced ({fence}): tuning it trades safety or meaning for speed; "
                f"--unfence {fence} lifts the fence"
            )
        return knob

    def space(
        self, chosen: Sequence[Knob], constraints: Iterable[str] = (), *, fixed: Mapping[str, Value] | None = None
    ) -> Space:
        """Return the space of some knobs; constraints over knobs that are not in it hold with their default.

        A constraint that the default itself breaks, as a memory budget below what the server takes by itself, is
        left out with a warning: the guards and limits of the runs still hold.

        Args:
            chosen: What is tuned.
            constraints: Expressions in the units of the space.
            fixed: What other knobs are set to instead of their default, in the server's own units.

        Raises:
            ExpressionError: a constraint that cannot be read.
        """
        space = Space([parameter_of(knob) for knob in chosen])
        for text in constraints:
            wanted = Expression.parse(text, origin="declared")
            if not any(name in space for name in wanted.names):
                continue
            filled = self._filled(wanted, space, fixed or {})
            if filled.holds(space.default()):
                space = space.require(filled)
            else:
                log.warning("%s: left out, as the default breaks it: %s", self.server, filled.explain(space.default()))
        return space

    def _filled(self, wanted: Expression, space: Space, fixed: Mapping[str, Value]) -> Expression:
        """Put the values of knobs that are not tuned into an expression."""
        values: dict[str, Value] = {}
        for name in wanted.names:
            if name in space:
                continue
            knob = self.knobs.get(name)
            if knob is None:
                raise SpaceError(f"constraint {wanted.text!r} of {self.server}: it has no knob {name!r}")
            values[name] = self.from_native(name, fixed.get(name, knob.default))
        return wanted.substitute(values)

    # --- units -----------------------------------------------------------------------------------

    def to_native(self, config: Config) -> dict[str, Value]:
        """Return a configuration of the space in the server's own units."""
        return {name: _native(self.knobs[name], value) for name, value in config.items() if name in self.knobs}

    def from_native(self, name: str, value: Value) -> Value:
        """Return one value of the server in the units of the space."""
        knob = self.knobs[name]
        if knob.kind not in ("int", "float") or isinstance(value, bool | str | tuple):
            return value
        whole = int(value) if knob.kind == "int" else value
        return whole * knob.scale if whole > 0 and knob.scale != 1 else whole

    def corrected(self, asked: Config, used: Mapping[str, Value]) -> dict[str, tuple[Value, Value]]:
        """Return what the server uses instead of what it was asked for: name -> (asked, used), its own units.

        Special values are left out: the server puts what it thinks best in their place.
        """
        found: dict[str, tuple[Value, Value]] = {}
        for name, value in self.to_native(asked).items():
            if name in used and not self._special(name, value) and not _same(value, used[name]):
                found[name] = (value, used[name])
        return found

    def _special(self, name: str, native: Value) -> bool:
        return isinstance(native, int | float) and self.knobs[name].kind in ("int", "float") and native <= 0


def parameter_of(knob: Knob) -> Parameter:
    """Return a knob as a parameter: sizes in bytes, wide ranges by ratios, values up to zero as special ones."""
    restart = knob.change == "restart"
    if knob.kind == "bool":
        return Bool(knob.name, default=bool(knob.default), needs_restart=restart, about=knob.about)
    if knob.kind == "choice":
        return Choice(knob.name, knob.choices, default=knob.default, needs_restart=restart, about=knob.about)
    default = _number(knob.default) * knob.scale if _number(knob.default) > 0 else _number(knob.default)
    ends = {"low": knob.low, "high": knob.high}
    middle = max(default, 1.0 * knob.scale)
    spans = {"low": middle / SPAN, "high": middle * SPAN}
    given: dict[str, float] = {}
    origins: dict[str, Any] = {}
    for side, end in ends.items():
        # A bound that no search could reach says nothing.
        told = end is not None and abs(end) * knob.scale <= 1e300
        given[side] = (end or 0.0) * (knob.scale if (end or 0) > 0 else 1) if told else spans[side]
        origins[f"{side}_origin"] = knob.origin if told else "declared"
    low, high = given["low"], given["high"]
    special = tuple(
        sorted({one for one in (-1.0, 0.0, default) if one <= 0 and (one == default or low <= one <= high)})
    )
    common: dict[str, Any] = {"needs_restart": restart, "unit": knob.unit, "about": knob.about, **origins}
    few = partial(Choice, knob.name, needs_restart=restart, about=knob.about)
    if knob.kind == "float":
        if high <= max(low, 0.0):
            return few(tuple(sorted({*special, default, *([low] if low == high else [])})), default=default)
        first = low if low > 0 else min(spans["low"], high / SPAN, *([default] if default > 0 else []))
        if high / first > _LOG_RATIO and not (low >= 0 and high <= 1.0):
            return Float(knob.name, first, high, log=True, default=default, special=special, **common)
        return Float(
            knob.name, low, high, default=default, special=tuple(one for one in special if one < low), **common
        )
    first, last = max(int(low), knob.scale), min(int(high), _LARGEST_INT)
    whole = tuple(int(one) for one in special)
    if last <= first:
        return few(tuple(sorted({*whole, int(default), *([first] if first == last else [])})), default=int(default))
    if last / first > _LOG_RATIO:
        return Int(knob.name, first, last, log=True, default=int(default), special=whole, **common)
    return Int(knob.name, first, last, step=knob.scale, default=int(default), special=whole, **common)


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _native(knob: Knob, value: Value) -> Value:
    if isinstance(value, bool) or not isinstance(value, int | float) or knob.kind not in ("int", "float"):
        return value
    if knob.kind == "float":
        return value / knob.scale if value > 0 and knob.scale != 1 else value
    # In whole numbers: a double loses the last digits. Zero would mean something else than little.
    return max(1, (int(value) + knob.scale // 2) // knob.scale) if value > 0 else int(value)


def _same(asked: Value, used: Value) -> bool:
    if isinstance(asked, float) or isinstance(used, float):
        # Servers print numbers with six digits or so.
        return math.isclose(float(asked), float(used), rel_tol=1e-4)  # pyright: ignore[reportArgumentType]
    return str(asked) == str(used)


def _words(asked: str | Sequence[str]) -> list[str]:
    words = asked.split(",") if isinstance(asked, str) else list(asked)
    kept = [word.strip() for word in words if word.strip()]
    if not kept:
        raise UsageError("no knobs were named: give groups or names, separated by commas")
    return kept

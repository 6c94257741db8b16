"""Which knobs made a configuration fail: each suspect alone, delta debugging, and where the line ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mlsysopt.core.search.evidence import Evidence
from mlsysopt.core.space import Float, Int, Space
from mlsysopt.core.target import Config, Failure, Outcome, Value

__all__ = ["Diagnosis", "diagnose"]

# More than these alone would leave nothing for combinations.
_MOST_ALONE = 8
_ON_LINE = 4


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a diagnosis found.

    Attributes:
        blamed: Smallest set that was seen to fail with the rest at the default, in the order of the space; empty
            where nothing could be said.
        evidence: What every probe showed, in their order.
        text: The same as one line for people.
    """

    blamed: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    text: str


def diagnose(
    space: Space, config: Config, failure: Failure, probe: Callable[[Config], Outcome], *, most: int = 24
) -> Diagnosis:
    """Find out by probes which parameters made a configuration fail.

    Names in the message are a first guess only: each suspect is tried alone at its failing value, the named ones
    first, then those farthest from the default. Where none fails alone, delta debugging finds a minimal failing
    subset. Four bisections on the line from the default to the failing values then show where it starts to fail.
    The same probes give the same answer.

    Args:
        space: Gives the defaults and the distances.
        config: What failed.
        failure: How it failed. Another kind of failure is another fault: it is recorded, and not followed.
        probe: Tries a configuration; what it leaves out is at the default. May raise `TimeoutError` when no more
            may be spent.
        most: Probes, at most.

    References:
        Zeller, Hildebrandt, Simplifying and isolating failure-inducing input, IEEE TSE 2002, section 3.
    """
    changed = {name: config[name] for name in space.names if name in config and config[name] != space[name].default}
    search = _Search(space, changed, failure, probe, most)
    try:
        found = search.culprits()
    except _Spent:
        found = search.smallest()
    if found:
        with suppress(_Spent):
            search.along(found)
    blamed = tuple(name for name in space.names if name in found)
    return Diagnosis(blamed, search.evidence(frozenset(found)), search.words(blamed))


class _Spent(Exception):
    """No more probes may be made, or the machine spoils them."""


class _Search:
    def __init__(
        self,
        space: Space,
        changed: Mapping[str, Value],
        failure: Failure,
        probe: Callable[[Config], Outcome],
        most: int,
    ) -> None:
        self._space, self._changed, self._failure = space, changed, failure
        self._probe, self._left, self._used = probe, most, 0
        self._seen: dict[str, Outcome] = {}
        self._tried: list[tuple[Mapping[str, Value], Outcome]] = []
        self._suspects = self._in_order()

    def _in_order(self) -> list[str]:
        """Return the changed parameters: the named ones first, then those farthest from the default."""
        default, here = self._space.encode(self._space.default()), self._space.encode(self._changed)
        columns = self._space.column_names()
        distance = dict.fromkeys(self._changed, 0.0)
        for column, gap in zip(columns, np.abs(here - default), strict=True):
            name = column.partition("#")[0]
            if name in distance:
                distance[name] += float(gap)
        named: Sequence[str] = self._failure.extra.get("named", ())
        # A list of everything accuses nobody, and two places are not told apart by rounding.
        rank = {name: (name not in named, -round(distance[name], 9)) for name in self._changed}
        return sorted(self._changed, key=lambda name: rank[name])

    # --- probes ----------------------------------------------------------------------------------

    def _outcome(self, config: Mapping[str, Value]) -> Outcome:
        """Return what a configuration does; what the machine spoils is tried once more."""
        key = self._space.canonical(config)
        if key in self._seen:
            return self._seen[key]
        for _ in range(2):
            if self._left <= 0:
                raise _Spent
            self._left -= 1
            self._used += 1
            try:
                outcome = self._probe(dict(config))
            except TimeoutError:
                self._used -= 1
                raise _Spent from None
            if not isinstance(outcome, Failure) or outcome.blames_config:
                self._seen[key] = outcome
                self._tried.append((dict(config), outcome))
                return outcome
        raise _Spent

    def _fails(self, names: Sequence[str]) -> bool:
        """Whether these parameters at their failing values fail as the configuration did, the rest at default."""
        outcome = self._outcome({name: self._changed[name] for name in sorted(names, key=self._suspects.index)})
        return isinstance(outcome, Failure) and outcome.kind == self._failure.kind

    # --- who it is -------------------------------------------------------------------------------

    def culprits(self) -> tuple[str, ...]:
        """Return a minimal failing set; empty when the whole configuration does not fail again."""
        for name in self._suspects[:_MOST_ALONE]:
            if self._fails([name]):
                return (name,)
        if len(self._suspects) < 2 or not self._fails(self._suspects):
            return ()
        return tuple(self._minimised(self._shrunk()))

    def _shrunk(self) -> list[str]:
        """Return a failing set that is small if failing is monotone: few probes, but no proof.

        The last of the shortest failing row of suspects takes part; with it kept, the row before it is
        shortened in the same way.
        """
        kept, rest = list[str](), list(self._suspects)
        while not (kept and self._fails(kept)):
            passes, fails = 0, len(rest)
            while fails - passes > 1:
                middle = (passes + fails) // 2
                if self._fails([*kept, *rest[:middle]]):
                    fails = middle
                else:
                    passes = middle
            kept.append(rest[fails - 1])
            rest = rest[: fails - 1]
        return kept

    def _minimised(self, failing: Sequence[str]) -> list[str]:
        """Return a failing set of which no part fails: ddmin."""
        left, parts = list(failing), 2
        while len(left) >= 2:
            chunks = _split(left, parts)
            rest = [[name for name in left if name not in chunk] for chunk in chunks]
            # With two parts each is the rest of the other.
            options = [*chunks, *(rest if parts > 2 else [])]
            smaller = next((option for option in options if self._fails(option)), None)
            if smaller is not None:
                parts = 2 if smaller in chunks else max(parts - 1, 2)
                left = smaller
            elif parts >= len(left):
                break
            else:
                parts = min(2 * parts, len(left))
        return left

    def smallest(self) -> tuple[str, ...]:
        """Return the smallest set that was seen to fail, when the search could not be finished."""
        failing = [
            config for config, outcome in self._tried
            if isinstance(outcome, Failure) and outcome.kind == self._failure.kind and len(config) < len(self._changed)
        ]  # fmt: skip
        return tuple(min(failing, key=len)) if failing else ()

    # --- where it starts -------------------------------------------------------------------------

    def along(self, names: Sequence[str]) -> None:
        """Bisect on the line from the default to the failing values; what has no order stays where it fails."""
        numbers = [name for name in names if isinstance(self._space[name], Int | Float)]
        if not numbers:
            return
        space = self._space
        here, default = space.encode(self._changed), space.encode(space.default())
        columns = [space.column_names().index(name) for name in numbers]
        low, high = 0.0, 1.0
        for _ in range(_ON_LINE):
            middle = (low + high) / 2
            u = here.copy()
            u[columns] = default[columns] + middle * (here[columns] - default[columns])
            at = space.decode(u)
            outcome = self._outcome({name: at[name] if name in numbers else self._changed[name] for name in names})
            if isinstance(outcome, Failure):
                high = middle
            else:
                low = middle

    # --- what is said ----------------------------------------------------------------------------

    def evidence(self, found: frozenset[str]) -> tuple[Evidence, ...]:
        """Return all probes; those that failed because of the culprits say so."""
        rows: list[Evidence] = []
        for config, outcome in self._tried:
            if not isinstance(outcome, Failure):
                rows.append(Evidence(config, True, probe=True))
                continue
            named: Any = outcome.extra.get("named", ())
            # One that fails alone is its own culprit, of whatever kind the failure is.
            because = frozenset(config) if len(config) == 1 else found if found <= config.keys() else frozenset[str]()
            same = outcome.kind == self._failure.kind or len(config) == 1
            blamed = tuple(name for name in self._space.names if name in because) if same else ()
            rows.append(Evidence(config, False, outcome.kind, tuple(named), True, blamed))
        return tuple(rows)

    def words(self, blamed: Sequence[str]) -> str:
        """Return the diagnosis as one line."""
        used = f"{self._used} probe{'s' if self._used != 1 else ''}"
        if not self._changed:
            return "nothing differs from the default"
        if not blamed:
            return f"{used} found no culprit among {', '.join(self._suspects)}"
        named: Sequence[str] = self._failure.extra.get("named", ())
        wrong = f"; the message named {', '.join(named)}" if named and not set(blamed) & set(named) else ""
        return f"{' with '.join(f'{name} = {self._changed[name]}' for name in blamed)} ({used}{wrong})"


def _split(names: list[str], parts: int) -> list[list[str]]:
    """Cut a list into parts of about the same length."""
    edges = [round(len(names) * i / parts) for i in range(parts + 1)]
    return [names[a:b] for a, b in pairwise(edges) if a < b]

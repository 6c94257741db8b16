"""Rules over one or two parameters that every labelled configuration agrees with.

A refusal is a fact, its cause a guess: a rule needs two refusals, or one that a diagnosis by probes
has traced to its parameters, and a single success that breaks it deletes it. Rules are simply
learned anew from all that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import MlsysoptError
from mlsysopt.core.search.evidence import Evidence, Table, inside
from mlsysopt.core.search.forest import separation
from mlsysopt.core.search.templates import Template, templates
from mlsysopt.core.space import Float, Int, Space

__all__ = ["LearnedRule", "learn"]

Flags = NDArray[np.bool_]

MOST_NAMES = 6
"""Longer lists in a message are statistics, not an accusation."""
MOST_PAIRED = 8
CHANCE_NAMED, CHANCE_UNNAMED = 0.1, 0.01
"""How likely failures at random may look as well separated: a message that names the parameters is evidence itself."""
PROBES = 6
RELATIONS = (3, 4)


@dataclass(frozen=True, slots=True)
class LearnedRule:
    """A rule that refusals taught.

    Attributes:
        text: An expression over the space's parameters; `Space.require` takes it.
        hard: Whether what breaks it is refused outright.
        refusals: Labelled failures that break it.
        support: Independent ones: trials, or diagnoses; the probes of one diagnosis count once.
        origin: Who said so, for people.
    """

    text: str
    hard: bool
    refusals: int
    support: int
    origin: str


def learn(space: Space, evidence: Iterable[Evidence]) -> tuple[LearnedRule, ...]:
    """Return the rules that follow from labelled configurations, the hard ones first.

    The default counts as one that works: a rule that refuses it could not be part of the space.

    >>> from mlsysopt.core.space import Int, Space
    >>> space = Space([Int("reserved", 1, 1000, log=True, default=3), Int("slots", 1, 1000, log=True, default=100)])
    >>> said = ("reserved", "slots")
    >>> points = [((200, 100), False), ((50, 20), False), ((5, 5), False), ((300, 900), True), ((9, 12), True)]
    >>> learn(space, [Evidence({"reserved": a, "slots": b}, ok, "" if ok else "rejected", () if ok else said)
    ...               for (a, b), ok in points])[0].text
    'reserved < slots'
    """
    table = Table(space, inside(evidence, space))
    found: dict[str, LearnedRule] = {}
    # A start-only success says nothing about load, and a proof about starting needs no load.
    for bad, good in (
        (table.starting, table.valid),
        (table.failed & ~table.starting, table.valid & ~table.probe),
    ):
        if bad.any():
            for rule in _Search(table, bad, good).rules():
                found.setdefault(rule.text, rule)
    return tuple(sorted(found.values(), key=lambda rule: (not rule.hard, -rule.refusals, rule.text)))


class _Search:
    """The search for rules in one stage: about starting, or about load."""

    def __init__(self, table: Table, bad: Flags, good: Flags) -> None:
        self.table, self.bad, self.good = table, bad, good
        self._made: dict[tuple[str, ...], list[tuple[Template, Flags]]] = {}
        # Probes stand around the default; against failures all over the space they would separate anything.
        self._trials = int((good & ~table.probe).sum())

    def rules(self) -> list[LearnedRule]:
        """Return rules for diagnosed failures, then for named ones, then for the rest."""
        table, left = self.table, self.bad.copy()
        found: list[LearnedRule] = []
        groups = {blamed for blamed, bad in zip(table.blamed, self.bad, strict=True) if bad and 0 < len(blamed) <= 2}
        for group in sorted(groups, key=sorted):
            of_group = _flags(blamed == group for blamed in table.blamed)
            found += self._take(lambda rows, group=group: self._diagnosed(group, rows), of_group, left)
        free = _flags(not blamed for blamed in table.blamed)
        accused = _flags(0 < len(named) <= MOST_NAMES for named in table.named)
        found += self._take(self._accused, free & accused, left)
        found += self._take(self._separated, free & ~accused, left)
        return found

    def _take(self, best: Callable[[Flags], Template | None], group: Flags, left: Flags) -> Iterator[LearnedRule]:
        """Yield rules as long as the group has failures that no rule explains; `left` loses what they explain."""
        tried: set[str] = set()
        while (group & left).any():
            chosen = best(group & left)
            rule = self._rule(chosen, group & left) if chosen is not None else None
            if chosen is None or rule is None or rule.text in tried:
                return
            tried.add(rule.text)
            left &= self.table.holds(rule.text)
            yield rule

    def _templates(self, names: Sequence[str]) -> list[tuple[Template, Flags]]:
        """Return the templates over some names, each with the failures that it can refuse."""
        key = tuple(sorted(names, key=self.table.names.index))
        if key not in self._made:
            table = self.table
            made = templates(table.space, key, table.columns, table.special)
            self._made[key] = [(one, one.refuses(self.good) & self.bad) for one in made]
        return self._made[key]

    def _diagnosed(self, group: frozenset[str], rows: Flags) -> Template | None:
        """Return the simplest of the templates that explain most of the failures blamed on a group."""
        known = [name for name in self.table.names if name in group]
        if len(known) < len(group):
            return None
        said = [self.table.named[i] for i in np.flatnonzero(rows)]
        options = [(one, refused, 1) for one, refused in self._templates(known)]
        if len(known) == 1:
            # Alone at its value it fails, but the bound may be another parameter at its default.
            others = sorted({name for named in said for name in named if name in self.table.names} - group)
            for other in others[:MOST_NAMES]:
                exact = all(named == group | {other} for named in said)
                for one, refused in self._templates((*known, other)):
                    options.append((one, refused, 1 if exact and one.rank in RELATIONS else 2))
        ranked: list[tuple[int, int, int, Template]] = []
        for place, (one, refused, least) in enumerate(options):
            count = int((refused & rows).sum())
            if count >= least:
                ranked.append((-count, self._rank(one, rows), place, one))
        return min(ranked, key=lambda row: row[:3])[3] if ranked else None

    def _accused(self, rows: Flags) -> Template | None:
        sets: dict[tuple[str, ...], None] = {}
        for i in np.flatnonzero(rows):
            names = [name for name in self.table.names if name in self.table.named[i]]
            sets.update(dict.fromkeys([*combinations(names, 1), *combinations(names, 2)]))
        of = {one: rows & _flags({*one} <= named for named in self.table.named) for one in sets}
        return self._unlikely(of, CHANCE_NAMED)

    def _separated(self, rows: Flags) -> Template | None:
        table = self.table
        numbers = [name for name in table.names if name in table.special]
        used = np.flatnonzero(rows | self.good)
        x = np.stack([table.columns[name][used] for name in numbers], axis=1) if numbers else np.zeros((len(used), 0))
        order = np.argsort(-separation(x, self.good[used]), kind="stable")[:MOST_PAIRED]
        others = [name for name in table.names if name not in table.special]
        paired = [name for name in table.names if name in [*(numbers[i] for i in order), *others[:MOST_PAIRED]]]
        sets = [*combinations(table.names, 1), *combinations(paired, 2)]
        return self._unlikely(dict.fromkeys(sets, rows), CHANCE_UNNAMED)

    def _unlikely(self, rows: Mapping[tuple[str, ...], Flags], most: float) -> Template | None:
        """Return the template whose success chance explains least, None when chance explains them all."""
        tests = [0, 0, 0]
        ranked: list[tuple[float, int, int, Template]] = []
        for names, of in rows.items():
            for one, refused in self._templates(names):
                tests[len(names)] += 1
                count, m = int((refused & of).sum()), int(of.sum())
                if count >= 2:
                    # All `count` beyond the cut failed: so many of the first draws without replacement.
                    i = np.arange(count)
                    chance = float(np.log((m - i) / (self._trials + m - i)).sum())
                    ranked.append((chance, self._rank(one, of), len(ranked), one))
        # The message itself has picked a relation between exactly its names; nothing else was looked through.
        scored = [
            (chance + math.log(1 if rank < 0 else tests[len(one.names)]), rank, place, one)
            for chance, rank, place, one in ranked
        ]
        best = min(scored, key=lambda row: row[:3], default=None)
        return best[3] if best is not None and best[0] <= math.log(most) else None

    def _rank(self, one: Template, rows: Flags) -> int:
        """Return the place in the order of simplicity: first a relation between exactly the names of the message."""
        names = frozenset(one.names)
        exact = one.rank in RELATIONS and all(self.table.named[i] == names for i in np.flatnonzero(rows))
        return -1 if exact else one.rank

    def _rule(self, one: Template, rows: Flags) -> LearnedRule | None:
        """Return the rule of a template for some failures, None where it cannot be written or refuses a success."""
        proven = self._proven(one)
        for refused, hard in ((proven, True), (one.refuses(self.good) & rows, False)):
            if not refused.any():
                continue
            # What is refused outright goes as near as it can to what is known to fail.
            text = self._guarded(one.written(self.good, refused, permissive=hard), one.names)
            broken = ~self.table.holds(text)
            if (broken & rows).any() and not (broken & self.good).any() and _fits(self.table.space, text):
                return self._described(text, hard, {*one.names}, broken & self.bad)
        return None

    def _described(self, text: str, hard: bool, names: set[str], broken: Flags) -> LearnedRule:
        table = self.table
        speak = broken & _flags(not blamed or blamed <= names for blamed in table.blamed)
        diagnosed = speak & _flags(bool(blamed) for blamed in table.blamed)
        count, support = int(speak.sum()), max(int((speak & ~table.probe).sum()), int(diagnosed.sum()), 1)
        named = any(table.named[i] >= names for i in np.flatnonzero(speak))
        who = "server message" if named else "probes" if diagnosed.any() else "what fails together"
        return LearnedRule(text, hard, count, support, f"learned: {who}, {count} refusal{'s' if count > 1 else ''}")

    def _guarded(self, text: str, names: Sequence[str]) -> str:
        """Return a rule that lets special values of its parameters pass: they mean something else than their number."""
        table, broken = self.table, ~self.table.holds(text)
        for name in names:
            parameter = table.space[name]
            for value in parameter.special if isinstance(parameter, Int | Float) else ():
                own = broken & (table.columns[name] == value)
                if f"{name} == {value!r} and" not in text and f"{name} != {value!r}" not in text and own.any():
                    text = f"{name} == {value!r} or {text}"
        return text

    def _proven(self, one: Template) -> Flags:
        """Return the refusals on the line of probes that prove a rule, shape (n,); none where they do not.

        The message names the parameters and probes on both sides agree, or enough probes do. What is
        proven is proven on that line, with everything else at default, so other refusals may not
        draw the bound any closer. Running out of time proves nothing: that bound moves with the machine's load.
        """
        table, names = self.table, {*one.names}
        line = table.on_line(one.names)
        refused = line & one.refuses(self.good) & self.bad & ~table.late
        inner, outer = int((line & table.valid).sum()), int(refused.sum())
        nothing = np.zeros_like(refused)
        # Probes load nothing, so they prove nothing about load.
        if not inner or not outer or not (self.bad & table.starting).any():
            return nothing
        named = [table.named[i] for i in np.flatnonzero(refused) if table.named[i]]
        # A message that names others, and not these, says that the bound depends on the others.
        enough = inner + outer >= PROBES and min(inner, outer) >= 2 and all(said & names for said in named)
        if len(names) == 2:
            if not self._is_identified(one, refused):
                return nothing
            if one.limit is None:
                enough, named = min(inner, outer) >= PROBES, []
        return refused if enough or any(said >= names for said in named) else nothing

    def _is_identified(self, one: Template, refused: Flags) -> bool:
        """Whether no other rule over these names tells the same; on a single line they all do."""
        rivals = [(name,) for name in one.names] + ([] if one.rank in RELATIONS else [one.names])
        for rival in rivals:
            for other, can in self._templates(rival):
                if other is not one and other.text != one.text and (can & refused).sum() == refused.sum():
                    return False
        return True


def _fits(space: Space, text: str) -> bool:
    try:
        space.require(text)
    except MlsysoptError:
        return False
    return True


def _flags(values: Iterable[bool]) -> Flags:
    return np.array(list(values), dtype=bool)

"""The text of facts, both ways: `B in 1..64, S in 1..512 step 8 likely {128: 0.5}, T = S, B*S <= N`."""

from __future__ import annotations

import re
from typing import NoReturn

from mlsysopt.graph.canonical import sides
from mlsysopt.graph.dim_text import DimReader
from mlsysopt.graph.errors import GraphTextError
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.statements import Divides, Equal, NotAbove, Origin, Range
from mlsysopt.graph.symbolic import Dim

__all__ = ["read_facts", "text_of_facts"]

_SYMBOL = re.compile(
    r"\s*([A-Za-z_]\w*)\s+in\s+(-?\d+)?\s*\.\.\s*(-?\d+)?(?:\s+step\s+(\d+))?(?:\s+likely\s*\{([^}]*)\})?\s*"
)
_WEIGHT = re.compile(r"\s*(-?\d+)\s*:\s*([-+.\deE]+)\s*")
_RELATION = re.compile(r"\s*(<=|>=|=)")


def text_of_facts(facts: Facts) -> str:
    """Return facts as text in a fixed order."""
    known = facts.content
    clauses: list[str] = []
    for name, (low, high), divisor, likely in facts.declared():
        if name in known.solved:
            clauses.append(f"{name} = {known.solved[name]}")
        if (low, high, divisor) == (None, None, 1) and not likely:
            continue
        text = f"{name} in {'' if low is None else low}..{'' if high is None else high}"
        text += f" step {divisor}" if divisor > 1 else ""
        if likely:
            text += " likely {" + ", ".join(f"{value}: {weight!r}" for value, weight in likely.items()) + "}"
        clauses.append(text)
    clauses += ["{} = {}".format(*sides(size)) for size in known.zeros]
    for size in known.nonnegative:
        larger, smaller = sides(size)
        clauses.append(f"{smaller} <= {larger}")
    return ", ".join(clauses)


def read_facts(text: str, origin: Origin) -> Facts:
    """Read clauses between commas.

    Raises:
        GraphTextError: column and what was expected.
        FactsError: the clauses contradict each other.
    """
    facts, position = Facts(), 0
    if not text.strip():
        return facts
    while True:
        facts, position = _clause(facts, text, position, origin)
        rest = text[position:].lstrip()
        if not rest:
            return facts
        if not rest.startswith(","):
            _refuse(text, position, "a comma or the end")
        position = text.index(",", position) + 1


def _clause(facts: Facts, text: str, position: int, origin: Origin) -> tuple[Facts, int]:
    found = _SYMBOL.match(text, position)
    if found:
        name, low, high, step, likely = found.groups()
        if low is not None or high is not None:
            ends = (None if low is None else int(low), None if high is None else int(high))
            facts = facts.including(Range(name, *ends, origin))
        if step:
            if not int(step):
                _refuse(text, found.start(4), "a step >= 1")
            facts = facts.including(Divides(Dim.of(name), int(step), origin))
        if likely is not None:
            facts = facts.with_likely(name, _weights(text, likely, found.start(5)))
        return facts, found.end()
    reader = DimReader(text, position)
    left = reader.sum()
    relation = _RELATION.match(text, reader.position)
    if not relation:
        _refuse(text, reader.position, "in, =, <= or >=")
    reader.position = relation.end()
    right = reader.sum()
    if relation[1] == "=":
        return facts.including(Equal(left, right, origin)), reader.position
    smaller, larger = (left, right) if relation[1] == "<=" else (right, left)
    return facts.including(NotAbove(smaller, larger, origin)), reader.position


def _weights(text: str, inner: str, start: int) -> dict[int, float]:
    found: dict[int, float] = {}
    for piece in inner.split(","):
        weight = _WEIGHT.fullmatch(piece)
        try:
            found[int(weight[1])] = float(weight[2])  # pyright: ignore[reportOptionalSubscript]
        except (TypeError, ValueError):
            _refuse(text, start, "size: weight")
        if not found[int(piece.split(":")[0])] > 0:
            _refuse(text, start, "weights above 0")
        start += len(piece) + 1
    return found


def _refuse(text: str, position: int, expected: str) -> NoReturn:
    rest = text[position:]
    column = position + len(rest) - len(rest.lstrip()) + 1
    found = repr(rest.split()[0][:20]) if rest.strip() else "the end"
    raise GraphTextError(f"facts {text!r}: column {column}: expected {expected}, found {found}")

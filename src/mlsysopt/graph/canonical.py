"""One form for all the ways to say the same facts: what equality, hash and text of `Facts` go by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlsysopt.graph.atoms import Opaque
from mlsysopt.graph.dim_rewrites import content, over
from mlsysopt.graph.statements import Divides, Equal, Fact, Range
from mlsysopt.graph.symbolic import Dim, polynomial, symbol

__all__ = ["Content", "canonical", "sides"]

_ROUNDS = 8


@dataclass(frozen=True)
class Content:
    """What facts say.

    Attributes:
        ranges: Symbol -> smallest and largest size that was said of it.
        divisors: Symbol -> least common multiple of the divisors said of it.
        solved: Symbol -> its formula in symbols that are not solved.
        zeros: Sizes that are 0 and solve no symbol.
        nonnegative: Sizes that are >= 0.
    """

    ranges: Mapping[str, tuple[int | None, int | None]] = field(hash=False)
    divisors: Mapping[str, int] = field(hash=False)
    solved: Mapping[str, Dim] = field(hash=False)
    zeros: tuple[Dim, ...]
    nonnegative: tuple[Dim, ...]

    def __hash__(self) -> int:
        ranges, divisors = frozenset(self.ranges.items()), frozenset(self.divisors.items())
        return hash((ranges, divisors, frozenset(self.solved.items()), self.zeros, self.nonnegative))


def canonical(facts: Iterable[Fact]) -> Content:
    """Return the content of facts, whatever their order and wording.

    Of equal symbols the first by name stands for all. Two sets of linear equalities with unit coefficients
    that have the same solutions get one content; for products this is not promised.
    """
    ranges: dict[str, tuple[int | None, int | None]] = {}
    divisors: dict[str, int] = {}
    equal: list[Dim] = []
    above: list[Dim] = []
    for fact in facts:
        if isinstance(fact, Range):
            low, high = ranges.get(fact.symbol, (None, None))
            lows = [end for end in (low, fact.low) if end is not None]
            highs = [end for end in (high, fact.high) if end is not None]
            ranges[fact.symbol] = (max(lows, default=None), min(highs, default=None))
        elif isinstance(fact, Divides):
            atom = fact.size.terms[0][0] if len(fact.size.terms) == 1 else ()
            if len(atom) == 1 and isinstance(atom[0], str) and fact.size.terms[0][1] == 1:
                divisors[atom[0]] = math.lcm(divisors.get(atom[0], 1), fact.k)
            else:
                equal.append(fact.size % fact.k)
        elif isinstance(fact, Equal):
            equal.append(fact.left - fact.right)
        else:
            above.append(fact.right - fact.left)
    solved: dict[str, Dim] = {}
    zeros: tuple[Dim, ...] = ()
    for _ in range(_ROUNDS):
        again, left = _solve([*(symbol(name) - value for name, value in solved.items()), *zeros, *equal])
        equal = []
        if (again, left) == (solved, zeros):
            break
        solved, zeros = again, left
    orders = {_tight(size.substitute(solved)) for size in above}
    return Content(
        dict(sorted(ranges.items())),
        dict(sorted(divisors.items())),
        dict(sorted(solved.items())),
        zeros,
        tuple(sorted((size for size in orders if size.constant is None), key=str)),
    )


def sides(size: Dim) -> tuple[Dim, Dim]:
    """Return what stands on the two sides of `size = 0`, each with positive coefficients."""
    left = polynomial({m: c for m, c in size.terms if c > 0})
    return left, left - size


def _solve(sizes: list[Dim]) -> tuple[dict[str, Dim], tuple[Dim, ...]]:
    solved: dict[str, Dim] = {}
    zeros: dict[Dim, None] = {}
    todo = sorted(map(_signed, sizes), key=str)
    while todo:
        p = _signed(todo.pop(0).substitute(solved))
        if p.constant == 0:
            continue
        name = _solvable(p)
        if not name:
            zeros[p] = None
            continue
        value = symbol(name) - p if dict(p.terms)[(name,)] == 1 else symbol(name) + p
        solved = {other: old.substitute({name: value}) for other, old in solved.items()}
        solved[name] = value
        # What could not be solved may be solvable in the new words.
        todo = [*(zero for zero in zeros if name in zero.symbols), *todo]
        zeros = {zero: None for zero in zeros if name not in zero.symbols}
    return solved, tuple(sorted(zeros, key=str))


def _solvable(p: Dim) -> str:
    best = ""
    for monomial, coefficient in p.terms:
        name = monomial[0] if len(monomial) == 1 else None
        if isinstance(name, str) and abs(coefficient) == 1 and name > best:
            others = [atom for m, _ in p.terms if m != monomial for atom in m]
            inner = [operand for atom in others if isinstance(atom, Opaque) for operand in atom.operands]
            if name not in others and not any(name in operand.symbols for operand in inner):
                best = name
    return best


def _signed(size: Dim) -> Dim:
    if size.constant is not None:
        return size
    size = over(size, content(size))
    return -size if size.terms[0][1] < 0 else size


def _tight(size: Dim) -> Dim:
    g = math.gcd(*(c for m, c in size.terms if m))
    return polynomial({m: c // g for m, c in size.terms}) if g > 1 else size

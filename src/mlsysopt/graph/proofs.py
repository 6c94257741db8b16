"""Deciding whether a size is zero, or not negative, from what follows from facts.

From cheap to dear: the normal form; common divisors; intervals; intervals after subtracting known orders;
cases of `min` and `max`; residue classes of a symbol that stands under a division. All of them hold for
unbounded sizes: nothing is enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum

from mlsysopt.graph.atoms import FloorDiv, Max, Min, Monomial, Opaque
from mlsysopt.graph.bounds import INF, interval
from mlsysopt.graph.closure import Closure, Contradiction, Undefined, of_monomial
from mlsysopt.graph.dim_rewrites import content, over, without
from mlsysopt.graph.symbolic import Dim, of_atom, polynomial, symbol

__all__ = ["Claim", "decide", "lower_bound"]

_DEPTH = 3
# Steps for one bound and for one question with all its cases; a step is an interval, some 30 us.
_BOUND_EFFORT = 150
_EFFORT = 1500
_EFFORT_OF_CASE = 20
_LARGEST_MODULUS = 12
_SPLITS = 3


class Claim(Enum):
    """What may be claimed about a size."""

    ZERO = "= 0"
    NONNEGATIVE = ">= 0"


class Effort:
    """How much may still be tried for one question: what is not decided by then stays unknown."""

    __slots__ = ("left",)

    def __init__(self, steps: int = _EFFORT) -> None:
        self.left = steps


def decide(
    closure: Closure, size: Dim, claim: Claim, *, splits: int = _SPLITS, effort: Effort | None = None
) -> bool | None:
    """Return whether a claim about a size holds for every, or for no, consistent assignment; else None."""
    effort = effort or Effort()
    try:
        d = closure.normal(size)
    except Undefined:
        return None
    plain = _without_cases(closure, d, claim, effort)
    if plain is not None or not splits:
        return plain
    for branches in _cases(closure, d):
        found: set[bool | None] = set()
        for branch in branches:
            effort.left -= _EFFORT_OF_CASE
            if effort.left <= 0:
                return None
            found.add(decide(branch, size, claim, splits=splits - 1, effort=effort))
            if found not in ({True}, {False}):
                break
        if len(found) == 1 and None not in found:
            return found.pop()
        # Without a branch the facts contradict each other: anything may be said, so nothing is.
    return None


def lower_bound(closure: Closure, size: Dim, target: int | None = None) -> int | float:
    """Return the best lower bound found for a size in base symbols.

    Args:
        closure: What is known.
        size: A size in base symbols.
        target: Stop as soon as the bound reaches it.
    """
    return _bound(closure, size, INF if target is None else target, Effort())


def _bound(closure: Closure, size: Dim, target: int | float, effort: Effort) -> int | float:
    return _Search(closure, target, effort).best(size, _DEPTH)


def _without_cases(closure: Closure, d: Dim, claim: Claim, effort: Effort) -> bool | None:
    if d.constant is not None:
        return d.constant == 0 if claim is Claim.ZERO else d.constant >= 0
    if claim is Claim.NONNEGATIVE:
        if _bound(closure, d, 0, effort) >= 0:
            return True
        return False if _bound(closure, -d, 1, effort) > 0 else None
    if _misses_zero(closure, d):
        return False
    d = _core(closure, over(d, content(d)))
    if d.constant is not None:
        return d.constant == 0
    below = _bound(closure, d, 1, effort)
    if below > 0:
        return False
    above = _bound(closure, -d, 1, effort)
    if above > 0:
        return False
    return True if below == 0 and above == 0 else None


def _misses_zero(closure: Closure, d: Dim) -> bool:
    """Return whether d leaves a remainder by some coefficient of it."""
    for k in sorted({abs(c) for m, c in d.terms if m and abs(c) > 1}):
        for low in (0, -(k // 2)):
            rest = polynomial({m: (c - low) % k + low for m, c in d.terms})
            ends = closure.interval(rest)
            if isinstance(ends[0], int) and isinstance(ends[1], int) and -(-ends[0] // k) * k > ends[1]:
                return True
    g = math.gcd(*(c for m, c in d.terms if m))
    return d.offset % g != 0


def _core(closure: Closure, d: Dim) -> Dim:
    """Divide by common factors that are never zero: the rest is zero when the whole is."""
    for atom in sorted(set(d.terms[0][0]).intersection(*(m for m, _ in d.terms)), key=str):
        low, high = closure.interval(of_atom(atom))
        if low > 0 or high < 0:
            return _core(closure, polynomial({without(m, (atom,)) or (): c for m, c in d.terms}))
    return d


class _Search:
    """A lower bound by subtracting things known to be >= 0, depth first within an effort."""

    def __init__(self, closure: Closure, target: int | float, effort: Effort) -> None:
        self.closure, self.target, self._effort, self._left = closure, target, effort, _BOUND_EFFORT
        equal = [of_monomial(lead) - rest for lead, rest in closure.rules.items()] + list(closure.zeros)
        self._known = (*closure.nonnegative, *equal, *(-p for p in equal))
        self._about: dict[Opaque, tuple[Dim, ...]] = {}

    def best(self, d: Dim, depth: int) -> int | float:
        found = self.closure.interval(d)[0]
        if not depth or found >= self.target:
            return found
        for rest, scale in self._weaker(d):
            if self._left <= 0 or self._effort.left <= 0:
                break
            self._left -= 1
            self._effort.left -= 1
            bound = self.best(rest, depth - 1)
            if not isinstance(bound, float):
                bound = -(-bound // scale)
            found = max(found, bound)
            if found >= self.target:
                break
        return found

    def _weaker(self, d: Dim) -> Iterator[tuple[Dim, int]]:
        """Yield rest, scale with scale*d = rest + something >= 0, without one of the terms that cost most."""
        for monomial, coefficient in d.terms:
            if not monomial:
                continue
            low = interval(polynomial({monomial: coefficient}), self.closure.ranges)[0]
            if low >= 0 and not any(isinstance(atom, Opaque) for atom in monomial):
                continue
            for p in self._constraints(d):
                for target, factor in p.terms:
                    if (factor > 0) != (coefficient > 0) or not target:
                        continue
                    left = without(monomial, target)
                    if left is None or (left and self.closure.interval(of_monomial(left))[0] < 0):
                        continue
                    g = math.gcd(factor, coefficient)
                    scale, times = abs(factor) // g, abs(coefficient) // g
                    yield scale * d - times * (of_monomial(left) * p if left else p), scale
            yield from self._by_range(d, monomial, coefficient)

    def _by_range(self, d: Dim, monomial: Monomial, coefficient: int) -> Iterator[tuple[Dim, int]]:
        """Use that a factor of a product beside it is at least, or at most, a number."""
        if coefficient > 0:
            return
        for other, factor in d.terms:
            # other = monomial * atom: factor*monomial*(atom - low) >= 0 pays for a part of monomial
            if factor <= 0 or len(other) != len(monomial) + 1:
                continue
            extra = without(other, monomial)
            if extra is None:
                continue
            low = self.closure.interval(of_atom(extra[0]))[0]
            rest = polynomial({monomial: 1})
            if isinstance(low, int) and self.closure.interval(rest)[0] >= 0:
                yield d - factor * rest * (of_atom(extra[0]) - low), 1

    def _constraints(self, d: Dim) -> Iterator[Dim]:
        yield from self._known
        for atom in d.atoms:
            if isinstance(atom, Opaque):
                if atom not in self._about:
                    self._about[atom] = tuple(self._meaning(atom))
                yield from self._about[atom]

    def _meaning(self, atom: Opaque) -> Iterator[Dim]:
        this = of_atom(atom)
        if isinstance(atom, FloorDiv):
            x, k = atom.operands
            if self.closure.interval(k)[0] >= 1:
                yield x - k * this
                yield k * this + k - 1 - x
        elif isinstance(atom, Min | Max):
            for operand in atom.operands:
                yield operand - this if isinstance(atom, Min) else this - operand


def _cases(closure: Closure, d: Dim) -> Iterator[list[Closure]]:
    """Yield ways to split all assignments into cases; a case that the facts exclude is left out."""
    atoms = list(dict.fromkeys(_operations(d)))
    extremum = next((atom for atom in atoms if isinstance(atom, Min | Max)), None)
    if extremum is not None:
        yield list(_orders(closure, extremum))
        return
    for name, k in _residues(atoms):
        found: list[Closure] = []
        for remainder in range(k):
            try:
                found.append(closure.with_residue(symbol(name), k, remainder))
            except Contradiction:
                continue
        yield found


def _orders(closure: Closure, atom: Opaque) -> Iterator[Closure]:
    for chosen in atom.operands:
        sign = 1 if isinstance(atom, Min) else -1
        gaps = [sign * (other - chosen) for other in atom.operands if other is not chosen]
        try:
            yield closure.with_nonnegative(*gaps)
        except Contradiction:
            continue


def _residues(atoms: list[Opaque]) -> list[tuple[str, int]]:
    """Return symbols that stand under divisions by numbers, each with the least common multiple of these."""
    moduli: dict[str, int] = {}
    for atom in atoms:
        k = atom.operands[1].constant if isinstance(atom, FloorDiv) else None
        if k is not None:
            for name in atom.operands[0].symbols:
                moduli[name] = math.lcm(moduli.get(name, 1), k)
    return sorted((item for item in moduli.items() if item[1] <= _LARGEST_MODULUS), key=lambda item: (item[1], item[0]))


def _operations(d: Dim) -> Iterator[Opaque]:
    """Yield all operations in a size, inner ones first."""
    for atom in d.atoms:
        if isinstance(atom, Opaque):
            for operand in atom.operands:
                yield from _operations(operand)
            yield atom

"""Bounds of sizes by interval arithmetic, and what a constraint says about one of its symbols."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

from mlsysopt.graph.atoms import Atom, FloorDiv, Max, Min, Monomial
from mlsysopt.graph.dim_rewrites import without
from mlsysopt.graph.symbolic import Dim

__all__ = ["INF", "Interval", "interval", "narrowed"]

Interval = tuple[int | float, int | float]
"""Smallest and largest value; an end is an exact integer, or infinite."""
INF = math.inf
EVERYTHING: Interval = (-INF, INF)


def interval(size: Dim, ranges: Mapping[str, Interval]) -> Interval:
    """Return bounds of a size for symbols within ranges; a symbol without one may be any integer."""
    low: int | float = 0
    high: int | float = 0
    for monomial, coefficient in size.terms:
        ends = _scaled(of_monomial(monomial, ranges), coefficient)
        low, high = _sum(low, ends[0]), _sum(high, ends[1])
    return low, high


def of_monomial(monomial: Monomial, ranges: Mapping[str, Interval]) -> Interval:
    """Return bounds of a product; a square is never negative."""
    if len(monomial) == 1:
        return of_atom(monomial[0], ranges)
    found: Interval = (1, 1)
    for atom, power in Counter(monomial).items():
        one = of_atom(atom, ranges)
        low, high = one
        for _ in range(power - 1):
            one = _times(one, (low, high))
        if power % 2 == 0:
            one = (max(one[0], 0), one[1])
        found = _times(found, one)
    return found


def of_atom(atom: Atom, ranges: Mapping[str, Interval]) -> Interval:
    """Return bounds of an atom."""
    if isinstance(atom, str):
        return ranges.get(atom, EVERYTHING)
    ends = [interval(operand, ranges) for operand in atom.operands]
    if isinstance(atom, Min):
        return min(low for low, _ in ends), min(high for _, high in ends)
    if isinstance(atom, Max):
        return max(low for low, _ in ends), max(high for _, high in ends)
    p, q = ends
    if q[1] < 0:
        flipped = (_scaled(p, -1), _scaled(q, -1))
        return _quotient(*flipped) if isinstance(atom, FloorDiv) else _scaled(_rest(*flipped), -1)
    if q[0] <= 0:
        # The sign of the divisor is open: a quotient is no larger than the dividend.
        reach = max(abs(p[0]), abs(p[1])) if isinstance(atom, FloorDiv) else max(abs(q[0]), abs(q[1]))
        return -reach, reach
    return _quotient(p, q) if isinstance(atom, FloorDiv) else _rest(p, q)


def narrowed(constraint: Dim, ranges: Mapping[str, Interval]) -> Iterator[tuple[str, Interval]]:
    """Yield tighter ranges that `constraint >= 0` implies for single symbols."""
    ends = [_scaled(of_monomial(monomial, ranges), coefficient) for monomial, coefficient in constraint.terms]
    for index, (monomial, coefficient) in enumerate(constraint.terms):
        others: int | float = 0
        for _, high in chain(ends[:index], ends[index + 1 :]):
            others = _sum(others, high)
        if isinstance(others, float):
            continue
        for atom in dict.fromkeys(monomial):
            if not isinstance(atom, str):
                continue
            factor = of_monomial(without(monomial, (atom,)) or (), ranges)
            low, high = ranges.get(atom, EVERYTHING)
            # coefficient * atom * factor >= -others
            if coefficient > 0:
                least = -(others // coefficient)
                if factor == (1, 1):
                    low = max(low, least)
                elif factor[0] >= 0 and least > 0:
                    low = max(low, 1 if isinstance(factor[1], float) else -(-least // max(factor[1], 1)))
            else:
                most = others // -coefficient
                if factor == (1, 1):
                    high = min(high, most)
                elif factor[0] >= 1 and most >= 0 and isinstance(factor[0], int):
                    high = min(high, most // factor[0])
            if (low, high) != ranges.get(atom, EVERYTHING):
                yield atom, (low, high)


def _sum(a: int | float, b: int | float) -> int | float:
    # An integer of any length plus infinity, without a detour through doubles.
    return a if isinstance(a, float) else b if isinstance(b, float) else a + b


def _product(a: int | float, b: int | float) -> int | float:
    if not a or not b:
        return 0
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return INF if (a > 0) == (b > 0) else -INF


def _times(a: Interval, b: Interval) -> Interval:
    if a[0] >= 0 and b[0] >= 0:
        return _product(a[0], b[0]), _product(a[1], b[1])
    ends = [_product(x, y) for x in a for y in b]
    return min(ends), max(ends)


def _scaled(ends: Interval, factor: int) -> Interval:
    if factor == 1:
        return ends
    low, high = _product(ends[0], factor), _product(ends[1], factor)
    return (low, high) if factor > 0 else (high, low)


def _quotient(p: Interval, q: Interval) -> Interval:
    """Return bounds of floor(p / q) for q >= 1."""
    return _over(p[0], q[1] if p[0] >= 0 else q[0]), _over(p[1], q[0] if p[1] >= 0 else q[1])


def _over(a: int | float, k: int | float) -> int | float:
    if isinstance(a, float):
        return a
    return a // k if isinstance(k, int) else (0 if a >= 0 else -1)


def _rest(p: Interval, q: Interval) -> Interval:
    """Return bounds of mod(p, q) for q >= 1."""
    if isinstance(q[0], int) and q[0] == q[1] and not isinstance(p[0], float) and not isinstance(p[1], float):
        block = p[0] // q[0]
        if block == p[1] // q[0]:
            return p[0] - block * q[0], p[1] - block * q[0]
    if p[0] >= 0:
        if p[1] < q[0]:
            return p
        return 0, min(p[1], _sum(q[1], -1))
    return 0, _sum(q[1], -1)

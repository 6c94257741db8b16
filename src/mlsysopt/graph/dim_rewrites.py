"""What is simplified when an operation is applied to sizes; each rewrite is exact for all integers.

With a symbolic divisor "exact" means wherever the divisor is not zero. Remainders of coefficients are
taken next to zero, so that `(H - 1) // 32` keeps its looks and equals `(H + 31) // 32 - 1` all the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.atoms import FloorDiv, Max, Min, Mod, Monomial, Opaque, order
from mlsysopt.graph.symbolic import Dim, Symbol, number, of_atom, polynomial, symbol

__all__ = ["content", "divided_exactly", "extremum", "floor_divide", "modulo", "operation", "over", "without"]


def operation(kind: type[Opaque], operands: Sequence[Dim]) -> Dim:
    """Apply an operation by its class."""
    if kind is FloorDiv:
        return operands[0] // operands[1]
    if kind is Mod:
        return operands[0] % operands[1]
    return extremum(Min if kind is Min else Max, operands)


def floor_divide(p: Dim, q: Dim) -> Dim:
    """Return floordiv(p, q) in normal form.

    Raises:
        UsageError: the divisor is the number 0.
    """
    k = q.constant
    if k is None:
        return _symbolic_quotient(p, q)
    if k == 0:
        raise UsageError(f"{p} cannot be divided by 0")
    if k < 0:
        p, k = -p, -k
    g = math.gcd(k, *(c for m, c in p.terms if m))
    # floor((g*x + c) / (g*k)) = floor((x + floor(c/g)) / k)
    p, k = _floored(p, g), k // g
    if k == 1:
        return p
    whole, rest = _reduced(p, k)
    if rest.constant is not None:
        return whole + rest.constant // k
    for monomial, coefficient in rest.terms:
        inner = monomial[0] if len(monomial) == 1 and coefficient == 1 else None
        if isinstance(inner, FloorDiv):
            # floor((floor(x/a) + r) / k) = floor((x + a*r) / (a*k))
            x, a = inner.operands
            return whole + floor_divide(x + a * (rest - of_atom(inner)), a * k)
    if rest.terms[0][1] < 0:
        # One sign of two: floor(-x/k) = -floor((x + k - 1) / k)
        return whole - floor_divide(k - 1 - rest, number(k))
    low, high = _free_range(rest)
    if low is not None and high is not None and low // k == high // k:
        return whole + low // k
    return whole + of_atom(FloorDiv((rest, number(k))))


def modulo(p: Dim, q: Dim) -> Dim:
    """Return mod(p, q) in normal form.

    Raises:
        UsageError: the divisor is the number 0.
    """
    k = q.constant
    if k is None:
        return _symbolic_remainder(p, q)
    if k == 0:
        raise UsageError(f"{p} cannot be divided by 0")
    if k < 0:
        return -modulo(-p, number(-k))
    p = _unwrapped(p, k)
    g = math.gcd(k, *(c for m, c in p.terms if m))
    if g > 1:
        # mod(g*x + c, g*k) = g*mod(x + floor(c/g), k) + mod(c, g)
        return g * modulo(_floored(p, g), number(k // g)) + p.offset % g if g < k else number(p.offset % k)
    rest = _reduced(p, k)[1]
    if rest.constant is not None:
        return number(rest.constant % k)
    low, high = _free_range(rest)
    if low is not None and high is not None and low // k == high // k:
        return rest - low // k * k
    return of_atom(Mod((_plain(rest), number(k))))


def extremum(kind: type[Min] | type[Max], sizes: Sequence[Dim]) -> Dim:
    """Return the smallest or largest of sizes, in normal form."""
    best = min if kind is Min else max
    offsets: dict[Dim, int] = {}
    for size in _flattened(kind, sizes):
        shape = size - size.offset
        offsets[shape] = best(offsets.get(shape, size.offset), size.offset)
    operands = [shape + offset for shape, offset in offsets.items()]
    opposite = Max if kind is Min else Min
    # min(a, max(a, b)) = a
    kept = [size for size in operands if not (_is(opposite, size) and _covers(size, operands))]
    if len(kept) == 1:
        return kept[0]
    g = math.gcd(*(content(size) for size in kept))
    ordered = sorted((_plain(over(size, g)) for size in kept), key=str)
    return of_atom(kind(tuple(ordered)))._scaled(g)  # pyright: ignore[reportPrivateUsage]


def content(size: Dim) -> int:
    """Return the largest number that divides every coefficient; 0 for the size 0."""
    return math.gcd(*(coefficient for _, coefficient in size.terms))


def over(size: Dim, factor: int) -> Dim:
    """Return a size over a number that divides every coefficient."""
    return size if factor == 1 else polynomial({m: c // factor for m, c in size.terms})


def without(monomial: Monomial, factor: Monomial) -> Monomial | None:
    """Return a monomial over another, None when that does not divide it."""
    if not factor:
        return monomial
    left = list(monomial)
    for atom in factor:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def divided_exactly(p: Dim, q: Dim) -> Dim | None:
    """Return the polynomial t with p = q*t, None when there is none."""
    lead, factor = q.terms[0]
    total: dict[Monomial, int] = {}
    while p.terms:
        monomial, coefficient = p.terms[0]
        left = without(monomial, lead)
        if left is None or coefficient % factor:
            return None
        total[left] = coefficient // factor
        p = p - polynomial({left: total[left]}) * q
    return polynomial(total)


def _symbolic_quotient(p: Dim, q: Dim) -> Dim:
    whole, rest, divisor, _ = _cancelled(p, q)
    if rest == 0:
        return whole
    if divisor.constant is not None:
        return whole + floor_divide(rest, divisor)
    return whole + of_atom(FloorDiv((_plain(rest), _plain(divisor))))


def _symbolic_remainder(p: Dim, q: Dim) -> Dim:
    _, rest, divisor, factor = _cancelled(p, q)
    if rest == 0:
        return rest
    if divisor.constant is not None:
        return factor * modulo(rest, divisor)
    return factor * of_atom(Mod((_plain(rest), _plain(divisor))))


def _cancelled(p: Dim, q: Dim) -> tuple[Dim, Dim, Dim, Dim]:
    """Return t, r, d, f with p = q*t + f*r and q = f*d: nothing common is left in r and d."""
    if len(q.terms) == 1:
        lead, factor = q.terms[0]
        whole: dict[Monomial, int] = {}
        left: dict[Monomial, int] = {}
        for monomial, coefficient in p.terms:
            quotient = without(monomial, lead)
            if quotient is None:
                left[monomial] = coefficient
            else:
                remainder = _nearest(coefficient, abs(factor))
                whole[quotient] = (coefficient - remainder) // factor
                left[monomial] = remainder
        pulled, rest = polynomial(whole), polynomial(left)
    else:
        exact = divided_exactly(p, q)
        pulled, rest = (number(0), p) if exact is None else (exact, number(0))
    if rest == 0:
        return pulled, rest, q, number(1)
    common = Counter(rest.terms[0][0])
    for monomial, _ in (*rest.terms, *q.terms):
        common &= Counter(monomial)
    shared = tuple(sorted(common.elements(), key=lambda atom: order((atom,))))
    g = math.gcd(content(rest), content(q))
    # One sign of two: the divisor's leading coefficient is positive.
    g = -g if q.terms[0][1] < 0 else g
    return pulled, _stripped(rest, shared, g), _stripped(q, shared, g), polynomial({shared: g})


def _stripped(size: Dim, shared: Monomial, factor: int) -> Dim:
    return polynomial({without(monomial, shared) or (): c // factor for monomial, c in size.terms})


def _floored(size: Dim, g: int) -> Dim:
    return size if g == 1 else polynomial({m: c // g for m, c in size.terms})


def _nearest(value: int, k: int) -> int:
    """Return the remainder in (-k/2, k/2]."""
    remainder = value % k
    return remainder - k if 2 * remainder > k else remainder


def _reduced(size: Dim, k: int) -> tuple[Dim, Dim]:
    """Return t, r with size = k*t + r and small coefficients in r."""
    rest = {monomial: _nearest(coefficient, k) for monomial, coefficient in size.terms}
    whole = {monomial: (coefficient - rest[monomial]) // k for monomial, coefficient in size.terms}
    return polynomial(whole), polynomial(rest)


def _unwrapped(size: Dim, k: int) -> Dim:
    """Replace c*mod(x, m) by c*x wherever k divides c*m: the same remainder by k."""
    for monomial, coefficient in size.terms:
        atom = monomial[0] if len(monomial) == 1 else None
        if isinstance(atom, Mod):
            x, m = atom.operands
            if m.constant is not None and coefficient * m.constant % k == 0:
                return _unwrapped(size + coefficient * (x - of_atom(atom)), k)
    return size


def _free_range(size: Dim) -> tuple[int | None, int | None]:
    """Return bounds that hold whatever the symbols are: those of sums of remainders."""
    low = high = 0
    for monomial, coefficient in size.terms:
        if not monomial:
            low, high = low + coefficient, high + coefficient
            continue
        atom = monomial[0] if len(monomial) == 1 else None
        m = atom.operands[1].constant if isinstance(atom, Mod) else None
        if m is None:
            return None, None
        ends = sorted((0, coefficient * (m - 1)))
        low, high = low + ends[0], high + ends[1]
    return low, high


def _flattened(kind: type[Opaque], sizes: Sequence[Dim]) -> list[Dim]:
    found: list[Dim] = []
    for size in sizes:
        monomial, factor = size.terms[0] if size.terms else ((), 0)
        atom = monomial[0] if len(monomial) == 1 else None
        alone = len(size.terms) == 1 or (len(size.terms) == 2 and size.offset)
        if isinstance(atom, Min | Max) and alone and (type(atom) is kind) == (factor > 0):
            found += _flattened(kind, [operand * factor + size.offset for operand in atom.operands])
        else:
            found.append(size)
    return found


def _is(kind: type[Opaque], size: Dim) -> bool:
    if len(size.terms) != 1 or size.terms[0][1] != 1:
        return False
    monomial = size.terms[0][0]
    return len(monomial) == 1 and isinstance(monomial[0], kind)


def _covers(size: Dim, others: Sequence[Dim]) -> bool:
    atom = size.terms[0][0][0]
    return isinstance(atom, Opaque) and any(operand in others for operand in atom.operands)


def _plain(size: Dim) -> Dim:
    # What was declared about a symbol is no part of a formula.
    return symbol(size.name) if isinstance(size, Symbol) else size

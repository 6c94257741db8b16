"""What follows from facts, kept in a form that answers questions quickly.

Symbols are written in base symbols: an equality with a unit coefficient eliminates one, any other linear
equality is solved in integers by fresh symbols (named `$n`, which no user can choose), `S % 8 = 0` makes
`S = 8*$n`. What is left are ranges of base symbols, sizes that are not negative, and rewrite rules of
products. Every step is exact or a consequence, so what it says holds for every consistent assignment.

References:
    W. Pugh, *The Omega Test*, Supercomputing 1991: equalities in integers by fresh symbols.
"""

from __future__ import annotations

import math
from collections import deque

from mlsysopt.graph.atoms import FloorDiv, Max, Min, Mod, Monomial, Opaque
from mlsysopt.graph.bounds import INF, Interval, interval, narrowed
from mlsysopt.graph.dim_rewrites import extremum, over, without
from mlsysopt.graph.symbolic import Dim, number, of_atom, polynomial, symbol

__all__ = ["Closure", "Contradiction", "Undefined", "of_monomial"]

_ROUNDS = 6
_STEPS = 400


class Contradiction(Exception):
    """No assignment meets the facts; inside this package only."""


class Undefined(Contradiction):
    """A size divides by what is known to be zero: it has no value for any assignment."""


class Closure:
    """Consequences of facts; `with_zero` and its like return a new one."""

    __slots__ = ("_fresh", "_memo", "_queue", "nonnegative", "ranges", "rules", "solved", "zeros")

    def __init__(self) -> None:
        self.solved: dict[str, Dim] = {}
        self.ranges: dict[str, Interval] = {}
        self.nonnegative: tuple[Dim, ...] = ()
        self.rules: dict[Monomial, Dim] = {}
        self.zeros: tuple[Dim, ...] = ()
        self._fresh = 0
        self._memo: dict[Dim, Dim] = {}
        self._queue: deque[tuple[bool, Dim]] = deque()

    def with_zero(self, size: Dim) -> Closure:
        """Return what follows when a size is 0 as well.

        Raises:
            Contradiction: it never is.
        """
        return self._with((True, size))

    def with_nonnegative(self, *sizes: Dim) -> Closure:
        """Return what follows when sizes are >= 0 as well."""
        return self._with(*((False, size) for size in sizes))

    def with_divisor(self, size: Dim, k: int) -> Closure:
        """Return what follows when a size is a multiple of k as well."""
        return self.with_residue(size, k, 0)

    def with_residue(self, size: Dim, k: int, remainder: int) -> Closure:
        """Return what follows when a size leaves a remainder by k as well."""
        found = self._copy()
        found._put((True, size - remainder - k * found.fresh()))
        return found

    def normal(self, size: Dim) -> Dim:
        """Return a size in base symbols, simplified by all that is known; no `mod` is left in it.

        Raises:
            Undefined: it divides by what is known to be zero.
        """
        if size.constant is not None:
            return size
        found = self._memo.get(size)
        if found is None:
            total = number(0)
            for monomial, coefficient in size.terms:
                term = number(coefficient)
                for atom in monomial:
                    if isinstance(atom, str):
                        term = term * self.solved.get(atom, symbol(atom))
                    else:
                        term = term * self._applied(atom)
                total = total + term
            found = self._memo[size] = self._reduced(total)
        return found

    def interval(self, size: Dim) -> Interval:
        """Return bounds of a size in base symbols by interval arithmetic alone."""
        return interval(size, self.ranges)

    def fresh(self) -> Dim:
        """Return a symbol that nothing is known about; only for a closure that is being made."""
        self._fresh += 1
        return symbol(f"${self._fresh}")

    def _copy(self) -> Closure:
        found = Closure()
        found.solved, found.ranges, found.rules = dict(self.solved), dict(self.ranges), dict(self.rules)
        found.nonnegative, found.zeros, found._fresh = self.nonnegative, self.zeros, self._fresh
        return found

    def _with(self, *news: tuple[bool, Dim]) -> Closure:
        found = self._copy()
        found._put(*news)
        return found

    def _put(self, *news: tuple[bool, Dim]) -> None:
        self._queue.extend(news)
        for _ in range(_ROUNDS):
            self._settle()
            if not self._narrow():
                break
        self._settle()
        self._memo = {}

    def _settle(self) -> None:
        for _ in range(_STEPS):
            if not self._queue:
                return
            is_zero, size = self._queue.popleft()
            self._memo = {}
            if is_zero:
                self._add_zero(self.normal(size))
            else:
                self._add_nonnegative(self.normal(size))
        # Dropping what is left is sound: less is known.
        self._queue.clear()

    # equalities

    def _add_zero(self, p: Dim) -> None:
        g = math.gcd(*(c for m, c in p.terms if m))
        if p.offset and (not g or p.offset % g):
            raise Contradiction
        if p.constant is not None:
            return
        p = self._stripped(over(p, g))
        low, high = self.interval(p)
        if low > 0 or high < 0:
            raise Contradiction
        if p.constant is not None:
            if p.constant:
                raise Contradiction
            return
        if self._eliminate(p) or self._solve_linear(p) or self._name_quotient(p):
            return
        lead, factor = p.terms[0]
        if abs(factor) == 1:
            rest = (of_monomial(lead) - p) if factor == 1 else (of_monomial(lead) + p)
            # A rule whose left side the new one rewrites is stated again.
            for old in [m for m in self.rules if without(m, lead) is not None]:
                self._queue.append((True, of_monomial(old) - self.rules.pop(old)))
            self.rules[lead] = rest
        elif p not in self.zeros and -p not in self.zeros:
            self.zeros = (*self.zeros, p)
        self._queue.extend((False, q) for q in self._isolated(p))

    def _stripped(self, p: Dim) -> Dim:
        """Divide an expression by the factors of all its terms that are never zero; its sign may be lost."""
        shared = set(p.terms[0][0]).intersection(*(m for m, _ in p.terms)) if p.terms else set()
        for atom in sorted(shared, key=str):
            low, high = self.interval(of_atom(atom))
            if low > 0 or high < 0:
                return self._stripped(polynomial({without(m, (atom,)) or (): c for m, c in p.terms}))
        return p

    def _eliminate(self, p: Dim) -> bool:
        best = ""
        for monomial, coefficient in p.terms:
            name = monomial[0] if len(monomial) == 1 else None
            if isinstance(name, str) and abs(coefficient) == 1 and name > best and _once(name, p):
                best = name
        if not best:
            return False
        rest = symbol(best) - p if dict(p.terms)[(best,)] == 1 else symbol(best) + p
        self._assign(best, rest)
        return True

    def _assign(self, name: str, value: Dim) -> None:
        low, high = self.ranges.pop(name, (-INF, INF))
        self._memo = {}
        self.solved[name] = value
        for other, old in list(self.solved.items()):
            if name in old.symbols:
                self.solved[other] = self.normal(old)
        if isinstance(low, int):
            self._queue.append((False, value - low))
        if isinstance(high, int):
            self._queue.append((False, high - value))
        self._restate(name)

    def _restate(self, name: str) -> None:
        # Everything that mentions the symbol is said again in the new words.
        self._queue.extend((False, p) for p in self.nonnegative if name in p.symbols)
        self.nonnegative = tuple(p for p in self.nonnegative if name not in p.symbols)
        self._queue.extend((True, p) for p in self.zeros if name in p.symbols)
        self.zeros = tuple(p for p in self.zeros if name not in p.symbols)
        for lead, rest in list(self.rules.items()):
            if name in rest.symbols or name in of_monomial(lead).symbols:
                self._queue.append((True, of_monomial(lead) - self.rules.pop(lead)))

    def _solve_linear(self, p: Dim) -> bool:
        """Replace the symbol of the smallest coefficient so that the coefficients shrink."""
        linear = [(m[0], c) for m, c in p.terms if m]
        if not all(len(m) <= 1 for m, _ in p.terms) or not all(isinstance(name, str) for name, _ in linear):
            return False
        name, factor = min(linear, key=lambda term: (abs(term[1]), term[0]))
        assert isinstance(name, str)
        value = self.fresh()
        for monomial, coefficient in p.terms:
            if monomial != (name,):
                value = value - coefficient // factor * of_monomial(monomial)
        self._assign(name, value)
        self._queue.appendleft((True, p))
        return True

    def _name_quotient(self, p: Dim) -> bool:
        """Give a quotient of the equality a name when that makes a symbol solvable."""
        for monomial, _ in p.terms:
            atom = monomial[0] if len(monomial) == 1 else None
            if not isinstance(atom, FloorDiv) or atom.operands[1].constant is None:
                continue
            if not any(len(m) == 1 and isinstance(m[0], str) and abs(c) == 1 for m, c in p.terms):
                continue
            x, k = atom.operands
            name = self.fresh()
            self._queue.append((True, _replaced(p, atom, name)))
            self._queue.append((False, x - k * name))
            self._queue.append((False, k * name + k - 1 - x))
            return True
        return False

    def _isolated(self, p: Dim) -> list[Dim]:
        """Return what `floordiv(x, k) = e` says about x."""
        for monomial, coefficient in p.terms:
            atom = monomial[0] if len(monomial) == 1 and abs(coefficient) == 1 else None
            if isinstance(atom, FloorDiv) and atom.operands[1].constant is not None:
                x, k = atom.operands
                e = of_atom(atom) - p if coefficient == 1 else of_atom(atom) + p
                if atom not in e.atoms:
                    return [x - k * e, k * e + k - 1 - x]
        return []

    # orders

    def _add_nonnegative(self, p: Dim) -> None:
        if p.constant is not None:
            if p.constant < 0:
                raise Contradiction
            return
        g = math.gcd(*(c for m, c in p.terms if m))
        p = polynomial({m: c // g for m, c in p.terms})  # floor of the constant: integers only
        low, high = self.interval(p)
        if high < 0:
            raise Contradiction
        if low >= 0:
            return
        if factor := self._positive_factor(p):
            self._queue.append((False, polynomial({without(m, factor) or (): c for m, c in p.terms})))
            return
        if high == 0 or -p in self.nonnegative:
            self.nonnegative = tuple(q for q in self.nonnegative if q != -p)
            self._queue.append((True, p))
            return
        consequences = self._about_atom(p)
        if consequences:
            self._queue.extend((False, q) for q in consequences)
            return
        if len(p.atoms) == 1 and isinstance(p.atoms[0], str) and _is_linear(p):
            for name, ends in narrowed(p, self.ranges):
                self._set_range(name, ends)
            return
        shape = p - p.offset
        for q in self.nonnegative:
            if q - q.offset == shape:
                if q.offset <= p.offset:
                    return
                self.nonnegative = tuple(r for r in self.nonnegative if r is not q)
        self.nonnegative = (*self.nonnegative, p)

    def _about_atom(self, p: Dim) -> list[Dim]:
        """Rewrite a bound of one operation as bounds of its operands, when that says the same."""
        monomial, coefficient = p.terms[0]
        atom = monomial[0] if len(monomial) == 1 else None
        if not isinstance(atom, Opaque) or len(p.terms) > 1 + (p.offset != 0):
            return []
        if isinstance(atom, FloorDiv) and atom.operands[1].constant is not None:
            x, k = atom.operands
            # The coefficient is 1 or -1: the others were divided by it.
            return [x + k * p.offset] if coefficient > 0 else [k * p.offset + k - 1 - x]
        if isinstance(atom, Min) and coefficient > 0:
            return [operand + p.offset for operand in atom.operands]
        if isinstance(atom, Max) and coefficient < 0:
            return [p.offset - operand for operand in atom.operands]
        return []

    def _set_range(self, name: str, ends: Interval) -> None:
        if ends[0] > ends[1]:
            raise Contradiction
        if isinstance(ends[0], int) and ends[0] == ends[1]:
            self.ranges[name] = ends
            self._assign(name, number(ends[0]))
        else:
            self.ranges[name] = ends

    def _narrow(self) -> bool:
        """Carry bounds once through all constraints; say whether anything changed."""
        changed = False
        both = [of_monomial(lead) - rest for lead, rest in self.rules.items()]
        both += self.zeros
        for p in (*self.nonnegative, *both, *(-q for q in both)):
            if self.interval(p)[1] < 0:
                raise Contradiction
            for name, (low, high) in list(narrowed(p, self.ranges)):
                if name in self.solved:
                    continue
                old = self.ranges.get(name, (-INF, INF))
                ends = (max(old[0], low), min(old[1], high))
                if ends != old:
                    changed = True
                    self._set_range(name, ends)
        if changed:
            # Tighter ranges may decide what is said by an operation.
            said = [p for p in (*self.nonnegative, *self.zeros) if any(isinstance(a, Opaque) for a in p.atoms)]
            self._queue.extend((p in self.zeros, p) for p in said)
            self.nonnegative = tuple(p for p in self.nonnegative if p not in said)
            self.zeros = tuple(p for p in self.zeros if p not in said)
        return changed

    # simplification

    def _applied(self, atom: Opaque) -> Dim:
        operands = [self.normal(operand) for operand in atom.operands]
        if isinstance(atom, Min | Max):
            kind = type(atom)
            return extremum(kind, self._undominated(kind, operands))
        p, q = operands
        if q == 0:
            raise Undefined
        quotient = self._folded(p // q)
        return p - q * quotient if isinstance(atom, Mod) else quotient

    def _folded(self, quotient: Dim) -> Dim:
        for atom in quotient.atoms:
            if isinstance(atom, FloorDiv):
                low, high = self.interval(of_atom(atom))
                if isinstance(low, int) and low == high:
                    quotient = _replaced(quotient, atom, number(low))
                elif atom.operands[1].constant is None and self._is_below(*atom.operands):
                    quotient = _replaced(quotient, atom, number(0))
        return quotient

    def _is_below(self, p: Dim, q: Dim) -> bool:
        return self.interval(p)[0] >= 0 and self.at_least(q - p - 1, 0)

    def _undominated(self, kind: type[Min] | type[Max], operands: list[Dim]) -> list[Dim]:
        kept: list[Dim] = []
        for size in operands:
            if any(self._dominates(kind, other, size) for other in kept):
                continue
            kept = [other for other in kept if not self._dominates(kind, size, other)]
            kept.append(size)
        return kept

    def _dominates(self, kind: type[Min] | type[Max], better: Dim, worse: Dim) -> bool:
        return self.at_least(worse - better if kind is Min else better - worse, 0)

    def at_least(self, size: Dim, limit: int) -> bool:
        """Return whether intervals or one known order show that a size in base symbols is >= limit."""
        if self.interval(size)[0] >= limit:
            return True
        if not limit and (factor := self._positive_factor(size)):
            return self.at_least(polynomial({without(m, factor) or (): c for m, c in size.terms}), 0)
        return any(self.interval(size - p)[0] >= limit for p in self.nonnegative)

    def _positive_factor(self, p: Dim) -> Monomial:
        """Return an atom that divides every term and is never below 1, as a product; else ()."""
        if len(p.terms) < 2 or not p.terms[-1][0]:
            return ()
        shared = set(p.terms[0][0]).intersection(*(m for m, _ in p.terms))
        return next(((atom,) for atom in sorted(shared, key=str) if self.interval(of_atom(atom))[0] > 0), ())

    def _reduced(self, size: Dim) -> Dim:
        if not self.rules:
            return size
        for _ in range(_STEPS):
            for monomial, coefficient in size.terms:
                step = next(
                    (
                        (left, rest)
                        for lead, rest in self.rules.items()
                        if (left := without(monomial, lead)) is not None
                    ),
                    None,
                )
                if step:
                    size = size + coefficient * (of_monomial(step[0]) * step[1] - of_monomial(monomial))
                    break
            else:
                return size
        return size


def of_monomial(monomial: Monomial) -> Dim:
    """Return a product as a size."""
    return Dim(((monomial, 1),))


def _is_linear(p: Dim) -> bool:
    return all(len(monomial) <= 1 for monomial, _ in p.terms)


def _once(name: str, p: Dim) -> bool:
    """Return whether a symbol stands in a size only as a term of its own."""
    return not any(
        atom == name or (isinstance(atom, Opaque) and any(name in operand.symbols for operand in atom.operands))
        for monomial, _ in p.terms
        if monomial != (name,)
        for atom in monomial
    )


def _replaced(size: Dim, atom: Opaque, value: Dim) -> Dim:
    total = number(0)
    for monomial, coefficient in size.terms:
        left, term = monomial, number(coefficient)
        while (shorter := without(left, (atom,))) is not None:
            left, term = shorter, term * value
        total = total + term * of_monomial(left)
    return total

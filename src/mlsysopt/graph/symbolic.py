"""Sizes of tensors: integers and symbols, and what arithmetic makes of them.

A `Dim` is an integer polynomial in normal form whose atoms are symbols or operations kept as they are
(`floordiv`, `mod`, `min`, `max`). Two sizes that are equal as polynomials are the same value, so that
`reshape [B, S, 768] -> [B*S, 768]` needs no proof; what follows from facts is asked of `Facts`.

References:
    K. Zhu et al., *DISC: A Dynamic Shape Compiler for Machine Learning Workloads*, EuroMLSys 2021.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, SupportsIndex

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.atoms import Atom, Max, Min, Mod, Monomial, Opaque, check_symbol, order, product

__all__ = ["Dim", "Symbol", "ceildiv", "declared_range", "dim", "dims", "maximum", "minimum", "multiplied"]

Term = tuple[Monomial, int]


class Dim:
    """A size; made by `Dim.of`, `Dim.parse`, `dims` and arithmetic.

    Division rounds down, as Python's. Division by a symbolic size cancels what cancels whenever the
    divisor is not zero. There is no `<`: which of two symbolic sizes is smaller is a question for `Facts`.

    >>> B, S = dims("B", "S")
    >>> B * S == S * B, str((S * 32 - 1) // 32 + 1), (B * S * 768) // S
    (True, 'S', Dim('768*B'))
    >>> ((S + 31) // 32).at(S=65)
    3
    """

    __slots__ = ("_constant", "_hash", "_symbols", "_text", "terms")
    __array_ufunc__ = None  # numpy integers leave arithmetic to us

    terms: tuple[Term, ...]
    """Monomials with their coefficients, none zero, higher degrees first."""

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = terms
        self._text: str | None = None
        self._symbols: frozenset[str] | None = None
        if not terms:
            self._constant: int | None = 0
        elif len(terms) == 1 and not terms[0][0]:
            self._constant = terms[0][1]
        else:
            self._constant = None
        self._hash = hash(terms if self._constant is None else self._constant)

    @staticmethod
    def of(value: SupportsIndex | str | Dim) -> Dim:
        """Return a size from a number, the name of a symbol, or a size.

        Raises:
            UsageError: a name that no symbol may have, or something else.
        """
        if isinstance(value, Dim):
            return value
        if isinstance(value, str):
            return symbol(check_symbol(value))
        number_ = _integer(value)
        if number_ is None:
            raise UsageError(f"size {value!r}: allowed are an integer, the name of a symbol and a Dim")
        return number(number_)

    @staticmethod
    def parse(text: str) -> Dim:
        """Read what `str` wrote; `//`, `%`, `**` and `ceildiv` are understood too.

        Raises:
            GraphTextError: column and what was expected.

        >>> Dim.parse("floordiv(H - 1, 32) + 1") == Dim.parse("(H + 31) // 32")
        True
        """
        from mlsysopt.graph.dim_text import parse_dim

        return parse_dim(text)

    @property
    def constant(self) -> int | None:
        """The number that it is, None when it depends on a symbol."""
        return self._constant

    @property
    def is_constant(self) -> bool:
        return self._constant is not None

    @property
    def symbols(self) -> frozenset[str]:
        """Names of all symbols in it, those inside operations included."""
        if self._symbols is None:
            names: set[str] = set()
            for atom in self.atoms:
                if isinstance(atom, str):
                    names.add(atom)
                else:
                    names.update(*(operand.symbols for operand in atom.operands))
            self._symbols = frozenset(names)
        return self._symbols

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """Atoms of its monomials, each once; not those inside operations."""
        return tuple(dict.fromkeys(atom for monomial, _ in self.terms for atom in monomial))

    @property
    def offset(self) -> int:
        """The constant term."""
        return self.terms[-1][1] if self.terms and not self.terms[-1][0] else 0

    def at(self, values: Mapping[str, int] | None = None, /, **sizes: int) -> int:
        """Return its value for given sizes, in exact integers.

        Args:
            values: Symbol -> value; more than its symbols may be given.
            sizes: The same by keyword.

        Raises:
            UsageError: a symbol without a value, or a division by zero.
        """
        if self._constant is not None:
            return self._constant
        given = {**(values or {}), **sizes}
        missing = sorted(self.symbols - given.keys())
        if missing:
            raise UsageError(f"{self} needs a value for {', '.join(missing)}")
        try:
            return _value(self, {name: operator.index(given[name]) for name in self.symbols})
        except ZeroDivisionError:
            shown = ", ".join(f"{name}={given[name]}" for name in sorted(self.symbols))
            raise UsageError(f"{self} divides by zero at {shown}") from None
        except TypeError:
            wrong = next(name for name in sorted(self.symbols) if _integer(given[name]) is None)
            raise UsageError(f"{self}: {wrong} must be an integer, got {given[wrong]!r}") from None

    def substitute(self, mapping: Mapping[str, Dim | int]) -> Dim:
        """Return it with sizes in place of some of its symbols, simplified."""
        if self.symbols.isdisjoint(mapping):
            return self
        return rebuilt(self, lambda name: Dim.of(mapping[name]) if name in mapping else symbol(name))

    def compile(self, names: Sequence[str]) -> Callable[..., int]:
        """Return a fast function of the named sizes, in that order.

        The function raises ZeroDivisionError where `at` raises UsageError.

        Raises:
            UsageError: a symbol that is not among the names, or a name twice.

        >>> Dim.parse("B*S + 1").compile(["S", "B"])(10, 2)
        21
        """
        return _compiled(self, tuple(names))

    def source(self, names: Sequence[str] | Mapping[str, str]) -> str:
        """Return a Python expression that may stand anywhere in generated code.

        Args:
            names: The symbols that are known there, or symbol -> the expression that holds it.

        Raises:
            UsageError: a symbol that is not among the names.
        """
        from mlsysopt.graph.dim_text import source_of

        return source_of(self, names)

    def __add__(self, other: Dim | int) -> Dim:
        right = _operand(other)
        if right is None:
            return NotImplemented
        a, b = self._constant, right._constant
        if a is not None:
            if b is not None:
                return number(a + b)
            if not a:
                return right
        elif b == 0:
            return self
        total = dict(self.terms)
        for monomial, coefficient in right.terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return polynomial(total)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self._scaled(-1)

    def __sub__(self, other: Dim | int) -> Dim:
        right = _operand(other)
        return NotImplemented if right is None else self + right._scaled(-1)

    def __rsub__(self, other: Dim | int) -> Dim:
        left = _operand(other)
        return NotImplemented if left is None else left + self._scaled(-1)

    def __mul__(self, other: Dim | int) -> Dim:
        right = _operand(other)
        if right is None:
            return NotImplemented
        if self._constant is not None:
            return right._scaled(self._constant)
        if right._constant is not None:
            return self._scaled(right._constant)
        total: dict[Monomial, int] = {}
        for left_monomial, left_coefficient in self.terms:
            for right_monomial, right_coefficient in right.terms:
                monomial = product(left_monomial, right_monomial)
                total[monomial] = total.get(monomial, 0) + left_coefficient * right_coefficient
        return polynomial(total)

    __rmul__ = __mul__

    def __pow__(self, exponent: int) -> Dim:
        if _integer(exponent) is None:
            return NotImplemented
        if not 0 <= exponent <= _HIGHEST_POWER:
            raise UsageError(f"({self})**{exponent}: powers from 0 to {_HIGHEST_POWER} are allowed")
        result = number(1)
        for _ in range(exponent):
            result = result * self
        return result

    def __floordiv__(self, other: Dim | int) -> Dim:
        right = _operand(other)
        return NotImplemented if right is None else _divided(self, right)

    def __rfloordiv__(self, other: Dim | int) -> Dim:
        left = _operand(other)
        return NotImplemented if left is None else _divided(left, self)

    def __mod__(self, other: Dim | int) -> Dim:
        right = _operand(other)
        return NotImplemented if right is None else _remainder(self, right)

    def __rmod__(self, other: Dim | int) -> Dim:
        left = _operand(other)
        return NotImplemented if left is None else _remainder(left, self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Dim):
            return self._hash == other._hash and self.terms == other.terms
        if isinstance(other, int):
            return self._constant == other
        return NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __int__(self) -> int:
        if self._constant is None:
            raise TypeError(f"{self} is no number: give its symbols values with .at(...)")
        return self._constant

    __index__ = __int__

    def __bool__(self) -> bool:
        if self._constant is None:
            raise TypeError(f"{self} is no truth value: compare sizes with ==, or ask Facts")
        return self._constant != 0

    def __str__(self) -> str:
        if self._text is None:
            from mlsysopt.graph.dim_text import text_of

            self._text = text_of(self)
        return self._text

    def __repr__(self) -> str:
        return f"Dim({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Dim, (self.terms,)

    def _scaled(self, factor: int) -> Dim:
        if factor == 1:
            return self
        if self._constant is not None:
            return number(self._constant * factor)
        if not factor:
            return number(0)
        return Dim(tuple((monomial, coefficient * factor) for monomial, coefficient in self.terms))


class Symbol(Dim):
    """A symbol with what was declared about it; equal to the plain symbol of that name.

    Attributes:
        name: Its name.
        low: Smallest size it takes.
        high: Largest size it takes, None when there is no limit.
        divisor: A number that every size it takes is a multiple of.
        likely: (size, weight) pairs by size.
    """

    __slots__ = ("divisor", "high", "likely", "low", "name")

    def __init__(
        self,
        name: str,
        low: int = 1,
        high: int | None = None,
        divisor: int = 1,
        likely: tuple[tuple[int, float], ...] = (),
    ) -> None:
        super().__init__((((check_symbol(name),), 1),))
        if high is not None and low > high:
            raise UsageError(f"symbol {name}: the smallest size must not be above the largest, got {low}..{high}")
        if divisor < 1:
            raise UsageError(f"symbol {name}: a divisor is >= 1, got {divisor}")
        for value, weight in likely:
            if value < low or (high is not None and value > high) or value % divisor or not weight > 0:
                allowed = f"{low}..{'' if high is None else high}" + (f" step {divisor}" if divisor > 1 else "")
                raise UsageError(
                    f"symbol {name}: likely size {value} of weight {weight}; allowed {allowed}, weights > 0"
                )
        self.name, self.low, self.high, self.divisor, self.likely = name, low, high, divisor, likely

    def __reduce__(self) -> tuple[Any, ...]:
        return Symbol, (self.name, self.low, self.high, self.divisor, self.likely)


def dim(
    name: str,
    *,
    low: int = 1,
    high: int | None = None,
    divisor: int = 1,
    likely: Mapping[int, float] | None = None,
) -> Symbol:
    """Declare one symbol.

    Args:
        name: Its name.
        low: Smallest size.
        high: Largest size, None for no limit.
        divisor: Every size is a multiple of it.
        likely: Size -> weight, for sizes worth being fast at.

    >>> S = dim("S", high=512, divisor=8, likely={128: 0.5})
    >>> declared_range(S), S == Dim.of("S")
    ((1, 512), True)
    """
    return Symbol(name, low, high, divisor, tuple(sorted((likely or {}).items())))


def dims(
    *names: str,
    min: int | Sequence[int] = 1,
    max: int | Sequence[int | None] | None = None,
    likely: Mapping[str, Sequence[int] | Mapping[int, float]] | None = None,
) -> tuple[Symbol, ...]:
    """Declare symbols, with one range for all or one for each.

    Args:
        names: Their names.
        min: Smallest size.
        max: Largest size, None for no limit.
        likely: Name -> sizes worth being fast at, all alike or with weights.

    Raises:
        UsageError: as many ranges as names are needed; a name is taken; a range is empty; a likely size is outside.

    >>> B, S = dims("B", "S", max=(64, 512), likely={"S": [32, 128]})
    >>> declared_range(B), str(B * S), S.likely
    ((1, 64), 'B*S', ((32, 1.0), (128, 1.0)))
    """
    lows = _each(names, min, "min")
    highs = _each(names, max, "max")
    wished = likely or {}
    unknown = sorted(set(wished) - set(names))
    if unknown:
        near = near_misses(unknown[0], names, noun="symbol")
        raise UsageError(f"dims({', '.join(names)}): likely sizes of {unknown[0]!r}; {near}")
    return tuple(
        Symbol(name, low or 0, high, likely=_weighted(wished.get(name, ())))
        for name, low, high in zip(names, lows, highs, strict=True)
    )


def declared_range(size: Dim) -> tuple[int, int | None]:
    """Return the smallest and largest size that was declared; a plain symbol counts as `dims` declares it."""
    if isinstance(size, Symbol):
        return size.low, size.high
    if size.constant is not None:
        return size.constant, size.constant
    if size.terms == ((size.terms[0][0][:1], 1),):
        return 1, None
    raise UsageError(f"{size} is no symbol: ask Facts.range for what follows from its symbols")


def minimum(first: Dim | int, *rest: Dim | int) -> Dim:
    """Return the smallest of sizes.

    >>> S, T = dims("S", "T")
    >>> minimum(S + 1, T, S, 7, 9)
    Dim('min(7, S, T)')
    """
    from mlsysopt.graph.dim_rewrites import extremum

    return extremum(Min, [Dim.of(size) for size in (first, *rest)])


def maximum(first: Dim | int, *rest: Dim | int) -> Dim:
    """Return the largest of sizes."""
    from mlsysopt.graph.dim_rewrites import extremum

    return extremum(Max, [Dim.of(size) for size in (first, *rest)])


def multiplied(sizes: Iterable[Dim]) -> Dim:
    """Return the product of sizes, 1 of none."""
    product = number(1)
    for size in sizes:
        product = product * size
    return product


def ceildiv(size: Dim | int, divisor: Dim | int) -> Dim:
    """Return the quotient rounded up.

    >>> ceildiv(Dim.of("S"), 32)
    Dim('floordiv(S - 1, 32) + 1')
    """
    whole, k = Dim.of(size), Dim.of(divisor)
    # For a number the form that people write: ceildiv(N, 2) is (N + 1) // 2.
    return (whole + (k - 1)) // k if k.constant is not None and k.constant > 0 else -((-whole) // k)


@lru_cache(maxsize=1 << 13)
def number(value: int) -> Dim:
    """Return a number as a size."""
    return Dim((((), value),) if value else ())


@lru_cache(maxsize=1 << 12)
def symbol(name: str) -> Dim:
    """Return a symbol by any name, also one that no user may choose."""
    return Dim((((name,), 1),))


def of_atom(atom: Atom) -> Dim:
    """Return an atom as a size, not simplified."""
    return Dim((((atom,), 1),))


def polynomial(terms: Mapping[Monomial, int]) -> Dim:
    """Return the size with these terms; zero coefficients are dropped."""
    kept = [term for term in terms.items() if term[1]]
    if len(kept) > 1:
        kept.sort(key=_by_order)
    elif not kept or not kept[0][0]:
        return number(kept[0][1] if kept else 0)
    return Dim(tuple(kept))


def rebuilt(size: Dim, leaf: Callable[[str], Dim]) -> Dim:
    """Build a size again with other leaves, simplifying on the way."""
    total = number(0)
    for monomial, coefficient in size.terms:
        term = number(coefficient)
        for atom in monomial:
            term = term * (leaf(atom) if isinstance(atom, str) else applied(atom, leaf))
        total = total + term
    return total


def applied(atom: Opaque, leaf: Callable[[str], Dim]) -> Dim:
    """Apply the operation of an atom to its operands, rebuilt."""
    from mlsysopt.graph.dim_rewrites import operation

    return operation(type(atom), [rebuilt(operand, leaf) for operand in atom.operands])


_HIGHEST_POWER = 16


def _by_order(term: Term) -> tuple[int, tuple[str, ...]]:
    return order(term[0])


def _integer(value: Any) -> int | None:
    # True is an int in Python and a mistake as a size.
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _operand(value: Dim | int) -> Dim | None:
    if isinstance(value, Dim):
        return value
    plain = _integer(value)
    return None if plain is None else number(plain)


def _divided(left: Dim, right: Dim) -> Dim:
    if left.constant is not None and right.constant:
        return number(left.constant // right.constant)
    from mlsysopt.graph.dim_rewrites import floor_divide

    return floor_divide(left, right)


def _remainder(left: Dim, right: Dim) -> Dim:
    if left.constant is not None and right.constant:
        return number(left.constant % right.constant)
    from mlsysopt.graph.dim_rewrites import modulo

    return modulo(left, right)


def _value(size: Dim, given: Mapping[str, int]) -> int:
    total = 0
    for monomial, coefficient in size.terms:
        for atom in monomial:
            coefficient *= given[atom] if isinstance(atom, str) else _applied_value(atom, given)
        total += coefficient
    return total


def _applied_value(atom: Opaque, given: Mapping[str, int]) -> int:
    values = [_value(operand, given) for operand in atom.operands]
    if isinstance(atom, Min):
        return min(values)
    if isinstance(atom, Max):
        return max(values)
    return values[0] % values[1] if isinstance(atom, Mod) else values[0] // values[1]


@lru_cache(maxsize=1 << 12)
def _compiled(size: Dim, names: tuple[str, ...]) -> Callable[..., int]:
    if len(set(names)) != len(names):
        raise UsageError(f"compile: a name is given twice in {', '.join(names)}")
    for name in names:
        check_symbol(name)
    # The text is made from the normal form: names are checked identifiers, the rest are our own words.
    return eval(f"lambda {', '.join(names)}: {size.source(names)}", {"__builtins__": {}, "min": min, "max": max})


def _each(names: Iterable[str], bound: int | Sequence[int | None] | None, word: str) -> tuple[int | None, ...]:
    listed = tuple(names)
    if bound is None or isinstance(bound, int):
        return (bound,) * len(listed)
    if len(bound) != len(listed):
        _refuse(listed, bound, word)
    return tuple(bound)


def _weighted(sizes: Sequence[int] | Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    weights = sizes if isinstance(sizes, Mapping) else dict.fromkeys(sizes, 1.0)
    return tuple(sorted(weights.items()))


def _refuse(names: tuple[str, ...], bound: Sequence[int | None], word: str) -> NoReturn:
    raise UsageError(f"dims({', '.join(names)}): {word} needs one value or {len(names)}, got {len(bound)}")

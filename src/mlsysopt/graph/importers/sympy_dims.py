"""From the expressions in which torch keeps sizes to ours.

torch holds sizes as sympy expressions with functions of its own (`FloorDiv`, `PythonMod`, ...). They
are told apart by the names of their classes, so that this module needs neither torch nor sympy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlsysopt.graph.errors import ImportFailed
from mlsysopt.graph.symbolic import Dim, ceildiv, maximum, minimum

__all__ = ["SizeUnknown", "Sizes"]


class SizeUnknown(ImportFailed):
    """A size that is no integer formula of symbols: a real number, a case distinction, an unknown function."""


class Sizes:
    """Translates sizes of one exported program.

    Args:
        symbols: torch's symbol by name -> our size, e.g. `{"s43": Dim.of("B")}`. Grows where torch
            made a symbol that no input declares, such as the count of a `nonzero`.

    Attributes:
        fresh: Names of symbols that no input declares.
    """

    def __init__(self, symbols: Mapping[str, Dim] | None = None) -> None:
        self.symbols: dict[str, Dim] = dict(symbols or {})
        self.fresh: set[str] = set()
        self._known: dict[Any, Dim] = {}

    def of(self, size: Any) -> Dim:
        """Return the size of an int, a `SymInt` or a sympy expression.

        Raises:
            SizeUnknown: it is not an integer formula.
        """
        if isinstance(size, int):
            return Dim.of(int(size))
        if isinstance(size, Dim):
            return size
        node = getattr(size, "node", None)
        expression = node.expr if node is not None else size
        found = self._known.get(expression)
        if found is None:
            found = self._known[expression] = self._translate(expression)
        return found

    def define(self, symbol: str, size: Dim) -> None:
        """Say what a symbol of torch is called here."""
        self.symbols[symbol] = size
        self._known.clear()

    def shape(self, sizes: Any) -> tuple[Dim, ...]:
        return tuple(self.of(size) for size in sizes)

    def _translate(self, expression: Any) -> Dim:
        if expression.is_Symbol:
            return self._symbol(expression.name)
        if expression.is_Integer:
            return Dim.of(int(expression))
        word = type(expression).__name__
        if word == "Mul":
            return self._product(expression)
        if word == "Pow" and expression.exp.is_Integer and expression.exp > 0:
            return self.of(expression.base) ** int(expression.exp)
        if word in _ROUNDED and type(expression.args[0]).__name__ in _QUOTIENTS:
            left, right = (self.of(part) for part in expression.args[0].args)
            return _ROUNDED[word](left, right)
        make = _FUNCTIONS.get(word)
        if make is None:
            raise SizeUnknown(f"size {expression}: {word} is no operation on integers that a size can hold")
        return make(*(self.of(part) for part in expression.args))

    def _symbol(self, name: str) -> Dim:
        if name not in self.symbols:
            taken = frozenset[str]().union(*(size.symbols for size in self.symbols.values()))
            free = name
            while free in taken:
                free += "_"
            self.symbols[name] = Dim.of(free)
            self.fresh.add(free)
        return self.symbols[name]

    def _product(self, expression: Any) -> Dim:
        # sympy writes an exact quotient as a product with a fraction.
        coefficient, rest = expression.as_coeff_Mul()
        if coefficient.is_Integer or not coefficient.is_Rational:
            result = Dim.of(1)
            for part in expression.args:
                result = result * self.of(part)
            return result
        return (self.of(rest) * int(coefficient.p)) // int(coefficient.q)


def _total(*parts: Dim) -> Dim:
    total = Dim.of(0)
    for part in parts:
        total = total + part
    return total


def _quotient(left: Dim, right: Dim) -> Dim:
    return left // right


def _rest(left: Dim, right: Dim) -> Dim:
    return left % right


_FUNCTIONS: dict[str, Callable[..., Dim]] = {
    "Add": _total,
    "CeilDiv": ceildiv,
    "CleanDiv": _quotient,
    "FloorDiv": _quotient,
    "Identity": lambda x: x,
    "Max": maximum,
    "Min": minimum,
    "Mod": _rest,
    "ModularIndexing": lambda x, divisor, modulus: (x // divisor) % modulus,
    "PythonMod": _rest,
}
_QUOTIENTS = frozenset({"IntTrueDiv", "FloatTrueDiv"})
# Sizes are not negative, so cutting off the fraction rounds down.
_ROUNDED: dict[str, Callable[[Dim, Dim], Dim]] = {
    "CeilToInt": ceildiv,
    "FloorToInt": _quotient,
    "TruncToInt": _quotient,
    "ceiling": ceildiv,
    "floor": _quotient,
}

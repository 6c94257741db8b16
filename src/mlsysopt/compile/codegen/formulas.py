"""Sizes as native integers: each distinct formula is computed once, with the floor semantics of `Dim`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.atoms import Atom, FloorDiv, Min, Mod, Opaque
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from llvmlite import ir

__all__ = ["Formulas"]


class Formulas:
    """Writes integer instructions at the end of a block that comes before every use.

    A division by zero gives 0: it occurs only in formulas of a branch that is not taken, or of steps without work.

    Args:
        builder: Stands in the block.
        symbols: Symbol -> its i64 value there.
    """

    def __init__(self, builder: ir.IRBuilder, symbols: Mapping[str, Any]) -> None:
        from llvmlite import ir

        self.builder = builder
        self._symbols = symbols
        self._known: dict[Dim | Opaque, Any] = {}
        self._i64 = ir.IntType(64)

    def of(self, size: Dim) -> Any:
        """Return the i64 value of a formula.

        Raises:
            UsageError: a symbol that is not among those that a call gives.
        """
        found = self._known.get(size)
        if found is None:
            found = self._known[size] = self._sum(size)
        return found

    def number(self, value: int) -> Any:
        return self._i64(value)

    def aligned(self, value: Any, to: int = 64) -> Any:
        """Return a value rounded up to a power of two."""
        return self.builder.and_(self.builder.add(value, self.number(to - 1)), self.number(-to))

    def largest(self, values: list[Any]) -> Any:
        """Return the largest of values, 0 of none."""
        best = values[0] if values else self.number(0)
        for value in values[1:]:
            best = self.builder.select(self.builder.icmp_signed(">", value, best), value, best)
        return best

    def _sum(self, size: Dim) -> Any:
        if size.constant is not None:
            return self.number(size.constant)
        total = None
        for monomial, coefficient in size.terms:
            term = self.number(coefficient) if coefficient != 1 or not monomial else None
            for atom in monomial:
                value = self._atom(atom, size)
                term = value if term is None else self.builder.mul(term, value)
            total = term if total is None else self.builder.add(total, term)
        return total

    def _atom(self, atom: Atom, size: Dim) -> Any:
        if isinstance(atom, str):
            if atom not in self._symbols:
                raise UsageError(f"{size}: no call gives {atom}; {near_misses(atom, self._symbols, noun='symbol')}")
            return self._symbols[atom]
        found = self._known.get(atom)
        if found is None:
            found = self._known[atom] = self._applied(atom)
        return found

    def _applied(self, atom: Opaque) -> Any:
        values = [self.of(operand) for operand in atom.operands]
        if isinstance(atom, FloorDiv | Mod):
            return self._divided(*values, remainder=isinstance(atom, Mod))
        sign, (best, *rest) = "<" if isinstance(atom, Min) else ">", values
        for value in rest:
            best = self.builder.select(self.builder.icmp_signed(sign, value, best), value, best)
        return best

    def _divided(self, left: Any, right: Any, *, remainder: bool) -> Any:
        b, zero = self.builder, self.number(0)
        # A processor stops at a division by zero; here it is computed before it is known to be needed.
        none = b.icmp_signed("==", right, zero)
        divisor = b.select(none, self.number(1), right)
        quotient, rest = b.sdiv(left, divisor), b.srem(left, divisor)
        apart = b.and_(b.icmp_signed("!=", rest, zero), b.icmp_signed("<", b.xor(rest, divisor), zero))
        floor = b.select(apart, b.sub(quotient, self.number(1)), quotient)
        modulo = b.select(apart, b.add(rest, divisor), rest)
        return b.select(none, zero, modulo if remainder else floor)

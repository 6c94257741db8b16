"""Sizes as ONNX nodes: what the shapes of the inputs give, and arithmetic on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.atoms import Atom, FloorDiv, Max, Min, Mod
from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim, symbol

__all__ = ["SizeFormulas"]

Emit: TypeAlias = Callable[..., str]
"""`emit(op_type, input names, **attributes)` adds a node and returns the name of its output."""


class SizeFormulas:
    """Names of int64 tensors of shape (1,) that hold sizes; each is computed once.

    Args:
        emit: Adds a node.
        number: Adds a constant vector of numbers.
        facts: What is known of the symbols.
    """

    def __init__(self, emit: Emit, number: Callable[[list[int]], str], facts: Facts) -> None:
        self._emit = emit
        self._number = number
        self._facts = facts
        self._names: dict[Dim, str] = {}
        self._places: dict[str, tuple[str, int, Dim]] = {}

    def learn(self, value: Value, name: str) -> None:
        """Take note of where symbols can be read off: the axes of a tensor that exists from now on."""
        for axis, size in enumerate(value.shape):
            for one in size.symbols:
                known = self._places.get(one)
                # An axis that is the symbol itself is better than one that is a multiple of it.
                better = known is not None and size == symbol(one) != known[2]
                if better or (known is None and _solvable(size, one)):
                    self._places[one] = (name, axis, size)

    def one(self, size: Dim) -> str:
        """Return the name of a tensor of shape (1,) that holds a size."""
        found = self._names.get(size)
        if found is None:
            found = self._names[size] = self._made(size)
        return found

    def vector(self, sizes: list[Dim]) -> str:
        """Return the name of a vector of sizes."""
        numbers = [size.constant for size in sizes]
        if all(number is not None for number in numbers):
            return self._number([number or 0 for number in numbers])
        if len(sizes) == 1:
            return self.one(sizes[0])
        return self._emit("Concat", [self.one(size) for size in sizes], axis=0)

    def _made(self, size: Dim) -> str:
        if size.constant is not None:
            return self._number([size.constant])
        if size == symbol(name := next(iter(size.symbols))):
            return self._symbol(name)
        total = ""
        for monomial, coefficient in size.terms:
            factors = [self._atom(atom) for atom in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.append(self.one(Dim.of(abs(coefficient))))
            term = factors[0]
            for factor in factors[1:]:
                term = self._emit("Mul", [term, factor])
            if total:
                total = self._emit("Add" if coefficient > 0 else "Sub", [total, term])
            else:
                total = term if coefficient > 0 else self._emit("Neg", [term])
        return total

    def _atom(self, atom: Atom) -> str:
        if isinstance(atom, str):
            return self.one(symbol(atom))
        operands = [self.one(operand) for operand in atom.operands]
        if isinstance(atom, Mod):
            return self._emit("Mod", operands)
        if isinstance(atom, (Min, Max)):
            return self._emit("Min" if isinstance(atom, Min) else "Max", operands)
        assert isinstance(atom, FloorDiv)
        above, below = atom.operands
        if self._facts.le(0, above) is Answer.YES and self._facts.le(1, below) is Answer.YES:
            return self._emit("Div", operands)
        # ONNX divides toward zero; without the remainder, which has the sign of the divisor, both are the floor.
        rest = self._emit("Mod", operands)
        return self._emit("Div", [self._emit("Sub", [operands[0], rest]), operands[1]])

    def _symbol(self, name: str) -> str:
        place = self._places.get(name)
        if place is not None:
            tensor, axis, size = place
            return self._solved(size, name, self._emit("Shape", [tensor], start=axis, end=axis + 1))
        solved = self._facts.normalise(symbol(name))
        if solved == symbol(name) or not solved.symbols <= self._places.keys():
            raise UsageError(
                f"size {name!r} cannot be computed from the shapes of the inputs; give the program an input that has it"
            )
        return self.one(solved)

    def _solved(self, size: Dim, name: str, axis: str) -> str:
        """Return the symbol for the size `a * symbol + b` of an axis."""
        factor, rest = _parts(size, name)
        if rest != 0:
            axis = self._emit("Sub", [axis, self.one(rest)])
        return axis if factor == 1 else self._emit("Div", [axis, self._number([factor])])


def _parts(size: Dim, name: str) -> tuple[int, Dim]:
    factor = next((c for monomial, c in size.terms if monomial == (name,)), 0)
    return factor, size - symbol(name) * factor


def _solvable(size: Dim, name: str) -> bool:
    factor, rest = _parts(size, name)
    return factor > 0 and rest.is_constant

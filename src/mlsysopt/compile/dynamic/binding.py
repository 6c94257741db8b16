"""From the shapes of a call to the sizes of symbols, with one line for whatever does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mlsysopt.compile.errors import CompileError, InputError
from mlsysopt.graph.facts import Facts, eq
from mlsysopt.graph.ir import Graph, Value
from mlsysopt.graph.statements import Divides, Equal, Range
from mlsysopt.graph.symbolic import Dim

__all__ = ["Binding", "fits", "mismatch"]

Shapes = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class _Read:
    """How a symbol is read off an axis: `size = coefficient * symbol + offset`, both of symbols that are known."""

    symbol: str
    input: int
    axis: int
    coefficient: Callable[..., int] | None
    offset: Callable[..., int] | None


class Binding:
    """What the inputs of a program say about its symbols.

    Args:
        graph: The program.
        symbols: The symbols whose sizes a call needs.

    Raises:
        CompileError: a symbol that no input says.
    """

    def __init__(self, graph: Graph, symbols: Sequence[str]) -> None:
        self.inputs = graph.inputs
        self.outputs = tuple(dict.fromkeys(graph.outputs))
        self.facts: Facts = graph.facts
        self.symbols = tuple(symbols)
        self._reads, known = _reads(graph.inputs)
        self._derived: list[tuple[str, Callable[..., int]]] = []
        for name in sorted({*symbols, *graph.facts.symbols} - set(known)):
            formula = graph.facts.normalise(Dim.of(name))
            if name not in formula.symbols and formula.symbols <= set(known):
                self._derived.append((name, formula.compile(known)))
        # Derived sizes are formulas of what inputs say, so they come after all of it.
        self._known = tuple(known)
        self._all = (*known, *(name for name, _ in self._derived))
        lost = [name for name in symbols if name not in self._all]
        if lost:
            raise CompileError(
                f"the size {lost[0]} stands in no input of {graph.name}: an executable reads all sizes off its inputs"
            )
        self._accepts = _accepts(self.inputs, self.facts, self._all)
        self._order = tuple(self._all.index(name) for name in symbols)

    def sizes(self, shapes: Shapes) -> dict[str, int]:
        """Return the size of each symbol.

        Args:
            shapes: One shape for each input, of the right rank.

        Raises:
            InputError: sizes outside the declared range, or that contradict each other.
        """
        values: list[int] = []
        for read in self._reads:
            got = shapes[read.input][read.axis]
            if read.offset is not None:
                got -= read.offset(*values)
            if read.coefficient is not None:
                factor = read.coefficient(*values)
                # With a factor of 0 nothing is said about the symbol: it takes its smallest size.
                got, rest = divmod(got, factor) if factor else (max(self._least(read.symbol), 0), got)
                if rest:
                    self._unsolved(read, shapes)
            values.append(got)
        values += [formula(*values) for _, formula in self._derived]
        sizes = dict(zip(self._all, values, strict=True))
        if not self._accepted(shapes, values):
            self._refuse(shapes, sizes)
        return sizes

    def ordered(self, sizes: Mapping[str, int]) -> list[int]:
        """Return sizes in the order of the symbols that a call needs."""
        return [sizes[name] for name in self.symbols]

    def is_empty(self, sizes: Mapping[str, int]) -> bool:
        """Return whether no output has an element, so that there is nothing to compute."""
        return all(any(size.at(sizes) == 0 for size in value.shape) for value in self.outputs)

    def _accepted(self, shapes: Shapes, values: Sequence[int]) -> bool:
        try:
            return self._accepts(shapes, *values)
        except ZeroDivisionError:
            return False

    def _least(self, symbol: str) -> int:
        return self.facts.range(Dim.of(symbol))[0] or 0

    def _unsolved(self, read: _Read, shapes: Shapes) -> NoReturn:
        value, got = self.inputs[read.input], shapes[read.input][read.axis]
        raise InputError(f"{value.name}: axis {read.axis} is {value.shape[read.axis]}, no {read.symbol} makes it {got}")

    def _refuse(self, shapes: Shapes, sizes: Mapping[str, int]) -> None:
        """Raise the one line for the first thing that does not hold; sizes that leave nothing to do pass."""
        said = {read.symbol: self.inputs[read.input].name for read in self._reads}
        for value, shape in zip(self.inputs, shapes, strict=True):
            for axis, (size, got) in enumerate(zip(value.shape, shape, strict=True)):
                wanted = size.at(sizes)
                if wanted == got:
                    continue
                if size.is_constant:
                    raise InputError(mismatch(value, value.type.dtype.name, shape))
                raise InputError(self._apart(value, axis, size, got, sizes, said))
        empty = self.is_empty(sizes)
        for fact in self.facts:
            if not fact.symbols <= sizes.keys() or not fact.broken(sizes):
                continue
            if isinstance(fact, Range):
                if empty and sizes[fact.symbol] == 0:
                    continue
                raise InputError(_outside(fact, sizes[fact.symbol]))
            if isinstance(fact, Equal):
                left, right = (self._of(size, said) for size in (fact.left, fact.right))
                a, b = fact.left.at(sizes), fact.right.at(sizes)
                raise InputError(f"{left} is {a} but {right} is {b} (equal because of {fact.origin})")
            if not empty:
                raise InputError(fact.broken(sizes))
        negative = next((name for name, size in sizes.items() if size < 0), None)
        if negative is not None:
            raise InputError(f"{negative} = {sizes[negative]}: a size is at least 0")

    def _of(self, size: Dim, said: Mapping[str, str]) -> str:
        names = sorted({said[name] for name in size.symbols if name in said})
        return f"{size} of {' and '.join(names)}" if names else str(size)

    def _apart(
        self, value: Value, axis: int, size: Dim, got: int, sizes: Mapping[str, int], said: Mapping[str, str]
    ) -> str:
        """Return the line for an axis whose size others have said already."""
        first = next((one for one in sorted(size.symbols) if said.get(one, value.name) != value.name), None)
        name = str(size)
        if name in sizes and name not in said:
            # The facts said it: a formula of symbols that inputs say.
            formula = self.facts.normalise(size)
            why = ", ".join(str(one) for one in self.facts.why(eq(size, formula)))
            left = self._of(formula, said)
            return f"{left} is {sizes[name]} but {name} of {value.name} is {got} (equal because of {why})"
        if name in sizes and first is not None:
            return (
                f"{name} of {said[name]} is {sizes[name]} but {name} of {value.name} is {got} "
                f"(equal because both are declared {name})"
            )
        known = ", ".join(f"{one} = {sizes[one]}" for one in sorted(size.symbols))
        return f"{value.name}: axis {axis} is {size} = {size.at(sizes)} with {known}, got {got}"


def mismatch(value: Value, dtype: str, shape: Sequence[int]) -> str:
    """Return the line for an input of another type, rank or fixed size."""
    rank = f" (rank {len(shape)})" if len(shape) != value.type.rank else ""
    return f"{value.name}: expected {value.type}, got {dtype}[{', '.join(map(str, shape))}]{rank}"


def fits(value: Value, shape: Sequence[int]) -> bool:
    """Return whether rank and fixed sizes are right."""
    return len(shape) == value.type.rank and all(
        size.constant is None or size.constant == got for size, got in zip(value.shape, shape, strict=True)
    )


def _outside(fact: Range, size: int) -> str:
    low, high = ("" if end is None else str(end) for end in (fact.low, fact.high))
    word = "max" if fact.high is not None and size > fact.high else "min"
    return f"{fact.symbol} = {size}, declared {low}..{high}: recompile with dims({word}=...)"


def _reads(inputs: Sequence[Value]) -> tuple[list[_Read], list[str]]:
    """Find an order in which every symbol can be read off an axis; plain axes come first."""
    known: list[str] = []
    reads: list[_Read] = []
    axes = [(i, axis, size) for i, value in enumerate(inputs) for axis, size in enumerate(value.shape)]
    axes.sort(key=lambda one: len(one[2].terms) + len(one[2].symbols))
    grew = True
    while grew:
        grew = False
        for i, axis, size in axes:
            open_symbols = size.symbols - set(known)
            if len(open_symbols) != 1:
                continue
            (symbol,) = open_symbols
            parts = _linear(size, symbol)
            if parts is None:
                continue
            coefficient, offset = parts
            reads.append(
                _Read(
                    symbol,
                    i,
                    axis,
                    None if coefficient == 1 else coefficient.compile(known),
                    None if offset == 0 else offset.compile(known),
                )
            )
            known.append(symbol)
            grew = True
    return reads, known


def _linear(size: Dim, symbol: str) -> tuple[Dim, Dim] | None:
    """Return coefficient and offset of a symbol, None when it does not stand there linearly."""
    offset = size.substitute({symbol: 0}) if _plain(size, symbol) else None
    if offset is None:
        return None
    coefficient = size.substitute({symbol: 1}) - offset
    return (coefficient, offset) if coefficient != 0 else None


def _plain(size: Dim, symbol: str) -> bool:
    for monomial, _ in size.terms:
        if monomial.count(symbol) > 1:
            return False
        if any(not isinstance(atom, str) and symbol in _inside(atom) for atom in monomial):
            return False
    return True


def _inside(atom: Any) -> frozenset[str]:
    return frozenset[str]().union(*(operand.symbols for operand in atom.operands))


def _accepts(inputs: Sequence[Value], facts: Facts, known: Sequence[str]) -> Callable[..., bool]:
    """Return a fast function of shapes and sizes that says whether everything holds."""
    clauses: list[str] = []
    for i, value in enumerate(inputs):
        for axis, size in enumerate(value.shape):
            if size.symbols <= set(known):
                clauses.append(f"shapes_[{i}][{axis}] == {size.source(known)}")
    clauses += [f"{name} >= 0" for name in known]
    for fact in facts:
        if not fact.symbols <= set(known):
            continue
        if isinstance(fact, Range):
            clauses += [f"{fact.symbol} >= {fact.low}"] * (fact.low is not None)
            clauses += [f"{fact.symbol} <= {fact.high}"] * (fact.high is not None)
        elif isinstance(fact, Divides):
            clauses.append(f"{fact.size.source(known)} % {fact.k} == 0")
        else:
            relation = "==" if isinstance(fact, Equal) else "<="
            clauses.append(f"{fact.left.source(known)} {relation} {fact.right.source(known)}")
    # Names are checked identifiers and numbers are ours: see Dim.compile.
    text = f"lambda shapes_, {', '.join(known)}: {' and '.join(dict.fromkeys(clauses)) or 'True'}"
    return eval(text, {"__builtins__": {}, "min": min, "max": max})

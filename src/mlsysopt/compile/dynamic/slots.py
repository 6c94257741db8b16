"""Arena slots of a lowered program: `graph.memory` colours its steps, which are written down as a program for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlsysopt.graph.atoms import Max, Opaque
from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.memory.buffers import Accounting
from mlsysopt.graph.memory.colouring import slots
from mlsysopt.graph.memory.typical import typical_sizes
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import OpDef, Types, Variadic, define
from mlsysopt.graph.symbolic import Dim, of_atom
from mlsysopt.graph.types import u8

__all__ = ["Slots", "Touch", "assign"]


@dataclass(frozen=True, slots=True)
class Touch:
    """What a step does to memory.

    Attributes:
        reads: Values that own the bytes it reads.
        writes: Values that own the bytes it writes.
        reuses: One of `reads` whose bytes the first of `writes` may take, None for none.
    """

    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    reuses: Value | None = None


@dataclass(frozen=True, slots=True)
class Slots:
    """Where values are.

    Attributes:
        sizes: Bytes of each slot.
        members: Names of the values in each, in order.
        of: Name of a value -> its slot.
    """

    sizes: tuple[Dim, ...]
    members: tuple[tuple[str, ...], ...]
    of: Mapping[str, int]


def assign(touches: Sequence[Touch], owned: Sequence[Value], facts: Facts) -> Slots:
    """Give every value that lives in the arena a slot.

    Args:
        touches: Steps, in order.
        owned: Values that live in the arena; others are inputs, outputs and constants.
        facts: What is known of the symbols.
    """
    _define()
    plain = _Plain(facts, owned)
    mine = {value: Value(value.name, u8[plain.of(value.type.bytes)]) for value in owned}
    made: set[Value] = set()
    ops: list[Op] = []
    for touch in touches:
        first = mine.get(touch.reuses) if touch.reuses is not None and touch.reuses in touch.reads else None
        reads = tuple(dict.fromkeys(mine[value] for value in touch.reads if value in mine))
        if first is not None:
            reads = (first, *(value for value in reads if value is not first))
        # A value that is written in parts is made by the first of them and needed by the others.
        writes = tuple(dict.fromkeys(mine[value] for value in touch.writes if value in mine))
        fresh = tuple(value for value in writes if value not in made)
        again = tuple(value for value in writes if value in made and value not in reads)
        made.update(fresh)
        # The bytes are promised to the first result; where that lies elsewhere, no other one may take them.
        in_place = first is not None and fresh[:1] == (mine.get(touch.writes[0]),)
        ops.append(Op(_IN_PLACE if in_place else _STEP, (*reads, *again), fresh))
    program = Graph("steps", ops=tuple(ops), facts=plain.facts)
    found = slots(program, range(len(ops)), Accounting(inputs=False, outputs=False))
    return Slots(tuple(map(plain.back, found.sizes)), found.members, found.of)


class _ByCoefficients(Facts):
    """Facts that compare sizes by their coefficients alone: symbols are at least 0, and that is all that is used.

    Proofs about products of rounded quotients take a second each in a net with five strides in a row, and hundreds of
    pairs are asked for; what is not seen here is decided by typical sizes.
    """

    __slots__ = ("_typical",)

    def __init__(self, typical: Mapping[str, int]) -> None:
        super().__init__()
        self._typical = typical

    def likely(self, symbol: str | Dim) -> dict[int, float]:
        return {self._typical[str(symbol)]: 1.0}

    def eq(self, left: Dim | int, right: Dim | int) -> Answer:
        return Answer.YES if left == right else Answer.UNKNOWN

    def le(self, left: Dim | int, right: Dim | int) -> Answer:
        small, large = Dim.of(left), Dim.of(right)
        held = all(any(_grows(one, other) for other in _candidates(large)) for one in _candidates(small))
        return Answer.YES if held else Answer.UNKNOWN


def _candidates(size: Dim) -> tuple[Dim, ...]:
    """Return what a size is the largest of."""
    (atom,) = size.atoms if len(size.atoms) == 1 else (None,)
    return atom.operands if isinstance(atom, Max) and of_atom(atom) == size else (size,)


def _grows(small: Dim, large: Dim) -> bool:
    return all(coefficient >= 0 for _, coefficient in (large - small).terms)


class _Plain:
    """Sizes as polynomials: what is none, such as a rounded quotient, becomes a symbol of its own."""

    def __init__(self, facts: Facts, owned: Sequence[Value]) -> None:
        self.known = facts
        self.names: dict[Opaque, str] = {}
        symbols = {name for value in owned for name in self.known.normalise(value.type.bytes).symbols}
        self.typical = typical_sizes(facts, symbols | set(facts.symbols))

    @property
    def facts(self) -> Facts:
        """Facts about the sizes that `of` returned."""
        return _ByCoefficients(self.typical)

    def of(self, size: Dim) -> Dim:
        """Return a size with a symbol in place of everything that is no polynomial."""
        total = Dim.of(0)
        for monomial, coefficient in self.known.normalise(size).terms:
            term = Dim.of(coefficient)
            for atom in monomial:
                term = term * Dim.of(atom if isinstance(atom, str) else self._name(atom))
            total = total + term
        return total

    def back(self, size: Dim) -> Dim:
        """Return a size in the symbols of the program."""
        return size.substitute({name: of_atom(atom) for atom, name in self.names.items()})

    def _name(self, atom: Opaque) -> str:
        found = self.names.get(atom)
        if found is None:
            number = len(self.names)
            while (found := f"quotient_{number}") in self.typical:
                number += 1
            self.names[atom] = found
            self.typical[found] = max(of_atom(atom).at(self.typical), 1)
        return found


_STEP, _IN_PLACE = "flow.step", "flow.step_in_place"


def _define() -> None:
    """Make the two kinds known to the memory planner; they are written down here and nowhere else."""
    for kind, in_place in ((_STEP, ()), (_IN_PLACE, (0,))):
        if kind not in _KINDS:
            _KINDS[kind] = OpDef(kind, Variadic(0), _no_rule, _no_meaning, in_place=in_place)
        define(_KINDS[kind])


_KINDS: dict[str, OpDef] = {}


def _no_rule(rule: Inference, types: Types, attrs: object) -> tuple[()]:
    raise NotImplementedError("a step of a flow has no type rule: it only says what is read and written")


def _no_meaning(operands: object, attrs: object) -> tuple[()]:
    raise NotImplementedError("a step of a flow has no meaning of its own: it only says what is read and written")

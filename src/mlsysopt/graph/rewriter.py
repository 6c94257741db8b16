"""Edits of a program: replacements are recorded, then a new program is made from what is still used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import Builder
from mlsysopt.graph.ir import Graph, Op, Value

__all__ = ["Rewriter", "Rewritten"]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A new program and what became of the old one's values.

    Attributes:
        graph: The new program, without dead ops and constants.
        values: Old value -> new value, for every old value that is still there or was replaced.
    """

    graph: Graph
    values: Mapping[Value, Value]


class Rewriter:
    """Records edits of one program; `finish` carries them out in the order of the program.

    New ops are made at the place of the op that they stand for, so they may read whatever it could
    read. A program that was finished is not touched by later calls.

    >>> from mlsysopt.graph import f32
    >>> b = Builder("f")
    >>> x = b.input("x", f32["N"])
    >>> y = b.op("neg", b.op("neg", x), name="y")
    >>> g = b.finish([y])
    >>> edit = Rewriter(g)
    >>> edit.replace(g.value("y"), g.input("x"))
    >>> edit.finish().graph.ops
    ()
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._values: dict[Value, Value] = {}
        self._made: dict[str, list[_Make]] = {}  # by the name of the op that they stand before
        self._outputs: tuple[Value, ...] | None = None
        self._pending = 0

    def replace(self, old: Value, new: Value) -> None:
        """Let every reader of `old` read `new`, which an earlier op, input or constant defines.

        Raises:
            UsageError: the types do not fit, or `new` is replaced by `old` in turn.
        """
        if old.type.dtype is not new.type.dtype or old.type.rank != new.type.rank:
            raise UsageError(f"%{old.name}: {old.type} cannot be replaced by %{new.name}: {new.type}")
        seen: Value | None = new
        while seen is not None:
            if seen == old:
                raise UsageError(f"%{old.name} cannot be replaced by %{new.name}, which is replaced by it")
            seen = self._values.get(seen)
        self._values[old] = new

    def make(self, place: Op, kind: str, *operands: Value, name: str = "", **attrs: Any) -> Value:
        """Add an op at the place of another one and return its result, for `replace`.

        Args:
            place: The op before which it stands; its source line is taken over.
            kind: Op kind; it has one result.
            operands: Values of the old program, or made here before at no later place.
            name: Wish for its name.
            attrs: Attributes.
        """
        probe = Builder(self._graph.name, self._graph.facts)
        self._pending += 1
        made = probe.op(kind, *operands, name=name or f"{place.name}.{kind}.{self._pending}", loc=place.loc, **attrs)
        step = _Make(kind, operands, made, dict(attrs))
        self._made.setdefault(place.name, []).append(step)
        return made

    def return_values(self, outputs: Sequence[Value]) -> None:
        """Let the program return other values."""
        self._outputs = tuple(outputs)

    def finish(self) -> Rewritten:
        """Carry out the edits and remove what nobody reads any more."""
        graph = self._graph
        builder = Builder(graph.name)
        builder.add_inputs(graph)
        for op in graph.ops:
            builder.reserve(value.name for value in op.results)
        found: dict[Value, Value] = {value: value for value in graph.inputs}
        found.update((constant.value, constant.value) for constant in graph.constants)

        def now(value: Value) -> Value:
            while value in self._values:
                value = self._values[value]
            return found.get(value, value)

        ops: list[Op] = []
        for op in graph.ops:
            for step in self._made.get(op.name, ()):
                made = builder.op(step.kind, *map(now, step.operands), name=step.result.name, loc=op.loc, **step.attrs)
                found[step.result] = made
                ops.append(builder.last)
            operands = tuple(now(value) for value in op.operands)
            regions = tuple(_rewired(region, now) for region in op.regions)
            kept = (
                op
                if (operands, regions) == (op.operands, op.regions)
                else replace(op, operands=operands, regions=regions)
            )
            ops.append(kept)
            found.update(zip(op.results, kept.results, strict=True))
        outputs = tuple(now(value) for value in (self._outputs or graph.outputs))
        rewritten = live(replace(graph, ops=tuple(ops), outputs=outputs, facts=builder.facts))
        alive = set(rewritten.values.values())
        final = {value: now(value) for value in [*found, *self._values]}
        return Rewritten(rewritten, {old: new for old, new in final.items() if new in alive})


@dataclass(frozen=True, slots=True)
class _Make:
    kind: str
    operands: tuple[Value, ...]
    result: Value
    attrs: dict[str, Any]


def live(graph: Graph) -> Graph:
    """Return the program without ops and constants that no output needs; inputs stay."""
    needed = set(graph.outputs)
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if any(value in needed for value in op.results):
            kept.append(op)
            needed.update(op.operands)
            for region in op.regions:
                needed.update(free_values(region))
    constants = tuple(constant for constant in graph.constants if constant.value in needed)
    if len(kept) == len(graph.ops) and len(constants) == len(graph.constants):
        return graph
    return replace(graph, constants=constants, ops=tuple(reversed(kept)))


def _rewired(region: Graph, now: Callable[[Value], Value]) -> Graph:
    """Return a region whose reads of values around it follow the edits."""
    outer = {value: now(value) for value in free_values(region)}
    if all(old == new for old, new in outer.items()):
        return region
    ops = tuple(
        replace(
            op,
            operands=tuple(outer.get(value, value) for value in op.operands),
            regions=tuple(_rewired(inner, lambda value: outer.get(value, value)) for inner in op.regions),
        )
        for op in region.ops
    )
    return replace(region, ops=ops, outputs=tuple(outer.get(value, value) for value in region.outputs))


def free_values(region: Graph) -> set[Value]:
    """Return the values that a region reads from around it."""
    own = set(region.values.values())
    read = {value for op in region.ops for value in op.operands} | set(region.outputs)
    for op in region.ops:
        for inner in op.regions:
            read |= free_values(inner)
    return read - own

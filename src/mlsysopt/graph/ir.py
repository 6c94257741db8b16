"""The program: values, ops and graphs, all immutable.

Ops stand in an order in which they can run; every value has one definition. A change is a new
graph, made by `Rewriter`. Equality is by content, names included; `hash.canonical_hash` is the
equality that ignores names and the order of independent ops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, TensorType

if TYPE_CHECKING:
    from mlsysopt.graph.sources import Source

__all__ = ["NOWHERE", "NO_ATTRS", "Attr", "Attrs", "Constant", "Graph", "Loc", "Op", "Value"]

Attr = bool | int | float | str | Dim | DType | TensorType | None | tuple["Attr", ...]
"""What an attribute may be; tuples nest."""


class Attrs(Mapping[str, Attr]):
    """Attributes of an op: an immutable mapping with a fixed order of its keys.

    >>> attrs = Attrs({"keepdims": True, "axes": (1,)})
    >>> attrs["axes"], list(attrs)
    ((1,), ['axes', 'keepdims'])
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Attr] | Iterable[tuple[str, Attr]] = ()) -> None:
        self._items: dict[str, Attr] = dict(sorted(dict(items).items()))

    def __getitem__(self, key: str) -> Attr:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Attrs):
            return self._items == other._items and _typed(self) == _typed(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return f"Attrs({self._items!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Attrs, (self._items,)

    def changed(self, **changes: Attr) -> Attrs:
        """Return these with some replaced or added."""
        return Attrs({**self._items, **changes})


def _typed(attrs: Attrs) -> list[str]:
    # 1 == 1.0 == True in Python; in a program they are three attributes.
    return [type(value).__name__ for value in attrs.values()]


NO_ATTRS = Attrs()


@dataclass(frozen=True, slots=True)
class Loc:
    """Where in the user's model an op comes from.

    Attributes:
        file: Source file, "" when unknown.
        line: Line, 0 when unknown.
        module: Path of the module, e.g. "encoder.layer.0".
    """

    file: str = ""
    line: int = 0
    module: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return " ".join(word for word in (place, self.module) if word)


NOWHERE = Loc()


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor of the program. Names are unique in a graph, so the name alone is hashed."""

    name: str
    type: TensorType

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return f"%{self.name}"

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape


@dataclass(frozen=True, slots=True)
class Constant:
    """A weight: a value and where its bytes are. Two are equal when their bytes are known to be.

    Attributes:
        value: Name and type; the shape holds numbers only.
        source: Where the bytes are.
        label: Name in the model it came from, e.g. "encoder.layer.0.weight"; people read it.
    """

    value: Value
    source: Source = field(compare=False)
    label: str = ""

    @property
    def name(self) -> str:
        return self.value.name

    @property
    def type(self) -> TensorType:
        return self.value.type

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant):
            return NotImplemented
        mine, theirs = (self.value, self.label), (other.value, other.label)
        return mine == theirs and (self.source is other.source or self.source.key == other.source.key)

    def __hash__(self) -> int:
        return hash(self.value)


@dataclass(frozen=True, slots=True)
class Op:
    """One operation.

    Attributes:
        kind: Name in the op registry; a dot separates the op set, e.g. "dist.all_reduce".
        operands: Values it reads.
        results: Values it defines, at least one.
        attrs: Attributes, complete: defaults are filled in by the builder.
        regions: Programs inside it.
        loc: Where it comes from; no part of equality.
    """

    kind: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    attrs: Attrs = NO_ATTRS
    regions: tuple[Graph, ...] = ()
    loc: Loc = field(default=NOWHERE, compare=False)

    @property
    def result(self) -> Value:
        """The only result."""
        if len(self.results) != 1:
            raise UsageError(f"{self.kind} has {len(self.results)} results: choose one of them")
        return self.results[0]

    @property
    def name(self) -> str:
        """The name of its first result: what people call the op by."""
        return self.results[0].name

    def where(self) -> str:
        """Return `kind` with its source, for messages."""
        return f"{self.kind} at {self.loc}" if self.loc != NOWHERE else f"{self.kind} %{self.name}"


@dataclass(frozen=True)
class Graph:
    """A tensor program.

    Attributes:
        name: Its name in the text form.
        inputs: Values that the caller gives.
        constants: Weights, each once.
        ops: Operations in an order in which they can run.
        outputs: Values that the caller gets.
        facts: What is known about the symbols in the shapes.
    """

    name: str
    inputs: tuple[Value, ...] = ()
    constants: tuple[Constant, ...] = ()
    ops: tuple[Op, ...] = ()
    outputs: tuple[Value, ...] = ()
    facts: Facts = field(default_factory=Facts)

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """Every value by its name: inputs, constants, results."""
        found = {value.name: value for value in self.inputs}
        found.update((constant.name, constant.value) for constant in self.constants)
        for op in self.ops:
            for value in op.results:
                found[value.name] = value
        return found

    @cached_property
    def producers(self) -> Mapping[Value, Op]:
        """The op that defines each result."""
        return {value: op for op in self.ops for value in op.results}

    @cached_property
    def users(self) -> Mapping[Value, tuple[Op, ...]]:
        """The ops that read each value, in order, each once; a value that nobody reads is absent."""
        found: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.operands):
                found.setdefault(value, []).append(op)
        return {value: tuple(ops) for value, ops in found.items()}

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Symbols of all shapes, sorted."""
        names: set[str] = set()
        for value in self.values.values():
            names |= value.type.symbols
        return tuple(sorted(names))

    def input(self, name: str) -> Value:
        """Return an input by its name."""
        return self._named(name, {value.name: value for value in self.inputs}, "input")

    def constant(self, name: str) -> Constant:
        """Return a constant by its name in the program or in the model."""
        named = {constant.name: constant for constant in self.constants}
        named.update((constant.label, constant) for constant in self.constants if constant.label)
        return self._named(name, named, "constant")

    def value(self, name: str) -> Value:
        """Return any value by its name."""
        return self._named(name, self.values, "value")

    def producer(self, value: Value) -> Op | None:
        """Return the op that defines a value, None for inputs and constants."""
        return self.producers.get(value)

    @property
    def signature(self) -> str:
        """One line: name, inputs and outputs with their types, and what is known of the symbols."""
        from mlsysopt.graph.text import signature

        return signature(self)

    def verify(self) -> None:
        """Check every rule of the program.

        Raises:
            GraphError: all findings at once, each with op, rule and source line.
        """
        from mlsysopt.graph.verify import verify

        verify(self)

    def with_facts(self, facts: Facts) -> Graph:
        return replace(self, facts=facts)

    def __str__(self) -> str:
        from mlsysopt.graph.text import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.inputs)} inputs, {len(self.constants)} constants, {len(self.ops)} ops>"

    def _named(self, name: str, named: Mapping[str, Any], noun: str) -> Any:
        if name not in named:
            raise UsageError(f"graph {self.name} has no {noun} {name!r}; {near_misses(name, named, noun=noun)}")
        return named[name]

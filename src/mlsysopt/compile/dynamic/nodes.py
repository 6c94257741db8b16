"""Nodes of a kernel before its loops have an order: loops go by number, sizes are formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from mlsysopt.compile.dynamic.domain import Arrangement
from mlsysopt.compile.dynamic.indices import Index
from mlsysopt.compile.dynamic.roles import REDUCTIONS
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim

__all__ = ["Expr", "Expressions", "Gathered", "Load", "NodeTable", "Root", "Window", "in_order", "loaded"]


@dataclass(frozen=True, slots=True)
class Window:
    """A loop and the range of it in which a place exists."""

    loop: int
    low: Dim
    high: Dim


@dataclass(frozen=True, slots=True)
class Gathered:
    """An axis along which data says where to read."""

    node: int
    stride: Dim
    size: Dim


@dataclass(frozen=True, slots=True)
class Load:
    """Where an element is read or written.

    Attributes:
        base: The value that owns the bytes.
        place: `offset + sum(loop * stride)`, as an index.
        gathered: Axes along which data decides.
        windows: Ranges of loops within which the element exists.
        outside: What is read elsewhere.
    """

    base: Value
    place: Index
    gathered: tuple[Gathered, ...] = ()
    windows: tuple[Window, ...] = ()
    outside: float = 0.0


@dataclass(frozen=True, slots=True)
class Expr:
    """A node; `value` is a number, a loop, or a size.

    Attributes:
        op, args, dtype: As in `codegen.program.Node`.
        value: The number of a "const", the loop of an "index", the size of a "param".
        load: What a "load" reads.
        loops: The loops that it varies with.
        level: The first pass that can compute it.
    """

    op: str
    args: tuple[int, ...]
    dtype: str
    value: float | int | bool | Dim = 0
    load: Load | None = None
    loops: frozenset[int] = frozenset()
    level: int = 0


@dataclass(frozen=True, slots=True)
class Root:
    """A value that is stored: its node and its place."""

    value: Value
    node: int
    load: Load


@dataclass
class Expressions:
    """All nodes of a kernel.

    Attributes:
        arrangement: Its loops.
        nodes: Them, arguments in front.
        roots: What is stored.
        reductions: Numbers of the nodes that fold the row.
        pinned: Loops whose counter itself is used, so that they stay as they are.
    """

    arrangement: Arrangement
    nodes: list[Expr]
    roots: list[Root]
    reductions: list[int]
    pinned: set[int]


class NodeTable:
    """Nodes while they are made: equal ones are one.

    Attributes:
        nodes: Them, arguments in front.
        pinned: Loops whose counter itself is used.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.nodes: list[Expr] = []
        self.pinned: set[int] = set()
        self._numbers: dict[Expr, int] = {}

    def counter(self, index: Index) -> int:
        found: int | None = None
        for loop, factor in index.terms:
            self.pinned.add(loop)
            node = self.add(Expr("index", (), "i64", loop, loops=frozenset({loop})))
            if factor != 1:
                node = self.add(Expr("mul", (node, self.size(factor)), "i64"))
            found = node if found is None else self.add(Expr("add", (found, node), "i64"))
        if found is None:
            return self.size(index.constant)
        return found if index.constant == 0 else self.add(Expr("add", (found, self.size(index.constant)), "i64"))

    def size(self, size: Dim) -> int:
        if size.constant is not None:
            return self.const(size.constant, "i64")
        return self.add(Expr("param", (), "i64", self.facts.normalise(size)))

    def const(self, value: float | int | bool, dtype: str) -> int:
        number = bool(value) if dtype == "bool" else float(value) if dtype[0] in "fb" else int(value)
        return self.add(Expr("const", (), dtype, number))

    def cast_to(self, node: int, dtype: str) -> int:
        one = self.nodes[node]
        if one.dtype == dtype:
            return node
        if one.op == "const" and dtype in ("f32", "f64") and one.dtype != "bool":
            return self.const(cast("float", one.value), dtype)
        return self.add(Expr("cast", (node,), dtype))

    def add(self, one: Expr) -> int:
        if one.op in ("const", "index", "param") or one.op in REDUCTIONS:
            full = one
        else:
            loops = frozenset[int]().union(*(self.nodes[arg].loops for arg in one.args))
            level = max((self.nodes[arg].level for arg in one.args), default=0)
            if one.load is not None:
                loops |= one.load.place.loops | {window.loop for window in one.load.windows}
                level = max([level, *(self.nodes[part.node].level for part in one.load.gathered)])
                for window in one.load.windows:
                    self.pinned.add(window.loop)
            full = replace(one, loops=loops, level=level)
        found = self._numbers.get(full)
        if found is None:
            found = self._numbers[full] = len(self.nodes)
            self.nodes.append(full)
        return found


def in_order(windows: Sequence[Window]) -> tuple[Window, ...]:
    return tuple(sorted(dict.fromkeys(windows), key=lambda window: (window.loop, str(window.low), str(window.high))))


def loaded(expressions: Expressions) -> Mapping[Value, None]:
    """Return the values whose bytes are read, each once, in order."""
    return dict.fromkeys(node.load.base for node in expressions.nodes if node.load is not None)

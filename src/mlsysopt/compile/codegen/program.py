"""What a fused kernel computes: loops, accesses and passes, without a word about registers.

A program runs over `parallel` loops - its units of work, flattened - and, for each unit, over the *row*: `reduced`
loops outside, one innermost loop inside, which is the one that becomes vectors.

- schedule "row": the innermost loop belongs to the row; a reduction folds the whole row to one number.
- schedule "column": the innermost loop is parallel; a reduction folds the `reduced` loops only and leaves one number
  for each index of the innermost loop. A unit is then a tile of it: see `row.units`.

Nodes are a DAG in an order in which they can be computed. A node that reads a reduction of pass p can be stored from
pass p + 1 on. `keeps` of a pass go to row buffers: later passes read them there instead of computing them again.
Sizes and strides are numbers or `Param`s, so that programs that differ in sizes only are one kernel.

A program may store where it loads - in place - if both accesses are equal and no later pass loads there again; within
a pass each vector is computed before any of it is stored. A reduction over nothing gives its identity: 0 for a sum,
-inf for a maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlsysopt.core.errors import UsageError

__all__ = ["Access", "Argument", "Indirect", "Node", "Param", "Pass", "Program", "Size", "Store"]


@dataclass(frozen=True, slots=True)
class Param:
    """An integer that the caller gives at run time: number `index` of the kernel's params."""

    index: int

    def __str__(self) -> str:
        return f"p{self.index}"


Size = int | Param


@dataclass(frozen=True, slots=True)
class Argument:
    """A buffer of the kernel.

    Attributes:
        dtype: Name of the element type: f32, f64, f16, bf16, i64, i32, i16, i8, u8, bool (one byte).
        written: Whether the kernel writes it; the others are only read.
    """

    dtype: str
    written: bool = False


@dataclass(frozen=True, slots=True)
class Indirect:
    """A part of an address that data decides: `node * stride`.

    Attributes:
        node: Integer node; it may vary along any loop.
        stride: Elements between two indices.
        size: Number of allowed indices; a negative index counts from the end, as in numpy. An index outside is
            clamped, and reported through `Program.faults`.
    """

    node: int
    stride: Size
    size: Size


@dataclass(frozen=True, slots=True)
class Access:
    """Where an element is: `offset + sum(loop * stride) + sum(indirect)`, in elements.

    Attributes:
        argument: Number of the buffer.
        strides: One for each loop: parallel ones, reduced ones, the innermost last. 0 where it does not vary.
        offset: Elements from the start of the buffer.
        indirect: Parts that data decides.
        window: Loops in which the place exists only in part, as (loop, low, high): outside low <= index < high
            a load gives `outside` instead, a store does nothing. So pad, concat and slices fuse.
        outside: What a load gives there.
    """

    argument: int
    strides: tuple[Size, ...]
    offset: Size = 0
    indirect: tuple[Indirect, ...] = ()
    window: tuple[tuple[int, Size, Size], ...] = ()
    outside: float = 0.0


@dataclass(frozen=True, slots=True)
class Node:
    """One value for each element of the domain.

    Attributes:
        op: "load", "const", "index" (number of the loop in `value`), "param" (number of the param in `value`),
            a reduction ("sum", "max", "min", "prod", "any", "all": NaN wins in max and min), or an
            elementwise kind of `graph.ops`: add, mul, exp, erf, where, cast, lt ...
        args: Numbers of earlier nodes.
        dtype: Name of its element type; f16 and bf16 are computed in f32.
        value: What "const", "index" and "param" need.
        access: What "load" needs.
    """

    op: str
    args: tuple[int, ...] = ()
    dtype: str = "f32"
    value: float | int | bool = 0
    access: Access | None = None


REDUCTIONS = ("sum", "max", "min", "prod", "any", "all")


@dataclass(frozen=True, slots=True)
class Store:
    """Writes a node; what does not vary along the row (schedule "row") is written once, also for an empty row."""

    node: int
    access: Access


@dataclass(frozen=True, slots=True)
class Pass:
    """One sweep over the row.

    Attributes:
        reductions: Reduction nodes that it folds.
        stores: What it writes.
        keeps: Nodes whose rows it keeps for later passes.
    """

    reductions: tuple[int, ...] = ()
    stores: tuple[Store, ...] = ()
    keeps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """A fused kernel.

    Attributes:
        arguments: Its buffers.
        parallel: Sizes of the parallel loops, outermost first; () is one unit.
        reduced: Sizes of the reduced loops outside the innermost one.
        inner: Size of the innermost loop.
        nodes: The values.
        passes: The sweeps, in order.
        schedule: "row" or "column".
        params: How many params it takes.
        faults: Number of the i64 buffer whose first element is set to 1 + the number of the `Indirect`
            whose index was outside, None when nobody wants to know. They are numbered through the accesses of nodes,
            then through those of stores, pass by pass. Nothing is written while all indices are allowed.
    """

    arguments: tuple[Argument, ...]
    parallel: tuple[Size, ...]
    inner: Size
    nodes: tuple[Node, ...]
    passes: tuple[Pass, ...]
    reduced: tuple[Size, ...] = ()
    schedule: str = "row"
    params: int = 0
    faults: int | None = None

    @property
    def loops(self) -> int:
        return len(self.parallel) + len(self.reduced) + 1

    def check(self) -> None:
        """Raise UsageError for a program that no emitter could read: orders, ranks and numbers."""
        for i, node in enumerate(self.nodes):
            if any(arg >= i or arg < 0 for arg in node.args):
                raise UsageError(f"node {i} ({node.op}) reads {node.args}: arguments stand before")
            if node.op == "load" and node.access is None:
                raise UsageError(f"node {i}: a load needs an access")
            if node.access is not None:
                self._check_access(f"node {i}", node.access)
        for p, one in enumerate(self.passes):
            for reduction in one.reductions:
                if self.nodes[reduction].op not in REDUCTIONS:
                    raise UsageError(f"pass {p}: node {reduction} ({self.nodes[reduction].op}) is no reduction")
            for store in one.stores:
                self._check_access(f"store of pass {p}", store.access)
                if not self.arguments[store.access.argument].written:
                    raise UsageError(f"pass {p} writes buffer {store.access.argument}, which is only read")
                if self.level(store.node) > p:
                    raise UsageError(f"pass {p} stores node {store.node}, which pass {self.level(store.node)} knows")
        done = {reduction for one in self.passes for reduction in one.reductions}
        lost = [i for i, node in enumerate(self.nodes) if node.op in REDUCTIONS and i not in done]
        if lost:
            raise UsageError(f"no pass folds node {lost[0]} ({self.nodes[lost[0]].op})")

    def level(self, node: int) -> int:
        """Return the first pass in which a node can be computed; a reduction is known one pass later."""
        return self._levels()[node]

    def _levels(self) -> list[int]:
        folded = {reduction: p for p, one in enumerate(self.passes) for reduction in one.reductions}
        levels: list[int] = []
        for i, node in enumerate(self.nodes):
            needed = max((levels[arg] for arg in self._read(node)), default=0)
            levels.append(folded[i] + 1 if i in folded else needed)
        return levels

    def _read(self, node: Node) -> Sequence[int]:
        indirect = node.access.indirect if node.access is not None else ()
        return (*node.args, *(one.node for one in indirect))

    def _check_access(self, what: str, access: Access) -> None:
        if len(access.strides) != self.loops:
            raise UsageError(f"{what}: {len(access.strides)} strides for {self.loops} loops")
        if not 0 <= access.argument < len(self.arguments):
            raise UsageError(f"{what}: there is no buffer {access.argument}")

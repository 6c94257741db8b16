"""What a program costs: operations and bytes, as formulas of its symbols."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlsysopt.graph.domains.loop import walk
from mlsysopt.graph.domains.symbolic import Costs
from mlsysopt.graph.ir import Graph, Op
from mlsysopt.graph.ops.registry import Cost
from mlsysopt.graph.symbolic import Dim

__all__ = ["CostTable", "OpCost", "OpCostAt", "TotalCost", "cost"]


@dataclass(frozen=True, slots=True)
class OpCost:
    """What one op costs, as formulas.

    Attributes:
        op: The op.
        flops: Floating-point operations; a multiply-add counts as two.
        read_bytes: Bytes of operands.
        write_bytes: Bytes of results.
    """

    op: Op
    flops: Dim
    read_bytes: Dim
    write_bytes: Dim


@dataclass(frozen=True, slots=True)
class OpCostAt:
    """What one op costs, in numbers."""

    name: str
    kind: str
    flops: int
    read_bytes: int
    write_bytes: int


@dataclass(frozen=True, slots=True)
class TotalCost:
    """What a program costs, in numbers.

    Attributes:
        rows: One per op.
        flops: Sum over ops.
        read_bytes: Sum over ops.
        write_bytes: Sum over ops.
    """

    rows: tuple[OpCostAt, ...]
    flops: int
    read_bytes: int
    write_bytes: int

    @property
    def bytes(self) -> int:
        return self.read_bytes + self.write_bytes


@dataclass(frozen=True, slots=True)
class CostTable:
    """What each op of a program costs, and all of them.

    Attributes:
        rows: One per op, in the order of the program.
        flops: Sum over ops, a formula.
        read_bytes: Sum over ops, a formula.
        write_bytes: Sum over ops, a formula.
    """

    rows: tuple[OpCost, ...]
    flops: Dim
    read_bytes: Dim
    write_bytes: Dim

    def at(self, **sizes: int) -> TotalCost:
        """Return the numbers for given sizes of the symbols.

        Raises:
            UsageError: a symbol without a size.
        """
        rows = tuple(
            OpCostAt(row.op.name, row.op.kind, row.flops.at(sizes), row.read_bytes.at(sizes), row.write_bytes.at(sizes))
            for row in self.rows
        )
        return TotalCost(
            rows,
            sum(row.flops for row in rows),
            sum(row.read_bytes for row in rows),
            sum(row.write_bytes for row in rows),
        )

    def by_kind(self) -> dict[str, Cost]:
        """Return the sums over the ops of each kind."""
        kinds: dict[str, list[OpCost]] = {}
        for row in self.rows:
            kinds.setdefault(row.op.kind, []).append(row)
        return {kind: Cost(*_sums(rows)) for kind, rows in sorted(kinds.items())}

    def __str__(self) -> str:
        return f"{self.flops} flops, {self.read_bytes} bytes read, {self.write_bytes} bytes written"


def cost(graph: Graph) -> CostTable:
    """Return what a program costs, as formulas of its symbols.

    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("layer")
    >>> x, w = b.input("x", f32["B", 8]), b.input("w", f32[8, 4])
    >>> print(cost(b.finish([b.op("matmul", x, w)])))
    64*B flops, 32*B + 128 bytes read, 16*B bytes written
    """
    domain = Costs()
    walk(graph, domain, domain.start(graph, {}))
    rows = tuple(OpCost(op, one.flops, one.read_bytes, one.write_bytes) for op, one in domain.rows)
    return CostTable(rows, *_sums(rows))


def _sums(rows: Iterable[OpCost]) -> tuple[Dim, Dim, Dim]:
    flops = read = write = Dim.of(0)
    for row in rows:
        flops, read, write = flops + row.flops, read + row.read_bytes, write + row.write_bytes
    return flops, read, write

"""One version of a kernel: its buffers and params as values, and where in the loops each node is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.arithmetic import Arithmetic
from mlsysopt.compile.codegen.extents import kept_nodes
from mlsysopt.compile.codegen.loops import address, i64
from mlsysopt.compile.codegen.program import REDUCTIONS, Access, Node, Param, Program, Size, Store
from mlsysopt.compile.codegen.vectors import Memory, kept_bytes
from mlsysopt.graph.types import DTYPES

if TYPE_CHECKING:
    from mlsysopt.compile.codegen.kernel import KernelBuilder
    from mlsysopt.compile.codegen.target import Isa

__all__ = ["Version"]

_STEPS = ("floor", "ceil", "round", "floordiv", "mod", "eq", "ne", "lt", "le", "gt", "ge", "sign")


class Version:
    """What one version of a kernel knows about its program.

    Attributes:
        program: What is computed.
        isa: What the processor has.
        b: Where instructions go.
        order: For each loop, how deep it lies: 0 for units of work.
        strides: How an innermost stride that is a param is treated: "unit" (it is 1), "either" (0 or 1) or "any".
    """

    def __init__(
        self, program: Program, kernel: KernelBuilder, isa: Isa, order: Sequence[int], strides: str = "any"
    ) -> None:
        self.program, self.isa, self.order, self.strides = program, isa, tuple(order), strides
        self.b: Any = kernel.ir
        self.memory, self.arithmetic = Memory(self.b, isa), Arithmetic(self.b, isa)
        count = max(len(program.arguments), -1 if program.faults is None else program.faults + 1)
        self.buffers = [kernel.buffer(i) for i in range(count)]
        self.params = [kernel.param(i) for i in range(program.params)]
        self.scratch = kernel.scratch
        self.kept: dict[int, Any] = {}

    def size(self, size: Size) -> Any:
        """Return a size as i64."""
        return self.params[size.index] if isinstance(size, Param) else i64(size)

    @property
    def inner(self) -> int:
        """Number of the innermost loop."""
        return self.program.loops - 1

    @cached_property
    def loops(self) -> list[frozenset[int]]:
        """For each node, the loops along which it varies."""
        program, parallel = self.program, frozenset(range(len(self.program.parallel)))
        found: list[frozenset[int]] = []
        for node in program.nodes:
            if node.op in REDUCTIONS:
                found.append(parallel if program.schedule == "row" else parallel | {self.inner})
                continue
            own = frozenset({int(node.value)}) if node.op == "index" else frozenset[int]()
            if node.access is not None:
                own |= self._along(node.access, found)
            found.append(own.union(*(found[arg] for arg in node.args)))
        return found

    def along(self, access: Access) -> frozenset[int]:
        """Return the loops along which an access moves or is cut off."""
        return self._along(access, self.loops)

    @staticmethod
    def _along(access: Access, known: Sequence[frozenset[int]]) -> frozenset[int]:
        moving = {loop for loop, stride in enumerate(access.strides) if stride != 0}
        cut = {loop for loop, _, _ in access.window}
        return frozenset(moving | cut).union(*(known[one.node] for one in access.indirect))

    def depth(self, loops: frozenset[int]) -> int:
        """Return how deep the place is where something that varies along these loops is known."""
        return max((self.order[loop] for loop in loops), default=0)

    def store_depth(self, store: Store) -> int:
        return self.depth(self.loops[store.node] | self.along(store.access))

    @cached_property
    def decides(self) -> bool:
        """Whether floats are rounded to whole numbers or compared, so that their last place may show."""
        nodes = self.program.nodes

        def is_float(i: int) -> bool:
            return DTYPES[nodes[i].dtype].is_float

        steps = any(node.op in _STEPS and is_float(node.args[0]) for node in nodes)
        return steps or any(
            node.op == "cast" and is_float(node.args[0]) and not DTYPES[node.dtype].is_float for node in nodes
        )

    @cached_property
    def indirect_numbers(self) -> dict[int, int]:
        """Number of each `Indirect`, by its identity, in the order in which the program lists them."""
        accesses = [node.access for node in self.program.nodes if node.access is not None]
        accesses += [store.access for one in self.program.passes for store in one.stores]
        return {id(one): i for i, one in enumerate(part for access in accesses for part in access.indirect)}

    def needed(self, number: int) -> list[int]:
        """Return the nodes that a pass computes or reads, in order."""
        one = self.program.passes[number]
        kept = {node for earlier in self.program.passes[:number] for node in earlier.keeps}
        work = [store.node for store in one.stores] + list(one.keeps)
        work += [part.node for store in one.stores for part in store.access.indirect]
        work += [arg for node in one.reductions for arg in self.program.nodes[node].args]
        seen: set[int] = set()
        while work:
            node = work.pop()
            if node in seen:
                continue
            seen.add(node)
            if node not in kept and self.program.nodes[node].op not in REDUCTIONS:
                work += reads(self.program.nodes[node])
        return sorted(seen)

    def row_buffers(self, lengths: Any) -> dict[int, Any]:
        """Return where rows of kept nodes begin, each of so many elements, aligned to 64 bytes."""
        from llvmlite import ir

        place, found = i64(0), dict[int, Any]()
        for node in kept_nodes(self.program):
            found[node] = address(self.b, self.scratch, place, ir.IntType(8))
            size = self.b.mul(lengths, i64(kept_bytes(self.program.nodes[node].dtype)))
            place = self.b.add(place, self.b.and_(self.b.add(size, i64(63)), i64(-64)))
        return found


def reads(node: Node) -> tuple[int, ...]:
    """Return the nodes that a node reads."""
    return (*node.args, *(one.node for one in (node.access.indirect if node.access is not None else ())))

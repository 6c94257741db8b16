"""From nodes to a `Program`: which loop becomes vectors, which loops count as one, what is a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlsysopt.compile.codegen.program import Access, Argument, Indirect, Node, Param, Pass, Program, Size, Store
from mlsysopt.compile.dynamic.expressions import express
from mlsysopt.compile.dynamic.groups import Fusion, FusionGroup
from mlsysopt.compile.dynamic.nodes import Expr, Expressions, Load
from mlsysopt.compile.dynamic.roles import weight
from mlsysopt.compile.dynamic.strides import same
from mlsysopt.compile.dynamic.sweeps import live, sweeps
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim, multiplied
from mlsysopt.graph.types import DTYPES

__all__ = ["Scheduled", "in_place", "program", "which_way"]

_ZERO = Dim.of(0)


@dataclass(frozen=True)
class Scheduled:
    """A kernel and what it is called with.

    Attributes:
        program: What it computes.
        arguments: The value whose buffer each argument is, in order; None for the fault word. A buffer that is
            read and written in different parts stands there twice.
        params: The params, in order.
        moved: Bytes that it reads and writes, a formula.
        work: What an element of its domain costs against an addition.
        elements: Elements of its domain, a formula.
    """

    program: Program
    arguments: tuple[Value | None, ...]
    params: tuple[Dim, ...]
    moved: Dim
    work: int
    elements: Dim


def program(group: FusionGroup, fusion: Fusion) -> Scheduled:
    """Return the kernel of a group.

    Groups that do the same at other places get equal programs: sizes and strides are params, numbered in order,
    unless they are 0 or 1, or the length of a row.

    >>> from mlsysopt.compile.dynamic.fuse import plan
    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("f")
    >>> fusion = plan(b.finish([b.op("exp", b.input("x", f32["B", "S"]))]))
    >>> made = program(fusion.groups[0], fusion)
    >>> made.program.parallel, made.program.inner, made.params
    ((), Param(index=0), (Dim('B*S'),))
    """
    number = fusion.prepared.numbers
    inlined = frozenset(number[op.name] for op in group.inlined)
    found = express(
        [number[op.name] for op in group.ops],
        group.outputs,
        fusion.prepared,
        inlined,
        fusion.sizes,
    )
    return _Scheduler(found, fusion.graph.facts, fusion.sizes).scheduled()


def which_way(found: Expressions, sizes: Mapping[str, int]) -> str:
    """Return whether vectors lie along the row that is folded, "row", or across it, "column"."""
    best = _unit_loops(found, sizes)
    row = found.arrangement.row
    if not best or not row:
        return "row"
    loop = max(best, key=lambda one: (best[one], one in row))
    return "row" if loop in row else "column"


def awkward_bytes(found: Expressions, facts: Facts, sizes: Mapping[str, int]) -> int:
    """Return the bytes of accesses that do not go one by one along the innermost loop, at given sizes."""
    return _Scheduler(found, facts, sizes).awkward()


def _unit_loops(found: Expressions, sizes: Mapping[str, int]) -> dict[int, int]:
    """Return for each loop the bytes of accesses that move along it one by one."""
    best: dict[int, int] = {}
    for dtype, load, stored in _accesses(found):
        width = DTYPES[dtype].bytes * (2 if stored else 1)
        count = 1
        for loop in load.place.loops:
            count *= found.arrangement.loops[loop].at(sizes)
        for loop, factor in load.place.terms:
            if factor == 1:
                best[loop] = best.get(loop, 0) + width * count
    return best


def _accesses(found: Expressions) -> Iterable[tuple[str, Load, bool]]:
    for i in live(found):
        node = found.nodes[i]
        if node.load is not None:
            yield node.dtype, node.load, False
    for root in found.roots:
        yield root.value.type.dtype.name, root.load, True


@dataclass
class _Lines:
    """Loops in their final form: sizes, and the factor of each access along each."""

    sizes: dict[int, Dim]
    factors: list[dict[int, Dim]]


class _Scheduler:
    def __init__(self, found: Expressions, facts: Facts, sizes: Mapping[str, int]) -> None:
        self.found, self.facts, self.typical = found, facts, sizes
        self.accesses = list(_accesses(found))
        self.lines = _Lines(dict(found.arrangement.loops), [dict(load.place.terms) for _, load, _ in self.accesses])
        self.params: dict[Dim, int] = {}
        self.way = which_way(found, sizes)
        self.row = list(found.arrangement.row)
        self.parallel = [loop for loop in found.arrangement.loops if loop not in self.row]

    def scheduled(self) -> Scheduled:
        self._collapse(self.row)
        self._collapse(self.parallel)
        order, inner = self._ordered()
        self.order = (*order, inner) if inner is not None else (*order, -1)
        reduced = [loop for loop in order if loop in self.row]
        parallel = [loop for loop in order if loop not in self.row]
        known = self.lines.sizes[inner].constant if inner is not None else None
        # Whole vectors of a short row need no tail; any other length is worth a kernel of its own only to a fold.
        fixed = bool(self.row) or (bool(parallel) and known is not None and known <= 256 and known % 8 == 0)
        sizes = tuple(self._size(self.lines.sizes[loop]) for loop in parallel)
        folded = tuple(self._size(self.lines.sizes[loop], True) for loop in reduced)
        length = Dim.of(1) if inner is None else self.lines.sizes[inner]
        width = self._size(length, fixed)
        return self._program(sizes, folded, width)

    def awkward(self) -> int:
        self._collapse(self.row)
        self._collapse(self.parallel)
        _, inner = self._ordered()
        total = 0
        for (dtype, _, _), factors in zip(self.accesses, self.lines.factors, strict=True):
            if inner in factors and factors[inner] != 1:
                total += DTYPES[dtype].bytes * multiplied(self.lines.sizes[one] for one in factors).at(self.typical)
        return total

    # loops

    def _collapse(self, group: list[int]) -> None:
        """Let two loops be one wherever every access goes on from the end of a row to the start of the next."""
        merged = True
        while merged:
            merged = False
            for outer in group:
                for inner in group:
                    if outer != inner and self._continues(outer, inner):
                        self.lines.sizes[inner] = self.lines.sizes.pop(outer) * self.lines.sizes[inner]
                        for factors in self.lines.factors:
                            factors.pop(outer, None)
                        group.remove(outer)
                        merged = True
                        break
                if merged:
                    break

    def _continues(self, outer: int, inner: int) -> bool:
        if outer in self.found.pinned or inner in self.found.pinned:
            return False
        size = self.lines.sizes[inner]
        return all(
            same(factors.get(outer, _ZERO), size * factors.get(inner, _ZERO), self.facts)
            for factors in self.lines.factors
        )

    def _ordered(self) -> tuple[list[int], int | None]:
        """Return the outer loops in order, parallel ones first, and the innermost."""
        candidates = (self.row if self.way == "row" else self.parallel) if self.row else self.parallel
        inner = max(candidates, key=self._worth, default=None)
        outer = [loop for loop in self.parallel if loop != inner]
        folded = [loop for loop in self.row if loop != inner]
        return sorted(outer, key=self._far) + sorted(folded, key=self._far), inner

    def _worth(self, loop: int) -> tuple[int, int, int]:
        unit = 0
        for (dtype, _, stored), factors in zip(self.accesses, self.lines.factors, strict=True):
            if factors.get(loop) == 1:
                count = 1
                for one in factors:
                    count *= self.lines.sizes[one].at(self.typical)
                unit += DTYPES[dtype].bytes * count * (2 if stored else 1)
        return unit, self.lines.sizes[loop].at(self.typical), loop

    def _far(self, loop: int) -> tuple[int, int]:
        steps = [0]
        for (_, _, stored), factors in zip(self.accesses, self.lines.factors, strict=True):
            if stored or loop in self.row:
                steps.append(abs(factors.get(loop, _ZERO).at(self.typical)))
        return -max(steps), loop

    # numbers

    def _size(self, size: Dim, fixed: bool = False) -> Size:
        """Return a number where it says something of the kernel, else a param."""
        known = size.constant
        if known is not None and (fixed or known in (0, 1, -1)):
            return known
        return Param(self._param(size))

    def _param(self, size: Dim) -> int:
        return self.params.setdefault(self.facts.normalise(size), len(self.params))

    # the program

    def _program(self, sizes: tuple[Size, ...], folded: tuple[Size, ...], width: Size) -> Scheduled:
        needed = live(self.found)
        renumbered = {old: new for new, old in enumerate(needed)}
        nodes = self.found.nodes
        factors = self.lines.factors
        reads: dict[Value, tuple[int, str]] = {}
        writes: dict[Value, tuple[int, str]] = {}
        for dtype, load, stored in self.accesses:
            table = writes if stored else reads
            table.setdefault(load.base, (len(table), dtype))
        made: list[Node] = []
        number = gathered = 0
        for old in needed:
            node = nodes[old]
            access = None
            if node.load is not None:
                access = self._access(node.load, factors[number], reads[node.load.base][0], renumbered)
                gathered += len(node.load.gathered)
                number += 1
            args = () if node.op == "load" else tuple(renumbered[arg] for arg in node.args)
            made.append(Node(node.op, args, node.dtype, self._value(node), access))
        stores: list[Store] = []
        for root in self.found.roots:
            access = self._access(root.load, factors[number], len(reads) + writes[root.load.base][0], renumbered)
            stores.append(Store(renumbered[root.node], access))
            number += 1
        passes = tuple(
            Pass(
                tuple(renumbered[node] for node in one.reductions),
                tuple(stores[root] for root in one.roots),
                tuple(renumbered[node] for node in one.keeps),
            )
            for one in sweeps(self.found)
        )
        arguments = [Argument(dtype) for _, dtype in reads.values()]
        arguments += [Argument(dtype, written=True) for _, dtype in writes.values()]
        values: list[Value | None] = [*reads, *writes]
        faults = len(arguments) if gathered else None
        if gathered:
            arguments.append(Argument("i64", written=True))
            values.append(None)
        found = Program(
            tuple(arguments), sizes, width, tuple(made), passes, folded, self.way if self.row else "row",
            len(self.params), faults,
        )  # fmt: skip
        found.check()
        return Scheduled(found, tuple(values), tuple(self.params), self._moved(), self._work(needed), self._elements())

    def _value(self, node: Expr) -> float | int | bool:
        if node.op == "index":
            assert isinstance(node.value, int)
            return self.order.index(node.value)
        if node.op == "param":
            assert isinstance(node.value, Dim)
            return self._param(node.value)
        assert not isinstance(node.value, Dim)
        return node.value

    def _access(self, load: Load, factors: Mapping[int, Dim], argument: int, numbers: Mapping[int, int]) -> Access:
        return Access(
            argument,
            tuple(self._size(factors.get(loop, _ZERO)) for loop in self.order),
            self._size(load.place.constant),
            tuple(Indirect(numbers[g.node], self._size(g.stride), self._size(g.size)) for g in load.gathered),
            tuple((self.order.index(w.loop), self._size(w.low, True), self._size(w.high, True)) for w in load.windows),
            load.outside,
        )

    # what it costs

    def _elements(self) -> Dim:
        return multiplied(self.lines.sizes.values())

    def _moved(self) -> Dim:
        total = _ZERO
        for (dtype, _, _), factors in zip(self.accesses, self.lines.factors, strict=True):
            total = total + multiplied(self.lines.sizes[loop] for loop in factors) * DTYPES[dtype].bytes
        return total

    def _work(self, needed: Sequence[int]) -> int:
        nodes = (self.found.nodes[i] for i in needed)
        return sum(weight(node.op) for node in nodes if node.loops and node.op not in ("load", "const", "param"))


def in_place(scheduled: Scheduled) -> list[tuple[int, int]]:
    """Return the pairs (written argument, read argument) that may be one buffer.

    Every element is then read at the place that it is written to, and never again after that.
    """
    found: list[tuple[int, int]] = []
    made = scheduled.program
    loads = [(i, node.access) for i, node in enumerate(made.nodes) if node.access is not None]
    for number, one in enumerate(made.passes):
        for store in one.stores:
            written = store.access.argument
            if sum(s.access.argument == written for p in made.passes for s in p.stores) != 1:
                continue
            for read in dict.fromkeys(access.argument for _, access in loads):
                same_place = [
                    access.strides == store.access.strides and access.offset == store.access.offset
                    for _, access in loads
                    if access.argument == read
                ]
                plain = all(not access.indirect and not access.window for _, access in loads if access.argument == read)
                dtypes = made.arguments[written].dtype == made.arguments[read].dtype
                last = number == len(made.passes) - 1
                if all(same_place) and plain and dtypes and last and not store.access.window:
                    found.append((written, read))
    return found

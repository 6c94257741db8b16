"""Fused kernels: a `Program` as one native function, whose innermost loop runs in vectors.

`emit` takes the emitter that fits: `flat` for programs without reductions, `tiled` for those of them that transpose,
`column`, or - here - "row": a unit is one index of the parallel loops, a pass sweeps its row with several
accumulators, and rows that later passes read again lie in scratch, or in registers where one vector or two hold them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen import column, flat, tiled
from mlsysopt.compile.codegen.arithmetic import supports
from mlsysopt.compile.codegen.evaluation import Scope
from mlsysopt.compile.codegen.extents import ceiling, extent, product, row_buffer_bytes, unroll
from mlsysopt.compile.codegen.folding import foldings
from mlsysopt.compile.codegen.kernel import Kernel, begin_kernel
from mlsysopt.compile.codegen.loops import address, i64, least, loop
from mlsysopt.compile.codegen.program import Param, Program
from mlsysopt.compile.codegen.vectors import Guard, kept_bytes
from mlsysopt.compile.codegen.version import Version
from mlsysopt.compile.codegen.walk import advanced, collapse, decomposed, nest, versions

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["emit", "supports"]

_Sweep = Callable[[Scope, int, list[Any]], list[Any]]
"""Writes one pass over a row: (scope of its unit, number of the pass, accumulators) -> accumulators."""

_STRAIGHT = 2
"""Vectors of a row whose length is known at run time only, up to which it is written without loops."""

_BLOCK = 8192
"""Elements after which sums move to a second level of accumulators: 256 additions in each lane of 8, 4 vectors."""


def emit(module: ir.Module, isa: Isa, program: Program) -> Kernel:
    """Write a program as a kernel of a module; an equal program is written once.

    Buffers are those of `program.arguments`; the buffer of faults has the number that the program says. Any split of
    the units gives the same bits.

    Args:
        module: Where it goes.
        isa: What it may use.
        program: What it computes.

    Raises:
        UsageError: the program is inconsistent, or has a node without native form.

    >>> from mlsysopt.compile.codegen.program import Access, Argument, Node, Param, Pass, Store
    >>> from mlsysopt.compile.codegen.target import host_isa, new_module
    >>> nodes = (Node("load", access=Access(0, (1,))), Node("exp", (0,)))
    >>> passes = (Pass(stores=(Store(1, Access(1, (1,))),)),)
    >>> program = Program((Argument("f32"), Argument("f32", True)), (), Param(0), nodes, passes, params=1)
    >>> kernel = emit(new_module("doc"), host_isa(), program)
    >>> kernel.units([10_000]), kernel.scratch_bytes([10_000])
    (3, 0)
    """
    program.check()
    name = f"fused_{hashlib.sha256(repr(program).encode()).hexdigest()[:12]}"
    if program.schedule == "column":
        write, units, scratch = column.write, column.units, column.scratch_bytes
    elif tiled.fits(program):
        write, units, scratch = tiled.write, tiled.units, tiled.scratch_bytes
    elif flat.fits(program):
        write, units, scratch = flat.write, flat.units, flat.scratch_bytes
    else:
        write, units, scratch = _write, _units, _scratch_bytes
    if name not in module.globals:
        kernel = begin_kernel(module, name)
        b = kernel.ir
        work, done = b.append_basic_block("work"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", kernel.begin, kernel.end), work, done)
        b.position_at_end(done)
        b.ret_void()
        b.position_at_end(work)
        write(program, kernel, isa)
        b.ret_void()
    return Kernel(
        name,
        _buffer_names(program),
        tuple(f"p{i}" for i in range(program.params)),
        lambda params: units(program, isa, params),
        lambda params: scratch(program, isa, params),
    )


def _buffer_names(program: Program) -> tuple[str, ...]:
    names = [f"{'result' if one.written else 'operand'} {one.dtype}" for one in program.arguments]
    if program.faults is not None:
        names[program.faults :] = ["faults i64", *names[program.faults + 1 :]]
    return tuple(names)


def _units(program: Program, isa: Isa, params: Sequence[Any]) -> Any:
    return product(program.parallel, params)


def _scratch_bytes(program: Program, isa: Isa, params: Sequence[Any]) -> Any:
    padded = ceiling(extent(program.inner, params), isa.lanes) * isa.lanes
    return row_buffer_bytes(program, product(program.reduced, params) * padded)


def _write(program: Program, kernel: Any, isa: Isa) -> None:
    order = [*[0] * len(program.parallel), *[1] * len(program.reduced), 2]
    versions(
        program,
        lambda strides: Version(program, kernel, isa, order, strides),
        lambda owner: _Rows(owner, kernel.begin, kernel.end).write(),
    )


class _Rows:
    """One version of a "row" kernel."""

    def __init__(self, owner: Version, begin: Any, end: Any) -> None:
        self.owner, self.b, self.begin, self.end = owner, owner.b, begin, end
        self.lanes = owner.isa.lanes
        self.folds = foldings(owner.program, owner.b, owner.isa)

    def write(self) -> None:
        owner, b, program = self.owner, self.b, self.owner.program
        parallel, reduced = ([owner.size(size) for size in sizes] for sizes in (program.parallel, program.reduced))
        first = len(parallel)
        self.reduced, self.inner = collapse(
            owner, range(first, first + len(reduced)), reduced, owner.size(program.inner)
        )
        self.padded = b.and_(b.add(self.inner, i64(self.lanes - 1)), i64(-self.lanes))
        elements = self.padded
        for size in self.reduced:
            elements = b.mul(elements, size)
        self.buffers = owner.row_buffers(elements)
        if not self.reduced and isinstance(program.inner, Param) and len(program.passes) > 1:
            self._by_length(parallel)
        else:
            self._units(parallel, self._swept)

    def _by_length(self, parallel: list[Any]) -> None:
        """Write rows that fit into one vector or two straight through, and all others as loops."""
        b = self.b
        after = b.append_basic_block("rows_done")
        for vectors in range(1, _STRAIGHT + 1):
            fits = b.and_(
                b.icmp_signed(">", self.inner, i64((vectors - 1) * self.lanes)),
                b.icmp_signed("<=", self.inner, i64(vectors * self.lanes)),
            )
            then, otherwise = b.append_basic_block(f"rows_of_{vectors}"), b.append_basic_block("longer_rows")
            b.cbranch(fits, then, otherwise)
            b.position_at_end(then)
            self._units(parallel, partial(self._straight, [_Held({}) for _ in range(vectors)]))
            b.branch(after)
            b.position_at_end(otherwise)
        self._units(parallel, self._swept)
        b.branch(after)
        b.position_at_end(after)

    def _units(self, parallel: list[Any], sweep: _Sweep) -> None:
        with loop(self.b, self.begin, self.end, 1, decomposed(self.b, self.begin, parallel)) as unit:
            scope = Scope(self.owner, (), dict(enumerate(unit.values)))
            for number in range(len(self.owner.program.passes)):
                self._pass(scope, number, sweep)
            unit.values = advanced(self.b, unit.values, parallel)

    def _pass(self, scope: Scope, number: int, sweep: _Sweep) -> None:
        owner, one = self.owner, self.owner.program.passes[number]
        scope.prepare(number, 0)
        for store in one.stores:
            if owner.store_depth(store) == 0:
                scope.store(store)
        rowwise = [node for node in one.keeps if owner.depth(owner.loops[node]) > 0]
        if not rowwise and not one.reductions and all(owner.store_depth(store) == 0 for store in one.stores):
            return
        totals = sweep(scope, number, [self.folds[node].start(self.lanes) for node in one.reductions])
        for node, total in zip(one.reductions, totals, strict=True):
            scope.values[node] = self.folds[node].across(total)

    def _swept(self, scope: Scope, number: int, start: list[Any]) -> list[Any]:
        """Write loops along a row; return its totals."""
        return nest(self.b, self.reduced, start, lambda at, carried: self._row(scope, number, at, carried))

    def _straight(self, row: Sequence[_Held], scope: Scope, number: int, totals: list[Any]) -> list[Any]:
        """Write a row of so many vectors without a loop, what it keeps in registers; return its totals."""
        for place, held in enumerate(row):
            at = i64(place * self.lanes)
            count = self.b.sub(self.inner, at) if held is row[-1] else None
            (totals,) = self._vectors(scope, number, held, [at], [totals], count)
        return totals

    def _row(self, around: Scope, number: int, at: tuple[Any, ...], totals: list[Any]) -> list[Any]:
        """Write one sweep of the innermost loop; return the totals with it."""
        owner, b, program = self.owner, self.b, self.owner.program
        one, first = program.passes[number], len(program.parallel)
        scope = Scope(owner, (around,), {first + i: index for i, index in enumerate(at)})
        if at:
            scope.prepare(number, 1)
            for store in one.stores:
                if owner.store_depth(store) == 1:
                    scope.store(store)
        line = i64(0)
        for index, size in zip(at, self.reduced, strict=True):
            line = b.add(b.mul(line, size), index)
        line = b.mul(line, self.padded)
        deep = [i for i in owner.needed(number) if owner.depth(owner.loops[i]) == 2]
        times = unroll(program, deep, bool(one.reductions))
        step, whole = times * self.lanes, b.and_(self.inner, i64(-times * self.lanes))
        line = _Buffered(self.owner, self.buffers, line)
        totals = self._blocks(scope, number, line, whole, times, totals)
        constant = program.inner if isinstance(program.inner, int) and not program.reduced else None
        if constant is not None and constant % step == 0:
            return totals
        with loop(b, whole, self.inner, self.lanes, totals) as turn:
            even = constant is not None and constant % self.lanes == 0
            count = None if even else b.sub(self.inner, turn.index)
            turn.values = self._vectors(scope, number, line, [turn.index], [turn.values], count)[0]
        return turn.results

    def _blocks(
        self, scope: Scope, number: int, line: _Buffered, whole: Any, times: int, totals: list[Any]
    ) -> list[Any]:
        """Write the part of a row that is whole steps of several vectors."""
        b, nodes = self.b, self.owner.program.passes[number].reductions
        inner = self.owner.program.inner
        if isinstance(inner, int) and not self.reduced and inner < times * self.lanes:
            return totals
        long = not isinstance(inner, int) or inner > 2 * _BLOCK or bool(self.reduced)
        if not (long and any(self.folds[node].blocked for node in nodes)):
            return self._steps(scope, number, line, i64(0), whole, times, totals)
        with loop(b, 0, whole, _BLOCK, totals) as block:
            stop = least(b, whole, b.add(block.index, i64(_BLOCK)))
            block.values = self._steps(scope, number, line, block.index, stop, times, block.values)
        return block.results

    def _steps(
        self, scope: Scope, number: int, line: _Buffered, start: Any, stop: Any, times: int, totals: list[Any]
    ) -> list[Any]:
        b, nodes = self.b, self.owner.program.passes[number].reductions
        folds = [self.folds[node] for node in nodes]
        carried = [fold.start(self.lanes) for _ in range(times) for fold in folds]
        with loop(b, start, stop, times * self.lanes, carried) as turn:
            places = [b.add(turn.index, i64(u * self.lanes)) for u in range(times)]
            groups = [turn.values[u * len(folds) : (u + 1) * len(folds)] for u in range(times)]
            turn.values = list(chain(*self._vectors(scope, number, line, places, groups, None)))
        groups = [turn.results[u * len(folds) : (u + 1) * len(folds)] for u in range(times)]
        while len(groups) > 1:
            half = len(groups) // 2
            groups = [
                [fold.merge(x, y) for fold, x, y in zip(folds, groups[i], groups[i + half], strict=True)]
                for i in range(half)
            ]
        return [fold.merge(total, part) for fold, total, part in zip(folds, totals, groups[0], strict=True)]

    def _vectors(
        self,
        around: Scope,
        number: int,
        line: _Buffered | _Held,
        places: list[Any],
        totals: list[list[Any]],
        count: Any,
    ) -> list[list[Any]]:
        """Write one vector at each place: keeps, stores and reductions. All is computed before anything is stored."""
        owner, b, program = self.owner, self.b, self.owner.program
        one, results = program.passes[number], list[list[Any]]()
        earlier = {node for before in program.passes[:number] for node in before.keeps}
        earlier = {node for node in earlier if owner.depth(owner.loops[node]) > 0}
        for place, total in zip(places, totals, strict=True):
            scope = Scope(owner, (around,), {owner.inner: place}, self.lanes, count)
            line.recall(scope, earlier, place)
            for store in one.stores:
                if owner.store_depth(store) == 2:
                    scope.value(store.node)
            for node in one.keeps:
                if owner.depth(owner.loops[node]) > 0:
                    line.keep(scope, node, place)
            mask = None if count is None else Guard(count).vector(b, self.lanes)
            sums: list[Any] = []
            for node, so_far in zip(one.reductions, total, strict=True):
                sums.append(self.folds[node].step(so_far, scope.vector(program.nodes[node].args[0]), mask))
            for store in one.stores:
                if owner.store_depth(store) == 2:
                    scope.store(store)
            results.append(sums)
        return results


@dataclass(frozen=True, slots=True)
class _Buffered:
    """A row whose kept nodes lie in scratch.

    Attributes:
        owner: The version.
        buffers: Node -> where its rows begin.
        line: Elements in front of this row.
    """

    owner: Version
    buffers: dict[int, Any]
    line: Any

    def recall(self, scope: Scope, nodes: set[int], place: Any) -> None:
        """Let a scope find what earlier passes kept at its place."""
        scope.kept = {node: self._at(node, place) for node in nodes}

    def keep(self, scope: Scope, node: int, place: Any) -> None:
        """Keep a node's vector for later passes."""
        self.owner.memory.keep(self.owner.program.nodes[node].dtype, self._at(node, place), scope.vector(node))

    def _at(self, node: int, place: Any) -> Any:
        from llvmlite import ir

        b, size = self.owner.b, i64(kept_bytes(self.owner.program.nodes[node].dtype))
        return address(b, self.buffers[node], b.mul(b.add(self.line, place), size), ir.IntType(8))


@dataclass(frozen=True, slots=True)
class _Held:
    """A vector of a row whose kept nodes stay in registers.

    Attributes:
        values: Node -> its vector.
    """

    values: dict[int, Any]

    def recall(self, scope: Scope, nodes: set[int], place: Any) -> None:
        """Let a scope find what earlier passes kept."""
        scope.values.update({node: self.values[node] for node in nodes})

    def keep(self, scope: Scope, node: int, place: Any) -> None:
        """Keep a node's vector for later passes."""
        self.values[node] = scope.vector(node)

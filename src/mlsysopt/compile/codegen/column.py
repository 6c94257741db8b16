"""Schedule "column": reductions over outer loops, whose accumulators are a tile of vectors of the innermost loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.evaluation import Scope
from mlsysopt.compile.codegen.extents import ceiling, extent, product, row_buffer_bytes
from mlsysopt.compile.codegen.folding import foldings
from mlsysopt.compile.codegen.loops import address, i64, least, loop
from mlsysopt.compile.codegen.program import Program
from mlsysopt.compile.codegen.vectors import kept_bytes
from mlsysopt.compile.codegen.version import Version
from mlsysopt.compile.codegen.walk import advanced, decomposed, nest, versions

if TYPE_CHECKING:
    from mlsysopt.compile.codegen.target import Isa

__all__ = ["TILE", "scratch_bytes", "units", "write"]

TILE = 4
"""Vectors of a tile: two cache lines of f32 in each row, and as many sums that do not wait for each other."""

_BLOCK = 256
"""Rows after which sums move to a second level of accumulators."""


def units(program: Program, isa: Isa, params: Sequence[Any]) -> Any:
    """Return how many tiles there are."""
    return product(program.parallel, params) * ceiling(extent(program.inner, params), TILE * isa.lanes)


def scratch_bytes(program: Program, isa: Isa, params: Sequence[Any]) -> Any:
    """Return the bytes of the rows that a tile keeps."""
    return row_buffer_bytes(program, product(program.reduced, params) * (TILE * isa.lanes))


def write(program: Program, kernel: Any, isa: Isa) -> None:
    """Write the body of the kernel; the builder stands where there is work."""
    order = [*[0] * len(program.parallel), *[2] * len(program.reduced), 1]
    versions(
        program,
        lambda strides: Version(program, kernel, isa, order, strides),
        lambda owner: _Columns(owner, kernel.begin, kernel.end).write(),
    )


class _Columns:
    """One version of a "column" kernel."""

    def __init__(self, owner: Version, begin: Any, end: Any) -> None:
        self.owner, self.b, self.begin, self.end = owner, owner.b, begin, end
        self.lanes, self.width = owner.isa.lanes, TILE * owner.isa.lanes
        self.folds = foldings(owner.program, owner.b, owner.isa)

    def write(self) -> None:
        owner, b, program = self.owner, self.b, self.owner.program
        self.reduced = [owner.size(size) for size in program.reduced]
        rows: Any = i64(self.width)
        for size in self.reduced:
            rows = b.mul(rows, size)
        self.buffers = owner.row_buffers(rows)
        inner = owner.size(program.inner)
        tiles = b.udiv(b.add(inner, i64(self.width - 1)), i64(self.width))
        sizes = [*(owner.size(size) for size in program.parallel), tiles]
        with loop(b, self.begin, self.end, 1, decomposed(b, self.begin, sizes)) as unit:
            scope = Scope(owner, (), dict(enumerate(unit.values[:-1])))
            for number in range(len(program.passes)):
                scope.prepare(number, 0)
            first = b.mul(unit.values[-1], i64(self.width))
            stop = least(b, inner, b.add(first, i64(self.width)))
            with b.if_else(b.icmp_signed("==", b.sub(stop, first), i64(self.width))) as (full, part):
                with full:
                    self._tile(scope, first, [b.add(first, i64(t * self.lanes)) for t in range(TILE)], None)
                with part, loop(b, first, stop, self.lanes) as one:
                    self._tile(scope, first, [one.index], b.sub(stop, one.index))
            unit.values = advanced(b, unit.values, sizes)

    def _tile(self, around: Scope, first: Any, places: list[Any], count: Any) -> None:
        owner, b, program = self.owner, self.b, self.owner.program
        scopes = [Scope(owner, (around,), {owner.inner: place}, self.lanes, count) for place in places]
        shifts = [b.sub(place, first) for place in places]
        for number, one in enumerate(program.passes):
            shallow = [store for store in one.stores if owner.store_depth(store) <= 1]
            for scope in scopes:
                scope.prepare(number, 1)
                for store in shallow:
                    scope.value(store.node)
            for scope in scopes:
                for store in shallow:
                    if owner.store_depth(store) == 1 or scope is scopes[0]:
                        scope.store(store)
            deep = any(owner.store_depth(store) == 2 for store in one.stores)
            if not (one.reductions or deep or any(owner.depth(owner.loops[node]) == 2 for node in one.keeps)):
                continue
            totals = self._rows(number, around, scopes, shifts)
            for i, node in enumerate(one.reductions):
                for t, scope in enumerate(scopes):
                    scope.values[node] = self.folds[node].vector(totals[i * len(scopes) + t])

    def _rows(self, number: int, around: Scope, scopes: list[Scope], shifts: list[Any]) -> list[Any]:
        """Write a sweep over the reduced loops; return totals, those of the first reduction first."""
        b, one = self.b, self.owner.program.passes[number]
        folds = [self.folds[node] for node in one.reductions for _ in scopes]
        start = [fold.start(self.lanes) for fold in folds]

        def turn(at: tuple[Any, ...], carried: list[Any]) -> list[Any]:
            return self._row(number, around, scopes, shifts, at, carried)

        if not self.reduced or not any(fold.blocked for fold in folds):
            return nest(b, self.reduced, start, turn)

        def line(at: tuple[Any, ...], carried: list[Any]) -> list[Any]:
            with loop(b, 0, self.reduced[-1], _BLOCK, carried) as block:
                stop = least(b, self.reduced[-1], b.add(block.index, i64(_BLOCK)))
                with loop(b, block.index, stop, 1, start) as row:
                    row.values = turn((*at, row.index), row.values)
                block.values = [f.merge(x, y) for f, x, y in zip(folds, block.values, row.results, strict=True)]
            return block.results

        return nest(b, self.reduced[:-1], start, line)

    def _row(
        self,
        number: int,
        around: Scope,
        scopes: list[Scope],
        shifts: list[Any],
        at: tuple[Any, ...],
        carried: list[Any],
    ) -> list[Any]:
        """Write one row of a tile; return the accumulators with it."""
        owner, b, program = self.owner, self.b, self.owner.program
        one, first = program.passes[number], len(program.parallel)
        line = Scope(owner, (around,), {first + i: index for i, index in enumerate(at)})
        linear = i64(0)
        for index, size in zip(at, self.reduced, strict=True):
            linear = b.add(b.mul(linear, size), index)
        linear = b.mul(linear, i64(self.width))
        earlier = {node for before in program.passes[:number] for node in before.keeps}
        bodies: list[Scope] = []
        for scope, shift in zip(scopes, shifts, strict=True):
            place = b.add(linear, shift)
            kept = {i: self._kept(i, place) for i in earlier if owner.depth(owner.loops[i]) == 2}
            body = Scope(owner, (scope, line), {}, self.lanes, scope.count, kept)
            for store in one.stores:
                body.value(store.node)
            for node in one.keeps:
                if owner.depth(owner.loops[node]) == 2:
                    owner.memory.keep(program.nodes[node].dtype, self._kept(node, place), body.vector(node))
            bodies.append(body)
        results: list[Any] = []
        for i, node in enumerate(one.reductions):
            for t, body in enumerate(bodies):
                value = body.vector(program.nodes[node].args[0])
                results.append(self.folds[node].step(carried[i * len(bodies) + t], value))
        for body in bodies:
            for store in one.stores:
                if owner.store_depth(store) == 2:
                    body.store(store)
        return results

    def _kept(self, node: int, at: Any) -> Any:
        from llvmlite import ir

        size = i64(kept_bytes(self.owner.program.nodes[node].dtype))
        return address(self.b, self.buffers[node], self.b.mul(at, size), ir.IntType(8))

"""Programs without reductions: one long row of elements, cut into units of equal length wherever rows end.

Neighbouring loops that every access runs through without a gap are one loop, found at run time: then the innermost
loop is as long as the whole tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.evaluation import Scope
from mlsysopt.compile.codegen.extents import ceiling, product, unroll
from mlsysopt.compile.codegen.loops import i64, least, loop, most
from mlsysopt.compile.codegen.program import Program
from mlsysopt.compile.codegen.version import Version
from mlsysopt.compile.codegen.walk import advanced, collapse, decomposed, versions

if TYPE_CHECKING:
    from mlsysopt.compile.codegen.target import Isa

__all__ = ["CHUNK", "elements", "fits", "scratch_bytes", "sweep", "units", "write"]

CHUNK = 4096
"""Elements of a unit: a few microseconds of work, and few enough that threads share it evenly."""


def fits(program: Program) -> bool:
    """Return whether a program is nothing but elements: no reductions, no rows to keep, stores along the row."""
    inner = program.loops - 1
    if program.schedule != "row" or any(one.reductions or one.keeps for one in program.passes):
        return False
    return all(store.access.strides[inner] != 0 for one in program.passes for store in one.stores)


def units(program: Program, isa: Isa, params: Sequence[Any]) -> Any:
    """Return how many chunks there are."""
    return ceiling(product((*program.parallel, *program.reduced, program.inner), params), CHUNK)


def scratch_bytes(program: Program, isa: Isa, params: Sequence[Any]) -> Any:
    """Return 0: nothing is kept."""
    return 0


def write(program: Program, kernel: Any, isa: Isa) -> None:
    """Write the body of the kernel; the builder stands where there is work."""
    order = [*[0] * (program.loops - 1), 1]
    versions(
        program,
        lambda strides: Version(program, kernel, isa, order, strides),
        lambda owner: _write(owner, kernel.begin, kernel.end),
    )


def _write(owner: Version, begin: Any, end: Any) -> None:
    b, program = owner.b, owner.program
    sizes = [owner.size(size) for size in (*program.parallel, *program.reduced)]
    sizes, inner = collapse(owner, range(len(sizes)), sizes, owner.size(program.inner))
    total = inner
    for size in sizes:
        total = b.mul(total, size)
    first, last = b.mul(begin, i64(CHUNK)), least(b, total, b.mul(end, i64(CHUNK)))
    first_row = b.udiv(first, inner)
    end_row = b.add(b.udiv(b.sub(last, i64(1)), inner), i64(1))
    with loop(b, first_row, end_row, 1, decomposed(b, first_row, sizes)) as row:
        start = b.mul(row.index, inner)
        low, high = most(b, i64(0), b.sub(first, start)), least(b, inner, b.sub(last, start))
        sweep(Scope(owner, (), dict(enumerate(row.values))), low, high)
        row.values = advanced(b, row.values, sizes)


def sweep(scope: Scope, low: Any, high: Any) -> None:
    """Write the elements low <= index < high of one row."""
    owner = scope.owner
    b, program, lanes = owner.b, owner.program, owner.isa.lanes
    nodes: list[int] = []
    for number in range(len(program.passes)):
        scope.prepare(number, 0)
        nodes += [i for i in owner.needed(number) if owner.depth(owner.loops[i]) == 1]
    times = unroll(program, set(nodes), folds=False)
    steps = b.add(low, b.and_(b.sub(high, low), i64(-times * lanes)))
    with loop(b, low, steps, times * lanes) as turn:
        for u in range(times):
            elements(scope, b.add(turn.index, i64(u * lanes)), None)
    with loop(b, steps, high, lanes) as turn:
        elements(scope, turn.index, b.sub(high, turn.index))


def elements(around: Scope, place: Any, count: Any, kept: dict[int, Any] | None = None) -> None:
    """Write one vector of every store; all is computed before anything is stored.

    Args:
        around: Where the outer loops are fixed.
        place: Index of the first lane.
        count: Lanes that exist, None for all.
        kept: Node -> address of a vector that holds it already.
    """
    owner = around.owner
    scope = Scope(owner, (around,), {owner.inner: place}, owner.isa.lanes, count, kept)
    stores = [store for one in owner.program.passes for store in one.stores]
    for store in stores:
        scope.value(store.node)
    for store in stores:
        scope.store(store)

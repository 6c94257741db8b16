"""Flat programs with an operand that runs along another loop than the innermost: transposed in registers, by tiles.

A tile is 16 indices of that loop by 16 of the innermost, so that both sides use whole cache lines. Its transposed
elements lie in scratch for as long as the tile's rows are computed from them; what is left of rows and columns goes
element by element.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen import flat
from mlsysopt.compile.codegen.evaluation import Scope
from mlsysopt.compile.codegen.extents import ceiling, extent, product
from mlsysopt.compile.codegen.loops import address, i64, least, loop
from mlsysopt.compile.codegen.pack import transpose
from mlsysopt.compile.codegen.program import Program, Size
from mlsysopt.compile.codegen.version import Version
from mlsysopt.compile.codegen.walk import advanced, decomposed

if TYPE_CHECKING:
    from mlsysopt.compile.codegen.kernel import KernelBuilder
    from mlsysopt.compile.codegen.target import Isa

__all__ = ["SIDE", "fits", "scratch_bytes", "units", "write"]

SIDE = 16
"""Indices of a tile along either loop: a cache line of f32."""

_TYPES = ("f32", "i32")


def _turned(program: Program) -> tuple[int, list[int]]:
    """Return the loop along which operands run instead of the innermost one, -1 for none, and their loads."""
    inner = program.loops - 1
    found: dict[int, list[int]] = {}
    for i, node in enumerate(program.nodes):
        access = node.access
        # A tile is read as a whole: what does not exist everywhere goes element by element.
        if access is None or access.indirect or access.window or access.strides[inner] in (0, 1):
            continue
        along = [loop for loop in range(inner) if access.strides[loop] == 1]
        if len(along) == 1 and program.arguments[access.argument].dtype in _TYPES:
            found.setdefault(along[0], []).append(i)
    best = max(found, key=lambda loop: len(found[loop]), default=-1)
    return best, found.get(best, [])


def fits(program: Program) -> bool:
    """Return whether a program has elements only, an operand to turn, and sizes that a tile may fit in."""
    inner = program.loops - 1
    along, _ = _turned(program)
    if along < 0 or not flat.fits(program):
        return False
    small = [one for one in (program.inner, _outer(program)[along]) if isinstance(one, int) and one < SIDE]
    return not small and all(store.access.strides[inner] == 1 for one in program.passes for store in one.stores)


def _outer(program: Program) -> tuple[Size, ...]:
    return (*program.parallel, *program.reduced)


def units(program: Program, isa: Isa, params: Sequence[Any]) -> Any:
    """Return how many rows of tiles there are."""
    along, _ = _turned(program)
    sizes = _outer(program)
    rest = product((one for loop, one in enumerate(sizes) if loop != along), params)
    some = rest * ceiling(extent(sizes[along], params), SIDE)
    # Without this, rows of no elements would count as work.
    return some if not (isinstance(program.inner, int) and program.inner == 0) else 0


def scratch_bytes(program: Program, isa: Isa, params: Sequence[Any]) -> Any:
    """Return the bytes of one tile of each operand that is turned."""
    return len(_turned(program)[1]) * SIDE * SIDE * 4


def write(program: Program, kernel: KernelBuilder, isa: Isa) -> None:
    """Write the body of the kernel; the builder stands where there is work."""
    owner = Version(program, kernel, isa, [*[0] * (program.loops - 1), 1])
    b = owner.b
    along, turned = _turned(program)
    outer = [owner.size(one) for one in _outer(program)]
    size, inner = outer[along], owner.size(program.inner)
    blocks = b.udiv(b.add(size, i64(SIDE - 1)), i64(SIDE))
    others = [loop for loop in range(len(outer)) if loop != along]
    counts = [*(outer[loop] for loop in others), blocks]
    with loop(b, kernel.begin, kernel.end, 1, decomposed(b, kernel.begin, counts)) as unit:
        fixed = dict(zip(others, unit.values[:-1], strict=True))
        first = b.mul(unit.values[-1], i64(SIDE))
        stop = least(b, size, b.add(first, i64(SIDE)))
        whole = b.select(b.icmp_signed("==", b.sub(stop, first), i64(SIDE)), b.and_(inner, i64(-SIDE)), i64(0))
        with loop(b, 0, whole, SIDE) as tile:
            for number, node in enumerate(turned):
                place = address(b, owner.scratch, number * SIDE * SIDE, _f32())
                _turn(Scope(owner, (), {**fixed, along: first}), node, along, tile.index, place)
            with loop(b, 0, SIDE) as line:
                scope = Scope(owner, (), {**fixed, along: b.add(first, line.index)})
                for v in range(SIDE // isa.lanes):
                    at = b.add(b.mul(line.index, i64(SIDE)), i64(v * isa.lanes))
                    kept = {
                        node: address(b, owner.scratch, b.add(at, i64(number * SIDE * SIDE)), _f32())
                        for number, node in enumerate(turned)
                    }
                    flat.elements(scope, b.add(tile.index, i64(v * isa.lanes)), None, kept)
        with loop(b, first, stop) as line:
            flat.sweep(Scope(owner, (), {**fixed, along: line.index}), whole, inner)
        unit.values = advanced(b, unit.values, counts)


def _turn(scope: Scope, node: int, along: int, column: Any, place: Any) -> None:
    """Write one tile of an operand, transposed, to scratch."""
    owner, access = scope.owner, scope.owner.program.nodes[node].access
    assert access is not None
    b, lanes, inner = owner.b, owner.isa.lanes, owner.inner
    dtype = owner.program.nodes[node].dtype
    # Loads run along the other loop: vectors of a program whose innermost loop is that one.
    base = scope.offset(access)
    for v in range(SIDE // lanes):
        for w in range(SIDE // lanes):
            rows: list[Any] = []
            for j in range(lanes):
                at = b.mul(b.add(column, i64(w * lanes + j)), owner.size(access.strides[inner]))
                start = address(b, owner.buffers[access.argument], b.add(b.add(base, at), i64(v * lanes)), _f32())
                rows.append(owner.memory.kept(dtype, start, lanes))
            for j, row in enumerate(transpose(b, rows)):
                owner.memory.keep(dtype, address(b, place, (v * lanes + j) * SIDE + w * lanes, _f32()), row)


def _f32() -> Any:
    from llvmlite import ir

    return ir.FloatType()

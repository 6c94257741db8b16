"""Walking over loops whose sizes are known at run time only: units to indices, neighbouring loops as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.loops import i64, loop
from mlsysopt.compile.codegen.program import Access, Param, Program

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.version import Version

__all__ = ["accesses", "advanced", "collapse", "decomposed", "nest", "versions"]


def decomposed(b: ir.IRBuilder, number: Any, sizes: Sequence[Any]) -> list[Any]:
    """Return the indices of loops, outermost first, at a flat number; all sizes are above 0."""
    indices: list[Any] = []
    for size in reversed(sizes[1:]):
        indices.append(b.urem(number, size))
        number = b.udiv(number, size)
    return [number, *reversed(indices)] if sizes else []


def advanced(b: ir.IRBuilder, indices: Sequence[Any], sizes: Sequence[Any]) -> list[Any]:
    """Return the indices one step later, without a division."""
    later: list[Any] = []
    carry: Any = i64(1)
    for index, size in zip(reversed(indices), reversed(sizes), strict=True):
        index = b.add(index, carry)
        full = b.icmp_signed("==", index, size)
        later.append(b.select(full, i64(0), index))
        carry = b.zext(full, carry.type)
    return later[::-1]


def nest(
    b: ir.IRBuilder,
    sizes: Sequence[Any],
    carried: list[Any],
    body: Callable[[tuple[Any, ...], list[Any]], list[Any]],
    indices: tuple[Any, ...] = (),
) -> list[Any]:
    """Write loops inside each other around `body(indices, carried) -> carried`; return what they carry in the end."""
    if not sizes:
        return body(indices, carried)
    with loop(b, 0, sizes[0], 1, carried) as turn:
        turn.values = nest(b, sizes[1:], turn.values, body, (*indices, turn.index))
    return turn.results


def accesses(program: Program) -> list[Access]:
    """Return all accesses of a program."""
    found = [node.access for node in program.nodes if node.access is not None]
    return found + [store.access for one in program.passes for store in one.stores]


def collapse(owner: Version, outer: Sequence[int], sizes: list[Any], inner: Any) -> tuple[list[Any], Any]:
    """Make neighbouring loops one where every access allows it at run time; return new sizes, and of the innermost.

    Loop k and the innermost one are one loop if each access's stride of k is the size of the innermost times its
    stride there. A collapsed loop has size 1 from then on.

    Args:
        owner: The version of the kernel.
        outer: Numbers of the loops that may be taken, outermost first; they lie just outside the innermost one.
        sizes: Their sizes.
        inner: Size of the innermost loop.
    """
    from llvmlite import ir

    program, b = owner.program, owner.b
    every = accesses(program)
    counted = {int(node.value) for node in program.nodes if node.op == "index"}
    cut = {number for access in every for number, _, _ in access.window}
    fixed = counted | cut
    sizes = list(sizes)
    possible: Any = ir.Constant(ir.IntType(1), 1)
    for position in reversed(range(len(outer))):
        k = outer[position]
        if k in fixed or owner.inner in fixed or any(_never(access, k, owner.inner) for access in every):
            break
        fits = possible
        for access in every:
            step = b.mul(owner.size(access.strides[owner.inner]), inner)
            fits = b.and_(fits, b.icmp_signed("==", owner.size(access.strides[k]), step))
        fits = b.or_(fits, b.and_(possible, b.icmp_signed("==", sizes[position], i64(1))))
        inner = b.select(fits, b.mul(inner, sizes[position]), inner)
        sizes[position] = b.select(fits, i64(1), sizes[position])
        possible = fits
    return sizes, inner


def _never(access: Access, k: int, inner: int) -> bool:
    """Whether numbers alone say that an access keeps two loops apart."""
    outside, inside = access.strides[k], access.strides[inner]
    return outside == 0 and isinstance(inside, int) and inside != 0


def versions(program: Program, owner: Callable[[str], Version], write: Callable[[Version], None]) -> None:
    """Write the work once for each way in which innermost strides that are params are treated, and choose at run time.

    The builder stands at the end of a block without end before, in one behind the work after.
    """
    params = sorted({stride.index for access in accesses(program) if isinstance(stride := access.strides[-1], Param)})
    first = owner("any" if params else "unit")
    if not params:
        write(first)
        return
    b = first.b
    ways = ["unit", "either"] if len(params) <= 3 else ["unit"]
    after = b.append_basic_block("done")
    for way in ways:
        holds: Any = None
        for index in params:
            stride = first.params[index]
            one = b.icmp_signed("==", stride, i64(1)) if way == "unit" else b.icmp_unsigned("<=", stride, i64(1))
            holds = one if holds is None else b.and_(holds, one)
        then, otherwise = b.append_basic_block(way), b.append_basic_block(f"not_{way}")
        b.cbranch(holds, then, otherwise)
        b.position_at_end(then)
        write(owner(way))
        b.branch(after)
        b.position_at_end(otherwise)
    write(owner("any"))
    b.branch(after)
    b.position_at_end(after)

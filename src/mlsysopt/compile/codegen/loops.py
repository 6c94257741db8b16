"""Loops, addresses and integers in LLVM's text, for kernels that are written by hand."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llvmlite import ir

__all__ = ["Loop", "address", "ceildiv", "i64", "internal", "least", "loop", "most", "splat"]


@dataclass
class Loop:
    """A counted loop that is being written.

    Attributes:
        index: Its counter.
        values: Carried values: at the start of a turn those of the turn before, and the body sets those of the next.
        results: The carried values behind the loop.
    """

    index: Any
    values: list[Any]
    results: list[Any] = field(default_factory=list)


@contextmanager
def loop(b: ir.IRBuilder, start: Any, stop: Any, step: Any = 1, carried: Sequence[Any] = ()) -> Generator[Loop]:
    """Write `for index in range(start, stop, step)` around what follows; step is above 0.

    Args:
        b: Stands in the loop's body inside the context and behind the loop after it.
        start, stop, step: i64 values, or integers.
        carried: First values of what turns hand on.
    """
    from llvmlite import ir

    start, stop, step = (i64(one) if isinstance(one, int) else one for one in (start, stop, step))
    before = b.block
    head, body, after = (b.append_basic_block(word) for word in ("head", "body", "after"))
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(ir.IntType(64))
    index.add_incoming(start, before)
    phis = [b.phi(one.type) for one in carried]
    for phi, one in zip(phis, carried, strict=True):
        phi.add_incoming(one, before)
    b.cbranch(b.icmp_signed("<", index, stop), body, after)
    b.position_at_end(body)
    written = Loop(index, list(phis), list(phis))
    yield written
    index.add_incoming(b.add(index, step), b.block)
    for phi, one in zip(phis, written.values, strict=True):
        phi.add_incoming(one, b.block)
    b.branch(head)
    b.position_at_end(after)


def i64(value: int) -> Any:
    """Return a constant of 64 bits."""
    from llvmlite import ir

    return ir.Constant(ir.IntType(64), value)


def address(b: ir.IRBuilder, base: Any, index: Any, element: Any) -> Any:
    """Return the address of an element: base + index * size of the element."""
    return b.gep(base, [i64(index) if isinstance(index, int) else index], source_etype=element)


def least(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Return the smaller of two signed integers."""
    return b.select(b.icmp_signed("<", x, y), x, y)


def most(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Return the larger of two signed integers."""
    return b.select(b.icmp_signed("<", x, y), y, x)


def ceildiv(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Return x / y, rounded up; x >= 0 and y > 0."""
    return b.udiv(b.add(x, b.sub(y, i64(1))), y)


def splat(b: ir.IRBuilder, x: Any, lanes: int) -> Any:
    """Return a vector with a number in every lane."""
    from llvmlite import ir

    kind = ir.VectorType(x.type, lanes)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def internal(module: ir.Module, name: str, arguments: Sequence[Any]) -> ir.Function:
    """Return a new function that only this module calls, with `fastcc`; it returns nothing and is never inlined."""
    from llvmlite import ir

    function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(arguments)), name)
    function.linkage = "internal"
    function.calling_convention = "fastcc"
    for word in ("nounwind", "noinline"):
        function.attributes.add(word)
    return function

"""Products of matrices that both vary: the panel product for each matrix of a batch, wherever batches lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.kernel import Kernel, begin_kernel
from mlsysopt.compile.codegen.loops import address, ceildiv, i64, least, loop, most
from mlsysopt.compile.codegen.pack import pack_transposed
from mlsysopt.compile.codegen.panel import GROUP, Gemm, gemm, panel_shape

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["batched", "product_units"]

_OPERANDS = ("x", "w", "y")


def product_units(isa: Isa, m: Any, n: Any) -> Any:
    """Return the units of one product, what `batched` wants as its param `each`; for numbers or formulas."""
    return -(-m // GROUP) * -(-n // panel_shape(isa).nr)


def batched(module: ir.Module, isa: Isa, rank: int, *, transposed: bool = False, bias: bool = False) -> Kernel:
    """Write y[..., M, N] = x[..., M, K] w[..., K, N] (+ bias[N]) into a module, once for each form.

    Buffers: x, w, y, and bias [n] where there is one. Params: the `rank` sizes of the batch; for x, w and y the
    `rank` strides of the batch, 0 where an operand repeats; then m, n, k, ldx, ldw, ldy, and `each`, which is
    `product_units(m, n)`. Rows of x and y hold neighbours. Rows of w are those of [K, N]; with `transposed` it is
    [N, K], and its panels are packed in scratch. A unit is one of the panel product, matrix by matrix.
    """
    name = f"matmul_{'nt' if transposed else 'nn'}{'_bias' if bias else ''}_{rank}"
    inner = gemm(module, isa, Gemm(packed=transposed, bias=bias))
    nr = panel_shape(isa).nr
    sizes = tuple(f"b{i}" for i in range(rank))
    strides = tuple(f"{word}{i}" for word in _OPERANDS for i in range(rank))
    params = (*sizes, *strides, "m", "n", "k", "ldx", "ldw", "ldy", "each")

    def units(given: Sequence[int]) -> int:
        count = given[-1]
        for size in given[:rank]:
            count = count * size
        return count

    def scratch_bytes(given: Sequence[int]) -> int:
        m, n, k, ldx, ldw, ldy, _ = given[-7:]
        panels = -(-n // nr) * k * (4 * nr) if transposed else n * 0
        return inner.scratch_bytes((m, n, k, ldx, ldw, ldy * 0, ldy)) + panels

    if module.globals.get(name) is None:
        _write(module, isa, name, rank, inner, transposed=transposed, bias=bias)
    return Kernel(name, (*_OPERANDS, *(["bias"] if bias else [])), params, units, scratch_bytes)


def _write(module: ir.Module, isa: Isa, name: str, rank: int, inner: Kernel, *, transposed: bool, bias: bool) -> None:
    from llvmlite import ir

    ptr, int64, f32 = ir.PointerType(), ir.IntType(64), ir.FloatType()
    nr = panel_shape(isa).nr
    pack = pack_transposed(module, isa) if transposed else None
    kernel = begin_kernel(module, name)
    b = kernel.ir
    null = ir.Constant(ptr, None)
    operands = [kernel.buffer(i) for i in range(3)]
    added = kernel.buffer(3) if bias else null
    sizes = [kernel.param(i) for i in range(rank)]
    strides = [[kernel.param(rank * (1 + one) + i) for i in range(rank)] for one in range(3)]
    m, n, k, ldx, ldw, ldy, each = (kernel.param(4 * rank + i) for i in range(7))
    buffers, params = b.alloca(ptr, i64(6)), b.alloca(int64, i64(7))
    for i, value in enumerate((m, n, k, ldx, ldw, i64(0), ldy)):
        b.store(value, address(b, params, i, int64))
    source, wide = b.alloca(ptr, i64(2)), b.alloca(int64, i64(3))
    for i, value in enumerate((n, k, ldw)):
        b.store(value, address(b, wide, i, int64))
    panels = ceildiv(b, n, i64(nr))
    groups = b.udiv(each, most(b, panels, i64(1)))
    scratch = address(b, kernel.scratch, b.mul(panels, b.mul(k, i64(nr))), f32) if transposed else kernel.scratch
    some = most(b, each, i64(1))
    with loop(b, b.sdiv(kernel.begin, some), ceildiv(b, kernel.end, some)) as batch:
        start = b.mul(batch.index, each)
        low, high = most(b, b.sub(kernel.begin, start), i64(0)), least(b, b.sub(kernel.end, start), each)
        x, w, y = _matrices(b, batch.index, operands, sizes, strides)
        if pack is not None:
            b.store(w, address(b, source, 0, ptr))
            b.store(kernel.scratch, address(b, source, 1, ptr))
            first, last = b.udiv(low, most(b, groups, i64(1))), ceildiv(b, high, most(b, groups, i64(1)))
            b.call(module.globals[pack.name], [source, wide, first, last, null])
            w = kernel.scratch
        for i, value in enumerate((x, w, null, added, null, y)):
            b.store(value, address(b, buffers, i, ptr))
        b.call(module.globals[inner.name], [buffers, params, low, high, scratch])
    b.ret_void()


def _matrices(
    b: ir.IRBuilder, index: Any, operands: Sequence[Any], sizes: Sequence[Any], strides: Sequence[Sequence[Any]]
) -> list[Any]:
    """Return the addresses of the matrices with a number."""
    from llvmlite import ir

    offsets: list[Any] = [i64(0)] * len(operands)
    for axis in reversed(range(len(sizes))):
        here, index = b.urem(index, sizes[axis]), b.udiv(index, sizes[axis])
        for one, stride in enumerate(strides):
            offsets[one] = b.add(offsets[one], b.mul(here, stride[axis]))
    return [address(b, base, offset, ir.FloatType()) for base, offset in zip(operands, offsets, strict=True)]

"""What is done to a finished product while it is in the first-level cache: scale, bias, activation, residual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mlsysopt.compile.codegen import mathfn
from mlsysopt.compile.codegen.loops import address, i64, internal, loop, splat
from mlsysopt.compile.codegen.memory import read, write
from mlsysopt.compile.codegen.microkernel import panel_shape

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["ACTIVATIONS", "Finish", "finish"]

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")


class Finish(Protocol):
    """The part of a product's description that is read here; see `panel.Gemm`."""

    @property
    def weights(self) -> str: ...
    @property
    def bias(self) -> bool: ...
    @property
    def activation(self) -> str: ...
    @property
    def residual(self) -> bool: ...
    @property
    def alpha(self) -> bool: ...


def finish(module: ir.Module, isa: Isa, spec: Finish) -> ir.Function:
    """Return the function that finishes rows of one panel.

        void finish(ptr sums, i64 lds, ptr y, i64 ldy, i64 rows, i64 columns, ptr scales, ptr bias, ptr residual,
                    i64 ldr, ptr alpha)

    Reads `sums` [rows, nr] and writes y [rows, min(columns, nr)]; pointers stand at the panel's first column.
    """
    from llvmlite import ir

    flags = [word for word in ("bias", "residual", "alpha") if getattr(spec, word)]
    name = "_".join(["finish", *(["int8"] if spec.weights == "int8" else []), *flags, spec.activation])
    known = module.globals.get(name)
    if known is not None:
        return known
    ptr, int64 = ir.PointerType(), ir.IntType(64)
    function = internal(module, name, [ptr, int64, ptr, int64, int64, int64, ptr, ptr, ptr, int64, ptr])
    b = ir.IRBuilder(function.append_basic_block("entry"))
    columns = function.args[5]
    idle = not flags and not spec.activation and spec.weights != "int8"
    whole, part, done = (b.append_basic_block(word) for word in ("whole", "part", "done"))
    b.cbranch(b.icmp_signed(">=", columns, i64(panel_shape(isa).nr)), done if idle else whole, part)
    for block, masked in ((whole, False), (part, True)):
        b.position_at_end(block)
        if not (idle and block is whole):
            _rows(b, module, isa, spec, function.args, masked)
        b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return function


def _rows(b: ir.IRBuilder, module: ir.Module, isa: Isa, spec: Finish, arguments: Any, masked: bool) -> None:
    from llvmlite import ir

    f32, lanes = ir.FloatType(), isa.lanes
    sums, lds, y, ldy, rows, columns, scales, bias, residual, ldr, alpha = arguments
    alone = splat(b, b.load(alpha, typ=f32), lanes) if spec.alpha else None
    with loop(b, 0, rows) as row:
        here, there, beside = (
            address(b, base, b.mul(row.index, stride), f32) for base, stride in ((sums, lds), (y, ldy), (residual, ldr))
        )
        for column in range(0, panel_shape(isa).nr, lanes):
            count = b.sub(columns, i64(column)) if masked else None
            one = read(b, address(b, here, column, f32), lanes)
            if spec.weights == "int8":
                one = b.fmul(one, read(b, address(b, scales, column, f32), lanes, count))
            if alone is not None:
                one = b.fmul(one, alone)
            if spec.bias:
                one = b.fadd(one, read(b, address(b, bias, column, f32), lanes, count))
            if spec.activation:
                one = mathfn.emit(b, module, spec.activation, one, isa)
            if spec.residual:
                one = b.fadd(one, read(b, address(b, beside, column, f32), lanes, count))
            write(b, address(b, there, column, f32), one, count)

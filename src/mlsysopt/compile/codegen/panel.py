"""The packed-panel matrix product: y[M, N] = epilogue(x[M, K] w[N, K]^T) for any M, N and K.

Weights lie in panels of nr columns, all K rows of a panel together (`pack`), so that a product reads them in the order
of addresses, once. Up to mr rows are a stream through the weights. More rows are cut into groups; each panel meets all
row blocks of a group while it is near, and deep panels go in slices that the first-level cache holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen import epilogue
from mlsysopt.compile.codegen.kernel import Kernel, begin_kernel
from mlsysopt.compile.codegen.loops import address, ceildiv, i64, least, loop, most
from mlsysopt.compile.codegen.memory import copy_rows
from mlsysopt.compile.codegen.microkernel import ELEMENT_BYTES, multiply, panel_shape, stream
from mlsysopt.core.errors import UsageError, near_misses

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["GROUP", "PARAMS", "Gemm", "gemm", "panel_shape"]

PARAMS = ("m", "n", "k", "ldx", "ldw", "ldr", "ldy")
# Rows that share one sweep over the weights: a multiple of every block height.
GROUP = 144
# A panel of up to this many rows is multiplied as it is: 128 KiB of 16 columns, which the second-level cache holds
# while the row blocks of a group pass.
DEEP = 2048
# Deeper ones go in slices: 256 rows of 16 columns are 16 KiB, which the first-level cache holds beside one row block.
# The slice of x is copied, since rows apart by a power of two share a cache set; that takes a group of many blocks.
SLICE = 256
FEW = 36
_PAD = 16


@dataclass(frozen=True, slots=True)
class Gemm:
    """A product and what is done to it before its only store: y = activation(alpha * scales * xw + bias) + residual.

    Attributes:
        weights: "f32", "bf16" (upper halves of f32; `multiply` says when x is rounded as well) or "int8" (one scale for
            each column); sums are f32.
        packed: Whether weights are panels [ceil(N/nr)][K][nr]; otherwise they are f32 [K][N], rows `ldw` apart.
        bias: Whether a vector [N] is added.
        activation: "" for none, or one of `epilogue.ACTIVATIONS`.
        residual: Whether a matrix [M, N], rows `ldr` apart, is added after the activation.
        alpha: Whether the finished sum is multiplied by the one f32 of a seventh buffer.

    >>> Gemm(bias=True, activation="gelu").name
    'gemm_f32_bias_gelu'
    """

    weights: str = "f32"
    packed: bool = True
    bias: bool = False
    activation: str = ""
    residual: bool = False
    alpha: bool = False

    def __post_init__(self) -> None:
        if self.weights not in ELEMENT_BYTES:
            raise UsageError(f"weights {self.weights!r}; {near_misses(self.weights, ELEMENT_BYTES, noun='type')}")
        if self.activation not in ("", *epilogue.ACTIVATIONS):
            known = near_misses(self.activation, epilogue.ACTIVATIONS, noun="activation")
            raise UsageError(f"activation {self.activation!r}; {known}")
        if not self.packed and self.weights != "f32":
            raise UsageError(f"weights {self.weights!r} must be packed: only f32 is read as a plain matrix")

    @property
    def name(self) -> str:
        flags = [word for word in ("bias", "residual", "alpha") if getattr(self, word)]
        words = ["gemm", self.weights, "" if self.packed else "plain", *flags[:1], self.activation, *flags[1:]]
        return "_".join(word for word in words if word)


def gemm(module: ir.Module, isa: Isa, spec: Gemm) -> Kernel:
    """Write a product into a module, once for each name.

    Buffers: x [m, k] (rows `ldx` apart), weights, scales f32 [n] (int8 only), bias f32 [n], residual [m, n], y [m, n]
    and, with `alpha`, one f32. What a spec does not use may be address 0. Sizes may be 0; k = 0 is a sum of nothing.
    `ldw` is read for plain weights only.

    A unit is one panel of one group of rows, panel by panel: a range of units is a range of columns first. The bits of
    a result depend on m, k and its row, not on the range.
    """
    shape = panel_shape(isa)
    buffers = ("x", "weights", "scales", "bias", "residual", "y", *(["alpha"] if spec.alpha else []))

    def units(params: Sequence[int]) -> int:
        return -(-params[0] // GROUP) * -(-params[1] // shape.nr)

    def scratch_bytes(params: Sequence[int]) -> int:
        return _fixed_scratch(isa) + (0 if spec.packed else params[2] * (4 * shape.nr))

    if module.globals.get(spec.name) is None:
        _Writer(module, isa, spec).write()
    return Kernel(spec.name, buffers, PARAMS, units, scratch_bytes)


def _fixed_scratch(isa: Isa) -> int:
    return 4 * GROUP * (SLICE + _PAD + panel_shape(isa).nr)


@dataclass
class _Rows:
    """What all panels of one group of rows, and one slice of it, have in common; values of the code being written."""

    first: Any
    count: Any
    low: Any
    x: Any
    ldx: Any
    start: Any
    depth: Any


class _Writer:
    """Writes one product: loops over groups of rows, slices of k, panels."""

    def __init__(self, module: ir.Module, isa: Isa, spec: Gemm) -> None:
        from llvmlite import ir

        self.spec, self.nr, self.mr = spec, panel_shape(isa).nr, panel_shape(isa).mr
        self.bytes = ELEMENT_BYTES[spec.weights]
        self.f32, self.byte, self.null = ir.FloatType(), ir.IntType(8), ir.Constant(ir.PointerType(), None)
        self.multiply, self.stream = multiply(module, spec.weights), stream(module, spec.weights)
        self.copy_rows, self.finish = copy_rows(module, isa), epilogue.finish(module, isa, spec)
        kernel = begin_kernel(module, spec.name)
        self.b, self.begin, self.end = kernel.ir, kernel.begin, kernel.end
        self.x, self.weights, self.scales, self.bias, self.residual, self.y = (kernel.buffer(i) for i in range(6))
        self.alpha = kernel.buffer(6) if spec.alpha else self.null
        self.m, self.n, self.k, self.ldx, self.ldw, self.ldr, self.ldy = (kernel.param(i) for i in range(7))
        self.copy = kernel.scratch
        self.tile = address(self.b, self.copy, GROUP * (SLICE + _PAD), self.f32)
        self.rest = address(self.b, self.tile, GROUP * self.nr, self.f32)

    def write(self) -> None:
        b = self.b
        self.whole = b.udiv(self.n, i64(self.nr))
        if self.spec.packed:
            self.line, self.panel = i64(self.nr), b.mul(self.k, i64(self.nr * self.bytes))
        else:
            self.line, self.panel = self.ldw, i64(self.nr * self.bytes)
            self._copy_rest()
        groups = ceildiv(b, self.m, i64(GROUP))
        height = b.mul(ceildiv(b, ceildiv(b, self.m, most(b, groups, i64(1))), i64(self.mr)), i64(self.mr))
        with loop(b, 0, groups) as group:
            first = b.mul(group.index, height)
            rows = least(b, b.sub(self.m, first), height)
            # Unit p * groups + group lies in [begin, end).
            low, high = (
                ceildiv(b, most(b, b.sub(edge, group.index), i64(0)), groups) for edge in (self.begin, self.end)
            )
            self._group(first, rows, low, high)
        b.ret_void()

    def _copy_rest(self) -> None:
        """Copy the columns behind the last whole panel, so that none is read that does not exist."""
        b = self.b
        first = b.mul(self.whole, i64(self.nr))
        columns = b.sub(self.n, first)
        with b.if_then(b.icmp_signed(">", columns, i64(0))):
            source = address(b, self.weights, first, self.f32)
            b.call(self.copy_rows, [source, self.ldw, self.rest, i64(self.nr), self.k, columns])

    def _group(self, first: Any, count: Any, low: Any, high: Any) -> None:
        """Write the slices of one group of rows for panels low to high."""
        b, k = self.b, self.k
        direct = b.or_(b.icmp_signed("<=", count, i64(FEW)), b.icmp_signed("<=", k, i64(DEEP)))
        some = most(b, k, i64(1))  # k = 0 takes one turn, which stores the epilogue of nothing
        step = b.select(direct, some, i64(SLICE))
        source = address(b, self.x, b.mul(first, self.ldx), self.f32)
        ldx = b.select(direct, self.ldx, i64(SLICE + _PAD))
        with loop(b, 0, some, step) as part:
            depth = least(b, b.sub(k, part.index), step)
            here = address(b, source, part.index, self.f32)
            with b.if_then(b.not_(direct)):
                b.call(self.copy_rows, [here, self.ldx, self.copy, ldx, count, depth])
            few = b.icmp_signed("<=", count, i64(self.mr))
            rows = _Rows(first, count, few, b.select(direct, here, self.copy), ldx, part.index, depth)
            with b.if_then(few):
                target = address(b, self.y, b.add(b.mul(first, self.ldy), b.mul(low, i64(self.nr))), self.f32)
                panels = most(b, b.sub(least(b, high, self.whole), low), i64(0))
                self._stream(rows, self._slice(low, part.index), self.line, target, self.ldy, panels)
            with loop(b, low, high) as panel:
                self._panel(rows, panel.index)

    def _slice(self, panel: Any, start: Any) -> Any:
        b = self.b
        offset = b.add(b.mul(panel, self.panel), b.mul(b.mul(start, self.line), i64(self.bytes)))
        return address(b, self.weights, offset, self.byte)

    def _panel(self, rows: _Rows, panel: Any) -> None:
        """Write one panel: the product, unless it has been streamed, and with the last slice its end."""
        b = self.b
        column = b.mul(panel, i64(self.nr))
        full = b.icmp_signed("<", panel, self.whole)
        target = address(b, self.y, b.add(b.mul(rows.first, self.ldy), column), self.f32)
        # What is not a whole panel goes to a tile in scratch first.
        out, ldo = b.select(full, target, self.tile), b.select(full, self.ldy, i64(self.nr))
        place, line, ahead = self._slice(panel, rows.start), self.line, self.null
        if self.spec.packed:
            ahead = address(b, place, self.panel, self.byte)
        else:
            place = b.select(full, place, address(b, self.rest, b.mul(rows.start, i64(self.nr)), self.f32))
            line = b.select(full, line, i64(self.nr))
        with b.if_else(rows.low) as (then, otherwise):
            with then, b.if_then(b.not_(full)):
                self._stream(rows, place, line, out, ldo, i64(1))
            with otherwise:
                b.call(
                    self.multiply,
                    [rows.x, rows.ldx, place, line, rows.depth, out, ldo, rows.count, rows.start, ahead],
                )
        with b.if_then(b.icmp_signed(">=", b.add(rows.start, rows.depth), self.k)):
            residual = address(b, self.residual, b.add(b.mul(rows.first, self.ldr), column), self.f32)
            scales, bias = (address(b, one, column, self.f32) for one in (self.scales, self.bias))
            left = b.sub(self.n, column)
            b.call(
                self.finish,
                [out, ldo, target, self.ldy, rows.count, left, scales, bias, residual, self.ldr, self.alpha],
            )

    def _stream(self, rows: _Rows, place: Any, line: Any, out: Any, ldo: Any, panels: Any) -> None:
        self.b.call(
            self.stream,
            [rows.x, rows.ldx, place, self.panel, line, rows.depth, out, ldo, rows.count, rows.start, panels],
        )

"""The generated product: weights in panels, sums in registers, the epilogue before the only store.

A call costs one foreign call. Its arguments are packed into fresh bytes, so that threads may call at once; scratch
belongs to the thread.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlsysopt.compile.errors import InputError
from mlsysopt.compile.variants.products import float_error, refused, torch_module, vector
from mlsysopt.compile.variants.site import Call, Epilogue, Packed, Refusal, Site
from mlsysopt.core.errors import MissingExtra
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.kernel import Kernel
    from mlsysopt.compile.codegen.target import Isa

__all__ = ["Panel", "f32"]

_ADDRESSES = struct.Struct("6Q")
_SIZES = struct.Struct("7q")


@dataclass(frozen=True)
class Panel:
    """A product through generated code.

    Attributes:
        name: "panel.f32", "panel.bf16w" or "panel.int8w".
        weights: Element type of the weights: "f32", "bf16" or "int8"; sums and the result are f32 always, and so is x
            but where the processor multiplies pairs of bf16: more rows than one block are rounded to it there.
        weight_bytes: Bytes of one.
        relative_error: Error that rounding the weights brings; 0 for f32.
    """

    name: str
    weights: str = "f32"
    weight_bytes: int = 4
    relative_error: float = 0.0
    version: str = "1"
    ops: tuple[str, ...] = ("linear",)
    native: bool = True

    @property
    def form(self) -> str:
        return f"panel.{self.weights}"

    def supports(self, site: Site) -> Refusal | None:
        if not site.constant_weights:
            return Refusal("weights that vary cannot be packed beforehand")
        return refused(site) or _without_code()

    def prepare(self, weights: Any, bias: Any, site: Site) -> Packed:
        from mlsysopt.compile.codegen.pack import pack
        from mlsysopt.compile.codegen.target import host_isa

        panels, scales = pack(_array(weights), host_isa(), self.weights)
        arrays: dict[str, npt.NDArray[Any]] = {"weights": panels}
        if scales is not None:
            arrays["scales"] = scales
        return Packed(self.form, panels, sum(one.nbytes for one in arrays.values()), arrays)

    def scratch_bytes(self, site: Site) -> Dim:
        n, k = site.number("N"), site.number("K")
        return Dim.of(_kernel(self.weights).scratch_bytes((0, n, k, k, 0, n, n))) * site.threads

    def bind(self, site: Site, packed: Packed, bias: Any | None) -> Call:
        compiled = _compiled(self.weights, site.epilogue, forks=site.threads > 1)
        return _bound(compiled, site, packed, vector(bias, site))

    def block_rows(self, site: Site) -> int:
        from mlsysopt.compile.codegen.panel import panel_shape
        from mlsysopt.compile.codegen.target import host_isa

        return panel_shape(host_isa()).mr

    def error(self, site: Site) -> float:
        return float_error(site) + self.relative_error


@dataclass(frozen=True)
class _Compiled:
    """A kernel of this process.

    Attributes:
        call: Buffers, params, begin, end, scratch.
        fork: Buffers, params, units, threads, scratch, its bytes for one thread, address of the thread pool; there
            only where it was asked for.
        units: Units of work for params.
        scratch_bytes: Scratch of one thread for params.
        keep: What owns the code.
    """

    call: Callable[[bytes, bytes, int, int, int], None]
    fork: Callable[[bytes, bytes, int, int, int, int, int], None] | None
    units: Callable[[tuple[int, ...]], int]
    scratch_bytes: Callable[[tuple[int, ...]], int]
    keep: Any


_compiling = threading.Lock()


def _compiled(weights: str, epilogue: Epilogue, *, forks: bool = False) -> _Compiled:
    with _compiling:
        return _compiled_once(weights, epilogue, forks)


@cache
def _compiled_once(weights: str, epilogue: Epilogue, forks: bool) -> _Compiled:
    from mlsysopt.compile.codegen.target import host_isa
    from mlsysopt.compile.codegen.workshop import build

    module, kernel = _written(weights, epilogue)
    if forks:
        _write_forked(module, host_isa(), kernel.name)
    library = build(module, host_isa())
    call = _CALL(library.address(kernel.name))
    fork = _FORK(library.address("forked")) if forks else None
    return _Compiled(call, fork, kernel.units, kernel.scratch_bytes, library)


def _written(weights: str, epilogue: Epilogue) -> tuple[ir.Module, Kernel]:
    from mlsysopt.compile.codegen import panel
    from mlsysopt.compile.codegen.target import host_isa, new_module

    spec = panel.Gemm(weights=weights, bias=epilogue.bias, activation=epilogue.activation, residual=epilogue.residual)
    module = new_module(spec.name)
    return module, panel.gemm(module, host_isa(), spec)


@cache
def _kernel(weights: str) -> Kernel:
    """Return a kernel for its formulas, which no epilogue changes; nothing is compiled."""
    return _written(weights, Epilogue())[1]


# Bytes pass as addresses of their content.
_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_CALL = ctypes.CFUNCTYPE(None, _ADDRESS, _ADDRESS, _NUMBER, _NUMBER, _ADDRESS)
_FORK = ctypes.CFUNCTYPE(None, _ADDRESS, _ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _NUMBER, _ADDRESS)


def _write_forked(module: ir.Module, isa: Isa, kernel: str) -> None:
    """Write the kernel's fork with its arguments in the order of `_Compiled.fork`."""
    from llvmlite import ir

    from mlsysopt.compile.codegen.threads import emit_fork

    fork = emit_fork(module, isa)
    ptr, number = ir.PointerType(), ir.IntType(64)
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [ptr, ptr, number, number, ptr, number, ptr]), "forked"
    )
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    builder.call(fork, [module.globals[kernel], *function.args], cconv="fastcc")
    builder.ret_void()


class _Scratch(threading.local):
    """Scratch of a thread, grown to the largest call so far."""

    def __init__(self) -> None:
        self.bytes = 0
        self.address = 0
        self.held: Any = None

    def at_least(self, wanted: int) -> int:
        if wanted > self.bytes:
            self.held = np.empty(wanted + 64, dtype=np.uint8)
            self.bytes = wanted
            self.address = -(-self.held.ctypes.data // 64) * 64
        return self.address


_scratch = _Scratch()


def _bound(compiled: _Compiled, site: Site, packed: Packed, bias: Any) -> Call:
    n, k, threads = site.number("N"), site.number("K"), site.threads
    float32 = torch_module().float32
    weights, scales = packed.arrays["weights"], packed.arrays.get("scales")
    added = bias.contiguous() if bias is not None else None
    fixed = (weights.ctypes.data, 0 if scales is None else scales.ctypes.data, 0 if added is None else added.data_ptr())
    run, fork, units_of = compiled.call, compiled.fork, compiled.units
    addresses, sizes, scratch, pool = _ADDRESSES.pack, _SIZES.pack, _scratch, _pool() if threads > 1 else 0
    each = -(-compiled.scratch_bytes((1, n, k, k, 0, n, n)) // 64) * 64
    needed = each * threads
    wants_residual = site.epilogue.residual

    def call(x: Any, residual: Any = None) -> Any:
        shape = x.shape
        if shape[-1] != k or x.dtype is not float32 or not x.is_cpu:
            raise InputError(f"x must be f32[..., {k}] on the CPU, got {str(x.dtype)[6:]}{list(shape)} on {x.device}")
        x, rows, stride = (x, x.numel() // k, k) if k and x.is_contiguous() else _in_rows(x)
        # A tuple of sizes would cost a microsecond more than two numbers.
        y = x.new_empty(rows, n) if len(shape) == 2 else x.new_empty(*shape[:-1], n)
        beside, apart = 0, 0
        if wants_residual:
            residual, beside, apart = _residual(residual, y)
        params = (rows, n, k, stride, 0, apart, n)
        places = addresses(x.data_ptr(), *fixed, beside, y.data_ptr())
        if fork is None:
            run(places, sizes(*params), 0, units_of(params), scratch.at_least(needed))
        else:
            fork(places, sizes(*params), units_of(params), threads, scratch.at_least(needed), each, pool)
        return y

    # The addresses above are good for as long as these live.
    call.held = (packed, added, compiled)  # pyright: ignore[reportFunctionMemberAccess]
    return call


def _pool() -> int:
    from mlsysopt.compile.codegen.threads import pool

    return pool()


def _in_rows(x: Any) -> tuple[Any, int, int]:
    """Return x, its rows and their distance; read in place where rows are contiguous and equally far apart."""
    if x.dim() == 2 and x.stride(1) == 1:
        return x, x.shape[0], x.stride(0)
    held = x.contiguous()
    return held, held.shape[:-1].numel(), held.shape[-1]


def _residual(residual: Any, y: Any) -> tuple[Any, int, int]:
    if residual is None or residual.shape != y.shape or residual.dtype != y.dtype:
        given = "none" if residual is None else f"{str(residual.dtype)[6:]}{list(residual.shape)}"
        raise InputError(f"the residual must be f32{list(y.shape)}, got {given}")
    held, _, apart = (residual, 0, y.shape[-1]) if residual.is_contiguous() else _in_rows(residual)
    return held, held.data_ptr(), apart


def _array(weights: Any) -> npt.NDArray[np.float32]:
    from mlsysopt.compile.variants.site import weight_matrix

    return weight_matrix(weights if isinstance(weights, np.ndarray) else weights.detach().numpy())


@cache
def _without_code() -> Refusal | None:
    try:
        from mlsysopt.compile.codegen.target import host_isa

        host_isa()
    except MissingExtra as error:
        return Refusal(str(error))
    return None


def f32() -> Panel:
    """Return the generated product with f32 weights."""
    return Panel("panel.f32")

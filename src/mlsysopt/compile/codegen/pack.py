"""Weights in the order in which the panel product reads them: [ceil(N / nr)][K][nr], the last panel padded with zeros.

Constants are packed once, by numpy; keys of an attention are packed for each call, by a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mlsysopt.compile.codegen.kernel import Kernel, begin_kernel
from mlsysopt.compile.codegen.lanes import number
from mlsysopt.compile.codegen.loops import address, i64, internal, least, loop
from mlsysopt.compile.codegen.memory import read, write
from mlsysopt.compile.codegen.microkernel import ELEMENT_BYTES, panel_shape
from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["ALIGNMENT", "aligned", "pack", "pack_transposed", "packed_bytes", "transpose", "unpack"]

ALIGNMENT = 64
_INT8_MAX = 127
Size = TypeVar("Size", int, Dim)


def pack(
    weights: npt.NDArray[np.floating[Any]], isa: Isa, kind: str = "f32"
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
    """Return weights as panels, and the scales of their columns.

    Args:
        weights: Shape (N, K), one row for each output feature; any strides.
        isa: Decides the width of a panel.
        kind: "f32"; "bf16", rounded to nearest even; "int8", rounded to 127 steps on either side of 0 with one scale
            for each output feature.

    Returns:
        Panels of shape (ceil(N / nr), K, nr), f32, uint16 or int8, aligned to 64 bytes; scales of shape (N,) for
        int8, else None. A feature with an infinite weight, or with NaN, has a NaN scale.

    Raises:
        UsageError: another rank or kind.

    >>> import numpy as np
    >>> from mlsysopt.compile.codegen.target import Isa
    >>> panels, _ = pack(np.ones((20, 3), np.float32), Isa("avx2", 8, 16, ""))
    >>> panels.shape, float(panels.sum())
    ((2, 3, 16), 60.0)
    """
    import numpy as np

    if weights.ndim != 2:
        raise UsageError(f"weights of shape {weights.shape}: a matrix [N, K] is needed")
    scales = None
    rows: npt.NDArray[Any]
    if kind not in ELEMENT_BYTES:
        raise UsageError(f"weights of kind {kind!r}; {near_misses(kind, ELEMENT_BYTES, noun='kind')}")
    if kind == "f32":
        rows = np.asarray(weights, dtype=np.float32)
    elif kind == "bf16":
        rows = _upper_halves(np.ascontiguousarray(weights, dtype=np.float32))
    else:
        rows, scales = _quantised(np.asarray(weights, dtype=np.float32))
    n, k = rows.shape
    nr = panel_shape(isa).nr
    whole = n // nr
    panels = aligned((-(-n // nr), k, nr), rows.dtype)
    panels[:whole] = rows[: whole * nr].reshape(whole, nr, k).transpose(0, 2, 1)
    if n % nr:
        panels[whole] = 0
        panels[whole, :, : n % nr] = rows[whole * nr :].T
    return panels, scales


def unpack(panels: npt.NDArray[Any], n: int, scales: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """Return weights (N, K) as f32 from their panels; bit for bit what was packed when that was f32.

    >>> import numpy as np
    >>> from mlsysopt.compile.codegen.target import Isa
    >>> unpack(pack(np.eye(3, dtype=np.float32), Isa("avx2", 8, 16, ""))[0], 3)[1]
    array([0., 1., 0.], dtype=float32)
    """
    import numpy as np

    count, k, nr = panels.shape
    rows = np.ascontiguousarray(panels.transpose(0, 2, 1)).reshape(count * nr, k)[:n]
    if panels.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    wide = rows.astype(np.float32, copy=False)
    return wide if scales is None else wide * scales[:, None]


def packed_bytes(n: Size, k: Size, isa: Isa, kind: str = "f32") -> Size:
    """Return the bytes of panels and scales, for numbers or formulas.

    >>> from mlsysopt.compile.codegen.target import Isa
    >>> packed_bytes(20, 3, Isa("avx2", 8, 16, "")), packed_bytes(20, 3, Isa("avx2", 8, 16, ""), "int8")
    (384, 176)
    """
    nr = panel_shape(isa).nr
    return ((n + (nr - 1)) // nr) * k * (nr * ELEMENT_BYTES[kind]) + n * (4 if kind == "int8" else 0)


def aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a new array, not filled, that starts at a cache line."""
    import numpy as np

    bytes_ = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(bytes_ + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + bytes_].view(dtype).reshape(shape)


def _upper_halves(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    import numpy as np

    bits = rows.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # NaN keeps its sign and is made quiet: rounding could carry its fraction away.
    return np.where(np.isnan(rows), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _quantised(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    import numpy as np

    largest = np.abs(rows).max(axis=1, initial=0)
    finite = np.isfinite(largest)
    scales = np.where(finite, largest / _INT8_MAX, np.nan).astype(np.float32)
    usable = np.where(finite & (scales > 0), scales, 1)
    steps = np.rint(np.where(finite[:, None], rows, 0) / usable[:, None])
    return np.clip(steps, -_INT8_MAX, _INT8_MAX).astype(np.int8), scales


def pack_transposed(module: ir.Module, isa: Isa) -> Kernel:
    """Write the kernel that packs a matrix of f32 at run time: a unit is one panel.

    Buffers: source [n, k] with rows `ld` apart, panels [ceil(n/nr), k, nr], where the last is padded with zeros.
    """
    nr = panel_shape(isa).nr

    def units(params: Sequence[int]) -> int:
        return -(-params[0] // nr)

    def scratch_bytes(params: Sequence[int]) -> int:
        return params[0] * 0

    name = "pack_transposed"
    if module.globals.get(name) is None:
        one = pack_panel(module, isa)
        kernel = begin_kernel(module, name)
        b = kernel.ir
        n, k, ld = (kernel.param(i) for i in range(3))
        source, panels = kernel.buffer(0), kernel.buffer(1)
        with loop(b, kernel.begin, kernel.end) as panel:
            b.call(one, [source, n, k, ld, panels, panel.index])
        b.ret_void()
    return Kernel(name, ("source", "panels"), ("n", "k", "ld"), units, scratch_bytes)


def pack_panel(module: ir.Module, isa: Isa) -> ir.Function:
    """Return the function that packs one panel: void(ptr source, i64 n, i64 k, i64 ld, ptr panels, i64 panel)."""
    from llvmlite import ir

    known = module.globals.get("pack_panel")
    if known is not None:
        return known
    ptr, int64, f32 = ir.PointerType(), ir.IntType(64), ir.FloatType()
    function = internal(module, "pack_panel", [ptr, int64, int64, int64, ptr, int64])
    source, n, k, ld, panels, panel = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    nr, lanes = panel_shape(isa).nr, isa.lanes
    target = address(b, panels, b.mul(b.mul(panel, i64(nr)), k), f32)
    whole = b.and_(k, i64(-lanes))
    zero = ir.Constant(f32, 0.0)
    nothing = number(ir.VectorType(f32, lanes), 0.0)
    first = b.mul(panel, i64(nr))
    with loop(b, 0, nr, lanes) as group:
        start = b.add(first, group.index)
        # Rows behind the last are read as the last and then replaced, so that nothing outside is touched.
        numbers = [b.add(start, i64(r)) for r in range(lanes)]
        there = [b.icmp_signed("<", one, n) for one in numbers]
        rows = [address(b, source, b.mul(least(b, one, b.sub(n, i64(1))), ld), f32) for one in numbers]
        with loop(b, 0, whole, lanes) as column:
            square = [
                b.select(inside, read(b, address(b, row, column.index, f32), lanes), nothing)
                for row, inside in zip(rows, there, strict=True)
            ]
            for i, line in enumerate(transpose(b, square)):
                place = b.add(b.mul(b.add(column.index, i64(i)), i64(nr)), group.index)
                write(b, address(b, target, place, f32), line)
        with loop(b, whole, k) as column:
            for r, (row, inside) in enumerate(zip(rows, there, strict=True)):
                one = b.select(inside, b.load(address(b, row, column.index, f32), typ=f32), zero)
                place = b.add(b.mul(column.index, i64(nr)), b.add(group.index, i64(r)))
                b.store(one, address(b, target, place, f32))
    b.ret_void()
    return function


def transpose(b: ir.IRBuilder, rows: Sequence[Any]) -> list[Any]:
    """Return the columns of a square of vectors, a power of two wide, without memory."""
    from llvmlite import ir

    lanes = len(rows)
    made = list(rows)
    half = lanes // 2
    while half:
        low = [j if not j & half else lanes + j - half for j in range(lanes)]
        high = [j + half if not j & half else lanes + j for j in range(lanes)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), one) for one in (low, high)]
        for i in range(lanes):
            if not i & half:
                pair = made[i], made[i + half]
                made[i], made[i + half] = (b.shuffle_vector(*pair, mask) for mask in masks)
        half //= 2
    return made

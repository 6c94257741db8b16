"""Attention in one kernel: softmax(q k' * scale + mask) v, with nothing between in memory but a block of scores.

A block of keys is packed into panels once for a head, blocks of queries meet it there; for a few queries it is read as
it lies. Longer sequences go block by block, with a running maximum and sum; what was summed before is corrected when
the maximum grows.

References:
    M. Milakov, N. Gimelshein, *Online normalizer calculation for softmax*, 2018, arXiv 1805.02867.
    T. Dao et al., *FlashAttention*, NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mlsysopt.compile.codegen.dots import dots
from mlsysopt.compile.codegen.kernel import Kernel, KernelBuilder, begin_kernel
from mlsysopt.compile.codegen.lanes import intrinsic
from mlsysopt.compile.codegen.loops import address, ceildiv, i64, least, loop, most
from mlsysopt.compile.codegen.memory import copy_rows
from mlsysopt.compile.codegen.microkernel import multiply, panel_shape, stream
from mlsysopt.compile.codegen.pack import pack_panel
from mlsysopt.compile.codegen.softmax import divide, softmax
from mlsysopt.core.errors import UsageError
from mlsysopt.graph.symbolic import minimum

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["MASKS", "PARAMS", "USUAL_SCALE", "Attention", "attention", "scale_bits"]

MASKS = ("", "bool", "f32")
PARAMS = (
    "batch", "heads", "queries", "keys", "features", "values", "scale",
    "q_batch", "q_head", "q_row", "k_batch", "k_head", "k_row", "v_batch", "v_head", "v_row",
    "out_batch", "out_head", "out_row", "mask_batch", "mask_head", "mask_row", "mask_key",
)  # fmt: skip
USUAL_SCALE = -1
"""The param `scale` that stands for 1 / sqrt(features)."""
# Queries of a block: a multiple of every block height. With KEYS it takes 150 KB of scores, beside keys and values of
# as many bytes for 64 features: together they fit a second-level cache.
_QUERIES = 72
_KEYS = 512
# Up to this many keys, those of a head stay packed while its blocks of queries pass; above, each block of queries packs
# them again, which costs about 6 % and no memory.
_KEPT = 4096
_PAD = 16


@dataclass(frozen=True, slots=True)
class Attention:
    """What varies from one attention to another beside sizes and strides.

    Attributes:
        mask: "" for none, "bool" (bytes; 0 forbids a key), "f32" (added to the scaled scores).
        causal: Whether query i sees keys 0 to i only; keys behind the last query are not multiplied by anything.
    """

    mask: str = ""
    causal: bool = False

    def __post_init__(self) -> None:
        if self.mask not in MASKS:
            raise UsageError(f"mask {self.mask!r}: allowed are '' for none, 'bool' and 'f32'")

    @property
    def name(self) -> str:
        return "_".join(word for word in ("attention", self.mask, "causal" if self.causal else "") if word)


def scale_bits(scale: float) -> int:
    """Return the param `scale` for a number: the bits of its f32.

    >>> hex(scale_bits(1.0))
    '0x3f800000'
    """
    import numpy as np

    return int(np.float32(scale).view(np.uint32))


def attention(module: ir.Module, isa: Isa, spec: Attention) -> Kernel:
    """Write an attention into a module, once for each name.

    Buffers: q [batch, heads, queries, features], k [..., keys, features], v [..., keys, values], mask
    [..., queries, keys] (address 0 without one) and out [..., queries, values].

    Params are `PARAMS`: sizes, the scale (`scale_bits` of it, or `USUAL_SCALE`) and strides in elements. Features of
    q, k and v and values of out lie side by side; every other stride is free, and 0 repeats. So is each stride of the
    mask; it is fastest with 1 for keys. Sizes may be 0: without keys, out is 0.

    A unit is one block of queries of one head. A row without an allowed key is 0, as torch has it; NaN in what a row
    reads makes it NaN.
    """
    shape = panel_shape(isa)

    def units(params: Sequence[int]) -> int:
        return params[0] * params[1] * -(-params[2] // _QUERIES)

    def scratch_bytes(params: Sequence[int]) -> int:
        features, values = params[4], -(-params[5] // shape.nr) * shape.nr
        kept = minimum(-(-params[3] // shape.nr) * shape.nr, _kept(isa))
        floats = _QUERIES * (_keys(isa) + _PAD) + _keys(isa) + 2 * _QUERIES
        needed = ((features + values) * (kept + _QUERIES) + floats) * 4
        # Formulas of the sizes give a formula, which callers who passed them expect.
        return int(needed) if needed.is_constant else cast("int", needed)

    if module.globals.get(spec.name) is None:
        _Writer(module, isa, spec).write()
    return Kernel(spec.name, ("q", "k", "v", "mask", "out"), PARAMS, units, scratch_bytes)


def _keys(isa: Isa) -> int:
    nr = panel_shape(isa).nr
    return _KEYS // nr * nr


def _kept(isa: Isa) -> int:
    return _KEPT // _keys(isa) * _keys(isa)


@dataclass
class _Queries:
    """What one block of queries meets all keys of its head with; values of the code being written."""

    first: Any
    rows: Any
    q: Any
    ldq: Any
    k: Any
    v: Any
    mask: Any
    element: Any


class _Writer:
    """Writes one attention: the loop over units, and in it that over blocks of keys."""

    def __init__(self, module: ir.Module, isa: Isa, spec: Attention) -> None:
        from llvmlite import ir

        self.isa, self.spec = isa, spec
        self.nr, self.mr, self.block = panel_shape(isa).nr, panel_shape(isa).mr, _keys(isa)
        self.f32, self.byte = ir.FloatType(), ir.IntType(8)
        self.null = ir.Constant(ir.PointerType(), None)
        self.multiply, self.stream = multiply(module), stream(module)
        self.dots, self.pack_panel, self.copy_rows = dots(module, isa), pack_panel(module, isa), copy_rows(module, isa)
        self.softmax, self.divide = softmax(module, isa, spec.mask, spec.causal), divide(module, isa)
        self.kernel: KernelBuilder = begin_kernel(module, spec.name)
        self.b = self.kernel.ir
        self.size: Mapping[str, Any] = {name: self.kernel.param(i) for i, name in enumerate(PARAMS)}
        self.buffers = [self.kernel.buffer(i) for i in range(5)]

    def write(self) -> None:
        b, size = self.b, self.size
        queries = size["queries"]
        blocks = most(b, ceildiv(b, queries, i64(_QUERIES)), i64(1))
        height = b.mul(ceildiv(b, ceildiv(b, queries, blocks), i64(self.mr)), i64(self.mr))
        self.scale = self._scale()
        self.columns = b.mul(ceildiv(b, size["values"], i64(self.nr)), i64(self.nr))
        # One block of rows meets each panel once, which never pays for packing it.
        self.few = b.icmp_signed("<=", queries, i64(self.mr))
        self._rooms()
        # The head whose keys are packed, and how many of them; a causal mask shows more to each block of queries.
        with loop(b, self.kernel.begin, self.kernel.end, 1, [i64(-1), i64(0)]) as unit:
            head = b.sdiv(unit.index, blocks)
            first = b.mul(b.srem(unit.index, blocks), height)
            rows = most(b, least(b, height, b.sub(queries, first)), i64(0))
            last, packed = unit.values
            packed = self._unit(head, first, rows, b.select(b.icmp_signed("==", head, last), packed, i64(0)))
            unit.values = [head, packed]
        b.ret_void()

    def _scale(self) -> Any:
        from llvmlite import ir

        b, f32, i32 = self.b, self.f32, ir.IntType(32)
        bits, features = self.size["scale"], self.size["features"]
        given = b.bitcast(b.trunc(bits, i32), f32)
        root = intrinsic(b, "llvm.sqrt.f32", [b.sitofp(most(b, features, i64(1)), f32)], f32)
        usual = b.fdiv(ir.Constant(f32, 1.0), root)
        return b.select(b.icmp_signed("==", bits, i64(USUAL_SCALE)), usual, given)

    def _rooms(self) -> None:
        """Cut the scratch: keys, values, scores, queries, sums, running maxima and sums, a row of the mask."""
        b, features = self.b, self.size["features"]
        kept = least(b, b.mul(ceildiv(b, self.size["keys"], i64(self.nr)), i64(self.nr)), i64(_kept(self.isa)))
        sizes = [
            b.mul(features, kept), b.mul(self.columns, kept),
            i64(_QUERIES * (self.block + _PAD)), b.mul(features, i64(_QUERIES)), b.mul(self.columns, i64(_QUERIES)),
            i64(2 * _QUERIES),
        ]  # fmt: skip
        places = [self.kernel.scratch]
        for one in sizes:
            places.append(address(b, places[-1], one, self.f32))
        self.packed_keys, self.packed_values, self.scores, self.own_queries, self.sums, self.running, self.room = places

    def _unit(self, head: Any, first: Any, rows: Any, packed: Any) -> Any:
        """Write one block of queries, of which there may be none; return how many keys are packed after it."""
        b, size = self.b, self.size
        batch, head = b.sdiv(head, size["heads"]), b.srem(head, size["heads"])

        def place(buffer: int, word: str, row: Any, element: Any) -> Any:
            offset = b.add(b.mul(batch, size[f"{word}_batch"]), b.mul(head, size[f"{word}_head"]))
            return address(b, self.buffers[buffer], b.add(offset, b.mul(row, size[f"{word}_row"])), element)

        keys = size["keys"]
        q, k, v = place(0, "q", first, self.f32), place(1, "k", i64(0), self.f32), place(2, "v", i64(0), self.f32)
        element = self.f32 if self.spec.mask == "f32" else self.byte
        mask = place(3, "mask", first, element) if self.spec.mask else self.null
        many = b.icmp_signed(">", keys, i64(2 * self.nr))
        with b.if_then(many):  # rows side by side: apart by a power of two they would share cache sets
            b.call(self.copy_rows, [q, size["q_row"], self.own_queries, size["features"], rows, size["features"]])
        q, ldq = b.select(many, self.own_queries, q), b.select(many, size["features"], size["q_row"])
        queries = _Queries(first, rows, q, ldq, k, v, mask, element)
        with b.if_then(b.icmp_signed("==", keys, i64(0))):
            self._nothing(rows)
        keep = b.icmp_signed("<=", keys, i64(_kept(self.isa)))
        some = b.select(b.icmp_signed(">", rows, i64(0)), keys, i64(0))
        seen = least(b, some, b.add(first, rows)) if self.spec.causal else some
        with loop(b, 0, seen, self.block, [packed]) as part:
            there = least(b, b.sub(keys, part.index), i64(self.block))
            (before,) = part.values
            part.values = [most(b, before, b.add(part.index, there))]
            missing = b.or_(b.icmp_signed(">=", part.index, before), b.not_(keep))
            slot = b.select(keep, part.index, i64(0))
            self._keys(queries, part.index, there, least(b, there, b.sub(seen, part.index)), slot, missing)
        out = place(4, "out", first, self.f32)
        b.call(self.divide, [self.sums, self.columns, self.running, out, size["out_row"], rows, size["values"]])
        return part.results[0]

    def _keys(self, queries: _Queries, start: Any, there: Any, count: Any, slot: Any, missing: Any) -> None:
        """Write what one block of keys adds to the sums: `there` of them from `start` on, `count` of these are seen.

        They are packed at `slot`, where they are `missing` now.
        """
        b, size, rows, lds = self.b, self.size, queries.rows, i64(self.block + _PAD)
        packed_keys = address(b, self.packed_keys, b.mul(slot, size["features"]), self.f32)
        packed_values = address(b, self.packed_values, b.mul(slot, self.columns), self.f32)
        k = address(b, queries.k, b.mul(start, size["k_row"]), self.f32)
        v = address(b, queries.v, b.mul(start, size["v_row"]), self.f32)
        with b.if_then(b.and_(missing, b.not_(self.few))):
            self._pack(k, packed_keys, v, packed_values, there)
        with b.if_else(self.few) as (plain, panels):
            with plain:
                b.call(self.dots, [queries.q, queries.ldq, k, size["k_row"], size["features"], self.scores, lds, rows,
                                   count])  # fmt: skip
            with panels:
                self._product(queries.q, queries.ldq, packed_keys, size["features"], size["features"], self.scores,
                              lds, rows, ceildiv(b, count, i64(self.nr)), i64(0))  # fmt: skip
        past = b.add(b.sub(queries.first, start), i64(1))
        masks = address(b, queries.mask, b.mul(start, size["mask_key"]), queries.element)
        b.call(
            self.softmax,
            [self.scores, lds, rows, count, past, self.scale, masks, size["mask_row"], size["mask_key"], self.room,
             self.running, self.sums, self.columns, b.zext(b.icmp_signed("==", start, i64(0)), start.type)],
        )  # fmt: skip
        with b.if_else(self.few) as (plain, panels):
            with plain:
                self._plain_values(lds, v, count, rows, start)
            with panels:
                self._product(self.scores, lds, packed_values, there, count, self.sums, self.columns, rows,
                              b.udiv(self.columns, i64(self.nr)), start)  # fmt: skip

    def _pack(self, k: Any, packed_keys: Any, v: Any, packed_values: Any, count: Any) -> None:
        b, size = self.b, self.size
        with loop(b, 0, ceildiv(b, count, i64(self.nr))) as panel:
            b.call(self.pack_panel, [k, count, size["features"], size["k_row"], packed_keys, panel.index])
        with loop(b, 0, size["values"], self.nr) as column:
            target = address(b, packed_values, b.mul(column.index, count), self.f32)
            width = least(b, b.sub(size["values"], column.index), i64(self.nr))
            source = address(b, v, column.index, self.f32)
            b.call(self.copy_rows, [source, size["v_row"], target, i64(self.nr), count, width])

    def _product(
        self, x: Any, ldx: Any, w: Any, length: Any, depth: Any, out: Any, ldo: Any, rows: Any, panels: Any, add: Any
    ) -> None:
        """Multiply rows by panels of `length` rows, of which `depth` count; what `out` holds stays with `add`."""
        b = self.b
        stride = b.mul(length, i64(4 * self.nr))
        with b.if_else(b.icmp_signed("<=", rows, i64(self.mr))) as (then, otherwise):
            with then:
                b.call(self.stream, [x, ldx, w, stride, i64(self.nr), depth, out, ldo, rows, add, panels])
            with otherwise, loop(b, 0, panels) as panel:
                place = address(b, w, b.mul(panel.index, stride), self.byte)
                there = address(b, out, b.mul(panel.index, i64(self.nr)), self.f32)
                b.call(self.multiply, [x, ldx, place, i64(self.nr), depth, there, ldo, rows, add, self.null])

    def _plain_values(self, lds: Any, v: Any, count: Any, rows: Any, add: Any) -> None:
        """Multiply the weights of a few rows by values as they lie; columns behind the last whole panel are copied."""
        b, size = self.b, self.size
        panels = b.udiv(size["values"], i64(self.nr))
        first = b.mul(panels, i64(self.nr))
        left = b.sub(size["values"], first)

        def add_up(w: Any, ldw: Any, sums: Any, panels: Any) -> None:
            beside = i64(4 * self.nr)
            b.call(self.stream, [self.scores, lds, w, beside, ldw, count, sums, self.columns, rows, add, panels])

        add_up(v, size["v_row"], self.sums, panels)
        with b.if_then(b.icmp_signed(">", left, i64(0))):
            source = address(b, v, first, self.f32)
            b.call(self.copy_rows, [source, size["v_row"], self.packed_values, i64(self.nr), count, left])
            add_up(self.packed_values, i64(self.nr), address(b, self.sums, first, self.f32), i64(1))

    def _nothing(self, rows: Any) -> None:
        """Set sums to 0 and their divisors to 1."""
        from llvmlite import ir

        b = self.b
        with loop(b, 0, b.mul(rows, self.columns)) as one:
            b.store(ir.Constant(self.f32, 0.0), address(b, self.sums, one.index, self.f32))
        with loop(b, 0, rows) as row:
            place = b.add(b.mul(row.index, i64(2)), i64(1))
            b.store(ir.Constant(self.f32, 1.0), address(b, self.running, place, self.f32))

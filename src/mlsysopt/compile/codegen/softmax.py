"""The softmax between the two products of an attention: block after block of keys, with running maximum and sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen import mathfn
from mlsysopt.compile.codegen.lanes import folded, number
from mlsysopt.compile.codegen.loops import address, i64, internal, least, loop, most, splat
from mlsysopt.compile.codegen.memory import first_lanes, read, write

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["divide", "softmax"]


def softmax(module: ir.Module, isa: Isa, mask: str, causal: bool) -> ir.Function:
    """Return the function that turns scores of one block of keys into weights, in place.

        void softmax(ptr scores, i64 lds, i64 rows, i64 keys, i64 past, float scale, ptr mask, i64 mask_row,
                     i64 mask_key, ptr room, ptr running, ptr sums, i64 lda, i64 first)

    Row r of scores becomes exp(scale * scores + mask - maximum), 0 where the mask forbids; the maximum is that of all
    blocks so far. `running` holds a maximum and a sum of exponentials for each row. What the blocks before gave -
    `sums`, rows of lda - is multiplied by what a new maximum makes of it; `first` other than 0 says that there is
    none. With `causal`, row r sees the first `past` + r keys of the block. `room` has space for `keys` elements of the
    mask, needed when its keys do not lie side by side. Columns behind `keys` up to the next vector are written too.

    A row without a key that is allowed gets weights and a sum of 0; NaN in a score makes its sum NaN.
    """
    from llvmlite import ir

    name = "_".join(word for word in ("softmax", mask, "causal" if causal else "") if word)
    known = module.globals.get(name)
    if known is not None:
        return known
    ptr, int64, f32 = ir.PointerType(), ir.IntType(64), ir.FloatType()
    arguments = [ptr, int64, int64, int64, int64, f32, ptr, int64, int64, ptr, ptr, ptr, int64, int64]
    function = internal(module, name, arguments)
    scores, lds, rows, keys, past, scale, masks, mask_row, mask_key, room, running, sums, lda, first = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    vector = ir.VectorType(f32, isa.lanes)
    least_value = ir.Constant(f32, float("-inf"))
    element = {"": ir.IntType(8), "bool": ir.IntType(8), "f32": f32}[mask]
    beginning = b.icmp_signed("!=", first, i64(0))
    with loop(b, 0, rows) as row:
        line = address(b, scores, b.mul(row.index, lds), f32)
        seen = most(b, least(b, b.add(past, row.index), keys), i64(0)) if causal else keys
        allowed = address(b, masks, b.mul(row.index, mask_row), element)
        if mask:
            apart = b.icmp_signed("!=", mask_key, i64(1))
            with b.if_then(apart), loop(b, 0, seen) as key:
                one = b.load(address(b, allowed, b.mul(key.index, mask_key), element), typ=element)
                b.store(one, address(b, room, key.index, element))
            allowed = b.select(apart, room, allowed)
        highest = _masked(b, isa, line, seen, keys, splat(b, scale, isa.lanes), allowed, mask)
        place = address(b, running, b.mul(row.index, i64(2)), f32)
        before = b.select(beginning, least_value, b.load(place, typ=f32))
        now = b.select(b.fcmp_ordered(">", before, highest), before, highest)
        # Where nothing is allowed so far, -inf - -inf would be NaN for every block that follows.
        now_finite = b.select(b.fcmp_ordered("==", now, least_value), ir.Constant(f32, 0.0), now)
        shift = splat(b, now_finite, isa.lanes)
        with loop(b, 0, keys, isa.lanes, [number(vector, 0.0)]) as key:
            there = address(b, line, key.index, f32)
            one = mathfn.emit(b, module, "exp", b.fsub(read(b, there, isa.lanes), shift), isa)
            write(b, there, one)
            key.values = [b.fadd(key.values[0], one)]
        total = folded(b, key.results[0], b.fadd)
        with b.if_else(beginning) as (then, otherwise):
            with then:
                b.store(total, address(b, place, 1, f32))
            with otherwise:
                factor = mathfn.emit(b, module, "exp", b.fsub(splat(b, before, isa.lanes), shift), isa)
                alone = b.extract_element(factor, ir.Constant(ir.IntType(32), 0))
                older = b.fmul(b.load(address(b, place, 1, f32), typ=f32), alone)
                b.store(b.fadd(older, total), address(b, place, 1, f32))
                with b.if_then(b.fcmp_unordered("!=", alone, ir.Constant(f32, 1.0))):
                    own = address(b, sums, b.mul(row.index, lda), f32)
                    with loop(b, 0, lda, isa.lanes) as column:
                        there = address(b, own, column.index, f32)
                        write(b, there, b.fmul(read(b, there, isa.lanes), factor))
        b.store(now, place)
    b.ret_void()
    return function


def _masked(b: ir.IRBuilder, isa: Isa, line: Any, seen: Any, keys: Any, scale: Any, allowed: Any, mask: str) -> Any:
    """Scale and mask a row in place, -inf behind the keys that are seen, and return its largest value."""
    from llvmlite import ir

    f32, lanes = ir.FloatType(), isa.lanes
    vector = ir.VectorType(f32, lanes)
    nothing = number(vector, float("-inf"))
    bytes_ = ir.VectorType(ir.IntType(8), lanes)

    def turned(start: Any, largest: Any, tail: bool) -> Any:
        there = address(b, line, start, f32)
        inside = first_lanes(b, b.sub(seen, start), lanes) if tail else None
        count = b.sub(seen, start) if tail else None
        one = b.fmul(read(b, there, lanes), scale)
        if mask == "f32":
            one = b.fadd(one, read(b, address(b, allowed, start, f32), lanes, count))
        elif mask == "bool":
            place = address(b, allowed, start, ir.IntType(8))
            flags = _tail_bytes(b, place, inside, bytes_) if tail else b.load(place, typ=bytes_, align=1)
            one = b.select(b.icmp_unsigned("!=", flags, number(bytes_, 0)), one, nothing)
        if inside is not None:
            one = b.select(inside, one, nothing)
        write(b, there, one)
        return b.select(b.fcmp_ordered(">", largest, one), largest, one)

    whole = b.and_(seen, i64(-lanes))
    double = b.and_(seen, i64(-2 * lanes))
    with loop(b, 0, double, 2 * lanes, [nothing, nothing]) as turn:
        starts = turn.index, b.add(turn.index, i64(lanes))
        turn.values = [turned(start, one, False) for start, one in zip(starts, turn.values, strict=True)]
    left, right = turn.results
    with loop(b, double, whole, lanes, [left]) as turn:
        turn.values = [turned(turn.index, turn.values[0], False)]
    with loop(b, whole, keys, lanes, turn.results) as turn:
        turn.values = [turned(turn.index, turn.values[0], True)]
    (left,) = turn.results
    both = b.select(b.fcmp_ordered(">", left, right), left, right)
    return folded(b, both, lambda x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


def _tail_bytes(b: ir.IRBuilder, place: Any, inside: Any, kind: Any) -> Any:
    """Return bytes of which only the lanes inside are touched; the others are 0."""
    from llvmlite import ir

    flags = number(kind, 0)
    for lane in range(kind.count):
        number_ = ir.Constant(ir.IntType(32), lane)
        here = b.extract_element(inside, number_)
        before = b.block
        with b.if_then(here):
            one = b.insert_element(flags, b.load(address(b, place, lane, kind.element), typ=kind.element), number_)
            loaded = b.block
        merged = b.phi(kind)
        merged.add_incoming(flags, before)
        merged.add_incoming(one, loaded)
        flags = merged
    return flags


def divide(module: ir.Module, isa: Isa) -> ir.Function:
    """Return the function that writes an attention's rows: each row of sums over its sum of exponentials.

    void divide(ptr sums, i64 lda, ptr running, ptr out, i64 ldo, i64 rows, i64 columns)

    Exponentials whose largest is 1 sum up to 0 only where no key was allowed: such a row is 0.
    """
    from llvmlite import ir

    known = module.globals.get("softmax_divide")
    if known is not None:
        return known
    ptr, int64, f32 = ir.PointerType(), ir.IntType(64), ir.FloatType()
    function = internal(module, "softmax_divide", [ptr, int64, ptr, ptr, int64, int64, int64])
    sums, lda, running, out, ldo, rows, columns = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    whole = b.and_(columns, i64(-isa.lanes))
    with loop(b, 0, rows) as row:
        here, there = address(b, sums, b.mul(row.index, lda), f32), address(b, out, b.mul(row.index, ldo), f32)
        total = b.load(address(b, running, b.add(b.mul(row.index, i64(2)), i64(1)), f32), typ=f32)
        nothing = b.fcmp_ordered("==", total, ir.Constant(f32, 0.0))
        total = splat(b, b.select(nothing, ir.Constant(f32, 1.0), total), isa.lanes)
        with loop(b, 0, whole, isa.lanes) as column:
            one = b.fdiv(read(b, address(b, here, column.index, f32), isa.lanes), total)
            write(b, address(b, there, column.index, f32), one)
        with loop(b, whole, columns, isa.lanes) as column:  # sums are padded to a whole panel
            one = b.fdiv(read(b, address(b, here, column.index, f32), isa.lanes), total)
            write(b, address(b, there, column.index, f32), one, b.sub(columns, column.index))
    b.ret_void()
    return function

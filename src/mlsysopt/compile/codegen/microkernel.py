"""The innermost part of every matrix product: a few rows times one panel, all sums in registers.

    out[r, c] (+)= sum over k of x[r, k] * w[k, c]        r < rows, c < nr, k < depth

The height of a block is bounded by the registers: rows * nr / lanes sums, nr / lanes weights and one broadcast. A sum
is taken in the order of k, one addition at a time, whatever the height of its block; two at a time where weights are
bf16 and the processor multiplies pairs of those, for which `multiply` rounds x as well.

Modules only declare `multiply` and `stream`: their code is a part that a process compiles once (`codegen.parts`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.lanes import Lanes, bfloat, intrinsic, number
from mlsysopt.compile.codegen.loops import address, i64, internal, loop, most, splat
from mlsysopt.compile.codegen.memory import read, write

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["ELEMENT_BYTES", "PanelShape", "multiply", "panel_shape", "stream", "write_part"]

ELEMENT_BYTES = {"f32": 4, "bf16": 2, "int8": 1}
# Twice is as fast as four times for f32, in half the text; widening a weight needs the registers of a longer body.
_UNROLL = {"f32": 2, "bf16": 4, "int8": 4}
_LINE = 64
# Few rows wait for memory. The processor's own prefetchers follow several streams better than one, so low blocks take
# as many panels at once as have sums in the registers, up to this; for higher ones we fetch ourselves this far ahead.
_STREAMS = 4
_AHEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class PanelShape:
    """Columns of a panel and rows of the highest block."""

    nr: int
    mr: int


def panel_shape(isa: Isa) -> PanelShape:
    """Return the shape for a vector unit: the one that fills its registers.

    >>> from mlsysopt.compile.codegen.target import Isa
    >>> panel_shape(Isa("avx512", 16, 32, "")), panel_shape(Isa("avx2", 8, 16, ""))
    (PanelShape(nr=48, mr=8), PanelShape(nr=16, mr=6))
    """
    return {"avx512": PanelShape(48, 8), "avx2": PanelShape(16, 6), "baseline": PanelShape(8, 4)}[isa.name]


def write_part(module: ir.Module, isa: Isa, weights: str) -> None:
    """Write `multiply` and `stream` for one form of the weights into a module of their own."""
    _write_multiply(module, isa, weights)
    _write_stream(module, isa, weights)


def _declared(module: ir.Module, name: str, arguments: list[Any]) -> ir.Function:
    from llvmlite import ir

    known = module.globals.get(name)
    if known is not None:
        return known
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.attributes.add("nounwind")
    return function


def multiply(module: ir.Module, weights: str = "f32") -> ir.Function:
    """Return the function that multiplies any number of rows by one panel.

        void multiply(ptr x, i64 ldx, ptr w, i64 ldw, i64 depth, ptr out, i64 ldo, i64 rows, i64 add, ptr next)

    Strides in elements; `ldw` is that of a row of w, nr in a panel. `out` is written from column 0 to nr; with `add`
    other than 0 it is added to. Rows are cut into blocks of almost equal height. `next` is the panel that will be
    read after this; it is fetched meanwhile. Address 0 fetches nothing.
    """
    from llvmlite import ir

    ptr, int64 = ir.PointerType(), ir.IntType(64)
    arguments = [ptr, int64, ptr, int64, int64, ptr, int64, int64, int64, ptr]
    return _declared(module, f"multiply_{weights}", arguments)


def _write_multiply(module: ir.Module, isa: Isa, weights: str) -> None:
    from llvmlite import ir

    nr, mr = panel_shape(isa).nr, panel_shape(isa).mr
    pairs = weights == "bf16" and isa.bf16
    blocks = {rows: _block(module, isa, weights, rows, pairs=pairs) for rows in range(1, mr + 1)}
    ptr, int64, f32, byte = ir.PointerType(), ir.IntType(64), ir.FloatType(), ir.IntType(8)
    function = multiply(module, weights)
    x, ldx, w, ldw, depth, out, ldo, rows, add, ahead = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    count = most(b, b.udiv(b.add(rows, i64(mr - 1)), i64(mr)), i64(1))
    height = b.udiv(rows, count)
    higher = b.sub(rows, b.mul(height, count))
    # Every block fetches its share of what comes next.
    none = b.icmp_unsigned("==", ahead, ir.Constant(ptr, None))
    pace = b.select(none, i64(0), b.udiv(i64(nr * ELEMENT_BYTES[weights]), count))
    share = b.mul(depth, pace)
    first = b.select(none, w, ahead)
    with loop(b, 0, count, 1, [x, out, first]) as turn:
        here, there, place = turn.values
        tall = b.add(height, b.zext(b.icmp_signed("<", turn.index, higher), int64))
        done = b.append_basic_block("done")
        choice = b.switch(tall, done)
        for rows_, block in blocks.items():
            case = b.append_basic_block(f"rows{rows_}")
            choice.add_case(i64(rows_), case)
            b.position_at_end(case)
            b.call(block, [here, ldx, w, i64(0), ldw, depth, there, ldo, add, place, pace])
            b.branch(done)
        b.position_at_end(done)
        here, there = address(b, here, b.mul(tall, ldx), f32), address(b, there, b.mul(tall, ldo), f32)
        turn.values = [here, there, address(b, place, share, byte)]
    b.ret_void()


def stream(module: ir.Module, weights: str = "f32") -> ir.Function:
    """Return the function that multiplies up to mr rows by any number of panels, which it reads once.

        void stream(ptr x, i64 ldx, ptr w, i64 stride, i64 ldw, i64 depth, ptr out, i64 ldo, i64 rows, i64 add,
                    i64 panels)

    As `multiply`; `stride` is bytes from one panel to the next, and column 0 of panel p of `out` is p * nr.
    """
    from llvmlite import ir

    ptr, int64 = ir.PointerType(), ir.IntType(64)
    arguments = [ptr, int64, ptr, int64, int64, int64, ptr, int64, int64, int64, int64]
    return _declared(module, f"stream_{weights}", arguments)


def _write_stream(module: ir.Module, isa: Isa, weights: str) -> None:
    from llvmlite import ir

    shape = panel_shape(isa)
    function = stream(module, weights)
    x, ldx, w, stride, ldw, depth, out, ldo, rows, add, panels = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    done = b.append_basic_block("done")
    choice = b.switch(rows, done)
    for height in range(1, shape.mr + 1):
        case = b.append_basic_block(f"rows{height}")
        choice.add_case(i64(height), case)
        b.position_at_end(case)
        start: Any = i64(0)
        for wide in sorted({_streams(isa, height), 1}, reverse=True):
            block = _block(module, isa, weights, height, wide)
            stop = b.sub(panels, b.urem(b.sub(panels, start), i64(wide)))
            with loop(b, start, stop, wide) as turn:
                place = address(b, w, b.mul(turn.index, stride), ir.IntType(8))
                there = address(b, out, b.mul(turn.index, i64(shape.nr)), ir.FloatType())
                ahead = address(b, place, _AHEAD_BYTES, ir.IntType(8))
                pace = i64(shape.nr * ELEMENT_BYTES[weights])
                b.call(
                    block, [x, ldx, place, stride, ldw, depth, there, ldo, add, ahead, pace]
                )  # fmt: skip
            start = stop
        b.branch(done)
    b.position_at_end(done)
    b.ret_void()


def _streams(isa: Isa, rows: int) -> int:
    """Return how many panels at once a block of some height reads."""
    sums = rows * panel_shape(isa).nr // isa.lanes
    return max(min(_STREAMS, isa.registers * 3 // 4 // sums), 1)  # weights and factors need the rest


def _block(
    module: ir.Module, isa: Isa, weights: str, rows: int, panels: int = 1, *, pairs: bool = False
) -> ir.Function:
    """Return the function of one block.

    void block(ptr x, i64 ldx, ptr w, i64 stride, i64 ldw, i64 depth, ptr out, i64 ldo, i64 add, ptr ahead, i64 pace)

    While row k of the panel is read, line ahead + k * pace is fetched; blocks of several panels fetch nothing. With
    `pairs`, two rows of one panel are multiplied by two numbers of x at once.
    """
    from llvmlite import ir

    name = f"block_{weights}_{rows}x{panels}{'_pairs' if pairs else ''}"
    known = module.globals.get(name)
    if known is not None:
        return known
    ptr, int64, f32, byte = ir.PointerType(), ir.IntType(64), ir.FloatType(), ir.IntType(8)
    function = internal(module, name, [ptr, int64, ptr, int64, int64, int64, ptr, int64, int64, ptr, int64])
    x, ldx, w, stride, ldw, depth, out, ldo, add, ahead, pace = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    nr, lanes = panel_shape(isa).nr, isa.lanes
    width = nr // lanes
    vector = ir.VectorType(f32, lanes)
    zero, arithmetic = number(vector, 0.0), Lanes(b, vector, isa)
    offsets = [b.mul(ldx, i64(4 * r)) for r in range(rows)]
    behind = [b.mul(stride, i64(p)) for p in range(panels)]
    step = b.mul(ldw, i64(ELEMENT_BYTES[weights]))
    places = [
        address(b, out, b.add(b.mul(ldo, i64(r)), i64(p * nr + v * lanes)), f32)
        for r in range(rows)
        for p in range(panels)
        for v in range(width)
    ]
    for place in places[:: max(_LINE // 4 // lanes, 1)]:
        _prefetch(b, place, write=True)

    def turned(row: Any, k: int, line: Any, sums: list[Any]) -> list[Any]:
        """Return the sums after one more k."""
        made = list(sums)

        def factor(r: int) -> Any:
            place = address(b, address(b, row, offsets[r], byte), k, f32)
            return splat(b, b.load(place, typ=f32), lanes)

        def column(p: int, v: int) -> Any:
            return _load(b, address(b, line, behind[p], byte), v * lanes, weights, vector)

        # Whichever are fewer wait in registers, the others are used as they come.
        if panels == 1:
            columns = [column(0, v) for v in range(width)]
            for r in range(rows):
                one = factor(r)
                for v in range(width):
                    i = r * width + v
                    made[i] = arithmetic.fma(one, columns[v], made[i])
        else:
            factors = [factor(r) for r in range(rows)]
            for p in range(panels):
                for v in range(width):
                    one = column(p, v)
                    for r in range(rows):
                        i = (r * panels + p) * width + v
                        made[i] = arithmetic.fma(factors[r], one, made[i])
                    _fence(b)
        return made

    def turned_twice(row: Any, k: int, line: Any, sums: list[Any]) -> list[Any]:
        """Return the sums after two more k, which are multiplied as a pair."""
        made, later = list(sums), address(b, line, step, byte)
        columns = [_pairs(b, line, later, v * lanes, lanes) for v in range(width)]
        for r in range(rows):
            one = splat(b, _rounded_pair(b, address(b, address(b, row, offsets[r], byte), k, f32)), lanes)
            for v in range(width):
                made[r * width + v] = _add_products(b, made[r * width + v], one, columns[v])
        return made

    turn_k, lines = (turned_twice, 2) if pairs else (turned, 1)
    unroll = lines if pairs else _UNROLL[weights]
    whole = b.and_(depth, i64(-unroll))
    with loop(b, 0, whole, unroll, [x, w, ahead, *([zero] * len(places))]) as turn:
        row, line, place, *sums = turn.values
        if panels == 1:
            for i in range(-(-unroll * nr * ELEMENT_BYTES[weights] // _LINE)):
                _prefetch(b, address(b, place, i * _LINE, byte))
        for k in range(0, unroll, lines):
            sums = turn_k(row, k, line, sums)
            line = address(b, line, b.mul(step, i64(lines)), byte)
            _fence(b)
        place = address(b, place, b.mul(pace, i64(unroll)), byte)
        turn.values = [address(b, row, unroll, f32), line, place, *sums]
    row, line, _, *sums = turn.results
    with loop(b, whole, depth, 1, [row, line, *sums]) as turn:
        row, line, *sums = turn.values
        turn.values = [address(b, row, 1, f32), address(b, line, step, byte), *turned(row, 0, line, sums)]
    _, _, *sums = turn.results
    adds, sets, done = (b.append_basic_block(word) for word in ("adds", "sets", "done"))
    b.cbranch(b.icmp_signed("!=", add, i64(0)), adds, sets)
    for block, adding in ((adds, True), (sets, False)):
        b.position_at_end(block)
        for place, one in zip(places, sums, strict=True):
            write(b, place, b.fadd(read(b, place, lanes), one) if adding else one)
        b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return function


def _load(b: ir.IRBuilder, line: Any, column: int, weights: str, vector: Any) -> Any:
    """Return one vector of weights, widened to f32."""
    from llvmlite import ir

    element = {"f32": ir.FloatType(), "bf16": ir.IntType(16), "int8": ir.IntType(8)}[weights]
    place = address(b, line, column, element)
    if weights == "f32":
        return read(b, place, vector.count)
    narrow = b.load(place, typ=ir.VectorType(element, vector.count), align=1)
    wide = ir.VectorType(ir.IntType(32), vector.count)
    if weights == "int8":
        return b.sitofp(b.sext(narrow, wide), vector)
    return b.bitcast(b.shl(b.zext(narrow, wide), number(wide, 16)), vector)


def _rounded_pair(b: ir.IRBuilder, place: Any) -> Any:
    """Return two f32 from memory as bf16, in an i32."""
    from llvmlite import ir

    return b.bitcast(b.fptrunc(read(b, place, 2), ir.VectorType(bfloat(), 2)), ir.IntType(32))


def _pairs(b: ir.IRBuilder, line: Any, later: Any, column: int, lanes: int) -> Any:
    """Return bf16 of two lines, one of each in every i32, the earlier one below."""
    from llvmlite import ir

    narrow, wide = ir.VectorType(ir.IntType(16), lanes), ir.VectorType(ir.IntType(32), lanes)
    low, high = (
        b.zext(b.load(address(b, one, column, narrow.element), typ=narrow, align=1), wide) for one in (line, later)
    )
    return b.or_(low, b.shl(high, number(wide, 16)))


def _add_products(b: ir.IRBuilder, total: Any, x: Any, w: Any) -> Any:
    """Return total + the products of two pairs of bf16 in each lane, in f32."""
    from llvmlite import ir

    kind = ir.VectorType(bfloat(), 2 * total.type.count)
    given = [total, b.bitcast(x, kind), b.bitcast(w, kind)]
    return intrinsic(b, "llvm.x86.avx512bf16.dpbf16ps.512", given, total.type)


def _fence(b: ir.IRBuilder) -> None:
    """Keep loads that follow from being moved up: all at once they would not fit the registers."""
    from llvmlite import ir

    b.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)


def _prefetch(b: ir.IRBuilder, place: Any, *, write: bool = False) -> None:
    from llvmlite import ir

    near, data = 3, 1
    given = [place, *(ir.Constant(ir.IntType(32), one) for one in (int(write), near, data))]
    intrinsic(b, "llvm.prefetch.p0", given, ir.VoidType())

"""Sine, cosine and tangent: the argument as a multiple of pi / 2 and a remainder, then a polynomial.

The remainder is found in f64. Behind 2^27 the multiple of pi / 2 has too many bits for that; the rare lane that
large goes through integers, against as many bits of 2 / pi as the largest double needs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen import coefficients as table
from mlsysopt.compile.codegen.lanes import Lanes, anywhere, intrinsic, like

if TYPE_CHECKING:
    from llvmlite import ir

__all__ = ["cos", "sin", "tan"]

_LARGE = 2.0**27
_MAGIC = 1.5 * 2.0**52


def sin(n: Lanes, x: Any) -> Any:
    """Return the sine."""
    quarter, r = _reduced(n, x)
    return _turned(n, quarter, *_circle(n, r))


def cos(n: Lanes, x: Any) -> Any:
    """Return the cosine: the sine a quarter further."""
    quarter, r = _reduced(n, x)
    return _turned(n, n.builder.add(quarter, n.integer(1)), *_circle(n, r))


def tan(n: Lanes, x: Any) -> Any:
    """Return the tangent."""
    quarter, r = _reduced(n, x)
    s, c = _circle(n, r)
    odd = _bit(n, quarter, 1)
    return n.div(n.select(odd, n.neg(c), s), n.select(odd, s, c))


def _circle(n: Lanes, r: Any) -> tuple[Any, Any]:
    """Sine and cosine for |r| <= pi / 4."""
    z = n.mul(r, r)
    s = n.fma(n.mul(r, z), n.horner(table.SIN[n.bits], z), r)
    c = n.fma(n.mul(z, z), n.horner(table.COS[n.bits], z), n.fma(z, n.of(-0.5), n.of(1.0)))
    return s, c


def _turned(n: Lanes, quarter: Any, s: Any, c: Any) -> Any:
    value = n.select(_bit(n, quarter, 1), c, s)
    return n.select(_bit(n, quarter, 2), n.neg(value), value)


def _bit(n: Lanes, x: Any, bit: int) -> Any:
    return n.builder.icmp_signed("!=", n.builder.and_(x, n.integer(bit)), n.integer(0))


def _reduced(n: Lanes, x: Any) -> tuple[Any, Any]:
    """Return the number of quarter turns, right in its last two bits, and the remainder, |r| <= pi / 4."""
    from llvmlite import ir

    builder, single = n.builder, n.bits == 32
    m = Lanes(builder, like(n.kind, ir.DoubleType()), n.isa)
    wide = builder.fpext(x, m.kind) if single else x
    moved = m.fma(wide, m.of(2 / math.pi), m.of(_MAGIC))
    k = m.sub(moved, m.of(_MAGIC))
    r = wide
    for part in table.half_pi((26, 26, 26)):
        r = m.fma(k, m.of(-part), r)
    quarter = m.to_bits(moved)
    size = m.abs(wide)
    large = builder.and_(m.compare(">", size, m.of(_LARGE)), m.compare("<", size, m.of(math.inf)))
    easy = builder.block
    slow, after = builder.append_basic_block("large"), builder.append_basic_block("reduced")
    builder.cbranch(anywhere(builder, large), slow, after)
    builder.position_at_end(slow)
    hard_quarter, hard_r = _by_integers(m, wide)
    chosen = builder.select(large, hard_quarter, quarter), builder.select(large, hard_r, r)
    end = builder.block
    builder.branch(after)
    builder.position_at_end(after)
    results: list[Any] = []
    easy_values: tuple[Any, Any] = quarter, r
    for one, other in zip(easy_values, chosen, strict=True):
        phi: Any = builder.phi(one.type)
        phi.add_incoming(one, easy)
        phi.add_incoming(other, end)
        results.append(phi)
    if single:
        return builder.trunc(results[0], n.whole), builder.fptrunc(results[1], n.kind)
    return results[0], results[1]


def _by_integers(m: Lanes, x: Any) -> tuple[Any, Any]:
    from llvmlite import ir

    builder, function = m.builder, _reduction(m.builder.module)
    if not isinstance(m.kind, ir.VectorType):
        pair = builder.call(function, [x])
        return builder.extract_value(pair, 0), builder.extract_value(pair, 1)
    quarters, rests = ir.Constant(m.whole, ir.Undefined), ir.Constant(m.kind, ir.Undefined)
    for lane in range(m.kind.count):
        at = ir.Constant(ir.IntType(32), lane)
        pair = builder.call(function, [builder.extract_element(x, at)])
        quarters = builder.insert_element(quarters, builder.extract_value(pair, 0), at)
        rests = builder.insert_element(rests, builder.extract_value(pair, 1), at)
    return quarters, rests


_WORDS = 20  # 1280 bits of 2 / pi: 1024 of the largest exponent, 53 of the mantissa, and those that cancel


def _reduction(module: ir.Module) -> ir.Function:
    """Return {i64, double} f(double): quarter turns and remainder of a finite number of any size, 0 for a small one.

    x = M 2^e, and x 2 / pi modulo 4 needs only the bits of 2 / pi from weight 2^(1 - e) down: 192 of them times M
    give 4 > x 2 / pi mod 4 >= 0 with 190 bits behind the point.
    """
    from llvmlite import ir

    name = "large_angle"
    if name in module.globals:
        return module.globals[name]
    i64, double, big = ir.IntType(64), ir.DoubleType(), ir.IntType(256)
    both = ir.LiteralStructType([i64, double])
    function = ir.Function(module, ir.FunctionType(both, [double]), name)
    function.linkage = "internal"
    for word in ("noinline", "nounwind", "cold"):
        function.attributes.add(word)
    digits = _digits(module)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    bits = b.bitcast(function.args[0], i64)
    exponent = b.and_(b.lshr(bits, i64(52)), i64(0x7FF))
    mantissa = b.or_(b.and_(bits, i64(2**52 - 1)), i64(2**52))
    # e = exponent - 1075; the bit of weight 2^(1 - e) stands behind 64 zeros and e - 2 digits. A lane that is not
    # large is computed for nothing, at a place within the table.
    first = b.add(exponent, i64(62 - 1075))
    outside = b.icmp_unsigned(">", first, i64(64 * (_WORDS - 4) + 63))
    first = b.select(outside, i64(0), first)
    word = b.lshr(first, i64(6))
    window = ir.Constant(big, 0)
    for i in range(4):
        place = b.gep(digits, [b.add(word, i64(i))], source_etype=i64)
        window = b.or_(b.shl(window, ir.Constant(big, 64)), b.zext(b.load(place, typ=i64), big))
    window = b.lshr(b.shl(window, b.zext(b.and_(first, i64(63)), big)), ir.Constant(big, 64))
    fraction = b.shl(b.mul(b.zext(mantissa, big), window), ir.Constant(big, 64))  # 4 = 2^256 now, one = 2^254
    quarter = b.lshr(b.add(fraction, ir.Constant(big, 1 << 253)), ir.Constant(big, 254))
    rest = b.sub(fraction, b.shl(quarter, ir.Constant(big, 254)))
    below = b.icmp_signed("<", rest, ir.Constant(big, 0))
    size = b.select(below, b.neg(rest), rest)
    zeros = intrinsic(b, "llvm.ctlz.i256", [size, ir.Constant(ir.IntType(1), 0)], big)
    top = b.trunc(b.lshr(b.shl(size, zeros), ir.Constant(big, 192)), i64)
    scale = b.shl(b.sub(i64(1023 - 62 + 128), b.trunc(zeros, i64)), i64(52))  # 2^(2 - 64 - zeros + 128)
    r = b.fmul(b.uitofp(top, double), b.bitcast(scale, double))
    r = b.fmul(r, ir.Constant(double, 2.0**-128 * (math.pi / 2)))
    minus = b.icmp_signed("<", bits, i64(0))
    r = b.select(b.xor(below, minus), b.fneg(r), r)
    turns = b.trunc(quarter, i64)
    turns = b.select(minus, b.neg(turns), turns)
    pair = b.insert_value(ir.Constant(both, ir.Undefined), turns, 0)
    b.ret(b.insert_value(pair, r, 1))
    return function


def _digits(module: ir.Module) -> ir.GlobalVariable:
    """64 zeros, then bits of 2 / pi, in words from the most significant on."""
    from llvmlite import ir

    i64 = ir.IntType(64)
    bits = 64 * (_WORDS - 1)
    whole = table.two_over_pi(bits)
    words = [whole >> 64 * i & (2**64 - 1) for i in reversed(range(_WORDS))]
    kind = ir.ArrayType(i64, _WORDS)
    place: Any = ir.GlobalVariable(module, kind, "two_over_pi")
    place.global_constant = True
    place.linkage = "internal"
    place.initializer = ir.Constant(kind, words)
    return place

"""Division with remainder and integer powers, defined for every operand: the processor's own traps on some."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.lanes import Lanes, anywhere, element, like, number, spelling
from mlsysopt.compile.codegen.loops import loop
from mlsysopt.compile.codegen.mathfn import inline

if TYPE_CHECKING:
    from llvmlite import ir

__all__ = ["float_division", "integer_division", "integer_power"]


def integer_division(b: ir.IRBuilder, op: str, signed: bool, x: Any, y: Any) -> Any:
    """Return the quotient rounded down ("floordiv") or the remainder with the divisor's sign ("mod"); by 0 gives 0."""
    zero, one = number(x.type, 0), number(x.type, 1)
    none = b.icmp_signed("==", y, zero)
    if not signed:
        result = (b.udiv if op == "floordiv" else b.urem)(x, b.select(none, one, y))
        return b.select(none, zero, result)
    # The smallest number divided by -1 traps as well.
    minus = b.icmp_signed("==", y, number(x.type, -1))
    safe = b.select(b.or_(none, minus), one, y)
    rest = b.srem(x, safe)
    down = b.and_(b.icmp_signed("!=", rest, zero), b.icmp_signed("<", b.xor(rest, safe), zero))
    if op == "mod":
        return b.select(none, zero, b.select(down, b.add(rest, safe), rest))
    quotient = b.sdiv(x, safe)
    quotient = b.select(down, b.sub(quotient, one), quotient)
    return b.select(none, zero, b.select(minus, b.neg(x), quotient))


def integer_power(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Return x to the power y >= 0, by squaring; it wraps."""

    def body(into: ir.IRBuilder, base: Any, exponent: Any) -> Any:

        kind = base.type
        zero, one = number(kind, 0), number(kind, 1)
        entry = into.block
        head, after = into.append_basic_block("square"), into.append_basic_block("powered")
        into.branch(head)
        into.position_at_end(head)
        result, power, left = into.phi(kind), into.phi(kind), into.phi(kind)
        odd = into.icmp_signed("!=", into.and_(left, one), zero)
        product = into.select(odd, into.mul(result, power), result)
        square, rest = into.mul(power, power), into.lshr(left, one)
        for phi, first, later in ((result, one, product), (power, base, square), (left, exponent, rest)):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, head)
        more = into.icmp_signed("!=", rest, zero)
        into.cbranch(anywhere(into, more), head, after)
        into.position_at_end(after)
        return product

    return inline(b, f"power.{spelling(x.type)}", [x, y], body)


def float_division(n: Lanes, op: str, x: Any, y: Any) -> Any:
    """Return floor(x / y) or the remainder with y's sign, from the exact remainder toward zero as numpy does."""

    def body(into: ir.IRBuilder, a: Any, b: Any) -> Any:
        from llvmlite import ir

        m = Lanes(into, n.kind, n.isa)
        zero = m.of(0.0)
        wide = like(n.kind, ir.DoubleType())
        single = element(n.kind) != ir.DoubleType()
        rest = _each(into, *((into.fpext(a, wide), into.fpext(b, wide)) if single else (a, b)))
        rest = into.fptrunc(rest, n.kind) if single else rest
        some = m.compare("!=", rest, zero)
        turned = into.and_(some, into.xor(m.compare("<", rest, zero), m.compare("<", b, zero)))
        if op == "mod":
            return m.select(turned, m.add(rest, b), m.select(some, rest, m.call("copysign", zero, b)))
        quotient = m.div(m.sub(a, rest), b)
        quotient = m.select(turned, m.sub(quotient, m.of(1.0)), quotient)
        whole = m.call("floor", quotient)
        whole = m.select(m.compare(">", m.sub(quotient, whole), m.of(0.5)), m.add(whole, m.of(1.0)), whole)
        plain = m.div(a, b)
        whole = m.select(m.compare("!=", quotient, zero), whole, m.call("copysign", zero, plain))
        return m.select(m.compare("==", b, zero), plain, whole)

    return inline(n.builder, f"{op}.{spelling(n.kind)}", [x, y], body)


def _each(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    from llvmlite import ir

    function = _remainder(b.module)
    if not isinstance(x.type, ir.VectorType):
        return b.call(function, [x, y])
    result = ir.Constant(x.type, ir.Undefined)
    for lane in range(x.type.count):
        at = ir.Constant(ir.IntType(32), lane)
        one = b.call(function, [b.extract_element(x, at), b.extract_element(y, at)])
        result = b.insert_element(result, one, at)
    return result


def _remainder(module: ir.Module) -> ir.Function:
    """Return double f(double, double): the exact remainder of x / y toward zero.

    With x = m 2^e and y = n 2^f it is (m 2^(e - f) mod n) 2^f, and the power is taken in 11 bits at a time: m < n
    has 53 bits, and 64 hold the product.
    """
    from llvmlite import ir

    name = "remainder"
    if name in module.globals:
        return module.globals[name]
    i64, double = ir.IntType(64), ir.DoubleType()
    function = ir.Function(module, ir.FunctionType(double, [double, double]), name)
    function.linkage = "internal"
    for word in ("noinline", "nounwind"):
        function.attributes.add(word)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    x, y = function.args
    undefined, smaller, work = (b.append_basic_block(word) for word in ("undefined", "smaller", "work"))
    x_size, y_size = (b.and_(b.bitcast(one, i64), i64(2**63 - 1)) for one in (x, y))
    endless = i64(0x7FF << 52)
    bad = b.or_(b.icmp_unsigned(">=", x_size, endless), b.icmp_unsigned(">", y_size, endless))
    bad = b.or_(bad, b.icmp_unsigned("==", y_size, i64(0)))
    next_test = b.append_basic_block("defined")
    b.cbranch(bad, undefined, next_test)
    b.position_at_end(undefined)
    b.ret(ir.Constant(double, math.nan))
    b.position_at_end(next_test)
    b.cbranch(b.icmp_unsigned("<", x_size, y_size), smaller, work)
    b.position_at_end(smaller)
    b.ret(x)
    b.position_at_end(work)
    m, e = _parts(b, x_size)
    n, f = _parts(b, y_size)
    distance = b.sub(e, f)
    with loop(b, 0, distance, 11, [b.urem(m, n)]) as turn:
        left = b.sub(distance, turn.index)
        shift = b.select(b.icmp_signed("<", left, i64(11)), left, i64(11))
        turn.values[0] = b.urem(b.shl(turn.values[0], shift), n)
    rest = turn.results[0]
    # rest * 2^f, f = exponent - 1075 >= -1074: two factors, so that neither is denormal or infinite.
    half = b.ashr(f, i64(1))
    value = b.uitofp(rest, double)
    for one in (half, b.sub(f, half)):
        value = b.fmul(value, b.bitcast(b.shl(b.add(one, i64(1023)), i64(52)), double))
    sign = b.and_(b.bitcast(x, i64), i64(-(2**63)))
    b.ret(b.bitcast(b.or_(b.bitcast(value, i64), sign), double))
    return function


def _parts(b: ir.IRBuilder, size: Any) -> tuple[Any, Any]:
    """Integers m and e with the number = m 2^e."""
    from llvmlite import ir

    i64 = ir.IntType(64)
    exponent = b.lshr(size, i64(52))
    fraction = b.and_(size, i64(2**52 - 1))
    normal = b.icmp_unsigned("!=", exponent, i64(0))
    mantissa = b.select(normal, b.or_(fraction, i64(2**52)), fraction)
    return mantissa, b.sub(b.select(normal, exponent, i64(1)), i64(1075))

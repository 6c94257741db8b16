"""Mathematical functions of vectors of floats, complete in themselves: object code needs no libm.

f32 is within 4 units in the last place for exp, log, erf, tanh, sigmoid and their like, denormals included, and gelu
within 1e-6 of itself down to the smallest normal number; f64 within a few units, pow within 1e-13. Infinities and NaN
go where numpy sends them. Each function is emitted once for each module and type, and inlined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen import coefficients as table
from mlsysopt.compile.codegen import trig
from mlsysopt.compile.codegen.lanes import Lanes, element, like, spelling
from mlsysopt.core.errors import UsageError, near_misses

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["FUNCTIONS", "emit", "inline"]


def emit(builder: ir.IRBuilder, module: ir.Module, op: str, x: Any, isa: Isa, y: Any = None) -> Any:
    """Return the value of a function in each lane.

    Args:
        builder: Where it is needed.
        module: The builder's module.
        op: One of `FUNCTIONS`: a kind of the graph's elementwise ops, or "gelu" (by erf), "gelu_tanh", "silu", "relu".
        x: Float, double or a vector of one of them.
        isa: What the processor has.
        y: The exponent of "pow", of the same type as x.

    Raises:
        UsageError: no such function.
    """
    write = FUNCTIONS.get(op)
    if write is None:
        raise UsageError(f"unknown function {op!r}; {near_misses(op, FUNCTIONS, noun='function')}")
    arguments = [x] if y is None else [x, y]

    def body(into: ir.IRBuilder, *values: Any) -> Any:
        return write(Lanes(into, x.type, isa), *values)

    return inline(builder, f"{op}.{spelling(x.type)}", arguments, body)


def inline(builder: ir.IRBuilder, name: str, arguments: list[Any], body: Callable[..., Any]) -> Any:
    """Call a function of the module, written at first use by `body(builder, *arguments) -> result`.

    The result's type is that of the first argument. It is inlined wherever it is called.
    """
    from llvmlite import ir

    module = builder.module
    function = module.globals.get(name)
    if function is None:
        kinds = [one.type for one in arguments]
        function = ir.Function(module, ir.FunctionType(kinds[0], kinds), name)
        function.linkage = "internal"
        for word in ("alwaysinline", "nounwind"):
            function.attributes.add(word)
        into = ir.IRBuilder(function.append_basic_block("entry"))
        into.ret(body(into, *function.args))
    return builder.call(function, arguments)


_LOG2E = math.log2(math.e)
_SMALLEST = {32: 2.0**-126, 64: 2.0**-1022}  # of the normal numbers
_MANTISSA = {32: 23, 64: 52}
_BIAS = {32: 127, 64: 1023}


def _power_of_two(n: Lanes, x: Any, factor: float, shift: int) -> tuple[Any, Any]:
    """Return k = round(x * factor) as a float, and 2^(k + shift).

    The sum with 1.5 * 2^mantissa has the integer in its last bits: shifted to where exponents are, it is a power.
    """
    magic = 1.5 * 2.0 ** _MANTISSA[n.bits] + _BIAS[n.bits] + shift
    moved = n.fma(x, n.of(factor), n.of(magic))
    k = n.sub(moved, n.of(magic))
    return k, n.from_bits(n.builder.shl(n.to_bits(moved), n.integer(_MANTISSA[n.bits])))


def _exp(n: Lanes, x: Any, residue: Any = None) -> Any:
    """e^x, exactly 0 and inf outside the range; a residue is subtracted from x without rounding.

    x = 2 k ln 2 + r with |r| <= ln 2: a degree more than with one k, but 2^k twice reaches the denormals. What ends as
    0, as all that a mask forbids, is multiplied by 0 instead: a product that underflows costs a row of a softmax as
    much as all the rest of it.
    """
    low, high = (-104.0, 89.0) if n.bits == 32 else (-746.0, 710.0)
    nothing = n.compare("<", x, n.of(low))
    x = n.at_most(high, n.at_least(low, x))
    k, scale = _power_of_two(n, x, _LOG2E / 2, 0)
    first, second = table.LN2[n.bits]
    r = n.fma(k, n.of(-2 * second), n.fma(k, n.of(-2 * first), x))
    if residue is not None:
        r = n.sub(r, residue)
    p = n.horner((1.0, 1.0, *table.EXP[n.bits]), r)
    return n.mul(n.mul(p, scale), n.select(nothing, n.of(0.0), scale))


def _expm1(n: Lanes, x: Any) -> Any:
    low, high = (-18.0, 89.0) if n.bits == 32 else (-38.0, 710.0)
    cut = n.at_most(high, n.at_least(low, x))
    k, half = _power_of_two(n, cut, _LOG2E, -1)  # half of 2^k: 2^128 itself is no float
    first, second = table.LN2[n.bits]
    r = n.fma(k, n.of(-second), n.fma(k, n.of(-first), cut))
    p = n.fma(n.mul(r, r), n.horner(table.EXPM1[n.bits], r), r)
    result = n.mul(n.fma(half, p, n.sub(half, n.of(0.5))), n.of(2.0))
    tiny = n.compare("<", n.abs(x), n.of(2.0**-30 if n.bits == 32 else 2.0**-60))
    return n.select(tiny, x, result)


def _log(n: Lanes, x: Any, correction: Any = None) -> Any:
    """ln x + correction, the latter small beside ln x or wherever ln x is 0."""
    builder, shift = n.builder, _MANTISSA[n.bits]
    small = n.compare("<", x, n.of(_SMALLEST[n.bits]))
    up = n.select(small, n.mul(x, n.of(2.0 ** (shift + 2))), x)
    # Take sqrt(1/2) from the bits: the exponent changes where the mantissa passes sqrt(2).
    bits = n.to_bits(up)
    root = n.to_bits(n.of(math.sqrt(0.5)))
    whole = builder.ashr(builder.sub(bits, root), n.integer(shift))
    f = n.sub(n.from_bits(builder.sub(bits, builder.shl(whole, n.integer(shift)))), n.of(1.0))
    k = builder.sitofp(builder.sub(whole, n.select(small, n.integer(shift + 2), n.integer(0))), n.kind)
    s = n.div(f, n.add(f, n.of(2.0)))
    z = n.mul(s, s)
    half_square = n.mul(n.mul(f, f), n.of(0.5))
    first, second = table.LN2[n.bits]
    low = n.mul(k, n.of(second))
    if correction is not None:
        low = n.add(low, correction)
    low = n.fma(s, n.fma(z, n.horner(table.LOG[n.bits], z), half_square), low)
    result = n.fma(k, n.of(first), n.sub(f, n.sub(half_square, low)))
    result = n.select(n.compare("==", x, n.of(math.inf)), x, result)
    result = n.select(n.compare("==", x, n.of(0.0)), n.of(-math.inf), result)
    return n.select(n.compare(">=", x, n.of(0.0)), result, n.of(math.nan))


def _log1p(n: Lanes, x: Any) -> Any:
    one = n.of(1.0)
    u = n.add(x, one)
    lost = n.sub(x, n.sub(u, one))
    result = _log(n, u, n.div(lost, u))
    result = n.select(n.compare("==", x, n.of(-1.0)), n.of(-math.inf), result)
    return n.select(n.compare("==", x, n.of(math.inf)), x, result)


def _mills(n: Lanes, a: Any) -> Any:
    """exp(a^2 / 2) times the normal distribution function at -a, for a >= 0, in f64."""
    five = n.of(5.0)
    return n.horner(table.MILLS_LONG, n.div(n.sub(a, five), n.add(a, five)))


def _bell(n: Lanes, a: Any) -> Any:
    """exp(-a^2 / 2), the rounding of a^2 made good: it would be multiplied by the size of the exponent."""
    half = n.mul(a, n.of(0.5))
    square = n.mul(half, a)
    residue = n.fma(half, a, n.neg(square)) if "+fma" in n.isa.features else None
    return _exp(n, n.neg(square), residue)


def _bell_short(n: Lanes, a: Any) -> Any:
    """exp(-a^2 / 2) in f32 for 0 <= a <= 13.27, 0 where it is no normal float.

    -a^2 / 2 = k ln 2 + r, with the square in the product that forms r, so that it is not rounded; at the upper end
    k = -127, whose power of two has an exponent of zero bits and is 0.
    """
    half = n.mul(a, n.of(-0.5))
    k, scale = _power_of_two(n, n.mul(half, a), _LOG2E, 0)
    first, second = table.LN2[32]
    r = n.fma(k, n.of(-second), n.fma(half, a, n.mul(k, n.of(-first))))
    # In pairs: fewer steps wait for each other than from one end.
    square = n.mul(r, r)
    pairs = [
        n.fma(n.of(odd), r, n.of(even)) for even, odd in zip(table.EXP_SHORT[::2], table.EXP_SHORT[1::2], strict=True)
    ]
    return n.mul(n.fma(n.fma(pairs[2], square, pairs[1]), square, pairs[0]), scale)


def _gelu(n: Lanes, x: Any) -> Any:
    """x times the normal distribution function at x = max(x, 0) - |x| Phi(-|x|): no cancellation in the tail."""
    size, half = n.abs(x), n.of(0.5)
    # max(x, 0) = (x + |x|) / 2 is exact and, unlike a maximum, NaN at -inf, as -inf * 0 is.
    positive = n.fma(size, half, n.mul(x, half))
    if n.bits == 64:
        a = n.at_most(39.5, size)
        return n.fma(n.neg(n.mul(a, _bell(n, a))), _mills(n, a), positive)
    a = n.at_most(13.27, size)
    top, bottom = table.MILLS
    share = n.div(n.mul(a, n.horner(top, a)), n.horner(bottom, a))
    return n.fma(n.neg(share), _bell_short(n, a), positive)


def _erf(n: Lanes, x: Any) -> Any:
    if n.bits == 32:
        small, tail = table.ERF
        a = n.at_most(3.93, n.abs(x))
        power = n.horner(tail, a)
        for _ in range(4):
            power = n.mul(power, power)
        near = n.mul(a, n.horner(small, n.mul(a, a)))
        return n.call("copysign", n.select(n.compare("<", a, n.of(1.2)), near, n.sub(n.of(1.0), power)), x)
    a = n.abs(x)
    small = n.mul(x, n.horner(table.ERF_SMALL, n.mul(a, a)))
    scaled = n.mul(n.at_most(6.0, a), n.of(math.sqrt(2)))
    tail = n.mul(n.mul(_bell(n, scaled), _mills(n, scaled)), n.of(2.0))
    large = n.call("copysign", n.sub(n.of(1.0), tail), x)
    return n.select(n.compare("<", a, n.of(1.0)), small, large)


def _tanh(n: Lanes, x: Any) -> Any:
    grown = _expm1(n, n.mul(n.at_most(22.0, n.abs(x)), n.of(2.0)))
    return n.call("copysign", n.div(grown, n.add(grown, n.of(2.0))), x)


def _weight(n: Lanes, x: Any) -> tuple[Any, Any]:
    """Numerator and denominator of 1 / (1 + exp(-x)), neither of which overflows."""
    e = _exp(n, n.neg(n.abs(x)))
    return n.select(n.compare("<", x, n.of(0.0)), e, n.of(1.0)), n.add(e, n.of(1.0))


def _sigmoid(n: Lanes, x: Any) -> Any:
    return n.div(*_weight(n, x))


def _silu(n: Lanes, x: Any) -> Any:
    top, bottom = _weight(n, x)
    return n.div(n.mul(x, top), bottom)


def _gelu_tanh(n: Lanes, x: Any) -> Any:
    # (1 + tanh u) / 2 = sigmoid(2 u), which keeps its relative precision where tanh is near -1.
    scale = 2 * math.sqrt(2 / math.pi)
    cubic = n.fma(n.mul(x, x), n.of(0.044715 * scale), n.of(scale))
    top, bottom = _weight(n, n.mul(x, cubic))
    return n.div(n.mul(x, top), bottom)


def _relu(n: Lanes, x: Any) -> Any:
    return n.at_least(0.0, x)


def _sign(n: Lanes, x: Any) -> Any:
    zero = n.of(0.0)
    below = n.select(n.compare("<", x, zero), n.of(-1.0), x)
    return n.select(n.compare(">", x, zero), n.of(1.0), below)


def _sqrt(n: Lanes, x: Any) -> Any:
    return n.call("sqrt", x)


def _pow(n: Lanes, x: Any, y: Any) -> Any:
    """x^y by exp(y ln |x|) in f64, which for f32 rounds once."""
    from llvmlite import ir

    wide = like(n.kind, ir.DoubleType())
    m = Lanes(n.builder, wide, n.isa)
    single = element(n.kind) != ir.DoubleType()
    a, b = (n.builder.fpext(one, wide) for one in (x, y)) if single else (x, y)
    one, zero = m.of(1.0), m.of(0.0)
    size = _exp(m, m.mul(b, _log(m, m.abs(a))))
    whole = m.compare("==", m.call("floor", b), b)
    half = m.mul(b, m.of(0.5))
    odd = n.builder.and_(whole, m.compare("!=", m.call("floor", half), half))
    negative = n.builder.icmp_signed("<", m.to_bits(a), m.integer(0))
    result = m.select(n.builder.and_(odd, negative), m.neg(size), size)
    finite = m.compare("<", m.abs(a), m.of(math.inf))
    undefined = n.builder.and_(n.builder.and_(m.compare("<", a, zero), finite), n.builder.not_(whole))
    result = m.select(undefined, m.of(math.nan), result)
    # -1 to an infinite power is 1, as is 1 to any; both would be exp(inf * 0).
    unit = n.builder.and_(m.compare("==", m.abs(a), one), m.compare("==", m.abs(b), m.of(math.inf)))
    certain = n.builder.or_(n.builder.or_(m.compare("==", b, zero), m.compare("==", a, one)), unit)
    result = m.select(certain, one, result)
    return n.builder.fptrunc(result, n.kind) if single else result


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": Lanes.abs,
    "ceil": lambda n, x: n.call("ceil", x),
    "cos": trig.cos,
    "erf": _erf,
    "exp": _exp,
    "expm1": _expm1,
    "floor": lambda n, x: n.call("floor", x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "log": _log,
    "log1p": _log1p,
    "neg": Lanes.neg,
    "pow": _pow,
    "reciprocal": lambda n, x: n.div(n.of(1.0), x),
    "relu": _relu,
    "round": lambda n, x: n.call("roundeven", x),
    "rsqrt": lambda n, x: n.div(n.of(1.0), _sqrt(n, x)),
    "sigmoid": _sigmoid,
    "sign": _sign,
    "silu": _silu,
    "sin": trig.sin,
    "sqrt": _sqrt,
    "tan": trig.tan,
    "tanh": _tanh,
}
"""Function by name: of lanes and the argument, "pow" of two."""

"""16-bit floats: they live in memory only, arithmetic is in f32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.lanes import element, like, number

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["from_f32", "to_f32"]


def to_f32(builder: ir.IRBuilder, isa: Isa, dtype: str, raw: Any) -> Any:
    """Return the f32 value of 16-bit integers that hold a "f16" or "bf16"; exact."""
    from llvmlite import ir

    i32, f32 = like(raw.type, ir.IntType(32)), like(raw.type, ir.FloatType())
    if dtype == "bf16":
        return builder.bitcast(builder.shl(builder.zext(raw, i32), number(i32, 16)), f32)
    if "+f16c" in isa.features:
        return builder.fpext(builder.bitcast(raw, like(raw.type, ir.HalfType())), f32)
    # Without the instruction LLVM would call a library. As bits of f32 the number is too small by 2^112; the
    # product is exact for denormals too.
    bits = builder.zext(raw, i32)
    size = builder.shl(builder.and_(bits, number(i32, 0x7FFF)), number(i32, 13))
    scaled = builder.bitcast(builder.fmul(builder.bitcast(size, f32), number(f32, 2.0**112)), i32)
    endless = builder.icmp_unsigned(">=", size, number(i32, 0x7C00 << 13))
    scaled = builder.select(endless, builder.or_(size, number(i32, 0x7F800000)), scaled)
    sign = builder.shl(builder.and_(bits, number(i32, 0x8000)), number(i32, 16))
    return builder.bitcast(builder.or_(scaled, sign), f32)


def from_f32(builder: ir.IRBuilder, isa: Isa, dtype: str, value: Any) -> Any:
    """Return 16-bit integers that hold an f32 as "f16" or "bf16", rounded to nearest, halves to even."""
    from llvmlite import ir

    i16, i32 = like(value.type, ir.IntType(16)), like(value.type, ir.IntType(32))
    assert isinstance(element(value.type), ir.FloatType)
    bits = builder.bitcast(value, i32)
    nan = builder.fcmp_unordered("uno", value, value)
    if dtype == "bf16":
        odd = builder.and_(builder.lshr(bits, number(i32, 16)), number(i32, 1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, number(i32, 0x7FFF))), number(i32, 16))
        quiet = builder.or_(builder.lshr(bits, number(i32, 16)), number(i32, 0x40))
        return builder.trunc(builder.select(nan, quiet, rounded), i16)
    if "+f16c" in isa.features:
        return builder.bitcast(builder.fptrunc(value, like(value.type, ir.HalfType())), i16)
    size = builder.and_(bits, number(i32, 0x7FFFFFFF))
    odd = builder.and_(builder.lshr(size, number(i32, 13)), number(i32, 1))
    normal = builder.add(builder.add(size, odd), number(i32, 0xFFF - 0x38000000))
    normal = builder.lshr(normal, number(i32, 13))
    # A unit in the last place of 0.5 is the smallest f16: the sum rounds there.
    moved = builder.fadd(builder.bitcast(size, value.type), number(value.type, 0.5))
    small = builder.sub(builder.bitcast(moved, i32), number(i32, 0x3F000000))
    half = builder.select(builder.icmp_unsigned("<", size, number(i32, 0x38800000)), small, normal)
    half = builder.select(builder.icmp_unsigned(">=", size, number(i32, 0x47800000)), number(i32, 0x7C00), half)
    half = builder.select(nan, number(i32, 0x7E00), half)
    sign = builder.and_(builder.lshr(bits, number(i32, 16)), number(i32, 0x8000))
    return builder.trunc(builder.or_(half, sign), i16)

"""Elements of every type between memory and vectors, without ever touching what lies outside a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen import halves
from mlsysopt.compile.codegen.arithmetic import register
from mlsysopt.compile.codegen.lanes import broadcast, intrinsic, like, number, spelling
from mlsysopt.compile.codegen.loops import address, i64, least, most

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["Guard", "Memory", "constant", "first_lanes", "kept_bytes", "size_bytes", "stored"]

_BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i16": 2, "i8": 1, "u8": 1, "bool": 1}


def size_bytes(dtype: str) -> int:
    """Return bytes of one element in memory.

    >>> size_bytes("bf16"), size_bytes("bool")
    (2, 1)
    """
    return _BYTES[dtype]


def stored(dtype: str) -> Any:
    """Return LLVM's type of one element in memory."""
    from llvmlite import ir

    return register(dtype) if dtype in ("f32", "f64") else ir.IntType(8 * _BYTES[dtype])


def first_lanes(b: ir.IRBuilder, count: Any, lanes: int) -> Any:
    """Return a mask whose first `count` lanes are set; below 0 none, above `lanes` all."""
    from llvmlite import ir

    i32 = ir.IntType(32)
    bounded = b.trunc(most(b, least(b, count, i64(lanes)), i64(0)), i32)
    numbers = ir.Constant(ir.VectorType(i32, lanes), list(range(lanes)))
    return b.icmp_signed("<", numbers, broadcast(b, bounded, lanes))


@dataclass(frozen=True)
class Guard:
    """Which lanes of an access exist; each part None where it says nothing.

    Attributes:
        count: i64, lanes in front that exist: the end of the row.
        low, high: i64, the window within the lanes.
        scalar: i1, whether any exists at all.
        mask: One i1 for each lane.
    """

    count: Any = None
    low: Any = None
    high: Any = None
    scalar: Any = None
    mask: Any = None

    @property
    def open(self) -> bool:
        """Whether every lane exists, whatever happens at run time."""
        return all(part is None for part in (self.count, self.low, self.high, self.scalar, self.mask))

    @property
    def tail(self) -> bool:
        """Whether the end of the row is all that is guarded against."""
        return self.count is not None and all(part is None for part in (self.low, self.high, self.scalar, self.mask))

    def vector(self, b: ir.IRBuilder, lanes: int) -> Any:
        """Return one i1 for each lane."""
        parts: list[Any] = []
        for bound in (self.count, self.high):
            if bound is not None:
                parts.append(first_lanes(b, bound, lanes))
        if self.low is not None:
            parts.append(b.not_(first_lanes(b, self.low, lanes)))
        if self.scalar is not None:
            parts.append(broadcast(b, self.scalar, lanes))
        if self.mask is not None:
            parts.append(self.mask)
        return _all(b, parts)

    def lane(self, b: ir.IRBuilder, j: int) -> Any:
        """Return whether lane j exists, without a vector in between where there is none yet."""
        from llvmlite import ir

        parts: list[Any] = [b.icmp_signed("<", i64(j), bound) for bound in (self.count, self.high) if bound is not None]
        if self.low is not None:
            parts.append(b.icmp_signed(">=", i64(j), self.low))
        if self.scalar is not None:
            parts.append(self.scalar)
        if self.mask is not None:
            parts.append(b.extract_element(self.mask, ir.Constant(ir.IntType(32), j)))
        return _all(b, parts)


def _all(b: ir.IRBuilder, parts: list[Any]) -> Any:
    result = parts[0]
    for part in parts[1:]:
        result = b.and_(result, part)
    return result


class Memory:
    """Loads and stores of one kernel.

    Attributes:
        builder: Where instructions go.
        isa: What the processor has.
    """

    def __init__(self, builder: ir.IRBuilder, isa: Isa) -> None:
        self.builder, self.isa = builder, isa

    def widen(self, dtype: str, raw: Any) -> Any:
        """Return what a register holds for what memory holds."""
        if dtype == "bool":
            return self.builder.icmp_unsigned("!=", raw, number(raw.type, 0))
        return halves.to_f32(self.builder, self.isa, dtype, raw) if dtype in ("f16", "bf16") else raw

    def narrow(self, dtype: str, value: Any) -> Any:
        """Return what memory holds for what a register holds."""
        if dtype == "bool":
            return self.builder.zext(value, like(value.type, stored("bool")))
        return halves.from_f32(self.builder, self.isa, dtype, value) if dtype in ("f16", "bf16") else value

    def scalar(self, dtype: str, place: Any, guard: Guard, outside: float) -> Any:
        """Load one element; `outside` where the guard says that there is none."""
        b = self.builder
        if guard.open:
            return self.widen(dtype, b.load(place, typ=stored(dtype)))
        exists = guard.scalar
        value = self.widen(dtype, b.load(b.select(exists, place, self._nowhere()), typ=stored(dtype)))
        return b.select(exists, value, constant(dtype, outside))

    def contiguous(self, dtype: str, place: Any, lanes: int, guard: Guard, outside: float) -> Any:
        """Load elements that lie one after another; lanes behind the end of the row are anything."""
        if guard.open:
            return self.widen(dtype, self._whole(dtype, place, lanes))
        if self._masked(dtype):
            return self._masked_load(dtype, place, lanes, guard, outside)
        if guard.tail:
            return self.widen(dtype, self._unless_tail(dtype, place, lanes, guard))
        return self.spread(
            dtype, [address(self.builder, place, j, stored(dtype)) for j in range(lanes)], guard, outside
        )

    def either(self, dtype: str, place: Any, unit: Any, lanes: int, guard: Guard, outside: float) -> Any:
        """Load elements at a stride of 0 or 1, which the i1 `unit` says, without a jump."""
        b = self.builder
        one = b.load(b.select(guard.lane(b, 0), place, self._nowhere()) if not guard.open else place, typ=stored(dtype))
        one = self.widen(dtype, one)
        exists = unit
        if guard.scalar is not None:
            one = b.select(guard.scalar, one, constant(dtype, outside))
            exists = b.and_(unit, guard.scalar)
        seen = Guard(guard.count, guard.low, guard.high, exists, guard.mask)
        many = self.contiguous(dtype, b.select(unit, place, self._nowhere()), lanes, seen, outside)
        return b.select(unit, many, broadcast(b, one, lanes))

    def spread(self, dtype: str, places: list[Any], guard: Guard, outside: float) -> Any:
        """Load elements from an address each."""
        from llvmlite import ir

        b, kind = self.builder, ir.VectorType(stored(dtype), len(places))
        raw = ir.Constant(kind, ir.Undefined)
        for j, place in enumerate(places):
            sure = place if guard.open else b.select(guard.lane(b, j), place, self._nowhere())
            raw = b.insert_element(raw, b.load(sure, typ=stored(dtype)), ir.Constant(ir.IntType(32), j))
        value = self.widen(dtype, raw)
        if guard.open or guard.tail:
            return value
        return b.select(guard.vector(b, len(places)), value, broadcast(b, constant(dtype, outside), len(places)))

    def store_scalar(self, dtype: str, place: Any, value: Any, guard: Guard) -> None:
        """Store one element, if the guard lets it."""
        b = self.builder
        raw = self.narrow(dtype, value)
        if guard.open:
            b.store(raw, place)
            return
        with b.if_then(guard.scalar):
            b.store(raw, place)

    def store_contiguous(self, dtype: str, place: Any, value: Any, guard: Guard) -> None:
        """Store elements one after another, those lanes that exist."""
        b, raw = self.builder, self.narrow(dtype, value)
        lanes = raw.type.count
        if guard.open:
            b.store(raw, place, align=_BYTES[dtype])
        elif self.isa.name == "avx512":
            self._masked_store(dtype, place, raw, guard.vector(b, lanes))
        elif guard.tail:
            # Masked stores of AVX2 take a dozen cycles on some processors, a jump that is foreseen none.
            with b.if_else(b.icmp_signed(">=", guard.count, i64(lanes))) as (full, part):
                with full:
                    b.store(raw, place, align=_BYTES[dtype])
                with part:
                    if self._masked(dtype):
                        self._masked_store(dtype, place, raw, guard.vector(b, lanes))
                    else:
                        self._store_each(dtype, place, raw, guard)
        elif self._masked(dtype):
            self._masked_store(dtype, place, raw, guard.vector(b, lanes))
        else:
            self._store_each(dtype, place, raw, guard)

    def store_spread(self, dtype: str, places: list[Any], value: Any, guard: Guard) -> None:
        """Store elements at an address each, in the order of lanes."""
        from llvmlite import ir

        b, raw = self.builder, self.narrow(dtype, value)
        for j, place in enumerate(places):
            one = b.extract_element(raw, ir.Constant(ir.IntType(32), j))
            if guard.open:
                b.store(one, place)
                continue
            with b.if_then(guard.lane(b, j)):
                b.store(one, place)

    def keep(self, dtype: str, place: Any, value: Any) -> None:
        """Store a whole vector in a row buffer, which is padded to whole vectors."""
        raw = self.builder.zext(value, like(value.type, stored("bool"))) if dtype == "bool" else value
        self.builder.store(raw, place, align=kept_bytes(dtype))

    def kept(self, dtype: str, place: Any, lanes: int) -> Any:
        """Load a whole vector from a row buffer."""
        from llvmlite import ir

        element = stored("bool") if dtype == "bool" else register(dtype)
        raw = self.builder.load(place, typ=ir.VectorType(element, lanes), align=kept_bytes(dtype))
        return self.widen("bool", raw) if dtype == "bool" else raw

    def _whole(self, dtype: str, place: Any, lanes: int) -> Any:
        from llvmlite import ir

        return self.builder.load(place, typ=ir.VectorType(stored(dtype), lanes), align=_BYTES[dtype])

    def _masked(self, dtype: str) -> bool:
        return _BYTES[dtype] >= 4 or self.isa.name == "avx512"

    def _masked_load(self, dtype: str, place: Any, lanes: int, guard: Guard, outside: float) -> Any:
        from llvmlite import ir

        b, kind, mask = self.builder, ir.VectorType(stored(dtype), lanes), guard.vector(self.builder, lanes)
        simple = dtype not in ("bool", "f16", "bf16")
        other = broadcast(b, constant(dtype, outside if simple else 0), lanes) if simple else number(kind, 0)
        arguments = [place, ir.Constant(ir.IntType(32), _BYTES[dtype]), mask, other]
        raw = intrinsic(b, f"llvm.masked.load.{spelling(kind)}.p0", arguments, kind)
        value = self.widen(dtype, raw)
        if simple or not outside:
            return value
        return b.select(mask, value, broadcast(b, constant(dtype, outside), lanes))

    def _unless_tail(self, dtype: str, place: Any, lanes: int, guard: Guard) -> Any:
        """Load as a whole where all lanes exist, else one by one: small elements have no masked load in AVX2."""
        from llvmlite import ir

        b = self.builder
        kind = ir.VectorType(stored(dtype), lanes)
        with b.if_else(b.icmp_signed(">=", guard.count, i64(lanes))) as (full, part):
            with full:
                whole = self._whole(dtype, place, lanes)
                whole_end = b.block
            with part:
                last = b.sub(guard.count, i64(1))
                raw = ir.Constant(kind, ir.Undefined)
                for j in range(lanes):
                    one = b.load(address(b, place, least(b, i64(j), last), stored(dtype)), typ=stored(dtype))
                    raw = b.insert_element(raw, one, ir.Constant(ir.IntType(32), j))
                part_end = b.block
        result = b.phi(kind)
        result.add_incoming(whole, whole_end)
        result.add_incoming(raw, part_end)
        return result

    def _masked_store(self, dtype: str, place: Any, raw: Any, mask: Any) -> None:
        from llvmlite import ir

        arguments = [raw, place, ir.Constant(ir.IntType(32), _BYTES[dtype]), mask]
        intrinsic(self.builder, f"llvm.masked.store.{spelling(raw.type)}.p0", arguments, ir.VoidType())

    def _store_each(self, dtype: str, place: Any, raw: Any, guard: Guard) -> None:
        from llvmlite import ir

        b = self.builder
        for j in range(raw.type.count):
            with b.if_then(guard.lane(b, j)):
                one = b.extract_element(raw, ir.Constant(ir.IntType(32), j))
                b.store(one, address(b, place, j, stored(dtype)))

    def _nowhere(self) -> Any:
        """Return the address of zeros, read in place of an element that does not exist."""
        from llvmlite import ir

        module, kind = self.builder.module, ir.ArrayType(ir.IntType(8), 128)
        known = module.globals.get("nowhere")
        if known is not None:
            return known
        place: Any = ir.GlobalVariable(module, kind, "nowhere")
        place.global_constant = True
        place.linkage = "internal"
        place.align = 64
        place.initializer = ir.Constant(kind, bytearray(128))
        return place


def constant(dtype: str, value: float | int | bool) -> Any:
    """Return a scalar constant in its register form."""
    from llvmlite import ir

    kind = register(dtype)
    if isinstance(kind, ir.IntType):
        return ir.Constant(kind, int(bool(value)) if dtype == "bool" else int(value))
    return ir.Constant(kind, float(value))


def kept_bytes(dtype: str) -> int:
    """Return bytes of one element in a row buffer: 16-bit floats are kept as f32."""
    return 4 if dtype in ("f16", "bf16") else _BYTES[dtype]

"""Every elementwise kind of the graph, in every element type that its type rule allows, against the kind's meaning."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.compile.codegen import row
from mlsysopt.compile.codegen.program import Program
from mlsysopt.compile.codegen.target import host_isa
from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import Builder
from mlsysopt.graph.errors import TypeRuleError
from mlsysopt.graph.ops.registry import kinds, lookup
from mlsysopt.graph.types import DTYPES, TensorType
from tests.compile.codegen.fused import Array, Compiled, Fused, check, numpy_type, run

PRIMITIVES = [kind for kind in kinds() if lookup(kind).elementwise and lookup(kind).decompose is None]
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "is_nan")


def allowed(kind: str, dtype: str) -> bool:
    """Whether the type rule takes operands of a type."""
    definition = lookup(kind)
    assert isinstance(definition.operands, int)
    types: list[TensorType] = [DTYPES[dtype]["N"]] * definition.operands
    if kind == "where":
        types[0] = DTYPES["bool"]["N"]
    b = Builder()
    operands = [b.input(f"x{i}", one) for i, one in enumerate(types)]
    try:
        if kind == "cast":
            b.op(kind, *operands, to=DTYPES["f32"])
        else:
            b.op(kind, *operands)
    except TypeRuleError:
        return False
    return True


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_supported_exactly_where_the_type_rule_allows_it(kind: str) -> None:
    for dtype in DTYPES:
        assert row.supports(kind, dtype) == allowed(kind, dtype), dtype


def values(dtype: str, rng: np.random.Generator, count: int) -> Array:
    """Numbers around 0, and the ends of integer types or what is special about floats."""
    kind = numpy_type(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, count).astype(bool)
    if DTYPES[dtype].is_float:
        found = np.concatenate([rng.normal(size=count) * 3, [0.0, -0.0, np.inf, -np.inf, np.nan, 1, 2, -1]])
        return rng.permutation(found)[:count].astype(kind)
    ends = np.iinfo(kind)
    found = np.concatenate([rng.integers(max(ends.min, -9), 9, count), [0, 1]])
    return rng.permutation(np.concatenate([found.astype(kind), np.array([ends.min, ends.max], kind)]))[:count]


def second(kind: str, dtype: str, x: Array) -> Array:
    """Operands for which the meaning is defined: no integer divided by zero or raised to a negative power."""
    if DTYPES[dtype].is_float or dtype == "bool":
        return x
    if kind in ("floordiv", "mod"):
        # The smallest number by -1 overflows, which is tested apart.
        return np.where((x == 0) | (x.astype(np.int64) == -1), 3, x).astype(x.dtype)
    return np.abs(x.astype(np.int64) % 7).astype(x.dtype) if kind == "pow" else x


@pytest.mark.parametrize(
    ("dtype", "cap"), [*((one, "avx2") for one in DTYPES), *((one, "baseline") for one in ("f32", "f16", "i64", "u8"))]
)
def test_meaning(dtype: str, cap: str) -> None:
    rng, count = np.random.default_rng(7), 45
    programs: list[Program] = []
    buffers: list[list[Array]] = []
    for kind in PRIMITIVES:
        if kind == "cast" or not row.supports(kind, dtype):
            continue
        f = Fused((), count)
        arity = int(str(lookup(kind).operands))
        types = ["bool", dtype, dtype] if kind == "where" else [dtype] * arity
        arrays = [values(one, rng, count) for one in types]
        if arity == 2:
            arrays[1] = second(kind, dtype, arrays[1])
        result = "bool" if kind in COMPARISONS else dtype
        f.sweep(stores=[f.store(f.node(kind, *(f.load((1,), one) for one in types), dtype=result), (1,))])
        programs.append(f.program())
        buffers.append([*arrays, np.zeros(count, numpy_type(result))])
    compiled = Compiled(programs, host_isa(cap))
    for i, program in enumerate(programs):
        compiled.check(i, program, buffers[i], rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "cap"), [*((one, "avx2") for one in DTYPES), *((one, "baseline") for one in ("f32", "f16", "bf16"))]
)
def test_cast(source: str, cap: str) -> None:
    rng, count = np.random.default_rng(9), 43
    programs: list[Program] = []
    buffers: list[list[Array]] = []
    for to in DTYPES:
        x = values(source, rng, count)
        if DTYPES[source].is_float and not DTYPES[to].is_float and to != "bool":
            x = np.where(np.isfinite(x.astype(np.float64)), x, 0).astype(x.dtype)  # no integer holds the others
        f = Fused((), count)
        f.sweep(stores=[f.store(f.node("cast", f.load((1,), source), dtype=to), (1,))])
        programs.append(f.program())
        buffers.append([x, np.zeros(count, numpy_type(to))])
    compiled = Compiled(programs, host_isa(cap))
    for i, program in enumerate(programs):
        compiled.check(i, program, buffers[i])


@pytest.mark.parametrize("cap", ["avx2", "baseline"])
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_every_half_passes_and_rounds_as_in_numpy(dtype: str, cap: str) -> None:
    kind = numpy_type(dtype)
    every = np.arange(2**16, dtype=np.uint16).view(kind)
    f = Fused((), 2**16)
    f.sweep(stores=[f.store(f.node("cast", f.load((1,), dtype), dtype="f32"), (1,))])
    wide = run(f.program(), [every, np.zeros(2**16, np.float32)], isa=host_isa(cap))[1]
    np.testing.assert_array_equal(wide, every.astype(np.float32))
    finite = np.sort(every[np.isfinite(every.astype(np.float32))].astype(np.float32))
    above = np.nextafter(finite, np.float32(np.inf))
    between = np.concatenate([finite[1:] / 2 + finite[:-1] / 2, above, [1e30, -1e30]]).astype(np.float32)
    f = Fused((), len(between))
    f.sweep(stores=[f.store(f.node("cast", f.load((1,)), dtype=dtype), (1,))])
    got = run(f.program(), [between, np.zeros(len(between), kind)], isa=host_isa(cap))[1]
    with np.errstate(over="ignore"):
        want = between.astype(kind)
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("dtype", ["i64", "i32", "i16", "i8", "u8"])
def test_divisions_that_would_trap_do_not(dtype: str) -> None:
    kind = numpy_type(dtype)
    x = np.full(32, np.iinfo(kind).min, kind)
    y = np.array([0, -1] * 16).astype(kind)
    for op in ("floordiv", "mod"):
        f = Fused((), 32)
        f.sweep(stores=[f.store(f.node(op, f.load((1,), dtype), f.load((1,), dtype)), (1,))])
        got = run(f.program(), [x, y, np.ones(32, kind)])[2]
        assert not got[y == 0].any()


def test_remainders_of_floats_far_apart_are_exact() -> None:
    rng = np.random.default_rng(2)
    for kind, dtype, top in ((np.float32, "f32", 37), (np.float64, "f64", 300)):
        x, y = (10.0 ** rng.uniform(-top, top, 4_000) * rng.choice([-1, 1], 4_000) for _ in range(2))
        x, y = x.astype(kind), y.astype(kind)
        f = Fused((), 4_000)
        f.sweep(stores=[f.store(f.node("mod", f.load((1,), dtype), f.load((1,), dtype)), (1,))])
        got = run(f.program(), [x, y, np.zeros(4_000, kind)])[2]
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(got, np.remainder(x, y))


def test_a_kind_without_native_form_is_refused_by_name() -> None:
    f = Fused((), 8)
    f.sweep(stores=[f.store(f.node("erf", f.load((1,), "i32")), (1,))])
    with pytest.raises(UsageError, match="erf of i32 has no native form"):
        run(f.program(), [np.zeros(8, np.int32)] * 2)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0, -0.5, 1.7])
def test_powers_by_a_constant(exponent: float) -> None:
    f = Fused((), 37)
    f.sweep(stores=[f.store(f.node("pow", f.load((1,)), f.const(exponent)), (1,))])
    x = np.linspace(0.1, 9, 37, dtype=np.float32)
    check(f.program(), [x, np.zeros(37, np.float32)])

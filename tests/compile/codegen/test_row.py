"""Rows and flat programs: norms, softmax and their like on any sizes and strides, against numpy in float64."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.compile.codegen import row
from mlsysopt.compile.codegen.objects import assembly
from mlsysopt.compile.codegen.program import Access, Argument, Indirect, Node, Param, Pass, Program, Store
from mlsysopt.compile.codegen.target import Isa, host_isa, new_module
from mlsysopt.core.errors import UsageError
from mlsysopt.graph import dims
from mlsysopt.graph.symbolic import Dim
from tests.compile.codegen.fused import Array, Compiled, Fused, check, numpy_type, reference, run

LENGTHS = st.one_of(st.integers(0, 70), st.sampled_from([127, 128, 129, 768, 1000, 9001]))
ROWS = st.integers(0, 5)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=math.prod(shape)).astype(np.float32)


def layer_norm() -> Program:
    """Residual, bias and layer norm of rows, in three passes."""
    inner = Param(1)
    f = Fused((Param(0),), inner)
    x = f.node("add", f.node("add", f.load((inner, 1)), f.load((0, 1))), f.load((inner, 1)))
    total = f.node("sum", x)
    f.sweep([total], keeps=[x])
    count = f.node("param", value=1)
    centred = f.node("sub", x, f.node("div", total, count))
    squares = f.node("sum", f.node("mul", centred, centred))
    f.sweep([squares])
    scale = f.node("rsqrt", f.node("add", f.node("div", squares, count), f.const(1e-5)))
    scaled = f.node("mul", f.node("mul", centred, scale), f.load((0, 1)))
    f.sweep(stores=[f.store(f.node("add", scaled, f.load((0, 1))), (inner, 1))])
    return f.program(2)


def softmax() -> Program:
    """Scaled and masked softmax of [rows, heads, inner] with a mask [rows, 1, inner]."""
    strides = (Param(2), Param(3), 1)
    f = Fused((Param(0), 3), Param(1))
    x = f.node("add", f.node("mul", f.load(strides), f.const(0.125)), f.load((Param(1), 0, 1)))
    top = f.node("max", x)
    f.sweep([top], keeps=[x])
    e = f.node("exp", f.node("sub", x, top))
    total = f.node("sum", e)
    f.sweep([total], keeps=[e])
    f.sweep(stores=[f.store(f.node("div", e, total), strides)])
    return f.program(4)


def gated_norm() -> Program:
    """RMS norm times a gate's silu; nothing is kept, the operand is read twice."""
    f = Fused((Param(0),), Param(1))
    x, gate, weight = f.load((Param(1), 1)), f.load((Param(1), 1)), f.load((0, 1))
    squares = f.node("sum", f.node("mul", x, x))
    f.sweep([squares])
    mean = f.node("div", squares, f.node("param", value=1))
    scale = f.node("rsqrt", f.node("add", mean, f.const(1e-6)))
    y = f.node("mul", f.node("mul", f.node("mul", x, scale), weight), f.node("silu", gate))
    f.sweep(stores=[f.store(y, (Param(1), 1))])
    return f.program(2)


def bias_gelu() -> Program:
    f = Fused((Param(0),), Param(1))
    f.sweep(stores=[f.store(f.node("gelu", f.node("add", f.load((Param(1), 1)), f.load((0, 1)))), (Param(1), 1))])
    return f.program(2)


def strided() -> Program:
    """a + b * c with free strides everywhere: broadcasts and transposes that are known at run time only."""
    f = Fused((Param(0),), Param(1))
    a, b, c = (f.load((Param(2 + 2 * i), Param(3 + 2 * i))) for i in range(3))
    f.sweep(stores=[f.store(f.node("add", a, f.node("mul", b, c)), (Param(1), 1))])
    return f.program(8)


def statistics() -> Program:
    """Many reductions of [rows, a, b] over the last two, of floats, integers and bools, in one pass."""
    f = Fused((Param(0),), Param(2), reduced=(Param(1),))
    strides = (Param(3), Param(2), 1)
    x, n = f.load(strides), f.load(strides, "i32")
    big = f.node("gt", x, f.const(1.0), dtype="bool")
    found = [f.node(op, x) for op in ("sum", "max", "min", "prod")]
    found += [f.node(op, n) for op in ("sum", "max", "min", "prod")]
    found += [f.node(op, big) for op in ("any", "all")]
    f.sweep(found)
    f.sweep(stores=[f.store(one, (1, 0, 0)) for one in found])
    return f.program(4)


TEMPLATES = {one.__name__: one for one in (layer_norm, softmax, gated_norm, bias_gelu, strided, statistics)}


@cache
def compiled(cap: str) -> tuple[dict[str, Program], Compiled]:
    programs = {name: make() for name, make in TEMPLATES.items()}
    return programs, Compiled(list(programs.values()), host_isa(cap))


def verify(name: str, buffers: list[Array], params: list[int], cap: str = "avx2", **more: Any) -> None:
    programs, kernels = compiled(cap)
    kernels.check(list(programs).index(name), programs[name], buffers, params, **more)


CAPS = st.sampled_from(["avx2", "avx512", "baseline"])
"""What the host lacks is its widest."""


@given(ROWS, LENGTHS.filter(bool), CAPS)
@settings(deadline=None, max_examples=40)
def test_layer_norm(rows: int, inner: int, cap: str) -> None:
    wide = [normal(rows, inner, seed=i) for i in (0, 1, 2)]
    narrow = [normal(inner, seed=i) for i in (3, 4, 5)]
    verify("layer_norm", [wide[0], narrow[0], wide[1], narrow[1], narrow[2], wide[2]], [rows, inner], cap, atol=2e-5)


@given(st.integers(0, 3), LENGTHS, st.sampled_from(["none", "some", "all"]), st.integers(0, 5), CAPS)
@settings(deadline=None, max_examples=40)
def test_masked_softmax(rows: int, inner: int, masked: str, gap: int, cap: str) -> None:
    mask = np.zeros(rows * inner, np.float32)
    if masked == "some":
        mask[np.random.default_rng(1).random(mask.shape) < 0.4] = -math.inf
    if masked == "all":
        mask[:] = -math.inf
    pitch = inner + gap  # rows of a wider tensor
    x = normal(rows, 3, pitch) * 20
    verify("softmax", [x, mask, np.zeros_like(x)], [rows, inner, 3 * pitch, pitch], cap)


@given(ROWS, LENGTHS.filter(bool), CAPS)
@settings(deadline=None, max_examples=30)
def test_gated_norm(rows: int, inner: int, cap: str) -> None:
    x, gate = normal(rows, inner), normal(rows, inner, seed=1)
    verify("gated_norm", [x, gate, normal(inner, seed=2), np.zeros_like(x)], [rows, inner], cap, atol=1e-5)


@given(ROWS, LENGTHS, CAPS)
@settings(deadline=None, max_examples=30)
def test_bias_gelu(rows: int, inner: int, cap: str) -> None:
    x = normal(rows, inner) * 4
    verify("bias_gelu", [x, normal(inner, seed=1), np.zeros_like(x)], [rows, inner], cap)


@given(
    ROWS,
    st.integers(0, 40),
    st.lists(st.sampled_from(["row", "column", "value", "plain", "wide"]), min_size=3, max_size=3),
    CAPS,
)
@settings(deadline=None, max_examples=60)
def test_strides_that_are_known_at_run_time(rows: int, inner: int, kinds: list[str], cap: str) -> None:
    strides = {"row": (0, 1), "column": (1, 0), "value": (0, 0), "plain": (inner, 1), "wide": (1, rows)}
    params, buffers = [rows, inner], list[Array]()
    for i, kind in enumerate(kinds):
        outer, step = strides[kind]
        params += [outer, step]
        buffers.append(normal(max(1 + (rows - 1) * outer + (inner - 1) * step, 0) if rows and inner else 0, seed=i))
    verify("strided", [*buffers, np.zeros(rows * inner, np.float32)], params, cap)


@given(ROWS, st.integers(0, 6), st.integers(0, 40), st.integers(0, 3), CAPS)
@settings(deadline=None, max_examples=50)
def test_reductions_of_every_type(rows: int, a: int, b: int, gap: int, cap: str) -> None:
    pitch = a * b + gap  # without a gap the two reduced loops are one
    x, n = normal(rows, pitch), np.random.default_rng(1).integers(-99, 99, rows * pitch).astype(np.int32)
    floats, whole, logical = (np.zeros(rows, kind) for kind in (np.float32, np.int32, np.bool_))
    verify("statistics", [x, n, *[floats] * 4, *[whole] * 4, *[logical] * 2], [rows, a, b, pitch], cap, atol=1e-5)


def test_nan_and_infinities_pass_reductions() -> None:
    x = normal(2, 35)
    x[3], x[40] = math.nan, math.inf
    n = np.zeros(70, np.int32)
    out = [np.zeros(2, numpy_type(one)) for one in ("f32",) * 4 + ("i32",) * 4 + ("bool",) * 2]
    verify("statistics", [x, n, *out], [2, 5, 7, 35])


def test_long_sums_do_not_drift() -> None:
    x = np.full(4_000_000, 0.1, np.float32)
    f = Fused((), Param(0))
    total = f.node("sum", f.load((1,)))
    f.sweep([total])
    f.sweep(stores=[f.store(total, (0,))])
    got = run(f.program(1), [x, np.zeros(1, np.float32)], [len(x)])[1][0]
    # One accumulator would be off by a hundredth; 16 lanes round another way than 8.
    assert abs(float(got) / x.sum(dtype=np.float64) - 1) < (3e-6 if host_isa().lanes <= 8 else 4e-6)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i64", "i16", "i8", "u8"])
def test_rows_of_other_types(dtype: str) -> None:
    for length in (1, 5, 8, 31, 100):
        f = Fused((3,), length)
        x = f.load((length, 1), dtype)
        top, total = f.node("max", x), f.node("sum", x)
        f.sweep([top, total], keeps=[x])
        f.sweep(stores=[f.store(f.node("sub", x, top), (length, 1)), f.store(total, (1, 0))])
        kind = numpy_type(dtype)
        data = np.random.default_rng(0).integers(0 if dtype == "u8" else -9, 9, 3 * length).astype(kind)
        check(f.program(), [data, np.zeros_like(data), np.zeros(3, kind)], atol=1e-3)


def padded(size: int, low: int, high: int) -> Program:
    """[rows, size] padded with 7 to [rows, low + size + high], and the sum of each padded row."""
    f = Fused((Param(0),), low + size + high)
    x = f.load((size, 1), offset=-low, window=((1, low, low + size),), outside=7.0)
    total = f.node("sum", x)
    f.sweep([total], [f.store(x, (low + size + high, 1))])
    f.sweep(stores=[f.store(total, (1, 0))])
    return f.program(1)


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bool", "i64", "u8"])
@pytest.mark.parametrize("cap", ["avx512", "avx2", "baseline"])
def test_rows_that_fit_into_registers(dtype: str, cap: str) -> None:
    """Lengths on both sides of one vector, and of two; a row that is kept, and a maximum with NaN in it."""
    f = Fused((3,), Param(0))
    x = f.load((Param(0), 1), dtype)
    top = f.node("any" if dtype == "bool" else "max", x)
    f.sweep([top], keeps=[x])
    f.sweep(stores=[f.store(f.node("eq", x, top, dtype="bool"), (Param(0), 1)), f.store(top, (1, 0))])
    isa, kind = host_isa(cap), numpy_type(dtype)
    kernels, lanes = Compiled([f.program(1)], isa), isa.lanes
    for length in (1, lanes - 1, lanes, lanes + 1, 2 * lanes - 1, 2 * lanes, 2 * lanes + 1):
        data = np.random.default_rng(length).integers(0, 2 if dtype == "bool" else 9, 3 * length).astype(kind)
        if dtype in ("f32", "f64", "f16"):
            data[length - 1] = math.nan
        kernels.check(0, f.program(1), [data, np.zeros(3 * length, np.bool_), np.zeros(3, kind)], [length])


@pytest.mark.parametrize("cap", ["avx2", "baseline"])
def test_pads(cap: str) -> None:
    cases = [(5, 0, 0), (5, 3, 0), (17, 9, 20), (40, 0, 3), (0, 4, 4), (33, 31, 1)]
    programs = [padded(*case) for case in cases]
    kernels = Compiled(programs, host_isa(cap))
    for i, (size, low, high) in enumerate(cases):
        x = normal(3, size)
        kernels.check(i, programs[i], [x, np.zeros(3 * (low + size + high), np.float32), np.zeros(3, np.float32)], [3])


@pytest.mark.parametrize("dtype", ["f32", "bool", "f16", "f64"])
def test_concatenation_along_either_loop(dtype: str) -> None:
    rows, first, second = 5, 11, 6
    kind = numpy_type(dtype)
    parts = [np.round(normal(rows, n, seed=n)) for n in (first, second)]
    a, b = (one.astype(kind) for one in parts)
    f = Fused((rows,), first + second)
    left = f.load((first, 1), dtype, window=((1, 0, first),))
    right = f.load((second, 1), dtype, offset=-first, window=((1, first, first + second),))
    at = f.node("index", value=1, dtype="i64")
    one = f.node("where", f.node("lt", at, f.const(first, "i64"), dtype="bool"), left, right)
    f.sweep(stores=[f.store(one, (first + second, 1))])
    check(f.program(), [a, b, np.zeros(rows * (first + second), kind)])
    f = Fused((rows + 2,), first)
    upper = f.load((first, 1), dtype, window=((0, 0, rows),))
    lower = f.load((0, 1), dtype, argument=0, window=((0, rows, rows + 2),))
    choose = f.node("lt", f.node("index", value=0, dtype="i64"), f.const(rows, "i64"), dtype="bool")
    f.sweep(stores=[f.store(f.node("where", choose, upper, lower), (first, 1))])
    check(f.program(), [a, np.zeros((rows + 2) * first, kind)])


@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("strides", [(0, 1), (1, 0), (0, 0), (1, 1)])
def test_rows_that_do_not_exist_are_not_read_at_strides_of_run_time(strides: tuple[int, int], dtype: str) -> None:
    """[rows + 2, 21], 7 in the first row and the last, from two operands whose rows may repeat one element."""
    f = Fused((5,), 21)
    both = [f.load((21, Param(i)), dtype, offset=-21, window=((0, 1, 4),), outside=7) for i in (0, 1)]
    f.sweep(stores=[f.store(f.node("add", *both), (21, 1))])
    kind = numpy_type(dtype)
    lengths = [43 if stride == 0 else 63 for stride in strides]
    operands = [(np.arange(length) % 50 * (i + 1)).astype(kind) for i, length in enumerate(lengths)]
    check(f.program(2), [*operands, np.zeros(105, kind)], list(strides))


def test_stores_in_a_window_leave_the_rest_alone() -> None:
    f = Fused((4,), 21)
    x = f.load((21, 1))
    f.sweep(stores=[f.store(x, (21, 1), window=((0, 1, 3), (1, 2, 19)))])
    check(f.program(), [normal(4, 21), np.full(84, 5, np.float32)])
    f = Fused((4,), 21)
    f.sweep(stores=[f.store(f.load((21, 1), "i8"), (21, 1), window=((1, 2, 19),))])
    check(f.program(), [np.arange(84, dtype=np.int8), np.zeros(84, np.int8)])


def embedding() -> Program:
    """Rows of a table picked by ids, plus a position, and their largest element."""
    f = Fused((Param(0),), 13)
    ids = f.load((1, 0), "i64")
    table = f.load((0, 1), indirect=(Indirect(ids, 13, Param(1)),))
    x = f.node("add", table, f.load((13, 1)))
    top = f.node("max", x)
    f.sweep([top], [f.store(x, (13, 1))])
    f.sweep(stores=[f.store(top, (1, 0))])
    return f.program(2, faults=True)


def test_embedding_and_its_faults() -> None:
    program = embedding()
    kernels = Compiled([program])
    table, add = normal(6, 13), normal(4, 13, seed=1)
    for ids, fault in (([0, 5, -1, -6], 0), ([0, 6, 1, 2], 1), ([-7, 0, 1, 2], 1), ([2**40, -(2**40), 0, 0], 1)):
        buffers = [np.array(ids), table, add, np.zeros(52, np.float32), np.zeros(4, np.float32), np.zeros(1, np.int64)]
        got, want = kernels.run(0, buffers, [4, 6]), reference(program, buffers, [4, 6])
        np.testing.assert_allclose(got[3], want[3], rtol=1e-6)
        np.testing.assert_allclose(got[4], want[4], rtol=1e-6)
        assert got[5][0] == fault


def test_gathers_along_the_row_and_from_nothing() -> None:
    f = Fused((3,), 19)
    ids = f.load((19, 1), "i32")
    x = f.load((Param(0), 0), indirect=(Indirect(ids, 1, Param(0)),), outside=-3.0)
    f.sweep(stores=[f.store(x, (19, 1))])
    program = f.program(1, faults=True)
    kernels = Compiled([program])
    ids = np.random.default_rng(0).integers(-8, 8, 57).astype(np.int32)
    buffers = [ids, normal(3, 8), np.zeros(57, np.float32), np.zeros(1, np.int64)]
    got, want = kernels.run(0, buffers, [8]), reference(program, buffers, [8])
    np.testing.assert_array_equal(got[2], want[2])
    assert got[3][0] == 0
    ids[30] = 8
    assert kernels.run(0, [ids, *buffers[1:]], [8])[3][0] == 1
    nothing = kernels.run(0, [ids, np.zeros(0, np.float32), *buffers[2:]], [0])
    assert (nothing[2] == -3).all() and nothing[3][0] == 1


def test_in_place() -> None:
    for length in (7, 100):
        access = Access(0, (length, 1))
        nodes = (Node("load", access=access), Node("exp", (0,)), Node("sum", (1,)), Node("div", (1, 2)))
        passes = (Pass((2,), keeps=(1,)), Pass(stores=(Store(3, access),)))
        program = Program((Argument("f32", True),), (4,), length, nodes, passes)
        program.check()
        x = normal(4, length)
        want = np.exp(x.reshape(4, length).astype(np.float64))
        np.testing.assert_allclose(run(program, [x])[0], (want / want.sum(1, keepdims=True)).ravel(), rtol=1e-6)


def test_division_by_one_number_of_the_row_at_the_ends_of_the_range() -> None:
    y = np.array([1e-45, 1e-40, 3e38, -2e-39, 0, math.inf, math.nan, 7], np.float32)
    x = np.tile(np.array([0, 1e-38, 1, -3e38, 1e-45, math.inf, math.nan, 5, 2], np.float32), len(y))
    f = Fused((len(y),), 9)
    f.sweep(stores=[f.store(f.node("div", f.load((9, 1)), f.load((1, 0))), (9, 1))])
    with np.errstate(all="ignore"):
        want = x / np.repeat(y, 9)
    np.testing.assert_allclose(run(f.program(), [x, y, np.zeros_like(x)])[2], want, rtol=4e-7, atol=3e-45)


def test_whole_numbers_are_decided_by_exact_quotients() -> None:
    x = np.arange(41 * 60, dtype=np.float32)
    f = Fused((41,), 60)
    f.sweep(stores=[f.store(f.node("div", f.load((60, 1)), f.const(41.0)), (60, 1))])
    np.testing.assert_array_equal(run(f.program(), [x, np.zeros_like(x)])[1], x / np.float32(41))
    y = np.arange(1, 42, dtype=np.float32)
    f = Fused((41,), 60)
    f.sweep(stores=[f.store(f.node("floor", f.node("div", f.load((60, 1)), f.load((1, 0)))), (60, 1))])
    multiples = (y[:, None] * np.arange(60, dtype=np.float32)).ravel()
    got = run(f.program(), [multiples, y, np.zeros_like(x)])[2]
    np.testing.assert_array_equal(got.reshape(41, 60), np.tile(np.arange(60, dtype=np.float32), (41, 1)))


def test_equal_programs_are_one_function_and_sizes_may_be_symbols() -> None:
    module = new_module("test_twice")
    first, second = (row.emit(module, host_isa(), softmax()) for _ in range(2))
    assert first.name == second.name and len([f for f in module.functions if f.name == first.name]) == 1
    b, s = dims("B", "S")
    params: Any = [b, s, s * s * 3, s * s]
    units, scratch = Dim.of(first.units(params)), Dim.of(first.scratch_bytes(params))
    assert units.at({"B": 2, "S": 7}) == first.units([2, 7, 147, 49]) == 6
    for size in (0, 1, 31, 37):
        assert scratch.at({"B": 2, "S": size}) == first.scratch_bytes([2, size, 0, 0])


def test_a_reduction_that_is_stored_too_early_is_refused() -> None:
    f = Fused((2,), 8)
    total = f.node("sum", f.load((8, 1)))
    f.passes.append(Pass((total,), (f.store(total, (1, 0)),)))
    with pytest.raises(UsageError, match="pass 0 stores node 1, which pass 1 knows"):
        f.program()


def inner_loops(text: str) -> list[str]:
    """Blocks of assembly that jump to their own label."""
    blocks = re.split(r"^(?=\.LBB\d+_\d+:)", text, flags=re.MULTILINE)
    found: list[str] = []
    for block in blocks:
        label = block.split(":", 1)[0]
        if re.search(rf"\bj\w+\s+{re.escape(label)}\b", block):
            found.append(block)
    return found


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"strided"}))
def test_inner_loops_are_the_widest_vectors_without_calls(name: str) -> None:
    for cap, register in (("avx2", "%ymm"), ("baseline", "%xmm")):
        isa = host_isa(cap)
        module = new_module("test_assembly")
        row.emit(module, isa, TEMPLATES[name]())
        text = assembly(module, isa)
        loops = [one for one in inner_loops(text) if register in one]
        assert loops, cap
        assert not any("call" in one for one in loops)
        arithmetic = re.compile(rf"(?:fn?m|add|mul|max|min|sub)\w*p[sd]\b[^\n]*{register}")
        assert sum(len(arithmetic.findall(one)) for one in loops) >= len(loops), cap


def test_wide_registers_for_a_wide_processor() -> None:
    import llvmlite.binding as llvm

    host = host_isa()  # loads LLVM
    wide = Isa("avx512", 16, 32, host.features + ",+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd")
    for name, make in TEMPLATES.items():
        module = new_module("test_wide")
        row.emit(module, wide, make())
        parsed = llvm.parse_assembly(str(module))
        machine = llvm.Target.from_default_triple().create_target_machine(cpu="znver4", opt=3)
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(parsed, passes)
        loops = [one for one in inner_loops(machine.emit_assembly(parsed)) if "%zmm" in one]
        assert loops and not any("call" in one for one in loops), name

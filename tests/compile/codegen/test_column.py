"""Reductions over outer loops and transposed operands, on any sizes, against numpy in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.compile.codegen import row, tiled
from mlsysopt.compile.codegen.objects import assembly
from mlsysopt.compile.codegen.program import Param, Program
from mlsysopt.compile.codegen.target import Isa, host_isa, new_module
from tests.compile.codegen.fused import Array, Compiled, Fused, check, numpy_type, run


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=math.prod(shape)).astype(np.float32)


def column_softmax() -> Program:
    """Softmax over the middle of [outer, reduced, inner], and its largest element."""
    f = Fused((Param(0),), Param(2), reduced=(Param(1),), schedule="column")
    strides = (Param(3), Param(2), 1)
    x = f.node("mul", f.load(strides), f.load((0, 0, 1)))
    top = f.node("max", x)
    f.sweep([top], keeps=[x])
    e = f.node("exp", f.node("sub", x, top))
    total = f.node("sum", e)
    f.sweep([total], [f.store(top, (Param(2), 0, 1))], keeps=[e])
    f.sweep(stores=[f.store(f.node("div", e, total), strides)])
    return f.program(4)


def column_means() -> Program:
    """Weighted mean over two outer loops, with a weight that varies along the reduced loops only."""
    f = Fused((), Param(2), reduced=(Param(0), Param(1)), schedule="column")
    x, weight = f.load((Param(3), Param(2), 1)), f.load((Param(1), 1, 0))
    total, weights = f.node("sum", f.node("mul", x, weight)), f.node("sum", weight)
    above = f.node("any", f.node("gt", x, f.const(2.0), dtype="bool"))
    f.sweep([total, weights, above])
    f.sweep(stores=[f.store(f.node("div", total, weights), (0, 0, 1)), f.store(above, (0, 0, 1))])
    return f.program(4)


def transposition() -> Program:
    """y[o, t, j] = x[o, j, t] + b[j] * c[t]"""
    f = Fused((Param(0), Param(1)), Param(2))
    x = f.load((Param(3), 1, Param(1)))
    scaled = f.node("mul", f.load((0, 0, 1)), f.load((0, 1, 0)))
    f.sweep(stores=[f.store(f.node("add", x, scaled), (Param(3), Param(2), 1))])
    return f.program(4)


TEMPLATES = (column_softmax, column_means, transposition)


@cache
def compiled(cap: str) -> tuple[list[Program], Compiled]:
    programs = [make() for make in TEMPLATES]
    return programs, Compiled(programs, host_isa(cap))


def verify(which: int, buffers: list[Array], params: list[int], cap: str) -> None:
    programs, kernels = compiled(cap)
    kernels.check(which, programs[which], buffers, params, atol=1e-5)


CAPS = st.sampled_from(["avx2", "avx512", "baseline"])


@given(st.integers(0, 3), st.integers(0, 9), st.integers(0, 75), st.integers(0, 4), CAPS)
@settings(deadline=None, max_examples=60)
def test_column_softmax(outer: int, reduced: int, inner: int, gap: int, cap: str) -> None:
    pitch = reduced * inner + gap
    x = normal(outer, pitch)
    if x.size > 5:
        x[5] = -math.inf
    top = np.zeros(outer * inner, np.float32)
    verify(0, [x, np.abs(normal(inner, seed=1)), top, np.zeros_like(x)], [outer, reduced, inner, pitch], cap)


@given(st.integers(0, 3), st.one_of(st.integers(0, 5), st.just(700)), st.integers(0, 70), CAPS)
@settings(deadline=None, max_examples=50)
def test_column_means(first: int, second: int, inner: int, cap: str) -> None:
    x, weight = normal(first, second, inner), np.random.default_rng(1).random(first * second).astype(np.float32) + 1
    buffers = [x, weight, np.zeros(inner, np.float32), np.zeros(inner, np.bool_)]
    verify(1, buffers, [first, second, inner, second * inner], cap)


@pytest.mark.parametrize("dtype", ["f64", "f16", "i64", "u8"])
def test_columns_of_other_types(dtype: str) -> None:
    f = Fused((2,), 37, reduced=(5,), schedule="column")
    x = f.load((185, 37, 1), dtype)
    found = [f.node(op, x) for op in ("sum", "max", "min")]
    f.sweep(found)
    f.sweep(stores=[f.store(one, (37, 0, 1)) for one in found])
    kind = numpy_type(dtype)
    data = np.random.default_rng(0).integers(0, 40, 370).astype(kind)
    check(f.program(), [data, *[np.zeros(74, kind)] * 3])


def test_long_columns_do_not_drift() -> None:
    f = Fused((), 3, reduced=(Param(0),), schedule="column")
    total = f.node("sum", f.load((3, 1)))
    f.sweep([total])
    f.sweep(stores=[f.store(total, (0, 1))])
    got = run(f.program(1), [np.full(900_000, 0.1, np.float32), np.zeros(3, np.float32)], [300_000])[1]
    np.testing.assert_allclose(got, 300_000 * np.float64(np.float32(0.1)), rtol=2e-5)


@given(st.integers(0, 2), st.integers(0, 50), st.integers(0, 50), CAPS)
@settings(deadline=None, max_examples=60)
def test_transposition(outer: int, t: int, j: int, cap: str) -> None:
    x = normal(outer, t, j)
    buffers = [x, normal(j, seed=1), normal(t, seed=2), np.zeros_like(x)]
    verify(2, buffers, [outer, t, j, t * j], cap)


def test_transposed_tiles_move_bits_of_integers() -> None:
    f = Fused((33,), 50)
    f.sweep(stores=[f.store(f.load((1, 33), "i32"), (50, 1))])
    program = f.program()
    assert tiled.fits(program)
    check(program, [np.arange(33 * 50, dtype=np.int32) * 1_000_003, np.zeros(33 * 50, np.int32)])


def test_a_transposed_operand_is_not_read_where_it_does_not_exist() -> None:
    """y[o, t, j] = x[o - 1, j, t], 7 where there is no such o, plus z[o, j, t]."""
    f = Fused((4, 33), 50)
    x = f.load((1650, 1, 33), offset=-1650, window=((0, 1, 3),), outside=7.0)
    f.sweep(stores=[f.store(f.node("add", x, f.load((1650, 1, 33))), (1650, 50, 1))])
    program = f.program()
    assert tiled.fits(program)
    check(program, [normal(2, 1650), normal(4, 1650, seed=1), np.zeros(4 * 1650, np.float32)])


def test_what_is_no_transposition_is_not_tiled() -> None:
    plain, short = Fused((Param(0),), 64), Fused((Param(0),), 5)
    plain.sweep(stores=[plain.store(plain.load((64, 1)), (64, 1))])
    short.sweep(stores=[short.store(short.load((1, Param(0))), (5, 1))])
    assert not tiled.fits(plain.program(1)) and not tiled.fits(short.program(1))


@pytest.mark.parametrize("make", TEMPLATES)
def test_inner_loops_are_vectors_without_calls(make: Callable[[], Program]) -> None:
    isa = host_isa("avx2")
    module = new_module("test_assembly")
    row.emit(module, isa, make())
    text = assembly(module, isa)
    assert "%ymm" in text and "call" not in text


@pytest.mark.parametrize("make", TEMPLATES)
def test_wide_registers_for_a_wide_processor(make: Callable[[], Program]) -> None:
    import llvmlite.binding as llvm

    host = host_isa()  # loads LLVM
    wide = Isa("avx512", 16, 32, host.features + ",+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd")
    module = new_module("test_wide")
    row.emit(module, wide, make())
    parsed = llvm.parse_assembly(str(module))
    machine = llvm.Target.from_default_triple().create_target_machine(cpu="znver4", opt=3)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(parsed, passes)
    text = machine.emit_assembly(parsed)
    assert "%zmm" in text and "call" not in text

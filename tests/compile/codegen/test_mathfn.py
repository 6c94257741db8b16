"""Functions of vectors against numpy in extended precision, over dense samples and every special value."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from llvmlite import ir
from scipy import special

from mlsysopt.compile.codegen import mathfn
from mlsysopt.compile.codegen.kernel import begin_kernel, entry
from mlsysopt.compile.codegen.loops import address, i64, loop
from mlsysopt.compile.codegen.objects import assembly
from mlsysopt.compile.codegen.target import host_isa, new_module
from mlsysopt.compile.codegen.workshop import build
from mlsysopt.core.errors import UsageError

Long = np.longdouble
Floats: TypeAlias = np.ndarray[Any, Any]


def stable_sigmoid(x: Floats) -> Floats:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


REFERENCE: dict[str, Callable[[Floats], Floats]] = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "sigmoid": stable_sigmoid,
    "erf": lambda x: special.erf(x.astype(np.float64)), "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x, "sin": np.sin, "cos": np.cos, "tan": np.tan, "floor": np.floor, "ceil": np.ceil,
    "round": np.rint, "sign": np.sign, "abs": np.abs, "neg": np.negative, "relu": lambda x: np.maximum(x, 0),
}  # fmt: skip
EXACT = ("sqrt", "reciprocal", "floor", "ceil", "round", "sign", "abs", "neg", "relu")


def kernel_text(op: str, double: bool, lanes: int, cap: str) -> ir.Module:
    """A kernel that applies a function to units of one vector: out[i] = f(x[i], y[i])."""
    module, isa = new_module(f"test_{op}"), host_isa(cap)
    kernel = begin_kernel(module, "apply")
    b, element = kernel.ir, ir.DoubleType() if double else ir.FloatType()
    kind = ir.VectorType(element, lanes) if lanes > 1 else element
    x, y, out = (kernel.buffer(i) for i in range(3))
    with loop(b, kernel.begin, kernel.end) as turn:
        at = b.mul(turn.index, i64(lanes))
        first, second = (b.load(address(b, one, at, element), typ=kind, align=4) for one in (x, y))
        value = mathfn.emit(b, module, op, first, isa, second if op == "pow" else None)
        b.store(value, address(b, out, at, element), align=4)
    b.ret_void()
    return module


def apply(op: str, x: Floats, y: Floats | None = None, *, lanes: int = 8, cap: str = "avx2") -> Floats:
    library = build(kernel_text(op, x.dtype == np.float64, lanes, cap), host_isa(cap), cached=False)
    x = np.ascontiguousarray(x[: len(x) // lanes * lanes])
    y = x if y is None else np.ascontiguousarray(y[: len(x)])
    out = np.empty_like(x)
    entry(library.address("apply"))([x.ctypes.data, y.ctypes.data, out.ctypes.data], [], 0, len(x) // lanes, 0)
    return out


def samples(kind: type[Any], seed: int = 0) -> Floats:
    """Bit patterns of all sizes, numbers of ordinary size, and what is special; a multiple of 16."""
    rng = np.random.default_rng(seed)
    whole = np.dtype(f"i{np.dtype(kind).itemsize}")
    bits = rng.integers(np.iinfo(whole).min, np.iinfo(whole).max, 40_000, dtype=whole, endpoint=True).view(kind)
    ordinary = np.concatenate([rng.normal(size=20_000), rng.uniform(-110, 110, 20_000), rng.normal(size=4_000) * 1e-3])
    tiny = np.finfo(kind).smallest_subnormal
    edges = [0.0, -0.0, math.inf, -math.inf, math.nan, 1, -1, tiny, -tiny, 1e-40, 88.72, 88.73, 89, -87.4, -103.97]
    edges += [-104, -105, 0.5, 1.5, 2.5, -0.5, -1.5, 709.78, 709.79, -745.1, -746, 3e38]
    every = np.concatenate([bits, ordinary.astype(kind), np.array(edges * 3, np.float64).astype(kind)])
    return every[len(every) % 16 :]


def units(got: Floats, want: Floats) -> Floats:
    """Distance in units of the last place; 0 where both are the same infinity or both NaN."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        distance = np.abs(got.astype(Long) - want) / np.spacing(np.minimum(np.abs(rounded), np.finfo(got.dtype).max))
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(same, 0, np.where(np.isnan(distance), np.inf, distance))


@pytest.mark.parametrize("cap", ["avx2", "baseline"])
@pytest.mark.parametrize("op", sorted(REFERENCE))
def test_f32_is_within_four_units(op: str, cap: str) -> None:
    x = samples(np.float32)
    with np.errstate(all="ignore"):
        want = np.asarray(REFERENCE[op](x.astype(Long)), Long)
    worst = float(units(apply(op, x, cap=cap), want).max())
    assert worst <= (0.5 if op in EXACT else 4), f"{op}: {worst} units in the last place"


@pytest.mark.parametrize("op", sorted(set(REFERENCE) - {"erf", "sin", "cos", "tan"}))
def test_f64_is_within_four_units(op: str) -> None:
    x = samples(np.float64)
    with np.errstate(all="ignore"):
        want = np.asarray(REFERENCE[op](x.astype(Long)), Long)
    worst = float(units(apply(op, x, lanes=4), want).max())
    assert worst <= (0.6 if op in EXACT else 4), f"{op}: {worst} units in the last place"


@pytest.mark.parametrize("op", ["erf", "sin", "cos", "tan"])
def test_f64_where_extended_precision_does_not_help(op: str) -> None:
    # scipy's erf is f64, and the extended sine reduces large arguments no better than the double one.
    x = samples(np.float64)
    with np.errstate(all="ignore"):
        want = REFERENCE[op](x)
    np.testing.assert_allclose(apply(op, x, lanes=4), want, rtol=2e-15, atol=0)


def test_angles_of_any_size_against_exact_arithmetic() -> None:
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(3)
    x = np.concatenate([10.0 ** rng.uniform(-300, 308, 120), rng.integers(1, 10**6, 120) * (math.pi / 2)])
    with mpmath.workprec(1400):
        for op in ("sin", "cos", "tan"):
            want = np.array([float(getattr(mpmath, op)(mpmath.mpf(float(one)))) for one in x])
            np.testing.assert_allclose(apply(op, x, lanes=4), want, rtol=1e-15, atol=0)


def test_gelu_keeps_its_relative_precision_in_the_tail() -> None:
    x = np.linspace(-13.1, 13.1, 80_000, dtype=np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(apply("gelu", x), wide * special.ndtr(wide), rtol=1e-6, atol=0)
    for kind in (np.float32, np.float64):
        ends = np.array([math.inf, math.nan, -40, -1e30, 1e30, np.finfo(kind).max, 0, -0.0], kind)
        wanted = np.array([math.inf, math.nan, 0, 0, 1e30, np.finfo(kind).max, 0, 0], kind)
        np.testing.assert_array_equal(apply("gelu", ends), wanted)
    wide = np.linspace(-37, 37, 40_000)
    np.testing.assert_allclose(apply("gelu", wide, lanes=4), wide * special.ndtr(wide), rtol=5e-13, atol=0)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("op", ["gelu_tanh", "silu"])
def test_activations(op: str, kind: type[Any]) -> None:
    x = np.linspace(-9, 60, 64_000).astype(kind)
    wide = x.astype(Long)
    inner = wide if op == "silu" else 2 * np.sqrt(2 / Long(math.pi)) * (wide + Long(0.044715) * wide**3)
    want = (wide * stable_sigmoid(inner)).astype(np.float64)
    np.testing.assert_allclose(apply(op, x), want, rtol=1.5e-5 if kind is np.float32 else 4e-14, atol=0)
    assert math.isnan(float(apply(op, np.full(16, math.nan, kind))[0]))


@pytest.mark.parametrize("cap", ["avx2", "baseline"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("op", ["gelu", "gelu_tanh", "silu"])
def test_activations_multiply_infinity_by_their_limit(op: str, kind: type[Any], cap: str) -> None:
    x = np.repeat(np.array([-math.inf, math.inf], kind), 8)
    np.testing.assert_array_equal(apply(op, x, cap=cap), np.repeat(np.array([math.nan, math.inf], kind), 8))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_pow(kind: type[Any]) -> None:
    rng = np.random.default_rng(1)
    special_values = [0.0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, math.inf, -math.inf, math.nan, 1e30, 1e-30]
    x, y = (one.ravel() for one in np.meshgrid(special_values, special_values))
    x = np.concatenate([x, rng.uniform(0, 20, 5_000), rng.uniform(-9, 9, 5_000)]).astype(kind)
    y = np.concatenate([y, rng.uniform(-20, 20, 5_000), rng.integers(-9, 9, 5_000)]).astype(kind)
    x, y = x[len(x) % 16 :], y[len(y) % 16 :]
    with np.errstate(all="ignore"):
        want = np.power(x.astype(Long), y.astype(Long)).astype(kind)
    np.testing.assert_allclose(apply("pow", x, y), want, rtol=2e-7 if kind is np.float32 else 1e-13, atol=0)


@pytest.mark.parametrize("lanes", [1, 2, 4, 16])
@pytest.mark.parametrize("op", ["exp", "erf", "tanh", "log", "gelu", "sin"])
def test_every_width_gives_the_same_bits(op: str, lanes: int) -> None:
    x = samples(np.float32, seed=2)[:4096]
    np.testing.assert_array_equal(apply(op, x, lanes=lanes), apply(op, x, lanes=8))


@pytest.mark.parametrize("cap", ["avx2", "baseline"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("op", sorted(mathfn.FUNCTIONS))
def test_object_code_needs_no_library(op: str, double: bool, cap: str, tmp_path: Any) -> None:
    module = kernel_text(op, double, 8, cap)
    place = tmp_path / "f.o"
    place.write_bytes(build(module, host_isa(cap), cached=False).objects[0])
    listed = subprocess.run(["nm", "--undefined-only", str(place)], capture_output=True, text=True, check=True).stdout
    assert [line for line in listed.splitlines() if "_GLOBAL_OFFSET_TABLE_" not in line] == []


def test_short_functions_are_vectors_without_calls() -> None:
    for op in ("exp", "erf", "tanh", "sigmoid", "gelu", "silu", "log"):
        text = assembly(kernel_text(op, False, 8, "avx2"), host_isa("avx2"))
        body = text[text.index("apply:") :]
        assert body.count("vfmadd") >= 4 and "%ymm" in body and "call" not in body, op


def test_an_unknown_function_names_its_neighbours() -> None:
    module = new_module("test_unknown")
    kernel = begin_kernel(module, "apply")
    with pytest.raises(UsageError, match="unknown function 'tahn'"):
        mathfn.emit(kernel.ir, module, "tahn", ir.Constant(ir.FloatType(), 1.0), host_isa())

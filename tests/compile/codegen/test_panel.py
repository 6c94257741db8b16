"""The panel product against numpy: every size, stride, epilogue and weight type, and what its code looks like."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import erf

from mlsysopt.compile.codegen import microkernel, objects, panel, target, workshop
from mlsysopt.compile.codegen.kernel import Kernel, entry
from mlsysopt.compile.codegen.pack import pack, unpack
from mlsysopt.compile.codegen.panel import Gemm
from mlsysopt.core.errors import UsageError
from mlsysopt.graph.symbolic import dims
from tests.compile.codegen.asm import functions, spills, uses

PLAIN = Gemm()
ALL = Gemm(bias=True, activation="relu", residual=True, alpha=True)
UNPACKED = Gemm(packed=False, bias=True)
ACTIVATIONS = [
    Gemm(bias=True, activation=name, residual=True) for name in ("gelu", "gelu_tanh", "silu", "tanh", "sigmoid")
]
NARROW = [Gemm("bf16", bias=True), Gemm("int8", bias=True, activation="relu")]
FUNCTIONS = {
    "": lambda x: x,
    "relu": lambda x: np.where(x < 0, 0, x),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@dataclass
class Built:
    isa: target.Isa
    library: objects.Library
    kernels: dict[str, Kernel]


@pytest.fixture(scope="module", params=sorted({target.host_isa(cap).name for cap in target.ISAS}))
def built(request: pytest.FixtureRequest) -> Built:
    isa = target.host_isa(request.param)
    module = target.new_module("panel")
    specs = [PLAIN, ALL, UNPACKED, *ACTIVATIONS, *NARROW]
    kernels = {spec.name: panel.gemm(module, isa, spec) for spec in specs}
    return Built(isa, workshop.build(module, isa, cached=False), kernels)


@dataclass
class Product:
    """One product: operands, what it should be, and how to run it."""

    built: Built
    spec: Gemm
    m: int
    n: int
    k: int
    seed: int = 0
    spacing: int = 3

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, self.m, self.n, self.k])
        normal = rng.standard_normal
        self.x = normal((self.m, self.k + self.spacing), np.float32)
        self.x[:, self.k :] = np.nan
        weights = normal((self.n, self.k), np.float32)
        self.bias = normal(self.n, np.float32)
        self.residual = normal((self.m, self.n + 1), np.float32)
        self.alpha = np.array([0.5], np.float32)
        if self.spec.packed:
            self.weights, self.scales = pack(weights, self.built.isa, self.spec.weights)
            self.used = unpack(self.weights, self.n, self.scales)
        else:
            self.used, self.scales = weights, None
            self.weights = np.full((self.k, self.n + 2), np.nan, np.float32)
            self.weights[:, : self.n] = weights.T

    @property
    def params(self) -> list[int]:
        return [self.m, self.n, self.k, self.k + self.spacing, self.n + 2, self.n + 1, self.n + 2]

    @property
    def kernel(self) -> Kernel:
        return self.built.kernels[self.spec.name]

    def run(self, cuts: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        y = np.full((self.m, self.n + 2), np.nan, np.float32)
        scratch = np.full(self.kernel.scratch_bytes(self.params) // 4 + 16, np.nan, np.float32)
        given = [self.x, self.weights, self.scales, self.bias, self.residual, y, self.alpha]
        buffers = [0 if one is None else one.ctypes.data for one in given]
        call = entry(self.built.library.address(self.spec.name))
        units = self.kernel.units(self.params)
        edges = [0, units] if cuts is None else sorted({0, units, *cuts})
        for begin, end in itertools.pairwise(edges):
            call(buffers, self.params, begin, end, scratch.ctypes.data + -scratch.ctypes.data % 64)
        assert np.isnan(y[:, self.n :]).all()
        return y[:, : self.n]

    def reference(self) -> npt.NDArray[Any]:
        x = self.x[:, : self.k].astype(float)
        if self.built.isa.bf16 and self.spec.weights == "bf16" and self.m > microkernel.panel_shape(self.built.isa).mr:
            # Pairs of bf16 are multiplied at once; the last of an odd number is not.
            whole = self.k // 2 * 2
            x[:, :whole] = x[:, :whole].astype(ml_dtypes.bfloat16).astype(float)
        y = x @ self.used.astype(float).T
        y = y * 0.5 if self.spec.alpha else y
        y = y + self.bias if self.spec.bias else y
        y = FUNCTIONS[self.spec.activation](y)
        return y + self.residual[:, : self.n] if self.spec.residual else y


def _close(product: Product, factor: float = 1.0) -> None:
    # Random signs: errors of k additions grow like the root of k.
    limit = factor * 1e-6 * (4 + math.sqrt(product.k))
    np.testing.assert_allclose(product.run(), product.reference(), rtol=limit, atol=limit)


@pytest.mark.parametrize("spec", [PLAIN, ALL, UNPACKED], ids=lambda spec: spec.name)
@pytest.mark.parametrize("m", [0, 1, 2, 3, 5, 6, 7, 13, 145])
@pytest.mark.parametrize(("n", "k"), [(0, 5), (1, 1), (7, 64), (16, 3), (50, 65), (200, 0), (97, 257)])
def test_every_size(built: Built, spec: Gemm, m: int, n: int, k: int) -> None:
    _close(Product(built, spec, m, n, k))


@pytest.mark.parametrize("spec", [ALL, UNPACKED], ids=lambda spec: spec.name)
@pytest.mark.parametrize("m", [1, 6, 36, 37, 300])
def test_deep_panels_go_in_slices(built: Built, spec: Gemm, m: int) -> None:
    _close(Product(built, spec, m, 40, panel.DEEP + 77))


@pytest.mark.parametrize("spec", [*ACTIVATIONS, *NARROW], ids=lambda spec: spec.name)
@pytest.mark.parametrize("m", [1, 4, 9])
@pytest.mark.parametrize("n", [16, 37])
def test_epilogues_and_narrow_weights(built: Built, spec: Gemm, m: int, n: int) -> None:
    _close(Product(built, spec, m, n, 70), factor=4)


@pytest.mark.parametrize("spec", [PLAIN, UNPACKED, NARROW[1]], ids=lambda spec: spec.name)
@pytest.mark.parametrize(("m", "k"), [(1, 300), (3, 40), (8, 100), (150, 64), (300, 2100)])
def test_bits_do_not_depend_on_the_range(built: Built, spec: Gemm, m: int, k: int) -> None:
    product = Product(built, spec, m, 150, k)
    once = product.run()
    rng = np.random.default_rng(m)
    units = product.kernel.units(product.params)
    for _ in range(3):
        assert product.run(rng.integers(0, units + 1, 4).tolist()).tobytes() == once.tobytes()
    assert product.run(range(units)).tobytes() == once.tobytes()


def test_infinity_and_nan_go_where_numpy_lets_them(built: Built) -> None:
    product = Product(built, PLAIN, 9, 21, 30)
    product.x[2, 4], product.x[5, 7] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected = product.reference()
    given = product.run()
    assert (np.isnan(given) == np.isnan(expected)).all()
    assert (given[2] == expected[2].astype(np.float32)).all()
    assert np.isfinite(given[[0, 1, 3, 4, 6]]).all()


def test_units_and_scratch_are_formulas_too(built: Built) -> None:
    m, n = dims("M", "N")
    kernel = built.kernels[UNPACKED.name]
    symbolic = [m, n, m + 3, m, n, n, n]
    for rows, columns in ((1, 1), (7, 100), (145, 33)):
        sizes = {"M": rows, "N": columns}
        numbers = [rows, columns, rows + 3, rows, columns, columns, columns]
        formulas: Any = (kernel.units(symbolic), kernel.scratch_bytes(symbolic))  # pyright: ignore[reportArgumentType]
        assert [one.at(sizes) for one in formulas] == [kernel.units(numbers), kernel.scratch_bytes(numbers)]


def test_a_product_is_written_once() -> None:
    isa = target.host_isa()
    module = target.new_module("once")
    first = panel.gemm(module, isa, ALL)
    functions_ = len(module.functions)
    assert panel.gemm(module, isa, replace(ALL)).name == first.name
    assert len(module.functions) == functions_


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weights": "f16"}, "weights 'f16'"),
        ({"activation": "gelo"}, "activation 'gelo'.*gelu"),
        ({"weights": "int8", "packed": False}, "must be packed"),
    ],
)
def test_wrong_specs_say_what_is_allowed(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Gemm(**wrong)


WIDE = target.Isa(
    "avx512", 16, 32, "+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+evex512"
)  # fmt: skip


@pytest.mark.parametrize("isa", [target.host_isa("avx2"), WIDE], ids=lambda isa: isa.name)
@pytest.mark.parametrize("weights", ["f32", "bf16", "int8"])
def test_sums_stay_in_the_widest_registers(isa: target.Isa, weights: str) -> None:
    if isa.name == "baseline":
        pytest.skip("this processor has no AVX2")
    module = target.new_module("registers")
    microkernel.write_part(module, isa, weights)
    blocks = {name: lines for name, lines in functions(objects.assembly(module, isa)).items() if "block_" in name}
    assert len(blocks) >= microkernel.panel_shape(isa).mr
    register = "zmm" if isa.lanes == 16 else "ymm"
    for name, lines in blocks.items():
        assert spills(lines) == 0, name
        multiplied = [line for line in lines if "vfmadd" in line]
        assert multiplied and all(f"%{register}" in line for line in multiplied), name
        assert not (isa.lanes == 16 and uses(lines, "ymm") > 3), name


def test_pairs_of_bf16_are_multiplied_at_once() -> None:
    module, isa = target.new_module("pairs"), replace(WIDE, features=f"{WIDE.features},+avx512bf16", bf16=True)
    microkernel.write_part(module, isa, "bf16")
    blocks = functions(objects.assembly(module, isa))
    for rows in range(1, microkernel.panel_shape(isa).mr + 1):
        lines = blocks[f"block_bf16_{rows}x1_pairs"]
        assert spills(lines) == 0, rows
        assert sum("vdpbf16ps" in line and "%zmm" in line for line in lines) == 3 * rows


def test_a_kernel_touches_only_its_range(built: Built) -> None:
    nr = microkernel.panel_shape(built.isa).nr
    product = Product(built, PLAIN, 4, 4 * nr + 5, 10)
    y = np.full((4, product.n + 2), 7, np.float32)
    buffers = [product.x.ctypes.data, product.weights.ctypes.data, 0, 0, 0, y.ctypes.data]
    scratch = ctypes.create_string_buffer(product.kernel.scratch_bytes(product.params) + 64)
    place = ctypes.addressof(scratch) + -ctypes.addressof(scratch) % 64
    entry(built.library.address(PLAIN.name))(buffers, product.params, 1, 3, place)
    assert (y[:, :nr] == 7).all() and (y[:, 3 * nr :] == 7).all()
    np.testing.assert_allclose(y[:, nr : 3 * nr], product.reference()[:, nr : 3 * nr], rtol=1e-4, atol=1e-4)

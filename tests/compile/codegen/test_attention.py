"""Attention against numpy in float64: sizes, masks, strides, and what is no number."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mlsysopt.compile.codegen import attention as attending
from mlsysopt.compile.codegen import objects, target, workshop
from mlsysopt.compile.codegen.attention import Attention
from mlsysopt.compile.codegen.kernel import Kernel, entry
from mlsysopt.core.errors import UsageError
from mlsysopt.graph.symbolic import dims
from tests.compile.codegen.asm import functions, uses
from tests.compile.codegen.fused import Guarded

Array = npt.NDArray[np.float32]
SPECS = [Attention(mask, causal) for mask in attending.MASKS for causal in (False, True)]


@dataclass
class Built:
    library: objects.Library
    kernels: dict[str, Kernel]


@pytest.fixture(scope="module", params=sorted({target.host_isa(cap).name for cap in target.ISAS}))
def built(request: pytest.FixtureRequest) -> Built:
    isa = target.host_isa(request.param)
    module = target.new_module("attention")
    kernels = {spec.name: attending.attention(module, isa, spec) for spec in SPECS}
    return Built(workshop.build(module, isa, cached=False), kernels)


@dataclass
class Case:
    """Operands in the layout [B, S, H, D], read as [B, H, S, D]."""

    queries: int
    keys: int
    features: int = 16
    values: int = 16
    batch: int = 2
    heads: int = 3
    spec: Attention = field(default_factory=Attention)
    scale: float | None = None

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.queries, self.keys, self.features, self.values])
        self.q = self._operand(self.queries, self.features)
        self.k = self._operand(self.keys, self.features)
        self.v = self._operand(self.keys, self.values)
        self.mask: npt.NDArray[np.bool_] | Array | None = None
        if self.spec.mask:
            keeps = self.rng.random((self.batch, 1, self.queries, self.keys)) < 0.7
            keeps[0, :, :1] = False  # a row without a key
            added = np.where(keeps, self.rng.standard_normal(keeps.shape), -np.inf).astype(np.float32)
            self.mask = keeps if self.spec.mask == "bool" else added

    def _operand(self, length: int, width: int) -> Array:
        return self.rng.standard_normal((self.batch, length, self.heads, width), np.float32).transpose(0, 2, 1, 3)

    def reference(self) -> npt.NDArray[Any]:
        q, k, v = (one.astype(float) for one in (self.q, self.k, self.v))
        scale = self.scale if self.scale is not None else 1 / math.sqrt(max(self.features, 1))
        with np.errstate(invalid="ignore"):
            scores = q @ k.swapaxes(-1, -2) * scale
            if self.spec.causal:
                rows, columns = np.ogrid[: self.queries, : self.keys]
                scores = np.where(columns <= rows, scores, -np.inf)
            if self.mask is not None:
                hidden = self.mask.dtype == np.bool_
                scores = np.where(self.mask, scores, -np.inf) if hidden else scores + self.mask
            if self.keys:
                allowed = (scores > -np.inf).any(-1, keepdims=True)
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                scores = np.where(allowed, scores / scores.sum(-1, keepdims=True), 0)
            return scores @ v

    def params(self, out: Array) -> list[int]:
        scale = attending.USUAL_SCALE if self.scale is None else attending.scale_bits(self.scale)
        sizes = [self.batch, self.heads, self.queries, self.keys, self.features, self.values, scale]
        mask = [0] * 4
        if self.mask is not None:
            full = np.broadcast_to(self.mask, (self.batch, self.heads, self.queries, self.keys))
            mask = _strides(full)
        return [*sizes, *(one for operand in (self.q, self.k, self.v, out) for one in _strides(operand)[:3]), *mask]

    def run(self, built: Built, cuts: Sequence[int] = ()) -> Array:
        out = np.full((self.batch, self.queries, self.heads, self.values), 7, np.float32).transpose(0, 2, 1, 3)
        kernel = built.kernels[self.spec.name]
        params = self.params(out)
        scratch = np.full(kernel.scratch_bytes(params) // 4 + 16, np.nan, np.float32)
        buffers = [0 if one is None else one.ctypes.data for one in (self.q, self.k, self.v, self.mask, out)]
        call = entry(built.library.address(kernel.name))
        edges = sorted({0, kernel.units(params), *cuts})
        for begin, end in itertools.pairwise(edges):
            call(buffers, params, begin, end, scratch.ctypes.data + -scratch.ctypes.data % 64)
        return out

    def check(self, built: Built) -> None:
        np.testing.assert_allclose(self.run(built), self.reference(), rtol=2e-5, atol=2e-5)


def _strides(array: npt.NDArray[np.generic]) -> list[int]:
    return [one // array.itemsize for one in array.strides]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("queries", [0, 1, 7, 80])
@pytest.mark.parametrize("keys", [0, 1, 7, 80])
def test_every_length(built: Built, spec: Attention, queries: int, keys: int) -> None:
    Case(queries, keys, spec=spec).check(built)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize(("queries", "keys"), [(1, 2000), (7, 600), (150, 2000)])
def test_many_keys_go_in_blocks(built: Built, spec: Attention, queries: int, keys: int) -> None:
    Case(queries, keys, heads=2, spec=spec).check(built)


@pytest.mark.parametrize("spec", [Attention(), Attention(causal=True)], ids=lambda spec: spec.name)
@pytest.mark.parametrize(("queries", "keys"), [(1100, 1100), (100, 4500)])
def test_heads_with_several_blocks_of_both(built: Built, spec: Attention, queries: int, keys: int) -> None:
    Case(queries, keys, 8, 8, 1, 2, spec=spec).check(built)


@pytest.mark.parametrize(("features", "values"), [(1, 1), (5, 3), (64, 48), (17, 33), (0, 4), (4, 0), (128, 64)])
@pytest.mark.parametrize("queries", [1, 3, 20])
def test_every_width(built: Built, features: int, values: int, queries: int) -> None:
    Case(queries, 37, features, values).check(built)


@pytest.mark.parametrize("queries", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("keys", [8, 9, 513, 4100])
def test_few_queries_read_keys_and_values_as_they_lie(built: Built, queries: int, keys: int) -> None:
    Case(queries, keys, 12, 20, 1, 2).check(built)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("queries", [1, 20])
def test_nothing_is_read_outside_of_operands(built: Built, queries: int, right: bool) -> None:
    case = Case(queries, 21, 13, 19, 1, 1)
    operands = {word: np.ascontiguousarray(getattr(case, word)) for word in "qkv"}
    guarded = {word: Guarded(one, right) for word, one in operands.items()}
    for word, one in operands.items():
        place = (ctypes.c_float * one.size).from_address(guarded[word].address)
        setattr(case, word, np.ctypeslib.as_array(place).reshape(one.shape))
    case.check(built)


def test_a_scale_is_taken(built: Built) -> None:
    Case(5, 9, scale=0.75).check(built)
    Case(5, 9, scale=0.0).check(built)


@pytest.mark.parametrize("kind", ["bool", "f32"])
@pytest.mark.parametrize("shape", [(2, 3, 9, 40), (1, 1, 9, 40), (2, 1, 1, 40), (1, 3, 9, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_masks_of_any_stride(built: Built, kind: str, shape: tuple[int, ...], turned: bool) -> None:
    case = Case(9, 40, spec=Attention(kind))
    rng = np.random.default_rng(3)
    mask = rng.random(shape[::-1] if turned else shape)
    mask = mask.T if turned else mask
    case.mask = mask < 0.8 if kind == "bool" else mask.astype(np.float32)
    if kind == "bool":
        case.mask[..., 0] = True
    case.check(built)


def test_bits_do_not_depend_on_the_range(built: Built) -> None:
    for spec in (Attention("bool"), Attention(causal=True)):
        case = Case(150, 700, spec=spec)
        kernel = built.kernels[spec.name]
        units = kernel.units(case.params(case.q))
        assert units > 12
        once = case.run(built).tobytes()
        assert case.run(built, range(units)).tobytes() == once
        assert case.run(built, [5, 11]).tobytes() == once


def test_nan_reaches_the_rows_that_read_it(built: Built) -> None:
    case = Case(9, 600, heads=1, batch=1)
    case.q[0, 0, 3, 2] = np.nan
    given = case.run(built)
    assert np.isnan(given[0, 0, 3]).all() and np.isfinite(np.delete(given, 3, axis=2)).all()
    case = Case(9, 600, heads=1, batch=1)
    case.k[0, 0, 550, 1] = np.nan
    assert np.isnan(case.run(built)).all()
    case = Case(9, 600, heads=1, batch=1)
    case.v[0, 0, 20, 4] = np.inf
    given = case.run(built)
    assert np.isinf(given[..., 4]).all() and np.isfinite(np.delete(given, 4, axis=3)).all()


def test_large_scores_do_not_overflow(built: Built) -> None:
    case = Case(20, 700)
    case.q *= 100
    case.k *= 100
    case.check(built)


def test_a_causal_mask_keeps_later_keys_unread(built: Built) -> None:
    case = Case(10, 600, spec=Attention(causal=True))
    expected = case.reference()
    case.k[:, :, 10:], case.v[:, :, 10:] = np.nan, np.nan
    np.testing.assert_allclose(case.run(built), expected, rtol=2e-5, atol=2e-5)


def test_units_and_scratch_are_formulas_too(built: Built) -> None:
    batch, queries, keys = dims("B", "S", "T")
    kernel = built.kernels["attention"]
    for b, s, t in ((1, 1, 1), (2, 150, 37), (3, 7, 10_000)):
        rest = [16, 16, *[0] * 17]
        numbers, symbolic = [b, 3, s, t, *rest], [batch, 3, queries, keys, *rest]
        sizes = {"B": b, "S": s, "T": t}
        assert kernel.units(symbolic).at(sizes) == kernel.units(numbers)  # pyright: ignore
        assert kernel.scratch_bytes(symbolic).at(sizes) == kernel.scratch_bytes(numbers)  # pyright: ignore


def test_wide_registers_are_used() -> None:
    wide = target.Isa("avx512", 16, 32, "+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl,+evex512")
    module = target.new_module("wide")
    attending.attention(module, wide, Attention("f32"))
    lines = functions(objects.assembly(module, wide))
    assert uses(lines["softmax_f32"], "zmm") > 20
    assert any("vmaxps" in line and "%zmm" in line for line in lines["softmax_f32"])


def test_wrong_masks_are_told() -> None:
    with pytest.raises(UsageError, match="mask 'f16'"):
        Attention("f16")

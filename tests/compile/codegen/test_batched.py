"""Products of two tensors that vary, in batches that lie anywhere."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.compile.codegen.batched import batched, product_units
from mlsysopt.compile.codegen.kernel import Kernel, entry
from mlsysopt.compile.codegen.objects import Library
from mlsysopt.compile.codegen.target import host_isa, new_module
from mlsysopt.compile.codegen.workshop import build

ISA = host_isa()


@pytest.fixture(scope="module")
def made() -> tuple[dict[tuple[int, bool, bool], Kernel], Library]:
    module = new_module("batched_test")
    kernels = {
        (rank, turned, bias): batched(module, ISA, rank, transposed=turned, bias=bias)
        for rank in (0, 1, 2)
        for turned in (False, True)
        for bias in (False, True)
    }
    return kernels, build(module, ISA, cached=False)


def run(
    made: tuple[dict[tuple[int, bool, bool], Kernel], Library],
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    turned: bool,
    cuts: tuple[int, ...] = (),
) -> np.ndarray:
    kernels, library = made
    batch, (m, k) = x.shape[:-2], x.shape[-2:]
    n = w.shape[-2 if turned else -1]
    kernel = kernels[len(batch), turned, bias is not None]
    y = np.full((*batch, m, n), np.nan, np.float32)
    steps = [stride // 4 for one in (x, w, y) for stride in one.strides[:-2]]
    lines = [one.strides[-2] // 4 for one in (x, w, y)]
    params = [*batch, *steps, m, n, k, *lines, product_units(ISA, m, n)]
    scratch = np.zeros(kernel.scratch_bytes(params) + 64, np.uint8)
    buffers = [one.ctypes.data for one in (x, w, y, *([bias] if bias is not None else []))]
    call = entry(library.address(kernel.name))
    units = kernel.units(params)
    edges = sorted({0, units, *(cut % (units + 1) for cut in cuts)})
    for begin, end in pairwise(edges):
        call(buffers, params, begin, end, scratch.ctypes.data + -scratch.ctypes.data % 64)
    return y


@settings(max_examples=60)
@given(st.data())
def test_products_equal_numpy(made: tuple[dict[tuple[int, bool, bool], Kernel], Library], data: st.DataObject) -> None:
    rank, turned, with_bias = data.draw(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()))
    batch = tuple(data.draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=rank, max_size=rank)))
    m, n, k = (data.draw(st.sampled_from([0, 1, 2, 7, 16, 17, 40, 150])) for _ in range(3))
    rng = np.random.default_rng(m * 1000 + n)
    x = rng.standard_normal((*batch, m, k)).astype(np.float32)
    w = rng.standard_normal((*batch, *((n, k) if turned else (k, n)))).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32) if with_bias else None
    cuts = tuple(data.draw(st.lists(st.integers(0, 99), max_size=3)))
    found = run(made, x, w, bias, turned=turned, cuts=cuts)
    wanted = np.matmul(x.astype(np.float64), (w.swapaxes(-1, -2) if turned else w).astype(np.float64))
    np.testing.assert_allclose(found, wanted + (bias if bias is not None else 0), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found, run(made, x, w, bias, turned=turned))


def test_an_operand_may_repeat_and_lie_across(made: tuple[dict[tuple[int, bool, bool], Kernel], Library]) -> None:
    rng = np.random.default_rng(0)
    heads = rng.standard_normal((3, 5, 2, 8)).astype(np.float32).transpose(0, 2, 1, 3)
    shared = np.broadcast_to(rng.standard_normal((1, 1, 8, 4)).astype(np.float32), (3, 2, 8, 4))
    np.testing.assert_allclose(run(made, heads, shared, turned=False), np.matmul(heads, shared), rtol=1e-5, atol=1e-5)

"""Panels: what goes in comes out, whatever the size, by numpy and by the kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.compile.codegen import pack as packing
from mlsysopt.compile.codegen import target, workshop
from mlsysopt.compile.codegen.kernel import entry
from mlsysopt.compile.codegen.microkernel import panel_shape
from mlsysopt.core.errors import UsageError
from mlsysopt.graph.symbolic import dims

ISAS = [target.Isa("avx512", 16, 32, ""), target.Isa("avx2", 8, 16, ""), target.Isa("baseline", 4, 16, "")]


@given(n=st.integers(0, 100), k=st.integers(0, 20), isa=st.sampled_from(ISAS))
def test_f32_comes_back_bit_for_bit(n: int, k: int, isa: target.Isa) -> None:
    weights = np.random.default_rng([n, k]).standard_normal((k, n), np.float32).T  # strides of any kind
    panels, scales = packing.pack(weights, isa)
    nr = panel_shape(isa).nr
    assert scales is None and panels.shape == (-(-n // nr), k, nr)
    assert panels.size == 0 or panels.ctypes.data % 64 == 0
    assert packing.unpack(panels, n).tobytes() == np.ascontiguousarray(weights).tobytes()
    for column in range(n):
        assert (panels[column // nr, :, column % nr] == weights[column]).all()
    assert not np.count_nonzero(panels[n // nr :, :, n % nr :])


def test_bf16_rounds_to_nearest_even_and_keeps_what_is_no_number() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 1 << 32, (64, 50), np.uint32).view(np.float32)
    weights[0, :5] = [np.inf, -np.inf, np.nan, 0.0, -0.0]
    weights[1, 0] = np.array(0x7F800001, np.uint32).view(np.float32)  # a NaN that rounding would make infinite
    panels, _ = packing.pack(weights, ISAS[1], "bf16")
    given_ = packing.unpack(panels, 64)
    expected = torch.from_numpy(weights).bfloat16().float().numpy()
    assert (np.isnan(given_) == np.isnan(expected)).all()
    assert (given_ == expected)[~np.isnan(expected)].all()


def test_int8_is_within_half_a_step_of_each_row() -> None:
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((37, 40)) * np.logspace(-3, 3, 37)[:, None]).astype(np.float32)
    weights[5] = 0
    panels, scales = packing.pack(weights, ISAS[1], "int8")
    assert scales is not None and scales.shape == (37,)
    back = packing.unpack(panels, 37, scales)
    assert (np.abs(back - weights) <= 0.5001 * scales[:, None]).all()
    assert not back[5].any()


def test_a_row_that_int8_cannot_hold_is_nan() -> None:
    weights = np.ones((3, 4), np.float32)
    weights[0, 1], weights[2, 2] = np.inf, np.nan
    panels, scales = packing.pack(weights, ISAS[1], "int8")
    back = packing.unpack(panels, 3, scales)
    assert np.isnan(back[[0, 2]]).all()
    np.testing.assert_allclose(back[1], 1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["f32", "bf16", "int8"])
def test_bytes_are_those_of_the_arrays(kind: str) -> None:
    n_, k_ = dims("N", "K")
    for n, k in ((0, 4), (1, 1), (48, 3), (50, 7)):
        for isa in ISAS:
            arrays = packing.pack(np.zeros((n, k), np.float32), isa, kind)
            needed = sum(one.nbytes for one in arrays if one is not None)
            assert packing.packed_bytes(n, k, isa, kind) == needed
            assert packing.packed_bytes(n_, k_, isa, kind).at({"N": n, "K": k}) == needed


@pytest.mark.parametrize("cap", ["avx2", "baseline"])
def test_the_kernel_packs_as_numpy_does(cap: str) -> None:
    isa = target.host_isa(cap)
    module = target.new_module("pack")
    kernel = packing.pack_transposed(module, isa)
    library = workshop.build(module, isa, cached=False)
    run = entry(library.address(kernel.name))
    rng = np.random.default_rng(2)
    for n in (0, 1, 7, 8, 15, 16, 17, 40):
        for k in (0, 1, 7, 8, 9, 64):
            matrix = rng.standard_normal((n, k + 3), np.float32)
            expected, _ = packing.pack(matrix[:, :k], isa)
            given_ = np.full_like(expected, np.nan)
            params = [n, k, k + 3]
            units = kernel.units(params)
            for begin, end in ((0, units // 2), (units // 2, units)):
                run([matrix.ctypes.data, given_.ctypes.data], params, begin, end, 0)
            assert given_.tobytes() == expected.tobytes(), (n, k)


def test_wrong_kinds_and_ranks_are_told() -> None:
    with pytest.raises(UsageError, match=r"'int4'.*int8"):
        packing.pack(np.zeros((2, 2), np.float32), ISAS[0], "int4")
    with pytest.raises(UsageError, match=r"\(2,\)"):
        packing.pack(np.zeros(2, np.float32), ISAS[0])

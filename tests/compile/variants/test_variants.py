"""Every variant of ours keeps the contract, and so does a stranger's of thirty lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from mlsysopt.compile.errors import InputError
from mlsysopt.compile.variants import aten, lowp, mkl, onednn, panel
from mlsysopt.compile.variants.site import Call, Epilogue, Packed, Refusal, Site, Variant
from mlsysopt.graph.symbolic import Dim
from mlsysopt.testing.variants import VariantContract


class TestAtenNt(VariantContract):
    def make_variant(self) -> Variant:
        return aten.nt()


class TestAtenNn(VariantContract):
    def make_variant(self) -> Variant:
        return aten.nn()


class TestAtenTn(VariantContract):
    def make_variant(self) -> Variant:
        return aten.tn()


class TestAtenInt8Dynamic(VariantContract):
    def make_variant(self) -> Variant:
        return aten.int8_dynamic()


class TestMklPacked(VariantContract):
    def make_variant(self) -> Variant:
        return mkl.packed()


class TestOneDnnPacked(VariantContract):
    def make_variant(self) -> Variant:
        return onednn.packed()


class TestOneDnnBf16(VariantContract):
    rounds = True

    def make_variant(self) -> Variant:
        return onednn.bf16()


class TestPanelF32(VariantContract):
    def make_variant(self) -> Variant:
        return panel.f32()


class TestPanelBf16w(VariantContract):
    def make_variant(self) -> Variant:
        return lowp.bf16w()


class TestPanelInt8w(VariantContract):
    rounds = True

    def make_variant(self) -> Variant:
        return lowp.int8w()


@dataclass(frozen=True)
class Einsum:
    """A variant as somebody else would write it: plain f32 products, a bias at most."""

    name: str = "stranger.einsum"
    version: str = "7"
    ops: tuple[str, ...] = ("linear",)
    form: str = "stranger.turned"
    native: bool = False

    def supports(self, site: Site) -> Refusal | None:
        plain = site.op == "linear" and not site.epilogue.activation
        return None if plain else Refusal("it does linear products without activation")

    def prepare(self, weights: Any, bias: Any, site: Site) -> Packed:
        turned = torch.as_tensor(weights).detach().t().contiguous()
        return Packed(self.form, turned, turned.nbytes)

    def scratch_bytes(self, site: Site) -> Dim:
        return Dim.of(0)

    def bind(self, site: Site, packed: Packed, bias: Any | None) -> Call:
        def call(x: Any, residual: Any = None) -> Any:
            y = torch.einsum("mk,kn->mn", x, packed.data).contiguous()
            y = y if bias is None else y + bias
            return y if residual is None else y + residual

        return call

    def block_rows(self, site: Site) -> int:
        return 1

    def error(self, site: Site) -> float:
        return 1e-5


class TestStranger(VariantContract):
    def make_variant(self) -> Variant:
        return Einsum()


OURS = [aten.nt(), aten.nn(), aten.tn(), aten.int8_dynamic(), mkl.packed(), onednn.packed(), panel.f32(), lowp.bf16w()]


@pytest.mark.parametrize("variant", OURS, ids=lambda one: one.name)
@pytest.mark.parametrize("shape", [(24,), (2, 3, 24), (2, 0, 24), (2, 1, 5, 24)])
def test_leading_dimensions(variant: Variant, shape: tuple[int, ...]) -> None:
    """Ours take x as `F.linear` does, so that a module need not reshape."""
    site = Site.linear(5, 40, 24, epilogue=Epilogue(bias=True, activation="relu", residual=True))
    weights, bias, x = torch.randn(40, 24), torch.randn(40), torch.randn(shape)
    residual = torch.randn(*shape[:-1], 40)
    found = variant.bind(site, variant.prepare(weights, bias, site), bias)(x, residual)
    wanted = torch.relu(torch.nn.functional.linear(x, weights, bias)) + residual
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, rtol=0, atol=variant.error(site) * 8)


def test_panel_refuses_operands_that_it_cannot_read() -> None:
    site = Site.linear(5, 40, 24, epilogue=Epilogue(residual=True))
    made = panel.f32()
    call = made.bind(site, made.prepare(torch.randn(40, 24), None, site), None)
    residual = torch.randn(5, 40)
    with pytest.raises(InputError, match=r"x must be f32\[..., 24\] on the CPU, got float32\[5, 23\]"):
        call(torch.randn(5, 23), residual)
    with pytest.raises(InputError, match=r"got float64\[5, 24\]"):
        call(torch.randn(5, 24, dtype=torch.float64), residual)
    with pytest.raises(InputError, match=r"residual must be f32\[5, 40\], got float32\[4, 40\]"):
        call(torch.randn(5, 24), torch.randn(4, 40))
    with pytest.raises(InputError, match=r"the residual .* got none"):
        call(torch.randn(5, 24))


def test_panel_reads_a_strided_residual() -> None:
    site = Site.linear(5, 40, 24, epilogue=Epilogue(residual=True))
    made, weights, x = panel.f32(), torch.randn(40, 24), torch.randn(5, 24)
    call = made.bind(site, made.prepare(weights, None, site), None)
    for residual in (torch.randn(5, 90)[:, 7:47], torch.randn(40, 5).t()):
        assert torch.allclose(call(x, residual), x @ weights.t() + residual, atol=1e-4)


def test_panel_on_two_threads_gives_the_same_bits() -> None:
    made, weights, x = panel.f32(), torch.randn(300, 200), torch.randn(170, 200)
    calls = [
        made.bind(site, made.prepare(weights, None, site), None)
        for site in (Site.linear(170, 300, 200, threads=threads) for threads in (1, 2, 3))
    ]
    wanted = calls[0](x)
    for call in calls[1:]:
        assert torch.equal(call(x), wanted)


def test_bias_is_asked_for() -> None:
    site = Site.linear(5, 40, 24, epilogue=Epilogue(bias=True))
    for variant in OURS:
        with pytest.raises(InputError, match=r"a bias of shape \(40,\) is needed, got none"):
            variant.bind(site, variant.prepare(torch.randn(40, 24), torch.randn(40), site), None)


def test_int8_keeps_what_it_cannot_hold() -> None:
    """Weights with infinity stay f32, and a call with NaN takes the f32 weights: the same result as `F.linear`."""
    made, site = aten.int8_dynamic(), Site.linear(3, 16, 8)
    weights, x = torch.randn(16, 8), torch.randn(3, 8)
    x[1, 2] = float("nan")
    found = made.bind(site, made.prepare(weights, None, site), None)(x)
    assert torch.equal(found.isnan(), (x @ weights.t()).isnan())
    weights[4, 4] = float("inf")
    packed = made.prepare(weights, None, site)
    assert packed.nbytes == 0
    assert torch.equal(made.bind(site, packed, None)(torch.ones(3, 8)), torch.ones(3, 8) @ weights.t())

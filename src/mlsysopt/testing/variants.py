"""The contract of every variant of a linear product: inherit `VariantContract`, say how to make one, run pytest."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mlsysopt.compile.variants.products import ACTIVATIONS
from mlsysopt.compile.variants.site import Epilogue, Refusal, Site, Variant
from mlsysopt.graph.symbolic import Dim

__all__ = ["VariantContract"]

Array = npt.NDArray[Any]


class VariantContract:
    """What a compiler relies on.

    A subclass implements `make_variant`. One that is not available on this machine is skipped with its own reason. One
    that rounds weights sets `rounds`: NaN and infinity then have to stay NaN or infinity, not the same of the two.
    """

    sizes: tuple[tuple[int, int], ...] = ((1, 1), (16, 16), (48, 64), (7, 300), (100, 37), (257, 129))
    """(N, K) of the weights."""
    rows: tuple[int, ...] = (0, 1, 2, 3, 5, 6, 8, 13, 33, 130)
    rounds: bool = False

    def make_variant(self) -> Variant:
        """Return a new variant for the op "linear"."""
        raise AssertionError("a subclass of VariantContract defines make_variant")

    def test_is_a_variant(self) -> None:
        made = self.make_variant()
        assert isinstance(made, Variant)
        assert "linear" in made.ops
        assert "." in made.name, f"{made.name}: a dot separates the library"
        assert made.version and made.form

    def test_refuses_in_one_line(self) -> None:
        made = self.make_variant()
        for site in (Site("conv", Site.linear(8, 16, 16).sizes), Site.linear(8, 16, 16, dtype="f64")):
            refusal = made.supports(site)
            assert refusal is None or (refusal.reason and "\n" not in refusal.reason)
        assert isinstance(made.supports(Site("conv", Site.linear(8, 16, 16).sizes)), Refusal)

    def test_says_what_it_needs(self) -> None:
        made = self._able()
        for rows in (Dim.of("M"), 0, 7):
            site = Site.linear(rows, 48, 64)
            assert made.supports(site) is None
            assert made.scratch_bytes(site).at(M=7) >= 0
            assert made.block_rows(site) >= 1
            assert 0 < made.error(site) < 1

    def test_every_size(self) -> None:
        made = self._able()
        for n, k in self.sizes:
            product = _Product(made, n, k, Epilogue(bias=True))
            for rows in self.rows:
                product.check(_normal(rows, k, seed=rows))

    def test_every_epilogue(self) -> None:
        made = self._able()
        parts = itertools.product((False, True), (False, True))
        # Parts are independent: each activation once with all of them, and all of them without one.
        asked = [*(Epilogue(bias, "", residual) for bias, residual in parts)]
        asked += [Epilogue(True, activation, True) for activation in ACTIVATIONS if activation]
        done = 0
        for epilogue in asked:
            if made.supports(Site.linear(5, 40, 24, epilogue=epilogue)) is None:
                product = _Product(made, 40, 24, epilogue)
                product.check(_normal(5, 24, seed=1))
                product.check(_normal(37, 24, seed=2))
                done += 1
        assert done, "it supports no epilogue at all"

    def test_reads_x_in_any_layout(self) -> None:
        product = _Product(self._able(), 40, 24, Epilogue(bias=True, residual=True))
        wide = _normal(9, 50, seed=3)
        layouts = {
            "columns of a wider matrix": wide[:, 3:27],
            "every second row": _normal(18, 24, seed=4)[::2],
            "transposed": _normal(24, 9, seed=5).t(),
            "one row for all": _normal(1, 24, seed=6).expand(9, 24),
            "every second column": _normal(9, 48, seed=7)[:, ::2],
        }
        for x in layouts.values():
            product.check(x)

    def test_reads_weights_in_any_layout(self) -> None:
        import torch

        made, site = self._able(), Site.linear(5, 40, 24)
        weights, x = _normal(40, 24, seed=8), _normal(5, 24, seed=9)
        wanted = x.double() @ weights.double().t()
        bound = made.error(site) * float(wanted.square().mean().sqrt())
        for given in (weights.numpy(), weights.t().contiguous().t(), torch.nn.Parameter(weights)):
            found = _run(made, site, given, None, x)
            assert float((found.double() - wanted).abs().max()) <= bound

    def test_nan_and_infinity_go_where_they_should(self) -> None:
        import torch

        for where, value in itertools.product(("x", "weights", "bias"), (float("nan"), float("inf"), -float("inf"))):
            for activation in ("", "relu", "gelu"):
                epilogue = Epilogue(bias=True, activation=activation)
                made = self._able()
                if made.supports(Site.linear(7, 33, 20, epilogue=epilogue)) is not None:
                    continue
                operands = {
                    "x": _normal(7, 20, seed=1),
                    "weights": _normal(33, 20, seed=2),
                    "bias": _normal(33, seed=3),
                }
                operands[where][(2, 5) if where != "bias" else (5,)] = value
                site = Site.linear(7, 33, 20, epilogue=epilogue)
                found = _run(made, site, operands["weights"], operands["bias"], operands["x"])
                product = torch.nn.functional.linear(operands["x"], operands["weights"], operands["bias"])
                wanted = _applied(product, activation)
                told = f"{value} in {where}, {epilogue}"
                if self.rounds and where == "weights":
                    assert not torch.isfinite(found[~torch.isfinite(wanted)]).any(), told
                elif activation == "gelu":
                    # At -inf torch says NaN and the limit is 0: both are right. With AVX-512 it says so at inf too.
                    assert found[product.isnan()].isnan().all(), told
                    top = found[product == float("inf")]
                    if made.native or not wanted[product == float("inf")].isnan().any():
                        assert (top == float("inf")).all(), told
                    else:
                        assert ((top == float("inf")) | top.isnan()).all(), told
                    assert torch.isfinite(found[torch.isfinite(product)]).all(), told
                else:
                    assert torch.equal(found.isnan(), wanted.isnan()), told
                    assert torch.equal(found.isinf(), wanted.isinf()), told

    def test_same_rows_same_bits(self) -> None:
        made, site = self._able(), Site.linear(Dim.of("M"), 70, 90)
        weights = _normal(70, 90, seed=1)
        call = made.bind(site, made.prepare(weights, None, site), None)
        inputs = [_normal(rows, 90, seed=rows) for rows in (1, 4, 7, 50, 150)]
        first = [_bits(_called(call, x)) for x in inputs]
        for _ in range(3):
            assert [_bits(_called(call, x)) for x in inputs] == first

    def test_threads_do_not_meet(self) -> None:
        """Two threads that call one product at once get what each gets alone."""
        made, site = self._able(), Site.linear(Dim.of("M"), 70, 90)
        weights = _normal(70, 90, seed=1)
        call = made.bind(site, made.prepare(weights, None, site), None)
        inputs = [_normal(rows, 90, seed=rows) for rows in (3, 60)]
        wanted = [_bits(_called(call, x)) for x in inputs]
        wrong: list[int] = []

        def work(which: int) -> None:
            for _ in range(100):
                if _bits(_called(call, inputs[which])) != wanted[which]:
                    wrong.append(which)

        workers = [threading.Thread(target=work, args=(which,)) for which in (0, 1, 0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong

    def test_prepare_is_pure(self) -> None:
        made, site = self._able(), Site.linear(5, 40, 24, epilogue=Epilogue(bias=True))
        weights, bias, x = _normal(40, 24, seed=1), _normal(40, seed=2), _normal(5, 24, seed=3)
        before = _bits(weights), _bits(bias), _bits(x)
        packed = made.prepare(weights, bias, site)
        again = made.prepare(weights, bias, site)
        assert packed.form == made.form == again.form
        assert packed.nbytes == again.nbytes >= 0
        call, other = made.bind(site, packed, bias), made.bind(site, again, bias)
        assert _bits(_called(call, x)) == _bits(_called(other, x)) == _bits(_called(call, x))
        assert (_bits(weights), _bits(bias), _bits(x)) == before

    def test_results_are_new(self) -> None:
        """A result is a contiguous tensor of its own: the next call does not change it."""
        made, site = self._able(), Site.linear(5, 40, 24, epilogue=Epilogue(residual=True))
        weights, x, residual = _normal(40, 24, seed=1), _normal(5, 24, seed=3), _normal(5, 40, seed=4)
        call = made.bind(site, made.prepare(weights, None, site), None)
        kept = _bits(residual)
        first = _called(call, x, residual)
        told = _bits(first)
        _called(call, 2 * x, residual)
        assert _bits(first) == told
        assert first.is_contiguous()
        assert _bits(residual) == kept

    def _able(self) -> Variant:
        made = self.make_variant()
        refusal = made.supports(Site.linear(5, 40, 24, epilogue=Epilogue(bias=True)))
        if refusal is not None:
            pytest.skip(f"{made.name}: {refusal.reason}")
        return made


class _Product:
    """One product of a variant, checked against float64."""

    def __init__(self, variant: Variant, n: int, k: int, epilogue: Epilogue) -> None:
        self.variant, self.epilogue, self.n = variant, epilogue, n
        self.site = Site.linear(Dim.of("M"), n, k, epilogue=epilogue)
        self.weights = _normal(n, k, seed=n)
        self.bias = _normal(n, seed=k) if epilogue.bias else None
        self.call = variant.bind(self.site, variant.prepare(self.weights, self.bias, self.site), self.bias)

    def check(self, x: Any) -> None:
        residual = _normal(x.shape[0], self.n, seed=99) if self.epilogue.residual else None
        found = _called(self.call, x, residual)
        told = f"{self.variant.name} {self.site} {tuple(x.shape)}, strides {x.stride()}"
        product = x.double() @ self.weights.double().t()
        summed = product if self.bias is None else product + self.bias.double()
        wanted = _applied(summed, self.epilogue.activation)
        wanted = wanted if residual is None else wanted + residual.double()
        assert found.shape == wanted.shape, told
        assert found.dtype is x.dtype, told
        if not found.numel():
            return
        # Of the sums before the activation, which makes some of them small; few of them say little about their size.
        scale = max(float(summed.square().mean().sqrt()), x.shape[1] ** 0.5)
        worst = float((found.double() - wanted).abs().max()) / scale
        assert worst <= self.variant.error(self.site), f"{told}: error {worst:.2g}"


def _run(variant: Variant, site: Site, weights: Any, bias: Any, x: Any) -> Any:
    return _called(variant.bind(site, variant.prepare(weights, bias, site), bias), x)


def _called(call: Any, *given: Any) -> Any:
    import torch

    with torch.inference_mode():
        return call(*given)


def _applied(y: Any, activation: str) -> Any:
    import torch

    functional = torch.nn.functional
    if not activation:
        return y
    if activation == "gelu_tanh":
        return functional.gelu(y, approximate="tanh")
    return {
        "relu": torch.relu,
        "gelu": functional.gelu,
        "silu": functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    }[activation](y)


def _normal(*shape: int, seed: int) -> Any:
    import torch

    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def _bits(tensor: Any) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()

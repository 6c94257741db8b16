"""Kernels that compute something else are found, and those that do not are let through."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mlsysopt.compile.linear.numerics import checked
from mlsysopt.compile.variants.registry import variant
from mlsysopt.compile.variants.site import Epilogue, Packed, Site

SITE = Site.linear("M", 48, 64, epilogue=Epilogue(bias=True))  # type: ignore[arg-type]


class Off:
    """F.linear with something done to its result."""

    name = "off"

    def __init__(self, change: Any) -> None:
        self.change = change

    def bind(self, site: Site, packed: Packed, bias: Any) -> Any:
        return lambda x: self.change(torch.nn.functional.linear(x, packed.data, bias))

    def error(self, site: Site) -> float:
        return 3e-6


def verdict(change: Any, weights: torch.Tensor) -> Any:
    return checked(Off(change), SITE, Packed("", weights, 0), weights, torch.ones(48))  # type: ignore[arg-type]


def one_wrong(y: torch.Tensor) -> torch.Tensor:
    y = y.clone()
    y[-1, -1] += 1e-3 * (len(y) == 17)
    return y


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y * 1.0001,
        lambda y: torch.full_like(y, torch.nan),
        lambda y: y[:, :-1],
        one_wrong,
        torch.zeros_like,
    ],
    ids=["scaled", "nan", "narrow", "one of all at 17 rows", "zero"],
)
def test_mutants_fail(change: Any) -> None:
    assert not verdict(change, torch.randn(48, 64)).passed


@pytest.mark.parametrize("name", ["aten.nt", "aten.nn", "aten.tn", "onednn.packed", "mkl.packed", "panel.f32"])
@pytest.mark.parametrize("kind", ["normal", "zero", "spread", "nan", "overflowing"])
def test_ours_pass(name: str, kind: str) -> None:
    weights = torch.randn(48, 64)
    if kind == "zero":
        weights.zero_()
    elif kind == "spread":
        weights *= torch.logspace(-4, 4, 48).unsqueeze(1)
    elif kind == "nan":
        weights[3, 4], weights[5, 6] = torch.nan, torch.inf
    elif kind == "overflowing":
        weights[7] = 3e38
    one, bias = variant(name), torch.randn(48)
    found = checked(one, SITE, one.prepare(weights, bias, SITE), weights, bias)
    assert found.passed, str(found)


def test_nan_may_not_be_lost() -> None:
    weights = torch.randn(48, 64)
    weights[3, 4] = torch.nan
    assert verdict(lambda y: y, weights).passed
    assert not verdict(lambda y: y.nan_to_num(0.0), weights).passed

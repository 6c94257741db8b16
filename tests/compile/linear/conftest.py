"""Times that nobody measures, so that decisions are the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from mlsysopt.compile.linear.decide import Quote
from mlsysopt.compile.variants.site import Site, Variant


class FixedPrices:
    """Every variant takes `1 us * (M + 1)` times its factor; what is not listed takes three times that.

    Args:
        factors: Variant -> factor.
    """

    def __init__(self, factors: dict[str, float]) -> None:
        self.factors = factors

    def quote(self, site: Site, variant: Variant) -> Quote:
        seconds = 1e-6 * (site.number("M") + 1) * self.factors.get(variant.name, 3.0)
        return Quote(seconds, seconds, seconds, "measured")

    def measure(self, site: Site, variants: Sequence[Variant]) -> None:
        raise AssertionError("everything is measured already")


@pytest.fixture
def panels() -> FixedPrices:
    """The generated kernel wins everywhere."""
    return FixedPrices({"panel.f32": 1.0, "aten.nt": 2.0, "aten.nn": 2.0})


@pytest.fixture
def library() -> FixedPrices:
    """oneDNN's packed form wins everywhere."""
    return FixedPrices({"onednn.packed": 1.0, "aten.nt": 2.0, "aten.nn": 2.0})


@pytest.fixture
def nothing() -> FixedPrices:
    """Nothing beats what torch does."""
    return FixedPrices({"aten.nt": 1.0, "aten.nn": 1.0})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread, whatever other tests left behind."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)

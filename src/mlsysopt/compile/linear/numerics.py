"""Whether a variant computes what it says: a few rows against float64, before a product may run it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mlsysopt.compile.variants.site import Packed, Site, Variant

__all__ = ["ALL_ROWS", "Verdict", "checked"]

ALL_ROWS = (1, 2, 3, 5, 8, 17, 50)
"""Rows that go through every height of a row block."""


_SEED = 24301
"""Weights are often drawn from seed 0, and a row that equals one of them makes sums that are no typical ones."""

_NEAR_OVERFLOW = 1e37
"""Sums of this size may overflow in one order of adding and not in another."""


_HARD = 1e-4
"""An error of torch's own from which on it is no measure for others."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a variant's results are from float64.

    Attributes:
        variant: Its name.
        site: What it was tried on.
        error: Largest difference, relative to the root mean square of the result.
        tolerance: What it says of itself, or twice torch's own error where that is more.
    """

    variant: str
    site: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{self.variant} on {self.site}: error {self.error:.2g}, allowed {self.tolerance:.2g}"


def checked(
    variant: Variant, site: Site, packed: Packed, weights: Tensor, bias: Tensor | None, rows: Sequence[int] = ALL_ROWS
) -> Verdict:
    """Run a variant on random rows and compare it with the product in float64.

    NaN and infinite weights must go through; where sums come near to what f32 can hold, anything is right.

    Args:
        variant: What is tried.
        site: The product.
        packed: Weights as it wants them.
        weights: Shape (N, K), f32.
        bias: Shape (N,), or None.
        rows: Row counts.
    """
    import torch

    run, most = variant.bind(site, packed, bias), max(rows)
    x = torch.randn(most, weights.shape[1], generator=torch.Generator().manual_seed(_SEED))
    with torch.inference_mode():
        wide, wide_bias = weights.double(), None if bias is None else bias.double()
        exact = torch.nn.functional.linear(x.double(), wide, wide_bias)
        size = torch.nn.functional.linear(x.double().abs(), wide.abs(), None if wide_bias is None else wide_bias.abs())
        finite, counted = exact.isfinite(), size < _NEAR_OVERFLOW
        rms = float(exact[counted].square().mean().sqrt()) if bool(counted.any()) else 1.0

        def apart(m: int, y: Tensor) -> float:
            wanted, y = exact[:m], y.double()
            if y.shape != wanted.shape:
                return math.inf
            lost = ~finite[:m] & ~((y == wanted) | (y.isnan() & wanted.isnan()))
            # NaN in place of a number must not slip through a comparison.
            off = (y - wanted)[counted[:m]].abs().nan_to_num(math.inf)
            return math.inf if bool(lost.any()) else float(off.max()) / (rms or 1.0) if off.numel() else 0.0

        worst = max(apart(m, run(x[:m])) for m in rows)
        plain = max(apart(m, torch.nn.functional.linear(x[:m], weights, bias)) for m in rows)
    # Of sums that are hard to form in f32 nobody is asked to be nearer than torch is; ill weights make it infinite.
    usual = 2 * plain if plain < _HARD else 0.0
    return Verdict(variant.name, str(site), worst, max(variant.error(site), usual))

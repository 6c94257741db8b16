"""Weights packed by MKL, through torch's private operators.

MKL wants to know the rows when it packs. The packed bytes do not depend on them in the versions that torch ships,
which is tried once in each process before the variant is offered; where it does not hold, the variant is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from mlsysopt.compile.variants.products import (
    float_error,
    following,
    matrix,
    refused,
    rows_of,
    torch_module,
    vector,
)
from mlsysopt.compile.variants.site import Call, Packed, Refusal, Site
from mlsysopt.graph.symbolic import Dim

__all__ = ["packed"]

_HINT = 64


@dataclass(frozen=True)
class Mkl:
    """A product with weights that MKL has packed; the original stays beside them."""

    name: str = "mkl.packed"
    form: str = "mkl.packed"
    version: str = "1"
    ops: tuple[str, ...] = ("linear",)
    native: bool = False

    def supports(self, site: Site) -> Refusal | None:
        if not site.constant_weights:
            return Refusal("weights that vary cannot be packed beforehand")
        if site.size("K") == 0 or site.size("N") == 0:
            return Refusal("empty weights")
        return refused(site) or _unusable()

    def prepare(self, weights: Any, bias: Any, site: Site) -> Packed:
        held = matrix(weights).contiguous()
        with torch_module().inference_mode():
            made = _reorder()(held, max(rows_of(site, _HINT), 1))
        return Packed(self.form, (made, held), made.nbytes)

    def scratch_bytes(self, site: Site) -> Dim:
        return Dim.of(0)

    def bind(self, site: Site, packed: Packed, bias: Any | None) -> Call:
        torch = torch_module()
        made, held = packed.data
        added = vector(bias, site)
        product, after = torch.ops.mkl._mkl_linear.default, following(site.epilogue)
        k, n = site.number("K"), site.number("N")

        def call(x: Any, residual: Any = None) -> Any:
            # Other rows than at packing are refused by the operator, unless they are what it is told.
            rows = x.numel() // k
            y = product(x.contiguous(), made, held, added, rows) if rows else x.new_empty((*x.shape[:-1], n))
            return y if after is None else after(y, residual)

        return call

    def block_rows(self, site: Site) -> int:
        return 1

    def error(self, site: Site) -> float:
        return float_error(site)


@cache
def _unusable() -> Refusal | None:
    try:
        torch = torch_module()
        product, reorder = torch.ops.mkl._mkl_linear.default, _reorder()
        with torch.inference_mode():
            # A shape that fits no block, and rows on both sides of every limit that a library may have.
            weights = torch.linspace(-1, 1, 150 * 70).sin().view(150, 70)
            packs = [reorder(weights, rows) for rows in (1, 5, 64, 512)]
            for rows in (1, 5, 64):
                x = torch.linspace(0, 9, rows * 70).cos().view(rows, 70)
                found = [product(x, one, weights, None, rows) for one in packs]
                wanted = x @ weights.t()
                if any(not torch.equal(one, found[0]) for one in found[1:]):
                    return Refusal("MKL packs weights for one number of rows here")
                if float((found[0] - wanted).abs().max()) > 1e-4:
                    return Refusal("MKL's packed products are wrong here")
    except (ImportError, AttributeError, RuntimeError, NotImplementedError) as error:
        return Refusal(f"torch has no MKL here: {str(error).splitlines()[0]}")
    return None


def _reorder() -> Any:
    return torch_module().ops.mkl._mkl_reorder_linear_weight.default


def packed() -> Mkl:
    """Return the product with weights that MKL has packed."""
    return Mkl()

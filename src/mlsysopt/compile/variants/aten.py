"""Products as torch does them: weights as they are, transposed, operands swapped, and int8 with scales per call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from mlsysopt.compile.variants.products import float_error, following, matrix, refused, torch_module, vector
from mlsysopt.compile.variants.site import Call, Packed, Refusal, Site
from mlsysopt.graph.symbolic import Dim

__all__ = ["int8_dynamic", "nn", "nt", "tn"]

Product = Callable[[Any], Any]


@dataclass(frozen=True)
class Aten:
    """A product through torch's own matrix kernels.

    Attributes:
        name: "aten.nt" (x W^T, W as it is stored: what `F.linear` does), "aten.nn" (x V with V = W^T stored [K, N])
            or "aten.tn" ((W x^T)^T, copied into rows).
    """

    name: str
    form: str = "original"
    version: str = "1"
    ops: tuple[str, ...] = ("linear",)
    native: bool = False

    def supports(self, site: Site) -> Refusal | None:
        if self.name != "aten.nt" and not site.constant_weights:
            return Refusal("weights that vary would be transposed in every call")
        return refused(site)

    def prepare(self, weights: Any, bias: Any, site: Site) -> Packed:
        held = matrix(weights)
        if self.form == "original":
            return Packed(self.form, held, 0)
        turned = held.t().contiguous()
        return Packed(self.form, turned, turned.nbytes)

    def scratch_bytes(self, site: Site) -> Dim:
        turned = Dim.of(4) * site.size("M") * site.size("N")
        return turned if self.name == "aten.tn" else Dim.of(0)

    def bind(self, site: Site, packed: Packed, bias: Any | None) -> Call:
        product = _product(self.name, packed.data, vector(bias, site))
        after = following(site.epilogue)
        if after is None:
            return lambda x, residual=None: product(x)
        return lambda x, residual=None: after(product(x), residual)

    def block_rows(self, site: Site) -> int:
        return 1

    def error(self, site: Site) -> float:
        return float_error(site)


def _product(name: str, weights: Any, bias: Any) -> Product:
    torch = torch_module()
    linear, mm, addmm = torch.nn.functional.linear, torch.mm, torch.addmm
    if name == "aten.nt":
        return lambda x: linear(x, weights, bias)
    if name == "aten.nn":
        turned = weights.t()
        # F.linear turns its weights; turned twice they are read as they lie, with leading dimensions and all.
        return lambda x: linear(x, turned, bias)

    def swapped(x: Any) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        # One product in the other order; torch would undo the swap if it were told to write rows.
        y = mm(weights, rows.t()) if bias is None else addmm(bias.unsqueeze(1), weights, rows.t())
        return y.t().contiguous().view(*x.shape[:-1], weights.shape[0])

    return swapped


@dataclass(frozen=True)
class Int8Dynamic:
    """Weights in int8 with a scale per output feature, x rounded to 8 bits with a scale per call.

    A call with NaN or infinity in x, which int8 cannot hold, takes the original weights.
    """

    name: str = "aten.int8_dynamic"
    form: str = "quantized.int8"
    version: str = "1"
    ops: tuple[str, ...] = ("linear",)
    native: bool = False
    weight_bytes: int = 1

    def supports(self, site: Site) -> Refusal | None:
        if not site.constant_weights:
            return Refusal("weights that vary cannot be rounded beforehand")
        if site.size("K") == 0 or site.size("N") == 0:
            return Refusal("empty weights")
        return refused(site) or _without_int8()

    def prepare(self, weights: Any, bias: Any, site: Site) -> Packed:
        held = matrix(weights)
        finite = bool(torch_module().isfinite(held).all())
        # Rounded weights cannot carry NaN or infinity: such a product stays as it is.
        rounded = _rounded(held, vector(bias, site)) if finite else None
        return Packed(self.form, (held, rounded), held.numel() + 8 * held.shape[0] if finite else 0)

    def scratch_bytes(self, site: Site) -> Dim:
        return site.size("M") * site.size("K")

    def bind(self, site: Site, packed: Packed, bias: Any | None) -> Call:
        torch = torch_module()
        held, rounded = packed.data
        added = vector(bias, site)
        n, k = held.shape
        product, exact = torch.ops.quantized.linear_dynamic, torch.nn.functional.linear
        after = following(site.epilogue)

        def call(x: Any, residual: Any = None) -> Any:
            # The sum is not finite where an element is not; that a sum may overflow costs time alone.
            if rounded is None or not x.numel() or not math.isfinite(x.sum()):
                y = exact(x, held, added)
            else:
                # The operator wants a matrix at least.
                y = product(x.reshape(-1, k), rounded, True).view(*x.shape[:-1], n)
            return y if after is None else after(y, residual)

        return call

    def block_rows(self, site: Site) -> int:
        return 1

    def error(self, site: Site) -> float:
        # Seven bits for x over its range in the call, eight for weights over that of their row.
        return 0.15


@cache
def _without_int8() -> Refusal | None:
    """Return what is missing for int8; the whole interface is deprecated, so that it is tried, not looked up."""
    try:
        torch = torch_module()
        rounded = _rounded(torch.eye(8), None)
        found = torch.ops.quantized.linear_dynamic(torch.eye(8), rounded, True)
    except (ImportError, AttributeError, RuntimeError, NotImplementedError) as error:
        return Refusal(f"torch has no dynamic int8 products here: {str(error).splitlines()[0]}")
    return None if float((found - torch.eye(8)).abs().max()) < 0.1 else Refusal("torch's int8 products are wrong here")


def _rounded(weights: Any, bias: Any) -> Any:
    torch = torch_module()
    scales = weights.abs().amax(1).clamp_min(1e-30) / 127
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():
        # Deprecated in favour of a package that cannot run on a CPU at this speed; `_without_int8` sees it go.
        warnings.simplefilter("ignore")
        rounded = torch.quantize_per_channel(weights, scales, zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(rounded, bias)


def nt() -> Aten:
    """Return the baseline: `F.linear`."""
    return Aten("aten.nt")


def nn() -> Aten:
    """Return the product with transposed weights."""
    return Aten("aten.nn", form="transposed")


def tn() -> Aten:
    """Return the product with swapped operands."""
    return Aten("aten.tn")


def int8_dynamic() -> Int8Dynamic:
    """Return the product in int8."""
    return Int8Dynamic()

"""Weights packed by oneDNN, in f32 and in bf16, through torch's private operators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from mlsysopt.compile.variants.products import float_error, following, matrix, refused, torch_module, vector
from mlsysopt.compile.variants.site import Call, Packed, Refusal, Site
from mlsysopt.graph.symbolic import Dim

__all__ = ["bf16", "packed"]

# Activation -> the operator's words for it. relu is not among them: theirs turns NaN into 0.
_ATTRIBUTES = {
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
    "sigmoid": ("sigmoid", ""),
}


@dataclass(frozen=True)
class OneDnn:
    """A product with weights that oneDNN has packed.

    Attributes:
        narrow: Whether operands are rounded to bf16; the result is f32.
    """

    name: str
    form: str
    narrow: bool = False
    version: str = "1"
    ops: tuple[str, ...] = ("linear",)
    native: bool = False

    @property
    def weight_bytes(self) -> int:
        return 2 if self.narrow else 4

    def supports(self, site: Site) -> Refusal | None:
        if not site.constant_weights:
            return Refusal("weights that vary cannot be packed beforehand")
        if site.size("K") == 0 or site.size("N") == 0:
            return Refusal("empty weights")
        return refused(site) or (_without_bf16() if self.narrow else None) or _unusable(self.narrow)

    def prepare(self, weights: Any, bias: Any, site: Site) -> Packed:
        torch = torch_module()
        held = matrix(weights)
        held = (held.bfloat16() if self.narrow else held).contiguous()
        with torch.inference_mode():
            # No hint of rows: packed for one row, a product of 4 to 16 rows takes up to twice as long.
            made = torch.ops.mkldnn._reorder_linear_weight.default(held)
        return Packed(self.form, made, held.nbytes)

    def scratch_bytes(self, site: Site) -> Dim:
        rounded = Dim.of(2) * site.size("M") * (site.size("K") + site.size("N"))
        return rounded if self.narrow else Dim.of(0)

    def bind(self, site: Site, packed: Packed, bias: Any | None) -> Call:
        torch = torch_module()
        product = torch.ops.mkldnn._linear_pointwise.default
        made, added = packed.data, vector(bias, site)
        if not self.narrow:
            attribute, algorithm = _ATTRIBUTES.get(site.epilogue.activation, ("none", ""))
            after = following(site.epilogue, done=site.epilogue.activation if attribute != "none" else "")
            if after is None:
                return lambda x, residual=None: product(x, made, added, attribute, [], algorithm)
            return lambda x, residual=None: after(product(x, made, added, attribute, [], algorithm), residual)
        after, rounded = following(site.epilogue), torch.bfloat16

        def call(x: Any, residual: Any = None) -> Any:
            y = product(x.to(rounded), made, None, "none", [], "").float()
            y = y if added is None else y.add_(added)
            return y if after is None else after(y, residual)

        return call

    def block_rows(self, site: Site) -> int:
        return 1

    def error(self, site: Site) -> float:
        # bf16 keeps 8 bits: of both operands, and of the finished sum.
        return 2e-2 if self.narrow else float_error(site)


def _without_bf16() -> Refusal | None:
    from mlsysopt.core.measure import machine

    return None if machine().multiplies_bf16 else Refusal("this processor has no dot product of bf16")


@cache
def _unusable(narrow: bool) -> Refusal | None:
    try:
        torch = torch_module()
        made = bf16() if narrow else packed()
        site = Site.linear(3, 24, 40)
        weights, x = torch.linspace(-1, 1, 24 * 40).sin().view(24, 40), torch.linspace(0, 9, 120).cos().view(3, 40)
        with torch.inference_mode():
            found = made.bind(site, made.prepare(weights, None, site), None)(x)
            wrong = float((found - x @ weights.t()).abs().max())
    except (ImportError, AttributeError, RuntimeError, NotImplementedError) as error:
        return Refusal(f"torch has no oneDNN products here: {str(error).splitlines()[0]}")
    return None if wrong < (0.3 if narrow else 1e-3) else Refusal("oneDNN's packed products are wrong here")


def packed() -> OneDnn:
    """Return the product with weights that oneDNN has packed, in f32."""
    return OneDnn("onednn.packed", "onednn.f32")


def bf16() -> OneDnn:
    """Return the product in bf16, for processors with a dot product of it."""
    return OneDnn("onednn.bf16", "onednn.bf16", narrow=True)

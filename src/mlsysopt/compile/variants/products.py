"""What the variants that run in torch's libraries have in common: operands, the epilogue afterwards, the errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mlsysopt.compile.errors import InputError
from mlsysopt.compile.variants.site import Epilogue, Refusal, Site
from mlsysopt.core.errors import MissingExtra

__all__ = ["ACTIVATIONS", "float_error", "following", "matrix", "refused", "rows_of", "vector"]

ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")

Apply = Callable[[Any, Any], Any]
"""A fresh product and the residual -> the result."""


def refused(site: Site) -> Refusal | None:
    """Return why no variant of this package does a site; None when one may."""
    if site.op != "linear":
        return Refusal(f"it does linear products, not {site.op}")
    if site.dtype != "f32":
        return Refusal(f"operands must be f32, not {site.dtype}")
    if site.epilogue.activation not in ACTIVATIONS:
        return Refusal(f"unknown activation {site.epilogue.activation!r}")
    if not (site.size("K").is_constant and site.size("N").is_constant):
        return Refusal("K and N must be known")
    return None


def matrix(weights: Any) -> Any:
    """Return weights [N, K] as an f32 tensor on the same memory where that is possible.

    Raises:
        InputError: another rank.
    """
    torch = torch_module()
    found = weights.detach() if isinstance(weights, torch.Tensor) else torch.from_numpy(weights)
    if found.dim() != 2:
        raise InputError(f"weights must be a matrix [N, K], got rank {found.dim()}")
    return found.to(torch.float32)


def vector(bias: Any, site: Site) -> Any:
    """Return the bias of a site as an f32 tensor, None where the site has none.

    Raises:
        InputError: the site has a bias and none is given, or one of another length.
    """
    if not site.epilogue.bias:
        return None
    n = site.number("N")
    if bias is None or tuple(bias.shape) != (n,):
        given = "none" if bias is None else f"shape {tuple(bias.shape)}"
        raise InputError(f"{site}: a bias of shape ({n},) is needed, got {given}")
    torch = torch_module()
    found = bias.detach() if isinstance(bias, torch.Tensor) else torch.from_numpy(bias)
    return found.to(torch.float32)


def following(epilogue: Epilogue, *, done: str = "") -> Apply | None:
    """Return what is still to be done to a fresh product, None for nothing.

    Args:
        epilogue: What the site asks for; its bias has been added.
        done: The activation that the product has had already.
    """
    activate = None if epilogue.activation in ("", done) else _activation(epilogue.activation)
    if activate is None:
        return (lambda y, residual: y.add_(residual)) if epilogue.residual else None
    if epilogue.residual:
        return lambda y, residual: activate(y).add_(residual)
    return lambda y, residual: activate(y)


def rows_of(site: Site, otherwise: int) -> int:
    """Return the rows of a site, or something else where they vary."""
    rows = site.size("M").constant
    return otherwise if rows is None else rows


def float_error(site: Site) -> float:
    """Return the largest error to expect of f32 sums of K products, relative to the result's root mean square.

    The sums of a library run in some tens of lanes and blocks, so that errors grow like a walk, not like a line;
    the factor holds the largest of some million results.
    """
    return max(2e-6, 3e-7 * math.sqrt(site.number("K")))


def torch_module() -> Any:
    """Import torch.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra.of("this variant", "compile") from error
    return torch


def _activation(name: str) -> Callable[[Any], Any]:
    torch = torch_module()
    functional = torch.nn.functional
    return {
        "relu": torch.relu_,
        "gelu": functional.gelu,
        "gelu_tanh": lambda y: functional.gelu(y, approximate="tanh"),
        "silu": lambda y: functional.silu(y, inplace=True),
        "tanh": torch.tanh_,
        "sigmoid": torch.sigmoid_,
    }[name]

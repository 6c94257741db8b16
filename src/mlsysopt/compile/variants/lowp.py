"""Generated products whose weights are narrow: fewer bytes to read, sums in f32."""

from __future__ import annotations

from mlsysopt.compile.variants.panel import Panel

__all__ = ["bf16w", "int8w"]


def bf16w() -> Panel:
    """Return the product with weights in bf16.

    A weight is off by at most 2^-9 of itself, the largest of some million sums by some five times what one is on
    average. With AVX512_BF16 that goes for x too, where there are more rows than one block has: twice the products.
    """
    return Panel("panel.bf16w", weights="bf16", weight_bytes=2, relative_error=2e-2, version="2")


def int8w() -> Panel:
    """Return the product with weights in int8, one scale for each output feature.

    A weight is off by at most 1/254 of the largest of its row: the error depends on how far the largest stands out,
    which is for a check of the output to find; this is for weights that are normally distributed.
    """
    return Panel("panel.int8w", weights="int8", weight_bytes=1, relative_error=8e-2)

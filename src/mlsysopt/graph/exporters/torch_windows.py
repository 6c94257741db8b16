"""Convolution and pooling in torch, also with the uneven padding that torch's own functions do not know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["adaptive_avg_pool", "avg_pool", "conv", "conv_transpose", "max_pool", "torch_pads"]

Attrs: TypeAlias = Mapping[str, Any]


def _pairs(attrs: Attrs, spatial: int) -> list[tuple[int, int]]:
    return list(attrs["padding"]) or [(0, 0)] * spatial


def _each(attrs: Attrs, name: str, spatial: int, otherwise: int = 1) -> list[int]:
    return list(attrs[name]) or [otherwise] * spatial


def torch_pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    # torch lists the last axis first.
    return [amount for pair in reversed(pairs) for amount in pair]


def conv(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    x, w, *bias = xs
    spatial = w.dim() - 2
    pairs = _pairs(attrs, spatial)
    if any(before != after for before, after in pairs):
        x, pairs = F.pad(x, torch_pads(pairs)), [(0, 0)] * spatial
    function = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    return function(
        x, w, bias[0] if bias else None, _each(attrs, "strides", spatial), [before for before, _ in pairs],
        _each(attrs, "dilation", spatial), attrs["groups"],
    )  # fmt: skip


def conv_transpose(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    x, w, *bias = xs
    spatial = w.dim() - 2
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
    # Everything that the input reaches, then cut to what is asked for: that also covers uneven padding.
    y = function(x, w, None, _each(attrs, "strides", spatial), 0, 0, attrs["groups"], _each(attrs, "dilation", spatial))
    extra = _each(attrs, "output_padding", spatial, 0)
    cuts = [(-before, more - after) for (before, after), more in zip(_pairs(attrs, spatial), extra, strict=True)]
    y = F.pad(y, torch_pads(cuts)) if any(cut != (0, 0) for cut in cuts) else y
    return y + bias[0].reshape(-1, *[1] * spatial) if bias else y


def _windows(x: Tensor, attrs: Attrs) -> tuple[list[int], list[int], list[tuple[int, int]], list[int], list[int]]:
    """Return kernel, strides, padding, dilation, and what to add behind each axis so that whole windows fit."""
    kernel = list(attrs["kernel"])
    spatial = len(kernel)
    strides, pairs = _each(attrs, "strides", spatial), _pairs(attrs, spatial)
    dilation = _each(attrs, "dilation", spatial) if "dilation" in attrs else [1] * spatial
    behind: list[int] = []
    for i, (before, after) in enumerate(pairs):
        size, extent, stride = x.shape[2 + i], dilation[i] * (kernel[i] - 1) + 1, strides[i]
        if attrs["ceil_mode"]:
            count = -(-(size + before + min(0, stride + after - extent)) // stride)
        else:
            count = (size + before + after - extent) // stride + 1
        behind.append((count - 1) * stride + extent - size - before)
    return kernel, strides, pairs, dilation, behind


def _native(attrs: Attrs) -> bool:
    pairs, kernel = _pairs(attrs, len(attrs["kernel"])), attrs["kernel"]
    return all(before == after and before <= k // 2 for (before, after), k in zip(pairs, kernel, strict=True))


def max_pool(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    (x,) = xs
    spatial = len(attrs["kernel"])
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]
    if _native(attrs):
        return function(
            x, list(attrs["kernel"]), _each(attrs, "strides", spatial), [p for p, _ in _pairs(attrs, spatial)],
            _each(attrs, "dilation", spatial), ceil_mode=attrs["ceil_mode"],
        )  # fmt: skip
    kernel, strides, pairs, dilation, behind = _windows(x, attrs)
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    x = F.pad(x, torch_pads([(before, more) for (before, _), more in zip(pairs, behind, strict=True)]), value=lowest)
    return function(x, kernel, strides, 0, dilation)


def avg_pool(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    (x,) = xs
    spatial = len(attrs["kernel"])
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
    if _native(attrs):
        return function(
            x, list(attrs["kernel"]), _each(attrs, "strides", spatial), [p for p, _ in _pairs(attrs, spatial)],
            attrs["ceil_mode"], attrs["count_include_pad"],
        )  # fmt: skip
    kernel, strides, pairs, _, behind = _windows(x, attrs)

    def means(y: Tensor, edges: Sequence[tuple[int, int]]) -> Tensor:
        return function(F.pad(y, torch_pads(edges)), kernel, strides)

    whole = [(before, more) for (before, _), more in zip(pairs, behind, strict=True)]
    # The share of each window that counts: padding only on request, what hangs over never.
    ones = torch.ones_like(x[:1, :1])
    if attrs["count_include_pad"]:
        ones = F.pad(ones, torch_pads(pairs), value=1)
        edges = [(0, more - after) for (_, after), more in zip(pairs, behind, strict=True)]
    else:
        edges = whole
    return means(x, whole) / means(ones, edges)


def adaptive_avg_pool(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    functions = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    function: Any = functions[len(attrs["output"]) - 1]
    return function(xs[0], list(attrs["output"]))

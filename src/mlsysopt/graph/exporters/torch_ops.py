"""What each core op is in torch: one table from kind to function."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from mlsysopt.graph.exporters.torch_windows import (
    adaptive_avg_pool,
    avg_pool,
    conv,
    conv_transpose,
    max_pool,
    torch_pads,
)

__all__ = ["Run", "lookup_torch"]

Attrs: TypeAlias = Mapping[str, Any]
Run: TypeAlias = Callable[[Sequence[Any], Attrs, Tensor], Any]
"""Takes operands, attributes with numbers for sizes, and a tensor whose type and device new ones follow."""


def lookup_torch(kind: str) -> Run | None:
    """Return the function of a kind, None when it has no form in torch."""
    return _TABLE.get(kind)


def _plain(function: Callable[..., Any]) -> Run:
    return lambda xs, attrs, like: function(*xs)


def _with(function: Callable[..., Any], **names: str) -> Run:
    """Call with attributes under torch's names for them: `torch's = ours`."""
    return lambda xs, attrs, like: function(*xs, **{theirs: attrs[ours] for theirs, ours in names.items()})


def _element(dtype: Any, like: Tensor) -> Any:
    return like.dtype if dtype is None else dtype


# reductions


def _over_axes(function: Callable[..., Tensor]) -> Run:
    def run(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
        (x,) = xs
        # No axes means none here and all of them in torch.
        return function(x, attrs["axes"], attrs["keepdims"]) if attrs["axes"] else x

    return run


def _one_by_one(function: Callable[..., Tensor]) -> Run:
    def run(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
        (x,) = xs
        for axis in sorted(attrs["axes"], reverse=True):
            x = function(x, axis, keepdim=attrs["keepdims"])
        return x

    return run


def _var(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    (x,) = xs
    axes = attrs["axes"]
    count = math.prod(x.shape[axis] for axis in axes)
    centred = x - x.mean(axes, keepdim=True) if axes else torch.zeros_like(x)
    total = (centred * centred).sum(axes, keepdim=attrs["keepdims"]) if axes else centred
    return total / max(count - attrs["correction"], 0)


# contraction


def _matmul(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    a, b = xs
    return torch.matmul(a.mT if attrs["transpose_a"] else a, b.mT if attrs["transpose_b"] else b)


# movement


def _slice(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    parts = zip(attrs["starts"], attrs["limits"], attrs["strides"], strict=True)
    return xs[0][tuple([slice(*part) for part in parts])]


def _pad(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    (x,) = xs
    if attrs["mode"] == "constant":
        if x.dtype is torch.bool:
            return F.pad(x.to(torch.uint8), torch_pads(attrs["padding"]), value=int(attrs["value"])).bool()
        return F.pad(x, torch_pads(attrs["padding"]), value=attrs["value"])
    for axis, (before, after) in enumerate(attrs["padding"]):
        if before or after:
            last = x.shape[axis] - 1
            places = torch.arange(-before, last + 1 + after, device=x.device)
            reflected = last - (last - places.abs()).abs()
            x = x.index_select(axis, reflected if attrs["mode"] == "reflect" else places.clamp(0, last))
    return x


def _iota(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    shape, axis = attrs["shape"], attrs["axis"]
    line = torch.arange(shape[axis], dtype=_element(attrs["dtype"], like), device=like.device)
    return line.reshape([-1, *[1] * (len(shape) - axis - 1)]).expand(shape)


def _full(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    return torch.full(attrs["shape"], attrs["value"], dtype=_element(attrs["dtype"], like), device=like.device)


def _size(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    return torch.full((), attrs["dim"], dtype=torch.int64, device=like.device)


# places


def _forward(indices: Tensor, size: int) -> Tensor:
    # Our indices may count from the end.
    return torch.where(indices < 0, indices + size, indices).to(torch.int64)


def _gather(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    x, indices = xs
    return x[(*[slice(None)] * attrs["axis"], indices.to(torch.int64))]


def _gather_elements(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    x, indices = xs
    return torch.gather(x, attrs["axis"], _forward(indices, x.shape[attrs["axis"]]))


def _embedding(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    table, ids = xs
    return F.embedding(ids.to(torch.int64), table) if table.dim() == 2 else table[ids.to(torch.int64)]


def _scatter(name: str) -> Run:
    def run(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
        x, indices, updates = xs
        return getattr(torch, name)(x, attrs["axis"], _forward(indices, x.shape[attrs["axis"]]), updates)

    return run


# composites


def _layer_norm(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    x, *weights = xs
    return F.layer_norm(x, x.shape[x.dim() - len(attrs["axes"]) :], *weights, eps=attrs["eps"])


def _rms_norm(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    x, *weights = xs
    return F.rms_norm(x, list(x.shape[x.dim() - len(attrs["axes"]) :]), *weights, eps=attrs["eps"])


def _batch_norm(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    return F.batch_norm(*xs, training=False, eps=attrs["eps"])


def _group_norm(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    x, weight, bias = xs
    return F.group_norm(x, attrs["groups"], weight, bias, attrs["eps"])


def _attention(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    q, k, v, *mask = xs
    alone = q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if alone and not (mask and attrs["causal"]):
        return F.scaled_dot_product_attention(
            q, k, v, mask[0] if mask else None, is_causal=attrs["causal"], scale=attrs["scale"]
        )
    scores = q @ k.mT * (attrs["scale"] if attrs["scale"] is not None else q.shape[-1] ** -0.5)
    if attrs["causal"]:
        kept = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~kept, -math.inf)
    for one in mask:
        scores = scores.masked_fill(~one, -math.inf) if one.dtype is torch.bool else scores + one
    allowed = (scores != -math.inf).any(-1, keepdim=True)
    return scores.masked_fill(~allowed, 0).softmax(-1).masked_fill(~allowed, 0) @ v


# quantisation


def _per_axis(numbers: Sequence[float], x: Tensor, axis: int | None, dtype: Any) -> Tensor:
    line = torch.tensor(numbers, dtype=dtype, device=x.device)
    return line.reshape(()) if axis is None else line.reshape([-1, *[1] * (x.dim() - axis - 1)])


def _quantize(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    (x,) = xs
    scale = _per_axis(attrs["scale"], x, attrs["axis"], x.dtype)
    zero = _per_axis(attrs["zero_point"], x, attrs["axis"], x.dtype)
    limits = torch.iinfo(attrs["dtype"])
    return (torch.round(x / scale) + zero).clamp(limits.min, limits.max).to(attrs["dtype"])


def _dequantize(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    (x,) = xs
    dtype = _element(attrs["dtype"], like)
    zero = _per_axis(attrs["zero_point"], x, attrs["axis"], torch.int64)
    return (x.to(torch.int64) - zero).to(dtype) * _per_axis(attrs["scale"], x, attrs["axis"], dtype)


def _opaque(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Any:
    call: Any = torch.ops
    for word in attrs["target"].removeprefix("torch.ops.").replace("::", ".").split("."):
        call = getattr(call, word)

    def given(one: Any) -> Any:
        if isinstance(one, list):
            return [given(item) for item in one]
        if not isinstance(one, dict):
            return one
        ((word, value),) = one.items()
        if word == "operand":
            return xs[value]
        return attrs["sizes"][value] if word == "size" else _named(value, like)

    parsed = json.loads(attrs["arguments"])
    made = call(*map(given, parsed.get("args", [])), **{k: given(v) for k, v in parsed.get("kwargs", {}).items()})
    return tuple(made) if isinstance(made, (tuple, list)) else made


def _named(name: str, like: Tensor) -> Any:
    return like.dtype if name == "float32" else getattr(torch, name)


def _cast(xs: Sequence[Tensor], attrs: Attrs, like: Tensor) -> Tensor:
    return xs[0].to(_element(attrs["to"], like))


_SAME_NAME = (
    "abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "log", "log1p", "neg", "reciprocal", "round", "rsqrt",
    "sigmoid", "sign", "sin", "sqrt", "tan", "tanh", "where",
)  # fmt: skip

_TABLE: dict[str, Run] = {
    # elementwise
    "add": _plain(torch.add),
    "sub": _plain(torch.sub),
    "mul": _plain(torch.mul),
    "div": _plain(torch.div),
    "floordiv": lambda xs, attrs, like: torch.div(xs[0], xs[1], rounding_mode="floor"),
    "mod": _plain(torch.remainder),
    "pow": _plain(torch.pow),
    "maximum": _plain(torch.maximum),
    "minimum": _plain(torch.minimum),
    **{kind: _plain(getattr(torch, kind)) for kind in ("eq", "ne", "lt", "le", "gt", "ge")},
    "and": _plain(torch.bitwise_and),
    "or": _plain(torch.bitwise_or),
    "xor": _plain(torch.bitwise_xor),
    **{kind: _plain(getattr(torch, kind)) for kind in _SAME_NAME},
    "not": _plain(torch.logical_not),
    "is_nan": _plain(torch.isnan),
    "cast": _cast,
    "clip": lambda xs, attrs, like: torch.clamp(xs[0], attrs["low"], attrs["high"]),
    "relu": _plain(F.relu),
    "gelu": _with(F.gelu, approximate="approximate"),
    "silu": _plain(F.silu),
    "hardswish": _plain(F.hardswish),
    "hardsigmoid": _plain(F.hardsigmoid),
    "leaky_relu": _with(F.leaky_relu, negative_slope="slope"),
    "elu": _with(F.elu, alpha="alpha"),
    # reductions
    "sum": _over_axes(lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype)),
    "mean": _over_axes(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "max": _over_axes(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "min": _over_axes(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "prod": _one_by_one(lambda x, axis, keepdim: torch.prod(x, axis, keepdim=keepdim, dtype=x.dtype)),
    "any": _one_by_one(torch.any),
    "all": _one_by_one(torch.all),
    "var": _var,
    "argmax": _with(torch.argmax, dim="axis", keepdim="keepdims"),
    "argmin": _with(torch.argmin, dim="axis", keepdim="keepdims"),
    "cumsum": lambda xs, attrs, like: xs[0].cumsum(attrs["axis"], dtype=xs[0].dtype),
    # contraction and pooling
    "matmul": _matmul,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "adaptive_avg_pool": adaptive_avg_pool,
    # movement
    "reshape": _with(torch.reshape, shape="shape"),
    "transpose": _with(torch.permute, dims="perm"),
    "broadcast": lambda xs, attrs, like: xs[0].expand(attrs["shape"]),
    "slice": _slice,
    "concat": lambda xs, attrs, like: torch.cat(list(xs), attrs["axis"]),
    "split": lambda xs, attrs, like: tuple(torch.split(xs[0], list(attrs["sizes"]), attrs["axis"])),
    "pad": _pad,
    "flip": _with(torch.flip, dims="axes"),
    "iota": _iota,
    "full": _full,
    "size": _size,
    # places
    "gather": _gather,
    "gather_elements": _gather_elements,
    "scatter_add": _scatter("scatter_add"),
    "scatter": _scatter("scatter"),
    "embedding": _embedding,
    "nonzero": lambda xs, attrs, like: torch.nonzero(xs[0]).mT,
    "masked_select": _plain(torch.masked_select),
    # composites
    "softmax": _with(torch.softmax, dim="axis"),
    "log_softmax": _with(torch.log_softmax, dim="axis"),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "linear": _plain(F.linear),
    "attention": _attention,
    "cross_entropy": lambda xs, attrs, like: F.cross_entropy(
        xs[0], xs[1].to(torch.int64), ignore_index=-(2**31), reduction=attrs["reduction"]
    ),
    "quantize": _quantize,
    "dequantize": _dequantize,
    "opaque.aten": _opaque,
}

"""Every operator means the same before import, after it, and exported to torch again.

Many small functions share one trace, since tracing is what takes the time; a failure names the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlsysopt.graph.exporters import to_torch
from mlsysopt.graph.importers import from_torch
from mlsysopt.graph.interpreter import interpret
from mlsysopt.graph.types import f32, i32, i64
from tests.graph.importers.torch_checks import AT, B, Many, S, check, filled


def test_functions_of_one_number() -> None:
    names = [
        "abs",
        "ceil",
        "cos",
        "erf",
        "exp",
        "expm1",
        "floor",
        "neg",
        "relu",
        "round",
        "sigmoid",
        "sign",
        "sin",
        "square",
        "tan",
        "tanh",
        "trunc",
        "erfc",
        "isnan",
        "isinf",
        "exp2",
        "logical_not",
        "sgn",
    ]
    functions: dict[str, Callable[..., Any]] = {name: getattr(torch, name) for name in names}
    functions |= {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "hardswish": F.hardswish,
        "hardsigmoid": F.hardsigmoid,
        "hardtanh": F.hardtanh,
        "relu6": F.relu6,
        "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
        "elu": lambda x: F.elu(x, 1.3),
        "selu": F.selu,
        "mish": F.mish,
        "softplus": F.softplus,
        "softplus_beta": lambda x: F.softplus(x, 2.0),
        "softsign": F.softsign,
        "logsigmoid": F.logsigmoid,
        "tanhshrink": F.tanhshrink,
        "clamp": lambda x: x.clamp(-0.5, 0.7),
        "clamp_min": lambda x: x.clamp_min(0.1),
        "clamp_max": lambda x: x.clamp(max=0.1),
        "cube": lambda x: x**3,
        "one": lambda x: x**1,
        "base": lambda x: 2.0**x,
        "to_int": lambda x: (x * 3).to(torch.int64),
        "to_bool": lambda x: x.round().bool(),
        "identity": lambda x: F.dropout(x.clone().contiguous().detach(), training=False) * 1,
        "masked_fill": lambda x: x.masked_fill(x > 0, -7.5),
        "where": lambda x: torch.where(x > 0.2, x, 0.0),
        "rsub": lambda x: 1 - x,
        "alpha": lambda x: torch.add(x, x, alpha=3),
        "size": lambda x: x * x.shape[1] + x.shape[0],
        "lerp": lambda x: torch.lerp(x, x * x, 0.3),
        "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
        "addcdiv": lambda x: torch.addcdiv(x, x, x * x + 1, value=0.5),
    }
    check(functions, f32[B, S, 6])


def test_functions_of_positive_numbers() -> None:
    names = ["log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal"]
    functions = {name: getattr(torch, name) for name in names}
    functions |= {"root": lambda x: x**0.5, "inverse": lambda x: x**-0.5, "power": lambda x: x**1.7}
    check(functions, f32[B, S], positive=True)


def test_arithmetic_of_two() -> None:
    check(
        {
            "add": lambda x, y: x + y,
            "sub": lambda x, y: x - y,
            "mul": lambda x, y: x * y,
            "div": lambda x, y: x / (y.abs() + 1),
            "floor_divide": lambda x, y: torch.floor_divide(x, y.abs() + 1),
            "div_trunc": lambda x, y: torch.div(x, y.abs() + 1, rounding_mode="trunc"),
            "remainder": lambda x, y: torch.remainder(x, y.abs() + 1),
            "fmod": lambda x, y: torch.fmod(x, y.abs() + 1),
            "pow": lambda x, y: (x.abs() + 0.5) ** y,
            "maximum": torch.maximum,
            "minimum": torch.minimum,
            "max_other": torch.max,
            "eq": lambda x, y: x.round() == y.round(),
            "ne": lambda x, y: x.round() != y.round(),
            "lt": torch.lt,
            "le": torch.le,
            "gt": torch.gt,
            "ge": torch.ge,
            "logical_and": lambda x, y: torch.logical_and(x > 0, y > 0),
            "logical_or": lambda x, y: torch.logical_or(x > 0, y > 0),
            "xor": lambda x, y: (x > 0) ^ (y > 0),
            "both": lambda x, y: (x > 0) & (y > 0) | ~(x > 1),
            "clamp_tensor": lambda x, y: torch.clamp(x, y - 0.3, y + 0.3),
            "mse": lambda x, y: F.mse_loss(x[:, :1], y),
            "outer": lambda x, y: torch.outer(x[0, :, 0], y[0, 0]),
        },
        f32[B, S, 4],
        f32[B, 1, 4],
    )


def test_integers_promote_as_in_torch() -> None:
    check(
        {
            "add": lambda x, y: x + y,
            "true_division": lambda x, y: (x / (y.abs() + 1)).to(torch.float64),
            "floor_divide": lambda x, y: torch.div(x, y.abs() + 1, rounding_mode="floor"),
            "trunc": lambda x, y: torch.div(x, y.abs() + 1, rounding_mode="trunc"),
            "remainder": lambda x, y: x % (y.abs() + 2),
            "wide": lambda x, y: x * 3 - 1,
            "compare": lambda x, y: x < y,
            "compare_float": lambda x, y: x < 0.5,
            "sum": lambda x, y: y.sum(1),
            "sum_bool": lambda x, y: (x > 0).sum(dim=-1),
            "any": lambda x, y: x.any(dim=0),
            "all": lambda x, y: x.all(1, keepdim=True),
            "prod": lambda x, y: x.prod(1),
            "cumsum": lambda x, y: y.cumsum(1),
            "bitwise": lambda x, y: (x & y) | (x ^ 3),
            "invert": lambda x, y: ~x,
            "relu": lambda x, y: torch.relu(x),
            "abs": lambda x, y: x.abs() + x.sign(),
        },
        i64[B, S],
        i32[B, S],
    )


def test_reductions() -> None:
    check(
        {
            "sum": lambda x: x.sum(),
            "sum_axes": lambda x: x.sum((0, 2), keepdim=True),
            "mean": lambda x: x.mean(-1),
            "mean_all": lambda x: x.mean(),
            "amax": lambda x: x.amax((1, 2)),
            "amin": lambda x: x.amin(0, keepdim=True),
            "max_axis": lambda x: x.max(1).values,
            "max_place": lambda x: x.max(1).indices,
            "min_both": lambda x: x.min(2).values + x.min(2).indices,
            "max_all": lambda x: x.max(),
            "argmax": lambda x: x.argmax(1),
            "argmax_all": lambda x: x.argmax(),
            "argmin_keep": lambda x: x.argmin(-1, keepdim=True),
            "prod": lambda x: x.prod(2),
            "var": lambda x: x.var(2),
            "var_all": lambda x: x.var(),
            "var_biased": lambda x: x.var(1, correction=0),
            "std": lambda x: x.std((1, 2), keepdim=True),
            "var_mean": lambda x: torch.var_mean(x, 2)[0] + torch.var_mean(x, 2)[1],
            "norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
            "norm_one": lambda x: torch.linalg.vector_norm(x, 1, dim=1),
            "norm_most": lambda x: torch.linalg.vector_norm(x, math.inf),
            "normalize": lambda x: F.normalize(x, dim=-1),
            "logsumexp": lambda x: torch.logsumexp(x, 1),
            "any": lambda x: (x > 1).any(),
            "all": lambda x: (x > -1).all(-1),
            "cumsum": lambda x: x.cumsum(1),
            "softmax": lambda x: x.softmax(1),
            "log_softmax": lambda x: F.log_softmax(x, -1),
            "softmin": lambda x: F.softmin(x, -1),
        },
        f32[B, S, 6],
    )


def test_views_and_moves() -> None:
    check(
        {
            "view": lambda x: x.view(x.shape[0], -1),
            "flatten": lambda x: x.flatten(1),
            "unflatten": lambda x: x.unflatten(2, (2, -1)),
            "squeeze": lambda x: x.unsqueeze(1).unsqueeze(-1).squeeze(1).squeeze((2, 3)),
            "transpose": lambda x: x.transpose(0, 2).permute(1, 0, 2).mT,
            "expand": lambda x: x[:, :, None].expand(-1, -1, 3, -1),
            "slice": lambda x: x[:, 1:, :-2],
            "last": lambda x: x[:, -1],
            "behind": lambda x: x[:, -2:, 1::2],
            "select": lambda x: x[0, :, 3],
            "narrow": lambda x: x.narrow(2, 1, 4),
            "cat": lambda x: torch.cat([x, x[:, :1], x * 2], 1),
            "stack": lambda x: torch.stack([x, -x], 1),
            "split": lambda x: torch.cat(list(reversed(x.split(4, 2))), 2),
            "split_sizes": lambda x: x.split([1, 2, 3], -1)[1] * x.split([1, 2, 3], -1)[1],
            "chunk": lambda x: x.chunk(3, -1)[2] - x.chunk(3, -1)[0],
            "unbind": lambda x: x.unbind(2)[4] + x.unbind(2)[1],
            "flip": lambda x: x.flip(0, 2),
            "roll": lambda x: x.roll(2, 2),
            "roll_symbol": lambda x: x.roll((1, -1), (1, 2)),
            "repeat": lambda x: x.repeat(2, 1, 3),
            "repeat_more": lambda x: x.repeat(3, 1, 1, 1),
            "repeat_interleave": lambda x: x.repeat_interleave(3, 2),
            "tile": lambda x: x.tile(2),
            "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=1.5),
            "crop": lambda x: F.pad(x, (-1, 2)),
            "reflect": lambda x: F.pad(x, (2, 1), mode="reflect"),
            "edge": lambda x: F.pad(x, (1, 2), mode="replicate"),
            "tril": lambda x: x.tril(),
            "triu": lambda x: x.triu(1),
            "movedim": lambda x: x.movedim(0, -1),
            "movedims": lambda x: x.movedim((0, 2), (2, 1)),
            "mesh": lambda x: torch.meshgrid(x[0, :, 0], x[0, 0], indexing="ij")[0],
            "mesh_turned": lambda x: torch.meshgrid(x[0, :, 0], x[0, 0], x[0, 1, :2], indexing="xy")[1],
            "set_slice": lambda x: torch.slice_scatter(x, x[:, :1] * 2, 1, 0, 1),
            "set_row": lambda x: torch.select_scatter(x, x[:, 0] * 3, 1, 1),
        },
        f32[B, S, 6],
    )


def test_tensors_made_from_sizes() -> None:
    check(
        {
            "zeros": lambda x: torch.zeros(x.shape[0], 2) + x[:, :2],
            "ones": lambda x: x.new_ones(3, x.shape[1]) * 2,
            "full_like": lambda x: torch.full_like(x, 2.5),
            "zeros_like": torch.zeros_like,
            "ones_like": lambda x: torch.ones_like(x, dtype=torch.int64),
            "arange": lambda x: torch.arange(x.shape[1]),
            "arange_step": lambda x: torch.arange(1, x.shape[1] * 2, 2),
            "arange_down": lambda x: torch.arange(5, 0, -2),
            "arange_float": lambda x: x + torch.arange(x.shape[1], dtype=x.dtype),
            "eye": lambda x: torch.eye(4),
            "number": lambda x: torch.tensor(3.5) + x,
            "size_tensor": lambda x: torch.scalar_tensor(x.shape[1], dtype=torch.int64),
            "sinusoid": lambda x: torch.outer(torch.arange(x.shape[1]), torch.arange(3)).to(x.dtype).sin(),
            "one_hot": lambda x: F.one_hot((x > 0).long(), 3),
            "causal": lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(),
        },
        f32[B, S],
    )


def test_places() -> None:
    check(
        {
            "gather": lambda x, y: x.gather(1, y % x.shape[1]),
            "gather_shorter": lambda x, y: x.gather(1, (y % x.shape[1])[:1]),
            "index": lambda x, y: x[:, y[0] % x.shape[1]],
            "index_negative": lambda x, y: x.flatten()[torch.tensor([0, -1])],
            "index_select": lambda x, y: torch.index_select(x, 1, y[0] % x.shape[1]),
            "index_pair": lambda x, y: x[y[:, 0] % x.shape[0], y[:, 1] % x.shape[1]],
            "index_wide": lambda x, y: x[torch.arange(x.shape[0])[:, None], y % x.shape[1]],
            "index_view": lambda x, y: x[torch.arange(x.shape[0])[:, None, None], torch.arange(x.shape[1])[None, None]],
            "embedding": lambda x, y: F.embedding(y % 2, x[:1].T),
            "scatter_one": lambda x, y: x.scatter(1, (y % x.shape[1])[:, :1], 2.5),
            "scatter_one_tensor": lambda x, y: x.scatter(1, (y % x.shape[1])[:, :1], x * 2),
            "scatter_add": lambda x, y: x.scatter_add(1, y % x.shape[1], x),
            "index_add": lambda x, y: x.index_put((y[:, 0] % x.shape[0],), x, accumulate=True),
            "mask_put": lambda x, y: torch.where(y > 0, x, torch.tensor(2.0, dtype=x.dtype)),
        },
        f32[B, S],
        i64[B, S],
    )


def test_scatter_of_several_elements() -> None:
    check({"scatter": lambda x: x.scatter(1, torch.tensor([[2, 0, 4]]).expand(x.shape[0], 3), x[:, :3] * 2)}, f32[B, 6])


def test_what_torch_has_to_rewrite_first() -> None:
    check(
        {
            "einsum": lambda x: torch.einsum("bse,bte->bst", x, x),
            "pixels": lambda x: F.pixel_shuffle(x[:, :1, :4].reshape(-1, 4, 1, 1), 2),
            "halves": lambda x: F.glu(x),
        },
        f32[B, S, 6],
    )


class Writes(nn.Module):
    """Writes in place: where no other name sees it, through a view, and into a slice."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        alone = x * 2
        alone += 1
        alone.relu_()
        seen = x * 3
        view = seen[:, 1:]
        seen.mul_(2)
        twin = x + 0  # imported as the same value, but another tensor
        twin *= 5
        part = x + 0
        part[:, 0] = 7.0
        return {"alone": alone, "view": view + 0, "part": part, "twin": twin + x}


class WritesAlone(nn.Module):
    """Writes in place where no other name sees it; torch need not rewrite anything."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        twin = x + 0  # imported as the same value, but another tensor
        twin *= 5
        named = x * 3
        same = named.relu_()
        same += 1
        return {"twin": twin + x, "named": named, "same": same * x}


class Quietly(nn.Module):
    """Switches gradients off inside, which torch keeps as a program within the program."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.mean(1, keepdim=True)
        return x * scale


@pytest.mark.parametrize("module", [Writes(), WritesAlone(), Quietly()])
def test_writes_in_place_and_inner_programs_become_values(module: nn.Module) -> None:
    graph = from_torch(module.eval(), {"x": f32[B, S]})
    for sizes in AT:
        x = filled(f32[B, S], sizes, 0)
        expected = module(x.clone())
        found = interpret(graph, x=x.numpy())
        for name, tensor in (expected if isinstance(expected, dict) else {"out": expected}).items():
            np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-12)


def test_sizes_that_depend_on_data() -> None:
    functions = {"nonzero": lambda x: torch.nonzero(x > 0.5), "selected": lambda x: x[x > 0] * 2}
    module = Many(functions)
    graph = from_torch(module, {"x": f32[B, S]})
    assert {op.kind for op in graph.ops} >= {"nonzero", "masked_select"}
    again = to_torch(graph).double()
    for sizes in AT:
        x = filled(f32[B, S], sizes, 1)
        found, exported = interpret(graph, x=x.numpy()), again(x)
        for (name, tensor), ours, theirs in zip(module(x).items(), found.values(), exported.values(), strict=True):
            np.testing.assert_allclose(ours, tensor.numpy(), err_msg=name)
            np.testing.assert_allclose(theirs.numpy(), tensor.numpy(), err_msg=name)

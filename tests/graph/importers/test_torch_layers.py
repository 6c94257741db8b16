"""Layers mean the same before import, after it, and exported to torch again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlsysopt.graph.exporters import to_torch
from mlsysopt.graph.importers import from_torch
from mlsysopt.graph.interpreter import interpret, relative_error
from mlsysopt.graph.symbolic import dims
from mlsysopt.graph.types import boolean, f32, i64
from tests.graph.importers.torch_checks import B, Many, S, check


def test_contractions() -> None:
    torch.manual_seed(0)
    layer, weight = nn.Linear(6, 3), torch.randn(5, 6)
    check(
        {
            "matmul": lambda x, y: x @ y.mT,
            "matmul_left": lambda x, y: x.mT @ x,
            "matmul_broadcast": lambda x, y: x[:, None] @ y[:, None].mT,
            "vector": lambda x, y: x @ y[0, 0],
            "vector_left": lambda x, y: y[0, 0] @ x.mT,
            "dot": lambda x, y: torch.dot(x[0, 0], y[0, 0]),
            "mv": lambda x, y: torch.mv(x[0], y[0, 0]),
            "bmm": lambda x, y: torch.bmm(x, y.mT),
            "mm": lambda x, y: torch.mm(x[0], y[0].T),
            "addmm": lambda x, y: torch.addmm(y[0, 0, :2], x[0], y[0].T, beta=0.5, alpha=2),
            "baddbmm": lambda x, y: torch.baddbmm(x[..., :2], x, y.mT),
            "linear": lambda x, y: F.linear(x, weight.to(x.dtype)),
            "linear_vector": lambda x, y: F.linear(x[0, 0], weight.to(x.dtype)),
            "layer": lambda x, y: F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype)),
        },
        f32[B, S, 6],
        f32[B, 2, 6],
    )


def _weights(*shape: int) -> Callable[[Tensor], Tensor]:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return lambda x: made.to(x.dtype)


def test_convolutions() -> None:
    line, image, deep, wide = _weights(4, 6, 3), _weights(6, 2, 3, 2), _weights(5, 6, 3), _weights(4, 6, 4)
    up, volume, point = _weights(6, 2, 3), _weights(2, 3, 1, 2, 2), _weights(4, 6, 1)
    check(
        {
            "conv1d": lambda x: F.conv1d(x, line(x), padding=1),
            "conv_strided": lambda x: F.conv1d(x, line(x), deep(x)[0, :4, 0], stride=2, padding=2, dilation=2),
            "conv_same": lambda x: F.conv1d(x, wide(x), padding="same"),
            "conv_valid": lambda x: F.conv1d(x, point(x), padding="valid"),
            "conv2d": lambda x: F.conv2d(x.reshape(-1, 6, 1, x.shape[2]), image(x), padding=(1, 2), groups=3),
            "conv_single": lambda x: F.conv1d(x[0], line(x), padding=1),
            "conv3d": lambda x: F.conv3d(x.reshape(-1, 3, 2, 1, x.shape[2]), volume(x), padding=(0, 1, 1)),
            "transposed": lambda x: F.conv_transpose1d(x, up(x), padding=1),
            "transposed_more": lambda x: F.conv_transpose1d(
                x, up(x), up(x)[0, :, 0], stride=3, padding=1, output_padding=2, dilation=2
            ),
            "transposed_groups": lambda x: F.conv_transpose2d(
                x.reshape(-1, 6, 1, x.shape[2]), image(x), stride=2, groups=3
            ),
        },
        f32[B, 6, S],
    )


def test_pooling() -> None:
    h, w = dims("H", "W", min=9, max=40)
    functions = {
        "max": lambda x: F.max_pool2d(x, 3, 2, 1),
        "max_dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
        "average": lambda x: F.avg_pool2d(x, 3, 2, 1),
        "average_inside": lambda x: F.avg_pool2d(x, (3, 2), (2, 1), 1, count_include_pad=False),
        "average_line": lambda x: F.avg_pool1d(x[:, :, 0], 2),
        "average_volume": lambda x: F.avg_pool3d(x[:, None], (1, 2, 2)),
        "global": lambda x: F.adaptive_avg_pool2d(x, 1),
        "global_max": lambda x: F.adaptive_max_pool2d(x, 1),
    }
    module = Many(functions)
    graph = from_torch(module, {"x": f32[B, 4, h, w]})
    again = to_torch(graph).double()
    for sizes in ((1, 9, 9), (2, 13, 10), (3, 16, 21)):
        x = torch.randn(sizes[0], 4, *sizes[1:], dtype=torch.float64)
        found, exported = interpret(graph, x=x.numpy()), again(x)
        for (name, truth), ours, theirs in zip(module(x).items(), found.values(), exported.values(), strict=True):
            assert relative_error(ours, truth.numpy()) < 1e-9, name
            assert relative_error(theirs.numpy(), truth.numpy()) < 1e-9, name


def test_pooling_to_given_and_rounded_up_sizes() -> None:
    check(
        {
            "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
            "adaptive_line": lambda x: F.adaptive_avg_pool1d(x[:, 0], 4),
            "max_line": lambda x: F.max_pool1d(x[:, 0], 3),  # torch fixes its length
            "kept": lambda x: F.adaptive_avg_pool2d(x, (7, None)),
            "ceil": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
            "ceil_average": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
            "ceil_average_inside": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        },
        f32[B, 4, 7, 10],
    )


def test_normalisations() -> None:
    def numbers(*shape: int) -> Callable[[Tensor], Tensor]:
        return _weights(*shape)

    scale, shift, six, mean, var = numbers(6), numbers(7), numbers(1, 6), numbers(2, 6), numbers(3, 6)
    check(
        {
            "layer_norm": lambda x: F.layer_norm(x, (6,), scale(x), six(x)[0], 1e-3),
            "layer_norm_plain": lambda x: F.layer_norm(x, (6,)),
            "layer_norm_bias": lambda x: F.layer_norm(x, (6,), None, scale(x)),
            "rms_norm": lambda x: F.rms_norm(x, (6,), scale(x), 1e-5),
            "batch_norm": lambda x: F.batch_norm(
                x.mT, mean(x)[0], var(x)[0].abs(), scale(x), six(x)[0], training=False, eps=1e-2
            ),
            "batch_norm_plain": lambda x: F.batch_norm(x.mT, mean(x)[1], var(x)[1].abs(), training=False),
            "group_norm": lambda x: F.group_norm(x.mT, 3, scale(x), six(x)[0]),
            "instance_norm": lambda x: F.instance_norm(x.mT, weight=scale(x)),
            "shifted": lambda x: x + shift(x)[:6],
        },
        f32[B, S, 6],
    )


def test_attention() -> None:
    check(
        {
            "plain": lambda x, y: F.scaled_dot_product_attention(x, x, x),
            "causal": lambda x, y: F.scaled_dot_product_attention(x, x, x, is_causal=True),
            "scaled": lambda x, y: F.scaled_dot_product_attention(x, x * 2, x, scale=0.3),
            "masked": lambda x, y: F.scaled_dot_product_attention(x, x, x, y | (y.cumsum(-1) == 0)),
            "added": lambda x, y: F.scaled_dot_product_attention(x, x, x, y.to(x.dtype) * -2),
            "grouped": lambda x, y: F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:], enable_gqa=True),
        },
        f32[B, 4, S, 8],
        boolean[B, 1, 1, S],
    )


def test_losses() -> None:
    check(
        {
            "cross_entropy": lambda x, y: F.cross_entropy(x, y.abs() % 6),
            "ignored": lambda x, y: F.cross_entropy(x, torch.where(y > 3, -100, y.abs() % 6), reduction="sum"),
            "each": lambda x, y: F.cross_entropy(x, y.abs() % 6, reduction="none"),
            "weighted": lambda x, y: F.cross_entropy(x, y.abs() % 6, torch.arange(6).to(x.dtype)),
            "nll": lambda x, y: F.nll_loss(F.log_softmax(x, 1), y.abs() % 6),
            "pixels": lambda x, y: F.cross_entropy(
                x[..., None].expand(-1, -1, 2), (y.abs() % 6)[:, None].expand(-1, 2)
            ),
        },
        f32[B, 6],
        i64[B],
    )

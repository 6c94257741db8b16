from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mlsysopt.graph import Answer, Facts, boolean, cost, f32, f64, i64
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.symbolic import Dim
from tests.graph.ops.one_op import close, integers, normal, of_arrays, program, run, tensors

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (3, 4)), ((5, 1, 2, 3), (4, 3, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((1, 1), (1, 1))],
    ids=str,
)
def test_matmul_is_torch(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = normal(*a), normal(*b, seed=1)
    wanted = torch.matmul(*tensors(x, y))
    for ta, tb in itertools.product((False, True), repeat=2):
        left = x.swapaxes(-1, -2) if ta else x
        right = y.swapaxes(-1, -2) if tb else y
        close(run("matmul", left, right, transpose_a=ta, transpose_b=tb), wanted)


def test_matmul_of_integers() -> None:
    x, y = integers(3, 4), integers(4, 2, seed=1)
    close(run("matmul", x, y), x @ y)


def test_matmul_ties_the_contracted_size() -> None:
    graph = program("matmul", f32["B", "S", "K"], f32["L", "M"])
    assert str(graph.outputs[0].type) == "f32[B, S, M]"
    assert graph.facts.eq(Dim.of("K"), Dim.of("L")) is Answer.YES


def test_matmul_flops() -> None:
    graph = program("matmul", f32["B", "M", "K"], f32["B", "N", "K"], transpose_b=True)
    assert cost(graph).flops == Dim.parse("2*B*M*N*K")
    assert cost(program("matmul", f32["K", "M"], f32["K", "N"], transpose_a=True)).flops == Dim.parse("2*M*N*K")


SETTINGS = [
    {},
    {"strides": 2},
    {"padding": 1},
    {"strides": 2, "padding": 2, "dilation": 2},
    {"groups": 2},
    {"groups": 4, "padding": 1},
    {"strides": 3, "groups": 4, "dilation": 2, "padding": 2},
]


def of_torch(rank: int, settings: dict[str, int]) -> dict[str, Any]:
    return {"stride" if name == "strides" else name: value for name, value in settings.items()}


def of_ours(rank: int, settings: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "groups":
            found[name] = value
        elif name == "padding":
            found[name] = ((value, value),) * rank
        else:
            found[name] = (value,) * rank
    return found


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_is_torch(rank: int, settings: dict[str, int]) -> None:
    x = normal(2, 4, *(7, 6, 5)[:rank])
    w = normal(8, 4 // settings.get("groups", 1), *(3, 2, 1)[:rank], seed=1)
    bias = normal(8, seed=2)
    wanted = CONV[rank](*tensors(x, w, bias), **of_torch(rank, settings))
    close(run("conv", x, w, bias, **of_ours(rank, settings)), wanted, tolerance=1e-11)
    without = CONV[rank](*tensors(x, w), **of_torch(rank, settings))
    close(run("conv", x, w, symbolic=False, **of_ours(rank, settings)), without, tolerance=1e-11)


@pytest.mark.parametrize("size", range(1, 9))
def test_conv_sizes_follow_the_formula(size: int) -> None:
    one = f64[1, 1, "H"]
    for kernel, stride, pads, dilation in itertools.product((1, 2, 3), (1, 2, 3), ((0, 0), (1, 2)), (1, 2)):
        graph = program("conv", one, f64[1, 1, kernel], strides=(stride,), padding=(pads,), dilation=(dilation,))
        formula = graph.outputs[0].shape[2]
        padded = F.pad(*tensors(normal(1, 1, size)), pads)
        w = normal(1, 1, kernel)
        if padded.shape[-1] < dilation * (kernel - 1) + 1:
            with pytest.raises(GraphError, match="window"):
                run("conv", normal(1, 1, size), w, symbolic=False, **attrs_of(stride, pads, dilation))
            continue
        wanted = F.conv1d(padded, *tensors(w), stride=stride, dilation=dilation)
        assert formula.at(H=size) == wanted.shape[-1]
        close(run("conv", normal(1, 1, size), w, **attrs_of(stride, pads, dilation)), wanted)


def attrs_of(stride: int, pads: tuple[int, int], dilation: int) -> dict[str, Any]:
    return {"strides": (stride,), "padding": (pads,), "dilation": (dilation,)}


def test_conv_of_an_empty_batch() -> None:
    x, w = normal(0, 2, 5), normal(3, 2, 3)
    close(run("conv", x, w), F.conv1d(*tensors(x, w)))


def test_conv_flops() -> None:
    x, w, bias = f32["N", 8, "H", 10], f32[16, 4, 3, 3], f32[16]
    graph = program("conv", x, w, bias, padding=((1, 1), (1, 1)), groups=2)
    assert str(graph.outputs[0].type) == "f32[N, 16, H, 10]"
    pixels = Dim.parse("N*H*160")
    assert cost(graph).flops == pixels * (2 * 4 * 9) + pixels


TRANSPOSED_SETTINGS = [
    {},
    {"strides": 2},
    {"strides": 2, "padding": 1, "output_padding": 1},
    {"strides": 3, "groups": 2, "dilation": 2, "output_padding": 2},
    {"groups": 4, "padding": 1},
]


@pytest.mark.parametrize("settings", TRANSPOSED_SETTINGS, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose_is_torch(rank: int, settings: dict[str, int]) -> None:
    x = normal(2, 4, *(4, 3, 3)[:rank])
    w = normal(4, 3, *(3, 2, 3)[:rank], seed=1)
    bias = normal(3 * settings.get("groups", 1), seed=2)
    wanted = TRANSPOSED[rank](*tensors(x, w, bias), **of_torch(rank, settings))
    graph = of_arrays("conv_transpose", [x, w, bias], **of_ours(rank, settings))
    assert graph.outputs[0].type.at() == tuple(wanted.shape)
    close(run("conv_transpose", x, w, bias, **of_ours(rank, settings)), wanted, tolerance=1e-11)


def test_conv_transpose_is_the_gradient_of_conv() -> None:
    x, w = (one.requires_grad_() for one in tensors(normal(2, 4, 9), normal(6, 2, 3)))
    y = F.conv1d(x, w, stride=2, padding=1, groups=2)
    y.backward(torch.ones_like(y))
    given = np.ones(tuple(y.shape))
    found = run("conv_transpose", given, w.detach().numpy(), strides=(2,), padding=((1, 1),), groups=2)
    assert x.grad is not None
    close(found, x.grad)


@pytest.mark.parametrize(
    ("pattern", "kind", "types", "attrs"),
    [
        ("contracted sizes: 3 and 4 must be equal", "matmul", (f32[2, 3], f32[4, 5]), {}),
        ("reshape vectors to matrices first", "matmul", (f32[3], f32[3, 4]), {}),
        ("matmul: not defined for bool", "matmul", (boolean[2, 2], boolean[2, 2]), {}),
        ("matmul batch: sizes 2 and 3", "matmul", (f32[2, 4, 4], f32[3, 4, 4]), {}),
        ("element types f32, i64; cast", "matmul", (f32[2, 2], i64[2, 2]), {}),
        ("input channels and weight channels times groups: 3 and 4", "conv", (f32[1, 3, 5], f32[2, 4, 3]), {}),
        ("2 output channels are not a multiple of 4", "conv", (f32[1, 4, 5], f32[2, 1, 3]), {"groups": 4}),
        (
            "strides .1, 1. needs one entry per spatial axis, 1",
            "conv",
            (f32[1, 3, 5], f32[2, 3, 3]),
            {"strides": (1, 1)},
        ),
        ("window and padded size of axis 0: 6 must be at most 5", "conv", (f32[1, 3, 5], f32[2, 3, 6]), {}),
        ("kernel sizes must be numbers", "conv", (f32[1, 3, 5], f32[2, 3, "K"]), {}),
        ("must not be negative", "conv", (f32[1, 3, 5], f32[2, 3, 3]), {"padding": ((-1, 0),)}),
        ("bias and output channels: 3 and 2", "conv", (f32[1, 3, 5], f32[2, 3, 3], f32[3]), {}),
        ("the input has rank 2", "conv", (f32[3, 5], f32[3, 5]), {}),
        (
            "output_padding .1,. must be below stride",
            "conv_transpose",
            (f32[1, 2, 5], f32[2, 3, 3]),
            {"output_padding": (1,)},
        ),
    ],
)
def test_type_rules_refuse(pattern: str, kind: str, types: tuple[Any, ...], attrs: dict[str, Any]) -> None:
    with pytest.raises(TypeRuleError, match=pattern):
        program(kind, *types, **attrs)


def test_facts_of_one_rule_do_not_leak() -> None:
    assert program("matmul", f32["B", "K"], f32["K", 2]).facts == Facts()

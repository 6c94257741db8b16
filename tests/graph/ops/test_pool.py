from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from torch.nn import functional as F

from mlsysopt.graph import f32, f64, i64
from mlsysopt.graph.errors import GraphError, TypeRuleError
from tests.graph.ops.one_op import close, integers, normal, program, run, tensors

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def windows(rank: int, kernel: int, stride: int, pad: int, ceil: bool) -> dict[str, Any]:
    return {
        "kernel": (kernel,) * rank, "strides": (stride,) * rank, "padding": ((pad, pad),) * rank, "ceil_mode": ceil,
    }  # fmt: skip


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", range(1, 12))
def test_sizes_and_values_are_torchs(size: int, ceil: bool) -> None:
    """Every kernel, stride, padding and dilation of one axis, so that each case of rounding occurs."""
    x = normal(1, 2, size)
    compared = 0
    for kernel, stride, dilation in itertools.product((1, 2, 3, 4), (1, 2, 3, 5), (1, 2)):
        for pad in range(kernel // 2 + 1):
            extent = dilation * (kernel - 1) + 1
            counted = size + 2 * pad - extent + (stride - 1 if ceil else 0)
            attrs = windows(1, kernel, stride, pad, ceil)
            graph = program("max_pool", f64["N", 2, "H"], dilation=(dilation,), **attrs)
            formula = graph.outputs[0].shape[2].at(H=size)
            if counted < 0:
                assert formula < 1
                with pytest.raises((GraphError, TypeRuleError)):
                    run("max_pool", x, dilation=(dilation,), **attrs)
                continue
            wanted = F.max_pool1d(*tensors(x), kernel, stride, pad, dilation, ceil)
            assert formula == wanted.shape[-1]
            close(run("max_pool", x, dilation=(dilation,), **attrs), wanted)
            compared += 1
            if dilation == 1:
                for include in (False, True):
                    wanted = F.avg_pool1d(*tensors(x), kernel, stride, pad, ceil, include)
                    found = run("avg_pool", x, count_include_pad=include, **attrs)
                    close(found, wanted, tolerance=1e-12)
    assert compared > 10


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "pad", "ceil"), [(2, 2, 0, False), (3, 2, 1, True), (3, 1, 1, False)])
def test_more_axes(rank: int, kernel: int, stride: int, pad: int, ceil: bool) -> None:
    x = normal(2, 3, *(6, 7, 5)[:rank])
    attrs = windows(rank, kernel, stride, pad, ceil)
    close(run("max_pool", x, **attrs), MAX[rank](*tensors(x), kernel, stride, pad, ceil_mode=ceil))
    wanted = AVERAGE[rank](*tensors(x), kernel, stride, pad, ceil_mode=ceil)
    close(run("avg_pool", x, **attrs), wanted)


def test_strides_are_the_kernel_unless_given() -> None:
    x = normal(1, 1, 6, 6)
    close(run("max_pool", x, kernel=(2, 3)), F.max_pool2d(*tensors(x), (2, 3)))


def test_max_of_integers() -> None:
    x = integers(1, 1, 7)
    wanted = F.max_pool1d(*tensors(x.astype(np.float64)), 3, 2, 1).numpy().astype(np.int64)
    close(run("max_pool", x, kernel=(3,), strides=(2,), padding=((1, 1),)), wanted)


@pytest.mark.parametrize("output", [(1, 1), (2, 3), (6, 7), (8, 9)], ids=str)
def test_adaptive_is_torch(output: tuple[int, int]) -> None:
    x = normal(2, 3, 6, 7)
    close(run("adaptive_avg_pool", x, output=output), F.adaptive_avg_pool2d(*tensors(x), output))


@pytest.mark.parametrize(
    ("pattern", "kind", "one", "attrs"),
    [
        ("kernel .2, 2. needs one entry per spatial axis, 1", "max_pool", f32["N", 3, "H"], {"kernel": (2, 2)}),
        ("must be smaller than the window", "max_pool", f32["N", 3, "H"], {"kernel": (2,), "padding": ((2, 2),)}),
        ("avg_pool: not defined for i64", "avg_pool", i64["N", 3, "H"], {"kernel": (2,)}),
        ("the input has rank 2", "max_pool", f32["N", 3], {"kernel": ()}),
        ("window and padded size of axis 0: 4 must be at most 3", "max_pool", f32["N", 3, 3], {"kernel": (4,)}),
        ("strides .0,. must be at least 1", "max_pool", f32["N", 3, 3], {"kernel": (2,), "strides": (0,)}),
        ("output .0,. must be at least 1", "adaptive_avg_pool", f32["N", 3, 3], {"output": (0,)}),
    ],
)
def test_type_rules_refuse(pattern: str, kind: str, one: Any, attrs: dict[str, Any]) -> None:
    with pytest.raises(TypeRuleError, match=pattern):
        program(kind, one, **attrs)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlsysopt.graph import Quant, f32, i8, i64, u8
from mlsysopt.graph.errors import TypeRuleError
from mlsysopt.graph.types import f64
from tests.graph.ops.one_op import normal, program, run


@pytest.mark.parametrize("element", [i8, u8])
def test_one_scale_is_torch(element: Any) -> None:
    x = normal(50).astype(np.float32) * 10
    low, high = element.low, element.high
    wanted = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), 0.25, 3, low, high)
    stored = run("quantize", x, scale=(0.25,), zero_point=(3,), dtype=element)
    assert stored.dtype == element.numpy()
    np.testing.assert_array_equal(run("dequantize", stored, scale=(0.25,), zero_point=(3,)), wanted.numpy())


def test_scales_along_an_axis_are_torch() -> None:
    x = normal(3, 4, 2).astype(np.float32) * 20
    scales, zeros = (0.5, 0.25, 0.125, 1.0), (0, 1, -2, 3)
    wanted = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(x), torch.tensor(scales), torch.tensor(zeros, dtype=torch.int32), 1, -128, 127
    )
    stored = run("quantize", x, scale=scales, zero_point=zeros, axis=1)
    assert stored.min() == -128 or stored.max() == 127
    found = run("dequantize", stored, scale=scales, zero_point=zeros, axis=1)
    np.testing.assert_array_equal(found, wanted.numpy())


def test_halves_to_even_and_the_ends_of_the_type() -> None:
    x = np.array([0.5, 1.5, -0.5, 1000.0, -1000.0, np.inf])
    assert run("quantize", x, scale=(1.0,), zero_point=(0,)).tolist() == [0, 2, 0, 127, -128, 127]


def test_the_result_says_what_it_stands_for() -> None:
    graph = program("quantize", f32["N", 2], scale=(0.5, 1.0), zero_point=(0, 1), axis=1)
    assert graph.outputs[0].type.quant == Quant((0.5, 1.0), (0, 1), 1)
    assert program("dequantize", i8["N"], scale=(0.5,), zero_point=(0,), dtype=f64).outputs[0].type.dtype is f64


@pytest.mark.parametrize(
    ("pattern", "kind", "one", "attrs"),
    [
        ("must be above 0", "quantize", f32[2], {"scale": (0.0,), "zero_point": (0,)}),
        ("2 scales and 1 zero points", "quantize", f32[2], {"scale": (1.0, 1.0), "zero_point": (0,), "axis": 0}),
        ("2 scales need an axis", "quantize", f32[2], {"scale": (1.0, 1.0), "zero_point": (0, 0)}),
        ("size of axis 0: 3 and 2", "quantize", f32[3], {"scale": (1.0, 1.0), "zero_point": (0, 0), "axis": 0}),
        ("quantize: f32 is no integer type", "quantize", f32[3], {"scale": (1.0,), "zero_point": (0,), "dtype": f32}),
        ("quantize: not defined for i64", "quantize", i64[3], {"scale": (1.0,), "zero_point": (0,)}),
        ("dequantize: not defined for f32", "dequantize", f32[3], {"scale": (1.0,), "zero_point": (0,)}),
    ],
)
def test_type_rules_refuse(pattern: str, kind: str, one: Any, attrs: dict[str, Any]) -> None:
    with pytest.raises(TypeRuleError, match=pattern):
        program(kind, one, **attrs)

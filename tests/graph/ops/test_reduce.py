from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlsysopt.graph import boolean, f32, i64
from mlsysopt.graph.errors import GraphError, TypeRuleError
from tests.graph.ops.one_op import close, integers, normal, program, run, run_parts, tensors

REDUCTIONS = {"sum": torch.sum, "max": torch.amax, "min": torch.amin, "mean": torch.mean}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [(0,), (1, 2), (2, 0), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_is_torch(kind: str, axes: tuple[int, ...], keepdims: bool) -> None:
    x = normal(3, 1, 4)
    close(run(kind, x, axes=axes, keepdims=keepdims), REDUCTIONS[kind](*tensors(x), dim=axes, keepdim=keepdims))


def test_no_axes_reduce_nothing() -> None:
    x = normal(2, 3)
    for kind in REDUCTIONS:
        close(run(kind, x, axes=()), x)


def test_of_nothing() -> None:
    x = normal(2, 0)
    close(run("sum", x, axes=(1,)), np.zeros(2))
    close(run("prod", x, axes=(1,)), np.ones(2))
    assert np.isnan(run("mean", x, axes=(1,))).all()
    assert np.isnan(run("var", x, axes=(1,))).all()
    for kind in ("max", "min"):
        with pytest.raises(TypeRuleError, match=f"axis 1 has size 0, and {kind} of nothing is not defined"):
            run(kind, x, axes=(1,))
        with pytest.raises(GraphError, match=f"{kind} over an axis of size 0 is not defined"):
            run(kind, x, axes=(1,), symbolic=True)
    with pytest.raises(TypeRuleError, match="argmax of nothing"):
        run("argmax", x, axis=1)
    close(run("max", normal(0, 2), axes=(1,)), np.zeros(0))


def test_prod() -> None:
    x = normal(3, 4)
    close(run("prod", x, axes=(1,)), torch.prod(*tensors(x), dim=1))


@pytest.mark.parametrize("correction", [0, 1, 2])
@pytest.mark.parametrize("axes", [(0,), (1, 2)], ids=str)
def test_var_is_torch(axes: tuple[int, ...], correction: int) -> None:
    x = normal(3, 4, 5)
    wanted = torch.var(*tensors(x), dim=axes, correction=correction)
    close(run("var", x, axes=axes, correction=correction), wanted)
    close(run_parts("var", x, axes=axes, correction=correction), wanted)


def test_var_without_freedom_is_no_number() -> None:
    x = normal(4, 1)
    assert np.isnan(run("var", x, axes=(1,), correction=1)).all()
    assert np.isnan(run_parts("var", x, axes=(1,), correction=1)).all()


def test_any_all() -> None:
    x = normal(3, 4) > 0.5
    close(run("any", x, axes=(1,), keepdims=True), torch.any(*tensors(x), dim=1, keepdim=True))
    close(run("all", x, axes=(0,)), torch.all(*tensors(x), dim=0))


@pytest.mark.parametrize("kind", ["argmax", "argmin"])
def test_arg(kind: str) -> None:
    x = normal(3, 4)
    close(run(kind, x, axis=1), getattr(torch, kind)(*tensors(x), dim=1))
    close(run(kind, x, axis=0, keepdims=True), getattr(torch, kind)(*tensors(x), dim=0, keepdim=True))
    assert run(kind, np.array([2, 2, 2]), axis=0) == 0


def test_nan_is_largest_and_smallest() -> None:
    x = np.array([1.0, np.nan, 3.0])
    assert np.isnan(run("max", x, axes=(0,))) and np.isnan(run("min", x, axes=(0,)))
    assert run("argmax", x, axis=0) == 1


def test_integers_keep_their_type_and_wrap() -> None:
    x = np.full((4,), 100, np.int8)
    assert run("sum", x, axes=(0,)).dtype == np.int8
    assert int(run("sum", x, axes=(0,))) == 400 - 512 + 0 == -112
    close(run("cumsum", integers(3, 4), axis=1), np.cumsum(integers(3, 4), 1))


def test_cumsum() -> None:
    x = normal(3, 4)
    close(run("cumsum", x, axis=0), torch.cumsum(*tensors(x), dim=0))


@pytest.mark.parametrize(
    ("pattern", "kind", "one", "attrs"),
    [
        ("axis 2 is outside 0..1", "sum", f32["B", "S"], {"axes": (2,)}),
        ("axis -1 is outside 0..1", "sum", f32["B", "S"], {"axes": (-1,)}),
        ("name one axis twice", "sum", f32["B", "S"], {"axes": (1, 1)}),
        ("mean: not defined for i64; allowed are float", "mean", i64["B"], {"axes": (0,)}),
        ("sum: not defined for bool", "sum", boolean["B"], {"axes": (0,)}),
        ("any: not defined for f32", "any", f32["B"], {"axes": (0,)}),
        ("attribute 'axes' .ints. is missing", "sum", f32["B"], {}),
        ("cumsum: axis 1", "cumsum", f32["B"], {"axis": 1}),
    ],
)
def test_type_rules_refuse(pattern: str, kind: str, one: Any, attrs: dict[str, Any]) -> None:
    with pytest.raises(TypeRuleError, match=pattern):
        program(kind, one, **attrs)

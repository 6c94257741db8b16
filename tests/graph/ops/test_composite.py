from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mlsysopt.graph import Answer, Dim, boolean, cost, f32, i64, interpret, lookup
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.ops.registry import kinds
from mlsysopt.graph.passes import decompose
from mlsysopt.graph.types import f64
from tests.graph.ops.one_op import close, integers, normal, of_arrays, program, run, run_parts, tensors

Array = np.ndarray[Any, Any]


def both(kind: str, *arrays: Array, wanted: torch.Tensor, **attrs: Any) -> None:
    """Assert that the composite and its decomposition are what torch says."""
    close(run(kind, *arrays, **attrs), wanted, tolerance=1e-11)
    close(run_parts(kind, *arrays, **attrs), wanted, tolerance=1e-11)


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (2, 3, 5), (0, 3)], ids=str)
@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
def test_softmax(kind: str, shape: tuple[int, ...]) -> None:
    x = normal(*shape) * 30
    for axis in range(len(shape)):
        if shape[axis]:
            both(kind, x, wanted=getattr(F, kind)(*tensors(x), dim=axis), axis=axis)
    x = np.array([1.0, -np.inf, 800.0, 799.0])
    both(kind, x, wanted=getattr(F, kind)(*tensors(x), dim=0), axis=0)


@pytest.mark.parametrize("axes", [(2,), (1, 2), (0, 1, 2)], ids=str)
def test_layer_norm(axes: tuple[int, ...]) -> None:
    x = normal(2, 3, 4)
    shape = tuple(x.shape[axis] for axis in axes)
    weight, bias = normal(*shape, seed=1), normal(*shape, seed=2)
    tx, tw, tb = tensors(x, weight, bias)
    both("layer_norm", x, wanted=F.layer_norm(tx, shape, eps=1e-3), axes=axes, eps=1e-3)
    both("layer_norm", x, weight, wanted=F.layer_norm(tx, shape, tw), axes=axes)
    both("layer_norm", x, weight, bias, wanted=F.layer_norm(tx, shape, tw, tb), axes=axes)


def test_rms_norm() -> None:
    x, weight = normal(2, 3, 4), normal(4, seed=1)
    tx, tw = tensors(x, weight)
    both("rms_norm", x, wanted=F.rms_norm(tx, (4,), eps=1e-6), axes=(2,), eps=1e-6)
    both("rms_norm", x, weight, wanted=F.rms_norm(tx, (4,), tw, eps=1e-5), axes=(2,))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (0, 3, 2)], ids=str)
def test_batch_norm(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    mean, var, weight, bias = normal(3), normal(3, seed=1) ** 2, normal(3, seed=2), normal(3, seed=3)
    tx, tm, tv, tw, tb = tensors(x, mean, var, weight, bias)
    both("batch_norm", x, mean, var, weight, bias, wanted=F.batch_norm(tx, tm, tv, tw, tb, eps=1e-3), eps=1e-3)


def test_group_norm() -> None:
    x, weight, bias = normal(2, 6, 3, 2), normal(6, seed=1), normal(6, seed=2)
    tx, tw, tb = tensors(x, weight, bias)
    for groups in (1, 2, 6):
        both("group_norm", x, weight, bias, wanted=F.group_norm(tx, groups, tw, tb), groups=groups)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)], ids=str)
def test_linear(shape: tuple[int, ...]) -> None:
    x, w, bias = normal(*shape), normal(5, 4, seed=1), normal(5, seed=2)
    tx, tw, tb = tensors(x, w, bias)
    both("linear", x, w, wanted=F.linear(tx, tw))
    both("linear", x, w, bias, wanted=F.linear(tx, tw, tb))


def test_linear_of_no_features() -> None:
    close(run("linear", normal(2, 0), normal(3, 0)), np.zeros((2, 3)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "keep", "add"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention(causal: bool, mask: str, scale: float | None) -> None:
    q, k, v = normal(2, 3, 5, 4), normal(2, 3, 6, 4, seed=1), normal(2, 3, 6, 7, seed=2)
    given: list[Array] = []
    if mask == "keep":
        given = [(normal(2, 1, 5, 6, seed=3) > -0.5) | (np.arange(6) == 0)]
    if mask == "add":
        given = [normal(6, seed=3)]
    tq, tk, tv, *tm = tensors(q, k, v, *given)
    tm = [one.expand(5, 6) if one.dim() == 1 else one for one in tm]
    if causal:
        allowed = torch.ones(5, 6, dtype=torch.bool).tril()
        tm = [tm[0].masked_fill(~allowed, -torch.inf)] if mask == "add" else [tm[0] & allowed if tm else allowed]
    wanted = F.scaled_dot_product_attention(tq, tk, tv, *tm, scale=scale)
    both("attention", q, k, v, *given, wanted=wanted, causal=causal, scale=scale)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_a_query_without_any_key_gets_nothing(causal: bool, added: bool) -> None:
    q, k, v = normal(2, 5, 4), normal(2, 6, 4, seed=1), normal(2, 6, 7, seed=2)
    keeps = np.ones((2, 5, 6), np.bool_)
    keeps[0, 2] = keeps[1, 0, 0] = False
    mask = np.where(keeps, 0.0, -np.inf) if added else keeps
    seen = keeps & np.tri(5, 6, dtype=np.bool_) if causal else keeps
    wanted = F.scaled_dot_product_attention(*tensors(q, k, v, seen))
    assert not wanted[0, 2].any() and bool(wanted[1, 0].any()) is not causal
    both("attention", q, k, v, mask, wanted=wanted, causal=causal)


def test_attention_broadcasts_its_batch() -> None:
    q, k, v = normal(2, 3, 5, 4), normal(1, 3, 5, 4, seed=1), normal(3, 5, 4, seed=2)
    wanted = F.scaled_dot_product_attention(*tensors(q, np.repeat(k, 2, 0), np.stack([v, v])))
    both("attention", q, k, v, wanted=wanted)


def test_attention_of_a_symbolic_width() -> None:
    graph = program("attention", f64["B", "L", "E"], f64["B", "S", "E"], f64["B", "S", "V"])
    lowered = decompose(graph)
    lowered.verify()
    arrays = {"x0": normal(1, 2, 3), "x1": normal(1, 4, 3), "x2": normal(1, 4, 2)}
    close(interpret(lowered, inputs=arrays)["attention"], interpret(graph, inputs=arrays)["attention"])
    assert str(graph.outputs[0].type) == "f64[B, L, V]"


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction: str) -> None:
    logits, labels = normal(5, 4), integers(5, low=0, high=4)
    wanted = F.cross_entropy(*tensors(logits, labels), reduction=reduction)
    both("cross_entropy", logits, labels, wanted=wanted, reduction=reduction)


def test_cross_entropy_of_a_label_outside() -> None:
    with pytest.raises(GraphError, match=r"label 4 of row 1 is outside 0\.\.3"):
        run("cross_entropy", normal(2, 4), np.array([0, 4]))


def test_every_composite_has_parts_that_are_simpler() -> None:
    composites = {kind for kind in kinds() if lookup(kind).decompose is not None}
    assert composites == {
        "attention", "batch_norm", "clip", "cross_entropy", "elu", "gelu", "group_norm", "hardsigmoid", "hardswish",
        "layer_norm", "leaky_relu", "linear", "log_softmax", "relu", "rms_norm", "silu", "softmax", "var",
    }  # fmt: skip


def test_costs_are_close_to_those_of_the_parts() -> None:
    for kind, arrays, attrs in (
        ("softmax", [normal(30, 40)], {"axis": 1}),
        ("layer_norm", [normal(30, 40), normal(40), normal(40)], {"axes": (1,)}),
        ("rms_norm", [normal(30, 40), normal(40)], {"axes": (1,)}),
        ("linear", [normal(30, 40), normal(20, 40), normal(20)], {}),
        ("attention", [normal(2, 30, 8), normal(2, 30, 8), normal(2, 30, 8)], {}),
        ("group_norm", [normal(2, 6, 5, 5), normal(6), normal(6)], {"groups": 2}),
        ("gelu", [normal(50)], {}),
    ):
        graph = of_arrays(kind, arrays, **attrs)
        whole, parts = cost(graph).at().flops, cost(decompose(graph)).at().flops
        assert 0.6 < whole / parts < 1.6, kind


@pytest.mark.parametrize(
    ("pattern", "kind", "types", "attrs"),
    [
        ("softmax: not defined for i64", "softmax", [i64["N"]], {"axis": 0}),
        ("softmax: axis 1", "softmax", [f32["N"]], {"axis": 1}),
        ("axes .0,. must be the last ones of rank 2", "layer_norm", [f32[2, 3]], {"axes": (0,)}),
        ("axes .. must be the last ones", "rms_norm", [f32[2, 3]], {"axes": ()}),
        ("weight along axis 0: 4 and 3", "layer_norm", [f32[2, 3], f32[4]], {"axes": (1,)}),
        ("the bias has rank 2, 1 is needed", "layer_norm", [f32[2, 3], f32[3], f32[3, 3]], {"axes": (1,)}),
        ("batch_norm: channels: 4 and 3", "batch_norm", [f32[2, 3], f32[4], f32[3], f32[3], f32[3]], {}),
        ("5 needed", "batch_norm", [f32[2, 3], f32[4]], {}),
        ("3 channels are not a multiple of 2 groups", "group_norm", [f32[2, 3], f32[3], f32[3]], {"groups": 2}),
        ("linear: input features: 3 and 4", "linear", [f32[2, 3], f32[5, 4]], {}),
        ("features of q and k: 3 and 4", "attention", [f32[2, 3], f32[2, 4], f32[2, 4]], {}),
        ("the mask must be bool .True keeps. or f32", "attention", [f32[2, 3], f32[2, 3], f32[2, 3], i64[2, 2]], {}),
        ("mask along axis -1|attention mask", "attention", [f32[2, 3], f32[2, 3], f32[2, 3], boolean[2, 5]], {}),
        ("labels must be integers", "cross_entropy", [f32[2, 3], f32[2]], {}),
        ("logits.N, C. and labels.N. are needed", "cross_entropy", [f32[2, 3], i64[2, 3]], {}),
    ],
)  # fmt: skip
def test_type_rules_refuse(pattern: str, kind: str, types: list[Any], attrs: dict[str, Any]) -> None:
    with pytest.raises(TypeRuleError, match=pattern):
        program(kind, *types, **attrs)


def test_norms_learn_the_width_of_their_weights() -> None:
    graph = program("layer_norm", f32["B", "H"], f32["W"], axes=(1,))
    assert graph.facts.eq(Dim.of("H"), Dim.of("W")) is Answer.YES

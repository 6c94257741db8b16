"""Fusion: generated programs mean what they meant, plans of known models, what stays apart and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from mlsysopt.compile.dynamic.anchors import Anchor
from mlsysopt.compile.dynamic.fuse import plan
from mlsysopt.compile.dynamic.groups import Foreign, Fusion, FusionGroup
from mlsysopt.graph import Builder, Graph, Value, bf16, boolean, f16, f32, f64, i32, i64, interpret, random_inputs
from mlsysopt.graph.interpreter import relative_error
from mlsysopt.testing.graphs import programs, random_program
from mlsysopt.testing.programs import run_fusion
from tests.golden.compile.regenerate import CASES, folder, text
from tests.graph.importers.models import MODELS, graph_of

Array = npt.NDArray[Any]


def distance(graph: Graph, fusion: Fusion, inputs: dict[str, Array]) -> float:
    """Return the largest error of a plan, relative to the largest element or to 1."""
    worst = 0.0
    for found, truth in zip(run_fusion(fusion, inputs), interpret(graph, inputs=inputs).values(), strict=True):
        assert found.shape == truth.shape
        if truth.dtype.kind == "f":
            found, truth = np.append(found, 1.0), np.append(truth, 1.0)
        worst = max(worst, relative_error(found, truth))
    return worst


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_200_generated_programs_mean_what_they_meant(first: int) -> None:
    for seed in range(first, first + 50):
        graph = random_program(seed)
        fusion = plan(graph)
        for sizes in range(2):
            assert distance(graph, fusion, random_inputs(graph, seed=sizes)) < 1e-9, seed


@given(programs(8, dtypes=(f32, f64, i64, i32, boolean)))
@settings(max_examples=60)
def test_programs_of_many_types(graph: Graph) -> None:
    assert distance(graph, plan(graph), random_inputs(graph)) < 1e-9


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_programs_of_half_types(dtype: Any) -> None:
    for seed in range(10):
        graph = random_program(seed, 8, dtypes=(dtype,), contractions=False)
        assert distance(graph, plan(graph), random_inputs(graph, seed=seed)) < 1e-9, seed


def test_long_programs() -> None:
    for seed in range(1000, 1012):
        graph = random_program(seed, 30)
        assert distance(graph, plan(graph), random_inputs(graph)) < 1e-9, seed


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "bert_layer" else ()) for name in CASES]
)
def test_golden_plans(name: str) -> None:
    assert text(name) == (folder / f"{name}.txt").read_text()


@pytest.mark.slow
def test_most_ops_of_known_models_end_in_generated_kernels() -> None:
    names = ("bert", "resnet18", "mobilenet_v2", "inception", "decoder", "regnet")
    shares = {name: plan(graph_of(name)).fused_share for name in names}
    assert min(shares.values()) >= 0.95, shares


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "inception", "decoder"])
def test_known_models_mean_what_they_meant(name: str) -> None:
    model, graph = MODELS[name], graph_of(name)
    inputs = {name: one.numpy() for name, one in model.tensors(model.at[0]).items()}
    assert distance(graph, plan(graph), inputs) < 1e-6


def _x(b: Builder, *shape: Any) -> Value:
    return b.input("x", f32[shape])


def test_rows_that_look_like_no_norm_of_anybody_fuse_all_the_same() -> None:
    b = Builder("f")
    x = _x(b, "B", "S", 96)
    top = b.op("max", b.op("abs", x), axes=(2,), keepdims=True)
    bent = b.op("tanh", b.op("div", x, b.op("add", top, b.scalar(1.0, x))))
    spread = b.op("sqrt", b.op("sum", b.op("mul", bent, b.op("sin", x)), axes=(2,)))
    y = b.op("mul", b.op("sub", bent, b.op("reshape", spread, shape=("B", "S", 1))), x)
    fusion = plan(b.finish([y]))
    assert [group.kind for group in fusion.groups] == ["row"]
    graph = b.finish([y])
    assert distance(graph, fusion, random_inputs(graph)) < 1e-9


def test_an_embedding_of_places_costs_no_kernel() -> None:
    assert len(plan(CASES["embedding"]()).steps) == 1


def test_anchors_take_in_bias_activation_and_residual() -> None:
    b = Builder("f")
    x = _x(b, "B", 8)
    w, bias = b.constant("w", np.ones((8, 8), np.float32)), b.constant("bias", np.ones(8, np.float32))
    y = b.op("add", b.op("add", b.op("matmul", x, w), bias), x, name="y")
    z = b.op("gelu", b.op("linear", y, w), approximate="tanh", name="z")
    first, second = plan(b.finish([z])).steps
    assert isinstance(first, Anchor) and isinstance(second, Anchor)
    assert (str(first.epilogue), first.result, first.residual) == ("bias+residual", y, x)
    assert (str(second.epilogue), second.result) == ("gelu_tanh", z)


def test_an_epilogue_does_not_swallow_what_others_read() -> None:
    b = Builder("f")
    x = _x(b, "B", 8)
    h = b.op("linear", x, b.constant("w", np.ones((8, 8), np.float32)), name="h")
    anchor, group = plan(b.finish([h, b.op("relu", h)])).steps
    assert isinstance(anchor, Anchor) and anchor.result == h and str(anchor.epilogue) == "plain"
    assert isinstance(group, FusionGroup)


def test_a_group_never_closes_around_an_op_that_waits_for_it() -> None:
    b = Builder("f")
    x = _x(b, "B", 8)
    e = b.op("exp", x)
    h = b.op("linear", e, b.constant("w", np.ones((8, 8), np.float32)))
    fusion = plan(b.finish([b.op("mul", b.op("tanh", h), b.op("log", e))]))
    kinds = ["anchor" if isinstance(step, Anchor) else "group" for step in fusion.steps]
    assert kinds in (["group", "anchor", "group"], ["group", "anchor", "group", "group"])
    assert any("stands between" in one.reason for one in fusion.missed)


def test_the_missing_fact_is_named_and_helps() -> None:
    graph = CASES["apart"]()
    fusion = plan(graph)
    assert [one.fact for one in fusion.missed] == ["T = S"]
    size_x, size_y = graph.input("x").shape[0], graph.input("y").shape[0]
    assert len(plan(graph.with_facts(graph.facts.with_equal(size_x, size_y))).groups) == 1


def test_rows_beyond_the_cache_stay_apart() -> None:
    b = Builder("f")
    y = b.op("softmax", _x(b, "B", 1 << 20), axis=1)
    graph = b.finish([y])
    fusion = plan(graph)
    assert len(fusion.groups) > 1
    assert any("cache" in one.reason for one in fusion.missed)
    assert len(plan(graph, row_limit=1 << 23).groups) == 1


def test_cheap_ops_are_computed_where_they_are_read() -> None:
    b = Builder("f")
    x = _x(b, "B", "S", 64)
    doubled = b.op("add", x, x, name="doubled")
    w = b.constant("w", np.ones((64, 64), np.float32))
    h = b.op("linear", b.op("softmax", doubled, axis=2), w)
    fusion = plan(b.finish([b.op("mul", b.op("exp", h), doubled)]))
    assert all(value.name != "doubled" for group in fusion.groups for value in group.outputs)
    assert sum(op.name == "doubled" for group in fusion.groups for op in group.inlined) == 2


def test_a_table_that_is_computed_is_complete_before_it_is_read() -> None:
    b = Builder("f")
    x, ids = _x(b, "S", 4), b.input("ids", i64["B"])
    table = b.op("exp", x)
    graph = b.finish([b.op("neg", b.op("gather", table, ids, axis=0))])
    fusion = plan(graph)
    assert len(fusion.groups) == 2
    inputs = {"x": np.ones((5, 4), np.float32), "ids": np.array([0, 4, -1])}
    assert distance(graph, fusion, inputs) < 1e-9


def test_ops_without_native_form_are_foreign_and_the_rest_goes_on() -> None:
    b = Builder("f")
    x = _x(b, "B", "S")
    fusion = plan(b.finish([b.op("exp", b.op("cumsum", b.op("tanh", x), axis=1))]))
    assert [type(step) for step in fusion.steps] == [FusionGroup, Foreign, FusionGroup]
    unknown = plan(b.finish([b.op("exp", x)]), supports=lambda op, dtype: op != "exp")
    assert [type(step) for step in unknown.steps] == [Foreign]

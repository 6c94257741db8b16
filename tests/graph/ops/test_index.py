from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlsysopt.graph import Builder, Loc, boolean, f32, i64, interpret
from mlsysopt.graph.errors import GraphError, TypeRuleError
from tests.graph.ops.one_op import close, integers, normal, program, run, tensors


@pytest.mark.parametrize("axis", [0, 1])
def test_gather_is_take(axis: int) -> None:
    x, indices = normal(3, 4), integers(2, 5, low=-3, high=3)
    close(run("gather", x, indices, axis=axis), np.take(x, indices, axis))
    close(run("gather", x, np.array(1), axis=axis), np.take(x, 1, axis))
    close(run("gather", x, np.zeros((0,), np.int64), axis=axis), np.take(x, np.zeros(0, np.int64), axis))


def test_embedding() -> None:
    table, ids = normal(5, 3), integers(2, 4, low=0, high=5)
    close(run("embedding", table, ids), torch.nn.functional.embedding(*tensors(ids, table)))


def test_gather_elements_is_torch() -> None:
    x, indices = normal(3, 4), integers(2, 3, low=0, high=3)
    close(run("gather_elements", x, indices, axis=0), torch.gather(*tensors(x)[:1], 0, *tensors(indices)))
    close(
        run("gather_elements", x, integers(3, 7, low=-4, high=0), axis=1),
        np.take_along_axis(x, integers(3, 7, low=-4, high=0), 1),
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_scatter_is_torch(axis: int) -> None:
    x, updates = normal(4, 4), normal(3, 2, seed=1)
    indices = np.array([[0, 1], [2, 3], [3, 0]])
    tx, ti, tu = tensors(x, indices, updates)
    close(run("scatter_add", x, indices, updates, axis=axis), tx.scatter_add(axis, ti, tu))
    close(run("scatter", x, indices, updates, axis=axis), tx.scatter(axis, ti, tu))


def test_repeated_indices_add_up() -> None:
    found = run("scatter_add", np.zeros(2), np.array([1, 1, -1]), np.array([1.0, 2.0, 4.0]), axis=0)
    assert found.tolist() == [0.0, 7.0]


@pytest.mark.parametrize(
    ("kind", "arrays", "attrs", "pattern"),
    [
        ("gather", (normal(3), np.array([0, 3])), {"axis": 0}, r"index 3 at \(1,\) is outside -3..2 \(size 3\)"),
        ("gather", (normal(3), np.array([-4])), {"axis": 0}, "index -4"),
        ("embedding", (normal(3, 2), np.array([[0, -1]])), {}, r"index -1 at \(0, 1\) is outside 0..2"),
        ("gather_elements", (normal(3), np.array([3])), {"axis": 0}, "index 3"),
        ("scatter_add", (normal(3), np.array([5]), normal(1)), {"axis": 0}, "index 5"),
    ],
)
def test_an_index_outside_is_an_error(kind: str, arrays: Any, attrs: dict[str, Any], pattern: str) -> None:
    with pytest.raises(GraphError, match=f"{kind} %{kind}: {pattern}"):
        run(kind, *arrays, **attrs)


def test_the_error_names_the_line_of_the_model() -> None:
    b = Builder("lookup")
    b.loc = Loc("bert.py", 214, "embeddings")
    graph = b.finish([b.op("embedding", b.input("table", f32[3, 2]), b.input("ids", i64["N"]))])
    with pytest.raises(
        GraphError, match=r"embedding at bert.py:214 embeddings: index 7 .*; given %table: .*, %ids: int64\[1\]"
    ):
        interpret(graph, table=np.zeros((3, 2), np.float32), ids=np.array([7]))


def test_nonzero_binds_its_symbol() -> None:
    b = Builder("found")
    x = b.input("x", f32["B", "S"])
    where = b.op("nonzero", x, symbol="u0")
    rows = b.op("reshape", b.op("slice", where, starts=(0, 0), limits=(1, "u0"), strides=(1, 1)), shape=("u0",))
    graph = b.finish([where, b.op("gather", x, rows, axis=0, name="rows")])
    graph.verify()
    array = np.array([[0, 2, 0], [0, 0, -1]], np.float32)
    found = interpret(graph, x=array)
    close(found["nonzero"], np.array([[0, 1], [1, 2]]))
    assert found["rows"].shape == (2, 3)
    assert interpret(graph, x=np.zeros((2, 3), np.float32))["rows"].shape == (0, 3)


def test_masked_select_is_torch() -> None:
    x, mask = normal(3, 4), normal(4, seed=1) > 0
    close(run("masked_select", x, mask, symbol="u0"), torch.masked_select(*tensors(x, mask)))


@pytest.mark.parametrize(
    ("pattern", "kind", "types", "attrs"),
    [
        ("indices must be integers, got f32", "gather", [f32[3], f32[2]], {"axis": 0}),
        ("axis 1 is outside", "gather", [f32[3], i64[2]], {"axis": 1}),
        ("embedding: indices must be integers", "embedding", [f32[3, 2], boolean[2]], {}),
        ("ranks 2 and 1 of operand and indices", "gather_elements", [f32[3, 2], i64[2]], {"axis": 0}),
        (
            "indices and operand along axis 1: 3 must be at most 2",
            "gather_elements",
            [f32[3, 2], i64[3, 3]],
            {"axis": 0},
        ),
        ("indices and updates along axis 0: 2 and 3", "scatter_add", [f32[3], i64[2], f32[3]], {"axis": 0}),
        ("element types f32, i64", "scatter_add", [f32[3], i64[2], i64[2]], {"axis": 0}),
        ("the mask must be bool, got i64", "masked_select", [f32[3], i64[3]], {"symbol": "u0"}),
    ],
)
def test_type_rules_refuse(pattern: str, kind: str, types: list[Any], attrs: dict[str, Any]) -> None:
    with pytest.raises(TypeRuleError, match=pattern):
        program(kind, *types, **attrs)

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.graph import Answer, Builder, Dim, Graph, TensorType, f32, i64
from mlsysopt.graph.domains import Mixed, Types, walk
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.interpreter import interpret


def test_types_are_inferred_anew() -> None:
    b = Builder("two")
    x, w = b.input("x", f32["B", 3]), b.constant("w", np.zeros((3, 4), np.float32))
    graph = b.finish([b.op("matmul", x, w, name="y")])
    assert str(interpret(graph, Types())["y"]) == "f32[B, 4]"
    assert str(interpret(graph, Types(), x=f32[7, "K"])["y"]) == "f32[7, 4]"


def test_types_learn_facts() -> None:
    b = Builder("sum")
    graph = b.finish([b.op("add", b.input("x", f32["S"]), b.input("y", f32["T"]))])
    domain = Types()
    walk(graph, domain, domain.start(graph, {}))
    assert domain.facts.eq(Dim.of("S"), Dim.of("T")) is Answer.YES


def test_types_that_do_not_fit_name_the_op() -> None:
    b = Builder("sum")
    graph = b.finish([b.op("add", b.input("x", f32[3]), b.input("y", f32[3]))])
    with pytest.raises(TypeRuleError, match="add %add: add: sizes 3 and 4 cannot be broadcast"):
        interpret(graph, Types(), y=f32[4])


def sizes_as_data() -> Graph:
    b = Builder("sizes")
    x = b.input("x", f32["B", "S"])
    size = b.op("size", dim=Dim.of("S") * 2)
    pair = b.op("concat", b.op("reshape", size, shape=(1,)), b.constant("one", np.array([1])), axis=0, name="pair")
    scaled = b.op("mul", x, b.op("cast", size, to=f32), name="scaled")
    return b.finish([pair, scaled, b.op("add", pair, b.input("offset", i64[2]), name="moved")])


def test_mixed_computes_small_integers_and_nothing_else() -> None:
    graph = sizes_as_data()
    found = interpret(graph, Mixed({"S": 5}))
    assert found["pair"].tolist() == [10, 1]
    assert isinstance(found["scaled"], TensorType) and isinstance(found["moved"], TensorType)
    known = interpret(graph, Mixed({"S": 5}), offset=np.array([1, 2]))
    assert known["moved"].tolist() == [11, 3]
    unknown = interpret(graph, Mixed())
    assert all(isinstance(one, TensorType) for one in unknown.values())
    assert isinstance(interpret(graph, Mixed({"S": 5}, most=1))["pair"], TensorType)


def test_mixed_names_the_op_that_fails() -> None:
    b = Builder("lookup")
    table, place = b.constant("table", np.array([1, 2])), b.constant("place", np.array([2]))
    graph = b.finish([b.op("gather", table, place, axis=0)])
    with pytest.raises(GraphError, match="gather %gather: index 2"):
        interpret(graph, Mixed())

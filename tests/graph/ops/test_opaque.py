from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from mlsysopt.graph import Builder, Dim, f32, i64, interpret, parse
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.ops.opaque import arguments_text
from tests.graph.ops.one_op import close, normal, program


def test_topk_runs_in_torch() -> None:
    b = Builder("top")
    x = b.input("x", f32["B", 6])
    arguments = arguments_text([{"operand": 0}, 2], {"dim": 1})
    values, places = b.op(
        "opaque.aten", x, target="aten.topk.default", arguments=arguments, types=(f32["B", 2], i64["B", 2]),
        names=["values", "places"],
    )  # fmt: skip
    graph = b.finish([values, places])
    graph.verify()
    assert parse(str(graph)) == graph
    array = normal(3, 6).astype(np.float32)
    found = interpret(graph, x=array)
    wanted = torch.topk(torch.from_numpy(array).double(), 2, dim=1)
    close(found["values"], wanted.values)
    close(found["places"], wanted.indices)


def test_sizes_and_element_types_are_filled_in() -> None:
    b = Builder("made")
    x = b.input("x", f32["B"])
    arguments = arguments_text([[{"size": 0}, 2], 0.1], {"dtype": {"dtype": "float32"}})
    made = b.op(
        "opaque.aten", x, target="aten::full", arguments=arguments, types=(f32[Dim.of("B") * 2, 2],),
        sizes=(Dim.of("B") * 2,),
    )  # fmt: skip
    found = interpret(b.finish([made]), x=np.zeros(3, np.float32))["aten"]
    close(found, np.full((6, 2), 0.1))  # float64 in the reference, whatever type was asked for


def test_a_result_that_the_data_decides() -> None:
    b = Builder("unique")
    made = b.op(
        "opaque.aten", b.input("x", i64["N"]), target="aten._unique2.default",
        arguments=arguments_text([{"operand": 0}]), types=(i64["u0"], i64[0], i64[0]),
    )  # fmt: skip
    assert interpret(b.finish(made[:1]), x=np.array([3, 1, 3, 3]))["aten"].tolist() == [1, 3]


def run(**attrs: Any) -> None:
    interpret(program("opaque.aten", f32["N"], types=(f32["N"],), **attrs), x0=np.zeros(3, np.float32))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(GraphError, match=r"has no operator 'aten\.no_such\.default'"):
        run(target="aten.no_such.default", arguments=arguments_text([{"operand": 0}]))
    with pytest.raises(GraphError, match=r"unknown argument .*tensor.*; known are operand, size and dtype"):
        run(target="aten.relu.default", arguments=arguments_text([{"tensor": 0}]))
    with pytest.raises(GraphError, match=r"is declared f32\[N\] with N = 3, but shape \(\) was made"):
        run(target="aten.sum.default", arguments=arguments_text([{"operand": 0}]))
    with pytest.raises(TypeRuleError, match="arguments are no JSON"):
        program("opaque.aten", f32["N"], types=(f32["N"],), target="aten.relu", arguments="[")
    with pytest.raises(TypeRuleError, match="must be an object with args and kwargs"):
        program("opaque.aten", f32["N"], types=(f32["N"],), target="aten.relu", arguments="[]")
    with pytest.raises(TypeRuleError, match="types must name the type of each result"):
        program("opaque.aten", f32["N"], types=(), target="aten.relu", arguments="{}")


def test_arguments_are_plain_json() -> None:
    text = arguments_text([{"operand": 0}, None, [1, 2.5]], {"b": True, "a": "x"})
    assert json.loads(text) == {"args": [{"operand": 0}, None, [1, 2.5]], "kwargs": {"a": "x", "b": True}}

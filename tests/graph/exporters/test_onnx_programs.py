"""Generated programs go through ONNX and mean what they meant."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings

from mlsysopt.graph import Graph, canonical_hash, from_onnx, interpret, random_inputs, to_onnx
from mlsysopt.graph.passes import canonicalize
from mlsysopt.testing.graphs import programs, random_program
from tests.graph.importers.onnx_checks import same, session, without_notes


def through_onnx(graph: Graph) -> None:
    """Assert that a program comes back, that its nodes alone mean the same, and that onnxruntime agrees."""
    model = to_onnx(graph)
    back = from_onnx(model)
    assert back.verify() is None
    assert canonical_hash(canonicalize(back)) == canonical_hash(canonicalize(graph))
    plain = from_onnx(without_notes(model))
    assert plain.verify() is None
    try:
        runtime = session(model)
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        runtime = None  # a combination of operator and element type without a kernel
    for seed in range(2):
        feeds = {name: np.asarray(array) for name, array in random_inputs(graph, seed=seed).items()}
        with np.errstate(all="ignore"):
            meaning = interpret(graph, precision="declared", inputs=feeds)
            alone = interpret(plain, precision="declared", inputs=feeds)
        expected = [meaning[value.name] for value in graph.outputs]
        same([alone[value.name] for value in plain.outputs], expected, 1e-3)
        if runtime is not None:
            same(runtime.run(None, feeds), expected, 1e-3)


@pytest.mark.parametrize("first", range(0, 100, 50))
def test_100_programs(first: int) -> None:
    for seed in range(first, first + 50):
        through_onnx(random_program(seed))


@settings(max_examples=25)
@given(programs(max_ops=6))
def test_drawn_programs(graph: Graph) -> None:
    through_onnx(graph)

"""Well-known models as ONNX files: checked, run by onnxruntime, and read back as the same program."""

from __future__ import annotations

import functools

import onnx
import pytest
import torch

from mlsysopt.graph import canonical_hash
from mlsysopt.graph.exporters.onnx import to_onnx
from mlsysopt.graph.importers.onnx import from_onnx
from mlsysopt.graph.interpreter import relative_error
from mlsysopt.graph.passes import canonicalize
from tests.graph.importers.models import MODELS, graph_of, truth
from tests.graph.importers.onnx_checks import session, without_notes

NAMES = [pytest.param(name, marks=pytest.mark.slow if model.slow else ()) for name, model in MODELS.items()]


@functools.cache
def written(name: str) -> onnx.ModelProto:
    return to_onnx(graph_of(name), check=False)


@pytest.mark.parametrize("name", NAMES)
def test_onnxruntime_equals_the_model_at_three_sizes(name: str) -> None:
    model, proto = MODELS[name], written(name)
    onnx.checker.check_model(proto, full_check=True)
    runtime = session(proto)
    for seed, sizes in enumerate(model.at[:3]):
        tensors = model.tensors(sizes, seed=seed, floats=torch.float32)
        exact = {label: one.double() if one.is_floating_point() else one for label, one in tensors.items()}
        found = runtime.run(None, {label: one.numpy() for label, one in tensors.items()})
        for mine, expected in zip(found, truth(name, exact).values(), strict=True):
            assert mine.shape == expected.shape
            assert relative_error(mine, expected) < 1e-4, sizes


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_read_back_as_the_same_program(name: str) -> None:
    graph, back = graph_of(name), from_onnx(written(name))
    assert back.verify() is None
    assert canonical_hash(canonicalize(back)) == canonical_hash(canonicalize(graph))
    assert {one.label for one in back.constants} == {one.label for one in graph.constants}
    assert [op.loc for op in back.ops if op.kind == "linear"] == [op.loc for op in graph.ops if op.kind == "linear"]


@pytest.mark.parametrize("name", [one for one in NAMES if one.values[0] != "squeezenet"])  # its sizes are 8*h + 7
def test_the_nodes_alone_give_the_same_sizes(name: str) -> None:
    # What another program's file looks like: no notes, no facts. Shape arithmetic must fold away all the same.
    graph = graph_of(name)
    plain = from_onnx(without_notes(written(name)), dims=ranges_of(name))
    assert plain.verify() is None
    assert [value.type for value in plain.outputs] == [value.type for value in graph.outputs]
    assert plain.symbols == graph.symbols
    assert not [op for op in plain.ops if op.kind == "size"]


def ranges_of(name: str) -> dict[str, tuple[int, int | None]]:
    facts = graph_of(name).facts
    return {
        symbol: (low or 0, high) for symbol, (low, high), _, _ in facts.declared() if symbol in graph_of(name).symbols
    }

"""Holding a program against onnxruntime on the same random inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime

from mlsysopt.graph.importers.onnx import from_onnx
from mlsysopt.graph.interpreter import interpret
from mlsysopt.graph.ir import Graph

SIZES = ({"N": 3, "H": 7, "W": 8, "L": 5, "M": 4}, {"N": 1, "H": 6, "W": 5, "L": 4, "M": 2})


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session that computes what the file says, without fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def random_array(name: str, element: Any, shape: tuple[int, ...], seed: int) -> Any:
    """Return an input whose values fit its name, see `CASES`."""
    rng = np.random.default_rng(seed)
    if element == np.bool_:
        return rng.random(shape) < 0.5
    if np.issubdtype(element, np.integer):
        low, high = {"k": (0, 3), "j": (1, 6), "q": (0, 256)}.get(name[0], (-9, 10))
        return rng.integers(low, high, shape).astype(element)
    made = rng.standard_normal(shape)
    return np.asarray(np.abs(made) + 0.1 if name[0] == "p" else made).astype(element)


def feeds_of(graph: Graph, sizes: dict[str, int], seed: int = 0) -> dict[str, Any]:
    return {
        value.name: random_array(value.name, value.type.dtype.numpy(), value.type.at(**sizes), seed + i)
        for i, value in enumerate(graph.inputs)
    }


def parsed(text: str, opset: int = 18) -> onnx.ModelProto:
    """Read the text of a model; an output without brackets has an unknown shape."""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}, "com.microsoft" : 1, "acme" : 3]> f {text}'
    )
    for value in model.graph.output:
        if not value.type.tensor_type.shape.dim:
            value.type.tensor_type.ClearField("shape")
    return model


def agrees(text: str, *, opset: int = 18, tolerance: float = 1e-5) -> Graph:
    """Read a model given as text, run it at two assignments, and return the program."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}, "com.microsoft" : 1]> f {text}')
    graph = from_onnx(model)
    assert graph.verify() is None
    runtime = session(model)
    for seed, sizes in enumerate(SIZES):
        feeds = feeds_of(graph, sizes, seed)
        same(evaluated(graph, feeds), runtime.run(None, feeds), tolerance)
        if not graph.symbols:
            break
    return graph


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without anything that only our importer understands."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.metadata_props[:]
    for part in (*plain.graph.node, *plain.graph.initializer):
        del part.metadata_props[:]
    return plain


def same(found: list[Any], expected: list[Any], tolerance: float) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


def evaluated(graph: Graph, feeds: dict[str, Any]) -> list[Any]:
    """Return the outputs in declared precision, in the order of the program."""
    with np.errstate(all="ignore"):
        found = interpret(graph, precision="declared", inputs=feeds)
    return [found[value.name] for value in graph.outputs]

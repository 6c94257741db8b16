"""ONNX operators that have no op of their own: kept as they came, executed one node at a time."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mlsysopt.core.errors import MissingExtra
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.ir import Attrs
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, Variadic, define
from mlsysopt.graph.types import DType, TensorType

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["node_of", "text_of"]


def text_of(node: NodeProto) -> str:
    """Return the attribute `node` of an `opaque.onnx` op; its inputs and outputs are called by their places."""
    return base64.b64encode(node.SerializeToString(deterministic=True)).decode()


def node_of(text: str) -> NodeProto:
    """Read what `text_of` wrote.

    Raises:
        GraphError: it is no node.
    """
    from google.protobuf.message import DecodeError
    from onnx import NodeProto

    node = NodeProto()
    try:
        node.ParseFromString(base64.b64decode(text, validate=True))
    except (DecodeError, binascii.Error):
        raise GraphError("opaque.onnx: the attribute node holds no ONNX node") from None
    return node


def _type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    results, elements = attrs["types"], attrs["elements"]
    if not isinstance(results, tuple) or not results or not all(isinstance(one, TensorType) for one in results):
        raise TypeRuleError(f"opaque.onnx: types must name the type of each result, got {results!r}")
    given = tuple(one.dtype for one in types)
    if elements != given:
        raise TypeRuleError(f"opaque.onnx: the node was read for element types {elements}, got {given}")
    return cast("tuple[TensorType, ...]", results)


def _run(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    model = _model(attrs)
    # Where all floats are double, the node's own types are not kept: the reference is computed in double.
    wide = any(array.dtype == np.float64 for array in arrays)
    try:
        found = _by_reference(model, arrays)
    except Exception as reference:  # whatever a foreign implementation raises
        try:
            elements = cast("tuple[DType, ...]", attrs["elements"])
            declared = [array.astype(kind.numpy()) for array, kind in zip(arrays, elements, strict=True)]
            found = _by_runtime(model, declared)
        except Exception as runtime:
            raise GraphError(
                f"opaque.onnx {model.graph.node[0].op_type}: neither onnx.reference ({_line(reference)}) "
                f"nor onnxruntime ({_line(runtime)}) can run it"
            ) from None
    return tuple(one.astype(np.float64) if wide and one.dtype.kind == "f" else one for one in map(np.asarray, found))


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:120]


def _by_reference(model: ModelProto, arrays: Sequence[Array]) -> Sequence[Array]:
    from onnx.reference import ReferenceEvaluator

    names = [value.name for value in model.graph.input]
    return ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))  # pyright: ignore[reportReturnType]


def _by_runtime(model: ModelProto, arrays: Sequence[Array]) -> Sequence[Array]:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra.of("running operators of other domains", "graph") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    runtime = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.input]
    return runtime.run(None, dict(zip(names, arrays, strict=True)))  # pyright: ignore[reportReturnType]


def _model(attrs: Mapping[str, Any]) -> ModelProto:
    """Return a model of this one node."""
    from onnx import TensorProto, helper

    from mlsysopt.graph.importers.onnx_ops.types import TO_ONNX

    node = node_of(attrs["node"])
    elements, results = cast("tuple[DType, ...]", attrs["elements"]), cast("tuple[TensorType, ...]", attrs["types"])
    names = [name for name in dict.fromkeys(node.input) if name]
    inputs = [
        helper.make_tensor_value_info(name, TO_ONNX[kind], None) for name, kind in zip(names, elements, strict=True)
    ]
    made = [name for name in node.output if name]
    kinds = [TO_ONNX[one.dtype] for one in results] if results else [TensorProto.FLOAT]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(made, kinds, strict=True)]
    graph = helper.make_graph([node], "opaque", inputs, outputs)
    opsets = [helper.make_opsetid("", attrs["opset"])]
    if node.domain not in ("", "ai.onnx"):
        opsets.append(helper.make_opsetid(node.domain, attrs["version"]))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


define(
    OpDef(
        "opaque.onnx", Variadic(0), _type, _run,
        {
            "node": AttrSpec("str"), "target": AttrSpec("str"), "opset": AttrSpec("int"), "version": AttrSpec("int", 1),
            "elements": AttrSpec("any"), "types": AttrSpec("any"),
        },
        fresh=True, about="an ONNX operator that has no op of its own; onnx.reference or onnxruntime executes it",
    ),
)  # fmt: skip

"""Operators without counterpart, kept as `opaque.onnx` ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.types import FROM_ONNX, TO_ONNX
from mlsysopt.graph.ir import Value
from mlsysopt.graph.ops.opaque_onnx import text_of

# The import defines the op kind.
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType

if TYPE_CHECKING:
    from onnx import ValueInfoProto

__all__ = ["keep"]


def keep(node: Node) -> Sequence[Value | None]:
    """Add a node as an op of its own; its result types come from ONNX's inference, or from the model.

    Raises:
        ImportFailed: neither knows the types, or the node holds another graph.
    """
    from onnx import AttributeProto, NodeProto

    if any(one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for one in node.proto.attribute):
        node.refuse("the operator holds another graph; it cannot be kept as it is")
    names = [name for name in dict.fromkeys(node.inputs) if name]
    operands = [node.session.value(name) for name in names]
    outputs = [(i, name) for i, name in enumerate(node.outputs) if name]
    copy = NodeProto()
    copy.CopyFrom(node.proto)
    del copy.input[:], copy.output[:], copy.metadata_props[:]
    copy.name, copy.doc_string = "", ""
    places = {name: f"i{i}" for i, name in enumerate(names)}
    copy.input.extend(places.get(name, "") for name in node.inputs)
    copy.output.extend(f"o{i}" if name else "" for i, name in enumerate(node.outputs))
    inferred = _inferred(node, copy, dict(zip(places.values(), names, strict=True)))
    types = [_result(node, name, inferred.get(f"o{i}")) for i, name in outputs]
    made = node.builder.op(
        "opaque.onnx",
        *operands,
        names=[name for _, name in outputs],
        node=text_of(copy),
        target=f"{node.domain or 'ai.onnx'}::{node.kind}",
        opset=node.session.opsets.get("", 18),
        version=node.opset,
        elements=tuple(value.type.dtype for value in operands),
        types=tuple(types),
    )
    results = iter(made if isinstance(made, tuple) else (made,))
    return [next(results) if name else None for name in node.outputs]


def _inferred(node: Node, copy: object, inputs: Mapping[str, str]) -> Mapping[str, ValueInfoProto]:
    """Return what ONNX's shape inference says of the outputs."""
    from onnx import helper, numpy_helper, shape_inference

    session = node.session
    declared = [
        helper.make_tensor_value_info(place, TO_ONNX[value.type.dtype], [_text(size) for size in value.shape])
        for place, value in ((place, session.value(name)) for place, name in inputs.items())
    ]
    # Numbers such as the k of TopK decide shapes.
    known = ((place, session.numbers(name)) for place, name in inputs.items())
    weights = [numpy_helper.from_array(array, place) for place, array in known if array is not None]
    opsets = [helper.make_opsetid(domain, version) for domain, version in session.opsets.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in copy.output if name]  # pyright: ignore[reportAttributeAccessIssue]
    graph = helper.make_graph([copy], "one", declared, outputs, weights)  # pyright: ignore[reportArgumentType]
    found = shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    return {value.name: value for value in found.graph.output}


def _text(size: Dim) -> int | str:
    return size.constant if size.constant is not None else str(size)


def _result(node: Node, name: str, inferred: ValueInfoProto | None) -> TensorType:
    for info in (inferred, node.session.declared_type(name)):
        tensor = info.type.tensor_type if info is not None else None
        if tensor is None or not tensor.HasField("shape") or tensor.elem_type not in FROM_ONNX:
            continue
        sizes: list[Dim] = []
        for size in tensor.shape.dim:
            if size.HasField("dim_value"):
                sizes.append(Dim.of(size.dim_value))
            else:
                sizes.append(node.session.names.result_size(size.dim_param))
        return TensorType(FROM_ONNX[tensor.elem_type], tuple(sizes))
    node.refuse(f"the type of its output {name!r} is not known; declare it in the model's value_info")

"""Writing programs as ONNX files that run anywhere and are read back as the same program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt._version import __version__
from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.graph.errors import GraphError
from mlsysopt.graph.facts import facts_text
from mlsysopt.graph.ir import Constant, Graph, Value
from mlsysopt.graph.sources import content_key
from mlsysopt.graph.types import TensorType

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto, ValueInfoProto

    from mlsysopt.graph.exporters.onnx_ops.writer import Writer

__all__ = ["to_onnx"]

_OPSETS = (18, 23)
_IR_VERSION = 10
"""The first format in which nodes and weights have metadata."""
_LARGEST = 2**31 - 2**20
"""Bytes of weights that fit in one file: protocol buffers end at 2 GiB."""
_ALIGNMENT = 64


def to_onnx(
    graph: Graph,
    path: str | Path | None = None,
    *,
    opset: int = 18,
    external_data: bool = False,
    check: bool = True,
) -> ModelProto:
    """Write a program as an ONNX model.

    Symbols become `dim_param`s; sizes that an op needs are computed from the shapes of the inputs.
    An op without ONNX operator is written as the nodes that it means, with a note of what it was.
    Names, facts and source lines are kept in `metadata_props`, so that `from_onnx` gives the program back.

    Args:
        graph: The program.
        path: File to write; None returns the model only.
        opset: Version of the standard operators, 18 to 23.
        external_data: Whether weights go to a file of their own, `<path>.data`; needed above 2 GiB.
        check: Whether `onnx.checker` looks at the result.

    Returns:
        The model; with external data, it refers to the file beside `path`.

    Raises:
        UsageError: an opset that is not supported, weights too large for one file, or an op that ONNX
            cannot express; all such ops are named.
        GraphError: the checker refuses the result.

    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("f")
    >>> x = b.input("x", f32["N", 4])
    >>> model = to_onnx(b.finish([b.op("silu", x, name="y")]))
    >>> [node.op_type for node in model.graph.node]
    ['Sigmoid', 'Mul']
    """
    try:
        from onnx import checker, helper, shape_inference
    except ImportError:
        raise MissingExtra.of("writing ONNX models", "graph") from None
    from mlsysopt.graph.exporters.onnx_ops.writer import Writer
    from mlsysopt.graph.importers.onnx_ops.notes import FACTS, NAME

    target = None if path is None else Path(path)
    _check_arguments(graph, opset, target, external_data)
    writer = Writer(graph, opset)
    for op in graph.ops:
        writer.write(op)
    outputs = _outputs(graph, writer)
    weights, tensors = _weights(graph, target if external_data else None)
    try:
        body = helper.make_graph(
            writer.nodes,
            graph.name,
            [_declared(value.name, value) for value in graph.inputs],
            [_declared(name, value) for name, value in outputs],
            tensors,
        )
        model = helper.make_model(
            body,
            opset_imports=[helper.make_opsetid(domain, one) for domain, one in ({"": opset} | writer.domains).items()],
            ir_version=_IR_VERSION,
            producer_name="mlsysopt",
            producer_version=__version__,
        )
        helper.set_model_props(model, {NAME: graph.name, FACTS: facts_text(graph.facts)})
        if target is not None:
            _replace(target, weights, model.SerializeToString())
    finally:
        if weights is not None:
            weights.unlink(missing_ok=True)
    if check:
        try:
            checker.check_model(str(target) if external_data else model, full_check=True)
        except (checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError) as error:
            raise GraphError(f"graph {graph.name}: onnx.checker refuses the model: {error}") from None
    return model


def _check_arguments(graph: Graph, opset: int, path: Path | None, external_data: bool) -> None:
    from mlsysopt.graph.exporters.onnx_ops.writer import refused_kinds

    low, high = _OPSETS
    if not low <= opset <= high:
        raise UsageError(f"to_onnx: opset {opset}, supported are {low} to {high}")
    if external_data and path is None:
        raise UsageError("to_onnx: external_data puts weights beside the file: give its path")
    size = sum(int(constant.type.bytes) for constant in graph.constants)
    if size > _LARGEST and not external_data:
        raise UsageError(
            f"to_onnx: {size} bytes of weights do not fit in one file of at most 2 GiB; use external_data=True"
        )
    refused = refused_kinds(graph)
    if refused:
        listed = "\n".join(f"  {op.where()}" for op in refused)
        raise UsageError(f"to_onnx: graph {graph.name} has ops without ONNX counterpart:\n{listed}")
    placed = [value for value in graph.values.values() if value.type.placement is not None]
    if placed:
        raise UsageError(f"to_onnx: %{placed[0].name} is placed on several devices; ONNX knows one")


def _outputs(graph: Graph, writer: Writer) -> list[tuple[str, Value]]:
    """Return the outputs with names of their own: ONNX has none twice, and none that is an input."""
    defined = {value for op in graph.ops for value in op.results}
    found: list[tuple[str, Value]] = []
    for place, value in enumerate(graph.outputs):
        name = value.name
        if value not in defined or any(name == known for known, _ in found):
            name = writer.copy(value, f"output_{place}")
        found.append((name, value))
    return found


def _declared(name: str, value: Value) -> ValueInfoProto:
    from onnx import helper

    from mlsysopt.graph.importers.onnx_ops.types import TO_ONNX

    sizes = [size.constant if size.constant is not None else str(size) for size in value.shape]
    info = helper.make_tensor_value_info(name, TO_ONNX[value.type.dtype], sizes)
    _tell_type(info, value.type)
    return info


def _weights(graph: Graph, beside: Path | None) -> tuple[Path | None, list[TensorProto]]:
    """Return the initialisers, and the temporary file that holds their bytes where they stand beside the model."""
    from onnx import numpy_helper

    from mlsysopt.graph.importers.onnx_ops.types import LABEL

    if beside is None:
        tensors: list[TensorProto] = []
        for constant in graph.constants:
            tensor = numpy_helper.from_array(constant.source.load(), constant.name)
            _tell(tensor, LABEL, constant.label)
            _tell_type(tensor, constant.type)
            tensors.append(tensor)
        return None, tensors
    temporary = beside.with_name(f"{beside.name}.data.{os.getpid()}.tmp")
    tensors = []
    try:
        with temporary.open("wb") as file:
            for constant in graph.constants:
                tensors.append(_streamed(constant, file, f"{beside.name}.data"))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, tensors


def _streamed(constant: Constant, file: Any, location: str) -> TensorProto:
    """Append a weight to a file; one at a time is in memory."""
    import numpy as np
    from onnx import TensorProto

    from mlsysopt.graph.importers.onnx_ops.types import DIGEST, LABEL, TO_ONNX

    array = np.ascontiguousarray(constant.source.load())
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    offset = file.tell()
    file.write(array.reshape(-1).view(np.uint8).data)
    tensor = TensorProto(name=constant.name, data_type=TO_ONNX[constant.type.dtype], dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    _tell(tensor, LABEL, constant.label)
    _tell_type(tensor, constant.type)
    _tell(tensor, DIGEST, content_key(array))
    return tensor


def _replace(path: Path, weights: Path | None, content: bytes) -> None:
    """Put the files in place when both are whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        if weights is not None:
            os.replace(weights, path.with_name(f"{path.name}.data"))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path}: {error.strerror or error}") from None


def _tell_type(tensor: TensorProto | ValueInfoProto, kind: TensorType) -> None:
    """Write down a layout or quantisation, which ONNX has no place for."""
    from mlsysopt.graph.importers.onnx_ops.types import TYPE

    if kind != kind.plain():
        _tell(tensor, TYPE, str(kind))


def _tell(tensor: TensorProto | ValueInfoProto, key: str, value: str) -> None:
    tensor.metadata_props.add(key=key, value=value)

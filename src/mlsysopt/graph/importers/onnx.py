"""Reading ONNX models: opset 13 and later, symbols for open sizes, weights mapped where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.graph.ir import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from mlsysopt.graph.importers.onnx_ops.size_names import Range

__all__ = ["from_onnx"]


def from_onnx(
    model: str | Path | ModelProto,
    *,
    dims: Mapping[str, Range] | None = None,
    opaque: Literal["error", "keep"] = "error",
    name: str | None = None,
) -> Graph:
    """Read an ONNX model.

    Each `dim_param` becomes a symbol of that name, an open size without a name a fresh one. Integer
    tensors that hold sizes are followed as formulas, so shape arithmetic leaves no op behind.
    External weights are not read; they are mapped when they are needed.

    Args:
        model: A file, or a model in memory.
        dims: What is known of sizes beforehand: name of a symbol -> (smallest, largest), or the size
            itself. A symbol is taken to be at least 1 otherwise.
        opaque: What becomes of operators without counterpart: an error that lists all of them, or ops
            that the interpreter gives to ONNX's own reference implementation.
        name: Name of the program; that of the file otherwise.

    Raises:
        ImportFailed: unknown operators, operators in a form that is not supported, element types
            without counterpart; each with node and opset.
        UsageError: no such file, no ONNX model, or a name in `dims` that the model does not have.

    >>> import onnx
    >>> text = '<ir_version: 8, opset_import: ["" : 18]> f (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }'
    >>> print(from_onnx(onnx.parser.parse_model(text)).signature)
    @f(%x: f32[N, 4]) -> (%y: f32[N, 4]) where N in 1..
    """
    proto, path = _loaded(model)
    from mlsysopt.graph.importers.onnx_ops.session import Session

    return Session(proto, path, dims or {}, keep=opaque == "keep", name=name).graph()


def _loaded(model: str | Path | ModelProto) -> tuple[ModelProto, Path | None]:
    try:
        import onnx
    except ImportError:
        raise MissingExtra.of("reading ONNX models", "graph") from None
    if not isinstance(model, (str, Path)):
        return model, None
    from google.protobuf.message import DecodeError

    path = Path(model)
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (DecodeError, ValueError) as error:
        raise UsageError(f"{path} is no ONNX model: {error}") from None
    if not proto.opset_import:
        raise UsageError(f"{path} is no ONNX model: it names no opset")
    return proto, path

"""Element types, attributes and tensors of ONNX files, as this package has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.errors import ImportFailed
from mlsysopt.graph.reader import parse_type
from mlsysopt.graph.sources import InFile, InMemory, Source
from mlsysopt.graph.types import DType, TensorType, bf16, boolean, f16, f32, f64, i8, i16, i32, i64, u8

if TYPE_CHECKING:
    import numpy.typing as npt
    from onnx import AttributeProto, TensorProto

__all__ = [
    "DIGEST",
    "FROM_ONNX",
    "LABEL",
    "TO_ONNX",
    "TYPE",
    "attribute",
    "element_type",
    "external_place",
    "metadata",
    "number_of",
    "shortest",
    "source_of",
    "with_noted_type",
]

# Numbers of `TensorProto.DataType`; part of the file format, so they never change.
FROM_ONNX: dict[int, DType] = {1: f32, 2: u8, 3: i8, 5: i16, 6: i32, 7: i64, 9: boolean, 10: f16, 11: f64, 16: bf16}
TO_ONNX: dict[DType, int] = {ours: number for number, ours in FROM_ONNX.items()}

LABEL = "mlsysopt.label"
"""Metadata key of an initialiser: its name in the model that it came from."""
TYPE = "mlsysopt.type"
"""Metadata key of an input or initialiser: its type, where that says more than ONNX can."""
DIGEST = "mlsysopt.digest"
"""Metadata key of an initialiser: the hash of its content."""


def element_type(number: int, what: str) -> DType:
    """Return our element type for ONNX's number.

    Raises:
        ImportFailed: there is none.
    """
    found = FROM_ONNX.get(number)
    if found is not None:
        return found
    from onnx import TensorProto

    known = dict(zip(TensorProto.DataType.values(), TensorProto.DataType.keys(), strict=True))
    allowed = ", ".join(known[one] for one in FROM_ONNX)
    raise ImportFailed(f"{what}: element type {known.get(number, number)} has no counterpart; allowed are {allowed}")


def shortest(value: float) -> float:
    """Return the shortest decimal number that a 32-bit float stands for.

    Attributes and scalars are written by people: `1e-05` is meant, not 9.999999747378752e-06.

    >>> shortest(9.999999747378752e-06)
    1e-05
    """
    return float(str(np.float32(value))) if np.isfinite(value) else float(value)


def number_of(array: npt.NDArray[Any], element: DType) -> float | int | bool:
    """Return the number in an array of one element, a 32-bit float as its shortest decimal."""
    only = array.reshape(()).item()
    return shortest(only) if element is f32 else only


def attribute(proto: AttributeProto) -> Any:
    """Return the content of an attribute: int, float, str, tuple of these, or the protocol buffer."""
    from onnx import helper

    value: Any = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return shortest(value)
    if not isinstance(value, str) and hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return tuple(
            one.decode("utf-8", "replace")
            if isinstance(one, bytes)
            else shortest(one)
            if isinstance(one, float)
            else one
            for one in value
        )
    return value


def metadata(proto: Any) -> dict[str, str]:
    """Return the metadata of a node, tensor or model."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def with_noted_type(kind: TensorType, proto: Any) -> TensorType:
    """Return the layout and quantisation that our exporter wrote beside a tensor, if they fit it."""
    text = metadata(proto).get(TYPE)
    try:
        noted = parse_type(text) if text else kind
    except UsageError:
        return kind
    return noted if (noted.dtype, noted.shape) == (kind.dtype, kind.shape) and noted.placement is None else kind


def external_place(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int | None]:
    """Return file, offset and size in bytes of a tensor whose bytes are in another file.

    Raises:
        ImportFailed: the file would lie outside the model's folder, or the folder is not known.
    """
    from onnx import TensorProto

    assert tensor.data_location == TensorProto.EXTERNAL
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = Path(entries.get("location", ""))
    if folder is None:
        raise ImportFailed(
            f"tensor {tensor.name!r} lies in {str(location)!r}, but the model was given as an object: give its path"
        )
    if not entries.get("location") or location.is_absolute() or ".." in location.parts:
        raise ImportFailed(f"tensor {tensor.name!r}: weights file {str(location)!r} is outside the model's folder")
    try:
        offset = int(entries.get("offset", "0"))
        size = int(entries["length"]) if "length" in entries else None
    except ValueError:
        offset, size = -1, -1
    if offset < 0 or (size is not None and size < 0):
        raise ImportFailed(f"tensor {tensor.name!r}: offset and length in {str(location)!r} must be numbers >= 0")
    return folder / location, offset, size


def source_of(tensor: TensorProto, folder: Path | None) -> Source:
    """Return where the bytes of a tensor are; nothing is read from other files.

    Raises:
        ImportFailed: an element type without counterpart, or a size that contradicts the shape.
    """
    from onnx import TensorProto

    element = element_type(tensor.data_type, f"tensor {tensor.name!r}")
    shape = tuple(tensor.dims)
    if tensor.data_location != TensorProto.EXTERNAL:
        return InMemory(_array(tensor))
    path, offset, size = external_place(tensor, folder)
    needed = int(np.prod(shape, dtype=np.int64)) * element.bytes
    if size is not None and size != needed:
        raise ImportFailed(
            f"tensor {tensor.name!r}: {size} bytes in {path.name}, but {element}{list(shape)} takes {needed}"
        )
    return InFile(path, offset, needed, element, shape, digest=metadata(tensor).get(DIGEST, ""))


def _array(tensor: TensorProto) -> npt.NDArray[Any]:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        shape = list(tensor.dims)
        raise ImportFailed(f"tensor {tensor.name!r} of shape {shape} is damaged: {error}") from None

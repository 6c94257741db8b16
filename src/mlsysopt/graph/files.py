"""Programs on disk: `.mlg` is the text form, with the weights beside it in one safetensors file.

    model.mlg               // {"artefact": {...}, "weights": "model.mlg.safetensors"}
                            graph @model(%x: f32[N, 4]) { ... }
    model.mlg.safetensors   the bytes of each constant under its name

The text states the hash of each weight. The weights are mapped, not read: a program of ten gigabytes
loads at once, and a program whose weights are lost can still be shown, checked and rewritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import ArtefactError, UsageError
from mlsysopt.core.places import artefact_header, read_header
from mlsysopt.graph.errors import WeightsError
from mlsysopt.graph.ir import Constant, Graph
from mlsysopt.graph.reader import parse
from mlsysopt.graph.sources import Absent, InFile, content_key
from mlsysopt.graph.text import print_graph

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlsysopt.graph.types import DType

    Array = npt.NDArray[Any]

__all__ = ["load", "save"]

_FORMAT, _VERSION = "graph", 1
_MARK = "// "
_NAMES = {
    "bool": "BOOL", "i8": "I8", "u8": "U8", "i16": "I16", "i32": "I32", "i64": "I64",
    "f16": "F16", "bf16": "BF16", "f32": "F32", "f64": "F64",
}  # fmt: skip


def save(graph: Graph, path: str | Path) -> Path:
    """Write a program and its weights; both files are whole or not there.

    Weights are copied one at a time, so that a program larger than the memory can be saved.

    Args:
        graph: The program.
        path: File for the text; weights go to `<path>.safetensors`.

    Returns:
        The file of the text.

    Raises:
        WeightsError: the bytes of a constant are not at hand; the constant is named.
        UsageError: the folder cannot be written.
    """
    target = Path(path)
    beside = _weights_path(target)
    text_part, weights_part = (one.with_name(f"{one.name}.{os.getpid()}.tmp") for one in (target, beside))
    try:
        digests = _write_weights(graph.constants, weights_part) if graph.constants else {}
        known = tuple(replace(one, source=Absent(digests[one.name])) for one in graph.constants)
        header = {**artefact_header(_FORMAT, _VERSION), "weights": beside.name if graph.constants else None}
        program = print_graph(replace(graph, constants=known))
        text_part.write_text(f"{_MARK}{json.dumps(header)}\n{program}\n", encoding="utf-8")
        if graph.constants:
            os.replace(weights_part, beside)
        else:
            beside.unlink(missing_ok=True)
        os.replace(text_part, target)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        for part in (text_part, weights_part):
            with suppress(OSError):
                part.unlink()
    return target


def load(path: str | Path, *, check: bool = False) -> Graph:
    """Read a program that `save` wrote, or the text of one.

    Weights are compared with the hash in the text when they are first needed. A weight that is
    missing, cut short or changed is an error then, and not before: the program itself is there.

    Args:
        path: File of the text.
        check: Whether all weights are looked at now.

    Raises:
        UsageError: no such file.
        ArtefactError: a file of another kind, or written by a newer version.
        GraphTextError: damaged text; file, line and column.
        WeightsError: with `check`, weights that are not those that were saved; all are named.
    """
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ArtefactError(f"{source} is no program: it is not text") from None
    graph = parse(text, file=source.name)
    weights = _weights_name(text, source)
    if weights is None:
        return graph
    constants = _located(graph.constants, source.parent / weights)
    if check:
        _check(constants)
    return replace(graph, constants=constants)


def _weights_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")


def _weights_name(text: str, path: Path) -> str | None:
    """Return the name of the file with the weights, None for a text without header or weights."""
    line = text.split("\n", 1)[0]
    if not line.startswith(_MARK + "{"):
        return None
    try:
        header = json.loads(line.removeprefix(_MARK))
    except json.JSONDecodeError as error:
        raise ArtefactError(f"{path}:1: the header is damaged: {error}") from None
    try:
        read_header(header, _FORMAT, _VERSION)
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}") from None
    name = header.get("weights")
    if name is not None and (not isinstance(name, str) or Path(name).name != name):
        raise ArtefactError(f"{path}:1: the weights must lie beside the program, got {name!r}")
    return name


class _Stored:
    """A weight in a safetensors file; what is wrong with it is said when it is needed.

    Args:
        name: The constant.
        key: Hash that the text states.
        file: Where its bytes are, or a sentence why they are nowhere.
    """

    __slots__ = ("_file", "key", "name")

    def __init__(self, name: str, key: str, file: InFile | str) -> None:
        self.name = name
        self.key = key
        self._file = file

    def load(self) -> Array:
        if isinstance(self._file, str):
            raise WeightsError(f"constant {self.name!r}: expected {self.key}, found nothing: {self._file}")
        try:
            return self._file.load()
        except WeightsError as error:
            raise WeightsError(f"constant {self.name!r}: expected {self.key}; {error}") from None


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Where a tensor is in a safetensors file, and what it is said to be."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _located(constants: Sequence[Constant], path: Path) -> tuple[Constant, ...]:
    try:
        found: Mapping[str, _Stretch] | str = _read_index(path)
    except WeightsError as error:
        found = str(error)
    return tuple(replace(one, source=_Stored(one.name, one.source.key, _place(one, path, found))) for one in constants)


def _place(constant: Constant, path: Path, found: Mapping[str, _Stretch] | str) -> InFile | str:
    if isinstance(found, str):
        return found
    stretch = found.get(constant.name)
    if stretch is None:
        return f"{path} has no tensor of this name"
    kind = constant.type
    shape, size = tuple(int(one) for one in kind.shape), int(kind.bytes)
    if (stretch.dtype, stretch.shape, stretch.end - stretch.begin) != (_NAMES[kind.dtype.name], shape, size):
        return f"{path} has {stretch.dtype}{list(stretch.shape)} under this name, not {kind}"
    return InFile(path, stretch.begin, size, kind.dtype, shape, digest=constant.source.key)


def _read_index(path: Path) -> dict[str, _Stretch]:
    """Read the header of a safetensors file.

    Raises:
        WeightsError: no file, or no header that can be read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # More than the whole file: not a header length but something else.
            raw = file.read(length) if 0 < length <= os.fstat(file.fileno()).st_size else b""
    except OSError as error:
        raise WeightsError(f"weights file {path}: {error.strerror}; put it beside the program") from None
    try:
        entries: dict[str, Any] = json.loads(raw)
        base = 8 + length
        return {
            name: _Stretch(
                str(one["dtype"]), tuple(map(int, one["shape"])), *(base + int(at) for at in one["data_offsets"])
            )
            for name, one in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"weights file {path} is damaged: its header cannot be read") from None


def _write_weights(constants: Sequence[Constant], path: Path) -> dict[str, str]:
    """Write a safetensors file and return the hash of each constant."""
    import numpy as np

    # Wide elements first, so that every tensor starts at a multiple of its element's size.
    ordered = sorted(constants, key=lambda one: -one.type.dtype.bytes)
    entries: dict[str, Any] = {"__metadata__": {"format": "mlsysopt"}}
    at = 0
    for constant in ordered:
        kind, size = constant.type, int(constant.type.bytes)
        shape = [int(one) for one in kind.shape]
        entries[constant.name] = {"dtype": _NAMES[kind.dtype.name], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    digests: dict[str, str] = {}
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for constant in ordered:
            array = np.ascontiguousarray(_loaded(constant))
            digests[constant.name] = content_key(array)
            file.write(array.reshape(-1).view(np.uint8).data)
    return digests


def _loaded(constant: Constant) -> Array:
    try:
        array = constant.source.load()
    except WeightsError as error:
        raise WeightsError(f"constant {constant.name!r} cannot be saved: {error}") from None
    kind: DType = constant.type.dtype
    if array.dtype != kind.numpy() or array.shape != tuple(int(one) for one in constant.type.shape):
        raise WeightsError(
            f"constant {constant.name!r} is {constant.type}, but its source has {array.dtype}{list(array.shape)}"
        )
    return array


def _check(constants: Sequence[Constant]) -> None:
    problems: list[str] = []
    for constant in constants:
        try:
            constant.source.load()
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        raise WeightsError("\n".join(problems))

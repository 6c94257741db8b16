"""What a group of ONNX nodes stands for, written beside it by our exporter.

Many ops have no ONNX operator of their own: `silu` is written as Sigmoid and Mul. The nodes carry
the meaning and run anywhere; a note on the first one says which op they were. It is believed only
while the nodes are those that it was written for: it holds their digest, so a tool that changes
one of them makes the note void and the nodes are read as they stand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.importers.onnx_ops.types import metadata
from mlsysopt.graph.ir import NOWHERE, Attr, Loc
from mlsysopt.graph.reader import parse_type
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, TensorType, dtype

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["FACTS", "LOC", "NAME", "NOTE", "Note", "read_loc", "read_note", "write_loc", "write_note"]

NOTE = "mlsysopt.op"
"""Metadata key of the first node of a group."""
LOC = "mlsysopt.loc"
"""Metadata key of a node: the source line of its op."""
FACTS = "mlsysopt.facts"
"""Metadata key of the model: what is known of its symbols."""
NAME = "mlsysopt.name"
"""Metadata key of the model: the name of the program."""


@dataclass(frozen=True, slots=True)
class Note:
    """An op and the nodes that carry it out.

    Attributes:
        kind: Op kind.
        operands: Names of its operands in the file.
        results: Names of its results in the file.
        attrs: Its attributes.
        nodes: Number of nodes in a row, the first one included.
    """

    kind: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    attrs: Mapping[str, Attr]
    nodes: int


def write_note(note: Note, nodes: Sequence[NodeProto]) -> str:
    """Return the text of a note for these nodes."""
    content = {
        "kind": note.kind,
        "operands": list(note.operands),
        "results": list(note.results),
        "attrs": {name: _coded(value) for name, value in note.attrs.items()},
        "nodes": len(nodes),
        "digest": _digest(nodes),
    }
    return json.dumps(content)


def read_note(nodes: Sequence[NodeProto], at: int) -> Note | None:
    """Return the note on node `at`, None when there is none or when its nodes have been changed."""
    text = metadata(nodes[at]).get(NOTE)
    if text is None:
        return None
    try:
        content = json.loads(text)
        note = Note(
            content["kind"],
            tuple(content["operands"]),
            tuple(content["results"]),
            {name: _decoded(value) for name, value in content["attrs"].items()},
            int(content["nodes"]),
        )
        group = nodes[at : at + note.nodes]
        return note if len(group) == note.nodes and _digest(group) == content["digest"] else None
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        return None


def write_loc(loc: Loc) -> str:
    """Return the text of a source line."""
    return json.dumps([loc.file, loc.line, loc.module])


def read_loc(node: NodeProto) -> Loc:
    """Return the source line that an exporter of ours wrote on a node."""
    text = metadata(node).get(LOC)
    if text is None:
        return NOWHERE
    try:
        file, line, module = json.loads(text)
        return Loc(str(file), int(line), str(module))
    except (ValueError, TypeError):
        return NOWHERE


def _digest(nodes: Sequence[NodeProto]) -> str:
    made = hashlib.blake2b(digest_size=16)
    for node in nodes:
        attributes = [
            one.SerializeToString(deterministic=True) for one in sorted(node.attribute, key=lambda one: one.name)
        ]
        words = [node.op_type, node.domain, *node.input, "->", *node.output]
        made.update(json.dumps([words, [one.hex() for one in attributes]]).encode())
    return made.hexdigest()


def _coded(value: Attr) -> Any:
    if isinstance(value, tuple):
        return [_coded(one) for one in value]
    if isinstance(value, Dim):
        return {"dim": str(value)}
    if isinstance(value, DType):
        return {"dtype": value.name}
    if isinstance(value, TensorType):
        return {"type": str(value)}
    return value


def _decoded(value: Any) -> Attr:
    if isinstance(value, list):
        return tuple(_decoded(one) for one in value)
    if isinstance(value, dict):
        ((word, text),) = value.items()
        return {"dim": Dim.parse, "dtype": dtype, "type": parse_type}[word](text)
    return value

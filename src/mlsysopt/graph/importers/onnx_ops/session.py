"""One import: nodes are read in the order of the file, and each tensor is what it has become so far."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import Builder
from mlsysopt.graph.errors import GraphError, ImportFailed, TypeRuleError
from mlsysopt.graph.facts import Facts, parse_facts
from mlsysopt.graph.importers.onnx_ops.node import Node
from mlsysopt.graph.importers.onnx_ops.notes import FACTS, LOC, NAME, Note, read_loc, read_note
from mlsysopt.graph.importers.onnx_ops.opaque import keep
from mlsysopt.graph.importers.onnx_ops.ratios import Ratios, ratios_of, sizes_of_ratios
from mlsysopt.graph.importers.onnx_ops.registry import readers
from mlsysopt.graph.importers.onnx_ops.shapes import FOLDS, folded
from mlsysopt.graph.importers.onnx_ops.size_names import Range, SizeNames
from mlsysopt.graph.importers.onnx_ops.types import LABEL, element_type, metadata, number_of, source_of, with_noted_type
from mlsysopt.graph.importers.symbolic_values import LARGEST, Sizes, as_value
from mlsysopt.graph.ir import Graph, Loc, Value
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.rewriter import live
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, TensorType

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

__all__ = ["Session"]

log = logging.getLogger("mlsysopt.graph")

Array: TypeAlias = Any
T = TypeVar("T")

_OPSETS = (13, 23)
_SMALL = 1024
"""Elements up to which a weight is looked at while the program is read in."""


@dataclass(slots=True)
class _Entry:
    """What is known of one tensor of the file: any of a value, formulas, numbers, a weight.

    Attributes:
        value: The value of the program that it is, once something needed it as data.
        sizes: Its content as formulas.
        ratios: Its content as fractions of formulas, when it is real.
        make: Makes the value.
        tensor: The weight that it is.
        array: Its content as numbers.
        literal: Whether it is a constant among the nodes rather than a weight.
        from_shape: Whether its content follows from the shape of some tensor.
    """

    value: Value | None = None
    sizes: Sizes | None = None
    ratios: Ratios | None = None
    make: Callable[[], Value] | None = None
    tensor: TensorProto | None = None
    array: Array | None = None
    literal: bool = False
    from_shape: bool = False


class Session:
    """One import: the program as far as it is built, and what each tensor of the file has become.

    Attributes:
        builder: The program.
        file: Name of the model for messages.
        opsets: Domain -> version.
        names: Symbols of its sizes.
        read: Names of the tensors that some node, or the caller, reads.
    """

    def __init__(
        self, proto: ModelProto, path: Path | None, dims: Mapping[str, Range], *, keep: bool, name: str | None
    ) -> None:

        if proto.functions:
            from onnx import inliner

            proto = inliner.inline_local_functions(proto)
        self.proto = proto
        self.folder = path.parent if path is not None else None
        self.file = path.name if path is not None else proto.graph.name or "model"
        self.keep = keep
        self.opsets = {"" if one.domain == "ai.onnx" else one.domain: one.version for one in proto.opset_import}
        self.read = {name for node in proto.graph.node for name in node.input}
        self.read.update(value.name for value in proto.graph.output)
        notes = metadata(proto)
        self.ours = FACTS in notes
        wish = name or notes.get(NAME) or (path.stem if path is not None else proto.graph.name) or "main"
        self.builder = Builder(wish, parse_facts(notes[FACTS]) if self.ours else Facts())
        self.names = SizeNames(self.file, self.ours, self.builder.facts, dims)
        self._entries: dict[str, _Entry] = {}
        self._places: dict[tuple[Any, ...], Value] = {}
        self._infos: dict[str, ValueInfoProto] | None = None
        low, high = _OPSETS
        if not low <= self.opsets.get("", low) <= high:
            raise ImportFailed(
                f"{self.file}: opset {self.opsets['']}, supported are {low} to {high}; "
                "onnx.version_converter.convert_version brings a model to another one"
            )

    def graph(self) -> Graph:
        """Return the program."""
        graph = self.proto.graph
        self._check_operators(graph)
        self._add_weights(graph)
        self._add_inputs(graph)
        self.run(graph.node)
        self.builder.loc = Loc()
        outputs = [self.value(value.name) for value in graph.output]
        made = live(self.builder.finish(outputs))
        kept = Counter(str(op.attrs["target"]) for op in made.ops if op.kind == "opaque.onnx")
        if kept:
            listed = ", ".join(f"{target} ({count})" for target, count in kept.most_common())
            log.warning("%s: %d operators were kept as they are: %s", self.file, kept.total(), listed)
        return made

    # --- tensors by name -------------------------------------------------------------------------

    def entry(self, name: str) -> _Entry:
        found = self._entries.get(name)
        if found is None:
            raise ImportFailed(f"{self.file}: tensor {name!r} is read before it is defined, or nowhere defined")
        return found

    def value(self, name: str) -> Value:
        """Return a tensor as a value of the program; made now if nothing needed it so far."""
        entry = self.entry(name)
        if entry.value is None:
            if entry.tensor is not None:
                entry.value = self._weight(name, entry)
            elif entry.make is not None:
                entry.value = entry.make()
            else:
                raise ImportFailed(f"{self.file}: tensor {name!r} is an output that is not supported")
        return entry.value

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        entry = self.entry(name)
        if entry.value is not None:
            return entry.value.shape
        if entry.tensor is not None:
            return tuple(Dim.of(size) for size in entry.tensor.dims)
        if entry.sizes is not None:
            return tuple(Dim.of(size) for size in entry.sizes.array.shape)
        return self.value(name).shape

    def element(self, name: str) -> DType:
        """Return the element type of a tensor."""

        entry = self.entry(name)
        if entry.value is None and entry.tensor is not None:
            return element_type(entry.tensor.data_type, f"tensor {name!r}")
        return self.value(name).type.dtype

    def sizes(self, name: str) -> Sizes | None:
        """Return an integer tensor as formulas, None when it is data."""

        entry = self.entry(name)
        if entry.sizes is None and entry.tensor is not None:
            element = self.element(name)
            array = None if element.is_float else self.numbers(name)
            if array is not None and array.size <= LARGEST:
                entry.sizes = Sizes.of_array(array, element)
        return entry.sizes

    def numbers(self, name: str) -> Array | None:
        """Return the content of a small tensor that is known, None otherwise."""

        entry = self.entry(name)
        if entry.array is None:
            if entry.sizes is not None and entry.sizes.is_known:
                entry.array = entry.sizes.numbers()
            elif entry.tensor is not None:
                count = 1
                for size in entry.tensor.dims:
                    count *= size
                if count <= _SMALL:
                    entry.array = source_of(entry.tensor, self.folder).load()
        return entry.array

    def fresh_symbol(self, wish: str) -> str:
        """Return a symbol that the model does not use."""
        return self.names.fresh(wish)

    def declared_type(self, name: str) -> ValueInfoProto | None:
        """Return what the file says of a tensor in between."""
        if self._infos is None:
            self._infos = {one.name: one for one in (*self.proto.graph.value_info, *self.proto.graph.output)}
        return self._infos.get(name)

    # --- what the file declares ------------------------------------------------------------------

    def _check_operators(self, graph: GraphProto) -> None:
        """Refuse all operators without counterpart at once."""

        known = readers()
        lines: list[str] = []
        for node in graph.node:
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (domain, node.op_type) in known or (not domain and node.op_type in (*FOLDS, "Constant", "If")):
                continue
            version = self.opsets.get(domain, "not imported")
            what = f"{node.op_type} (domain {domain or 'ai.onnx'}, opset {version})"
            if not domain and node.op_type in ("Loop", "Scan"):
                lines.append(f"{what} at node {_title(node)!r}: loops inside a model are not supported; unroll them")
            elif not self.keep:
                lines.append(f"{what} at node {_title(node)!r}")
        if lines:
            raise ImportFailed(
                "\n".join(
                    [f'{self.file}: {len(lines)} operators without counterpart; opaque="keep" keeps them', *lines]
                )
            )

    def _add_weights(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            self._entries[tensor.name] = _Entry(tensor=tensor)
        if graph.sparse_initializer:
            raise ImportFailed(f"{self.file}: sparse weights are not supported")

    def _weight(self, name: str, entry: _Entry) -> Value:
        """Make a weight a constant, a lone number an op."""

        tensor = entry.tensor
        assert tensor is not None
        element, label = self.element(name), metadata(tensor).get(LABEL)
        if not tensor.dims and label is None:
            array = self.numbers(name)
            assert array is not None
            return self.builder.op("full", value=number_of(array, element), shape=(), dtype=element, name=name)
        kind = with_noted_type(TensorType(element, tuple(Dim.of(size) for size in tensor.dims)), tensor)
        place = tuple(sorted((one.key, one.value) for one in tensor.external_data))
        # Two names for one stretch of a file are one weight.
        known = self._places.get((place, kind)) if place else None
        if known is not None:
            return known
        label = name if label is None and not entry.literal else label or ""
        made = self.builder.constant(name, source_of(tensor, self.folder), kind, label=label)
        if place:
            self._places[place, kind] = made
        return made

    def _add_inputs(self, graph: GraphProto) -> None:
        inputs = [value for value in graph.input if value.name not in self._entries]
        self.names.learn(
            size.dim_param for value in inputs for size in value.type.tensor_type.shape.dim if size.dim_param
        )
        kinds = [(value.name, self._input_type(value)) for value in inputs]
        self.names.check()
        for name, kind in kinds:
            self._entries[name] = _Entry(self.builder.input(name, kind))

    def _input_type(self, value: ValueInfoProto) -> TensorType:

        what = f"{self.file}: input {value.name!r}"
        if not value.type.HasField("tensor_type"):
            raise ImportFailed(f"{what} is no tensor but a {value.type.WhichOneof('value')}")
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise ImportFailed(f"{what} has no shape; give it one with onnx.helper.make_tensor_value_info")
        sizes: list[Dim] = []
        for axis, size in enumerate(tensor.shape.dim):
            if size.HasField("dim_value") and size.dim_value >= 0:
                sizes.append(Dim.of(size.dim_value))
                continue
            name = size.dim_param or self.names.free(f"{value.name}_{axis}")
            found, self.builder.facts = self.names.size(name, self.builder.facts)
            sizes.append(found)
        return with_noted_type(TensorType(element_type(tensor.elem_type, what), tuple(sizes)), value)

    # --- nodes -----------------------------------------------------------------------------------

    def run(self, nodes: Sequence[NodeProto]) -> None:
        """Add what nodes compute, in the order of the file."""

        at = 0
        while at < len(nodes):
            note = read_note(nodes, at)
            if note is not None and self._run_note(nodes[at], note):
                at += note.nodes
            else:
                self._run_node(nodes[at])
                at += 1

    def _locate(self, proto: NodeProto) -> None:

        ours = LOC in metadata(proto)
        self.builder.loc = read_loc(proto) if ours else Loc() if self.ours else Loc(self.file, 0, _title(proto))

    def _run_note(self, proto: NodeProto, note: Note) -> bool:
        """Add the op that a note speaks of; False when it is none that is known here."""
        try:
            definition = lookup(note.kind)
        except UsageError:
            return False
        known = all(name in self._entries for name in note.operands) and note.attrs.keys() == definition.attrs.keys()
        if not known:
            return False
        self._locate(proto)
        attrs: dict[str, Any] = dict(note.attrs)
        made = self.builder.op(note.kind, *map(self.value, note.operands), names=list(note.results), **attrs)
        results = made if isinstance(made, tuple) else (made,)
        for name, value in zip(note.results, results, strict=True):
            self._entries[name] = _Entry(value)
            self.names.take(value.type.symbols)
        return True

    def _run_node(self, proto: NodeProto) -> None:

        self._locate(proto)
        node = Node(proto, self)
        if node.domain == "" and node.kind == "Constant":
            self._entries[proto.output[0]] = _literal(node)
            return
        if node.domain == "" and node.kind == "If":
            self._run_branch(node)
            return
        found = self._guarded(node, _folded)
        ratios = self._guarded(node, ratios_of) if found is None else None
        if ratios is not None:
            self._entries[proto.output[0]] = _Entry(ratios=ratios, make=self._later(node), from_shape=True)
            return
        if found is None:
            for name, value in zip(proto.output, self._results(node), strict=False):
                if name:
                    self._entries[name] = _Entry(value, array=_same_numbers(node, value))
            return
        from_shape = node.kind in ("Shape", "Size") or any(self.entry(name).from_shape for name in proto.input if name)
        for i, sizes in enumerate(found):
            if proto.output[i]:
                self._entries[proto.output[i]] = _Entry(
                    sizes=sizes, make=self._later(node, i, sizes if from_shape else None), from_shape=from_shape
                )

    def _later(self, node: Node, i: int = 0, sizes: Sizes | None = None) -> Callable[[], Value]:
        """Return what makes an output when it is needed as data.

        What follows from shapes becomes size ops; arithmetic on constants stays as the model has it.
        """
        loc = self.builder.loc

        def made() -> Value:
            before, self.builder.loc = self.builder.loc, loc
            try:
                if sizes is not None:
                    return as_value(self.builder, sizes, node.outputs[i])
                value = self._results(node)[i]
                assert value is not None
                return value
            finally:
                self.builder.loc = before

        return made

    def _results(self, node: Node) -> Sequence[Value | None]:
        read = readers().get((node.domain, node.kind))
        made = self._guarded(node, read if read is not None else keep)
        return (made,) if isinstance(made, Value) else made

    def _guarded(self, node: Node, read: Callable[[Node], T]) -> T:
        """Call a function that reads a node; what it stumbles over in a damaged model names the node."""
        try:
            return read(node)
        except TypeRuleError as error:
            node.refuse(str(error))
        except GraphError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, StopIteration) as error:
            # Too few inputs, attributes of another kind, sizes that do not fit.
            node.refuse(f"the node is malformed: {error}")

    def _run_branch(self, node: Node) -> None:
        """Take the branch that the sizes decide; a choice by data is refused."""
        sizes = node.sizes(0)
        if sizes is None:
            node.refuse("the condition is computed from data; only choices that the sizes decide are supported")
        branch = node.attr("then_branch" if bool(sizes.array.reshape(-1)[0]) else "else_branch")
        self._check_operators(branch)
        self._add_weights(branch)
        self.read |= {name for one in branch.node for name in one.input} | {value.name for value in branch.output}
        self.run(branch.node)
        for outer, inner in zip(node.outputs, branch.output, strict=True):
            self._entries[outer] = self.entry(inner.name)


def _folded(node: Node) -> tuple[Sizes, ...] | None:
    sizes = sizes_of_ratios(node)
    return folded(node) if sizes is None else (sizes,)


def _literal(node: Node) -> _Entry:
    """Read a Constant node."""
    from onnx import numpy_helper

    attributes = node.attributes
    if "value" in attributes:
        return _Entry(tensor=attributes["value"], literal=True)
    for word, element in (("value_float", np.float32), ("value_int", np.int64)):
        for name in (word, word + "s"):
            if name in attributes:
                return _Entry(tensor=numpy_helper.from_array(np.asarray(attributes[name], element)), literal=True)
    node.refuse(
        f"a constant given by {', '.join(attributes) or 'nothing'}; strings and sparse tensors are not supported"
    )
    raise AssertionError  # `refuse` raises


def _same_numbers(node: Node, value: Value | None) -> Array | None:
    """Return the numbers of a cast or copy of known numbers."""
    if value is None or node.kind not in ("Cast", "Identity", "CastLike"):
        return None
    numbers = node.numbers(0)
    return None if numbers is None else numbers.astype(value.type.dtype.numpy())


def _title(node: NodeProto) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)

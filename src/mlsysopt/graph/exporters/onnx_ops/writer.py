"""A program on its way into an ONNX graph: nodes so far, and short ways to add more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import Builder
from mlsysopt.graph.exporters.onnx_ops.registry import writers
from mlsysopt.graph.exporters.size_formulas import SizeFormulas
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.importers.onnx_ops.notes import LOC, NOTE, Note, write_loc, write_note
from mlsysopt.graph.importers.onnx_ops.types import FROM_ONNX, TO_ONNX, number_of, shortest
from mlsysopt.graph.ir import NOWHERE, Graph, Op, Value
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, f32, i32, i64

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["Writer", "exact_float", "exact_number", "refused_kinds"]

Array: TypeAlias = Any


class Writer:
    """Nodes of one ONNX graph.

    Attributes:
        opset: Version of the standard domain.
        nodes: What has been written.
        facts: What is known of the symbols.
        domains: Versions of other domains that nodes belong to.
        sizes: Sizes as tensors.
    """

    def __init__(self, graph: Graph, opset: int) -> None:
        self.opset = opset
        self.facts: Facts = graph.facts
        self.domains: dict[str, int] = {}
        self.nodes: list[NodeProto] = []
        self._group: list[NodeProto] = []
        self._names: dict[Value, str] = {value: value.name for value in graph.values.values()}
        self._taken: set[str] = set(graph.values)
        self._prefix = ""
        self.sizes = SizeFormulas(self._emit_size, self._size_numbers, graph.facts)
        self._numbers: dict[tuple[int, ...], str] = {}
        for value in graph.inputs:
            self.sizes.learn(value, value.name)

    # --- ops -------------------------------------------------------------------------------------

    def write(self, op: Op) -> None:
        """Add the nodes of an op, with a note where they would not be read back as this op."""
        self._group, self._prefix = [], op.name
        exact = self.dispatch(op)
        nodes = self._group
        if nodes and not exact:
            note = Note(
                op.kind,
                tuple(self.name(value) for value in op.operands),
                tuple(self.name(value) for value in op.results),
                dict(op.attrs),
                len(nodes),
            )
            _tell(nodes[0], NOTE, write_note(note, nodes))
        if op.loc != NOWHERE:
            for node in nodes:
                _tell(node, LOC, write_loc(op.loc))
        self.nodes += nodes
        for value in op.results:
            self.sizes.learn(value, self.name(value))

    def dispatch(self, op: Op) -> bool:
        """Add the nodes of an op to the group at hand."""
        write = writers().get(op.kind)
        return write(self, op) if write is not None else self.decomposed(op)

    def decomposed(self, op: Op) -> bool:
        """Write an op as the simpler ops that it means."""
        decompose = lookup(op.kind).decompose
        if decompose is None:
            raise UsageError(f"{op.where()} has no ONNX counterpart")
        inner = Builder(op.name, self.facts)
        inputs = [inner.input(f"{i}", value.type) for i, value in enumerate(op.operands)]
        made = inner.finish(list(decompose(inner, inputs, op.attrs)))
        outer = self._names
        self._names = {mine: outer[theirs] for mine, theirs in zip(inputs, op.operands, strict=True)}
        for step in made.ops:
            for value in step.results:
                self._names[value] = self._free(f"{self._prefix}/{value.name}")
        copies: list[tuple[str, str]] = []
        given = set(inputs)
        for inside, result in zip(made.outputs, op.results, strict=True):
            if inside in given:
                copies.append((self._names[inside], outer[result]))
            else:
                self._names[inside] = outer[result]
        for step in made.ops:
            self.dispatch(step)
        self._names = outer
        for source, target in copies:
            self.emit("Identity", [source], output=target)
        return False

    def copy(self, value: Value, wish: str) -> str:
        """Add a copy of a value under a name of its own."""
        name = self._free(wish)
        self.nodes.append(_node("Identity", [self.name(value)], [name], {}))
        return name

    # --- names and nodes -------------------------------------------------------------------------

    def name(self, value: Value) -> str:
        """Return the name of a value in the file."""
        return self._names[value]

    def inputs(self, op: Op) -> list[str]:
        return [self.name(value) for value in op.operands]

    def emit(self, kind: str, inputs: Sequence[str], *, output: str = "", **attrs: Any) -> str:
        """Add a node with one output; return its name."""
        return self.emit_many(kind, inputs, [output or self._free(f"{self._prefix}/{kind}")], **attrs)[0]

    def emit_many(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attrs: Any) -> Sequence[str]:
        """Add a node; attributes that are None are left out."""
        self._group.append(_node(kind, inputs, outputs, attrs))
        return outputs

    def add(self, node: NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Add a node that exists, with other inputs and outputs."""
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        node.name = next(name for name in outputs if name)
        self._group.append(node)

    def result(self, kind: str, inputs: Sequence[str], op: Op, **attrs: Any) -> None:
        """Add the node whose output is the result of an op."""
        self.emit(kind, inputs, output=self.name(op.result), **attrs)

    def constant(self, array: Array, *, output: str = "") -> str:
        """Add a small constant as a node."""
        from onnx import numpy_helper

        return self.emit("Constant", [], output=output, value=numpy_helper.from_array(np.asarray(array)))

    def ints(self, numbers: Sequence[int]) -> str:
        """Add a vector of int64 numbers."""
        return self.constant(np.asarray(list(numbers), np.int64))

    def scalar(self, number: float | int | bool, element: DType) -> str:
        """Add a lone number."""
        return self.constant(np.asarray(number).astype(element.numpy()))

    def cast(self, name: str, to: DType, *, output: str = "") -> str:
        return self.emit("Cast", [name], output=output, to=TO_ONNX[to])

    # --- element types ---------------------------------------------------------------------------

    def allows(self, kind: str, element: DType, place: int = 0) -> bool:
        """Whether an operator takes this element type at an input."""
        return element in _allowed(kind, self.opset, place)

    def apply(self, kind: str, op: Op, *, inputs: Sequence[str] | None = None, **attrs: Any) -> bool:
        """Write an op as one operator of its operands; where that does not take their type, in a wider one.

        Returns:
            Whether it is one node.
        """
        names = list(inputs) if inputs is not None else self.inputs(op)
        element = op.operands[0].type.dtype
        if self.allows(kind, element):
            self.result(kind, names, op, **attrs)
            return True
        wide = next((one for one in _WIDER.get(element.name, ()) if self.allows(kind, one)), None)
        if wide is None:
            raise UsageError(f"{op.where()}: ONNX has no {kind} of {element} elements at opset {self.opset}")
        count = len(op.operands)
        names = [self.cast(name, wide) if i < count else name for i, name in enumerate(names)]
        target = op.result.type.dtype
        if target.is_bool and not element.is_bool:
            self.result(kind, names, op, **attrs)
        else:
            self.cast(self.emit(kind, names, **attrs), target, output=self.name(op.result))
        return False

    # --- sizes -----------------------------------------------------------------------------------

    def size(self, size: Dim) -> str:
        """Return the name of a tensor of shape (1,) that holds a size."""
        return self.sizes.one(size)

    def shape(self, sizes: Sequence[Dim]) -> str:
        """Return the name of a vector of sizes."""
        return self.sizes.vector(list(sizes))

    def _emit_size(self, kind: str, inputs: Sequence[str], **attrs: Any) -> str:
        # Sizes are shared by all ops: they stand before the group at hand, not in it.
        output = self._free(f"size/{kind}")
        self.nodes.append(_node(kind, inputs, [output], attrs))
        return output

    def _size_numbers(self, numbers: list[int]) -> str:
        from onnx import numpy_helper

        key = tuple(numbers)
        if key not in self._numbers:
            value = numpy_helper.from_array(np.asarray(numbers, np.int64))
            self._numbers[key] = self._emit_size("Constant", [], value=value)
        return self._numbers[key]

    def _free(self, wish: str) -> str:
        name, number = wish, 0
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name


def exact_float(value: Any) -> bool:
    """Whether an attribute survives as a 32-bit float that is read back as its shortest decimal."""
    return isinstance(value, float) and shortest(value) == value


def exact_number(value: Any, element: DType) -> bool:
    """Whether a number survives as an element of a tensor."""
    with np.errstate(over="ignore"):
        back = number_of(np.asarray(value).astype(element.numpy()), element)
    return type(back) is type(value) and back == value


def refused_kinds(graph: Graph) -> list[Op]:
    """Return the ops that no ONNX operator carries out, one of each kind."""
    known = writers()
    found: dict[str, Op] = {}
    for op in graph.ops:
        if op.kind not in known and lookup(op.kind).decompose is None:
            found.setdefault(op.kind, op)
    return list(found.values())


_WIDER: Mapping[str, tuple[DType, ...]] = {
    "bf16": (f32,), "f16": (f32,), "f64": (f32,), "f32": (), "bool": (i32, i64, f32),
    "i8": (i32, i64, f32), "u8": (i32, i64, f32), "i16": (i32, i64, f32), "i32": (i64,), "i64": (),
}  # fmt: skip


@cache
def _allowed(kind: str, opset: int, place: int) -> frozenset[DType]:
    from onnx import defs

    schema = defs.get_schema(kind, opset)
    if place >= len(schema.inputs):
        place = len(schema.inputs) - 1
    words = schema.inputs[place].types
    plain = {f"tensor({_ONNX_WORDS[one.name]})": one for one in FROM_ONNX.values()}
    return frozenset(plain[word] for word in words if word in plain)


_ONNX_WORDS = {
    "bool": "bool", "i8": "int8", "u8": "uint8", "i16": "int16", "i32": "int32", "i64": "int64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float", "f64": "double",
}  # fmt: skip


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], attrs: Mapping[str, Any]) -> NodeProto:
    from onnx import helper

    return helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **attrs)


def _tell(node: NodeProto, key: str, value: str) -> None:
    entry = node.metadata_props.add()
    entry.key, entry.value = key, value

"""One ONNX node as the functions that read operators see it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from mlsysopt.graph.builder import Builder
from mlsysopt.graph.errors import ImportFailed
from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.importers.onnx_ops.types import attribute, element_type
from mlsysopt.graph.importers.symbolic_values import Sizes, as_value
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, dtype, i64

if TYPE_CHECKING:
    from onnx import NodeProto

    from mlsysopt.graph.importers.onnx_ops.ratios import Ratios
    from mlsysopt.graph.importers.onnx_ops.session import Session

__all__ = ["Node"]

Array: TypeAlias = Any
_MISSING = object()


class Node:
    """A node with the values it reads, and short ways to add ops for it.

    Attributes:
        proto: The node in the file.
        session: The import that it belongs to.
        kind: Name of the operator.
        domain: Its domain, "" for the standard one.
        opset: Version of that domain that the model uses.
    """

    def __init__(self, proto: NodeProto, session: Session) -> None:
        self.proto = proto
        self.session = session
        self.kind: str = proto.op_type
        self.domain: str = "" if proto.domain == "ai.onnx" else proto.domain
        self.opset = session.opsets.get(self.domain, 1)
        self.inputs: Sequence[str] = list(proto.input)
        self.outputs: Sequence[str] = list(proto.output)

    @property
    def builder(self) -> Builder:
        return self.session.builder

    @property
    def facts(self) -> Facts:
        return self.session.builder.facts

    @property
    def name(self) -> str:
        return self.proto.name or (self.outputs[0] if self.outputs else self.kind)

    def refuse(self, why: str) -> NoReturn:
        """Raise ImportFailed for this node."""
        domain = f" (domain {self.domain})" if self.domain else ""
        raise ImportFailed(f"{self.session.file}: {self.kind}{domain} at node {self.name!r}, opset {self.opset}: {why}")

    # --- what it reads ---------------------------------------------------------------------------

    def has(self, i: int) -> bool:
        """Whether input `i` is given: trailing ones may be absent, others empty."""
        return i < len(self.inputs) and self.inputs[i] != ""

    def reads_output(self, i: int) -> bool:
        """Whether anybody reads output `i`."""
        return i < len(self.outputs) and self.outputs[i] in self.session.read

    def value(self, i: int) -> Value:
        """Return input `i` as a value of the program."""
        if not self.has(i):
            self.refuse(f"input {i} is missing")
        return self.session.value(self.inputs[i])

    def maybe(self, i: int) -> Value | None:
        return self.value(i) if self.has(i) else None

    def values(self) -> list[Value]:
        return [self.value(i) for i in range(len(self.inputs))]

    def shape(self, i: int) -> tuple[Dim, ...] | None:
        """Return the sizes of an input, without making it a value of the program where it is none."""
        return self.session.shape(self.inputs[i]) if self.has(i) else None

    def sizes(self, i: int) -> Sizes | None:
        """Return an integer input as formulas, None when it is data."""
        return self.session.sizes(self.inputs[i]) if self.has(i) else None

    def ratios(self, i: int) -> Ratios | None:
        """Return an input of reals as fractions of formulas, None when it is data."""
        return self.session.entry(self.inputs[i]).ratios if self.has(i) else None

    def ints(self, i: int) -> tuple[int, ...] | None:
        """Return an integer input as numbers, None when it is data or a symbol occurs."""
        found = self.sizes(i)
        return None if found is None else found.ints

    def dims(self, i: int, what: str) -> tuple[Dim, ...]:
        """Return an integer input as formulas.

        Raises:
            ImportFailed: it is computed from data.
        """
        found = self.sizes(i)
        if found is None:
            self.refuse(
                f"{what} is computed from data ({self.inputs[i]!r}); sizes that depend on data are not supported here"
            )
        return found.dims

    def known_ints(self, i: int, what: str) -> tuple[int, ...]:
        """Return an integer input as numbers, () when it is absent.

        Raises:
            ImportFailed: it is computed from data or from symbols.
        """
        if not self.has(i):
            return ()
        found = self.ints(i)
        if found is None:
            self.refuse(f"{what} must be constant, but {self.inputs[i]!r} is computed")
        return found

    def numbers(self, i: int) -> Array | None:
        """Return a small input whose content is known, None otherwise."""
        return self.session.numbers(self.inputs[i]) if self.has(i) else None

    # --- attributes ------------------------------------------------------------------------------

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return {one.name: attribute(one) for one in self.proto.attribute}

    def attr(self, name: str, default: Any = _MISSING) -> Any:
        """Return an attribute.

        Raises:
            ImportFailed: it is missing and has no default.
        """
        found = self.attributes.get(name, default)
        if found is _MISSING:
            self.refuse(f"attribute {name!r} is missing")
        return found

    def dtype_attr(self, name: str, default: int | object = _MISSING) -> DType:
        """Return an attribute that names an element type."""
        return element_type(self.attr(name, default), f"{self.kind} at node {self.name!r}")

    def tensor_attr(self, name: str) -> Array | None:
        """Return a small tensor attribute as an array, zero of type f32 shape (1,) for an absent `value`."""
        import numpy as np
        from onnx import numpy_helper

        found = self.attr(name, None)
        return np.zeros(1, np.float32) if found is None else numpy_helper.to_array(found)

    def dtype_of(self, array: Array) -> DType:
        return dtype(str(array.dtype))

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """Return an axis attribute, counted from the front."""
        return self.positive(self.attr(name, default), rank)

    def positive(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front.

        Raises:
            ImportFailed: there is no such axis.
        """
        if not -rank <= axis < max(rank, 1):
            self.refuse(f"axis {axis} is outside -{rank}..{rank - 1}")
        return axis + rank if axis < 0 else axis

    def axes(self, rank: int, *, place: int = 1, since: int = 13) -> tuple[int, ...] | None:
        """Return axes given as an input (since some opset) or as an attribute; None when absent."""
        if self.opset >= since:
            if not self.has(place):
                return None
            given = self.known_ints(place, "axes")
        else:
            given = self.attr("axes", None)
            if given is None:
                return None
        return tuple(sorted(self.positive(axis, rank) for axis in given))

    # --- what it adds ----------------------------------------------------------------------------

    def emit(self, kind: str, *operands: Value, **attrs: Any) -> Value:
        """Add an op in between."""
        return self.builder.op(kind, *operands, **attrs)

    def done(self, kind: str, *operands: Value, **attrs: Any) -> Value:
        """Add the op whose result is the node's output, under its name."""
        wish = self.outputs[0] if self.outputs else ""
        return self.builder.op(kind, *operands, name=wish, **attrs)

    def scalar(self, number: float, like: Value) -> Value:
        element = like.type.dtype
        return self.emit("full", value=float(number) if element.is_float else int(number), shape=(), dtype=element)

    def cast(self, value: Value, to: DType) -> Value:
        return value if value.type.dtype is to else self.emit("cast", value, to=to)

    def reshape(self, value: Value, shape: Sequence[Dim | int]) -> Value:
        """Reshape where that changes anything."""
        target = tuple(Dim.of(size) for size in shape)
        return value if value.shape == target else self.emit("reshape", value, shape=target)

    def broadcast(self, value: Value, shape: Sequence[Dim]) -> Value:
        return value if value.shape == tuple(shape) else self.emit("broadcast", value, shape=tuple(shape))

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        return (
            value if tuple(perm) == tuple(range(value.type.rank)) else self.emit("transpose", value, perm=tuple(perm))
        )

    def take(self, value: Value, axis: int, start: Dim | int, limit: Dim | int) -> Value:
        """Cut out a part along one axis."""
        starts, limits = [Dim.of(0)] * value.type.rank, list(value.shape)
        starts[axis], limits[axis] = Dim.of(start), Dim.of(limit)
        return self.emit("slice", value, starts=tuple(starts), limits=tuple(limits), strides=(1,) * value.type.rank)

    def size(self, size: Dim, element: DType = i64) -> Value:
        """Return a size as data, shape ()."""
        return as_value(self.builder, Sizes.of(size, element), "size")

    def iota(self, shape: Sequence[Dim], axis: int, element: DType = i64) -> Value:
        return self.emit("iota", shape=tuple(shape), axis=axis, dtype=element)

    def proves(self, a: Dim, b: Dim) -> bool:
        """Whether two sizes are known to be equal."""
        return a == b or self.facts.eq(a, b) is Answer.YES

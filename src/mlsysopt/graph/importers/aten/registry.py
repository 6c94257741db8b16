"""Which ATen overload is imported by which function, and what such a function has at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from typing import Any, TypeAlias, TypeVar

from mlsysopt.graph.builder import Builder
from mlsysopt.graph.ir import Attr, Attrs, Loc, Op, Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, TensorType, boolean, f32, i16, i64

__all__ = [
    "Call",
    "Handler",
    "Number",
    "Unsupported",
    "aten",
    "axes_of",
    "axis_of",
    "handler",
    "handlers",
    "may_return_operand",
]

Number: TypeAlias = bool | int | float | Dim
Handler: TypeAlias = Callable[..., Value | tuple[Value | None, ...]]
H = TypeVar("H", bound=Handler)


class Unsupported(Exception):
    """A use of a known overload that the program cannot express; the text says which."""


_HANDLERS: dict[str, Handler] = {}
_PASS_ON: set[str] = set()
_MODULES = ("attention", "contract", "elementwise", "make", "move", "norm", "pick", "pool", "reduce")


def aten(*overloads: str, may_return_operand: bool = False) -> Callable[[H], H]:
    """Register a function for overloads such as "add.Tensor"; ".default" may be left out.

    The function is called with a `Call` and the arguments in the order of the overload's schema,
    defaults filled in: tensors as `Value`, sizes as `Dim` or int, element types as `DType`.

    Args:
        overloads: Names without "aten.".
        may_return_operand: The result may share memory with an operand although the schema does
            not say so.
    """

    def register(function: H) -> H:
        for overload in overloads:
            name = overload if "." in overload else f"{overload}.default"
            if name in _HANDLERS:
                raise ValueError(f"aten.{name} is imported by two functions")
            _HANDLERS[name] = function
            if may_return_operand:
                _PASS_ON.add(name)
        return function

    return register


def handlers() -> dict[str, Handler]:
    """Return every registered function by its overload."""
    for module in _MODULES:
        import_module(f"mlsysopt.graph.importers.aten.{module}")
    return _HANDLERS


def handler(overload: str) -> Handler | None:
    """Return the function of an overload such as "add.Tensor", None when there is none."""
    return handlers().get(overload)


def may_return_operand(overload: str) -> bool:
    return overload in _PASS_ON


@dataclass(slots=True)
class Call:
    """One call of an ATen overload while it is turned into ops.

    Attributes:
        builder: The program so far.
        producers: Op of each value made so far.
        loc: Where the model makes the call.
        results: torch's result types, one per result; None where a result is no tensor.
        used: Which of several results anybody reads.
    """

    builder: Builder
    producers: dict[Value, Op]
    loc: Loc
    results: tuple[TensorType | None, ...]
    used: frozenset[int] = frozenset({0})

    @property
    def type(self) -> TensorType:
        """Type of the first result, as torch says."""
        first = self.results[0]
        if first is None:
            raise Unsupported("its result is no tensor")
        return first

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    def op(self, kind: str, *operands: Value, **attrs: Any) -> Value:
        """Add an op with one result."""
        made: Value = self.builder.op(kind, *operands, loc=self.loc, **attrs)
        self.producers[made] = Op(kind, operands, (made,), Attrs(attrs))
        return made

    def ops(self, kind: str, *operands: Value, **attrs: Any) -> tuple[Value, ...]:
        """Add an op with any number of results."""
        made = self.builder.op(kind, *operands, loc=self.loc, **attrs)
        return made if isinstance(made, tuple) else (made,)

    def made_by(self, value: Value, kind: str) -> Op | None:
        """Return the op that made a value when it is of this kind."""
        found = self.producers.get(value)
        return found if found is not None and found.kind == kind else None

    def cast(self, value: Value, to: DType) -> Value:
        return value if value.type.dtype is to else self.op("cast", value, to=to)

    def number(self, value: Number, dtype: DType) -> Value:
        """Return a number of an element type, shape (); a symbolic size becomes a `size` op."""
        if isinstance(value, Dim):
            if value.constant is None:
                return self.cast(self.op("size", dim=value), dtype)
            value = value.constant
        return self.full(value, (), dtype)

    def full(self, value: float, shape: Sequence[Dim | int], dtype: DType) -> Value:
        exact: Attr = float(value) if dtype.is_float else bool(value) if dtype.is_bool else int(value)
        return self.op("full", value=exact, shape=tuple(Dim.of(size) for size in shape), dtype=dtype)

    def operand(self, value: Value | Number, dtype: DType) -> Value:
        """Return a tensor or number as a value of an element type."""
        return self.cast(value, dtype) if isinstance(value, Value) else self.number(value, dtype)

    def promoted(self, *values: Value | Number) -> DType:
        """Return the element type in which torch computes with these: tensors with axes decide
        before tensors without, and those before numbers, unless a later one is of a higher kind."""
        tensors = [value.type for value in values if isinstance(value, Value)]
        best: DType | None = None
        for group in (
            [one.dtype for one in tensors if one.rank],
            [one.dtype for one in tensors if not one.rank],
            [_type_of(value) for value in values if not isinstance(value, Value)],
        ):
            if group:
                widest = reduce(_wider, group)
                if best is None or _KINDS[widest.kind] > _KINDS[best.kind]:
                    best = widest
        assert best is not None
        return best

    def reshape(self, value: Value, shape: Sequence[Dim | int]) -> Value:
        sizes = tuple(Dim.of(size) for size in shape)
        return value if value.shape == sizes else self.op("reshape", value, shape=sizes)

    def broadcast(self, value: Value, shape: Sequence[Dim | int]) -> Value:
        sizes = tuple(Dim.of(size) for size in shape)
        return value if value.shape == sizes else self.op("broadcast", value, shape=sizes)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        return value if tuple(perm) == tuple(range(len(perm))) else self.op("transpose", value, perm=tuple(perm))

    def slice(self, value: Value, axis: int, start: Dim | int, limit: Dim | int, stride: int = 1) -> Value:
        """Cut one axis; start and limit are within 0..size already."""
        sizes = value.shape
        start, limit = Dim.of(start), Dim.of(limit)
        if start == 0 and limit == sizes[axis] and stride == 1:
            return value
        zero = Dim.of(0)
        return self.op(
            "slice",
            value,
            starts=tuple(start if i == axis else zero for i in range(len(sizes))),
            limits=tuple(limit if i == axis else sizes[i] for i in range(len(sizes))),
            strides=tuple(stride if i == axis else 1 for i in range(len(sizes))),
        )


_KINDS = {"bool": 0, "int": 1, "float": 2}


def _type_of(number: Number) -> DType:
    return boolean if isinstance(number, bool) else f32 if isinstance(number, float) else i64


def _wider(a: DType, b: DType) -> DType:
    if a is b:
        return a
    if a.kind != b.kind:
        return a if _KINDS[a.kind] > _KINDS[b.kind] else b
    if a.bytes == b.bytes:
        # bf16 meets f16, u8 meets i8: torch computes in the next type that holds both.
        return f32 if a.is_float else i16
    return a if a.bytes > b.bytes else b


def axis_of(axis: int, rank: int) -> int:
    """Return a non-negative axis."""
    return axis % rank if rank else 0


def axes_of(axes: Sequence[int] | int | None, rank: int) -> tuple[int, ...]:
    """Return sorted non-negative axes; none given means all."""
    if axes is None:
        return tuple(range(rank))
    if isinstance(axes, int):
        axes = [axes]
    return tuple(sorted(axis_of(axis, rank) for axis in axes)) or tuple(range(rank))

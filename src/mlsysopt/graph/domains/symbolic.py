"""Domains without data: types, types with concrete integers among them, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mlsysopt.graph.domains.sizes import evaluated
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.ir import Constant, Graph, Op
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Cost, lookup
from mlsysopt.graph.types import TensorType

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]

__all__ = ["Costs", "Mixed", "Types"]


class Types:
    """The type of every value, inferred anew from the types of inputs and constants."""

    def __init__(self) -> None:
        self._rule = Inference()

    @property
    def facts(self) -> Facts:
        """What the inputs say and the ops demand."""
        return self._rule.facts

    def start(self, graph: Graph, given: Mapping[str, Any]) -> Sequence[TensorType]:
        self._rule = Inference(graph.facts)
        return [given.get(value.name, value.type) for value in graph.inputs]

    def constant(self, constant: Constant) -> TensorType:
        return constant.type

    def run(self, op: Op, operands: Sequence[TensorType]) -> Sequence[TensorType]:
        try:
            return lookup(op.kind).infer(self._rule, operands, op.attrs)
        except TypeRuleError as error:
            raise TypeRuleError(f"{op.where()}: {error}") from None


class Mixed:
    """Small integers as numbers where they can be known, types for everything else.

    Args:
        at: Sizes of symbols; without one, a size that depends on it stays a type.
        most: Elements above which integers are not computed.
    """

    def __init__(self, at: Mapping[str, int] | None = None, *, most: int = 4096) -> None:
        self.sizes = dict(at or {})
        self._most = most

    def start(self, graph: Graph, given: Mapping[str, Any]) -> Sequence[Array | TensorType]:
        return [given.get(value.name, value.type) for value in graph.inputs]

    def constant(self, constant: Constant) -> Array | TensorType:
        small = not constant.type.dtype.is_float and constant.type.elements.at() <= self._most
        return constant.source.load() if small else constant.type

    def run(self, op: Op, operands: Sequence[Array | TensorType]) -> Sequence[Array | TensorType]:
        import numpy as np

        found, types = lookup(op.kind), [value.type for value in op.results]
        known = not any(isinstance(one, TensorType) for one in operands) and not found.fresh and not op.regions
        if known and not any(one.dtype.is_float for one in types) and self._small(op, types):
            arrays = [one for one in operands if not isinstance(one, TensorType)]
            try:
                with np.errstate(all="ignore"):
                    made = found.meaning(arrays, evaluated(op.attrs, self.sizes))
            except (ArithmeticError, LookupError, ValueError) as error:
                raise GraphError(f"{op.where()}: {error}") from error
            return [np.asarray(one).astype(t.dtype.numpy(), copy=False) for one, t in zip(made, types, strict=True)]
        return types

    def _small(self, op: Op, types: Sequence[TensorType]) -> bool:
        sizes = self.sizes.keys()
        symbols = frozenset[str]().union(*(one.symbols for one in types), *(_symbols(a) for a in op.attrs.values()))
        return symbols <= sizes and all(one.elements.at(self.sizes) <= self._most for one in types)


def _symbols(value: Any) -> frozenset[str]:
    if isinstance(value, tuple):
        return frozenset[str]().union(*map(_symbols, value))  # pyright: ignore[reportUnknownArgumentType]
    return getattr(value, "symbols", frozenset[str]())


class Costs:
    """What each op costs; `rows` holds it in the order of the program."""

    def __init__(self) -> None:
        self.rows: list[tuple[Op, Cost]] = []

    def start(self, graph: Graph, given: Mapping[str, Any]) -> Sequence[TensorType]:
        return [value.type for value in graph.inputs]

    def constant(self, constant: Constant) -> TensorType:
        return constant.type

    def run(self, op: Op, operands: Sequence[TensorType]) -> Sequence[TensorType]:
        self.rows.append((op, lookup(op.kind).cost(op)))
        return [value.type for value in op.results]

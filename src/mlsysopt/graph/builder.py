"""Making a program op by op; types and facts follow from the rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.errors import TypeRuleError
from mlsysopt.graph.facts import Facts, Origin
from mlsysopt.graph.ir import NOWHERE, Attr, Constant, Graph, Loc, Op, Value
from mlsysopt.graph.ops.inference import BroadcastQuestion, Inference
from mlsysopt.graph.ops.registry import OpDef, Variadic, lookup
from mlsysopt.graph.placement import Partial, Placement
from mlsysopt.graph.sources import InMemory, Source
from mlsysopt.graph.types import TensorType, dtype

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Builder"]


class Builder:
    """Collects inputs, constants and ops; `finish` returns the program.

    Args:
        name: Name of the program.
        facts: What is known of the symbols beforehand.

    >>> from mlsysopt.graph import f32
    >>> b = Builder("double")
    >>> x = b.input("x", f32["B", 4])
    >>> print(b.finish([b.op("add", x, x, name="y")]).outputs[0].type)
    f32[B, 4]
    """

    def __init__(self, name: str = "main", facts: Facts | None = None) -> None:
        self.name = name
        self.rule = Inference(facts if facts is not None else Facts())
        self.loc: Loc = NOWHERE
        self._inputs: list[Value] = []
        self._constants: list[Constant] = []
        self._ops: list[Op] = []
        self._names: set[str] = set()
        self._last: dict[str, int] = {}

    @property
    def facts(self) -> Facts:
        return self.rule.facts

    @facts.setter
    def facts(self, facts: Facts) -> None:
        self.rule.facts = facts

    @property
    def questions(self) -> Sequence[BroadcastQuestion]:
        """Broadcasts that could not be decided so far."""
        return self.rule.questions

    def fresh_name(self, wish: str) -> str:
        """Return a name that is free: the wish itself, or the wish with a number."""
        if wish not in self._names:
            self._names.add(wish)
            return wish
        number = self._last.get(wish, 0)
        while True:
            number += 1
            name = f"{wish}_{number}"
            if name not in self._names:
                self._last[wish] = number
                self._names.add(name)
                return name

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names from being given to new values."""
        self._names.update(names)

    @property
    def last(self) -> Op:
        """The op that was added last."""
        return self._ops[-1]

    def input(self, name: str, type: TensorType) -> Value:
        """Add an input; ranges that were declared with its symbols become facts."""
        if name in self._names:
            raise UsageError(f"graph {self.name}: the name {name!r} is taken")
        self._names.add(name)
        for size in type.shape:
            self.facts = self.facts.with_declared(size)
        value = Value(name, type)
        self._inputs.append(value)
        return value

    def constant(
        self,
        name: str,
        source: Source | npt.NDArray[Any],
        type: TensorType | None = None,
        *,
        label: str = "",
    ) -> Value:
        """Add a weight.

        Args:
            name: Wish for a name.
            source: Where its bytes are, or the array itself.
            type: Its type; taken from the array when None.
            label: Its name in the model.
        """
        import numpy as np

        if isinstance(source, np.ndarray):
            type = type or dtype(str(source.dtype))[tuple(source.shape)]
            source = InMemory(source)
        if type is None:
            raise UsageError(f"constant {name!r}: a source needs its type")
        value = Value(self.fresh_name(name), type)
        self._constants.append(Constant(value, source, label))
        return value

    def op(
        self,
        kind: str,
        *operands: Value,
        name: str = "",
        names: Sequence[str] = (),
        loc: Loc | None = None,
        placement: Placement | None = None,
        regions: Sequence[Graph] = (),
        result_types: Sequence[TensorType] | None = None,
        **attrs: Attr,
    ) -> Any:
        """Add an op; return its result, or a tuple of results when it has several.

        Args:
            kind: Op kind.
            operands: Values of this program.
            name: Wish for the name of the result, the kind otherwise.
            names: Wishes for several results.
            loc: Where it comes from; `self.loc` otherwise.
            placement: Placement of all results; an elementwise op takes its operands' otherwise.
            regions: Programs inside it.
            result_types: Types to take over the rule's, for layouts and quantisation. Element
                types and shapes must be the rule's, up to what the facts prove.
            attrs: Attributes.

        Raises:
            TypeRuleError: operands or attributes do not fit; the message names the op and its source.
        """
        found = lookup(kind)
        place = loc if loc is not None else self.loc
        try:
            check_operands(found, len(operands))
            complete = found.complete(attrs)
            self.rule.origin = _origin(kind, place)
            inferred = found.infer(self.rule, [value.type for value in operands], complete)
        except TypeRuleError as error:
            where = f" ({place})" if place != NOWHERE else ""
            shown = ", ".join(f"%{value.name}: {value.type}" for value in operands)
            raise TypeRuleError(f"{error}{where}; given {shown or 'no operands'}") from None
        if result_types is not None:
            inferred = tuple(result_types)
        wishes = tuple(names) or ((name,) if name else ())
        placed = placement if placement is not None else _inherited(found, operands)
        results = tuple(
            Value(
                self.fresh_name(wishes[i] if i < len(wishes) else wishes[0] if wishes else _wish(kind)),
                one if placed is None else one.with_placement(placed),
            )
            for i, one in enumerate(inferred)
        )
        self._ops.append(Op(kind, operands, results, complete, tuple(regions), place))
        return results[0] if len(results) == 1 else results

    def full(self, value: float | int | bool, type: TensorType, *, name: str = "") -> Value:
        """Add a tensor of one number."""
        return self.op("full", value=value, shape=type.shape, dtype=type.dtype, name=name)

    def scalar(self, value: float | int | bool, like: Value, *, name: str = "") -> Value:
        """Add a number of the element type of another value, shape ()."""
        return self.op("full", value=value, shape=(), dtype=like.type.dtype, name=name)

    def copy(self, op: Op, operands: Sequence[Value], *, keep_names: bool = True) -> tuple[Value, ...]:
        """Add an op of another program with other operands; types are inferred anew."""
        names = [value.name for value in op.results] if keep_names else ()
        attrs: dict[str, Any] = dict(op.attrs)
        made = self.op(op.kind, *operands, names=names, loc=op.loc, regions=op.regions, **attrs)
        return made if isinstance(made, tuple) else (made,)

    def add_inputs(self, graph: Graph) -> None:
        """Take over inputs, constants and facts of another program."""
        self._inputs += graph.inputs
        self._constants += graph.constants
        self._names.update(value.name for value in graph.inputs)
        self._names.update(constant.name for constant in graph.constants)
        self.facts = graph.facts

    def finish(self, outputs: Sequence[Value] | Mapping[str, Value]) -> Graph:
        """Return the program.

        Args:
            outputs: Values that the caller gets; a mapping renames them where the name is free.
        """
        values = tuple(outputs.values()) if isinstance(outputs, Mapping) else tuple(outputs)
        return Graph(self.name, tuple(self._inputs), tuple(self._constants), tuple(self._ops), values, self.facts)


def check_operands(found: OpDef, given: int) -> None:
    """Raise TypeRuleError unless a kind takes so many operands."""
    allowed = found.operands
    if isinstance(allowed, Variadic):
        if given < allowed.least or (allowed.most is not None and given > allowed.most):
            most = "any number" if allowed.most is None else allowed.most
            raise TypeRuleError(f"{found.kind}: {given} operands given, {allowed.least} to {most} allowed")
    elif given != allowed:
        raise TypeRuleError(f"{found.kind}: {given} operands given, {allowed} needed")


def _inherited(found: OpDef, operands: Sequence[Value]) -> Placement | None:
    # Only an elementwise op over operands of one shape keeps what its operands are split along.
    if not operands or operands[0].type.placement is None:
        return None
    first = operands[0].type
    alike = all(value.type.placement == first.placement and value.type.rank == first.rank for value in operands)
    if not (alike and found.elementwise):
        return None
    if first.placement is not None and any(isinstance(word, Partial) for word in first.placement.along):
        return first.placement if found.linear else None
    return first.placement


def _origin(kind: str, place: Loc) -> Origin:
    return Origin(kind, str(place))


def _wish(kind: str) -> str:
    return kind.rpartition(".")[2]

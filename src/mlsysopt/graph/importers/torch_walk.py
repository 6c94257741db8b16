"""From the nodes of an exported program to ops: arguments, places in the source, writes in place."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import Builder
from mlsysopt.graph.errors import ImportFailed
from mlsysopt.graph.facts import Answer, Origin
from mlsysopt.graph.importers.aten.registry import Call, Unsupported, handler
from mlsysopt.graph.importers.sympy_dims import Sizes, SizeUnknown
from mlsysopt.graph.importers.torch_aliasing import ASSERTIONS, SIZES, Groups, functional, is_aten, writes
from mlsysopt.graph.ir import NOWHERE, Loc, Op, Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType, dtype

if TYPE_CHECKING:
    from torch.fx import Node

__all__ = ["Walk", "place_of"]

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def place_of(node: Node) -> Loc:
    """Return where the user's model makes a call: the innermost line outside torch, and the module."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if "/torch/" not in frame[0]]
    own = own or [frame for frame in frames if "/torch/nn/" in frame[0]]
    if not own:
        return NOWHERE
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    return Loc(own[-1][0].rpartition("/")[2], int(own[-1][1]), str(modules[-1][0]) if modules else "")


@dataclass(slots=True)
class Walk:
    """Turns the calls of one exported program into ops.

    Attributes:
        builder: The program.
        sizes: Translation of torch's sizes.
        constant: Returns the value of a weight by the name of its placeholder.
        keep: Whether unknown operators become `opaque.aten`.
        values: What each node stands for: a value, a size, a tuple of them, or None.
        unknown: Operators without a meaning here -> where, and why.
    """

    builder: Builder
    sizes: Sizes
    constant: Callable[[str], Value]
    keep: bool = False
    values: dict[Any, Any] = field(default_factory=dict[Any, Any])
    unknown: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    producers: dict[Value, Op] = field(default_factory=dict[Value, Op])
    names: Groups = field(default_factory=Groups)
    kept: int = 0

    def run(self, nodes: Sequence[Node]) -> None:
        """Turn every call into ops, those after an unknown operator included as far as they go.

        Raises:
            ImportFailed: unknown operators, all of them at once; or a type that torch and the rules
                here see differently.
        """
        for node in nodes:
            if node.op != "call_function":
                continue
            if str(node.target) in ASSERTIONS:
                self._learn(node)
            elif node.target is operator.getitem:
                source: Any = node.args[0]
                parts = self.values.get(source)
                self.values[node] = parts[node.args[1]] if isinstance(parts, tuple) else _MISSING  # pyright: ignore
            elif not is_aten(node) or str(node.target) in SIZES:
                self.values[node] = _Size(node)
            else:
                self._call(node)
        if self.unknown:
            raise ImportFailed(_unknown_text(self.unknown))

    def of(self, node: Node) -> Any:
        """Return what a node stands for: a value, a size or a tuple."""
        found = self.values.get(node)
        if found is None and node.op == "placeholder":
            found = self.values[node] = self.constant(str(node.target))
        return self._size(found) if isinstance(found, _Size) else found

    def _size(self, size: _Size) -> Dim:
        value = size.node.meta.get("val")
        try:
            return self.sizes.of(value)
        except (SizeUnknown, AttributeError, TypeError) as error:
            raise Unsupported(str(error)) from None

    def type_of(self, fake: Any) -> TensorType | None:
        """Return our type of torch's example tensor, None when it is no tensor."""
        if not hasattr(fake, "dtype") or not hasattr(fake, "shape"):
            return None
        try:
            element = dtype(str(fake.dtype))
        except UsageError:
            raise Unsupported(f"element type {str(fake.dtype).removeprefix('torch.')}") from None
        return TensorType(element, self.sizes.shape(fake.shape))

    def _call(self, node: Any) -> None:
        name, place = functional(node.target), place_of(node)
        function = handler(name)
        reason = ""
        try:
            arguments = self._arguments(node)
            if any(one is _MISSING for one in _leaves(arguments)):
                self.values[node] = _MISSING  # follows from an operator that is listed already
                return
            call = self._prepared(node, place)
            if function is not None and str(node.target).startswith("aten."):
                made = function(call, *arguments)
                self._checked(node, call, made)
                self._define(node, made)
                return
        except Unsupported as error:
            reason = str(error)
        except SizeUnknown as error:
            reason = str(error)
        if self.keep:
            self._define(node, self._opaque(node, place))
            self.kept += 1
            return
        self.unknown.setdefault(f"{node.target}{f' ({reason})' if reason else ''}", []).append(str(place))
        self.values[node] = _MISSING

    def _define(self, node: Any, made: Any) -> None:
        self.values[node] = made
        if writes(node):
            # Every earlier name of the tensor that was written means the new value from now on. Not every node of
            # that value: what was copied from it is another tensor.
            self.names.rename(node, node.args[0])
            for other in self.names.names(node):
                self.values[other] = made

    def _prepared(self, node: Any, place: Loc) -> Call:
        value = node.meta.get("val")
        if isinstance(value, (tuple, list)):
            results = tuple(self.type_of(one) for one in value)
            used = frozenset(one.args[1] for one in node.users if one.target is operator.getitem and one.users)
        else:
            results, used = (self.type_of(value),), frozenset({0})
        return Call(self.builder, self.producers, place, results, used)

    def _arguments(self, node: Any) -> list[Any]:
        """Return the arguments in the order of the schema, defaults filled in."""
        found: list[Any] = []
        for i, argument in enumerate(node.target._schema.arguments):
            if i < len(node.args):
                value = node.args[i]
            elif argument.name in node.kwargs:
                value = node.kwargs[argument.name]
            else:
                value = argument.default_value
            found.append(self._argument(value))
        return found

    def _argument(self, value: Any) -> Any:
        if hasattr(value, "all_input_nodes"):
            return self.of(value)
        if isinstance(value, (list, tuple)):
            return [self._argument(one) for one in value]
        if str(value).startswith("torch.") and type(value).__name__ == "dtype":
            return dtype(str(value))
        return value

    def _checked(self, node: Any, call: Call, made: Any) -> None:
        """Compare the types that the rules give with torch's; a size only torch knows becomes a fact."""
        results = made if isinstance(made, tuple) else (made,)
        for value, expected in zip(results, call.results, strict=False):
            if not isinstance(value, Value) or expected is None:
                continue
            where = f"{node.target} at {call.loc}"
            if value.type.dtype is not expected.dtype or value.type.rank != expected.rank:
                raise ImportFailed(f"{where}: imported as {value.type}, but torch says {expected}; please report it")
            facts = self.builder.facts
            for ours, theirs in zip(value.shape, expected.shape, strict=True):
                if ours == theirs:
                    continue
                answer = facts.eq(ours, theirs)
                if answer is Answer.NO:
                    raise ImportFailed(
                        f"{where}: imported as {value.type}, but torch says {expected}; please report it"
                    )
                if answer is Answer.UNKNOWN:
                    facts = facts.with_equal(ours, theirs, Origin(str(node.target), str(call.loc)))
            self.builder.facts = facts

    def _learn(self, node: Any) -> None:
        """Keep what an assertion says about sizes as a fact."""
        origin = Origin("assertion", str(place_of(node)))
        first: Any = node.args[0] if node.args else None
        value = first.meta.get("val") if hasattr(first, "meta") else None
        symbolic = getattr(value, "node", None)
        if symbolic is None:
            return
        if "sym_constrain_range" in str(node.target):
            low, high = node.kwargs.get("min"), node.kwargs.get("max")
            size = self.sizes.of(value)
            if len(size.symbols) == 1 and size == Dim.of(next(iter(size.symbols))):
                self.builder.facts = self.builder.facts.with_range(size, low, high, origin)
            return
        self.learn(symbolic.expr, origin)

    def learn(self, relation: Any, origin: Origin) -> None:
        """Keep a relation of sizes that torch states; what no fact can say is left out."""
        word = type(relation).__name__
        if word == "And":
            for part in relation.args:
                self.learn(part, origin)
            return
        if word not in _RELATIONS:
            return
        try:
            left, right = (self.sizes.of(part) for part in relation.args)
        except SizeUnknown:
            return
        facts = self.builder.facts
        if word == "Equality":
            facts = facts.with_equal(left, right, origin)
        else:
            small, large = (left, right) if word in ("LessThan", "StrictLessThan") else (right, left)
            facts = facts.with_le(small + 1 if word.startswith("Strict") else small, large, origin)
        self.builder.facts = facts

    def _opaque(self, node: Any, place: Loc) -> Any:
        """Keep an operator that torch alone knows."""
        from mlsysopt.graph.ops.opaque import arguments_text

        operands: list[Value] = []
        sizes: list[Dim] = []

        def given(value: Any) -> Any:
            if hasattr(value, "all_input_nodes"):
                value = self.of(value)
            if isinstance(value, Value):
                operands.append(value)
                return {"operand": len(operands) - 1}
            if isinstance(value, Dim):
                sizes.append(value)
                return {"size": len(sizes) - 1}
            if isinstance(value, (list, tuple)):
                return [given(one) for one in value]
            if type(value).__name__ == "dtype":
                return {"dtype": str(value).removeprefix("torch.")}
            if value is None or isinstance(value, bool | int | float | str):
                return value
            raise Unsupported(f"argument {value!r} cannot be kept")

        # Where and how a tensor lies is not part of the program's meaning.
        named = {k: v for k, v in node.kwargs.items() if k not in ("device", "layout", "pin_memory", "memory_format")}
        try:
            text = arguments_text([given(one) for one in node.args], {k: given(v) for k, v in named.items()})
            value = node.meta.get("val")
            many = isinstance(value, (tuple, list))
            types = tuple(self.type_of(one) for one in (value if many else [value]))
        except (Unsupported, SizeUnknown) as error:
            raise ImportFailed(f"{node.target} at {place} cannot be kept: {error}") from None
        if any(one is None for one in types):
            raise ImportFailed(f"{node.target} at {place} cannot be kept: a result is no tensor")
        made = self.builder.op(
            "opaque.aten", *operands, loc=place, target=str(node.target), arguments=text, sizes=tuple(sizes),
            types=tuple(one for one in types if one is not None),
        )  # fmt: skip
        return made if not many or isinstance(made, tuple) else (made,)


_RELATIONS = frozenset({"Equality", "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan"})


class _Missing:
    """Stands for the result of an operator that could not be imported."""


_MISSING = _Missing()


@dataclass(frozen=True, slots=True)
class _Size:
    """A node that computes with sizes only; read when somebody needs it."""

    node: Any


def _leaves(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _leaves(value)
        else:
            yield value


_SHOWN = 8


def _unknown_text(unknown: Mapping[str, list[str]]) -> str:
    listed = [f"{name} at {places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''}"
              for name, places in unknown.items()]  # fmt: skip
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return (
        f"{len(unknown)} ATen operator{'s' if len(unknown) > 1 else ''} cannot be imported: "
        f"{'; '.join(listed[:_SHOWN])}{more}\n"
        "opaque='keep' keeps them as opaque.aten, executed by torch"
    )

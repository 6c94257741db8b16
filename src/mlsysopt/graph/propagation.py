"""What the ops of a program say about its sizes, carried in both directions to a fixpoint.

Each rule is run on the types at hand: what it demands of its operands becomes a fact (backward),
what it gives for its results is set equal to what stands there (forward). Every fact keeps the op
that said it, so a contradiction names two.

References:
    K. Zhu et al., *DISC: A Dynamic Shape Compiler*, EuroMLSys 2021, section 4.1 (shape constraints).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mlsysopt.graph.errors import FactsError, TypeRuleError
from mlsysopt.graph.facts import Origin
from mlsysopt.graph.ir import Attr, Attrs, Graph, Op, Value
from mlsysopt.graph.ops.inference import BroadcastQuestion, Inference
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType

__all__ = ["Propagated", "learn", "normalise", "propagate"]

_ROUNDS = 10
Sizes = Callable[[Dim], Dim]


@dataclass(frozen=True, slots=True)
class Propagated:
    """A program with all facts that its ops imply.

    Attributes:
        graph: The program, its sizes written with one name for equal ones.
        questions: Broadcasts that were assumed to be of equal sizes, since either could be 1.
        rounds: Passes over the program until nothing new was learned.
    """

    graph: Graph
    questions: tuple[BroadcastQuestion, ...]
    rounds: int


def propagate(graph: Graph) -> Propagated:
    """Learn what the ops imply and write equal sizes with one name.

    Raises:
        FactsError: two facts contradict each other; both origins are named.
        TypeRuleError: an op's operands cannot be meant.
    """
    rule = Inference(graph.facts)
    rounds = 0
    while rounds < _ROUNDS:
        before = rule.facts
        learn(graph, rule)
        rounds += 1
        if rule.facts == before:
            break
    return Propagated(normalise(graph.with_facts(rule.facts)), tuple(dict.fromkeys(rule.questions)), rounds)


def learn(graph: Graph, rule: Inference) -> None:
    """Run each op's rule once on the types that stand in the program; `rule.facts` grows."""
    for op in graph.ops:
        rule.origin = Origin(op.kind, str(op.loc))
        try:
            types = lookup(op.kind).infer(rule, [value.type for value in op.operands], op.attrs)
        except (FactsError, TypeRuleError) as error:
            raise type(error)(f"{op.where()}: {error}") from None
        for value, one in zip(op.results, types, strict=True):
            for given, expected in zip(value.shape, one.shape, strict=True):
                if given != expected:
                    rule.equal(given, expected, f"{op.where()}: %{value.name}")


def normalise(graph: Graph) -> Graph:
    """Write every size of a program through its facts, so that equal sizes look equal."""
    facts = graph.facts
    sizes: dict[Dim, Dim] = {}
    values: dict[Value, Value] = {}

    def size(one: Dim) -> Dim:
        if one not in sizes:
            sizes[one] = facts.normalise(one)
        return sizes[one]

    def of_value(value: Value) -> Value:
        known = values.get(value)
        if known is None:
            known = values[value] = _with_type(value, _written(value.type, size))
        return known

    def of_op(op: Op) -> Op:
        operands = tuple(of_value(value) for value in op.operands)
        results = tuple(of_value(value) for value in op.results)
        attrs = Attrs({name: _attr(value, size) for name, value in op.attrs.items()}) if op.attrs else op.attrs
        if all(new is old for new, old in zip((*operands, *results), (*op.operands, *op.results), strict=True)):
            return op if attrs == op.attrs else replace(op, attrs=attrs)
        return replace(op, operands=operands, results=results, attrs=attrs)

    return replace(
        graph,
        inputs=tuple(map(of_value, graph.inputs)),
        ops=tuple(map(of_op, graph.ops)),
        outputs=tuple(map(of_value, graph.outputs)),
    )


def _written(one: TensorType, size: Sizes) -> TensorType:
    shape = tuple(map(size, one.shape))
    return one if shape == one.shape else one.with_shape(shape)


def _with_type(value: Value, one: TensorType) -> Value:
    return value if one is value.type else Value(value.name, one)


def _attr(value: Attr, size: Sizes) -> Attr:
    if isinstance(value, Dim):
        return size(value)
    if isinstance(value, tuple):
        return tuple(_attr(one, size) for one in value)
    if isinstance(value, TensorType):
        return _written(value, size)
    return value

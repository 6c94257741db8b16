"""What a type rule may ask about sizes, and what becomes of the answer.

One rule serves three readers. The builder and the importers *learn*: what the rule demands becomes
a fact, with the op as its origin. The verifier *checks*: a demand that the facts do not prove is a
finding. Brute evaluation needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlsysopt.graph.errors import TypeRuleError
from mlsysopt.graph.facts import Answer, Facts, Origin
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, TensorType

__all__ = ["BroadcastQuestion", "Inference"]

_ONE = Dim.of(1)


@dataclass(frozen=True, slots=True)
class BroadcastQuestion:
    """Two sizes of which either could be 1: equality was assumed.

    Attributes:
        left: One size.
        right: The other.
        origin: The op that asked.
    """

    left: Dim
    right: Dim
    origin: Origin


@dataclass(slots=True)
class Inference:
    """Facts at hand while a type rule runs.

    Attributes:
        facts: What is known; grows when learning.
        origin: The op whose rule runs.
        learn: Whether unproven demands become facts; otherwise they become findings.
        findings: Demands that were not proven, as sentences.
        questions: Broadcasts that could not be decided.
    """

    facts: Facts = field(default_factory=Facts)
    origin: Origin = field(default_factory=lambda: Origin("type rule"))
    learn: bool = True
    findings: list[str] = field(default_factory=list[str])
    questions: list[BroadcastQuestion] = field(default_factory=list[BroadcastQuestion])

    def equal(self, a: Dim, b: Dim, what: str) -> Dim:
        """Demand `a == b`; return the simpler of the two.

        Raises:
            TypeRuleError: they are proven to differ.
        """
        if a == b:
            return a
        answer = self.facts.eq(a, b)
        if answer is Answer.NO:
            raise TypeRuleError(f"{what}: {a} and {b} must be equal")
        if answer is Answer.UNKNOWN:
            if self.learn:
                self.facts = self.facts.with_equal(a, b, self.origin)
            else:
                self.findings.append(f"{what}: {a} = {b} is not among the facts")
        return a if a.is_constant or not b.is_constant else b

    def at_most(self, a: Dim, b: Dim, what: str) -> None:
        """Demand `a <= b`; only a proven contradiction is an error, since most ranges are open.

        Raises:
            TypeRuleError: `a > b` is proven.
        """
        if self.facts.le(a, b) is Answer.NO:
            raise TypeRuleError(f"{what}: {a} must be at most {b}")

    def broadcast(self, a: Dim, b: Dim, what: str) -> Dim:
        """Return the size of two sizes broadcast together.

        A size that is not known to be 1 is taken to be equal to its partner; where it could be 1,
        the question is recorded.

        Raises:
            TypeRuleError: they differ and neither is 1.
        """
        if a == b or b == _ONE:
            return a
        if a == _ONE:
            return b
        answer = self.facts.eq(a, b)
        if answer is Answer.YES:
            return a if a.is_constant or not b.is_constant else b
        one_is_one = [self.facts.eq(size, _ONE) for size in (a, b)]
        if answer is Answer.NO and all(one is Answer.NO for one in one_is_one):
            raise TypeRuleError(f"{what}: sizes {a} and {b} cannot be broadcast together")
        if one_is_one[0] is Answer.YES or (answer is Answer.NO and one_is_one[1] is Answer.NO):
            return b
        if one_is_one[1] is Answer.YES or (answer is Answer.NO and one_is_one[0] is Answer.NO):
            return a
        if any(one is not Answer.NO for one in one_is_one):
            self.questions.append(BroadcastQuestion(a, b, self.origin))
        return self.equal(a, b, what)

    def broadcast_shapes(self, shapes: list[tuple[Dim, ...]], what: str) -> tuple[Dim, ...]:
        """Return the shape of several shapes broadcast together, aligned at the last axis."""
        rank = max((len(shape) for shape in shapes), default=0)
        result = list[Dim]()
        for i in range(-rank, 0):
            sizes = [shape[i] for shape in shapes if len(shape) >= -i]
            size = sizes[0]
            for other in sizes[1:]:
                size = self.broadcast(size, other, what)
            result.append(size)
        return tuple(result)

    def same_dtype(self, types: list[TensorType], what: str) -> DType:
        """Demand one element type.

        Raises:
            TypeRuleError: they differ; a cast must be explicit.
        """
        first = types[0].dtype
        for other in types[1:]:
            if other.dtype is not first:
                shown = ", ".join(one.dtype.name for one in types)
                raise TypeRuleError(f"{what}: operands have element types {shown}; cast them to one")
        return first

    def float_dtype(self, types: list[TensorType], what: str) -> DType:
        """Demand one element type, a float.

        Raises:
            TypeRuleError: they differ, or are no floats.
        """
        element = self.same_dtype(types, what)
        self.require(element.is_float, f"{what}: not defined for {element}; allowed is float")
        return element

    def axis(self, axis: int, rank: int, what: str) -> int:
        """Demand that an axis exists; attributes hold non-negative axes only.

        Raises:
            TypeRuleError: it does not.
        """
        if not 0 <= axis < rank:
            raise TypeRuleError(f"{what}: axis {axis} is outside 0..{rank - 1} (rank {rank})")
        return axis

    def require(self, holds: bool, what: str) -> None:
        """Demand something that is known for certain.

        Raises:
            TypeRuleError: it does not hold.
        """
        if not holds:
            raise TypeRuleError(what)

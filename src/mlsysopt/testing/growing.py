"""A tensor program while it grows: where decisions come from, and which values an op may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import Builder
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.ir import Graph, Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, TensorType

__all__ = ["Choice", "Growing", "Maker", "drawn_facts", "drawn_size"]

T = TypeVar("T")


class Choice(Protocol):
    """Where decisions come from: a seeded generator, or hypothesis."""

    def integer(self, low: int, high: int) -> int: ...

    def pick(self, items: Sequence[T]) -> T: ...


def drawn_facts(choice: Choice, symbols: Sequence[str]) -> Facts:
    facts = Facts()
    for name in symbols:
        step = choice.pick((1, 1, 2))
        low = choice.integer(1, 3)
        facts = facts.with_range(name, low, low + choice.integer(2, 6) * step)
        if step > 1:
            facts = facts.with_divisor(name, step)
    return facts


def drawn_size(choice: Choice, symbols: Sequence[str]) -> Dim:
    form = choice.integer(0, 5)
    if form <= 2 or not symbols:
        return Dim.of(choice.integer(1, 5))
    symbol = Dim.of(choice.pick(symbols))
    return symbol if form <= 4 else choice.pick((symbol + 1, symbol * 2))


class Growing:
    """A program while it grows."""

    def __init__(self, choice: Choice, dtypes: Sequence[DType], branches: bool) -> None:
        if not dtypes:
            raise UsageError("programs: at least one element type is needed")
        self.choice = choice
        self.symbols = ("B", "S", "T")[: choice.integer(1, 3)]
        self.b = Builder("generated", drawn_facts(choice, self.symbols))
        self.branches = branches
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        for i in range(choice.integer(1, 3)):
            element = dtypes[0] if i == 0 else choice.pick(dtypes)
            shape = tuple(drawn_size(choice, self.symbols) for _ in range(choice.integer(0 if i else 2, 4)))
            self.inputs.append(self.b.input(f"x{i}", TensorType(element, shape)))
        # Every symbol stands alone in some input, so that sizes can be read off the inputs.
        carried = {size for value in self.inputs for size in value.shape}
        for name in self.symbols:
            if Dim.of(name) not in carried:
                self.inputs.append(self.b.input(f"of_{name}", TensorType(dtypes[0], (Dim.of(name),))))
        self.values += self.inputs

    def made(self, ops: int, makers: Sequence[Maker]) -> Graph:
        count = 0
        for _ in range(20 * ops):
            if count >= ops:
                break
            found = self.choice.pick(makers)(self)
            results = found if isinstance(found, tuple) else () if found is None else (found,)
            self.values += results
            count += bool(results)
        graph = self.b.finish([])
        read = {value for op in graph.ops for value in op.operands}
        sinks = [value for op in graph.ops for value in op.results if value not in read]
        return self.b.finish(sinks or self.values[-1:])

    def operand(self, fits: Callable[[Value], bool]) -> Value | None:
        found = [value for value in self.values if fits(value)]
        if not found:
            return None
        return self.choice.pick(found) if self.branches else found[-1]

    def weight(self, *shape: int) -> Value:
        import numpy as np

        rng = np.random.default_rng(self.choice.integer(0, 1 << 16))
        return self.b.constant("w", rng.standard_normal(shape).astype(np.float32) / 2)


Maker: TypeAlias = Callable[[Growing], Value | tuple[Value, ...] | None]
"""Adds an op to a program; None when no value fits it."""

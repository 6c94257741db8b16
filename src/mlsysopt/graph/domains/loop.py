"""The one loop over a program; what is kept for each value is the domain's decision.

References:
    Santhanam, Krishna, Tomioka, Fitzgibbon, *DistIR*, EuroMLSys 2021: one abstract interpreter for many domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from mlsysopt.graph.ir import Constant, Graph, Op, Value

__all__ = ["Domain", "walk"]

T = TypeVar("T")


class Domain(Protocol[T]):
    """What a value is, and what an op makes of values."""

    def start(self, graph: Graph, given: Mapping[str, Any]) -> Sequence[T]:
        """Return one value per input of the program, from what the caller gave by name.

        Raises:
            UsageError: something that does not fit the program.
        """
        ...

    def constant(self, constant: Constant) -> T:
        """Return the value of a weight; called where it is first read."""
        ...

    def run(self, op: Op, operands: Sequence[T]) -> Sequence[T]:
        """Return one value per result of an op."""
        ...


def walk(graph: Graph, domain: Domain[T], inputs: Sequence[T], *, keep: bool = False) -> dict[Value, T]:
    """Run a domain over a program and return its values.

    Args:
        graph: The program.
        domain: What to compute.
        inputs: One value per input of the program.
        keep: Whether every value is returned; otherwise only outputs, and what nobody reads any more is let go.
    """
    table: dict[Value, T] = dict(zip(graph.inputs, inputs, strict=True))
    weights = {constant.value: constant for constant in graph.constants}
    last: dict[Value, int] = {}
    for step, op in enumerate(graph.ops):
        for value in (*op.operands, *op.results):
            last[value] = step
    last.update(dict.fromkeys(graph.outputs, len(graph.ops)))

    def read(value: Value) -> T:
        if value not in table:
            table[value] = domain.constant(weights[value])
        return table[value]

    for step, op in enumerate(graph.ops):
        results = domain.run(op, [read(value) for value in op.operands])
        table.update(zip(op.results, results, strict=True))
        if not keep:
            for value in {*op.operands, *op.results}:
                if last[value] == step:
                    del table[value]
    outputs = {value: read(value) for value in graph.outputs}
    return table if keep else outputs

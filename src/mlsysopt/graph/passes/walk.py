"""The loop that local simplifications share: each op once, in order, with its operands as they are by now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.rewriter import live

__all__ = ["Rule", "rewrite_ops"]

Rule = Callable[[Op, Mapping[Value, Op]], Value | Op | None]
"""Given an op and the ops above it by their results: a value that stands for its result, an op
that takes its place (same results), or None to keep it."""


def rewrite_ops(graph: Graph, rule: Rule) -> Graph:
    """Apply a rule to each op once and drop what becomes dead.

    An output that a rule replaced keeps its name only where the replacement was an op.
    """
    now: dict[Value, Value] = {}
    producers: dict[Value, Op] = {}
    ops: list[Op] = []
    changed = False
    for op in graph.ops:
        if any(value in now for value in op.operands):
            op = replace(op, operands=tuple(now.get(value, value) for value in op.operands))
            changed = True
        found = None if op.regions else rule(op, producers)
        if isinstance(found, Value):
            now[op.result] = found
            changed = True
            continue
        if found is not None:
            op, changed = found, True
        ops.append(op)
        for value in op.results:
            producers[value] = op
    if not changed:
        return live(graph)
    outputs = tuple(now.get(value, value) for value in graph.outputs)
    return live(replace(graph, ops=tuple(ops), outputs=outputs))

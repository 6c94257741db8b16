"""Common subexpressions: what is computed twice is computed once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from mlsysopt.graph.ir import Attrs, Graph, Op, Value
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.rewriter import live
from mlsysopt.graph.types import TensorType

__all__ = ["merge_equal"]

_Key = tuple[str, tuple[str, ...], Attrs, tuple[TensorType, ...]]


def merge_equal(graph: Graph) -> Graph:
    """Merge constants of equal content and ops of equal kind, operands, attributes and types.

    Every op is a function of its operands; those that define sizes which depend on data keep
    their own symbols and are left alone.
    """
    now: dict[Value, Value] = {}
    weights: dict[tuple[str, TensorType], Value] = {}
    alike = Counter(constant.type for constant in graph.constants)
    for constant in graph.constants:
        if alike[constant.type] == 1:
            continue  # equal to no other, whatever it holds: hashing a large table would take longer than all the rest
        first = weights.setdefault((constant.source.key, constant.type), constant.value)
        if first is not constant.value:
            now[constant.value] = first
    seen: dict[_Key, Op] = {}
    ops: list[Op] = []
    for op in graph.ops:
        if any(value in now for value in op.operands):
            op = replace(op, operands=tuple(now.get(value, value) for value in op.operands))
        first = None if op.regions or lookup(op.kind).fresh else seen.setdefault(_key(op), op)
        if first is None or first is op:
            ops.append(op)
        else:
            now.update(zip(op.results, first.results, strict=True))
    if not now:
        return live(graph)
    outputs = tuple(now.get(value, value) for value in graph.outputs)
    return live(replace(graph, ops=tuple(ops), outputs=outputs))


def _key(op: Op) -> _Key:
    names = [value.name for value in op.operands]
    if lookup(op.kind).commutative:
        names[:2] = sorted(names[:2])
    return op.kind, tuple(names), op.attrs, tuple(value.type for value in op.results)

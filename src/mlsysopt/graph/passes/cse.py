"""Common subexpressions: what is computed twice is computed once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlsysopt.graph.ir import Attrs, Constant, Graph, Op, Value
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.rewriter import live
from mlsysopt.graph.sources import glimpse
from mlsysopt.graph.types import TensorType

__all__ = ["merge_equal"]

_Key = tuple[str, tuple[str, ...], Attrs, tuple[TensorType, ...]]


def merge_equal(graph: Graph) -> Graph:
    """Merge constants of equal content and ops of equal kind, operands, attributes and types.

    Every op is a function of its operands; those that define sizes which depend on data keep
    their own symbols and are left alone.
    """
    now: dict[Value, Value] = {}
    for twin, first in _equal(graph.constants):
        now[twin.value] = first.value
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


def _equal(constants: Sequence[Constant]) -> Iterator[tuple[Constant, Constant]]:
    """Yield every constant that holds what one before it holds, with the first such one.

    Contents are hashed where type and glimpse leave a doubt: hashing all weights would take longer than all the rest.
    """
    alike: dict[TensorType, list[Constant]] = defaultdict(list)
    for constant in constants:
        alike[constant.type].append(constant)
    for group in alike.values():
        if len(group) == 1:
            continue
        glimpses = [glimpse(one.source) for one in group]
        if all(glimpses):
            counts = Counter(glimpses)
            group = [one for one, seen in zip(group, glimpses, strict=True) if counts[seen] > 1]
        first: dict[str, Constant] = {}
        for one in group:
            same = first.setdefault(one.source.key, one)
            if same is not one:
                yield one, same


def _key(op: Op) -> _Key:
    names = [value.name for value in op.operands]
    if lookup(op.kind).commutative:
        names[:2] = sorted(names[:2])
    return op.kind, tuple(names), op.attrs, tuple(value.type for value in op.results)

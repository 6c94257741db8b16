"""Named composites become the simpler ops that they stand for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mlsysopt.graph.builder import Builder
from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.ops.registry import lookup

__all__ = ["decompose"]


def decompose(graph: Graph, keep: Collection[str] = ()) -> Graph:
    """Return the program in primitives.

    Names and types of the results of composites, source lines and facts stay; a program without
    composites comes back as it is.

    Args:
        graph: The program.
        keep: Kinds that stay as they are.

    Raises:
        UsageError: a kind to keep that does not exist.

    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("f")
    >>> g = b.finish([b.op("silu", b.input("x", f32["N"]))])
    >>> [op.kind for op in decompose(g).ops]
    ['sigmoid', 'mul']
    """
    for kind in keep:
        lookup(kind)
    if not any(_composite(op, keep) for op in graph.ops):
        return graph
    builder = Builder(graph.name)
    builder.add_inputs(graph)
    builder.reserve(value.name for op in graph.ops for value in op.results)
    ops = [one for op in graph.ops for one in _lowered(op, builder, keep)]
    return replace(graph, ops=tuple(ops), facts=builder.facts)


def _composite(op: Op, keep: Collection[str]) -> bool:
    return op.kind not in keep and not op.regions and lookup(op.kind).decompose is not None


def _lowered(op: Op, builder: Builder, keep: Collection[str]) -> list[Op]:
    found = lookup(op.kind).decompose
    if found is None or not _composite(op, keep):
        return [op]
    parts = Builder(builder.name, builder.facts)
    parts.reserve(value.name for value in op.operands)  # values are told apart by name
    parts.loc = op.loc
    results = found(parts, op.operands, op.attrs)
    # A composite that is nothing at its attributes still defines its result.
    results = [parts.op("reshape", value, shape=value.shape) if value in op.operands else value for value in results]
    builder.facts = parts.facts
    ops = parts.finish(results).ops
    made = {value for one in ops for value in one.results}
    names: dict[Value, Value] = dict(zip(results, op.results, strict=True))

    def named(value: Value) -> Value:
        if value not in names:
            names[value] = Value(builder.fresh_name(f"{op.name}.{value.name}"), value.type)
        return names[value]

    renamed: list[Op] = []
    for one in ops:
        operands = tuple(named(value) if value in made else value for value in one.operands)
        renamed += _lowered(replace(one, operands=operands, results=tuple(map(named, one.results))), builder, keep)
    return renamed

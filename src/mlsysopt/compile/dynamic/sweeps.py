"""The passes of a kernel: what each one folds, stores and keeps for later ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlsysopt.compile.dynamic.nodes import Expr, Expressions
from mlsysopt.compile.dynamic.roles import REDUCTIONS, weight
from mlsysopt.graph.types import DTYPES

__all__ = ["Sweep", "live", "row_bytes", "sweeps"]

# A row buffer costs a store and a load for each element; what is cheaper than that is computed again.
_KEPT_COSTS = 3


@dataclass(slots=True)
class Sweep:
    """One pass: numbers of nodes that it folds, of roots that it stores, of nodes that it keeps."""

    reductions: list[int] = field(default_factory=list[int])
    roots: list[int] = field(default_factory=list[int])
    keeps: list[int] = field(default_factory=list[int])


def live(found: Expressions) -> list[int]:
    """Return the nodes that results need, in order."""
    seen: set[int] = set()
    waiting = [root.node for root in found.roots]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += found.nodes[node].args
    return sorted(seen)


def sweeps(found: Expressions) -> list[Sweep]:
    """Return the passes of a kernel.

    A node that a later pass needs is kept when computing it again would cost more than a store and a load.
    """
    needed = set(live(found))
    nodes, row = found.nodes, frozenset(found.arrangement.row)
    folds = [node for node in found.reductions if node in needed]
    count = 1 + max([nodes[node].level - 1 for node in folds] + [nodes[root.node].level for root in found.roots])
    passes = [Sweep() for _ in range(count)]
    for node in folds:
        passes[nodes[node].level - 1].reductions.append(node)
    for number, root in enumerate(found.roots):
        passes[nodes[root.node].level].roots.append(number)
    first: dict[int, int] = {}
    kept: dict[int, int] = {}
    for number, one in enumerate(passes):
        targets = [arg for node in one.reductions for arg in nodes[node].args]
        targets += [found.roots[root].node for root in one.roots]
        seen: set[int] = set()
        while targets:
            node = targets.pop()
            if node in seen or not _varies(nodes[node], row):
                continue
            seen.add(node)
            if kept.get(node, number) < number:
                continue
            made = first.setdefault(node, number)
            if made < number and _cost(node, nodes, row, kept) > _KEPT_COSTS:
                kept[node] = made
                passes[made].keeps.append(node)
                continue
            targets += nodes[node].args
    for one in passes:
        one.keeps.sort()
    return passes


def _varies(node: Expr, row: frozenset[int]) -> bool:
    return bool(node.loops & row)


def _cost(node: int, nodes: list[Expr], row: frozenset[int], kept: Mapping[int, int]) -> int:
    """Return what it costs to compute a node again, against an addition; what several nodes need counts once."""
    seen: set[int] = set()
    waiting, total = [node], 0
    while waiting:
        one = waiting.pop()
        if one in seen or not _varies(nodes[one], row) or nodes[one].op in REDUCTIONS:
            continue
        seen.add(one)
        if one in kept and one != node:
            total += 1
            continue
        total += _load_cost(nodes[one], row) if nodes[one].load is not None else weight(nodes[one].op)
        waiting += nodes[one].args
    return total


def _load_cost(node: Expr, row: frozenset[int]) -> int:
    load = node.load
    assert load is not None
    steps = [factor for loop, factor in load.place.terms if loop in row]
    if load.gathered:
        return 4
    return 1 if len(steps) <= 1 and all(step == 1 for step in steps) else 2


def row_bytes(found: Expressions, sizes: Mapping[str, int]) -> int:
    """Return the bytes of all row buffers at given sizes, of a single column where a kernel folds columns."""
    length = 1
    for loop in found.arrangement.row:
        length *= found.arrangement.loops[loop].at(sizes)
    kept = [node for one in sweeps(found) for node in one.keeps]
    wide = sum(max(DTYPES[found.nodes[node].dtype].bytes, 4) for node in kept)
    return length * wide

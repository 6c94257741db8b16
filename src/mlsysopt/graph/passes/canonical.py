"""The form in which two ways of writing one program look alike.

Only steps that change no number: moves that move nothing, moves that follow moves, casts to the
type at hand, multiplication by one; then common subexpressions and dead code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import Attr, Graph, Op, Value
from mlsysopt.graph.passes.cse import merge_equal
from mlsysopt.graph.passes.fold import fold_sizes
from mlsysopt.graph.passes.walk import Rule, rewrite_ops
from mlsysopt.graph.symbolic import Dim

__all__ = ["canonicalize"]

_Step = Callable[[Op, Mapping[Value, Op], Facts], Value | Op | None]
_ROUNDS = 8


def canonicalize(graph: Graph) -> Graph:
    """Return the program in canonical form; applying it twice changes nothing.

    >>> from mlsysopt.graph import parse
    >>> text = "graph @f(%x: f32[A, B]) { %t = transpose(%x) {perm = [1, 0]} : f32[B, A] "
    >>> text += "%u = transpose(%t) {perm = [1, 0]} : f32[A, B] %y = neg(%u) : f32[A, B] return %y }"
    >>> [op.kind for op in canonicalize(parse(text)).ops]
    ['neg']
    """
    for _ in range(_ROUNDS):
        simpler = merge_equal(fold_sizes(rewrite_ops(graph, _rule(graph.facts))))
        if simpler == graph:
            return graph
        graph = simpler
    return graph


def _rule(facts: Facts) -> Rule:
    def simpler(op: Op, above: Mapping[Value, Op]) -> Value | Op | None:
        step = _STEPS.get(op.kind)
        return None if step is None else step(op, above, facts)

    return simpler


def _same(a: Value, b: Value, facts: Facts) -> bool:
    """Whether one may stand for the other: equal types, sizes equal up to what the facts prove."""
    if a.type == b.type:
        return True
    plain = (a.type.dtype, a.type.rank, a.type.layout, a.type.placement, a.type.quant)
    if plain != (b.type.dtype, b.type.rank, b.type.layout, b.type.placement, b.type.quant):
        return False
    return all(facts.eq(x, y) is Answer.YES for x, y in zip(a.shape, b.shape, strict=True))


def _to_same_type(op: Op, above: Mapping[Value, Op], facts: Facts) -> Value | Op | None:
    """Reshapes, broadcasts and casts to the type at hand vanish; of two in a row the last one counts."""
    (x,) = op.operands
    if _same(x, op.result, facts):
        return x
    before = above.get(x)
    if op.kind != "cast" and before is not None and before.kind == op.kind and _moves_along(op.kind, before):
        return replace(op, operands=before.operands)
    return None


def _moves_along(kind: str, before: Op) -> bool:
    # A broadcast that added axes in between aligns at the last one all the same.
    return kind in ("reshape", "broadcast") and before.operands[0].type.placement == before.result.type.placement


def _transpose(op: Op, above: Mapping[Value, Op], facts: Facts) -> Value | Op | None:
    (x,) = op.operands
    order = _ints(op.attrs["perm"])
    if order == tuple(range(len(order))) and _same(x, op.result, facts):
        return x
    before = above.get(x)
    if before is not None and before.kind == "transpose":
        inner = _ints(before.attrs["perm"])
        return replace(op, operands=before.operands, attrs=op.attrs.changed(perm=tuple(inner[i] for i in order)))
    return None


def _whole(op: Op, above: Mapping[Value, Op], facts: Facts) -> Value | None:
    """A slice of everything, a padding by nothing."""
    (x,) = op.operands
    if not _same(x, op.result, facts):
        return None
    if op.kind == "slice":
        nothing = all(start == Dim.of(0) for start in _items(op.attrs["starts"]))
        return x if nothing and all(step == 1 for step in _items(op.attrs["strides"])) else None
    return x if all(pair == (0, 0) for pair in _items(op.attrs["padding"])) else None


def _single(op: Op, above: Mapping[Value, Op], facts: Facts) -> Value | None:
    """A concatenation of one, a split into one."""
    x = op.operands[0]
    return x if len(op.operands) == len(op.results) == 1 and _same(x, op.results[0], facts) else None


def _by_one(op: Op, above: Mapping[Value, Op], facts: Facts) -> Value | None:
    """x * 1 and x / 1."""
    sides = ((0, 1), (1, 0)) if op.kind == "mul" else ((0, 1),)
    for kept, one in sides:
        other = above.get(op.operands[one])
        if other is not None and other.kind == "full" and other.attrs["value"] == 1:
            x = op.operands[kept]
            if _same(x, op.result, facts):
                return x
    return None


def _ints(value: Attr) -> tuple[int, ...]:
    return tuple(one for one in _items(value) if isinstance(one, int))


def _items(value: Attr) -> tuple[Attr, ...]:
    return value if isinstance(value, tuple) else ()


_STEPS: dict[str, _Step] = {
    "reshape": _to_same_type,
    "broadcast": _to_same_type,
    "cast": _to_same_type,
    "transpose": _transpose,
    "slice": _whole,
    "pad": _whole,
    "concat": _single,
    "split": _single,
    "mul": _by_one,
    "div": _by_one,
}

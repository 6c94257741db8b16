"""A program in the form that is planned: primitives, and a copy wherever a value must move.

A copy is a reshape to the shape at hand. It stands before an output that is no result of its own, before a part of
a concatenation that cannot be written in place, and before a reader that does not take its operand as it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from mlsysopt.compile.dynamic.anchors import Anchor, find_anchors
from mlsysopt.compile.dynamic.roles import KEPT, Role, Supports, roles_of
from mlsysopt.compile.dynamic.views import Layouts, layout
from mlsysopt.compile.errors import CompileError
from mlsysopt.graph.ir import Attrs, Graph, Op, Value
from mlsysopt.graph.passes import canonicalize, decompose
from mlsysopt.graph.passes.walk import rewrite_ops
from mlsysopt.graph.rewriter import Rewriter

__all__ = ["Prepared", "prepare"]

_ROUNDS = 8


@dataclass(frozen=True)
class Prepared:
    """A program that can be planned.

    Attributes:
        graph: It; outputs are results of ops, each once.
        roles: What becomes of each op, by name.
        anchors: Ops with kernels of their own, by name.
        layouts: Where values lie.
    """

    graph: Graph
    roles: Mapping[str, Role]
    anchors: Mapping[str, Anchor]
    layouts: Layouts

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The place of each op in the program, by name."""
        return {op.name: i for i, op in enumerate(self.graph.ops)}

    @cached_property
    def absorbed(self) -> Mapping[str, Anchor]:
        """The anchor that took in an op, by the op's name."""
        return {op.name: anchor for anchor in self.anchors.values() for op in anchor.absorbed}


def prepare(graph: Graph, supports: Supports | None = None) -> Prepared:
    """Bring a program into primitives and settle where its values lie.

    Args:
        graph: Any program.
        supports: Which elementwise nodes generated code knows; None means all.
    """
    known = supports if supports is not None else lambda op, dtype: True
    now = decompose(canonicalize(graph), keep=KEPT)
    for _ in range(_ROUNDS):
        simpler = rewrite_ops(now, _simpler)
        if simpler is now or simpler == now:
            break
        now = simpler
    now = _left_as_rows(canonicalize(now))
    for _ in range(_ROUNDS):
        roles = roles_of(now, known)
        anchors = find_anchors(now, roles)
        layouts = layout(now, roles, anchors)
        if not layouts.problems:
            return Prepared(now, roles, anchors, layouts)
        now = _with_copies(now, layouts.problems, roles)
    raise CompileError(f"{graph.name}: some operand finds no place after {_ROUNDS} rounds; please report the program")


def _left_as_rows(graph: Graph) -> Graph:
    """Turn the left operands of products explicitly: kernels read them in rows, and a copy knows how to make those."""
    edit = Rewriter(graph)
    turned = [op for op in graph.ops if op.kind == "matmul" and op.attrs["transpose_a"]]
    for op in turned:
        left, right = op.operands
        last = left.type.rank - 1
        perm = (*range(last - 1), last, last - 1)
        rows = edit.make(op, "transpose", left, perm=perm)
        edit.replace(op.result, edit.make(op, "matmul", rows, right, transpose_b=op.attrs["transpose_b"]))
    return edit.finish().graph if turned else graph


def _simpler(op: Op, above: Mapping[Value, Op]) -> Op | None:
    """Numbers that are moved about stay numbers; masks that keep everything vanish, as exporters like to add them."""
    if op.kind in ("reshape", "transpose", "broadcast", "slice", "flip"):
        number = _number(op.operands[0], above)
        return None if number is None else _full(op, number)
    if op.kind == "ge" and _is_counter(op.operands[0], above):
        least = _number(op.operands[1], above)
        return _full(op, True) if least is not None and least <= 0 else None
    if op.kind in ("and", "or") and op.result.type.dtype.is_bool:
        for one, other in (op.operands, op.operands[::-1]):
            if _number(one, above) is (op.kind == "and"):
                return replace(op, kind="broadcast", operands=(other,), attrs=Attrs({"shape": op.result.shape}))
    return None


def _full(op: Op, value: float) -> Op:
    attrs = Attrs({"value": value, "shape": op.result.shape, "dtype": op.result.type.dtype})
    return replace(op, kind="full", operands=(), attrs=attrs)


def _number(value: Value, above: Mapping[Value, Op]) -> float | None:
    op = above.get(value)
    return cast("float", op.attrs["value"]) if op is not None and op.kind == "full" else None


def _is_counter(value: Value, above: Mapping[Value, Op]) -> bool:
    op = above.get(value)
    if op is None:
        return False
    if op.kind in ("reshape", "transpose", "broadcast", "slice", "flip"):
        return _is_counter(op.operands[0], above)
    return op.kind in ("iota", "size")


def _with_copies(graph: Graph, problems: Sequence[tuple[str, int]], roles: Mapping[str, Role]) -> Graph:
    wanted = set(problems)
    names = set(graph.values)
    shared: dict[Value, Value] = {}
    ops: list[Op] = []

    def copy(value: Value, reader: Op | None) -> Value:
        joins = reader is None or roles[reader.name] is Role.PLACED
        if not joins and value in shared:
            return shared[value]
        name = _free_name(f"{value.name}.copy", names)
        made = Value(name, value.type.plain())
        producer = reader if reader is not None else graph.producer(value)
        attrs = Attrs({"shape": value.shape})
        ops.append(
            Op("reshape", (value,), (made,), attrs, loc=producer.loc) if producer else _plain(value, made, attrs)
        )
        if not joins:
            shared[value] = made
        return made

    for op in graph.ops:
        operands = tuple(copy(v, op) if (op.name, i) in wanted else v for i, v in enumerate(op.operands))
        ops.append(op if operands == op.operands else replace(op, operands=operands))
    outputs = tuple(copy(v, None) if ("", i) in wanted else v for i, v in enumerate(graph.outputs))
    return replace(graph, ops=tuple(ops), outputs=outputs)


def _plain(value: Value, made: Value, attrs: Attrs) -> Op:
    return Op("reshape", (value,), (made,), attrs)


def _free_name(wish: str, names: set[str]) -> str:
    name, number = wish, 0
    while name in names:
        number += 1
        name = f"{wish}{number}"
    names.add(name)
    return name

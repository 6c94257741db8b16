"""Writes in place: which of them are only new values, and when torch has to rewrite a program first."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.graph.importers.aten.registry import Handler, may_return_operand

if TYPE_CHECKING:
    from torch.fx import Node

__all__ = ["ASSERTIONS", "SIZES", "Groups", "functional", "is_aten", "must_lower", "writes"]

ASSERTIONS = frozenset({
    "aten._assert_async.default", "aten._assert_async.msg", "aten._assert_scalar.default",
    "aten._assert_tensor_metadata.default", "aten.sym_constrain_range.default",
    "aten.sym_constrain_range_for_size.default", "aten._functional_assert_async.msg",
    "aten._functional_assert_scalar.default",
})  # fmt: skip

SIZES = frozenset({"aten.sym_size.int", "aten.sym_stride.int", "aten.sym_numel.default"})

_HARMLESS = frozenset({"detach.default"})  # in place, it changes what torch records, not the numbers


def functional(target: Any) -> str:
    """Return the overload without "aten.", that of the functional form for one that writes in place.

    >>> functional("aten.relu_.default"), functional("aten.add.Tensor")
    ('relu.default', 'add.Tensor')
    """
    name, _, overload = str(target).removeprefix("aten.").rpartition(".")
    return f"{name.removesuffix('_') if not name.endswith('__') else name}.{overload}"


def is_aten(node: Node) -> bool:
    return node.op == "call_function" and hasattr(node.target, "_schema")


def _schema(node: Any) -> Any:
    return node.target._schema


def writes(node: Node) -> bool:
    return is_aten(node) and _schema(node).is_mutable


def must_lower(nodes: Sequence[Node], known: Callable[[str], Handler | None]) -> bool:
    """Return whether torch has to rewrite the program first.

    That is so for operators that nobody here knows, for programs inside programs, and for writes in
    place that another name of the same memory would see. A write that nobody else can see is only
    a new value, and torch's own rewriting of large programs takes longer than all the rest.
    """
    group = Groups()
    last_read: dict[Node, int] = {}
    for i, node in enumerate(nodes):
        for operand in node.all_input_nodes:
            last_read[operand] = i
    for i, node in enumerate(nodes):
        if node.op != "call_function" or str(node.target) in ASSERTIONS:
            continue
        if not is_aten(node):
            if node.target is operator.getitem:
                group.join(node, node.all_input_nodes)
            elif any("Tensor" in type(operand.meta.get("val")).__name__ for operand in (node, *node.all_input_nodes)):
                return True
            continue
        if str(node.target) in SIZES:
            continue
        name = functional(node.target)
        if known(name) is None:
            return True
        aliases = [argument for argument in _schema(node).arguments if argument.alias_info is not None]
        written = [argument.name for argument in aliases if argument.alias_info.is_write and name not in _HARMLESS]
        if written:
            if written != ["self"] or name == str(node.target).removeprefix("aten."):
                return True
            target: Any = node.args[0]
            others = group.members(target) - group.names(target)
            if any(last_read.get(other, -1) > i for other in others):
                return True
            if any(one.op == "placeholder" for one in group.members(target)):
                return True
            group.rename(node, target)
        elif aliases or may_return_operand(name):
            group.join(node, node.all_input_nodes)
    return False


class Groups:
    """Which nodes may share memory, and which are the same tensor."""

    def __init__(self) -> None:
        self._members: dict[Any, set[Any]] = {}
        self._names: dict[Any, set[Any]] = {}

    def members(self, node: Any) -> set[Any]:
        return self._members.setdefault(node, {node})

    def names(self, node: Any) -> set[Any]:
        return self._names.setdefault(node, {node})

    def join(self, node: Any, others: Iterable[Any]) -> None:
        together = self.members(node).union(*(self.members(other) for other in others))
        for one in together:
            self._members[one] = together

    def rename(self, node: Any, old: Any) -> None:
        self.join(node, [old])
        together = self.names(old) | {node}
        for one in together:
            self._names[one] = together

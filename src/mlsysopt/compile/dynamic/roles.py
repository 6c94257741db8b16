"""What the planner makes of an op: free of charge, part of a kernel, an anchor between kernels, or foreign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import cast

from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.ops.registry import lookup

__all__ = [
    "ACTIVATIONS",
    "ANCHORS",
    "KEPT",
    "REDUCTIONS",
    "Role",
    "Supports",
    "is_copy",
    "node_op",
    "roles_of",
    "weight",
]

ANCHORS = ("linear", "matmul", "attention", "conv")
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid")
KEPT = (*ANCHORS, "conv_transpose", "max_pool", "avg_pool", "relu", "gelu", "silu")
"""Composites that stay as they are: what anchors are, and activations with a node of their own."""

_FREE = frozenset({"reshape", "transpose", "broadcast", "slice", "split", "flip", "full", "iota", "size"})
REDUCTIONS = frozenset({"sum", "prod", "max", "min", "mean", "any", "all"})
_MOVES = frozenset({"concat", "gather", "gather_elements", "embedding"})

Supports = Callable[[str, str], bool]
"""Whether generated code knows an elementwise node of an op and an element type."""


class Role(Enum):
    """What becomes of an op.

    FREE ops move no bytes: they change where a consumer looks. COMPUTE ops, REDUCTIONs and PLACED joins of parts
    become kernels; ANCHORs have kernels of their own; FOREIGN ops have none.
    """

    FREE = "free"
    COMPUTE = "compute"
    REDUCTION = "reduction"
    PLACED = "placed"
    ANCHOR = "anchor"
    FOREIGN = "foreign"

    @property
    def fuses(self) -> bool:
        return self in (Role.COMPUTE, Role.REDUCTION)


def is_copy(op: Op) -> bool:
    """Whether an op stands for a copy into memory of its own: a reshape to the shape at hand."""
    return op.kind == "reshape" and op.operands[0].shape == op.result.shape


def node_op(op: Op) -> str:
    """Return the name of an elementwise op among the nodes of a kernel."""
    return "gelu_tanh" if op.kind == "gelu" and op.attrs["approximate"] == "tanh" else op.kind


def roles_of(graph: Graph, supports: Supports = lambda op, dtype: True) -> Mapping[str, Role]:
    """Return the role of each op by its name."""
    return {op.name: _role(op, graph, supports) for op in graph.ops}


# Nanoseconds of one element, roughly, on one lane: only their order counts.
_WEIGHTS = {
    "exp": 8, "expm1": 10, "log": 8, "log1p": 10, "erf": 12, "sin": 12, "cos": 12, "tan": 16, "tanh": 10,
    "sigmoid": 10, "pow": 20, "gelu": 16, "gelu_tanh": 14, "silu": 10, "sqrt": 4, "rsqrt": 4, "reciprocal": 3,
    "div": 3, "floordiv": 6, "mod": 6, "gather": 2, "gather_elements": 2, "embedding": 2,
}  # fmt: skip


def weight(op: str) -> int:
    """Return what an elementwise node costs against an addition."""
    return _WEIGHTS.get(op, 1)


def _role(op: Op, graph: Graph, supports: Supports) -> Role:
    if op.regions or any(value.type.placement is not None for value in (*op.operands, *op.results)):
        return Role.FOREIGN
    if op.kind in ANCHORS and op.results[0].type.dtype.is_float:
        return Role.ANCHOR
    if is_copy(op):
        return Role.COMPUTE
    if op.kind in _FREE:
        return Role.FREE
    if op.kind in REDUCTIONS:
        # Folding axes of size 1 folds nothing.
        axes = cast("tuple[int, ...]", op.attrs["axes"])
        return Role.REDUCTION if any(op.operands[0].shape[axis] != 1 for axis in axes) else Role.COMPUTE
    if op.kind == "concat":
        single = op.result.shape[cast("int", op.attrs["axis"])] == 1
        return Role.COMPUTE if not single and _is_read_along(op, graph) else Role.PLACED
    if op.kind == "pad":
        grown = [size for size, x in zip(op.result.shape, op.operands[0].shape, strict=True) if size != x]
        return Role.COMPUTE if all(size != 1 for size in grown) else Role.FOREIGN
    if op.kind in _MOVES:
        return Role.COMPUTE
    if lookup(op.kind).elementwise and (lookup(op.kind).decompose is None or op.kind in KEPT):
        # An op is known by what it reads, a cast also by where it goes; of `where` the branches stand last.
        types = (op.operands[-1].type.dtype, *([op.result.type.dtype] if op.kind == "cast" else []))
        return Role.COMPUTE if all(supports(node_op(op), one.name) for one in types) else Role.FOREIGN
    return Role.FOREIGN


def _is_read_along(op: Op, graph: Graph) -> bool:
    """Whether a concatenation is read by one elementwise op alone: then nobody needs it in memory."""
    value: Value = op.result
    while True:
        if value in graph.outputs:
            return False
        users = graph.users.get(value, ())
        if len(users) != 1:
            return False
        (user,) = users
        if user.kind in ("transpose", "broadcast", "slice"):
            value = user.result
            continue
        return lookup(user.kind).elementwise or user.kind in REDUCTIONS

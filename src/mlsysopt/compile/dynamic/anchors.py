"""Ops with kernels of their own, and what is done to their results before the only store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlsysopt.compile.dynamic.roles import ACTIVATIONS, Role, node_op
from mlsysopt.compile.dynamic.strides import same
from mlsysopt.compile.variants.site import Epilogue
from mlsysopt.graph.ir import Graph, Op, Value

__all__ = ["Anchor", "find_anchors"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """An op that has a kernel of its own, with the ops that it does before it stores.

    Attributes:
        op: The op.
        result: The value that is stored: its own, or that of the last op it took in.
        epilogue: What it does before the store; the bias may be an operand of the op itself.
        bias: The vector that is added, None for none.
        residual: The tensor that is added last, None for none.
        absorbed: The ops it took in, in order.
    """

    op: Op
    result: Value
    epilogue: Epilogue = field(default_factory=Epilogue)
    bias: Value | None = None
    residual: Value | None = None
    absorbed: tuple[Op, ...] = ()

    @property
    def ops(self) -> tuple[Op, ...]:
        return (self.op, *self.absorbed)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values that it reads, each once."""
        extra = [value for value in (self.bias, self.residual) if value is not None]
        return tuple(dict.fromkeys((*self.op.operands, *extra)))

    @property
    def outputs(self) -> tuple[Value, ...]:
        return (self.result,)

    def __str__(self) -> str:
        plain = self.epilogue == Epilogue()
        read = ", ".join(f"%{value.name}" for value in self.inputs)
        return f"{self.op.kind}{'' if plain else f' + {self.epilogue}'} ({read}) -> %{self.result.name}"


def find_anchors(graph: Graph, roles: Mapping[str, Role]) -> dict[str, Anchor]:
    """Return the anchors of a program by the name of their op.

    A linear, or a matmul by a constant matrix, takes in an added constant vector, an activation and an added
    tensor of its shape, in this order, as long as nobody else reads what lies between.
    """
    constants = {constant.value for constant in graph.constants}
    found: dict[str, Anchor] = {}
    taken: set[str] = set()
    for op in graph.ops:
        if roles[op.name] is not Role.ANCHOR:
            continue
        bias = op.operands[2] if op.kind == "linear" and len(op.operands) == 3 else None
        anchor = Anchor(op, op.result, Epilogue(bias=bias is not None), bias)
        if op.kind in ("linear", "matmul") and op.operands[1] in constants and op.operands[1].type.rank == 2:
            anchor = _grown(anchor, graph, roles, constants, taken)
        found[op.name] = anchor
    return found


def _grown(anchor: Anchor, graph: Graph, roles: Mapping[str, Role], constants: set[Value], taken: set[str]) -> Anchor:
    while True:
        user = _only_user(anchor.result, graph)
        if user is None or user.name in taken or roles[user.name] is not Role.COMPUTE:
            return anchor
        longer = _with(anchor, user, graph, constants)
        if longer is None:
            return anchor
        taken.add(user.name)
        anchor = longer


def _only_user(value: Value, graph: Graph) -> Op | None:
    users = graph.users.get(value, ())
    return users[0] if len(users) == 1 and value not in graph.outputs else None


def _with(anchor: Anchor, user: Op, graph: Graph, constants: set[Value]) -> Anchor | None:
    done, result = anchor.epilogue, anchor.result
    absorbed = (*anchor.absorbed, user)
    if done.residual or user.result.type.dtype is not result.type.dtype:
        return None
    if user.kind in ACTIVATIONS and not done.activation:
        epilogue = Epilogue(done.bias, node_op(user))
        return Anchor(anchor.op, user.result, epilogue, anchor.bias, None, absorbed)
    if user.kind != "add" or user.operands[0] == user.operands[1]:
        return None
    (other,) = (value for value in user.operands if value != result)
    if other in constants and not done.bias and not done.activation and other.shape == result.shape[-1:]:
        return Anchor(anchor.op, user.result, Epilogue(True), other, None, absorbed)
    alike = other.type.rank == result.type.rank and all(
        same(a, b, graph.facts) for a, b in zip(other.shape, result.shape, strict=True)
    )
    if not alike or other.type.rank == 0:
        return None
    return Anchor(anchor.op, user.result, Epilogue(done.bias, done.activation, True), anchor.bias, other, absorbed)

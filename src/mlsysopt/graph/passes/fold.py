"""Size arithmetic that stands in the program as integers becomes a formula, and needs no op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mlsysopt.graph.ir import Attrs, Graph, Op, Value
from mlsysopt.graph.passes.walk import rewrite_ops
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import i64

__all__ = ["fold_sizes"]

_ARITHMETIC: dict[str, Callable[[Dim, Dim], Dim]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
}


def fold_sizes(graph: Graph) -> Graph:
    """Replace integer arithmetic on `size` scalars by one `size`."""
    return rewrite_ops(graph, _folded)


def _folded(op: Op, above: Mapping[Value, Op]) -> Op | None:
    compute = _ARITHMETIC.get(op.kind)
    if compute is None or op.result.type.dtype is not i64 or op.result.type.rank:
        return None
    sizes = [_size(value, above) for value in op.operands]
    if sizes[0] is None or sizes[1] is None:
        return None
    return replace(op, kind="size", operands=(), attrs=Attrs({"dim": compute(sizes[0], sizes[1])}))


def _size(value: Value, above: Mapping[Value, Op]) -> Dim | None:
    op = above.get(value)
    if op is None or value.type.rank:
        return None
    if op.kind == "size":
        size = op.attrs["dim"]
        return size if isinstance(size, Dim) else None
    number = op.attrs["value"] if op.kind == "full" else None
    return Dim.of(number) if isinstance(number, int) and not isinstance(number, bool) else None

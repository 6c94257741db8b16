"""How much work and scratch a program has for given params: arithmetic that numbers and symbolic sizes both obey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mlsysopt.compile.codegen.program import REDUCTIONS, Param, Program, Size
from mlsysopt.compile.codegen.vectors import kept_bytes

__all__ = ["ceiling", "extent", "kept_nodes", "product", "row_buffer_bytes", "unroll"]


def extent(size: Size, params: Sequence[Any]) -> Any:
    """Return a size for given params."""
    return params[size.index] if isinstance(size, Param) else size


def product(sizes: Iterable[Size], params: Sequence[Any]) -> Any:
    """Return the product of sizes, 1 of none."""
    result: Any = 1
    for size in sizes:
        result = extent(size, params) * result
    return result


def ceiling(size: Any, step: int) -> Any:
    """Return how many steps cover a size.

    >>> ceiling(9, 8)
    2
    """
    return (size + (step - 1)) // step


def kept_nodes(program: Program) -> list[int]:
    """Return the nodes with a row buffer, in order."""
    return sorted({node for one in program.passes for node in one.keeps})


def row_buffer_bytes(program: Program, elements: Any) -> Any:
    """Return the bytes of all row buffers of so many elements each, every one rounded up to 64."""
    total: Any = 0
    for node in kept_nodes(program):
        total = total + ceiling(elements * kept_bytes(program.nodes[node].dtype), 64) * 64
    return total


_WEIGHTS = {
    "load": 1, "const": 0, "param": 0, "cast": 2, "div": 4, "sqrt": 4, "rsqrt": 8, "reciprocal": 4, "exp": 16,
    "expm1": 20, "erf": 24, "tanh": 24, "sigmoid": 24, "silu": 25, "gelu": 36, "gelu_tanh": 30, "log": 24, "log1p": 30,
    "sin": 40, "cos": 40, "tan": 45, "pow": 120, "floordiv": 200, "mod": 200,
}  # fmt: skip


def unroll(program: Program, nodes: Iterable[int], folds: bool) -> int:
    """Return how many vectors a turn of the innermost loop takes.

    Sums want four accumulators, for speed and for their roundings; a body of many instructions fills the processor
    by itself, and copies of it only take time to compile.
    """
    weight = sum(_WEIGHTS.get(program.nodes[i].op, 1) for i in nodes if program.nodes[i].op not in REDUCTIONS)
    if folds:
        return 4 if weight <= 48 else 2
    return 4 if weight <= 8 else 2 if weight <= 20 else 1

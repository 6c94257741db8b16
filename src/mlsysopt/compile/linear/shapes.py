"""The products of a model as widths and counts: by name, by numbers, or read from a program."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlsysopt.compile.linear.grid import Grid
from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from mlsysopt.graph.ir import Graph, Op

__all__ = ["NAMED", "Shape", "of_graph", "parse_shapes", "rows_at"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Equal products of a model.

    Attributes:
        k, n: Width of the input and of the result.
        count: How many there are.
        label: Where they are.
        rows: M as a formula of the model's symbols, None where it is not known.
    """

    k: int
    n: int
    count: int = 1
    label: str = ""
    rows: Dim | None = field(default=None, compare=False)


def _encoder(layers: int, width: int, inner: int) -> tuple[Shape, ...]:
    return (
        Shape(width, width, 4 * layers, "attention"),
        Shape(width, inner, layers, "feed-forward in"),
        Shape(inner, width, layers, "feed-forward out"),
    )


NAMED: Mapping[str, tuple[Shape, ...]] = {
    "bert-base": _encoder(12, 768, 3072),
    "bert-large": _encoder(24, 1024, 4096),
    "distilbert": _encoder(6, 768, 3072),
    "minilm": _encoder(6, 384, 1536),
    "gpt2": (
        Shape(768, 2304, 12, "attention in"),
        Shape(768, 768, 12, "attention out"),
        Shape(768, 3072, 12, "feed-forward in"),
        Shape(3072, 768, 12, "feed-forward out"),
    ),
}


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Read the name of a model, or widths `KxN`, several of them with a comma between.

    Raises:
        UsageError: neither of the two.

    >>> [(one.k, one.n, one.count) for one in parse_shapes("bert-base")]
    [(768, 768, 48), (768, 3072, 12), (3072, 768, 12)]
    >>> parse_shapes("768x3072,512x512")[1].n
    512
    """
    if text in NAMED:
        return NAMED[text]
    parts = [re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", part) for part in text.split(",")]
    found = [Shape(int(part[1]), int(part[2])) for part in parts if part is not None]
    if len(found) < len(parts) or any(one.k < 1 or one.n < 1 for one in found):
        raise UsageError(
            f"shapes {text!r}: {near_misses(text, NAMED, noun='model')}, or widths such as 768x3072,512x512"
        )
    return tuple(found)


def of_graph(graph: Graph) -> tuple[Shape, ...]:
    """Return the products of constant weights of a program, equal ones once.

    Raises:
        UsageError: the program has none.
    """
    constants = {constant.value for constant in graph.constants}
    found: dict[tuple[int, int, Dim], Shape] = {}
    for op in graph.ops:
        widths = _widths(op)
        if widths is None or op.operands[1] not in constants:
            continue
        rows = math.prod(op.operands[0].shape[:-1], start=Dim.of(1))
        known = found.get((*widths, rows))
        found[*widths, rows] = replace(known, count=known.count + 1) if known else Shape(*widths, 1, op.name, rows)
    if not found:
        raise UsageError(f"nothing to profile in {graph.name} (0 linear products)")
    return tuple(found.values())


def rows_at(shape: Shape, sizes: Mapping[str, Sequence[int]]) -> Grid:
    """Return the row counts of a product for all combinations of given sizes, each counting alike.

    Raises:
        UsageError: a symbol of the formula has no size.

    >>> rows_at(Shape(4, 4, rows=Dim.of("B") * Dim.of("S")), {"B": [1, 2], "S": [8, 16]}).rows
    (8, 16, 32)
    """
    from itertools import product

    if shape.rows is None:
        raise UsageError(f"{shape.label or 'the product'}: the number of rows is not known; give --rows")
    symbols = sorted(shape.rows.symbols)
    missing = [name for name in symbols if name not in sizes]
    if missing:
        known = ", ".join(sizes) or "none"
        raise UsageError(
            f"size {missing[0]} of {shape.label} is not given; given: {known}; add --at {missing[0]}=8,128"
        )
    values = product(*(sizes[name] for name in symbols))
    rows = tuple(sorted({shape.rows.at(dict(zip(symbols, one, strict=True))) for one in values}))
    return Grid(rows, (1 / len(rows),) * len(rows))


def _widths(op: Op) -> tuple[int, int] | None:
    """Return K and N of a product whose second operand is a matrix of known size."""
    if op.kind not in ("linear", "matmul") or op.operands[1].type.rank != 2:
        return None
    shape = [size.constant for size in op.operands[1].shape]
    if shape[0] is None or shape[1] is None:
        return None
    return (shape[1], shape[0]) if op.kind == "linear" else (shape[0], shape[1])

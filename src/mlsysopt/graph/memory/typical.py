"""Sizes to compare formulas by when the facts do not order them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mlsysopt.graph.facts import Facts
from mlsysopt.graph.symbolic import Dim

__all__ = ["typical_sizes"]

_OPEN = 64


def typical_sizes(facts: Facts, symbols: Iterable[str]) -> dict[str, int]:
    """Return one size per symbol: the likeliest, else the geometric middle of its range.

    >>> from mlsysopt.graph import Facts
    >>> typical_sizes(Facts().with_range("B", 1, 64).with_likely("S", {128: 0.5, 8: 0.1}), ["B", "S", "T"])
    {'B': 8, 'S': 128, 'T': 64}
    """
    return {name: _typical(facts, name) for name in symbols}


def _typical(facts: Facts, name: str) -> int:
    likely = facts.likely(name)
    if likely:
        return max(likely, key=lambda size: (likely[size], size))
    low, high = facts.range(Dim.of(name))
    step = facts.divisor(name)
    least = max(low or 0, 1)
    middle = round(math.sqrt(least * high)) if high is not None else max(least, _OPEN)
    return max(least, middle // step * step) if step > 1 else max(least, middle)

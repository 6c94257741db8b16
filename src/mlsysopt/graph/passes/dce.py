"""Dead code: ops and constants that no output needs."""

from __future__ import annotations

from mlsysopt.graph.ir import Graph
from mlsysopt.graph.rewriter import live

__all__ = ["remove_dead"]


def remove_dead(graph: Graph) -> Graph:
    """Return the program without ops and constants that no output needs; inputs stay."""
    return live(graph)

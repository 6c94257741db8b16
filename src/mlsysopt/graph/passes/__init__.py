"""Rewrites that every area may use; each takes a program and returns a program that means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.graph.passes.canonical import canonicalize
    from mlsysopt.graph.passes.cse import merge_equal
    from mlsysopt.graph.passes.dce import remove_dead
    from mlsysopt.graph.passes.decomposition import decompose
    from mlsysopt.graph.passes.fold import fold_sizes

__all__ = ["canonicalize", "decompose", "fold_sizes", "merge_equal", "remove_dead"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "canonicalize": "mlsysopt.graph.passes.canonical",
        "decompose": "mlsysopt.graph.passes.decomposition",
        "fold_sizes": "mlsysopt.graph.passes.fold",
        "merge_equal": "mlsysopt.graph.passes.cse",
        "remove_dead": "mlsysopt.graph.passes.dce",
    },
)

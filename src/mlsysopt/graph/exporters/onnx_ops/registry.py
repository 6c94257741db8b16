"""Which function writes which op."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from mlsysopt.graph.ir import Op

if TYPE_CHECKING:
    from mlsysopt.graph.exporters.onnx_ops.writer import Writer

__all__ = ["Write", "writers", "writes"]

Write: TypeAlias = "Callable[[Writer, Op], bool]"
"""Adds the nodes of an op; returns whether they are read back as this very op, attributes included."""

_WRITERS: dict[str, Write] = {}
_GROUPS = ("elementwise", "reduce", "contract", "move", "index", "composite", "opaque")


def writes(*kinds: str) -> Callable[[Write], Write]:
    """Register the function that writes these kinds."""

    def register(function: Write) -> Write:
        for kind in kinds:
            _WRITERS[kind] = function
        return function

    return register


@cache
def writers() -> Mapping[str, Write]:
    """Return all of them by kind."""
    for group in _GROUPS:
        importlib.import_module(f"mlsysopt.graph.exporters.onnx_ops.{group}")
    return _WRITERS

"""Which function reads which ONNX operator."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from mlsysopt.graph.ir import Value

if TYPE_CHECKING:
    from mlsysopt.graph.importers.onnx_ops.node import Node

__all__ = ["Reader", "readers", "reads"]

Reader: TypeAlias = "Callable[[Node], Value | Sequence[Value | None]]"
"""Adds a node's meaning to the program; returns its outputs, None for one that nobody may read."""

_READERS: dict[tuple[str, str], Reader] = {}
_GROUPS = ("elementwise", "reduce", "contract", "pool", "normalize", "move", "index", "quant")


def reads(*kinds: str, domain: str = "") -> Callable[[Reader], Reader]:
    """Register the function that reads these operators."""

    def register(function: Reader) -> Reader:
        for kind in kinds:
            _READERS[domain, kind] = function
        return function

    return register


@cache
def readers() -> Mapping[tuple[str, str], Reader]:
    """Return all of them by domain and operator."""
    for group in _GROUPS:
        importlib.import_module(f"mlsysopt.graph.importers.onnx_ops.{group}")
    return _READERS

"""Executors by name, as the command line says them."""

from __future__ import annotations

import importlib
from typing import Any

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.executors.protocol import Executor

__all__ = ["executor"]

_KNOWN = {
    "inprocess": ("mlsysopt.core.executors.inprocess", "InProcess"),
    "local": ("mlsysopt.core.executors.local", "Local"),
    "ray": ("mlsysopt.core.executors.cluster", "Ray"),
}


def executor(name: str, **options: Any) -> Executor:
    """Make an executor by its name.

    Args:
        name: `inprocess`, `local` or `ray`.
        options: Arguments of its constructor (`workers=4`).

    Raises:
        UsageError: no such name.
        MissingExtra: it needs a package that is not installed.

    >>> type(executor("inprocess")).__name__
    'InProcess'
    """
    try:
        module, attribute = _KNOWN[name]
    except KeyError:
        raise UsageError(f"unknown executor {name!r}: {near_misses(name, _KNOWN, noun='executor')}") from None
    made: Executor = getattr(importlib.import_module(module), attribute)(**options)
    return made

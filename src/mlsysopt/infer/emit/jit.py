"""The decorator of generated files. Importing this imports numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["inner", "jit"]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call, for every thread at once and kept on disk; the strict arithmetic of Python."""
    return numba.njit(nogil=True, cache=True)(function)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what only other compiled functions call: without the door for Python, which takes as long again."""
    return numba.njit(nogil=True, cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

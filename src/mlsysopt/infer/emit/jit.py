"""The decorator of generated files. Importing this imports numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["jit"]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call, for every thread at once and kept on disk; the strict arithmetic of Python."""
    return numba.njit(nogil=True, cache=True)(function)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

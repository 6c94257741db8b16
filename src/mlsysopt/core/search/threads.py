"""One thread while small matrices are handled; what the caller had set comes back afterwards."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Generator[None]:
    """Limit BLAS, and torch where it is loaded, to one thread.

    At 30 x 30 a second BLAS thread only spins: without this a proposal costs ten times its CPU
    seconds on two cores. Without threadpoolctl (it comes with scikit-learn) BLAS stays as it is.
    """
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    if torch is not None and before != 1:
        torch.set_num_threads(1)
    controller = _controller()
    try:
        if controller is None:
            yield
        else:
            with controller.limit(limits=1, user_api="blas"):
                yield
    finally:
        if torch is not None and before != 1:
            torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _controller() -> Any:
    """Look for the loaded BLAS libraries once; that takes milliseconds."""
    # numpy and scipy each bring a BLAS of their own; only a loaded one is found.
    import_module("numpy.linalg")
    import_module("scipy.linalg")
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()

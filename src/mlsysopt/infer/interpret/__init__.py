"""A model run as the Python function that it is; no code is shared with the compiler, which is tested against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.infer.interpret.execute import Interpretation, interpret

__all__ = ["Interpretation", "interpret"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Interpretation": "mlsysopt.infer.interpret.execute",
        "interpret": "mlsysopt.infer.interpret.execute",
    },
)

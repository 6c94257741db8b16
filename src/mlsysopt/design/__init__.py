"""Designing a model: which of its parts are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.design import ablate

__all__ = ["ablate"]

__getattr__, __dir__ = lazy(__name__, {"ablate": "mlsysopt.design.ablate"})

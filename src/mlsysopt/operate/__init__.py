"""The infrastructure below machine learning: tuning it, scaling it, watching it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlsysopt.operate import tune as tune

__all__ = ["tune"]

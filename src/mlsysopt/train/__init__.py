"""Training models: what it will cost before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlsysopt.train import estimate as estimate

__all__ = ["estimate"]

"""Public data sets: official source, hash, licence and loader of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.datasets.registry import DATASETS, Dataset, File, Listing, get, listed, load

__all__ = ["DATASETS", "Dataset", "File", "Listing", "get", "listed", "load"]

__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__, "mlsysopt.core.datasets.registry"))

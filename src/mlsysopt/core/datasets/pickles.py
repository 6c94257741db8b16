"""Pickles from the Internet, read without running what is in them.

A pickle may name any function and call it. This reader knows five names, those of sparse matrices
and adjacency lists in the Planetoid files, and refuses every other one.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mlsysopt.core.errors import DatasetError

__all__ = ["CsrParts", "read_pickle"]


class CsrParts:
    """Stands for `scipy.sparse.csr_matrix`: takes its attributes, runs none of its code."""

    data: np.ndarray[Any, Any]
    indices: np.ndarray[Any, Any]
    indptr: np.ndarray[Any, Any]
    _shape: tuple[int, int]

    def dense(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the matrix as a dense array, shape as stored."""
        rows, columns = self._shape
        full = np.zeros((rows, columns), dtype=np.float32)
        owner = np.repeat(np.arange(rows), np.diff(self.indptr))
        full[owner, self.indices] = self.data
        return full


def _array(kind: object, shape: tuple[int, ...], typecode: object) -> np.ndarray[Any, Any]:
    """Stands for numpy's `_reconstruct`: an empty array that the pickle's state then fills."""
    return np.ndarray.__new__(np.ndarray, (0,), dtype=np.dtype("b"))


_KNOWN: dict[tuple[str, str], Any] = {
    ("scipy.sparse.csr", "csr_matrix"): CsrParts,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "list"): list,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _KNOWN[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not data") from None


def read_pickle(path: Path) -> Any:
    """Read a pickle that holds sparse matrices, arrays, lists and dictionaries only.

    Raises:
        DatasetError: it is damaged, or names anything else.
    """
    try:
        with path.open("rb") as stream:
            return _Reader(stream, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise DatasetError(f"{path} is not read: {error}") from None

"""One input of the model, found in the user's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlsysopt.core.errors import StudyError
from mlsysopt.design.ablate.inputs import edited, is_dataset

__all__ = ["two_batches"]

_SIZES = (8, 5)


def two_batches(data: Any, given: Any = None) -> tuple[Any, Any]:
    """Return two inputs of different batch sizes.

    Args:
        data: What the training function is given: a mapping, a tuple (X, ...), an array, a tensor, a `Dataset`.
        given: A batch that the user names, or a function of the data and the batch size.

    Raises:
        StudyError: no input can be found, or none with two sizes.
    """
    if isinstance(given, Callable):
        return given(data, _SIZES[0]), given(data, _SIZES[1])
    if given is not None:
        return given, _cut(given, max(1, _size(given) - 3))
    found = _inputs(data)
    if found is None:
        raise StudyError(
            f"no input of the model can be found in data ({type(data).__name__}): pass batch= to ablate.study,\n"
            "a tensor, a tuple of arguments, a mapping of keywords, or a function of (data, batch_size)"
        )
    return tuple(_tensor(found, size) for size in _SIZES)  # pyright: ignore[reportReturnType]


def _inputs(data: Any) -> Any:
    tables: list[Any] = []

    def note(split: str, table: Any) -> Any:
        tables.append(table)
        return table

    edited(data, note)
    first = tables[0] if tables else None
    if first is None or isinstance(first, Mapping):
        return None
    if not is_dataset(first):
        return first
    import torch

    rows = [first[i] for i in range(min(len(first), _SIZES[0]))]
    return torch.stack([torch.as_tensor(row[0] if isinstance(row, tuple | list) else row) for row in rows])


def _tensor(found: Any, size: int) -> Any:
    import torch

    if hasattr(found, "iloc"):
        found = found.to_numpy()
    part = found[:size]
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(np.array(part))
    if part.is_floating_point():
        return part.to(torch.float32)
    # Bytes are pixels, wider integers are indices.
    return part.to(torch.float32) if part.dtype in (torch.uint8, torch.bool) else part.long()


def _size(batch: Any) -> int:
    if isinstance(batch, Mapping):
        return _size(next(iter(batch.values())))
    if isinstance(batch, tuple | list):
        return _size(batch[0])
    return int(batch.shape[0]) if hasattr(batch, "shape") and len(batch.shape) else 1


def _cut(batch: Any, size: int) -> Any:
    whole = _size(batch)
    if isinstance(batch, Mapping):
        return {key: _cut(value, size) if _size(value) == whole else value for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)([_cut(one, size) if hasattr(one, "shape") and _size(one) == whole else one for one in batch])
    return batch[:size]

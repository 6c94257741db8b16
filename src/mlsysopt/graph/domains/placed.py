"""A value that lives on several devices: one array per device, in row-major order of the mesh."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.placement import Placement, Replicate, Shard

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["assembled", "scattered"]

Array: TypeAlias = "npt.NDArray[Any]"


def scattered(array: Array, placement: Placement) -> list[Array]:
    """Return what each device holds of an array; of a partial sum the first devices hold all.

    Raises:
        UsageError: an axis that does not divide, where the placement does not allow for it.
    """
    import numpy as np

    parts: list[Array] = []
    for place in itertools.product(*map(range, placement.mesh.sizes)):
        one = array
        for word, i, count in zip(placement.along, place, placement.mesh.sizes, strict=True):
            if isinstance(word, Shard):
                one = _part(one, word, i, count)
            elif not isinstance(word, Replicate) and i:
                one = np.zeros_like(one)
        parts.append(one)
    return parts


def assembled(parts: Sequence[Array], placement: Placement) -> Array:
    """Return the whole array that devices hold together; of equal copies the first is taken.

    Raises:
        UsageError: another number of parts than there are devices.
    """
    import numpy as np

    if len(parts) != placement.mesh.devices:
        raise UsageError(f"placement {placement}: {len(parts)} arrays given, one for each device is needed")
    whole = list(parts)
    for word, count in reversed(list(zip(placement.along, placement.mesh.sizes, strict=True))):
        rows = [whole[i : i + count] for i in range(0, len(whole), count)]
        if isinstance(word, Shard):
            whole = [np.concatenate(row, word.axis) for row in rows]
        elif isinstance(word, Replicate):
            whole = [row[0] for row in rows]
        else:
            whole = [sum(row[1:], row[0]) for row in rows]
    return whole[0]


def _part(array: Array, word: Shard, i: int, count: int) -> Array:
    size = array.shape[word.axis]
    if size % count and not word.uneven:
        raise UsageError(f"placement: axis {word.axis} of size {size} does not divide by {count}; mark it uneven")
    step = -(-size // count)
    cut = slice(min(i * step, size), min((i + 1) * step, size))
    return array[(*(slice(None),) * word.axis, cut)]

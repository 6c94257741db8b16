"""Which numbers of one example a feature is: a column of a table, or a part of an image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import UsageError, near_misses

__all__ = ["REGIONS", "mask_of", "names_of"]

REGIONS = ("channel", "row", "column", "patch")
"""Kinds of regions; `rows:0-2` is as good as `row:0-2`, both ends belong to it."""

_CHANNELS = (1, 3, 4)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")

Names = Sequence[str] | Mapping[str, Any]


def names_of(shape: Sequence[int], names: Names | None) -> list[str]:
    """Return the names of the features of one example; none for an image whose channels have no names.

    Args:
        shape: Of one example, without the axis of rows.
        names: Names by position along the axis of features, or name -> region or position.

    Raises:
        UsageError: not as many names as features.

    >>> names_of((3,), None), names_of((3,), ["age", "rent", "city"])
    (['0', '1', '2'], ['age', 'rent', 'city'])
    """
    if isinstance(names, Mapping):
        return [str(name) for name in names]
    axis = _feature_axis(shape)
    if names is None:
        return [] if len(shape) >= 3 else [str(i) for i in range(shape[axis])]
    if len(names) != shape[axis]:
        raise UsageError(
            f"names: {len(names)} names for {shape[axis]} features (one example has the shape {tuple(shape)});\n"
            "give one name for each, or name -> region, such as {'left': 'columns:0-2'}"
        )
    return [str(name) for name in names]


def mask_of(feature: str | int, shape: Sequence[int], names: Names | None = None) -> NDArray[np.bool_]:
    """Return which numbers of an example a feature is.

    Args:
        feature: A name, a position, or a region: `channel:1`, `rows:0-2`, `columns:5`, `patch:0-3,4-7`
            (rows 0 to 3 of columns 4 to 7).
        shape: Of one example, without the axis of rows.
        names: See `names_of`.

    Raises:
        UsageError: there is no such feature; the nearest names are listed.

    >>> mask_of("columns:0-1", (2, 3)).tolist()
    [[True, True, False], [True, True, False]]
    """
    known = names_of(shape, names)
    word = str(feature)
    if isinstance(names, Mapping) and word in names:
        return mask_of(names[word], shape)
    mask = np.zeros(tuple(shape), dtype=np.bool_)
    if word in known:
        return _marked(mask, {_feature_axis(shape): (known.index(word), known.index(word))}, word)
    kind, colon, where = word.partition(":")
    if colon and kind.removesuffix("s") in REGIONS:
        return _marked(mask, _region(kind.removesuffix("s"), where, shape, word), word)
    if word.isdigit() and known:
        axis = _feature_axis(shape)
        return _marked(mask, {axis: (int(word), int(word))}, word)
    allowed = near_misses(word, known, noun="feature") if known else "an image is named by region"
    raise UsageError(f"feature {word!r}: the data has no such; {allowed}\nregions: {_examples(shape)}")


def _feature_axis(shape: Sequence[int]) -> int:
    if len(shape) < 3:
        return len(shape) - 1
    return len(shape) - 1 if _channels_last(shape) else 0


def _channels_last(shape: Sequence[int]) -> bool:
    return shape[-1] in _CHANNELS and shape[0] not in _CHANNELS


def _axes(shape: Sequence[int]) -> dict[str, int]:
    """Return which axis is which in one example."""
    if len(shape) == 1:
        return {"column": 0}
    if len(shape) == 2:
        return {"row": 0, "column": 1}
    if _channels_last(shape):
        return {"row": len(shape) - 3, "column": len(shape) - 2, "channel": len(shape) - 1}
    return {"channel": 0, "row": len(shape) - 2, "column": len(shape) - 1}


def _region(kind: str, where: str, shape: Sequence[int], word: str) -> dict[int, tuple[int, int]]:
    axes = _axes(shape)
    wanted = ("row", "column") if kind == "patch" else (kind,)
    pieces = where.replace(" ", "").split(",")
    ranges = [_RANGE.fullmatch(piece) for piece in pieces]
    if len(pieces) != len(wanted) or not all(ranges):
        raise UsageError(f"feature {word!r} cannot be read; regions: {_examples(shape)}")
    if any(name not in axes for name in wanted):
        raise UsageError(f"feature {word!r}: an example of shape {tuple(shape)} has no such axis; {_examples(shape)}")
    return {
        axes[name]: (int(found[1]), int(found[2] or found[1]))
        for name, found in zip(wanted, ranges, strict=True)
        if found
    }


def _marked(mask: NDArray[np.bool_], ranges: Mapping[int, tuple[int, int]], word: str) -> NDArray[np.bool_]:
    index: list[slice] = [slice(None)] * mask.ndim
    for axis, (first, last) in ranges.items():
        if not 0 <= first <= last < mask.shape[axis]:
            raise UsageError(f"feature {word!r} reaches outside 0-{mask.shape[axis] - 1}, all that there is")
        index[axis] = slice(first, last + 1)
    mask[tuple(index)] = True
    return mask


def _examples(shape: Sequence[int]) -> str:
    axes = _axes(shape)
    found = [f"{name}s:0-{shape[axis] - 1}" for name, axis in axes.items()]
    if "row" in axes and "column" in axes:
        found.append(f"patch:0-{shape[axes['row']] - 1},0-{shape[axes['column']] - 1}")
    return ", ".join(found)

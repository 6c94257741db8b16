"""Where the inputs of a model lie in the data that a user hands to a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["columns_of", "edited", "is_array", "is_dataset", "is_frame"]

_INPUTS = {"x", "data", "features", "ids", "image", "images", "input", "inputs", "pixels", "tokens"}
_SPLITS = {
    "calibration", "dev", "eval", "fit", "holdout", "test", "testing", "train", "training", "val", "valid",
    "validation",
}  # fmt: skip
_TARGETS = {"y", "label", "labels", "target", "targets", "weight", "weights"}

Edit = Callable[[str, Any], Any]


def edited(data: Any, edit: Edit, *, split: str = "train") -> Any:
    """Return the data with every table of inputs replaced by what `edit` makes of it.

    A table is an array with a row per example, a data frame, a mapping of columns, or a `Dataset`.

    Args:
        data: A table; a tuple (X, y) or (X_train, y_train, X_val, y_val); a tuple of pairs; a mapping
            with a table per split, or with keys such as `x_train` and `y_train`.
        edit: Called with the name of the split and the table.
        split: What the data is when it names no split.

    >>> import numpy as np
    >>> seen = []
    >>> pairs = np.zeros((3, 2)), np.zeros(3), np.zeros((2, 2)), np.zeros(2)
    >>> _ = edited(pairs, lambda split, table: seen.append((split, len(table))))
    >>> seen
    [('train', 3), ('other 1', 2)]
    """
    if isinstance(data, Mapping):
        return _mapping(data, edit, split)
    if isinstance(data, tuple | list):
        return _sequence(data, edit, split)
    return edit(split, data) if is_table(data) else data


def is_table(value: Any) -> bool:
    """Whether something holds one example per row."""
    return is_frame(value) or is_array(value) or is_dataset(value)


def is_frame(value: Any) -> bool:
    """Whether something is a data frame."""
    return hasattr(value, "iloc") and hasattr(value, "columns")


def is_array(value: Any) -> bool:
    """Whether something is an array or a tensor."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_dataset(value: Any) -> bool:
    """Whether something gives one example per index, as torch's `Dataset` does."""
    plain = isinstance(value, str | bytes | Mapping | tuple | list) or is_array(value) or hasattr(value, "iloc")
    return not plain and hasattr(value, "__getitem__") and hasattr(value, "__len__")


def columns_of(table: Mapping[str, Any]) -> list[str]:
    """Return the names in a mapping of columns that are no targets."""
    return [key for key in table if not _words(key) & _TARGETS]


def _mapping(data: Mapping[str, Any], edit: Edit, split: str) -> Any:
    splits = [key for key, value in data.items() if _words(key) <= _SPLITS and _holds(value)]
    if splits:
        return {key: edited(value, edit, split=str(key)) if key in splits else value for key, value in data.items()}
    inputs = {key: _split(key, split) for key, value in data.items() if _is_input(key, value)}
    if inputs:
        return {key: edit(inputs[key], value) if key in inputs else value for key, value in data.items()}
    columns = all(is_array(value) or hasattr(value, "iloc") for value in data.values())
    return edit(split, data) if data and columns else data


def _sequence(data: Sequence[Any], edit: Edit, split: str) -> Any:
    if not data:
        return data
    if all(isinstance(one, tuple | list | Mapping) for one in data) or all(is_dataset(one) for one in data):
        places = list(range(len(data)))
    elif len(data) in (4, 6) and all(is_table(one) for one in data):
        # (X_train, X_val, y_train, y_val) is what scikit-learn gives; everybody else keeps pairs together.
        apart = _is_beside(data[0], data[1]) and len(data[2]) == len(data[0])
        places = list(range(len(data) // 2)) if apart else list(range(0, len(data), 2))
    else:
        places = [0]
    names = {place: split if i == 0 else f"other {i}" for i, place in enumerate(places)}
    made = [edited(one, edit, split=names[i]) if i in names else one for i, one in enumerate(data)]
    return type(data)(*made) if hasattr(data, "_fields") else type(data)(made)  # pyright: ignore[reportCallIssue]


def _is_beside(first: Any, second: Any) -> bool:
    shapes = [tuple(getattr(one, "shape", ())) for one in (first, second)]
    return all(len(shape) > 1 for shape in shapes) and shapes[0][1:] == shapes[1][1:]


def _holds(value: Any) -> bool:
    return isinstance(value, tuple | list | Mapping) or is_table(value)


def _is_input(key: Any, value: Any) -> bool:
    words = _words(key) - _SPLITS
    rows = is_frame(value) or is_dataset(value) or isinstance(value, Mapping) or len(getattr(value, "shape", ())) > 1
    return bool(words) and words <= _INPUTS and rows


def _split(key: Any, default: str) -> str:
    return next(iter(sorted(_words(key) & _SPLITS)), default)


def _words(key: Any) -> set[str]:
    return set(str(key).lower().replace("-", "_").replace(".", "_").split("_")) - {""}

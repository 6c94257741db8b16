"""Taking features out of the input: dropped, held at their mean, or shuffled among the examples.

The mean is that of the training rows, for every split. A shuffled feature keeps its distribution in
each split and loses what ties it to the other features and to the label; features of one group are
shuffled together. Integers wider than a byte are indices: their "mean" is the most frequent value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.seeds import stream
from mlsysopt.design.ablate.inputs import columns_of, edited, is_array, is_dataset, is_frame
from mlsysopt.design.ablate.regions import Names, mask_of, names_of

__all__ = ["HOWS", "check", "names", "remove_feature", "removed"]

HOWS = ("drop", "mean", "permute")


def names(data: Any, *, names: Names | None = None) -> list[str]:
    """Return the names of the input features, in order; none for images, which are named by region.

    Args:
        data: What the training is given; see `inputs.edited`.
        names: Names by position, or name -> region, for data that carries none.

    Raises:
        UsageError: the inputs cannot be found, or not as many names as features.

    >>> names((np.zeros((5, 2)), np.zeros(5))), names({"age": np.zeros(5), "y": np.zeros(5)})
    (['0', '1'], ['age'])
    """
    return _names(_tables(data)[0][1], names)


def check(data: Any, features: Sequence[str | int], *, names: Names | None = None) -> None:
    """Refuse features that the data does not have.

    Raises:
        UsageError: the feature, with the nearest names.
    """
    table = _tables(data)[0][1]
    for feature in features:
        _chosen(table, [feature], names)


def remove_feature(
    data: Any, features: Sequence[str | int], *, how: str = "mean", seed: int = 0, names: Names | None = None
) -> Any:
    """Return the data without some features; the data itself is left as it is.

    Args:
        data: What the training is given; see `inputs.edited`.
        features: Names, positions or regions (`columns:0-2`, `rows:0`, `channel:1`, `patch:0-3,4-7`).
        how: `drop` makes the input smaller, `mean` holds it at the training rows' mean, `permute`
            shuffles it within each split.
        seed: Seed of the shuffle.
        names: Names by position, or name -> region, for data that carries none.

    Raises:
        UsageError: an unknown feature or way, or a region that cannot be dropped.

    >>> x = np.array([[1.0, 5.0], [3.0, 7.0]])
    >>> remove_feature((x, np.zeros(2)), ["0"])[0].tolist()
    [[2.0, 5.0], [2.0, 7.0]]
    """
    if how not in HOWS:
        raise UsageError(f"how={how!r}; {near_misses(how, HOWS, noun='way')}")
    tables = _tables(data)
    fitted = _Fitted(next((table for split, table in tables if split.startswith(("train", "fit"))), tables[0][1]))
    label = ", ".join(map(str, features))

    def without(split: str, table: Any) -> Any:
        chosen = _chosen(table, features, names)
        order = (
            stream(seed, role=f"permute {label} in {split}").permutation(len_of(table)) if how == "permute" else None
        )
        if is_frame(table):
            return _frame(table, chosen, how, fitted, order)
        if isinstance(table, Mapping):
            return _columns(table, chosen, how, fitted, order)
        if is_dataset(table):
            return _dataset(table, chosen, how, fitted, order)
        return _array(table, chosen, how, fitted.array(chosen) if how == "mean" else None, order)

    return edited(data, without)


def removed(
    data: Any, parts: Sequence[tuple[Sequence[str | int], str]], *, seed: int = 0, names: Names | None = None
) -> tuple[Any, list[str]]:
    """Take several groups of features away, one after another.

    Args:
        data: What the training is given.
        parts: Features and how, for each group.
        seed: Seed of the shuffles.
        names: Names by position, for data that carries none.

    Returns:
        The data, and the names of the features that are left: positions keep their first number.

    >>> removed((np.zeros((4, 3)), np.zeros(4)), [(["0"], "drop"), (["2"], "drop")])[1]
    ['1']
    """
    for features, how in parts:
        table = _tables(data)[0][1]
        chosen = _chosen(table, features, names)
        data = remove_feature(data, features, how=how, seed=seed, names=names)
        if how == "drop" and not isinstance(chosen, list) and not isinstance(names, Mapping):
            known = _names(table, names)
            gone: list[bool] = chosen.reshape(-1, chosen.shape[-1]).any(axis=0).tolist() if chosen.ndim < 3 else []
            names = [name for name, out in zip(known, gone, strict=False) if not out] or None
    return data, _names(_tables(data)[0][1], names)


def len_of(table: Any) -> int:
    """Return the number of examples in a table."""
    return len(next(iter(table.values()))) if isinstance(table, Mapping) else len(table)


def _tables(data: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def seen(split: str, table: Any) -> Any:
        found.append((split, table))
        return table

    edited(data, seen)
    if not found:
        raise UsageError(
            f"no input features can be found in data ({type(data).__name__}): give a data frame, (X, y), a mapping\n"
            "with x_train and y_train, a mapping of columns, a torch Dataset, or {'train': one of these, 'val': ...}"
        )
    return found


def _names(table: Any, given: Names | None) -> list[str]:
    if is_frame(table):
        return [str(column) for column in table.columns]
    if isinstance(table, Mapping):
        return columns_of(table)
    example = _example(table)
    return columns_of(example) if isinstance(example, Mapping) else names_of(np.shape(example), given)


def _example(table: Any) -> Any:
    """Return the input of the first example, or what stands for its shape."""
    if is_array(table):
        if len(table.shape) < 2:
            raise UsageError(f"data of shape {tuple(table.shape)} has no features: a row per example is needed")
        return np.empty(tuple(table.shape[1:]), dtype=np.bool_)
    if not len(table):
        raise UsageError("the data set is empty: its features cannot be seen")
    first = table[0]
    return first[0] if isinstance(first, tuple | list) else first


def _chosen(table: Any, features: Sequence[str | int], given: Names | None) -> Any:
    """Return the columns, or a mask over one example."""
    example = table if is_frame(table) or isinstance(table, Mapping) else _example(table)
    if is_frame(example) or isinstance(example, Mapping):
        known = {str(one): one for one in (columns_of(example) if isinstance(example, Mapping) else example.columns)}
        for feature in features:
            if str(feature) not in known:
                near = near_misses(str(feature), known, noun="feature")
                raise UsageError(f"feature {str(feature)!r}: the data has no such; {near}")
        return [known[str(feature)] for feature in features]
    shape = tuple(np.shape(example))
    if not features:
        raise UsageError("no feature is named")
    return np.logical_or.reduce([mask_of(feature, shape, given) for feature in features])


class _Fitted:
    """What training rows say about features, computed when it is asked for."""

    def __init__(self, train: Any) -> None:
        self.train = train

    def column(self, name: Any) -> Any:
        """Return the centre of a column of a frame or a mapping."""
        if is_frame(self.train):
            return _centre_of_series(self.train[name])
        if isinstance(self.train, Mapping):
            return _centre(self.train[name])
        return _centre(np.stack([np.asarray(_input(self.train[i])[name]) for i in range(len(self.train))]))

    def array(self, mask: Any) -> Any:
        """Return the centre of each number that a mask covers."""
        if is_array(self.train):
            return _centre(self.train[:, _like(mask, self.train)])
        return _centre(np.stack([np.asarray(_input(self.train[i]))[mask] for i in range(len(self.train))]))


def _centre(values: Any) -> Any:
    """Return the mean over rows, or the most frequent value where numbers are names; numpy, shape (...)."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    if "bfloat16" in str(values.dtype):
        values = values.float()
    array = np.asarray(values)
    if array.dtype.kind == "f":
        seen = ~np.isnan(array)
        return np.where(seen, array, 0).sum(0, dtype=np.float64) / np.maximum(seen.sum(0), 1)
    if array.dtype == np.uint8:
        return np.rint(array.mean(0))
    flat = array.reshape(len(array), -1)
    most = np.empty(flat.shape[1], dtype=array.dtype)
    for i in range(flat.shape[1]):
        found, counts = np.unique(flat[:, i], return_counts=True)
        most[i] = found[counts.argmax()]
    return most.reshape(array.shape[1:])


def _centre_of_series(series: Any) -> Any:
    kind = getattr(series.dtype, "kind", "O")
    if kind in "fc":
        return series.mean()
    if kind in "iu" and not hasattr(series, "cat"):
        return round(float(series.mean()))
    most = series.mode(dropna=True)
    return most.iloc[0] if len(most) else series.iloc[0]


def _like(mask: NDArray[np.bool_], table: Any) -> Any:
    if not hasattr(table, "detach"):
        return mask
    import torch

    return torch.from_numpy(mask).to(table.device)


def _cast(value: Any, like: Any) -> Any:
    if not hasattr(like, "detach"):
        return np.asarray(value, dtype=like.dtype)
    import torch

    return torch.as_tensor(np.asarray(value)).to(device=like.device, dtype=like.dtype)


def _array(table: Any, mask: Any, how: str, centre: Any, order: Any) -> Any:
    if how == "drop":
        axis, keep = _kept(mask)
        if hasattr(table, "detach"):
            import torch

            return table.index_select(axis + 1, torch.from_numpy(np.flatnonzero(keep)).to(table.device))
        return np.compress(keep, table, axis=axis + 1)
    made = table.clone() if hasattr(table, "detach") else np.array(table)
    where = _like(mask, table)
    made[:, where] = _cast(centre, table) if order is None else table[order][:, where]
    return made


def _kept(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_]]:
    """Return the axis along which whole slices go, and which stay."""
    for axis in range(mask.ndim - 1, -1, -1):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        gone: NDArray[np.bool_] = np.asarray(mask.any(axis=others))
        if np.array_equal(mask, np.broadcast_to(np.expand_dims(gone, others), mask.shape)):
            if gone.all():
                raise UsageError("how='drop': no feature would be left")
            return axis, ~gone
    raise UsageError("how='drop': a patch cannot be cut out of a rectangle; take how='mean' or how='permute'")


def _frame(table: Any, columns: list[Any], how: str, fitted: _Fitted, order: Any) -> Any:
    if how == "drop":
        return table.drop(columns=columns)
    made = table.copy()
    for name in columns:
        column = table[name]
        if order is not None:
            made[name] = type(column)(column.array[order], index=table.index)
        else:
            # Filled through its own type: a category stays one.
            made[name] = type(column)(fitted.column(name), index=table.index, dtype=column.dtype)
    return made


def _columns(table: Mapping[str, Any], chosen: list[Any], how: str, fitted: _Fitted, order: Any) -> dict[str, Any]:
    if how == "drop":
        return {key: value for key, value in table.items() if key not in chosen}
    made = dict(table)
    for name in chosen:
        column = table[name]
        if order is not None:
            made[name] = column.iloc[order] if hasattr(column, "iloc") else column[order]
            continue
        filled = column.clone() if hasattr(column, "detach") else np.array(column)
        filled[...] = _cast(fitted.column(name), filled)
        made[name] = filled
    return made


def _dataset(table: Any, chosen: Any, how: str, fitted: _Fitted, order: Any) -> Any:
    from mlsysopt.design.ablate.examples import Edited

    centre: Any = None
    if how == "mean":
        centre = {name: fitted.column(name) for name in chosen} if isinstance(chosen, list) else fitted.array(chosen)
    keep = _kept(chosen) if how == "drop" and not isinstance(chosen, list) else None
    return Edited(table, chosen, centre, order, keep)


def _input(example: Any) -> Any:
    return example[0] if isinstance(example, tuple | list) else example

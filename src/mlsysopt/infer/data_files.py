"""Data that a command line names: `y=file.csv[:column]`, `.npy`, `.npz[:name]`, `.json[:key]`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlsysopt.core.errors import DatasetError, UsageError, near_misses

__all__ = ["read_data"]


def read_data(text: str, name: str) -> Any:
    """Read one input.

    Args:
        text: `FILE` or `FILE:COLUMN`; without one, a table's column of the input's name, or its only one.
        name: Of the input.

    Returns:
        An array, a number, or a list of rows where a JSON list holds lists of different lengths.

    Raises:
        UsageError: the kind of file is unknown, or there is no such column.
        DatasetError: the file is absent or damaged.
    """
    path, _, column = text.partition(":")
    file = Path(path)
    readers = {".csv": _csv, ".npy": _npy, ".npz": _npz, ".json": _json}
    if file.suffix not in readers:
        raise UsageError(f"--data {name}={text}: files are {', '.join(readers)}; a number goes with --set")
    if not file.is_file():
        raise DatasetError(f"--data {name}={text}: there is no file {file}")
    try:
        return readers[file.suffix](file, column, name)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise DatasetError(f"--data {name}={text}: {error}") from None


def _csv(file: Path, column: str, name: str) -> Any:
    with file.open(newline="") as stream:
        rows = [row for row in csv.reader(stream) if row]
    if not rows:
        raise DatasetError(f"{file} is empty")
    header = not all(map(_is_number, rows[0]))
    names = [one.strip() for one in rows[0]] if header else [str(i) for i in range(len(rows[0]))]
    body = rows[1:] if header else rows
    if column or name in names:
        wanted = column or name
        if wanted not in names:
            raise UsageError(f"{file} has no column {wanted!r}; {near_misses(wanted, names, noun='column')}")
        place = names.index(wanted)
        return _numbers([[row[place] if place < len(row) else ""] for row in body], file, header)[:, 0]
    table = _numbers(body, file, header)
    return table[:, 0] if table.shape[1] == 1 else table


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _numbers(rows: Sequence[Sequence[str]], file: Path, header: bool) -> Any:
    width = len(rows[0]) if rows else 0
    found = np.empty((len(rows), width))
    for i, row in enumerate(rows):
        line = i + 1 + header
        if len(row) != width:
            raise DatasetError(f"{file}:{line}: {len(row)} cells, {width} in the rows above")
        for j, text in enumerate(row):
            try:
                found[i, j] = float(text) if text.strip() else np.nan
            except ValueError:
                raise DatasetError(f"{file}:{line}: {text!r} is no number") from None
    whole = np.isfinite(found).all() and (found == np.floor(found)).all()
    return found.astype(np.int64) if whole else found


def _npy(file: Path, column: str, name: str) -> Any:
    return np.load(file, allow_pickle=False)


def _npz(file: Path, column: str, name: str) -> Any:
    with np.load(file, allow_pickle=False) as arrays:
        wanted = column or (name if name in arrays.files else arrays.files[0] if len(arrays.files) == 1 else name)
        if wanted not in arrays.files:
            raise UsageError(f"{file} has no array {wanted!r}; {near_misses(wanted, arrays.files, noun='array')}")
        return arrays[wanted]


def _json(file: Path, column: str, name: str) -> Any:
    value = json.loads(file.read_text())
    if isinstance(value, dict):
        wanted = column or name
        if wanted not in value:
            raise UsageError(f"{file} has no key {wanted!r}; {near_misses(wanted, list(value), noun='key')}")
        value = value[wanted]
    if isinstance(value, list) and value and isinstance(value[0], list) and len({len(one) for one in value}) > 1:
        return [np.asarray(one) for one in value]
    return np.asarray([np.nan if one is None else one for one in value]) if isinstance(value, list) else value

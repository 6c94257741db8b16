"""Reading ratings from tables: columns are found, ids stay what they are, and a bad rating is named."""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import MissingExtra
from mlsysopt.train.estimate.ratings import RatingsError

__all__ = ["Table", "read_csv", "read_frame", "read_parquet"]

_USUAL = (
    ("user", "userid", "user_id", "uid", "customer", "customer_id"),
    ("item", "itemid", "item_id", "iid", "movieid", "movie_id", "product", "product_id", "book_id", "track_id"),
    ("rating", "ratings", "score", "stars", "value", "overall"),
)
_BAD_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Table:
    """Codes in order of first appearance, their names, the ratings, and when reading began."""

    user: npt.NDArray[Any]
    item: npt.NDArray[Any]
    value: npt.NDArray[np.float64]
    user_names: list[Any]
    item_names: list[Any]
    started: float


def read_csv(path: Path, columns: Sequence[str | int] | None, delimiter: str | None) -> Table:
    """Read a text table; see `Ratings.from_csv`."""
    started = time.perf_counter()
    pa = _pyarrow()
    from pyarrow import csv

    first = _first_line(path)
    mark = delimiter or _delimiter(path, first)
    numbered = columns is not None and all(isinstance(column, int) for column in columns)
    names = [name.strip().strip('"') for name in first.split(mark)]
    if numbered:
        names = [str(place) for place in range(len(names))]
    wanted = _three([str(column) for column in columns] if columns is not None else None, names, str(path))
    # Everything as text: an id of 1 must not become 1.0, and a bad rating is to be shown as it was written.
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if len(mark) > 1:
        if b"\x1f" in raw:
            raise RatingsError(f"{path}: fields are separated by {mark!r} but the file holds control characters")
        raw, mark = raw.replace(mark.encode(), b"\x1f"), "\x1f"
    try:
        table = csv.read_csv(
            pa.BufferReader(raw),
            read_options=csv.ReadOptions(column_names=names, skip_rows=0 if numbered else 1),
            parse_options=csv.ParseOptions(delimiter=mark),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise RatingsError(f"{path}: {str(error).splitlines()[0]}") from None
    return _coded(table, wanted, str(path), started, first_row=1 if numbered else 2)


def read_parquet(path: Path, columns: Sequence[str] | None) -> Table:
    """Read a Parquet file; see `Ratings.from_parquet`."""
    started = time.perf_counter()
    pa = _pyarrow()
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
    except FileNotFoundError:
        raise RatingsError(f"{path}: there is no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise RatingsError(f"{path}: {str(error).splitlines()[0]}") from None
    wanted = _three(columns, names, str(path))
    return _coded(parquet.read_table(path, columns=wanted), wanted, str(path), started, first_row=1)


def read_frame(frame: Any, columns: Sequence[str] | None) -> Table:
    """Take a DataFrame; see `Ratings.from_frame`."""
    started = time.perf_counter()
    pa = _pyarrow()
    wanted = _three(columns, [str(name) for name in frame.columns], "the frame")
    table = pa.Table.from_pandas(frame[wanted], preserve_index=False)
    return _coded(table, wanted, "the frame", started, first_row=1)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra.of("reading ratings from a table", "train") from None
    return pyarrow


def _first_line(path: Path) -> str:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as stream:
            first = stream.readline().rstrip("\r\n")
    except FileNotFoundError:
        raise RatingsError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RatingsError(f"{path}: it cannot be read as a text table: {error}") from None
    if not first.strip():
        raise RatingsError(f"{path}: the file is empty")
    return first


def _delimiter(path: Path, first: str) -> str:
    if "::" in first:
        return "::"
    if ".tsv" in path.suffixes and "\t" in first:
        return "\t"
    return max(",\t;|", key=first.count)


def _three(columns: Sequence[str] | None, names: Sequence[str], source: str) -> list[str]:
    if columns is None:
        lower = {name.lower(): name for name in reversed(names)}
        found = [next((lower[usual] for usual in group if usual in lower), "") for group in _USUAL]
        missing = [group[0] for group, name in zip(_USUAL, found, strict=True) if not name]
    else:
        if len(columns) != 3:
            raise RatingsError(f"columns are three, user, item and rating; got {list(columns)}")
        found = list(columns)
        missing = [name for name in found if name not in names]
    if missing:
        guess = ",".join(names[:3]) if len(names) >= 3 else "USER,ITEM,RATING"
        raise RatingsError(
            f"{source}: no column {', '.join(missing)}; its columns are {', '.join(names)}\n"
            f"name user, item and rating: --columns {guess} (a file without names: --columns 0,1,2)"
        )
    if len(set(found)) != 3:
        raise RatingsError(f"{source}: user, item and rating must be three columns, got {', '.join(found)}")
    return found


def _coded(table: Any, wanted: Sequence[str], source: str, started: float, *, first_row: int) -> Table:
    if not table.num_rows:
        raise RatingsError(f"{source}: it has the columns {', '.join(wanted)} but no ratings")
    value = _numbers(table[wanted[2]].combine_chunks(), source, first_row)
    codes: list[npt.NDArray[Any]] = []
    names: list[list[Any]] = []
    for name in wanted[:2]:
        column = _ids(table[name], f"{source}, column {name}", first_row).combine_chunks()
        encoded = column.dictionary_encode()
        codes.append(encoded.indices.to_numpy(zero_copy_only=False))
        names.append(encoded.dictionary.to_pylist())
    return Table(codes[0], codes[1], value, names[0], names[1], started)


def _ids(column: Any, where: str, first_row: int) -> Any:
    pa = _pyarrow()
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise RatingsError(f"{where}: {column.null_count} ids are missing, the first in row {row + first_row}")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_floating(column.type):
        return column
    # Whole numbers that a table kept as doubles, because one of them was missing once.
    values = column.to_numpy()
    wrong = np.flatnonzero(values != np.floor(values))
    if len(wrong):
        raise RatingsError(f"{where}: an id of {values[wrong[0]]} in row {wrong[0] + first_row}; ids are text or whole")
    return pa.chunked_array([pa.array(values.astype(np.int64))])


def _numbers(column: Any, source: str, first_row: int) -> npt.NDArray[np.float64]:
    pa = _pyarrow()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            values = np.array([_number(text) for text in column.to_pylist()])
    elif any(getattr(pa.types, f"is_{kind}")(column.type) for kind in ("integer", "floating", "boolean", "decimal")):
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    else:
        raise RatingsError(f"{source}: ratings must be numbers, the column holds {column.type}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        shown = ", ".join(f"row {row + first_row}: {column[int(row)].as_py()!r}" for row in wrong[:_BAD_SHOWN])
        raise RatingsError(f"{source}: {len(wrong)} ratings are not finite numbers: {shown}")
    return np.asarray(values, dtype=np.float64)


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        return float("nan")

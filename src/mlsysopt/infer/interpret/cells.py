"""Arrays of the interpreter: cells that are assigned once each, ragged rows, and indexing that never wraps around."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mlsysopt.core.errors import UsageError
from mlsysopt.infer.language import Shape

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Cells", "Index", "Ragged", "as_input", "fitted", "has_nan", "make_array", "part_of", "read", "result"]

Array: TypeAlias = "npt.NDArray[Any]"
Index: TypeAlias = tuple[Any, ...]


@dataclass(slots=True)
class Label:
    """What an array and all views of it have in common.

    Attributes:
        name: The variable; "" until it is bound to one.
        kind: What its cells hold.
    """

    kind: Literal["int", "float", "bool"]
    name: str = ""

    def item(self, value: Any) -> int | float | bool:
        return {"int": int, "float": float, "bool": bool}[self.kind](value)


class Cells:
    """An array that a model fills, or a part of one.

    Args:
        label: Shared with the array that this is a part of.
        values: Contents, of any number of dimensions.
        lines: Line that assigned a cell, 0 for none; the same shape.
        at: Row of the whole that this is a part of.
        first: Position there of the first cell.
    """

    def __init__(self, label: Label, values: Array, lines: Array, at: Index = (), first: int = 0) -> None:
        self.label = label
        self.values = values
        self.lines = lines
        self._at = at
        self._first = first

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return (read(self, (position,), self.title) for position in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Contents; every cell must have been assigned."""
        missing = np.argwhere(self.lines == 0)
        if len(missing):
            raise UsageError(_never_assigned(self.cell(missing[0])))
        return np.asarray(self.result(), dtype=dtype)

    def __repr__(self) -> str:
        return f"{self.title} = {self.values}"

    @property
    def title(self) -> str:
        return self.cell(())

    def cell(self, index: Sequence[Any]) -> str:
        """Name one cell of this part, as `z[3, 1]`."""
        inner = [int(one) for one in index]
        if inner:
            inner[0] += self._first
        at = (*self._at, *inner)
        return (self.label.name or "the array") + (f"[{', '.join(str(one) for one in at)}]" if at else "")

    def part(self, position: int | slice) -> Cells:
        """A view of one row or cell, or of a range of them."""
        values, lines = self.values[position, ...], self.lines[position, ...]
        if isinstance(position, slice):
            return Cells(self.label, values, lines, self._at, self._first + position.start)
        return Cells(self.label, values, lines, (*self._at, self._first + position))

    def item(self, text: str) -> int | float | bool:
        """The value of a single cell."""
        if not self.lines:
            raise UsageError(_never_assigned(self.title, text))
        return self.label.item(self.values)

    def first_assigned(self) -> tuple[str, int] | None:
        """The first cell of this part that has been assigned, and the line that did it."""
        taken = np.argwhere(self.lines)
        return (self.cell(taken[0]), int(self.lines[tuple(taken[0])])) if len(taken) else None

    def fill(self, value: Any, line: int) -> None:
        self.values[...] = value
        self.lines[...] = line

    def result(self) -> Array:
        """A copy: float64 or int64; a cell that was never assigned is nan, or 0 among whole numbers."""
        if self.label.kind == "float":
            return np.where(self.lines > 0, self.values, np.nan).astype(np.float64)
        return np.where(self.lines > 0, self.values, 0).astype(np.int64)


class Ragged:
    """Rows of unequal length that a model fills.

    Args:
        kind: What the cells hold.
        lengths: Cells of every row.
    """

    def __init__(self, kind: Literal["int", "float", "bool"], lengths: Sequence[int]) -> None:
        self.label = Label(kind)
        self.rows = [_blank(self.label, (length,), at=(row,)) for row, length in enumerate(lengths)]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"{self.label.name or 'the array'} = {[row.values.tolist() for row in self.rows]}"

    def part(self, position: int | slice) -> Cells:
        if isinstance(position, slice):
            raise UsageError(f"{self.label.name}: a range of ragged rows cannot be taken; index one row")
        return self.rows[position]


def make_array(kind: Any, *sizes: Any, like: Any = None) -> Cells | Ragged:
    """`array(...)` of the language.

    Raises:
        UsageError: another type, or sizes that are no whole numbers.
    """
    names: dict[Any, Literal["int", "float", "bool"]] = {int: "int", float: "float", bool: "bool"}
    if kind not in names:
        raise UsageError(f"array: the type must be int, float or bool, got {kind!r}")
    if (like is None) == (not sizes):
        raise UsageError("array: give either sizes, as array(int, n), or like= a ragged input")
    if isinstance(like, (Ragged, list)):
        return Ragged(names[kind], [len(row) for row in (like.rows if isinstance(like, Ragged) else like)])
    shape = np.shape(like.values if isinstance(like, Cells) else like) if like is not None else sizes
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0:
            raise UsageError(f"array: a size must be a whole number from 0, got {size!r}")
    return _blank(Label(names[kind]), tuple(int(size) for size in shape))


def _of_shape(name: str, value: Any) -> Cells | Ragged | None:
    """The empty array that a `Shape`, or a list of them for ragged rows, stands for; None for anything else."""
    if isinstance(value, Shape):
        empty = _blank(Label("float"), value.sizes)
    elif isinstance(value, list) and value and all(isinstance(row, Shape) and len(row.sizes) == 1 for row in value):
        empty = Ragged("float", [row.sizes[0] for row in value])
    else:
        return None
    empty.label.name = name
    return empty


def as_input(name: str, value: Any) -> Any:
    """A value of the inputs as a model sees it: a number, an array of its own, a list of arrays, empty cells.

    Raises:
        UsageError: anything else.
    """
    empty = _of_shape(name, value)
    if empty is not None:
        return empty
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ma.MaskedArray):
        value = np.where(np.ma.getmaskarray(value), np.nan, value.data)
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)) and any(np.ndim(row) == 1 for row in value) and _is_ragged(value):
        return [_plain(f"{name}[{number}]", row, (1,)) for number, row in enumerate(value)]
    return _plain(name, value, (0, 1, 2))


def read(base: Any, index: Index, text: str) -> Any:
    """Index step by step: `w[n, i]` and `w[n][i]` mean the same, of ragged rows too.

    Args:
        base: Anything that can be indexed.
        index: Positions; a slice may stand last.
        text: The expression as the model has it, for messages.

    Raises:
        UsageError: outside of an array (no position counts from the end), not whole, or never assigned.
    """
    for step, position in enumerate(index):
        if isinstance(position, slice) and step < len(index) - 1:
            raise UsageError(f"{text}: a range stands last among the indices")
        base = _one(base, position, text)
    return base


def part_of(base: Cells | Ragged, index: Index, text: str) -> Cells:
    """The cell or row that an assignment or an observation fills."""
    part: Any = base
    for position in index:
        part = part.part(_position(part, position, text))
    if not isinstance(part, Cells):
        raise UsageError(f"{text} is a ragged array; fill it row by row")
    return part


def _one(base: Any, position: Any, text: str) -> Any:
    if isinstance(base, (bool, int, float)):
        raise UsageError(f"{text} has an index too many")
    if not isinstance(base, (Cells, Ragged, np.ndarray, list)):
        return base[position]
    where = _range(base, position, text) if isinstance(position, slice) else _position(base, position, text)
    if isinstance(base, (Cells, Ragged)):
        part = base.part(where)
        if not part.shape:
            return part.item(text)
        return np.asarray(part) if part.lines.all() else part
    value: Any = base[where]
    return value.item() if isinstance(value, np.generic) else value


def _position(base: Any, position: Any, text: str) -> int:
    if isinstance(base, Cells) and not base.shape:
        raise UsageError(f"{text} has an index too many")
    if not isinstance(position, (bool, int, np.integer, np.bool_)):
        raise UsageError(f"{text}: an index must be a whole number, got {position!r}")
    if not 0 <= position < len(base):
        raise UsageError(
            f"{text}: index {int(position)} is outside of 0 ... {len(base) - 1}, and none counts from the end"
        )
    return int(position)


def _range(base: Any, wanted: slice, text: str) -> slice:
    low = 0 if wanted.start is None else wanted.start
    high = len(base) if wanted.stop is None else wanted.stop
    if wanted.step is not None or not all(isinstance(end, (int, np.integer)) for end in (low, high)):
        raise UsageError(f"{text}: a range is written a[low:high], with whole numbers")
    if low < 0 or high > len(base):
        raise UsageError(f"{text}: the range {low}:{high} leaves 0 ... {len(base)}, and none counts from the end")
    return slice(int(low), max(int(low), int(high)))


def _blank(label: Label, shape: tuple[int, ...], at: Index = ()) -> Cells:
    values = np.full(shape, np.nan) if label.kind == "float" else np.zeros(shape, dtype=np.int64)
    return Cells(label, values, np.zeros(shape, dtype=np.int64), at)


def _never_assigned(cell: str, text: str = "the distribution") -> str:
    return f"{text} uses a cell that was never assigned, {cell}; assign it before it is used"


def _is_ragged(rows: Sequence[Any]) -> bool:
    return any(isinstance(row, np.ndarray) for row in rows) or len({np.size(row) for row in rows}) > 1


def _plain(name: str, value: Any, ranks: tuple[int, ...]) -> Any:
    try:
        given = np.asarray(value)
    except ValueError:
        given = np.asarray(None)
    kinds = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
    if given.dtype.kind not in kinds or given.ndim not in ranks:
        raise UsageError(
            f"input {name}: it must be a number, an array of numbers with one or two dimensions, or a list of arrays "
            f"for ragged rows, got {_short(value)}"
        )
    return given.astype(kinds[given.dtype.kind]) if given.ndim else given.item()


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def has_nan(value: Any) -> bool:
    """Whether a number is nan, or any of an array is."""
    if isinstance(value, (int, float)):
        return math.isnan(value)
    return bool(np.isnan(np.asarray(value, dtype=np.float64)).any())


def result(value: Any, *, whole: bool = False) -> Any:
    """A copy of a variable as a run returns it: a number, an int64 or float64 array, a list of them if ragged.

    Args:
        value: As the model sees it.
        whole: Whether its floats are whole numbers.
    """
    if isinstance(value, Ragged):
        return [row.result() for row in value.rows]
    if isinstance(value, Cells):
        made = value.result()
        return made if made.shape else made.item()
    if isinstance(value, list):
        return [result(row, whole=whole) for row in value]
    if not isinstance(value, np.ndarray):
        return value
    return value.astype(np.int64 if value.dtype.kind in "bi" or (whole and not has_nan(value)) else np.float64)


def fitted(name: str, given: Any, array: Cells | Ragged | Array | list[Array]) -> Any:
    """Given values of all cells of an array, in its shape; ragged rows may come one after the other in one vector.

    Raises:
        UsageError: another shape.
    """
    if isinstance(array, (Ragged, list)):
        lengths = [len(row) for row in (array.rows if isinstance(array, Ragged) else array)]
        if isinstance(given, (list, tuple)) and [np.shape(row) for row in given] == [(length,) for length in lengths]:
            return [np.asarray(row) for row in given]
        if np.ndim(given) == 1 and len(given) == sum(lengths):
            return np.split(np.asarray(given), np.cumsum(lengths)[:-1])
        raise UsageError(f"values: {name} must be ragged rows of lengths {lengths}, got {_short(given)}")
    value = np.asarray(given)
    if value.shape != array.shape:
        raise UsageError(f"values: {name} must be an array of shape {array.shape}, got {_short(given)}")
    return value

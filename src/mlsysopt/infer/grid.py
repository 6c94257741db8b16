"""Loop nests as flat index arrays, and expressions of the inputs evaluated over all of their iterations at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.ir import Call, Computation, Const, Expr, Get, Index, Loop, Reduce, Site, Size, Vector, walk

if TYPE_CHECKING:
    from mlsysopt.infer.binding import Bound

__all__ = ["Grid", "OutOfRange", "TooLarge"]

Array = NDArray[Any]

MOST = 10_000_000
"""Iterations above which a loop nest is not looked at."""


class TooLarge(Exception):
    """A loop nest with more than `MOST` iterations."""


class OutOfRange(Exception):
    """An index that lies outside of what it indexes.

    Attributes:
        get: What is read.
        axis: Which of its indices.
        index: The value.
        size: How many there are.
        at: Loop index -> its value there.
    """

    def __init__(self, get: Get, axis: int, index: int, size: int, at: Mapping[str, int]) -> None:
        super().__init__(f"{get}: {index} of {size}")
        self.get, self.axis, self.index, self.size, self.at = get, axis, index, size, at


@dataclass(frozen=True)
class Grid:
    """Iterations of some loops.

    Attributes:
        bound: The inputs.
        size: How many iterations.
        index: Loop index -> its value in each iteration, shape (size,), or () where they are alike.
        finite: Latent -> how many values it has: an index that reads it is tried with its first and last one.
        guess: Latent -> value that it is taken to have.
        seen: Is told of each read of a latent: (cell or row, its flat place where known, iterations).
    """

    bound: Bound
    size: int = 1
    index: Mapping[str, Array] = field(default_factory=dict)
    finite: Mapping[str, int] = field(default_factory=dict)
    guess: Mapping[str, int] = field(default_factory=dict)
    seen: Callable[[Get, Array | None, Grid], None] | None = None

    # Iterations.

    def site(self, site: Site | Computation) -> tuple[Grid, bool]:
        """Return the iterations that reach a site, and whether no guard of it hangs on a latent."""
        grid, sure = self, True
        for loop in site.loops:
            grid = grid.loop(loop)
        for guard in site.guards:
            condition = grid.value(guard.condition)
            sure = sure and condition is not None
            grid = grid.where(condition) if condition is not None else replace(grid, finite={})
        return grid, sure

    def loop(self, loop: Loop) -> Grid:
        """Return the iterations of a loop inside of these."""
        low, high = self.value(loop.low), self.value(loop.high)
        assert low is not None and high is not None
        return self.grown(loop.index, low, high, loop.step)[0]

    def grown(self, index: str, low: Array, high: Array, step: int = 1) -> tuple[Grid, Array]:
        """Return the iterations of `range(low, high, step)` inside of these, and how many each one has.

        Raises:
            TooLarge: more than `MOST`.
        """
        low, high = (np.asarray(one).astype(np.int64) for one in (low, high))
        lengths = np.broadcast_to(np.maximum((high - low + step - (1 if step > 0 else -1)) // step, 0), (self.size,))
        total = int(lengths.sum())
        if total > MOST:
            raise TooLarge
        if self.size == 1:
            found = low.reshape(()) + step * np.arange(total)
            return replace(
                self, size=total, index={**{k: v.reshape(()) for k, v in self.index.items()}, index: found}
            ), lengths
        parent = np.repeat(np.arange(self.size), lengths)
        place = np.arange(total) - (np.cumsum(lengths) - lengths)[parent]
        inside = {name: one[parent] if one.ndim else one for name, one in self.index.items()}
        inside[index] = (low[parent] if low.ndim else low) + step * place
        return replace(self, size=total, index=inside), lengths

    def where(self, condition: Array) -> Grid:
        """Return the iterations in which a condition holds."""
        if not condition.ndim:
            return self if condition else self._taken(np.zeros(0, np.int64))
        return self if condition.all() else self._taken(np.flatnonzero(condition))

    def _taken(self, places: Array) -> Grid:
        index = {
            name: one[places] if one.ndim and self.size > 1 else np.broadcast_to(one, (self.size,))[places]
            for name, one in self.index.items()
        }
        return replace(self, size=len(places), index=index)

    def at(self, place: int) -> dict[str, int]:
        """Return the loop indices of one iteration."""
        return {name: int(one.reshape(-1)[place if one.size > 1 else 0]) for name, one in self.index.items()}

    # Values.

    def value(self, expression: Expr) -> Array | None:
        """Return an expression's value in each iteration, shape (size,) or (); None where it reads a latent.

        Raises:
            OutOfRange: an index in it lies outside of what it indexes.
        """
        match expression:
            case Const(value):
                return np.asarray(value)
            case Index(name):
                return self.index[name]
            case Get():
                return self._get(expression)
            case Size(variable, axis, at):
                return self._size(variable, axis, at)
            case Reduce():
                return self._reduce(expression)
            case Call("cells", ()):
                return np.asarray(max((int(one[-1]) for one in self.bound.starts.values()), default=0))
            case Call("select", (condition, yes, no)):
                return self._choice(self.value(condition), yes, no)
            case Call("and", (a, b)):
                return self._choice(self.value(a), b, Const(False))
            case Call("or", (a, b)):
                return self._choice(self.value(a), Const(True), b)
            case Call(function, args):
                values = [self.value(one) for one in args]
                given = [one for one in values if one is not None]
                return _apply(function, given) if len(given) == len(values) else None
            case Vector(index, size, body):
                row, length = expression.row(), self.value(size)
                if row is not None:
                    self._get(row)
                elif (grid := self.inside(index, length)) is not None:
                    grid.value(body)
                return None

    def place(self, get: Get) -> Array | None:
        """Return the flat place of a cell in its array, or of a row among its rows; None where a latent says which.

        Raises:
            OutOfRange: an index lies outside.
        """
        if not self.size:
            return np.zeros(0, np.int64)
        variable = self.bound.program.variables[get.variable]
        starts = self.bound.starts_of(variable) if variable.ragged else None
        lengths = self.bound.lengths(variable)
        place: Array | None = np.asarray(0)
        row: Array | None = None
        for axis, part in enumerate(get.at):
            value = self.value(part)
            if starts is None:
                size = np.asarray(lengths[axis])
            elif axis == 0:
                size = np.asarray(len(starts) - 1)
            else:
                size = starts[row + 1] - starts[row] if row is not None else None
            if size is not None:
                for one in (value,) if value is not None else self._reach(part):
                    self._check(get, axis, one, size)
            if value is None:
                place = None
            elif place is not None:
                whole = value.astype(np.int64)
                row = whole
                if starts is None:
                    place = place * lengths[axis] + whole
                else:
                    place = whole if axis == 0 and len(get.at) == 1 else starts[whole] if axis == 0 else place + whole
        return place

    def _check(self, get: Get, axis: int, value: Array, size: Array) -> None:
        if not self.size:
            return
        bad = (value < 0) | (value >= size)
        if bad.any():
            first = int(np.flatnonzero(np.broadcast_to(bad, (self.size,)))[0])
            index, most = (int(np.broadcast_to(one, (self.size,))[first]) for one in (value, size))
            raise OutOfRange(get, axis, index, most, self.at(first))

    def _reach(self, part: Expr) -> list[Array]:
        """Return the lowest and the highest value of an index that reads latents with finitely many values."""
        names = {one.variable for one in walk(part) if isinstance(one, Get) and not self.given(one.variable)}
        if not names or not names <= set(self.finite):
            return []
        found = [
            replace(self, guess=dict.fromkeys(names, 0), seen=None),
            replace(self, guess={k: self.finite[k] - 1 for k in names}, seen=None),
        ]
        return [one for grid in found if (one := grid.value(part)) is not None]

    def given(self, variable: str) -> bool:
        """Whether every cell of a variable is known."""
        return (
            variable in self.bound.arrays and variable not in self.bound.shapes and variable not in self.bound.missing
        )

    def _get(self, get: Get) -> Array | None:
        place = self.place(get)
        if get.variable in self.guess:
            return np.asarray(self.guess[get.variable])
        if not self.given(get.variable):
            if self.seen is not None and not self.bound.program.variables[get.variable].input:
                self.seen(get, place, self)
            return None
        return self.read(get.variable, place) if place is not None else None

    def read(self, variable: str, place: Array) -> Array:
        """Return cells of an input by their flat places."""
        if not self.size:
            return np.zeros(0, self.bound.arrays[variable].dtype)
        return self.bound.arrays[variable].reshape(-1)[place]

    def _size(self, variable: str, axis: int, at: tuple[Expr, ...]) -> Array | None:
        starts = self.bound.starts.get(variable)
        if starts is None:
            return np.asarray(self.bound.arrays[variable].shape[axis])
        if axis == 0:
            return np.asarray(len(starts) - 1)
        row = self.place(Get(variable, at))
        return starts[row + 1] - starts[row] if row is not None and self.size else row

    def inside(self, index: str, high: Array | None) -> Grid | None:
        """Return the iterations of a vector's index inside of these; None where there are too many to look at."""
        found = self._inside(index, np.asarray(0), high)
        return found[0] if found is not None else None

    def _choice(self, condition: Array | None, yes: Expr, no: Expr) -> Array | None:
        if condition is None:
            return None
        if not condition.ndim:
            return self.value(yes if condition else no)
        condition = condition.astype(bool)
        a, b = self.where(condition).value(yes), self.where(~condition).value(no)
        if a is None or b is None:
            return None
        found = np.empty(self.size, np.result_type(a, b))
        found[condition], found[~condition] = a, b
        return found

    def _inside(self, index: str, low: Array | None, high: Array | None) -> tuple[Grid, Array] | None:
        """Return the iterations of a reduction or vector; None where they are not known, or too many to look at."""
        if low is None or high is None:
            return None
        try:
            return self.grown(index, low, high)
        except TooLarge:
            return None

    def _reduce(self, one: Reduce) -> Array | None:
        found = self._inside(one.index, self.value(one.low), self.value(one.high))
        if found is None:
            return None
        grid, lengths = found
        body = grid.value(one.body)
        if body is None:
            return None
        body = np.broadcast_to(body, (grid.size,))
        ufunc, start = _FOLDS[one.op]
        if one.op in ("and", "or"):
            body = body.astype(bool)
        result = np.full(
            self.size, start, np.result_type(body, type(start)) if one.op in ("min", "max") else body.dtype
        )
        filled = lengths > 0
        if filled.any():
            result[filled] = ufunc.reduceat(body, (np.cumsum(lengths) - lengths)[filled])
        if filled.all():
            result = result.astype(body.dtype)
        return result if self.size != 1 else result.reshape(())


_FOLDS: dict[str, tuple[Any, Any]] = {
    "add": (np.add, 0), "mul": (np.multiply, 1), "min": (np.minimum, np.inf), "max": (np.maximum, -np.inf),
    "and": (np.logical_and, True), "or": (np.logical_or, False),
}  # fmt: skip


def _logistic(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _power(x: Array, y: Array) -> Array:
    return (
        np.power(x, y)
        if x.dtype.kind == "i" and y.dtype.kind == "i" and np.all(y >= 0)
        else np.power(x.astype(float), y)
    )


_OPERATIONS: dict[str, Callable[..., Array]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.true_divide, "//": np.floor_divide, "%": np.mod,
    "**": _power, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal,
    "!=": np.not_equal, "min": np.minimum, "max": np.maximum, "neg": np.negative, "not": np.logical_not,
    "abs": np.abs, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "log1p": np.log1p, "expm1": np.expm1,
    "sigmoid": _logistic,
}  # fmt: skip


def _apply(function: str, values: list[Array]) -> Array:
    if function not in ("not", "==", "!="):
        values = [one.astype(np.int64) if one.dtype == bool else one for one in values]
    with np.errstate(all="ignore"):
        return np.asarray(_OPERATIONS[function](*values))

"""What inputs may be under a model: values in the support, allowed arguments, equal lengths, indices in range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.infer.cells import Cells, check_computed, outside, spelled
from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.frontend.source import Source
from mlsysopt.infer.grid import Array, Grid, OutOfRange, TooLarge
from mlsysopt.infer.ir import Expr, Get, Index, Site, Vector, walk

if TYPE_CHECKING:
    from mlsysopt.infer.binding import Bound

__all__ = ["check", "finite_latents"]

MOST_CALLS = 20_000
"""Different arguments above which the bounds of a support are not computed."""
ADDS_UP = 1e-6
"""How far a row of probabilities may be from 1: they are often read from a file with six digits."""


def check(bound: Bound, source: Source) -> None:
    """Refuse inputs that the model cannot have, naming the first cell that is wrong.

    Raises:
        ModelError: `file:line: what was given; what is allowed; the remedy`.
    """
    for variable in bound.program.latents:
        least = 1 if variable.event else 0
        if not variable.input and min(bound.lengths(variable)) < least:
            shape = ", ".join(map(str, bound.lengths(variable)))
            raise source.error(variable.line, f"{variable.name} has the shape ({shape}); sizes are at least {least}")
    try:
        check_computed(bound, source)
        cells, finite = Cells(bound, source), finite_latents(bound)
        for site in bound.program.sites:
            try:
                _Site(site, Grid(bound, finite=finite, seen=cells.reader(site)), source).check()
            except TooLarge:
                continue
            except OutOfRange as error:
                raise outside(error, site.line, bound, source) from None
    except OutOfRange as error:  # pragma: no cover - sizes of arrays that index an input
        raise outside(error, source.tree.lineno, bound, source) from None


def finite_latents(bound: Bound) -> dict[str, int]:
    """Return the latents that have the same finite number of values in every cell, with that number."""
    found: dict[str, int] = {}
    for variable in bound.program.latents:
        counts = {_count(site, bound) for site in bound.program.sites_of(variable.name)}
        if len(counts) == 1 and (count := counts.pop()) is not None:
            found[variable.name] = count
    return found


def _count(site: Site, bound: Bound) -> int | None:
    assert site.distribution is not None
    if site.distribution.support == "binary":
        return 2
    size = site.args[0].size if site.args and isinstance(site.args[0], Vector) else None
    if site.distribution.support != "states" or size is None or any(isinstance(one, Index) for one in walk(size)):
        return None
    value = Grid(bound).value(size)
    return None if value is None else int(value)


class _Site:
    """One site over all of its iterations."""

    def __init__(self, site: Site, grid: Grid, source: Source) -> None:
        self.site, self.source, self.bound = site, source, grid.bound
        self.grid, self.sure = grid.site(site)

    def check(self) -> None:
        site, grid = self.site, self.grid
        values = [grid.value(one) for one in site.args]
        if site.observed or site.distribution is None:
            grid.value(site.value)
        # Behind a guard that hangs on a latent, an impossible value only says that the branch is not taken.
        if site.distribution is None or not self.sure or not grid.size:
            return
        self._widths(site.distribution)
        for parameter, arg, value in zip(site.distribution.parameters, site.args, values, strict=True):
            if isinstance(arg, Vector):
                self._vector(site.distribution, parameter, arg)
            elif value is not None and (bad := _forbidden(parameter, value, site.distribution)) is not None:
                self._argument(site.distribution, parameter, arg, value, bad)
        if (
            site.distribution.bounds is not None
            and (ends := self._called(site.distribution.bounds, values)) is not None
        ):
            bad = ends[:, 0] >= ends[:, 1]
            if bad.any():
                low, high = (_at(ends[:, i], self._first(bad)) for i in (0, 1))
                raise self._error(f"{site.distribution.name}: low has to be below high, got {low:g} and {high:g}")
        if site.observed and site.variable not in self.bound.shapes:
            self._support(site.distribution, values)

    # Lengths.

    def _widths(self, distribution: Distribution) -> None:
        """Refuse vectors of one draw that differ in length."""
        said: list[tuple[str, Expr]] = []
        for parameter, arg in zip(distribution.parameters, self.site.args, strict=True):
            if isinstance(arg, Vector):
                said.append((f"{distribution.name}'s {parameter.name}", arg.size))
                if isinstance(arg.body, Vector):
                    said.append((f"a row of {distribution.name}'s {parameter.name}", arg.body.size))
        if distribution.event:
            variable = self.bound.program.variables.get(self.site.variable)
            if self.site.observed and isinstance(self.site.value, Vector):
                said.append((str(self.site.value), self.site.value.size))
            elif variable is not None and not variable.input:
                said.append((f"a row of {variable.name}" if variable.rank > 1 else variable.name, variable.shape[-1]))
        first: tuple[str, Array] | None = None
        for what, size in said:
            length = None if any(_inner(one, self.grid) for one in walk(size)) else self.grid.value(size)
            if length is None:
                continue
            if (length < 1).any():
                raise self._error(f"{what} has no numbers; it needs at least one")
            if first is None:
                first = what, length
            elif (length != first[1]).any():
                place = self._first(length != first[1])
                a, b = (int(np.broadcast_to(one, (self.grid.size,))[place]) for one in (first[1], length))
                raise self._error(
                    f"{first[0]} has {a} number{'s' * (a != 1)} and {what} {b}; give both the same length"
                )

    # Arguments.

    def _argument(self, distribution: Distribution, parameter: Parameter, arg: Expr, value: Array, bad: Array) -> None:
        if bad.any():
            place = self._first(bad)
            what = _ALLOWED[parameter.constraint][0]
            raise self._error(
                f"{distribution.name}: {parameter.name} has to be {what}, got {self._said(arg, value, place)}"
            )

    def _vector(self, distribution: Distribution, parameter: Parameter, arg: Vector) -> None:
        if isinstance(arg.body, Vector):
            self._matrix(distribution, parameter, arg)
            return
        found = self._rows(arg)
        if found is None:
            return
        rows, place, named = found
        what, allowed = _ALLOWED[parameter.constraint]
        bad = np.asarray(np.logical_not(allowed(rows)).any(axis=1))
        if parameter.constraint == "simplex":
            bad = bad | (np.abs(rows.sum(axis=1) - 1.0) > ADDS_UP)
        used = np.unique(place) if place is not None else np.arange(len(rows))
        wrong = used[bad[used]]
        if len(wrong):
            row = int(wrong[0])
            raise self._error(
                f"{distribution.name}: {parameter.name} has to be {what}, got {named(row)} = {_short(rows[row])}"
            )

    def _matrix(self, distribution: Distribution, parameter: Parameter, arg: Vector) -> None:
        inner = arg.body
        assert isinstance(inner, Vector)
        get = inner.body
        if (
            not isinstance(get, Get)
            or get.at != (Index(arg.index), Index(inner.index))
            or not self.grid.given(get.variable)
        ):
            return
        matrix = self.bound.arrays[get.variable].astype(float)
        try:
            if not np.allclose(matrix, matrix.T):
                raise np.linalg.LinAlgError
            np.linalg.cholesky(matrix)
        except (np.linalg.LinAlgError, ValueError):
            raise self._error(
                f"{distribution.name}: {parameter.name} has to be symmetric and positive definite, "
                f"and {get.variable} is not"
            ) from None

    def _rows(self, vector: Vector) -> tuple[Array, Array | None, Callable[[int], str]] | None:
        """Return (rows, row of each iteration, name of a row) of a vector of the inputs; None where it is not known."""
        row, bound = vector.row(), self.bound
        if row is not None and bound.program.variables[row.variable].input:
            if not self.grid.given(row.variable) or row.variable in bound.starts:
                return None
            array = bound.arrays[row.variable]
            rows = array.reshape(-1, array.shape[-1])
            return rows, self.grid.place(row), lambda i: row.variable if array.ndim == 1 else f"{row.variable}[{i}]"
        alone = not any(_inner(one, self.grid) for one in walk(vector))
        grid = Grid(bound) if alone else self.grid
        size = grid.value(vector.size)
        inside = grid.inside(vector.index, size)
        body = inside.value(vector.body) if inside is not None else None
        if inside is None or body is None or size is None or (size != size.reshape(-1)[0]).any():
            return None
        rows = np.broadcast_to(body, (inside.size,)).reshape(-1, int(size.reshape(-1)[0]))
        place = np.zeros(1, np.int64) if alone else np.arange(len(rows))
        return rows, place, lambda i: f"{vector}{self._where(vector, i)}"

    # Values.

    def _support(self, distribution: Distribution, values: Sequence[Array | None]) -> None:
        value = self.site.value
        if isinstance(value, Vector):
            self._row_support(distribution, value, values)
            return
        if isinstance(value, Get) and value.variable in self.bound.missing:
            place = self.grid.place(value)
            given = self.grid.read(value.variable, place) if place is not None else None
        else:
            given = self.grid.value(value)
        if given is None:
            return
        self._refuse(~np.isfinite(given), value, given, "finite numbers")
        if distribution.discrete:
            self._refuse(given != np.floor(given), value, given, "whole numbers")
        match distribution.support:
            case "binary":
                self._refuse((given != 0) & (given != 1), value, given, "0 or 1")
            case "count" | "states":
                self._refuse(given < 0, value, given, "whole numbers from 0")
                most = self._states(distribution, values)
                if most is not None:
                    self._refuse(given >= most, value, given, lambda i: f"0 ... {int(_at(most, i)) - 1}")
            case "positive":
                self._refuse(
                    given < 0 if _has_density(distribution, 0.0) else given <= 0, value, given, "numbers above 0"
                )
            case "unit":
                low = given < 0 if _has_density(distribution, 0.0) else given <= 0
                high = given > 1 if _has_density(distribution, 1.0) else given >= 1
                self._refuse(low | high, value, given, "numbers between 0 and 1")
            case "interval" if distribution.bounds is not None:
                ends = self._called(distribution.bounds, values)
                if ends is not None:
                    low, high = ends[:, 0], ends[:, 1]
                    bad = (given < low) | (given > high)
                    self._refuse(bad, value, given, lambda i: f"numbers between {_at(low, i):g} and {_at(high, i):g}")
            case _:
                pass

    def _row_support(self, distribution: Distribution, value: Vector, values: Sequence[Array | None]) -> None:
        found = self._rows(value)
        if found is None:
            return
        rows, place, named = found
        used = rows if place is None else rows[np.broadcast_to(place, (self.grid.size,))]

        def refuse(bad: Array, what: Callable[[int], str]) -> None:
            if bad.any():
                i = self._first(bad)
                row = i if place is None else int(_at(place, i))
                raise self._error(_not_a_value(f"{named(row)} = {_short(used[i])}", distribution, what(i)))

        refuse(np.asarray(np.logical_not(np.isfinite(used)).any(axis=1)), lambda _: "finite numbers")
        if distribution.support == "simplex":
            refuse(
                (used < 0).any(axis=1) | (np.abs(used.sum(axis=1) - 1.0) > ADDS_UP),
                lambda _: "probabilities that add up to 1",
            )
        if distribution.support == "counts":
            refuse(((used < 0) | (used != np.floor(used))).any(axis=1), lambda _: "whole numbers from 0")
            total = values[0] if values else None
            if total is not None:
                refuse(used.sum(axis=1) != total, lambda i: f"counts that add up to {int(_at(total, i))}")

    def _states(self, distribution: Distribution, values: Sequence[Array | None]) -> Array | None:
        vectors = [one for one in self.site.args if isinstance(one, Vector)]
        if vectors:
            return self.grid.value(vectors[0].size)
        if distribution.states is None:
            return None
        found = self._called(distribution.states, values)
        return None if found is None else found[:, 0]

    def _called(self, function: Callable[..., Any], values: Sequence[Array | None]) -> Array | None:
        """Return a function of the arguments in each iteration, shape (size or 1, results); latents are nan."""
        columns = [np.asarray(np.nan) if one is None else one for one in values]
        varying = [one for one in columns if one.ndim]
        table = np.stack([one.astype(float) for one in varying], axis=1) if varying else np.zeros((1, 0))
        different, back = (
            (_column_unique(table[:, 0]) if table.shape[1] == 1 else np.unique(table, axis=0, return_inverse=True))
            if table.shape[1]
            else (table, np.zeros(1, np.int64))
        )
        if len(different) > MOST_CALLS:
            return None
        results: list[Any] = []
        for row in different:
            rest = iter(row)
            try:
                results.append(function(*(next(rest) if one.ndim else one.item() for one in columns)))
            except (ValueError, OverflowError, ZeroDivisionError):
                return None
        found = np.asarray(results, dtype=float).reshape(len(different), -1)[back.reshape(-1)]
        return None if np.isnan(found).any() else found

    def _refuse(self, bad: Array, value: Expr, given: Array, allowed: str | Callable[[int], str]) -> None:
        if bad.any():
            place = self._first(bad)
            what = allowed if isinstance(allowed, str) else allowed(place)
            assert self.site.distribution is not None
            raise self._error(_not_a_value(self._said(value, given, place), self.site.distribution, what))

    # Messages.

    def _error(self, what: str) -> Exception:
        return self.source.error(self.site.line, what)

    def _first(self, bad: Array) -> int:
        return int(np.flatnonzero(np.broadcast_to(bad, (self.grid.size,)))[0])

    def _said(self, expression: Expr, value: Array, place: int) -> str:
        number = f"{_at(value, place):.6g}" if value.dtype.kind == "f" else str(int(_at(value, place)))
        if isinstance(expression, Get):
            found = [self.grid.value(one) for one in expression.at]
            return f"{spelled(expression.variable, [_at(one, place) for one in found if one is not None])} = {number}"
        if not any(isinstance(one, Get | Index) for one in walk(expression)):
            return number
        return f"{expression} = {number}{self._where(expression, place)}"

    def _where(self, expression: Expr, place: int) -> str:
        names = {one.name for one in walk(expression) if isinstance(one, Index)}
        said = ", ".join(f"{Index(k)} = {v}" for k, v in self.grid.at(place).items() if k in names)
        return f" at {said}" if said else ""


def _inner(one: Expr, grid: Grid) -> bool:
    """Whether a part of an expression is the index of a loop of the grid, or a latent."""
    if isinstance(one, Index):
        return one.name in grid.index
    return isinstance(one, Get) and not grid.given(one.variable)


def _not_a_value(said: str, distribution: Distribution, allowed: str) -> str:
    name = distribution.family or distribution.name
    return f"{said} cannot come from {name}, which gives {allowed} there; correct the data, or the model"


def _column_unique(column: Array) -> tuple[Array, Array]:
    different, back = np.unique(column, return_inverse=True)
    return different[:, None], back


def _at(array: Array, place: int) -> Any:
    return array.reshape(-1)[place if array.size > 1 else 0]


def _short(row: Array) -> str:
    return np.array2string(row[:8], precision=4, threshold=8, separator=", ") + ("..." if len(row) > 8 else "")


def _has_density(distribution: Distribution, x: float) -> bool:
    """Whether the end of a support can have density, whatever the arguments."""
    try:
        return distribution.log_density(x, *(1.0 for _ in distribution.parameters)) > -math.inf
    except (ValueError, ZeroDivisionError, OverflowError):
        return False


def _forbidden(parameter: Parameter, value: Array, distribution: Distribution) -> Array | None:
    if distribution.bounds is not None and parameter.constraint == "real":
        # The ends of an interval may be infinite.
        return np.isnan(value)
    found = _ALLOWED.get(parameter.constraint)
    return None if found is None else ~found[1](value)


_ALLOWED: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "real": ("a finite number", np.isfinite),
    "positive": ("above 0", lambda v: (v > 0) & np.isfinite(v)),
    "nonnegative": ("at least 0", lambda v: (v >= 0) & np.isfinite(v)),
    "unit": ("between 0 and 1", lambda v: (v >= 0) & (v <= 1)),
    "count": ("a whole number from 0", lambda v: (v >= 0) & (v == np.floor(v))),
    "size": ("a whole number from 1", lambda v: (v >= 1) & (v == np.floor(v))),
    "positives": ("all above 0", lambda v: (v > 0) & np.isfinite(v)),
    "simplex": ("probabilities that add up to 1", lambda v: v >= 0),
    "reals": ("finite numbers", np.isfinite),
}

"""Which line assigns each cell: no cell twice, and none read before it is assigned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlsysopt.infer.frontend.source import Source
from mlsysopt.infer.grid import Array, Grid, OutOfRange, TooLarge
from mlsysopt.infer.ir import Get, Index, Site, Variable, walk

if TYPE_CHECKING:
    from mlsysopt.infer.binding import Bound

__all__ = ["Cells", "check_computed", "outside", "spelled"]

MOST = 10_000_000
"""Cells of a variable above which they are not looked at."""


@dataclass(frozen=True)
class _Owners:
    """Of each cell of a variable, which of its sites assigns it (-1 for none) and in which iteration."""

    variable: Variable
    sites: tuple[Site, ...]
    grids: tuple[Grid, ...]
    site: Array
    iteration: Array


class Cells:
    """The cells of every drawn variable.

    Args:
        bound: The inputs.
        source: For messages.

    Raises:
        ModelError: a cell is assigned twice, or lies outside of its array.
    """

    def __init__(self, bound: Bound, source: Source) -> None:
        self.bound, self.source = bound, source
        self._owners: dict[str, _Owners] = {}
        for variable in bound.program.latents:
            if not variable.input:
                try:
                    owners = self._assigned(variable)
                except TooLarge:
                    continue
                if owners is not None:
                    self._owners[variable.name] = owners

    def _assigned(self, variable: Variable) -> _Owners | None:
        shape = self.bound.lengths(variable)
        total = int(np.prod(shape[: len(shape) - variable.event], dtype=np.int64))
        if total > MOST:
            return None
        sites = self.bound.program.sites_of(variable.name)
        owner, iteration = np.full(total, -1), np.zeros(total, np.int64)
        grids: list[Grid] = []
        for i, site in enumerate(sites):
            try:
                grid, _ = Grid(self.bound).site(site)
                place = grid.place(Get(variable.name, site.at))
            except OutOfRange as error:
                raise outside(error, site.line, self.bound, self.source) from None
            grids.append(grid)
            if place is None:
                return None
            place = np.broadcast_to(place, (grid.size,))
            again = (
                np.flatnonzero((owner[place] >= 0) | (np.bincount(place, minlength=total)[place] > 1))
                if grid.size
                else place
            )
            if len(again):
                cell = int(place[again[0]])
                first = site.line if owner[cell] < 0 else sites[int(owner[cell])].line
                raise self.source.error(
                    site.line, f"{self._named(variable, cell)} is assigned twice (first at line {first}); a cell is "
                    "assigned once: change the bounds of the loops, or give it a dimension more"
                )  # fmt: skip
            owner[place], iteration[place] = i, np.arange(grid.size)
        return _Owners(variable, sites, tuple(grids), owner, iteration)

    def reader(self, site: Site) -> Callable[[Get, Array | None, Grid], None]:
        """Return what a `Grid` tells of the reads of one site; it refuses cells that are not assigned by then."""

        def seen(get: Get, place: Array | None, grid: Grid) -> None:
            owners = self._owners.get(get.variable)
            if owners is not None and grid.size:
                self._read(site, get, place, grid, owners)

        return seen

    def _read(self, site: Site, get: Get, place: Array | None, grid: Grid, owners: _Owners) -> None:
        variable = owners.variable
        if place is None or len(get.at) < variable.rank - variable.event:
            empty = np.flatnonzero(owners.site < 0)
            if len(empty):
                named = self._named(variable, int(empty[0]))
                raise self.source.error(
                    site.line, f"{get} may read {named}, which is never assigned; draw every cell of {variable.name}"
                )
            for other in owners.sites:
                if not _common(site, other) and other.number >= site.number:
                    raise self._early(site, get, other)
            return
        cell = place // self.bound.lengths(variable)[-1] if variable.event and len(get.at) == variable.rank else place
        cell = np.broadcast_to(cell, (grid.size,))
        owner = owners.site[cell]
        if (owner < 0).any():
            named = self._named(variable, int(cell[np.flatnonzero(owner < 0)[0]]))
            raise self.source.error(
                site.line, f"{named} is read and never assigned; draw it, or change the bounds of the loops"
            )
        for i, other in enumerate(owners.sites):
            mine = np.flatnonzero(owner == i)
            late = _later(site, grid, mine, other, owners.grids[i], owners.iteration[cell[mine]])
            if late.any():
                raise self._early(
                    site, Get(variable.name, ()), other, self._named(variable, int(cell[mine[np.flatnonzero(late)[0]]]))
                )

    def _early(self, site: Site, get: Get, other: Site, named: str = "") -> Exception:
        return self.source.error(
            site.line, f"{named or get} is read before it is assigned (line {other.line}); draw it further up"
        )

    def _named(self, variable: Variable, cell: int) -> str:
        if variable.ragged:
            starts = self.bound.starts_of(variable)
            assert starts is not None
            row = int(np.searchsorted(starts, cell, side="right")) - 1
            return f"{variable.name}[{row}, {cell - int(starts[row])}]"
        shape = self.bound.lengths(variable)
        if variable.rank == variable.event:
            return variable.name
        return spelled(variable.name, np.unravel_index(cell, shape[: len(shape) - variable.event]))


def check_computed(bound: Bound, source: Source) -> None:
    """Refuse computed cells that are assigned twice, outside of their array, or read without being assigned.

    Raises:
        ModelError: the first one.
    """
    assigned: dict[str, list[tuple[int, Array]]] = {}
    for one in bound.program.computations:
        try:
            grid, sure = Grid(bound).site(one)
            values = [grid.value(part) for part in one.cell.at]
            sizes = [Grid(bound).value(part) for part in one.shape] if one.defined is None else []
            defined = grid.value(one.defined) if one.defined is not None else None
        except TooLarge:
            continue
        except OutOfRange as error:
            raise outside(error, one.line, bound, source) from None
        known = [np.broadcast_to(value, (grid.size,)) for value in values if value is not None]
        if not sure or len(known) < len(values) or not grid.size:
            continue
        cells = np.stack(known, axis=1)
        name = one.cell.variable
        if defined is not None and not defined.all():
            cell = cells[int(np.flatnonzero(~np.broadcast_to(defined, (grid.size,)).astype(bool))[0])]
            raise source.error(
                one.line,
                f"{spelled(name, cell)} is read and never assigned; assign it, or change the bounds of the loops",
            )
        if one.defined is None:
            for axis, size in enumerate(sizes):
                if (
                    size is not None
                    and not size.ndim
                    and (bad := np.flatnonzero((known[axis] < 0) | (known[axis] >= size))).size
                ):
                    raise outside(
                        OutOfRange(one.cell, axis, int(known[axis][bad[0]]), int(size), grid.at(int(bad[0]))),
                        one.line,
                        bound,
                        source,
                    )
            assigned.setdefault(name, []).append((one.line, cells))
    for name, found in assigned.items():
        whole = np.concatenate([cells for _, cells in found])
        lines = np.concatenate([np.full(len(cells), line) for line, cells in found])
        _, first, back = np.unique(whole, axis=0, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[back.reshape(-1)] != np.arange(len(whole)))
        if len(again):
            place = int(again[0])
            before = int(lines[first[back.reshape(-1)[place]]])
            raise source.error(
                int(lines[place]),
                f"{spelled(name, whole[place])} is assigned twice (first at line {before}); "
                "a cell is assigned once: change the bounds of the loops",
            )


def _common(site: Site, other: Site) -> list[str]:
    found: list[str] = []
    for a, b in zip(site.loops, other.loops, strict=False):
        if a.number != b.number:
            break
        found.append(a.index)
    return found


def _later(site: Site, grid: Grid, mine: Array, other: Site, there: Grid, iteration: Array) -> Array:
    """Return in which of some iterations what another site does comes later, or at the same moment."""
    late, same = np.zeros(len(mine), bool), np.ones(len(mine), bool)
    steps = {loop.index: 1 if loop.step > 0 else -1 for loop in site.loops}
    for index in _common(site, other):
        a = np.broadcast_to(grid.index[index], (grid.size,))[mine] * steps[index]
        b = np.broadcast_to(there.index[index], (there.size,))[iteration] * steps[index]
        late |= same & (b > a)
        same &= a == b
    return late | same if other.number >= site.number else late


def outside(error: OutOfRange, line: int, bound: Bound, source: Source) -> Exception:
    """Make the error of an index that lies outside of what it indexes."""
    part, name = error.get.at[error.axis], error.get.variable
    allowed = f"0 ... {error.size - 1}" if error.size else "none"
    if isinstance(part, Get) and bound.program.variables[part.variable].input:
        grid = Grid(bound, index={k: np.asarray(v) for k, v in error.at.items()})
        values = [grid.value(one) for one in part.at]
        said = spelled(part.variable, [int(one) for one in values if one is not None])
        return source.error(
            line,
            f"{said} = {error.index} is no index of {name}, which has {error.size} ({allowed}); "
            f"correct it, or the size of {name}",
        )
    names = {one.name for one in walk(part) if isinstance(one, Index)}
    where = ", ".join(f"{Index(k)} = {v}" for k, v in error.at.items() if k in names)
    at = f" at {where}" if where and not isinstance(part, Index) else ""
    variables = bound.program.variables
    if any(isinstance(one, Get) and not variables[one.variable].input for one in walk(part)):
        return source.error(
            line,
            f"{error.get}: {part} can be {error.index}{at}, and {name} has {error.size} ({allowed}); "
            f"give {name} as many as there are values",
        )
    return source.error(
        line,
        f"{error.get}: {part} is {error.index}{at}, and {name} has {error.size} there ({allowed}); "
        f"change the bounds of the loop, or the size of {name}",
    )


def spelled(name: str, at: object) -> str:
    """Return a cell as it stands in a model."""
    found = [str(int(one)) for one in at]  # type: ignore[attr-defined]
    return f"{name}[{', '.join(found)}]" if found else name

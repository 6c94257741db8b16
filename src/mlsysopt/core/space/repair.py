"""The nearest valid configuration, as near as a few vectorised searches get.

Only the parameters that broken constraints tie together move. The default is valid, so the line to
it always ends in a valid point; from the nearest of many candidates (that line, each coordinate
alone, a fixed cloud) the search then closes in on what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.space.columns import configs_of, of_configs, valid_rows
from mlsysopt.core.space.encoding import codes_at, positions
from mlsysopt.core.space.expressions import Array

if TYPE_CHECKING:
    from mlsysopt.core.space.space import Space

__all__ = ["repair"]

_LINE = 64
_GRID = 128
_CLOUD = 384
_ROUNDS = 24
_STEPS = 10
_NEAR = 96
# Searching on below this distance in the cube would change nothing that matters.
_FINE = 1e-4


@dataclass(frozen=True, slots=True)
class _Point:
    """One row: positions of shape (k,), exact codes by name, and how far it is from what was asked."""

    at: Array
    codes: dict[str, Array]
    far: float


def repair(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nearest valid configuration: deterministic, idempotent, active parameters only.

    Distance is Euclidean between positions in the unit cube.
    """
    full = {
        parameter.name: parameter.nearest(config[parameter.name]) if parameter.name in config else parameter.default
        for parameter in space
    }
    codes = of_configs(space, [full])
    if not valid_rows(space, codes)[0]:
        for names in space.tied:
            codes.update(_Group(space, names).repaired({name: codes[name] for name in names}))
    return configs_of(space, codes)[0]


class _Group:
    """The parameters that some constraints tie together; nothing outside can break these constraints."""

    def __init__(self, space: Space, names: Sequence[str]) -> None:
        self.space, self.names = space, names
        self.constraints = [one for one in space.constraints if one.names & set(names)]

    def repaired(self, codes: dict[str, Array]) -> dict[str, Array]:
        """Return the codes of the nearest valid row."""
        if self._valid(codes)[0]:
            return codes
        asked = _Point(self._positions(codes), codes, 0.0)
        whole = of_configs(self.space, [{}])
        default = {name: whole[name] for name in self.names}
        at = self._positions(default)
        best = _Point(at, default, float(np.linalg.norm(at - asked.at)))
        found = self._nearest(self._first(asked.at, at), asked, best)
        return self._close_in(asked, found).codes

    def _positions(self, codes: Mapping[str, Array]) -> Array:
        return np.concatenate([positions(self.space[name], codes[name])[0] for name in self.names])

    def _valid(self, codes: Mapping[str, Array]) -> Array:
        return valid_rows(self.space, codes, None, self.constraints)

    def _first(self, asked: Array, default: Array) -> Array:
        """Return candidates all over the place, shape (m, k)."""
        line = asked + np.linspace(0.0, 1.0, _LINE + 1)[1:, None] * (default - asked)
        grid = (np.arange(_GRID) + 0.5) / _GRID
        single = np.repeat(asked[None, :], _GRID * len(asked), axis=0)
        for j in range(len(asked)):
            single[j * _GRID : (j + 1) * _GRID, j] = grid
        radii = np.geomspace(0.02, 1.0, _CLOUD)[:, None]
        return np.concatenate([line, single, asked + radii * _directions(_CLOUD, len(asked))])

    def _close_in(self, asked: _Point, found: _Point) -> _Point:
        """Move towards what was asked for, coordinate by coordinate and all together, in shrinking steps."""
        reach, radius = 1.0, found.far / 2
        steps = np.arange(1, _STEPS + 1)[:, None] / _STEPS
        k = len(self.names)
        for turn in range(_ROUNDS):
            if found.far == 0.0 or (reach < _FINE and radius < _FINE):
                break
            gap = asked.at - found.at
            rows = [found.at + steps * reach * gap]
            rows += [found.at + steps * reach * np.where(np.arange(k) == j, gap, 0.0) for j in range(k) if gap[j]]
            rows.append(found.at + radius * np.roll(_directions(_NEAR, k), turn, axis=1))
            nearer = self._nearest(np.concatenate(rows), asked, found)
            if nearer is found:
                reach, radius = reach / _STEPS, radius / 2
            elif nearer.far > 0.98 * found.far:
                radius /= 2
            found = nearer
        return found

    def _nearest(self, u: Array, asked: _Point, best: _Point) -> _Point:
        """Return the valid candidate that is nearest to what was asked for, or `best`."""
        snapped = np.empty_like(u)
        codes: dict[str, Array] = {}
        for j, name in enumerate(self.names):
            parameter = self.space[name]
            column = codes_at(parameter, u[:, j : j + 1])
            # A coordinate that did not move keeps its exact value, whatever rounding makes of it.
            for known in (best, asked):
                column = np.where(u[:, j] == known.at[j], known.codes[name][0], column)
            codes[name] = column
            snapped[:, j] = positions(parameter, column)[:, 0]
        far = np.linalg.norm(snapped - asked.at, axis=1)
        able = np.flatnonzero(far < best.far)
        if not len(able):
            return best
        able = able[self._valid({name: column[able] for name, column in codes.items()})]
        if not len(able):
            return best
        row = able[np.argmin(far[able])]
        return _Point(snapped[row], {name: column[row : row + 1] for name, column in codes.items()}, float(far[row]))


@lru_cache(maxsize=64)
def _directions(count: int, k: int) -> Array:
    """Return a fixed cloud of unit vectors, shape (count, k): the same answer in every process."""
    cloud = np.random.default_rng(20211).standard_normal((count, k))
    return cloud / np.linalg.norm(cloud, axis=1, keepdims=True)

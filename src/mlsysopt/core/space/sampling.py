"""Valid configurations, uniform in the unit cube, and scrambled Sobol points among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.space.columns import (
    at_positions,
    configs_of,
    of_configs,
    positions_of,
    rows_of,
    valid_at,
    valid_rows,
)
from mlsysopt.core.space.expressions import Array

if TYPE_CHECKING:
    from mlsysopt.core.space.space import Space

__all__ = ["sample", "sobol"]

# Rejection goes on until this many points have been thrown; then chains take over.
_MOST_THROWN = 400_000
_BATCH = 65_536
_STARTS = 64
_SWEEPS = 30
_MOST_SOBOL = 2**17


def sample(space: Space, rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    """Return n valid configurations, uniform in the unit cube given the constraints.

    By rejection; where fewer than one point in thousands is valid, by chains that start at
    repaired points and change one coordinate at a time.
    """
    found: list[dict[str, Any]] = []
    thrown = 0
    while len(found) < n:
        rate = (len(found) + 1) / (thrown + 1)
        if thrown >= _MOST_THROWN and (n - len(found)) / rate > 10 * _MOST_THROWN:
            return found + _chains(space, rng, n - len(found))
        size = int(min(_BATCH, max(16, 1.2 * (n - len(found)) / rate))) if thrown else max(16, n + n // 4)
        size = min(size, _BATCH)
        found += _valid(space, rng.random((size, space.dims())), n - len(found))
        thrown += size
    return found


def sobol(space: Space, n: int, seed: int) -> list[dict[str, Any]]:
    """Return n scrambled Sobol points of the valid space, different ones as long as there are any.

    References:
        Owen, Scrambling Sobol' and Niederreiter-Xing points, Journal of Complexity 1998.
    """
    from scipy.stats import qmc

    engine = qmc.Sobol(space.dims(), scramble=True, seed=np.random.default_rng(seed))  # pyright: ignore[reportCallIssue]
    found: dict[str, dict[str, Any]] = {}
    # The number of points stays a power of two, so that each draw doubles a balanced set.
    draw = 1 << max(3, (max(n, 1) - 1).bit_length())
    drawn = 0
    while len(found) < n and drawn < _MOST_SOBOL:
        before = len(found)
        for config in _valid(space, engine.random(draw), 4 * n):
            found.setdefault(space.canonical(config), config)
        drawn += draw
        draw = min(drawn, 2**14)
        # A small space has no more, or too few points are valid for waiting to pay.
        if drawn >= 1024 and (0 < len(found) == before or len(found) < n * drawn / (8 * _MOST_SOBOL)):
            break
    points = list(found.values())[:n]
    if len(points) < n:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        for config in sample(space, rng, 4 * (n - len(points))):
            if len(points) < n and space.canonical(config) not in found:
                found[space.canonical(config)] = config
                points.append(config)
    if len(points) < n:
        points += [points[i % len(points)] for i in range(n - len(points))]
    return points


def _valid(space: Space, u: Array, most: int) -> list[dict[str, Any]]:
    return configs_of(space, *valid_at(space, u, most))


def _chains(space: Space, rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    """Run n chains of single-coordinate moves, each accepted where it stays valid.

    Uniform in the limit on every part of the space that such moves connect.
    """
    thrown = configs_of(space, at_positions(space, rng.random((_STARTS, space.dims()))))
    starts = of_configs(space, [space.repair(config) for config in thrown])
    chosen = rows_of(starts, rng.integers(len(thrown), size=n))
    u = positions_of(space, chosen)
    for _ in range(_SWEEPS):
        for column in rng.permutation(space.dims()):
            moved = u.copy()
            moved[:, column] = rng.random(n)
            codes = at_positions(space, moved)
            kept = valid_rows(space, codes)
            u[kept] = moved[kept]
            for name, column_codes in chosen.items():
                column_codes[kept] = codes[name][kept]
    return configs_of(space, chosen)

"""Many configurations at once: which parameters are active, and which rows meet every constraint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.space.encoding import code, codes_at, dims, operand, plain, positions
from mlsysopt.core.space.expressions import Array, Expression

if TYPE_CHECKING:
    from mlsysopt.core.space.space import Space

__all__ = [
    "Codes",
    "active_masks",
    "at_positions",
    "configs_of",
    "of_configs",
    "positions_of",
    "rows_of",
    "valid_at",
    "valid_rows",
]

Codes = Mapping[str, Array]
"""Name -> codes of m configurations, as in `encoding`."""


def at_positions(space: Space, u: Array) -> dict[str, Array]:
    """Return the codes at positions of the cube, shape (m, d)."""
    found: dict[str, Array] = {}
    start = 0
    for parameter in space:
        stop = start + dims(parameter)
        found[parameter.name] = codes_at(parameter, u[:, start:stop])
        start = stop
    return found


def of_configs(space: Space, configs: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return the codes of configurations; what is missing takes its default."""
    return {
        parameter.name: code(parameter, [config.get(parameter.name, parameter.default) for config in configs])
        for parameter in space
    }


def positions_of(space: Space, codes: Codes, masks: Mapping[str, Array] | None = None) -> Array:
    """Return the positions of codes, shape (m, d); with masks, the middle of what is not active."""
    found = [positions(parameter, codes[parameter.name]) for parameter in space]
    for parameter, u in zip(space, found, strict=True):
        if masks is not None and parameter.name in masks:
            u[~masks[parameter.name]] = 0.5
    return np.concatenate(found, axis=1)


def active_masks(space: Space, codes: Codes) -> dict[str, Array]:
    """Return name -> mask of shape (m,) for every conditional parameter.

    A parameter is active where its condition holds and every parameter in its condition is active.
    `codes` may name some parameters only, together with all that their activity depends on.
    """
    masks: dict[str, Array] = {}
    for name in space.conditional:
        if name not in codes:
            continue
        condition = space.conditions[name]
        mask = _met(space, condition, codes, {})
        for parent in condition.names & masks.keys():
            mask = mask & masks[parent]
        masks[name] = mask
    return masks


def valid_rows(
    space: Space,
    codes: Codes,
    masks: Mapping[str, Array] | None = None,
    constraints: Sequence[Expression] | None = None,
) -> Array:
    """Return which rows meet every constraint (or some of them); an inactive parameter counts with its default."""
    constraints = space.constraints if constraints is None else constraints
    valid = np.ones(len(next(iter(codes.values()))), dtype=bool)
    if not constraints:
        return valid
    masks = active_masks(space, codes) if masks is None else masks
    for constraint in constraints:
        valid &= _met(space, constraint, codes, masks)
    return valid


def rows_of(codes: Codes, rows: Array | slice) -> dict[str, Array]:
    """Return some rows of codes or masks: their numbers, a mask or a slice."""
    return {name: column[rows] for name, column in codes.items()}


def valid_at(space: Space, u: Array, most: int | None = None) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return codes and masks of the valid ones among positions, shape (m, d), the first `most` of them."""
    codes = at_positions(space, u)
    masks = active_masks(space, codes)
    rows = np.flatnonzero(valid_rows(space, codes, masks))[:most]
    return rows_of(codes, rows), rows_of(masks, rows)


def configs_of(space: Space, codes: Codes, masks: Mapping[str, Array] | None = None) -> list[dict[str, Any]]:
    """Return configurations of plain Python values, active parameters only."""
    masks = active_masks(space, codes) if masks is None else masks
    names = space.names
    rows = zip(*(plain(parameter, codes[parameter.name]) for parameter in space), strict=True)
    if not masks:
        return [dict(zip(names, row, strict=True)) for row in rows]
    always = np.ones(len(codes[names[0]]), dtype=bool)
    flags = zip(*(masks.get(name, always).tolist() for name in names), strict=True)
    return [
        {name: value for name, value, on in zip(names, row, active, strict=True) if on}
        for row, active in zip(rows, flags, strict=True)
    ]


def _met(space: Space, expression: Expression, codes: Codes, masks: Mapping[str, Array]) -> Array:
    columns: dict[str, Array] = {}
    for name in expression.names:
        parameter = space[name]
        column = operand(parameter, codes[name])
        if name in masks:
            column = np.where(masks[name], column, operand(parameter, code(parameter, [parameter.default])))
        columns[name] = column
    value = expression.evaluate(columns)
    if value.dtype == object:
        return np.array([bool(one) for one in value], dtype=bool)
    return value.astype(bool)

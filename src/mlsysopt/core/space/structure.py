"""How spaces are put together: names, conditions in order, groups, other bounds, parts, JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mlsysopt.core.errors import SpaceError
from mlsysopt.core.quantities import parse_quantity
from mlsysopt.core.space.columns import at_positions, valid_rows
from mlsysopt.core.space.distributions import keys
from mlsysopt.core.space.expressions import Expression
from mlsysopt.core.space.parameters import Bool, Choice, Float, Int, Origin, Parameter, Permutation

if TYPE_CHECKING:
    from mlsysopt.core.space.space import Space

__all__ = ["bounded", "can_hold", "check_names", "from_json", "groups", "ordered", "subspace", "to_json"]

_VERSION = 1
_CLASSES: Mapping[str, Callable[..., Parameter]] = {
    "int": Int,
    "float": Float,
    "bool": Bool,
    "choice": Choice,
    "permutation": Permutation,
}


def check_names(parameters: Sequence[Parameter]) -> None:
    """Refuse an empty space, a name twice, and names that Optuna would see twice."""
    if not parameters:
        raise SpaceError("a space needs at least one parameter, got none")
    seen: dict[str, str] = {}
    for parameter in parameters:
        for key in {parameter.name, *keys(parameter)}:
            if key in seen:
                other = seen[key]
                what = "is given twice" if other == parameter.name else f"clashes with {other!r}: both use {key!r}"
                raise SpaceError(f"parameter {parameter.name!r} {what}")
        seen.update(dict.fromkeys({parameter.name, *keys(parameter)}, parameter.name))


def ordered(conditions: Mapping[str, Expression]) -> tuple[str, ...]:
    """Return the conditional names, each after those that its condition mentions.

    Raises:
        SpaceError: conditions in a circle.
    """
    order: list[str] = []
    waiting = dict(conditions)
    while waiting:
        ready = [name for name, condition in waiting.items() if not condition.names & waiting.keys()]
        if not ready:
            circle = ", ".join(f"{name} when {condition.text}" for name, condition in sorted(waiting.items())[:3])
            raise SpaceError(f"conditions form a circle: {circle}")
        order += ready
        for name in ready:
            del waiting[name]
    return tuple(order)


def groups(
    constraints: Iterable[Expression], conditions: Mapping[str, Expression], names: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names that constraints tie together; conditions of their names tie as well."""
    found: list[set[str]] = []
    for constraint in constraints:
        group = set(constraint.names)
        todo = list(group)
        while todo:
            condition = conditions.get(todo.pop())
            new = condition.names - group if condition is not None else set[str]()
            group |= new
            todo += new
        for other in [one for one in found if one & group]:
            found.remove(other)
            group |= other
        found.append(group)
    return tuple(tuple(name for name in names if name in group) for group in found)


def can_hold(space: Space, constraint: Expression) -> bool:
    """Return whether any of many points meets a constraint: corners, ends and a uniform cloud."""
    rng = np.random.default_rng(0)
    d = space.dims()
    cloud = [rng.random((8192, d)), rng.integers(2, size=(4096, d)).astype(float), np.zeros((1, d)), np.ones((1, d))]
    return bool(valid_rows(space, at_positions(space, np.concatenate(cloud)), None, [constraint]).any())


def bounded(old: Int | Float, low: float | str | None, high: float | str | None, origin: Origin) -> Int | Float:
    """Return a parameter with other bounds."""
    new_low = old.low if low is None else parse_quantity(low)
    new_high = old.high if high is None else parse_quantity(high)
    if not new_low < new_high:
        raise SpaceError(f"parameter {old.name!r}: low must be below high, got low={new_low}, high={new_high}")
    special = tuple(value for value in old.special if not new_low <= value <= new_high)
    bare: Any = replace(
        old,
        low=new_low,
        high=new_high,
        default=None,
        special=special,
        low_origin=old.low_origin if low is None else origin,
        high_origin=old.high_origin if high is None else origin,
    )
    return replace(bare, default=bare.nearest(old.default))


def subspace(space: Space, chosen: set[str]) -> Space:
    """Return the space of the chosen parameters, with constants in place of the others."""
    from mlsysopt.core.space.space import Space as Whole

    full = space.default()
    constants = {name: value for name, value in full.items() if name not in chosen}
    # What is inactive at the default stays so unless a chosen parameter can switch it on.
    conditions: dict[str, Expression] = {}
    for name in space.conditional:
        condition = space.conditions[name]
        if name not in chosen:
            continue
        if condition.names <= constants.keys():
            if not condition.holds(full):
                raise SpaceError(f"parameter {name!r} is inactive at the default: its condition is '{condition.text}'")
            continue
        conditions[name] = condition.substitute(constants)
    constraints = [one.substitute(constants) for one in space.constraints if one.names & chosen]
    return Whole([one for one in space if one.name in chosen], constraints=constraints, conditions=conditions)


def to_json(space: Space) -> dict[str, Any]:
    """Return a space as JSON values."""
    rows: list[dict[str, Any]] = []
    for parameter in space:
        row: dict[str, Any] = {"kind": parameter.kind.split()[0]}
        for field in fields(parameter):
            value = getattr(parameter, field.name)
            row[field.name] = list(value) if isinstance(value, tuple) else value
        rows.append(row)
    return {
        "version": _VERSION,
        "parameters": rows,
        "constraints": [_expression(one) for one in space.constraints],
        "conditions": {name: _expression(one) for name, one in space.conditions.items()},
    }


def from_json(obj: Mapping[str, Any]) -> Space:
    """Read what `to_json` wrote."""
    from mlsysopt.core.space.space import Space as Whole

    if not isinstance(obj, Mapping) or "parameters" not in obj:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpaceError(f"a space in JSON has the key 'parameters', got {str(obj)[:60]}")
    if obj.get("version", _VERSION) > _VERSION:
        raise SpaceError(
            f"the space was written in version {obj['version']}, this package reads up to {_VERSION}; update it"
        )
    parameters: list[Parameter] = []
    for i, row in enumerate(obj["parameters"]):
        try:
            given: dict[str, Any] = {name: _tuple(value) for name, value in row.items()}
            parameters.append(_CLASSES[given.pop("kind")](**given))
        except (AttributeError, KeyError, TypeError) as error:
            raise SpaceError(f"space.parameters[{i}] cannot be read: {error}; got {str(row)[:80]}") from error
        except SpaceError as error:
            raise SpaceError(f"space.parameters[{i}]: {error}") from error
    return Whole(
        parameters,
        constraints=[Expression.parse(one["text"], origin=one["origin"]) for one in obj.get("constraints", ())],
        conditions={
            name: Expression.parse(one["text"], origin=one["origin"]) for name, one in obj.get("conditions", {}).items()
        },
    )


def _tuple(value: Any) -> Any:
    return tuple(cast(list[Any], value)) if isinstance(value, list) else value


def _expression(expression: Expression) -> dict[str, str]:
    return {"text": expression.text, "origin": expression.origin}

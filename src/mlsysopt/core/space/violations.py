"""What is wrong with a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlsysopt.core.errors import near_misses
from mlsysopt.core.space.expressions import Expression
from mlsysopt.core.space.parameters import Float, Int, Origin, Parameter

if TYPE_CHECKING:
    from mlsysopt.core.space.space import Space

__all__ = ["Violation", "active_names", "explained", "violations"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that a configuration breaks.

    Attributes:
        kind: What sort of thing.
        name: The parameter, or the text of the constraint.
        text: One line for people, with the numbers.
        origin: Who said the rule that is broken.
    """

    kind: Literal["unknown", "type", "bounds", "step", "constraint"]
    name: str
    text: str
    origin: Origin = "declared"


def active_names(space: Space, full: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the active names of a configuration that names every parameter, in the order of the space."""
    if not space.conditional:
        return space.names
    inactive: set[str] = set()
    for name in space.conditional:
        condition = space.conditions[name]
        if condition.names & inactive or not condition.holds(full):
            inactive.add(name)
    return tuple(name for name in space.names if name not in inactive)


def violations(space: Space, config: Mapping[str, Any]) -> list[Violation]:
    """Return everything that is wrong: unknown names, values, then constraints.

    A missing parameter takes its default; the value of an inactive one does not count.
    """
    found = [
        Violation("unknown", name, f"unknown parameter {name!r}; {near_misses(name, space.names, noun='parameter')}")
        for name in config
        if name not in space
    ]
    faulty: dict[str, Violation] = {}
    full: dict[str, Any] = {}
    for parameter in space:
        name = parameter.name
        full[name] = config.get(name, parameter.default)
        fault = parameter.fault(full[name])
        if fault is not None:
            faulty[name] = Violation(fault[0], name, f"parameter {name!r} {fault[1]}", _origin(parameter, full[name]))
            full[name] = parameter.nearest(full[name])
    active = active_names(space, full)
    found += [faulty[name] for name in active if name in faulty]
    for name in set(space.conditional).difference(active):
        full[name] = space[name].default
    for constraint in space.constraints:
        # What a wrong value makes of a constraint would only confuse.
        if not constraint.names & faulty.keys() and not constraint.holds(full):
            found.append(
                Violation("constraint", constraint.text, explained(space, constraint, full), constraint.origin)
            )
    return found


def explained(space: Space, constraint: Expression, full: Mapping[str, Any]) -> str:
    """Return a broken constraint with its numbers, in the unit of its parameters."""
    units = {parameter.unit for name in constraint.names if isinstance(parameter := space[name], Int | Float)}
    unit = next((unit for unit in ("B", "s") if unit in units), "")
    return f"constraint '{constraint.text}': {constraint.explain(full, unit=unit)}"


def _origin(parameter: Parameter, value: Any) -> Origin:
    if isinstance(parameter, Int | Float) and isinstance(value, int | float):
        return parameter.low_origin if value < parameter.low else parameter.high_origin
    return "declared"

"""The space as Optuna sees it.

A special value adds `NAME?` in {"range", "<value>", ...}, and `NAME` is absent while it is special; a
permutation is n keys `NAME#i` in [0, 1], decoded by their order; an inactive parameter is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.errors import SpaceError
from mlsysopt.core.space.encoding import code, positions
from mlsysopt.core.space.parameters import Bool, Choice, Float, Int, Parameter, Permutation
from mlsysopt.core.space.violations import active_names

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from mlsysopt.core.space.space import Space

__all__ = ["distributions_of", "from_params", "keys", "parameter_of", "to_params"]

RANGE = "range"


def keys(parameter: Parameter) -> tuple[str, ...]:
    """Return the names of Optuna's parameters for one of ours."""
    if isinstance(parameter, Permutation):
        return tuple(f"{parameter.name}#{i}" for i in range(parameter.n))
    if isinstance(parameter, Int | Float) and parameter.special:
        return (f"{parameter.name}?", parameter.name)
    return (parameter.name,)


def distributions_of(parameter: Parameter) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of one parameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    own: BaseDistribution
    match parameter:
        case Permutation():
            return {key: FloatDistribution(0.0, 1.0) for key in keys(parameter)}
        case Bool():
            own = CategoricalDistribution((False, True))
        case Choice():
            own = CategoricalDistribution(tuple(_word(parameter, choice) for choice in parameter.choices))
        case Int():
            own = IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case Float():
            own = FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    if isinstance(parameter, Int | Float) and parameter.special:
        switch = CategoricalDistribution((RANGE, *(str(value) for value in parameter.special)))
        return {f"{parameter.name}?": switch, parameter.name: own}
    return {parameter.name: own}


def to_params(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return Optuna's parameters of a configuration; what is missing takes its default."""
    full = {parameter.name: config.get(parameter.name, parameter.default) for parameter in space}
    params: dict[str, Any] = {}
    for name in active_names(space, full):
        parameter, value = space[name], full[name]
        match parameter:
            case Permutation():
                params.update(
                    zip(keys(parameter), positions(parameter, code(parameter, [value]))[0].tolist(), strict=True)
                )
            case Choice():
                params[name] = _word(parameter, parameter.choices[_place(parameter, value)])
            case Bool():
                params[name] = bool(value)
            case Int() | Float():
                plain = int(value) if isinstance(parameter, Int) else float(value)
                if parameter.special:
                    special = next((one for one in parameter.special if one == plain), None)
                    params[f"{name}?"] = RANGE if special is None else str(special)
                    if special is not None:
                        continue
                params[name] = plain
    return params


def from_params(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of Optuna's parameters: active ones only, the missing at their default."""
    full = {parameter.name: _value(parameter, params) for parameter in space}
    return {name: full[name] for name in active_names(space, full)}


def parameter_of(name: str, distribution: BaseDistribution) -> Parameter:
    """Return the parameter that has exactly this distribution.

    A range of a single value, which samplers never vary, becomes a choice of one.

    Raises:
        SpaceError: a kind of distribution that is not known.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return Choice(name, distribution.choices, default=distribution.choices[0], native=True)
    if not isinstance(distribution, IntDistribution | FloatDistribution):
        raise SpaceError(f"parameter {name!r}: {type(distribution).__name__} is no distribution that is known here")
    if distribution.low == distribution.high:
        return Choice(name, (distribution.low,), native=True)
    if isinstance(distribution, IntDistribution):
        return Int(name, distribution.low, distribution.high, log=distribution.log, step=distribution.step)
    return Float(name, distribution.low, distribution.high, log=distribution.log, step=distribution.step)


def _word(parameter: Choice, choice: Any) -> Any:
    return choice if parameter.native else str(choice)


def _place(parameter: Choice, value: Any) -> int:
    place = parameter.index(value)
    if place is None:
        raise SpaceError(f"parameter {parameter.name!r} {(parameter.fault(value) or ('', ''))[1]}")
    return place


def _value(parameter: Parameter, params: Mapping[str, Any]) -> Any:
    name = parameter.name
    match parameter:
        case Permutation():
            if not all(key in params for key in keys(parameter)):
                return parameter.default
            order = np.argsort([params[key] for key in keys(parameter)], kind="stable")
            return tuple(order.tolist())
        case Choice():
            if name not in params:
                return parameter.default
            if parameter.native:
                return parameter.choices[_place(parameter, params[name])]
            words = [str(choice) for choice in parameter.choices]
            # Another program may have enqueued the value itself rather than its text.
            word = str(params[name])
            return parameter.choices[words.index(word) if word in words else _place(parameter, params[name])]
        case Bool():
            return bool(params.get(name, parameter.default))
        case Int() | Float():
            switch = params.get(f"{name}?", RANGE)
            if parameter.special and switch != RANGE:
                return next((one for one in parameter.special if str(one) == switch), parameter.default)
            if name not in params:
                return parameter.default
            value = int(params[name]) if isinstance(parameter, Int) else float(params[name])
            # Optuna computes low + k * step in doubles; the grid has what one would write.
            return parameter.nearest(value) if parameter.step is not None and parameter.fault(value) is None else value

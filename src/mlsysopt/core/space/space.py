"""`Space`: an ordered set of parameters with conditions and arithmetic constraints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mlsysopt.core.errors import ExpressionError, SpaceError, near_misses
from mlsysopt.core.space import columns, distributions, repair, sampling, structure, violations
from mlsysopt.core.space.encoding import dims, holds_text
from mlsysopt.core.space.expressions import Array, Expression
from mlsysopt.core.space.parameters import Choice, Float, Int, Origin, Parameter, Permutation
from mlsysopt.core.space.violations import Violation
from mlsysopt.core.target import Value

if TYPE_CHECKING:
    from ConfigSpace import ConfigurationSpace
    from optuna.distributions import BaseDistribution

__all__ = ["Space"]


class Space:
    """What may be chosen. Frozen: `require`, `when`, `with_bounds` ... return a new space.

    A configuration is a mapping of names to plain Python values. A missing parameter stands for its
    default; an inactive one, whose condition does not hold, is left out, and counts with its default
    in constraints.

    Args:
        parameters: In their order; at least one.
        constraints: Conditions that every configuration must meet, the default included.
        conditions: Name -> condition under which that parameter is active at all.

    Raises:
        SpaceError: names twice, conditions in a circle, a constraint that the default breaks.
        ExpressionError: an expression that cannot be read or does not fit the parameters.

    >>> space = Space([Int("size", "1MiB", "256MiB", log=True, default="64MiB"), Int("count", 1, 8, default=2)],
    ...               constraints=["size * count <= 256MiB"])
    >>> space.violations({"size": 2**27, "count": 3})[0].text
    "constraint 'size * count <= 256MiB': size * count = 384 MiB, allowed <= 256 MiB"
    >>> space.violations(space.repair({"size": 2**27, "count": 3}))
    []
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        *,
        constraints: Iterable[str | Expression] = (),
        conditions: Mapping[str, str | Expression] | None = None,
    ) -> None:
        self._parameters = tuple(parameters)
        self._by_name = {parameter.name: parameter for parameter in self._parameters}
        self._names = tuple(parameter.name for parameter in self._parameters)
        structure.check_names(self._parameters)
        self._constraints = tuple(dict.fromkeys(self._read(one) for one in constraints))
        self._conditions = {name: self._read(one) for name, one in (conditions or {}).items()}
        for name in self._conditions:
            self[name]
        self.conditional: tuple[str, ...] = structure.ordered(self._conditions)
        """Names that have a condition, each after those that it depends on."""
        self.tied: tuple[tuple[str, ...], ...] = structure.groups(self._constraints, self._conditions, self._names)
        """Groups of names that constraints tie together, directly or through conditions."""
        self._distributions: dict[str, BaseDistribution] | None = None
        self._check_default()

    def _read(self, given: str | Expression) -> Expression:
        expression = given if isinstance(given, Expression) else Expression.parse(given)
        for name in sorted(expression.names):
            if name not in self._by_name:
                near = near_misses(name, self._names, noun="parameter")
                raise ExpressionError(f"expression {expression.text!r}: unknown parameter {name!r}; {near}")
            if isinstance(self._by_name[name], Permutation):
                raise ExpressionError(
                    f"expression {expression.text!r}: {name!r} is a permutation and has no value to compare"
                )
        if not expression.names:
            raise ExpressionError(
                f"expression {expression.text!r} mentions no parameter; "
                + near_misses("", self._names, noun="parameter")
            )
        expression.check_types(
            {one.name: one.choices for one in self._parameters if isinstance(one, Choice) and holds_text(one)}
        )
        return expression

    def _check_default(self) -> None:
        full = self.default()
        broken = [one for one in violations.violations(self, full) if one.kind == "constraint"]
        if not broken:
            return
        for one in broken:
            if not structure.can_hold(self, next(c for c in self._constraints if c.text == one.name)):
                raise SpaceError(f"no configuration meets {one.text}\nwiden the bounds of its parameters or drop it")
        raise SpaceError(f"the default breaks {broken[0].text}\nallow the default or give another one")

    # --- what it holds ---------------------------------------------------------------------------

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters, in their order."""
        return self._parameters

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in their order."""
        return self._names

    @property
    def constraints(self) -> tuple[Expression, ...]:
        """What every configuration must meet."""
        return self._constraints

    @property
    def conditions(self) -> Mapping[str, Expression]:
        """Name -> condition under which it is active."""
        return MappingProxyType(self._conditions)

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Parameter:
        try:
            return self._by_name[name]
        except KeyError:
            raise SpaceError(
                f"unknown parameter {name!r}; {near_misses(name, self._names, noun='parameter')}"
            ) from None

    def _key(self) -> tuple[Any, ...]:
        return self._parameters, self._constraints, tuple(sorted(self._conditions.items(), key=lambda item: item[0]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Space({', '.join(self._names)}; {len(self._constraints)} constraints)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._parameters, self._constraints, dict(self._conditions))

    def default(self) -> dict[str, Value]:
        """Return the default of every parameter, the inactive ones too."""
        return {parameter.name: cast(Value, parameter.default) for parameter in self._parameters}

    def size(self) -> int | None:
        """Return how many configurations there are before constraints; None where a range is continuous."""
        total = 1
        for parameter in self._parameters:
            if parameter.count is None:
                return None
            total *= parameter.count + (len(parameter.special) if isinstance(parameter, Int | Float) else 0)
        return total

    def identity(self) -> dict[str, str]:
        """Return names and types: what two studies must share. Bounds and rules may change."""
        return {parameter.name: parameter.kind for parameter in self._parameters}

    # --- other spaces ----------------------------------------------------------------------------

    def require(self, *texts: str | Expression, origin: Origin = "user") -> Space:
        """Return the space with more constraints.

        Raises:
            SpaceError: no configuration meets one, or the default breaks it, with the numbers.
        """
        added = [Expression.parse(one, origin=origin) if isinstance(one, str) else one for one in texts]
        return Space(self._parameters, constraints=(*self._constraints, *added), conditions=self._conditions)

    def when(self, name: str, condition: str | Expression) -> Space:
        """Return the space in which a parameter is active only under a condition; a bare name must be true.

        A condition that it already has must hold as well.
        """
        self[name]
        new = condition if isinstance(condition, Expression) else Expression.parse(condition)
        old = self._conditions.get(name)
        if old is not None:
            new = Expression.parse(f"({old.text}) and ({new.text})", origin=new.origin)
        return Space(self._parameters, constraints=self._constraints, conditions={**self._conditions, name: new})

    def with_bounds(
        self,
        name: str,
        low: float | str | None = None,
        high: float | str | None = None,
        *,
        origin: Origin = "user",
    ) -> Space:
        """Return the space with other bounds of one parameter.

        A default outside moves to the nearest bound; special values that come to lie inside become
        ordinary ones.
        """
        old = self[name]
        if not isinstance(old, Int | Float):
            raise SpaceError(f"parameter {name!r} is a {old.kind} and has no bounds; given low={low}, high={high}")
        new = structure.bounded(old, low, high, origin)
        return self._replaced({name: new})

    def with_defaults(self, config: Mapping[str, Value]) -> Space:
        """Return the space with other defaults.

        Raises:
            SpaceError: they are not valid.
        """
        self.check(config)
        return self._replaced({name: replace(self[name], default=cast(Any, value)) for name, value in config.items()})

    def subspace(self, names: Iterable[str]) -> Space:
        """Return the space of some parameters; in its constraints the others are at their default."""
        chosen = set(names)
        for name in sorted(chosen):
            self[name]
        return structure.subspace(self, chosen)

    def _replaced(self, new: Mapping[str, Parameter]) -> Space:
        parameters = [new.get(parameter.name, parameter) for parameter in self._parameters]
        return Space(parameters, constraints=self._constraints, conditions=self._conditions)

    # --- configurations --------------------------------------------------------------------------

    def active(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the active parameters."""
        return violations.active_names(self, {**self.default(), **config})

    def violations(self, config: Mapping[str, Any]) -> list[Violation]:
        """Return everything that is wrong with a configuration; empty when it is valid."""
        return violations.violations(self, config)

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise a SpaceError that joins the violations, if there are any."""
        found = [violation.text for violation in self.violations(config)]
        if found:
            more = [f"... and {len(found) - 2} more"] if len(found) > 3 else found[2:]
            raise SpaceError("\n".join([*found[:2], *more]))

    def sample(self, rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
        """Return n valid configurations, uniform in the unit cube given the constraints."""
        return sampling.sample(self, rng, n)

    def sobol(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Return n scrambled Sobol points of the valid space, different ones where the space has them."""
        return sampling.sobol(self, n, seed)

    def repair(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the nearest valid configuration in the unit cube.

        Deterministic and idempotent. Fills what is missing with defaults, drops what is unknown or
        inactive, and takes the default for a value of another type.
        """
        return repair.repair(self, config)

    def canonical(self, config: Mapping[str, Any]) -> str:
        """Return canonical JSON: sorted names, active parameters only, exact numbers.

        Missing parameters are written with their default, so equal behaviour is equal text.
        """
        full = {parameter.name: config.get(parameter.name, parameter.default) for parameter in self._parameters}
        for name, value in full.items():
            if isinstance(self._by_name[name], Float) and isinstance(value, int | float):
                # 1, 1.0 and -0.0 mean one and the same thing each.
                full[name] = float(value) + 0.0
        active = violations.active_names(self, full)
        return json.dumps({name: full[name] for name in active}, sort_keys=True, separators=(",", ":"), allow_nan=False)

    # --- the unit cube ---------------------------------------------------------------------------

    def dims(self) -> int:
        """Return the number of columns of the unit cube."""
        return sum(dims(parameter) for parameter in self._parameters)

    def column_names(self) -> tuple[str, ...]:
        """Return the names of the columns: `NAME`, or `NAME#i` for a permutation."""
        return tuple(
            key
            for parameter in self._parameters
            for key in (distributions.keys(parameter) if isinstance(parameter, Permutation) else (parameter.name,))
        )

    def encode(self, config: Mapping[str, Any]) -> Array:
        """Return the position of a configuration in the unit cube, shape (d,).

        Every value owns an interval and lies in its middle; a choice of n lies at (i + 0.5) / n; a
        special value lies at the end of the cube that is nearest to it; an inactive parameter at 0.5.
        """
        return self.encode_many([config])[0]

    def encode_many(self, configs: Iterable[Mapping[str, Any]]) -> Array:
        """Return the positions of configurations, shape (n, d); values outside the space count as the nearest."""
        rows = [
            {name: parameter.nearest(config[name]) for name, parameter in self._by_name.items() if name in config}
            for config in configs
        ]
        codes = columns.of_configs(self, rows)
        return columns.positions_of(self, codes, columns.active_masks(self, codes))

    def decode(self, u: Array | Sequence[float]) -> dict[str, Any]:
        """Return the configuration at a position, shape (d,): on the grid, but not repaired."""
        u = np.asarray(u, dtype=np.float64)
        if u.shape != (self.dims(),) or np.isnan(u).any():
            raise SpaceError(f"a position has {self.dims()} numbers, got shape {u.shape}: {u.tolist()}")
        return columns.configs_of(self, columns.at_positions(self, u[None, :]))[0]

    # --- JSON ------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `from_json` gives back an equal space."""
        return structure.to_json(self)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Space:
        """Read what `to_json` wrote.

        Raises:
            SpaceError: something is missing, or was written by a newer version.
        """
        return structure.from_json(obj)

    # --- other libraries -------------------------------------------------------------------------

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distributions, in the order in which they must be suggested."""
        if self._distributions is None:
            self._distributions = {
                key: one
                for parameter in self._parameters
                for key, one in distributions.distributions_of(parameter).items()
            }
        return dict(self._distributions)

    def from_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of Optuna's parameters; other keys are ignored."""
        return distributions.from_params(self, params)

    def to_params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return Optuna's parameters of a configuration; inactive ones are absent."""
        return distributions.to_params(self, config)

    @classmethod
    def from_distributions(cls, mapping: Mapping[str, BaseDistribution]) -> Space:
        """Return the space of Optuna's distributions; its configurations are Optuna's parameters."""
        return cls([distributions.parameter_of(name, one) for name, one in mapping.items()])

    def to_configspace(self) -> ConfigurationSpace:
        """Return it as a ConfigSpace; needs the extra `space`.

        Raises:
            MissingExtra: ConfigSpace is not installed.
            SpaceError: a constraint or condition that ConfigSpace cannot express.
        """
        from mlsysopt.core.space import configspace

        return configspace.to_configspace(self)

    @classmethod
    def from_configspace(cls, given: ConfigurationSpace) -> Space:
        """Read a ConfigSpace; needs the extra `space`."""
        from mlsysopt.core.space import configspace

        return configspace.from_configspace(given)


def _rebuild(
    parameters: tuple[Parameter, ...], constraints: tuple[Expression, ...], conditions: dict[str, Expression]
) -> Space:
    return Space(parameters, constraints=constraints, conditions=conditions)

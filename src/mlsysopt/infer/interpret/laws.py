"""Distributions as they stand in a model that is interpreted: with arguments, copies and order."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from mlsysopt.core.errors import UsageError
from mlsysopt.infer import language
from mlsysopt.infer.interpret.families import ALLOWED, RANK, Array, Family, Kind, families

__all__ = ["Law", "Settled", "distribution_words"]

# Before draws that are not ascending are given up.
_TRIES = 10_000


class Law:
    """A distribution with its arguments, as it stands in a model.

    Args:
        family: Which one, by its key in the table of families.
        arguments: Parameter -> value as the model gave it.
    """

    def __init__(
        self, family: str, arguments: Mapping[str, Any], *, copies: int | None = None, ascending: bool = False
    ) -> None:
        self.family = family
        self.arguments = arguments
        self.copies = copies
        self.ascending = ascending

    def __repr__(self) -> str:
        text = f"{self.family.split('/')[0]}({', '.join(f'{name}={value}' for name, value in self.arguments.items())})"
        text += "" if self.copies is None else f".rows({self.copies})"
        return text + (".ordered()" if self.ascending else "")

    def rows(self, n: Any) -> Law:
        """Independent copies."""
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise UsageError(f"rows({n!r}): the number of copies must be a whole number from 0")
        if self.copies is not None:
            raise UsageError("rows() stands once on a draw; make an array and draw its rows in a loop")
        return Law(self.family, self.arguments, copies=int(n), ascending=self.ascending)

    def ordered(self) -> Law:
        """Copies in ascending order."""
        return Law(self.family, self.arguments, copies=self.copies, ascending=True)

    def settle(self) -> Settled:
        """Check the arguments.

        Raises:
            UsageError: one that is not allowed, or not a number.
        """
        family = families()[self.family]
        columns = tuple(self._column(family, name, kind) for name, kind in family.parameters.items())
        wrong = family.together(*columns)
        if wrong:
            raise UsageError(f"{family.word}: {wrong}")
        if self.ascending and (self.copies is None or family.discrete or family.length_of):
            raise UsageError(
                f"{family.word}: ordered() puts copies of a continuous number in order; write it after .rows(n)"
            )
        return Settled(family, columns, self.copies, self.ascending)

    def _column(self, family: Family, name: str, kind: Kind) -> Array:
        value = self.arguments[name]
        column = _numbers(value, f"{family.word}: {name}")
        rank = RANK.get(kind, 0)
        shared = column.ndim == rank
        if not shared and (self.copies is None or column.ndim != rank + 1):
            wanted = ("a number", "a vector", "a matrix")[rank]
            raise UsageError(
                f"{family.word}: {name} is {wanted}, got an array of shape {column.shape}"
                + (f"; .rows({len(column)}) gives each copy its own" if column.ndim == rank + 1 else "")
            )
        if not shared and len(column) != self.copies:
            raise UsageError(
                f"{family.word}: {name} has {len(column)} rows for {self.copies} copies; give as many, or one for all"
            )
        if np.isnan(column).any():
            raise UsageError(
                f"{family.word}: {name} is not a number, got {value}: it uses a cell that was never assigned, "
                "a value that is missing, or something like the logarithm of a negative number; look at its parts"
            )
        what, allowed = ALLOWED[kind]
        if not np.all(allowed(column)):
            raise UsageError(f"{family.word}: {name} must be {what}, got {value}")
        return column


@dataclass(frozen=True, slots=True)
class Settled:
    """A distribution whose arguments are numbers that it allows.

    Attributes:
        family: Which one.
        columns: The parameters; with copies, one more leading dimension where each copy has its own.
        copies: How many, None without `.rows`.
        ascending: Whether the copies are in ascending order.
    """

    family: Family
    columns: tuple[Array, ...]
    copies: int | None
    ascending: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of a value; () for a number."""
        lead = () if self.copies is None else (self.copies,)
        if not self.family.length_of:
            return lead
        return (*lead, self.columns[list(self.family.parameters).index(self.family.length_of)].shape[-1])

    def log_density(self, x: Any) -> float:
        """Logarithm of the density at a value, with every constant.

        Of copies in ascending order it is the sum over the components, -inf where they are not ascending. The
        factor by which that density integrates to one is left out: n! for n components that are alike; where each
        has arguments of its own it depends on them, so that these should not be drawn themselves.
        """
        x = np.asarray(x, dtype=np.float64)[()]
        if self.ascending and not (np.diff(x) > 0).all():
            return -np.inf
        with np.errstate(all="ignore"):
            if self.copies is None or self.family.flat:
                return float(np.sum(self.family.log_density(x, *(one[()] for one in self.columns))))
            return float(sum(self.family.log_density(x[row], *self._of_copy(row)) for row in range(self.copies)))

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a value: int or float, or an array of `shape`."""
        if not self.ascending:
            return self._draw(rng)
        if not any(self._own()):
            return np.sort(self._draw(rng))
        for _ in range(_TRIES):
            value = self._draw(rng)
            if (np.diff(value) > 0).all():
                return value
        raise UsageError(
            f"{self.family.word}: ordered() met no ascending draw in {_TRIES} tries; "
            "give the components arguments under which that order is likely"
        )

    def _draw(self, rng: np.random.Generator) -> Any:
        draw = self.family.draw
        if draw is None:
            raise UsageError(f"{self.family.word} is improper: it cannot be drawn from; give it a value")
        try:
            with np.errstate(all="ignore"):
                if self.copies is None or self.family.flat:
                    value = draw(rng, self.copies, *(one[()] for one in self.columns))
                else:
                    value = [draw(rng, None, *self._of_copy(row)) for row in range(self.copies)]
        except ValueError as error:
            raise UsageError(f"{self.family.word}: NumPy cannot draw from it, {error}; change its arguments") from None
        typed = np.asarray(value, dtype=np.int64 if self.family.discrete else np.float64).reshape(self.shape)
        return typed if self.shape else typed.item()

    def _of_copy(self, row: int) -> tuple[Array, ...]:
        return tuple(one[row] if own else one[()] for one, own in zip(self.columns, self._own(), strict=True))

    def _own(self) -> list[bool]:
        """Of every parameter, whether each copy has its own."""
        kinds = self.family.parameters.values()
        return [one.ndim > RANK.get(kind, 0) for one, kind in zip(self.columns, kinds, strict=True)]


def _alone(*_: Any) -> NoReturn:
    raise UsageError("a draw is used in an expression; give it a name on a line of its own, and use that name")


for _operator in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Law, f"__{_operator}__", _alone)
    setattr(Law, f"__r{_operator}__", _alone)
for _operator in ("neg", "abs", "lt", "le", "gt", "ge", "bool", "float", "int", "getitem", "len"):
    setattr(Law, f"__{_operator}__", _alone)


class DistributionWord:
    """A distribution's name in a model, called with its arguments.

    Args:
        name: One of the language's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._signature = inspect.signature(getattr(language, name))

    def __call__(self, *args: Any, **named: Any) -> Law:
        try:
            bound = self._signature.bind(*args, **named)
        except TypeError as error:
            parameters = self._signature.parameters.values()
            names = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters)
            raise UsageError(f"{self._name}: {error}; it is called as {self._name}({names})") from None
        bound.apply_defaults()
        return _law(self._name, bound.arguments)

    def uniform(self, states: Any) -> Law:
        """Equal probabilities."""
        if self._name != "Categorical":
            raise UsageError(f"{self._name}.uniform: only Categorical has it")
        return _law("Categorical", {"p": np.full(_whole(states, "Categorical.uniform: states"), 1.0 / int(states))})


@functools.cache
def distribution_words() -> Mapping[str, DistributionWord]:
    """Return every distribution of the language, by its name there."""
    return {name: DistributionWord(name) for name in language.DISTRIBUTIONS}


def _law(name: str, arguments: Mapping[str, Any]) -> Law:
    if name == "Normal":
        scales = {key: arguments[key] for key in ("sd", "var", "precision") if arguments[key] is not None}
        if len(scales) != 1:
            given = ", ".join(scales) or "none"
            raise UsageError(f"Normal: give exactly one of sd (the second argument), var= and precision=, got {given}")
        key, scale = next(iter(scales.items()))
        return Law("Normal" if key == "sd" else f"Normal/{key}", {"mean": arguments["mean"], key: scale})
    if name == "TruncatedNormal":
        ends = {"low": -np.inf, "high": np.inf}
        return Law(name, {key: ends[key] if value is None else value for key, value in arguments.items()})
    if name == "Dirichlet":
        alpha, states = arguments["alpha"], arguments["states"]
        if states is None:
            return Law(name, {"alpha": alpha})
        numbers = _numbers(alpha, "Dirichlet: alpha")
        return Law(name, {"alpha": np.repeat(numbers[..., None], _whole(states, "Dirichlet: states"), axis=-1)})
    return Law(name, dict(arguments))


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise UsageError(f"{what} must be a whole number from 1, got {value!r}")
    return int(value)


def _numbers(value: Any, what: str) -> Array:
    if isinstance(value, (Law, language.Draw)):
        _alone()
    try:
        return np.asarray(value, dtype=np.float64)
    except UsageError:
        raise
    except (TypeError, ValueError):
        raise UsageError(f"{what} is not a number or an array of numbers, got {value!r}") from None

"""What a distribution is: parameters, support, and plain functions that the compiler copies into what it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Distribution", "Parameter", "Support"]

Support = Literal[
    "real",  # every number
    "positive",  # above 0
    "unit",  # between 0 and 1
    "interval",  # between two of its own parameters, see `bounds`
    "binary",  # 0 or 1
    "states",  # 0, 1 ... states - 1
    "count",  # 0, 1, 2 ...
    "vector",  # d numbers
    "simplex",  # d non-negative numbers that add up to 1
    "counts",  # d whole numbers that add up to a parameter
]
Constraint = Literal[
    "real", "positive", "nonnegative", "unit", "count", "size", "positives", "simplex", "reals", "matrix"
]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a distribution, in the order its functions take them.

    Attributes:
        name: As the density calls it.
        constraint: What it may be. "positives", "simplex" and "reals" are vectors, "matrix" is a matrix, all
            others are numbers; "count" is a whole number >= 0, "size" one >= 1.
    """

    name: str
    constraint: Constraint = "real"

    @property
    def rank(self) -> int:
        """0 for a number, 1 for a vector, 2 for a matrix."""
        return {"positives": 1, "simplex": 1, "reals": 1, "matrix": 2}.get(self.constraint, 0)


@dataclass(frozen=True, slots=True)
class Distribution:
    """One distribution in one parametrisation.

    Its functions are plain Python that numba compiles in nopython mode and that gives the same bits without it:
    module-level, of `math`, `np` arrays, other such functions and module constants only.

    Attributes:
        name: Unique; "Normal" takes a standard deviation, "NormalVariance" and "NormalPrecision" are its siblings.
        parameters: In the order the functions take them.
        support: Where it has density.
        log_density: `(x, *parameters) -> float`, with every constant; -inf outside the support, nan for parameters
            that are not allowed. A vector or matrix parameter and a vector `x` are float64 (counts: int64) arrays.
        draw: `(rng, *parameters) -> value` for a number; `(rng, out, *parameters) -> None` fills a vector. `rng`
            is a `numpy.random.Generator`. None for an improper distribution.
        gradient: `(x, *parameters) -> (d/dx, d/dparameter ...)`, numbers only; 0.0 stands where a derivative
            does not exist (whole numbers). None where there is none.
        family: Name that siblings share.
        discrete: Whether values are whole numbers.
        states: `(*parameters) -> int`: how many values 0, 1 ... there are; None if not finite.
        bounds: `(*parameters) -> (low, high)` of an "interval" support.
    """

    name: str
    parameters: tuple[Parameter, ...]
    support: Support
    log_density: Callable[..., float]
    draw: Callable[..., Any] | None
    gradient: Callable[..., tuple[float, ...]] | None = None
    family: str = ""
    discrete: bool = False
    states: Callable[..., int] | None = None
    bounds: Callable[..., tuple[float, float]] | None = None

    @property
    def event(self) -> int:
        """0 where a value is a number, 1 where it is a vector."""
        return 1 if self.support in ("vector", "simplex", "counts") else 0

    @property
    def improper(self) -> bool:
        """Whether it has no total mass, and so cannot be drawn from."""
        return self.draw is None

"""The words of the modelling language.

They stand in the source of a `@model` function, which is read, never called as it is; outside of a model they only
carry their arguments. Signatures here are the language's: the front end binds calls by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

__all__ = [
    "DISTRIBUTIONS",
    "Bernoulli",
    "BernoulliLogit",
    "Beta",
    "Binomial",
    "Categorical",
    "Cauchy",
    "Dirichlet",
    "Draw",
    "Exponential",
    "Flat",
    "Gamma",
    "Geometric",
    "HalfCauchy",
    "HalfFlat",
    "HalfNormal",
    "InverseGamma",
    "Laplace",
    "LogNormal",
    "Multinomial",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Shape",
    "StudentT",
    "TruncatedNormal",
    "Uniform",
    "array",
    "dot",
    "expm1",
    "factor",
    "observe",
    "reduce",
    "sigmoid",
]

Self = TypeVar("Self", bound="Draw")
Number = Any
Vector = Any


class Draw:
    """A distribution as it stands in a model: `x = Normal(0, 1)` draws, `observe(y, Normal(x, 1))` conditions."""

    if TYPE_CHECKING:
        # In a model the name stands for what is drawn: a number, or an array of them.
        def __new__(cls, *args: Any, **given: Any) -> Any: ...

    def rows(self: Self, n: int) -> Self:
        """n independent copies, as an array; an argument with one dimension more gives each copy its own."""
        return self

    def ordered(self: Self) -> Self:
        """Ascending: with `.rows(n)`, the copies are constrained to x[0] < x[1] < ..., which identifies mixtures."""
        return self


class Bernoulli(Draw):
    """1 with probability p, else 0."""

    def __init__(self, p: Number) -> None: ...


class BernoulliLogit(Draw):
    """1 with probability 1 / (1 + exp(-logit)), else 0."""

    def __init__(self, logit: Number) -> None: ...


class Beta(Draw):
    """Density x^(a-1) (1-x)^(b-1) / B(a, b) between 0 and 1."""

    def __init__(self, a: Number, b: Number) -> None: ...


class Binomial(Draw):
    """Successes among n trials, each with probability p."""

    def __init__(self, n: Number, p: Number) -> None: ...


class Categorical(Draw):
    """A label 0 ... K-1 with the given probabilities; `Categorical.uniform(K)` for equal ones."""

    def __init__(self, p: Vector) -> None: ...

    @staticmethod
    def uniform(states: Number) -> Draw:
        """Every label of 0 ... states-1 with the same probability."""
        return Draw()


class Cauchy(Draw):
    """Heavy tails around a location, of a scale > 0."""

    def __init__(self, location: Number, scale: Number) -> None: ...


class Dirichlet(Draw):
    """A row of probabilities: `Dirichlet(alpha)` with a vector, or `Dirichlet(0.5, K)` with K equal ones."""

    def __init__(self, alpha: Number | Vector, states: Number | None = None) -> None: ...


class Exponential(Draw):
    """Waiting time at a rate: mean 1 / rate."""

    def __init__(self, rate: Number) -> None: ...


class Flat(Draw):
    """Every number alike: improper, so it cannot be executed or verified."""

    def __init__(self) -> None: ...


class HalfFlat(Draw):
    """Every positive number alike: improper."""

    def __init__(self) -> None: ...


class Gamma(Draw):
    """Shape and rate: mean shape / rate."""

    def __init__(self, shape: Number, rate: Number) -> None: ...


class Geometric(Draw):
    """Failures before the first success: 0, 1, 2 ..."""

    def __init__(self, p: Number) -> None: ...


class HalfCauchy(Draw):
    """The positive half of a Cauchy around 0."""

    def __init__(self, scale: Number) -> None: ...


class HalfNormal(Draw):
    """The positive half of a Normal around 0; `sd` is that of the whole one."""

    def __init__(self, sd: Number) -> None: ...


class InverseGamma(Draw):
    """Shape and scale: mean scale / (shape - 1)."""

    def __init__(self, shape: Number, scale: Number) -> None: ...


class Laplace(Draw):
    """Density exp(-|x - location| / scale) / (2 scale)."""

    def __init__(self, location: Number, scale: Number) -> None: ...


class LogNormal(Draw):
    """The logarithm is Normal with this mean and standard deviation."""

    def __init__(self, mean: Number, sd: Number) -> None: ...


class Multinomial(Draw):
    """Counts per label among n draws with the given probabilities."""

    def __init__(self, n: Number, p: Vector) -> None: ...


class MultivariateNormal(Draw):
    """A vector with this mean and covariance matrix."""

    def __init__(self, mean: Vector, covariance: Any) -> None: ...


class NegativeBinomial(Draw):
    """Failures before the r-th success, each trial with probability p; r may be any number > 0."""

    def __init__(self, r: Number, p: Number) -> None: ...


class Normal(Draw):
    """A mean and exactly one of a standard deviation (the second argument), `var=` or `precision=`.

    The system that this language comes from takes a variance as its second argument; here that is `var=`.
    """

    def __init__(
        self, mean: Number, sd: Number | None = None, *, var: Number | None = None, precision: Number | None = None
    ) -> None: ...


class Poisson(Draw):
    """A count with this mean."""

    def __init__(self, rate: Number) -> None: ...


class StudentT(Draw):
    """Degrees of freedom, location and scale."""

    def __init__(self, df: Number, location: Number, scale: Number) -> None: ...


class TruncatedNormal(Draw):
    """A Normal of this mean and standard deviation, kept between `low` and `high`."""

    def __init__(self, mean: Number, sd: Number, low: Number | None = None, high: Number | None = None) -> None: ...


class Uniform(Draw):
    """Every number between low and high alike."""

    def __init__(self, low: Number, high: Number) -> None: ...


DISTRIBUTIONS: dict[str, type[Draw]] = {
    one.__name__: one
    for one in (
        Bernoulli, BernoulliLogit, Beta, Binomial, Categorical, Cauchy, Dirichlet, Exponential, Flat, HalfFlat, Gamma,
        Geometric, HalfCauchy, HalfNormal, InverseGamma, Laplace, LogNormal, Multinomial, MultivariateNormal,
        NegativeBinomial, Normal, Poisson, StudentT, TruncatedNormal, Uniform,
    )
}  # fmt: skip


class Shape:
    """Stands for an observed array that does not exist yet: a model with it can be executed, not inferred.

    Args:
        sizes: Its dimensions.

    >>> Shape(200).sizes
    (200,)
    """

    def __init__(self, *sizes: int) -> None:
        self.sizes = tuple(int(one) for one in sizes)


def array(kind: type, *sizes: Any, like: Any = None) -> Any:
    """An array of cells that the model assigns, each at most once; `like=` takes the shape of a ragged input."""
    _only_inside("array")


def observe(value: Any, distribution: Draw) -> None:
    """Condition on a value of the inputs having come from a distribution."""
    _only_inside("observe")


def factor(log_weight: Any) -> None:
    """Add a number to the log joint: an escape hatch, it makes `probability` unnormalised and `verify` impossible."""
    _only_inside("factor")


def dot(a: Vector, b: Vector) -> Any:
    """Sum of a[k] * b[k]."""
    _only_inside("dot")


def reduce(op: Callable[[Any, Any], Any] | Any, values: Sequence[Any]) -> Any:
    """Fold a slice `a[lo:hi]` by one of add, mul, min, max, and, or, given by name or from `operator`."""
    _only_inside("reduce")


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    _only_inside("sigmoid")


def expm1(x: Any) -> Any:
    """exp(x) - 1."""
    _only_inside("expm1")


def _only_inside(word: str) -> NoReturn:
    raise TypeError(f"{word}() has a meaning only in the body of a @model function")

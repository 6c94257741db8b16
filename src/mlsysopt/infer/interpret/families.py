"""The table of distributions of the interpreter: densities from SciPy, draws from NumPy.

It is written apart from the distributions that are compiled, so that each can be checked by the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ALLOWED", "RANK", "Array", "Family", "Kind", "families"]

Array: TypeAlias = "npt.NDArray[Any]"
Kind = Literal[
    "real", "bound", "positive", "nonnegative", "unit", "chance", "count", "reals", "positives", "simplex", "matrix"
]
RANK = {"reals": 1, "positives": 1, "simplex": 1, "matrix": 2}

# A draw below what a double can hold comes back as 0, where a density is 0 or infinite.
_LEAST = float(np.finfo(float).tiny)
_MOST = float(np.finfo(float).max)
_BELOW_ONE = 1.0 - float(np.finfo(float).epsneg)
# Sums of probabilities that were rounded, or read from a file with six digits.
_ADDS_UP = 1e-6


def _positive_definite(matrices: Array) -> bool:
    if not np.isfinite(matrices).all() or not np.allclose(matrices, np.swapaxes(matrices, -1, -2)):
        return False
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return True


ALLOWED: dict[Kind, tuple[str, Callable[[Array], Any]]] = {
    "real": ("a finite number", np.isfinite),
    "bound": ("a number", lambda v: ~np.isnan(v)),
    "positive": ("above 0", lambda v: (v > 0) & np.isfinite(v)),
    "nonnegative": ("at least 0", lambda v: (v >= 0) & np.isfinite(v)),
    "unit": ("between 0 and 1", lambda v: (v >= 0) & (v <= 1)),
    "chance": ("above 0 and at most 1", lambda v: (v > 0) & (v <= 1)),
    "count": ("a whole number from 0", lambda v: (v >= 0) & np.isfinite(v) & (v == np.floor(v))),
    "reals": ("finite numbers", np.isfinite),
    "positives": ("all above 0", lambda v: (v > 0) & np.isfinite(v)),
    "simplex": (
        "probabilities that add up to 1",
        lambda v: (v >= 0).all(axis=-1) & (abs(v.sum(axis=-1) - 1.0) <= _ADDS_UP),
    ),
    "matrix": ("symmetric and positive definite", _positive_definite),
}


@dataclass(frozen=True, slots=True)
class Family:
    """One distribution.

    Attributes:
        word: As the language calls it.
        parameters: Name -> what it may be, in the order its functions take them.
        log_density: `(x, *parameters)`; where all parameters are numbers, arrays of them too.
        draw: `(rng, size, *parameters)`, `size` being None or the number of copies; None for an improper one.
        discrete: Whether values are whole numbers.
        length_of: The parameter that a value is as long as; "" where a value is a number.
        together: `(*parameters)` -> what is wrong with them together, "" if nothing.
    """

    word: str
    parameters: Mapping[str, Kind]
    log_density: Callable[..., Any]
    draw: Callable[..., Any] | None
    discrete: bool = False
    length_of: str = ""
    together: Callable[..., str] = lambda *_: ""

    @property
    def flat(self) -> bool:
        """Whether its functions take arrays of values and parameters."""
        return not any(RANK.get(kind) for kind in self.parameters.values())


@functools.cache
def families() -> Mapping[str, Family]:
    """Return every distribution; Normal stands there once for each of its three parametrisations."""
    from scipy import special, stats

    def positive(draws: Any) -> Any:
        return np.clip(draws, _LEAST, _MOST)

    def inside(draws: Any) -> Any:
        return np.clip(draws, _LEAST, _BELOW_ONE)

    def log_dirichlet(x: Array, alpha: Array) -> float:
        if (x < 0).any() or abs(x.sum() - 1.0) > _ADDS_UP:
            return -np.inf
        constant = special.gammaln(alpha.sum()) - special.gammaln(alpha).sum()
        return float(constant + special.xlogy(alpha - 1.0, x).sum())

    def draw_dirichlet(rng: np.random.Generator, _: None, alpha: Array) -> Array:
        # In logarithms: a plain gamma draw of a small shape is exactly 0.
        logs = np.log(positive(rng.gamma(alpha + 1.0))) - rng.standard_exponential(len(alpha)) / alpha
        row = np.exp(logs - special.logsumexp(logs))
        row = np.maximum(row, _LEAST)
        return row / row.sum()

    def log_categorical(x: float, p: Array) -> float:
        return float(np.log(p[int(x)])) if x == int(x) and 0 <= x < len(p) else -np.inf

    def draw_categorical(rng: np.random.Generator, _: None, p: Array) -> int:
        steps = np.cumsum(p)
        last = np.flatnonzero(p)[-1]  # the product below may round up to the sum itself
        return int(min(np.searchsorted(steps, rng.random() * steps[-1], side="right"), last))

    def log_multinomial(x: Array, n: float, p: Array) -> float:
        if (x < 0).any() or (x != np.floor(x)).any() or x.sum() != n:
            return -np.inf
        return float(special.gammaln(n + 1.0) + (special.xlogy(x, p) - special.gammaln(x + 1.0)).sum())

    def log_lognormal(x: Any, mean: Any, sd: Any) -> Any:
        inside_support = np.maximum(x, _LEAST)
        logs = np.log(inside_support)
        return np.where(np.asarray(x) > 0, stats.norm.logpdf(logs, mean, sd) - logs, -np.inf)

    def draw_truncated(rng: np.random.Generator, size: int | None, mean: Any, sd: Any, low: Any, high: Any) -> Any:
        lower, upper = (low - mean) / sd, (high - mean) / sd
        draws = stats.truncnorm.rvs(lower, upper, loc=mean, scale=sd, size=size, random_state=rng)
        return np.clip(draws, low, high)

    def below(low: Array, high: Array) -> str:
        return "" if np.all(low < high) else f"low must be below high, got low={low}, high={high}"

    def same_size(mean: Array, covariance: Array) -> str:
        d = mean.shape[-1]
        return "" if covariance.shape[-1] == d else f"mean has {d} numbers, covariance {covariance.shape[-1]} columns"

    normal = Family(
        "Normal",
        {"mean": "real", "sd": "positive"},
        stats.norm.logpdf,
        lambda rng, size, mean, sd: rng.normal(mean, sd, size),
    )
    return {
        "Bernoulli": Family(
            "Bernoulli",
            {"p": "unit"},
            stats.bernoulli.logpmf,
            lambda rng, size, p: rng.binomial(1, p, size),
            discrete=True,
        ),
        "BernoulliLogit": Family(
            "BernoulliLogit",
            {"logit": "real"},
            lambda x, logit: np.where(
                (np.asarray(x) == 0) | (np.asarray(x) == 1),
                -np.logaddexp(0.0, np.where(np.asarray(x) == 1, -logit, logit)),
                -np.inf,
            ),
            lambda rng, size, logit: rng.binomial(1, special.expit(logit), size),
            discrete=True,
        ),
        "Beta": Family(
            "Beta",
            {"a": "positive", "b": "positive"},
            stats.beta.logpdf,
            lambda rng, size, a, b: inside(rng.beta(a, b, size)),
        ),
        "Binomial": Family(
            "Binomial",
            {"n": "count", "p": "unit"},
            stats.binom.logpmf,
            lambda rng, size, n, p: rng.binomial(np.asarray(n, dtype=np.int64), p, size),
            discrete=True,
        ),
        "Categorical": Family("Categorical", {"p": "simplex"}, log_categorical, draw_categorical, discrete=True),
        "Cauchy": Family(
            "Cauchy",
            {"location": "real", "scale": "positive"},
            stats.cauchy.logpdf,
            lambda rng, size, location, scale: location + scale * rng.standard_cauchy(size),
        ),
        "Dirichlet": Family("Dirichlet", {"alpha": "positives"}, log_dirichlet, draw_dirichlet, length_of="alpha"),
        "Exponential": Family(
            "Exponential",
            {"rate": "positive"},
            lambda x, rate: stats.expon.logpdf(x, scale=1.0 / rate),
            lambda rng, size, rate: positive(rng.exponential(1.0 / rate, size)),
        ),
        "Flat": Family("Flat", {}, lambda x: np.zeros(np.shape(x)), None),
        "HalfFlat": Family("HalfFlat", {}, lambda x: np.where(np.asarray(x) > 0, 0.0, -np.inf), None),
        "Gamma": Family(
            "Gamma",
            {"shape": "positive", "rate": "positive"},
            lambda x, shape, rate: stats.gamma.logpdf(x, shape, scale=1.0 / rate),
            lambda rng, size, shape, rate: positive(rng.gamma(shape, 1.0 / rate, size)),
        ),
        "Geometric": Family(
            "Geometric",
            {"p": "chance"},
            lambda x, p: stats.geom.logpmf(np.asarray(x) + 1, p),
            lambda rng, size, p: rng.geometric(p, size) - 1,
            discrete=True,
        ),
        "HalfCauchy": Family(
            "HalfCauchy",
            {"scale": "positive"},
            lambda x, scale: stats.halfcauchy.logpdf(x, scale=scale),
            lambda rng, size, scale: positive(abs(scale * rng.standard_cauchy(size))),
        ),
        "HalfNormal": Family(
            "HalfNormal",
            {"sd": "positive"},
            lambda x, sd: stats.halfnorm.logpdf(x, scale=sd),
            lambda rng, size, sd: positive(abs(rng.normal(0.0, sd, size))),
        ),
        "InverseGamma": Family(
            "InverseGamma",
            {"shape": "positive", "scale": "positive"},
            lambda x, shape, scale: stats.invgamma.logpdf(x, shape, scale=scale),
            lambda rng, size, shape, scale: positive(scale / positive(rng.gamma(shape, 1.0, size))),
        ),
        "Laplace": Family(
            "Laplace",
            {"location": "real", "scale": "positive"},
            stats.laplace.logpdf,
            lambda rng, size, location, scale: rng.laplace(location, scale, size),
        ),
        "LogNormal": Family(
            "LogNormal",
            {"mean": "real", "sd": "positive"},
            log_lognormal,
            lambda rng, size, mean, sd: positive(rng.lognormal(mean, sd, size)),
        ),
        "Multinomial": Family(
            "Multinomial",
            {"n": "count", "p": "simplex"},
            log_multinomial,
            lambda rng, _, n, p: rng.multinomial(int(n), p / p.sum()),
            discrete=True,
            length_of="p",
        ),
        "MultivariateNormal": Family(
            "MultivariateNormal",
            {"mean": "reals", "covariance": "matrix"},
            stats.multivariate_normal.logpdf,
            lambda rng, _, mean, covariance: rng.multivariate_normal(mean, covariance, method="cholesky"),
            length_of="mean",
            together=same_size,
        ),
        "NegativeBinomial": Family(
            "NegativeBinomial",
            {"r": "positive", "p": "chance"},
            stats.nbinom.logpmf,
            lambda rng, size, r, p: rng.negative_binomial(r, p, size),
            discrete=True,
        ),
        "Normal": normal,
        "Normal/var": replace(
            normal,
            parameters={"mean": "real", "var": "positive"},
            log_density=lambda x, mean, var: stats.norm.logpdf(x, mean, np.sqrt(var)),
            draw=lambda rng, size, mean, var: rng.normal(mean, np.sqrt(var), size),
        ),
        "Normal/precision": replace(
            normal,
            parameters={"mean": "real", "precision": "positive"},
            log_density=lambda x, mean, precision: stats.norm.logpdf(x, mean, 1.0 / np.sqrt(precision)),
            draw=lambda rng, size, mean, precision: rng.normal(mean, 1.0 / np.sqrt(precision), size),
        ),
        "Poisson": Family(
            "Poisson",
            {"rate": "nonnegative"},
            stats.poisson.logpmf,
            lambda rng, size, rate: rng.poisson(rate, size),
            discrete=True,
        ),
        "StudentT": Family(
            "StudentT",
            {"df": "positive", "location": "real", "scale": "positive"},
            stats.t.logpdf,
            lambda rng, size, df, location, scale: location + scale * rng.standard_t(df, size),
        ),
        "TruncatedNormal": Family(
            "TruncatedNormal",
            {"mean": "real", "sd": "positive", "low": "bound", "high": "bound"},
            lambda x, mean, sd, low, high: stats.truncnorm.logpdf(
                x, (low - mean) / sd, (high - mean) / sd, loc=mean, scale=sd
            ),
            draw_truncated,
            together=lambda mean, sd, low, high: below(low, high),
        ),
        "Uniform": Family(
            "Uniform",
            {"low": "real", "high": "real"},
            lambda x, low, high: stats.uniform.logpdf(x, low, high - low),
            lambda rng, size, low, high: rng.uniform(low, high, size),
            together=below,
        ),
    }

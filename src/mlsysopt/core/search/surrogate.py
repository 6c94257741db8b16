"""One small Gaussian process: exact, float64, fitted in milliseconds at the sizes of a tuning study.

A study has tens of trials and asks for a dozen of these models before every one of them, so the
evidence and its gradient are written out by hand (SciPy's L-BFGS-B does the rest) instead of being
recorded by an autodiff engine: a fit at n = 30, d = 10 costs about 10 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["GP", "Hyper", "evidence", "matern52", "squared_distances"]

Floats = NDArray[np.float64]

ITERATIONS = 40
LEAST_LENGTH, MOST_LENGTH = 0.025, 1e3
LEAST_FLOOR, MOST_FLOOR = 1e-4, 1.0
FLOOR = (-4.0, 1.0)
"""Location and scale of the log-normal prior on the fitted noise floor of standardised values, as in BoTorch."""
LEAST_RELEVANCE = 0.1
"""No column is thought to matter less than this, where 1 is the average: knowledge may be wrong."""
VARIANCE_SCALE = 0.5
"""Width of the log-normal prior on the signal variance around 1: the values are standardised."""
FIT_POINTS = 200
"""Hyper-parameters are fitted on at most this many points; the posterior uses all of them."""


@dataclass(frozen=True, slots=True)
class Hyper:
    """Everything of a model that is not data; in standardised units except `centre` and `scale`.

    Attributes:
        lengths: One length-scale per input column, shape (d,).
        variance: Signal variance.
        floor: Noise variance on top of the known one.
        mean: Constant mean.
        centre: Subtracted from the values.
        scale: Divides the values.
    """

    lengths: tuple[float, ...]
    variance: float = 1.0
    floor: float = 1e-2
    mean: float = 0.0
    centre: float = 0.0
    scale: float = 1.0

    @classmethod
    def prior_mode(
        cls, dims: int, relevance: Floats | None = None, *, centre: float = 0.0, scale: float = 1.0
    ) -> Hyper:
        """Return the most likely values before any data."""
        loc, spread = _length_prior(dims, relevance)
        return cls(tuple(np.exp(loc - spread**2).tolist()), centre=centre, scale=scale)

    def vector(self) -> Floats:
        """Return the fitted numbers as one vector: log lengths, log variance, log floor, mean."""
        return np.array([*np.log(self.lengths), math.log(self.variance), math.log(self.floor), self.mean])

    @classmethod
    def of_vector(cls, theta: Floats, *, centre: float = 0.0, scale: float = 1.0) -> Hyper:
        """Undo `vector`."""
        lengths = tuple(float(value) for value in np.exp(theta[:-3]))
        return cls(lengths, float(np.exp(theta[-3])), float(np.exp(theta[-2])), float(theta[-1]), centre, scale)


def _length_prior(dims: int, relevance: Floats | None = None) -> tuple[Floats, float]:
    """Return locations, shape (dims,), and scale of the log-normal prior, which grows with sqrt(dims).

    An inverse squared length is how fast a column moves the values: it is thought proportional to relevance.

    References:
        Hvarfner, Hellsten, Nardi, Vanilla Bayesian Optimization Performs Great in High Dimensions, ICML 2024.
    """
    loc = np.full(dims, math.sqrt(2.0) + 0.5 * math.log(max(1, dims)))
    if relevance is not None:
        loc -= 0.5 * np.log(np.maximum(relevance, LEAST_RELEVANCE))
    return loc, math.sqrt(3.0)


def squared_distances(a: Floats, b: Floats, categorical: NDArray[np.bool_]) -> Floats:
    """Return squared differences per column, shape (d, len(a), len(b)); 0 or 1 for categories."""
    difference = a.T[:, :, None] - b.T[:, None, :]
    squared = difference * difference
    if categorical.any():
        squared[categorical] = np.abs(difference[categorical]) > 1e-9
    return squared


def matern52(distances: Floats, lengths: Sequence[float]) -> tuple[Floats, Floats]:
    """Return the Matern-5/2 correlation and (5/3)(1 + sqrt5 r) exp(-sqrt5 r), which its derivatives share.

    Args:
        distances: Squared differences per column, shape (d, n, m).
        lengths: Length-scales, shape (d,).
    """
    d, n, m = distances.shape
    inverse = 1.0 / np.square(np.asarray(lengths))
    r2 = (inverse @ distances.reshape(d, n * m)).reshape(n, m) if d else np.zeros((n, m))
    scaled = np.sqrt(5.0 * np.maximum(r2, 0.0))
    decay = np.exp(-scaled)
    slope = (1.0 + scaled) * decay
    return slope + (5.0 / 3.0) * r2 * decay, (5.0 / 3.0) * slope


def evidence(
    theta: Floats,
    distances: Floats,
    y: Floats,
    noise: Floats,
    floor_prior: tuple[float, float] = FLOOR,
    relevance: Floats | None = None,
) -> tuple[float, Floats]:
    """Return the negative log posterior density of hyper-parameters and its gradient.

    Args:
        theta: `Hyper.vector()`, shape (d + 3,).
        distances: `squared_distances` of the inputs with themselves, shape (d, n, n).
        y: Standardised values, shape (n,).
        noise: Known noise variances in standardised units, shape (n,).
        floor_prior: Location and scale of the log-normal prior on the floor.
        relevance: How much each column is thought to matter, 1 for the average, shape (d,); None is 1 for all.
    """
    from scipy.linalg import cho_solve

    d, n, _ = distances.shape
    lengths, variance, floor, mean = np.exp(theta[:d]), math.exp(theta[d]), math.exp(theta[d + 1]), theta[d + 2]
    correlation, shared = matern52(distances, cast("Sequence[float]", lengths))
    covariance = variance * correlation
    covariance[np.diag_indices(n)] += noise + floor + 1e-8
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    inverse = np.asarray(cho_solve((factor, True), np.eye(n), check_finite=False))
    centred = y - mean
    alpha = inverse @ centred
    loss = 0.5 * float(centred @ alpha) + float(np.log(np.diag(factor)).sum())
    weights = np.outer(alpha, alpha) - inverse
    gradient = np.empty_like(theta)
    through = (weights * shared).reshape(n * n)
    gradient[:d] = -0.5 * variance * (distances.reshape(d, n * n) @ through) / lengths**2
    gradient[d] = -0.5 * variance * float((weights * correlation).sum())
    gradient[d + 1] = -0.5 * floor * float(np.trace(weights))
    gradient[d + 2] = -float(alpha.sum())

    loc, spread = _length_prior(d, relevance)
    away = (theta[:d] - loc) / spread
    loss += float((theta[:d] + 0.5 * away**2).sum())
    gradient[:d] += 1.0 + away / spread
    loss += 0.5 * (theta[d] / VARIANCE_SCALE) ** 2
    gradient[d] += theta[d] / VARIANCE_SCALE**2
    away_floor = (theta[d + 1] - floor_prior[0]) / floor_prior[1]
    loss += theta[d + 1] + 0.5 * away_floor**2
    gradient[d + 1] += 1.0 + away_floor / floor_prior[1]
    loss += 0.5 * mean**2
    gradient[d + 2] += mean
    return float(loss), gradient


def _standard(values: Floats) -> tuple[float, float]:
    centre = float(values.mean())
    spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
    # Values that do not vary have no scale of their own; 1 keeps the prior in their units.
    return centre, spread if spread > 1e-9 * max(1.0, abs(centre)) else 1.0


def _fit_hyper(
    distances: Floats,
    values: Floats,
    noise: Floats,
    floor_prior: tuple[float, float],
    relevance: Floats | None,
    start: Hyper | None,
    iterations: int,
) -> Hyper:
    from scipy.optimize import minimize

    d = distances.shape[0]
    centre, scale = _standard(values)
    first = Hyper.prior_mode(d, relevance, centre=centre, scale=scale)
    begin = start if start is not None and len(start.lengths) == d else first
    bounds = [
        *[(math.log(LEAST_LENGTH), math.log(MOST_LENGTH))] * d,
        (math.log(0.05), math.log(20.0)),
        (math.log(LEAST_FLOOR), math.log(MOST_FLOOR)),
        (-3.0, 3.0),
    ]
    found = minimize(
        evidence,
        begin.vector(),
        args=(distances, (values - centre) / scale, noise / scale**2, floor_prior, relevance),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": iterations, "ftol": 1e-7, "gtol": 1e-4},
    )
    return Hyper.of_vector(np.asarray(found.x), centre=centre, scale=scale)


@dataclass(frozen=True, slots=True)
class GP:
    """A fitted model over some columns of the unit cube. Make one with `fit` or `of`.

    Attributes:
        columns: Which columns of the inputs it looks at.
        categorical: Of those, which are categories (distance 0 or 1), shape (len(columns),).
        hyper: Length-scales, variances, mean and units.
        x: Inputs, already restricted to `columns`, shape (n, len(columns)).
        y: Standardised values, shape (n,).
        noise: Known noise variance in standardised units, shape (n,).
    """

    columns: tuple[int, ...]
    categorical: NDArray[np.bool_]
    hyper: Hyper
    x: Floats
    y: Floats
    noise: Floats
    _factor: Floats
    _alpha: Floats

    @classmethod
    def fit(
        cls,
        x: Floats,
        y: Floats,
        noise: Floats,
        *,
        columns: Sequence[int],
        categorical: NDArray[np.bool_],
        floor_prior: tuple[float, float] = FLOOR,
        relevance: Floats | None = None,
        start: Hyper | None = None,
        iterations: int = ITERATIONS,
    ) -> GP:
        """Fit hyper-parameters by their posterior mode.

        Args:
            x: Inputs in the unit cube, shape (n, all columns).
            y: Values, shape (n,).
            noise: Known noise variance of each value, shape (n,); zeros are allowed.
            columns: The columns that this model sees.
            categorical: Which of all columns are categories, shape (all columns,).
            floor_prior: What is thought of the noise beyond the known one, in units of the values' variance.
            relevance: How much each of `columns` is thought to matter, 1 for the average; None is 1 for all.
            start: Hyper-parameters to start from; None starts at the prior's mode.
            iterations: Most L-BFGS iterations.

        References:
            Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, section 5.4.1.

        >>> x = np.linspace(0, 1, 8)[:, None]
        >>> gp = GP.fit(x, np.sin(6 * x[:, 0]), np.zeros(8), columns=[0], categorical=np.array([False]))
        >>> mean, variance = gp.posterior(np.array([[0.3]]))
        >>> bool(abs(mean[0] - np.sin(1.8)) < 0.05 and variance[0] < 0.01)
        True
        """
        chosen = list(columns)
        kinds = categorical[chosen]
        picked = _spread_over(len(x), FIT_POINTS)
        inputs = x[picked][:, chosen]
        if len(picked) < 3:
            centre, scale = _standard(y)
            hyper = Hyper.prior_mode(len(chosen), relevance, centre=centre, scale=scale)
        else:
            distances = squared_distances(inputs, inputs, kinds)
            hyper = _fit_hyper(distances, y[picked], noise[picked], floor_prior, relevance, start, iterations)
        return cls.of(hyper, x, y, noise, columns=columns, categorical=categorical)

    @classmethod
    def of(
        cls,
        hyper: Hyper,
        x: Floats,
        y: Floats,
        noise: Floats,
        *,
        columns: Sequence[int],
        categorical: NDArray[np.bool_],
    ) -> GP:
        """Condition fixed hyper-parameters on data; arguments as in `fit`."""
        chosen = tuple(int(column) for column in columns)
        kinds = categorical[list(chosen)]
        inputs = np.ascontiguousarray(x[:, list(chosen)])
        values = (y - hyper.centre) / hyper.scale
        known = noise / hyper.scale**2
        correlation, _ = matern52(squared_distances(inputs, inputs, kinds), hyper.lengths)
        covariance = hyper.variance * correlation
        covariance[np.diag_indices(len(inputs))] += known + hyper.floor + 1e-8
        factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        return cls(chosen, kinds, hyper, inputs, values, known, factor, _solve(factor, values - hyper.mean))

    def __len__(self) -> int:
        return len(self.x)

    def posterior(self, x: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance of the noise-free value, each of shape (m,).

        Args:
            x: Inputs in the unit cube, all columns, shape (m, all columns).
        """
        from scipy.linalg import solve_triangular

        hyper = self.hyper
        cross = hyper.variance * self._correlation(x)
        mean = hyper.mean + cross @ self._alpha
        white = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = np.maximum(hyper.variance - np.einsum("ij,ij->j", white, white), 1e-10)
        return hyper.centre + hyper.scale * mean, hyper.scale**2 * variance

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """Return mean and variance of each *observed* value given all others, hyper-parameters fixed.

        References:
            Rasmussen, Williams, 2006, equation 5.12.
        """
        inverse = _inverse_diagonal(self._factor)
        mean = self.y - self._alpha / inverse
        return self.hyper.centre + self.hyper.scale * mean, self.hyper.scale**2 / inverse

    def condition(self, x: Floats, y: Floats, noise: Floats) -> GP:
        """Add data without touching hyper-parameters: the factor grows by a block, O(n^2) per point.

        Args:
            x: New inputs, all columns, shape (m, all columns).
            y: New values, shape (m,).
            noise: Their known noise variances, shape (m,).
        """
        from scipy.linalg import solve_triangular

        if not len(x):
            return self
        hyper = self.hyper
        inputs = x[:, list(self.columns)]
        known = noise / hyper.scale**2
        cross = hyper.variance * self._correlation(x)
        own, _ = matern52(squared_distances(inputs, inputs, self.categorical), hyper.lengths)
        block = hyper.variance * own
        block[np.diag_indices(len(inputs))] += known + hyper.floor + 1e-8
        lower = solve_triangular(self._factor, cross.T, lower=True, check_finite=False).T
        n, m = len(self.x), len(inputs)
        factor = np.zeros((n + m, n + m))
        factor[:n, :n], factor[n:, :n] = self._factor, lower
        factor[n:, n:] = np.linalg.cholesky(block - lower @ lower.T)
        values = np.concatenate([self.y, (y - hyper.centre) / hyper.scale])
        return replace(
            self,
            x=np.vstack([self.x, inputs]),
            y=values,
            noise=np.concatenate([self.noise, known]),
            _factor=factor,
            _alpha=_solve(factor, values - hyper.mean),
        )

    def believe(self, x: Floats) -> GP:
        """Condition on points whose values are still unknown, at their posterior mean.

        The mean surface stays where it is; the variance around those points shrinks, so that a
        second worker looks elsewhere.
        """
        if not len(x):
            return self
        mean, _ = self.posterior(x)
        return self.condition(x, mean, np.zeros(len(x)))

    def _correlation(self, x: Floats) -> Floats:
        distances = squared_distances(x[:, list(self.columns)], self.x, self.categorical)
        return matern52(distances, self.hyper.lengths)[0]


def _spread_over(n: int, most: int) -> NDArray[np.intp]:
    """Return at most `most` indices spread evenly over 0 .. n - 1, the newest always among them."""
    if n <= most:
        return np.arange(n)
    return np.unique(np.round(np.linspace(0, n - 1, most)).astype(np.intp))


def _solve(factor: Floats, right: Floats) -> Floats:
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve((factor, True), right, check_finite=False))


def _inverse_diagonal(factor: Floats) -> Floats:
    from scipy.linalg import solve_triangular

    inverse = solve_triangular(factor, np.eye(len(factor)), lower=True, check_finite=False)
    return np.einsum("ij,ij->j", inverse, inverse)

"""From sub-goals to the objective: a sum of mean times, or a ridge regression, whichever predicts better.

Everything is in logarithms of ratios to the default, improvements positive: `y = ln(gain)` and
`z_j = ln(m_j / default_j)`. Both aggregators turn independent normal beliefs about the z_j into a
normal belief about y in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Aggregator", "Choice", "Formula", "Ridge", "choose"]

Floats = NDArray[np.float64]

FORMULA_RANGE = 6.0
"""A sum of times means something only for logarithms of ratios; e^6 = 400x is beyond any of those."""
LAMBDAS = tuple(float(10.0**power) for power in np.linspace(-3.0, 3.0, 25))
FOLDS = 60
"""Up to this many trials the formula is left out one by one, beyond that in as many folds."""


class Aggregator(Protocol):
    """Maps sub-goals to the objective."""

    @property
    def name(self) -> Literal["formula", "ridge"]: ...

    def combine(self, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance of y, each (m,), from those of the sub-goals, each (m, k)."""
        ...

    def weights(self) -> Floats:
        """Return dy/dz_j at the default, shape (k,)."""
        ...


@dataclass(frozen=True, slots=True)
class Formula:
    """`y = const - ln(w_0 + sum_j w_j exp(z_j))`: the mean time of an operation is a sum over its kinds.

    Attributes:
        shares: w_j, each kind's share of the default's time, shape (k,); zero for sub-goals that are no times.
        rest: w_0, time that no sub-goal accounts for.
        const: Offset of the fit, near 0.

    >>> rule = Formula(np.array([0.8, 0.2]), 0.0, 0.0)
    >>> mean, variance = rule.combine(np.log([[0.5, 1.0]]), np.zeros((1, 2)))
    >>> round(float(np.exp(mean[0])), 4), float(variance[0])
    (1.6667, 0.0)
    """

    shares: Floats
    rest: float
    const: float
    name: Literal["formula", "ridge"] = "formula"

    def combine(self, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
        # Beliefs far outside the data would overflow exp; nothing beyond e^30 changes a decision.
        level = np.exp(np.clip(mean + 0.5 * variance, -30.0, 30.0))
        expected = self.rest + level @ self.shares
        spread = (np.expm1(np.clip(variance, 0.0, 30.0)) * level**2) @ self.shares**2
        log_variance = np.log1p(spread / expected**2)
        return self.const - (np.log(expected) - 0.5 * log_variance), log_variance

    def weights(self) -> Floats:
        return -self.shares / (self.rest + self.shares.sum())

    def at(self, z: Floats) -> Floats:
        """Return y of exactly known sub-goals, shape (n,)."""
        return self.combine(z, np.zeros_like(z))[0]

    @classmethod
    def fit(cls, z: Floats, y: Floats, times: Sequence[int], shares: Floats | None) -> Formula:
        """Fit shares by non-negative least squares in relative error, or take those given.

        Args:
            z: Sub-goals, shape (n, k).
            y: Objective, shape (n,).
            times: Columns of z that are mean times.
            shares: Known shares of all k columns; None fits them.
        """
        from scipy.optimize import nnls

        k = z.shape[1]
        if shares is not None:
            rule = cls(shares, max(0.0, 1.0 - float(shares.sum())), 0.0)
        else:
            design = np.column_stack([np.ones(len(z)), np.exp(z[:, list(times)])])
            # Dividing both sides by exp(-y) makes the error relative, which is what counts in logarithms.
            found, _ = nnls(design * np.exp(y)[:, None], np.ones(len(y)))
            full = np.zeros(k)
            full[list(times)] = found[1:]
            rule = cls(full, float(found[0]), 0.0)
            if rule.rest + rule.shares.sum() <= 0:
                rule = cls(full, 1.0, 0.0)
        return cls(rule.shares, rule.rest, float(np.mean(y - rule.at(z))))


@dataclass(frozen=True, slots=True)
class Ridge:
    """`y = w_0 + w . z`, Bayesian: the weights keep their covariance.

    Attributes:
        coefficients: w in units of z, shape (k,).
        intercept: w_0.
        covariance: Covariance of (w_0, w), shape (k + 1, k + 1).
    """

    coefficients: Floats
    intercept: float
    covariance: Floats
    name: Literal["formula", "ridge"] = "ridge"

    def combine(self, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
        design = np.column_stack([np.ones(len(mean)), mean])
        doubt = np.einsum("ij,jk,ik->i", design, self.covariance, design)
        return self.intercept + mean @ self.coefficients, variance @ self.coefficients**2 + doubt

    def weights(self) -> Floats:
        return self.coefficients

    @classmethod
    def fit(cls, z: Floats, y: Floats) -> tuple[Ridge, Floats]:
        """Fit with lambda chosen by leave-one-out; return the model and its leave-one-out residuals."""
        centre, scale = z.mean(axis=0), z.std(axis=0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        standard = (z - centre) / scale
        middle = float(y.mean())
        left, singular, right = np.linalg.svd(standard, full_matrices=False)
        projected = left.T @ (y - middle)
        best: tuple[float, float, Floats] | None = None
        for strength in LAMBDAS:
            shrink = singular**2 / (singular**2 + strength)
            leverage = np.einsum("ij,j,ij->i", left, shrink, left) + 1.0 / len(y)
            residuals = (y - middle - left @ (shrink * projected)) / np.maximum(1.0 - leverage, 1e-6)
            error = float(np.mean(residuals**2))
            if best is None or error < best[0]:
                best = (error, strength, residuals)
        assert best is not None
        error, strength, residuals = best
        gram = right.T @ np.diag(1.0 / (singular**2 + strength)) @ right
        if len(singular) < z.shape[1]:
            # Directions that no trial has visited keep their prior variance.
            gram += (np.eye(z.shape[1]) - right.T @ right) / strength
        coefficients = (right.T @ (singular / (singular**2 + strength) * projected)) / scale
        shift = np.vstack([-(centre / scale)[None, :], np.diag(1.0 / scale)])
        covariance = error * (shift @ gram @ shift.T)
        covariance[0, 0] += error / len(y)
        return cls(coefficients, middle - float(centre @ coefficients), covariance), residuals


@dataclass(frozen=True, slots=True)
class Choice:
    """The better aggregator of two.

    Attributes:
        rule: The aggregator.
        residuals: Leave-one-out residuals `y - rule(observed z)`, shape (n,).
        explained: Share of Var(y) that the rule explains out of sample.
        densities: Mean leave-one-out log density of each candidate.
    """

    rule: Formula | Ridge
    residuals: Floats
    explained: float
    densities: Mapping[str, float]


def choose(
    z: Floats,
    y: Floats,
    *,
    times: Sequence[int] = (),
    shares: Floats | None = None,
) -> Choice:
    """Fit both aggregators and keep the one with the larger leave-one-out log density.

    Args:
        z: Observed sub-goals, shape (n, k), n >= 3.
        y: Observed objective, shape (n,).
        times: Columns of z that are *mean* times of kinds of operations (percentiles do not add up);
            empty rules the formula out.
        shares: Known shares of the default's time, shape (k,); None fits them.

    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(20, 2))
    >>> y = -np.log(0.7 * np.exp(z[:, 0]) + 0.3 * np.exp(z[:, 1]))
    >>> choose(z, y, times=[0, 1]).rule.name
    'formula'
    """
    ridge, ridge_residuals = Ridge.fit(z, y)
    candidates: dict[str, tuple[Formula | Ridge, Floats]] = {"ridge": (ridge, ridge_residuals)}
    if len(times) and float(np.abs(y).max()) < FORMULA_RANGE and float(np.abs(z[:, list(times)]).max()) < FORMULA_RANGE:
        rule = Formula.fit(z, y, times, shares)
        candidates["formula"] = (rule, _formula_residuals(z, y, times, shares))
    densities = {name: _density(residuals) for name, (_, residuals) in candidates.items()}
    best = max(candidates, key=lambda name: densities[name])
    rule, residuals = candidates[best]
    total = float(np.sum((y - y.mean()) ** 2)) * (len(y) / max(1, len(y) - 1)) ** 2
    explained = 1.0 - float(np.sum(residuals**2)) / total if total > 0 else 0.0
    return Choice(rule, residuals, explained, densities)


def _formula_residuals(z: Floats, y: Floats, times: Sequence[int], shares: Floats | None) -> Floats:
    residuals = np.empty(len(y))
    folds = np.arange(len(y)) % FOLDS
    for fold in np.unique(folds):
        out = folds == fold
        residuals[out] = y[out] - Formula.fit(z[~out], y[~out], times, shares).at(z[out])
    return residuals


def _density(residuals: Floats) -> float:
    """Return the mean log density of residuals under the normal that fits the *other* ones best."""
    squares = residuals**2
    others = np.maximum((squares.sum() - squares) / max(1, len(squares) - 1), 1e-12)
    return float(np.mean(-0.5 * np.log(2.0 * np.pi * others) - 0.5 * squares / others))

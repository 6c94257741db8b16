"""How promising a configuration is, and where the most promising one lies.

`LogEI(x) + min over guards of ln P(guard met at x) + ln p(valid at x)`, all in closed form.

Under guards improvement counts from the best gain plus two standard deviations of one measurement: less
cannot be told from luck, and a sure step too small to be told would win over every place where much may be
gained. A trial that breaks a guard still tells what is gained there; one that fails tells nothing, so failures
alone do not raise the bar.
That all guards are met is at most as likely as that the least likely one is, and for guards that break
together it is just that likely. The product instead grows smaller with every guard that is added: a search
that goes by it stays where nothing is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.search.surrogate import GP, squared_distances
from mlsysopt.core.space.columns import configs_of, valid_at

if TYPE_CHECKING:
    from mlsysopt.core.search.model import Model
    from mlsysopt.core.space import Space

__all__ = ["Acquisition", "log_expected_improvement", "log_met", "nearest_validity", "propose"]

Floats = NDArray[np.float64]

CANDIDATES, BEST, PERTURBATIONS, RESTARTS = 1024, 5, 32, 4
STEPS = (0.02, 0.08, 0.25)
"""Widths of the perturbations of the best points, in the unit cube: tuned values, near ones, neighbours."""
CLIMB_ITERATIONS = 20
DIFFERENCE = 1e-5
NEIGHBOURS, PRIOR_NEIGHBOURS = 5, 0.25
MARGIN = 2.0
"""Standard deviations of one measurement by which a gain has to exceed the best one to count, under guards."""


def log_expected_improvement(mean: Floats, variance: Floats, best: float) -> Floats:
    """Return ln E[max(f - best, 0)] for normal f, accurate where the improvement is 1e-100.

    References:
        Ament, Daulton, Eriksson, Balandat, Bakshy, Unexpected Improvements to Expected Improvement
        for Bayesian Optimization, NeurIPS 2023, equation 9.

    >>> log_expected_improvement(np.array([0.0]), np.array([1.0]), 0.0).round(4).tolist()
    [-0.9189]
    """
    from scipy.special import erfcx, log_ndtr

    deviation = np.sqrt(variance)
    u = (mean - best) / deviation
    log_density = -0.5 * u * u - 0.5 * np.log(2.0 * np.pi)
    near = np.maximum(u, -1.0)
    direct = np.log(np.exp(-0.5 * near * near) / np.sqrt(2.0 * np.pi) + near * np.exp(log_ndtr(near)))
    far = np.minimum(u, -1.0)
    # |u| Phi(u) / phi(u), which tends to 1 - 1/u^2: beyond 1e5 the difference has no digits left.
    ratio = np.sqrt(np.pi / 2.0) * erfcx(-far / np.sqrt(2.0)) * -far
    tail = np.where(far < -1e5, -2.0 * np.log(-far), np.log1p(-np.minimum(ratio, 1.0 - 1e-16)))
    return np.log(deviation) + np.where(u > -1.0, direct, log_density + tail)


def log_met(mean: Floats, variance: Floats) -> Floats:
    """Return ln P(g <= 0) for a normal violation g."""
    from scipy.special import log_ndtr

    return np.asarray(log_ndtr(-mean / np.sqrt(variance)))


def nearest_validity(
    x: Floats, worked: NDArray[np.bool_], categorical: NDArray[np.bool_]
) -> Callable[[Floats], Floats]:
    """Return an estimate of p(valid) from the five nearest finished trials, nearer ones counting more.

    Near is measured by what separates failures from successes: each column is scaled by the length that a
    process fitted to the outcomes finds for it. The share of all trials that worked is mixed in with the weight
    of a fraction of a neighbour, so that no place is ever thought impossible.

    Args:
        x: Finished configurations, shape (n, d).
        worked: Which of them worked, shape (n,).
        categorical: Which columns are categories, shape (d,).
    """
    if worked.all() or not len(x):
        return lambda at: np.ones(len(at))
    overall = float(worked.mean())
    outcome = GP.fit(x, worked.astype(np.float64), np.zeros(len(x)), columns=range(x.shape[1]), categorical=categorical)
    relevance = 1.0 / np.square(outcome.hyper.lengths)

    def estimate(at: Floats) -> Floats:
        d2 = np.tensordot(relevance, squared_distances(at, x, categorical), axes=1)
        k = min(NEIGHBOURS, len(x))
        near = np.argpartition(d2, k - 1, axis=1)[:, :k]
        distances = np.take_along_axis(d2, near, axis=1)
        # In units of the farthest of the five: a failure right here outweighs four successes far away.
        relative = distances / np.maximum(distances.max(axis=1, keepdims=True), 1e-12)
        weights = 1.0 / (relative + 0.05)
        mixed = PRIOR_NEIGHBOURS * weights.mean(axis=1)
        return ((weights * worked[near]).sum(axis=1) + overall * mixed) / (weights.sum(axis=1) + mixed)

    return estimate


@dataclass(frozen=True, slots=True)
class Acquisition:
    """The function that is maximised.

    Attributes:
        model: Belief about gain and guards.
        validity: p(valid) at inputs (m, d).
    """

    model: Model
    validity: Callable[[Floats], Floats]

    def smooth(self, x: Floats) -> Floats:
        """Return the part that can be climbed, shape (m,): improvement and guards."""
        total = np.zeros(len(x))
        if self.model.best is not None:
            mean, variance = self.model.predict(x)
            margin = MARGIN * self.model.noise if self.model.guards else 0.0
            total += log_expected_improvement(mean, variance, self.model.best + margin)
        if self.model.guards:
            total += np.min([log_met(*guard.posterior(x)) for guard in self.model.guards.values()], axis=0)
        return total

    def __call__(self, x: Floats) -> Floats:
        """Return the whole, shape (m,)."""
        return self.smooth(x) + np.log(self.validity(x))


def propose(
    acquisition: Acquisition,
    space: Space,
    best: Sequence[Floats],
    *,
    categorical: NDArray[np.bool_],
    seen: frozenset[str],
    seed: int,
) -> dict[str, Any] | None:
    """Return the configuration with the largest acquisition that was not tried yet.

    Candidates are Sobol points of the valid space and perturbations of the best trials; the best of
    them are climbed on the continuous relaxation, rounded and repaired.

    Args:
        acquisition: What to maximise.
        space: What is allowed.
        best: Encoded best trials, the best first; the first five are used.
        categorical: Columns that are categories: perturbed by redrawing, never climbed.
        seen: Canonical forms of what was tried.
        seed: Seeds the candidates.

    Returns:
        None when every candidate was tried already.
    """
    rng = np.random.default_rng(seed)
    configs = list(space.sobol(CANDIDATES, int(rng.integers(2**31))))
    for point in list(best)[:BEST]:
        configs += _neighbours(space, point, categorical, rng)
    fresh: dict[str, dict[str, Any]] = {}
    for config in configs:
        key = space.canonical(config)
        if key not in seen:
            fresh.setdefault(key, config)
    if not fresh:
        return None
    found = list(fresh.values())
    x = np.asarray(space.encode_many(found), dtype=np.float64)
    values = acquisition(x)
    order = np.argsort(-values, kind="stable")
    climbed = _climb(acquisition, x[order[:RESTARTS]], categorical)
    better = [space.repair(space.decode(u)) for u in climbed]
    better = [config for config in better if space.canonical(config) not in seen]
    if better:
        heights = acquisition(np.asarray(space.encode_many(better), dtype=np.float64))
        top = int(np.argmax(heights))
        if heights[top] > values[order[0]]:
            return better[top]
    return found[int(order[0])]


def _neighbours(
    space: Space, point: Floats, categorical: NDArray[np.bool_], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Return up to 32 valid neighbours; drawing four times as many is cheaper than repairing."""
    perturbed = _perturbed(point, 4 * PERTURBATIONS, categorical, rng)
    return configs_of(space, *valid_at(space, perturbed, PERTURBATIONS))


def _perturbed(point: Floats, n: int, categorical: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Return n neighbours: each moves about a third of the columns, by one of three widths."""
    d = len(point)
    widths = np.asarray(STEPS)[np.arange(n) % len(STEPS)][:, None]
    moved = rng.random((n, d)) < max(1.0 / 3.0, 1.0 / d)
    moved[np.arange(n), rng.integers(d, size=n)] = True
    near = np.clip(point + widths * rng.standard_normal((n, d)), 0.0, 1.0)
    near[:, categorical] = rng.random((n, int(categorical.sum())))
    return np.where(moved, near, point)


def _climb(acquisition: Acquisition, starts: Floats, categorical: NDArray[np.bool_]) -> Floats:
    """Climb from all starts together; categories stay where they are.

    Gradients are central differences, taken in one batch: 2 d + 1 posteriors at once cost about
    what one costs.
    """
    from scipy.optimize import minimize

    free = np.flatnonzero(~categorical)
    if not len(free):
        return starts
    count, width = len(starts), len(free)
    offsets = np.zeros((2 * width, starts.shape[1]))
    offsets[np.arange(width), free] = DIFFERENCE
    offsets[width + np.arange(width), free] = -DIFFERENCE

    def loss(flat: Floats) -> tuple[float, Floats]:
        at = starts.copy()
        at[:, free] = flat.reshape(count, width)
        batch = np.concatenate([at, (at[:, None, :] + offsets).reshape(-1, starts.shape[1])])
        values = acquisition.smooth(batch)
        around = values[count:].reshape(count, 2, width)
        slope = (around[:, 0] - around[:, 1]) / (2.0 * DIFFERENCE)
        return -float(values[:count].sum()), -slope.reshape(-1)

    found = minimize(
        loss,
        starts[:, free].reshape(-1),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * (count * width),
        options={"maxiter": CLIMB_ITERATIONS},
    )
    at = starts.copy()
    at[:, free] = np.asarray(found.x).reshape(count, width)
    return at

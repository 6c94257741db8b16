"""The structured model: sub-goals, their sum, and what the sum misses.

y(x) = aggregator(z_1(x on S_1), ..., z_k(x on S_k)) + residual(x on all knobs)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.search.aggregate import Choice, choose
from mlsysopt.core.search.history import History
from mlsysopt.core.search.subgoals import Subgoal
from mlsysopt.core.search.surrogate import GP

__all__ = ["LEAST_EXPLAINED", "Model", "Settings", "fit", "judged"]

Floats = NDArray[np.float64]

FLOOR = (math.log(0.05), 1.5)
"""Prior on the noise beyond what repeats of the default showed: runs of other configurations vary more."""
RESIDUAL_FLOOR = (math.log(0.5), 1.0)
"""What sub-goals leave unexplained is mostly noise, until the trials say otherwise."""
LEAST_EXPLAINED = 0.1
"""Below this share of Var(y), out of sample, the sub-goals are noise and one plain model is better."""
REFIT_ALWAYS, REFIT_EVERY = 60, 5
"""Hyper-parameters are fitted anew at every trial while that costs milliseconds, then at every fifth."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the fit needs to know beside the trials.

    Attributes:
        categorical: Which columns are categories, shape (d,).
        columns_of: Columns of each knob.
        times: Metrics that are mean times of kinds of operations.
        shares: Known shares of the default's time by metric; None fits them.
        residual: Whether a residual model is added; False is an ablation.
        decompose: Whether sub-goals are used at all; False is an ablation.
        strict: Whether a sub-goal sees nothing but its knobs; otherwise it sees all, and its weights say
            which of them are thought to matter.
    """

    categorical: NDArray[np.bool_]
    columns_of: Mapping[str, tuple[int, ...]]
    times: frozenset[str] = frozenset()
    shares: Mapping[str, float] | None = None
    residual: bool = True
    decompose: bool = True
    strict: bool = False

    def sight(self, subgoal: Subgoal | None) -> tuple[list[int], Floats | None]:
        """Return the columns that a model of a sub-goal looks at, and how much each is thought to matter."""
        knobs = subgoal.knobs if subgoal is not None and self.strict else tuple(self.columns_of)
        columns = [column for knob in knobs for column in self.columns_of[knob]]
        if subgoal is None or self.strict:
            return columns, None
        average = 1.0 / len(knobs)
        return columns, np.array([subgoal.weights[knob] / average for knob in knobs for _ in self.columns_of[knob]])


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted belief about the objective and the guards.

    Attributes:
        subgoals: Sub-goals in use, empty for a plain model.
        parts: Their models.
        choice: The aggregator, None for a plain model.
        rest: Model of the residual (or of the objective itself, for a plain model); None is an ablation.
        guards: One model per guard.
        explained: Share of Var(y) that the aggregator explains out of sample; None when it was not tried.
        best: Largest posterior mean among evaluated feasible points; None while there is none.
        noise: Standard deviation of one measured gain, as repeats showed it; 0 where nobody knows.
    """

    subgoals: tuple[Subgoal, ...]
    parts: tuple[GP, ...]
    choice: Choice | None
    rest: GP | None
    guards: Mapping[str, GP]
    explained: float | None
    best: float | None = None
    noise: float = 0.0

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance of the noise-free gain, each of shape (m,), for inputs (m, d)."""
        mean, variance = self.sum(x)
        if self.rest is not None:
            more, spread = self.rest.posterior(x)
            mean, variance = mean + more, variance + spread
        return mean, np.maximum(variance, 1e-12)

    def sum(self, x: Floats) -> tuple[Floats, Floats]:
        """Return what the sub-goals alone predict; zeros for a plain model."""
        if self.choice is None:
            return np.zeros(len(x)), np.zeros(len(x))
        beliefs = [part.posterior(x) for part in self.parts]
        means = np.column_stack([mean for mean, _ in beliefs])
        variances = np.column_stack([variance for _, variance in beliefs])
        return self.choice.rule.combine(means, variances)

    def expect(self, x: Floats) -> Model:
        """Return this belief with pending points taken at their posterior mean."""
        if not len(x):
            return self
        return replace(
            self,
            parts=tuple(part.believe(x) for part in self.parts),
            rest=self.rest.believe(x) if self.rest is not None else None,
            guards={name: guard.believe(x) for name, guard in self.guards.items()},
        )


def fit(history: History, subgoals: Sequence[Subgoal], settings: Settings, guards: Sequence[Subgoal] = ()) -> Model:
    """Fit everything to the valid trials.

    Args:
        history: At least one valid trial.
        subgoals: The map; sub-goals without observations are left out.
        settings: Columns, kinds, ablations.
        guards: The knobs behind guards that are no sub-goals; a guard without a map sees all knobs.
    """
    used = tuple(subgoal for subgoal in subgoals if subgoal.metric in history.metrics)
    choice: Choice | None = None
    explained: float | None = None
    if used and settings.decompose and len(history) >= 4:
        z = np.column_stack([history.metrics[subgoal.metric] for subgoal in used])
        times = [i for i, subgoal in enumerate(used) if subgoal.metric in settings.times]
        found = choose(z, history.gain, times=times, shares=_shares(used, settings))
        explained = found.explained
        if explained >= LEAST_EXPLAINED:
            choice = found
    parts: tuple[GP, ...] = ()
    rest: GP | None
    if choice is None:
        used = ()
        rest = _gp(history, history.gain, history.gain_noise, None, settings)
    else:
        parts = tuple(
            _gp(history, history.metrics[subgoal.metric], history.noise.get(subgoal.metric), subgoal, settings)
            for subgoal in used
        )
        rest = _gp(history, choice.residuals, None, None, settings, RESIDUAL_FLOOR) if settings.residual else None
    limits = {
        name: _gp(history, excess, history.noise.get(name), _own(name, (*subgoals, *guards)), settings)
        for name, excess in history.guards.items()
    }
    model = Model(used, parts, choice, rest, limits, explained)
    late = history.failed[history.timeouts]
    if len(late) and rest is not None:
        # It ran too long to be any good: one observation at the worst gain seen.
        base, _ = model.sum(late)
        model = replace(model, rest=rest.condition(late, history.gain.min() - base, np.zeros(len(late))))
    return judged(model, history)


def judged(model: Model, history: History) -> Model:
    """Return a model with `best` and `noise` of the trials it was fitted to."""
    met = history.feasible
    best = float(model.predict(history.x[met])[0].max()) if met.any() else None
    return replace(model, best=best, noise=math.sqrt(history.gain_noise.mean()))


def _gp(
    history: History,
    values: Floats,
    noise: Floats | None,
    subgoal: Subgoal | None,
    settings: Settings,
    floor_prior: tuple[float, float] | None = None,
) -> GP:
    """Fit on the first trials up to the last refit, then add the newer ones."""
    known = noise if noise is not None else np.zeros(len(values))
    n = len(values)
    columns, relevance = settings.sight(subgoal)
    prefix = n if n <= REFIT_ALWAYS else n - n % REFIT_EVERY
    gp = GP.fit(
        history.x[:prefix],
        values[:prefix],
        known[:prefix],
        columns=columns,
        categorical=settings.categorical,
        floor_prior=floor_prior or FLOOR,
        relevance=relevance,
    )
    return gp.condition(history.x[prefix:], values[prefix:], known[prefix:])


def _shares(used: Sequence[Subgoal], settings: Settings) -> Floats | None:
    if settings.shares is None:
        return None
    return np.array([float(settings.shares.get(subgoal.metric, 0.0)) for subgoal in used])


def _own(guard: str, subgoals: Sequence[Subgoal]) -> Subgoal | None:
    """Return the sub-goal that is the guarded metric itself, where the map has one."""
    return next((subgoal for subgoal in subgoals if guard in (subgoal.metric, *subgoal.absorbed)), None)

"""What a sampler without a model needs of a study: each trial read once, the budget spent, starting points."""

from __future__ import annotations

import math
import statistics
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import TrialState

from mlsysopt.core.errors import SpaceError, UsageError
from mlsysopt.core.search.history import UNBLAMED
from mlsysopt.core.search.whole import WholeSampler
from mlsysopt.core.seeds import integer_seed, stream
from mlsysopt.core.space import Space

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["TRIALS", "Past", "PastSampler", "Tried", "fresh", "spending", "start"]

TRIALS = 100
"""Assumed budget of a study that states none."""

_DRAWS = 16
# What cost nothing worth counting, or said nothing about its configuration.
_UNCOUNTED = UNBLAMED | {"refused"}


def spending(study: Study, trial: FrozenTrial, n_trials: int | None = None) -> tuple[float, float]:
    """Return the share of a study's budget that is spent, and how many trials the whole budget is worth.

    The budget is the study's user attribute `budget_s` (seconds), else `budget_trials`, else `n_trials`, else 100
    trials. Seconds are those of finished trials, from their start to their end, and a budget is worth
    `budget_s / median seconds of a valid trial`; so refused configurations, which end at once, use up little
    of it. Trials are the ones before this one, lost and refused ones left out; the last of n is at share 1.
    """
    told = study.user_attrs
    before = [one for one in study.get_trials(deepcopy=False) if one.number < trial.number]
    seconds = told.get("budget_s")
    if isinstance(seconds, int | float) and seconds > 0:
        took = [(_seconds(one), _worked(one)) for one in before if one.state.is_finished()]
        # The default of a study is measured before its first trial and enters as one that took no time.
        valid = [s for s, worked in took if worked and s > 1e-3] or [s for s, _ in took if s > 1e-3]
        share = sum(s for s, _ in took) / seconds
        return min(share, 1.0), max(seconds / statistics.median(valid), 2.0) if valid else float(TRIALS)
    counted = told.get("budget_trials")
    n = counted if isinstance(counted, int) and counted > 0 else TRIALS if n_trials is None else n_trials
    begun = sum(one.user_attrs.get("state") not in _UNCOUNTED for one in before)
    return min(begun / max(n - 1, 1), 1.0), float(max(n, 2))


def _seconds(trial: FrozenTrial) -> float:
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return max((trial.datetime_complete - trial.datetime_start).total_seconds(), 0.0)


def _worked(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and trial.user_attrs.get("state") in (None, "valid")


@dataclass(frozen=True, slots=True)
class Tried:
    """One finished trial.

    Attributes:
        number: Optuna's number.
        config: What took effect, complete.
        key: Canonical forms of what was asked for and of what took effect.
        gain: Value to be maximised; None when the trial failed.
        excess: Sum of broken guards, 0 when feasible.
        metrics: What it reported beside its value.
        stated: Whether our own study told its state, so that `gain` is the logarithm of a ratio to the default.
    """

    number: int
    config: dict[str, Any]
    key: tuple[str, str]
    gain: float | None
    excess: float
    metrics: dict[str, float]
    stated: bool


class Past:
    """The trials of one study in one space, each read once.

    Attributes:
        tried: Finished trials that say something about their configuration, in the order in which they ended.
        seen: Canonical configurations of finished and running trials.
    """

    def __init__(self) -> None:
        self.tried: list[Tried] = []
        self.seen: set[str] = set()
        self._of: tuple[Any, int, Space] | None = None
        self._known: dict[int, Tried | None] = {}

    def read(self, study: Study, space: Space, *, ignore: int) -> None:
        """Take in what is new.

        Args:
            study: The study.
            space: What may be chosen.
            ignore: Number of the trial that is being asked for.
        """
        # Study objects come and go for one stored study; no public name says which one it is without a query.
        storage, number = study._storage, study._study_id  # pyright: ignore[reportPrivateUsage]
        if self._of is None or self._of[0] is not storage or self._of[1:] != (number, space):
            self._of = (storage, number, space)
            self._known.clear()
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        ended: list[tuple[float, int]] = []
        running: list[str] = []
        for trial in study.get_trials(deepcopy=False):
            if trial.number == ignore:
                continue
            if trial.state.is_finished():
                if trial.number not in self._known:
                    self._known[trial.number] = _tried(trial, space, sign)
                if self._known[trial.number] is not None:
                    end = trial.datetime_complete
                    ended.append((end.timestamp() if end is not None else 0.0, trial.number))
            elif trial.state == TrialState.RUNNING:
                config = _asked(trial, space)
                if config is not None:
                    running.append(space.canonical(config))
        found = [self._known[number] for _, number in sorted(ended)]
        self.tried = [one for one in found if one is not None]
        self.seen = {key for one in self.tried for key in one.key}.union(running)

    def incumbent(self) -> Tried | None:
        """Return the best feasible trial, the later one of two equals; without one, the least infeasible."""
        able = [one for one in self.tried if one.gain is not None]
        return max(able, key=lambda one: (-one.excess, one.gain, one.number), default=None)


def _asked(trial: FrozenTrial, space: Space) -> dict[str, Any] | None:
    """Return the configuration of a trial; None while some of its parameters are not there yet."""
    try:
        config = space.from_params(trial.params)
        complete = space.to_params(config).keys() <= trial.params.keys()
    except SpaceError:
        # A value of a time when the space had other choices.
        return None
    return config if complete and trial.params else None


def _tried(trial: FrozenTrial, space: Space, sign: float) -> Tried | None:
    state = trial.user_attrs.get("state")
    if state in UNBLAMED or trial.state == TrialState.PRUNED:
        return None
    asked = _asked(trial, space)
    if asked is None:
        return None
    took = trial.user_attrs.get("effective") or {}
    real = {**asked, **{name: space[name].nearest(took[name]) for name in took if name in space}}
    value = trial.values[0] if _worked(trial) and trial.values else math.nan
    gain = sign * float(value)
    metrics = trial.user_attrs.get("metrics") or {}
    return Tried(
        trial.number,
        space.default() | real,
        (space.canonical(asked), space.canonical(real)),
        gain if gain > -math.inf else None,
        sum(max(float(one), 0.0) for one in trial.constraints.values()),
        {name: float(one) for name, one in metrics.items() if isinstance(one, int | float) and math.isfinite(one)},
        state is not None,
    )


def start(
    space: Space, count: int, seed: int, number: int, seen: set[str], *, default: bool = True
) -> dict[str, Any] | None:
    """Return the starting point of a trial: the default for the first, then Sobol points.

    Trials that are asked for at the same time get different ones.

    Args:
        space: What may be chosen.
        count: Number of starting points.
        seed: Draws the Sobol points.
        number: The trial's number.
        seen: Canonical configurations that are taken.
        default: Whether the space's default is a starting point.

    Returns:
        None when every one of them is taken.
    """
    points = [space.default()] if default else []
    points += space.sobol(count, integer_seed(seed, role="start"))
    points = points[number:] + points[:number]
    fresh = (point for point in points if space.canonical(point) not in seen)
    found = next(fresh, None)
    return None if found is None else {name: found[name] for name in space.active(found)}


def fresh(space: Space, seen: set[str], rng: np.random.Generator) -> dict[str, Any]:
    """Return a random valid configuration, one that is not taken if a few draws find it."""
    drawn = space.sample(rng, _DRAWS)
    return next((one for one in drawn if space.canonical(one) not in seen), drawn[0])


class PastSampler(WholeSampler):
    """What samplers without a model have in common: starting points, and what was tried.

    A subclass implements `propose`. Its state must be a function of the trials and the seed.

    Args:
        space: What may be chosen, with its constraints; None takes Optuna's intersection of the trials'.
        seed: Seed.
        n_trials: How many trials the budget is worth, where the study does not say.
        n_startup: Starting points: the space's default, then Sobol points.

    Raises:
        UsageError: a number out of range.
    """

    def __init__(self, *, space: Space | None, seed: int, n_trials: int | None, n_startup: int) -> None:
        if n_trials is not None and n_trials < 1:
            raise UsageError(f"n_trials must be at least 1, got {n_trials}")
        if n_startup < 0:
            raise UsageError(f"n_startup must be at least 0, got {n_startup}")
        super().__init__(space=space, seed=seed)
        self.n_trials, self.n_startup = n_trials, n_startup
        self.past = Past()

    @abstractmethod
    def propose(self, study: Study, trial: FrozenTrial, space: Space, rng: np.random.Generator) -> dict[str, Any]:
        """Return a valid configuration, after the starting points; `past` is up to date."""

    def whole(self, study: Study, trial: FrozenTrial, space: Space, round: int) -> dict[str, Any]:
        self.past.read(study, space, ignore=trial.number)
        if trial.number < self.n_startup and round == 0:
            default = self.space is not None
            first = start(space, self.n_startup, self.seed, trial.number, self.past.seen, default=default)
            if first is not None:
                return first
        rng = stream(self.seed, trials=trial.number, role="proposal", round=round)
        return self.propose(study, trial, space, rng)

"""Tuning as a Gymnasium environment, so that learners of other libraries can be tried on it.

This module needs gymnasium when it is imported; nothing else of this package imports it.

An honest word: such learners are made for millions of steps. A step here is a whole run of a system, and after
30 of them any of them is noise around its start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import InfrastructureError, MissingExtra, TargetError, UsageError, near_misses
from mlsysopt.core.search.actor_critic import reward
from mlsysopt.core.seeds import integer_seed
from mlsysopt.core.space import Space
from mlsysopt.core.target import Config, Limits, Measurement, Metric, Outcome, Session, Target

try:
    import gymnasium
except ImportError as error:
    raise MissingExtra.of("an environment for other learners (gymnasium)", "tune") from error

__all__ = ["Score", "Scored", "TuningEnv", "scored"]

Floats = NDArray[np.float32]
Told = float | tuple[float, Mapping[str, float]] | None
Score = Callable[[Config], Told]
"""Gain of a configuration, `ln(value / default)` with more being better; with its metrics, logarithms of ratios to
the default's, beside it; None when it failed."""

HORIZON = 20
MOST_GAIN = 3.0
"""Beyond 20 times the default a reward says no more."""

MOST_STATE = 10.0
_TRIES = 3


class TuningEnv(gymnasium.Env[Floats, Floats]):
    """One step is one configuration.

    Observation: the named metrics of the last run, as logarithms of their ratio to the default's; zeros at the
    start, after a failure, and for what was not reported. Action: a position in the unit cube, stretched to [-1, 1];
    it is repaired, and `info["config"]` says what ran. Reward: CDBTune's, see
    `mlsysopt.core.search.actor_critic.reward`; a failure earns the worst one so far, at most 0. An episode never
    terminates; it is truncated after `horizon` steps, and the next one starts at the default again.

    Args:
        score: Runs a configuration: any function, or what `scored` makes of a target.
        space: What may be chosen.
        metrics: Names of the metrics that are observed; without any, the observation is the last gain.
        horizon: Steps of an episode.

    Raises:
        UsageError: a horizon below 1; a step before the first reset; an action of another shape.

    >>> from mlsysopt.core.space import Float
    >>> env = TuningEnv(lambda config: config["x"] - 0.5, Space([Float("x", 0.0, 1.0)]))
    >>> observation, info = env.reset(seed=1)
    >>> observation, earned, terminated, truncated, info = env.step(np.array([0.5], dtype=np.float32))
    >>> info["config"], round(earned, 3), terminated, truncated
    ({'x': 0.75}, 0.833, False, False)
    """

    def __init__(self, score: Score, space: Space, *, metrics: Sequence[str] = (), horizon: int = HORIZON) -> None:
        if horizon < 1:
            raise UsageError(f"horizon must be at least 1, got {horizon}")
        self.metadata = {"render_modes": []}
        self.space = space
        self._score, self._names, self._horizon = score, tuple(metrics), horizon
        width = max(len(self._names), 1)
        self.observation_space = gymnasium.spaces.Box(-MOST_STATE, MOST_STATE, (width,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (space.dims(),), np.float32)
        self._steps: int | None = None
        self._before = 0.0
        self._worst = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode at the default, which is not run; its `info` has the default configuration."""
        super().reset(seed=seed, options=options)
        self._steps, self._before = 0, 0.0
        default = self.space.default()
        return self._observed(0.0, {}), {"config": {name: default[name] for name in self.space.active(default)}}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Run one configuration; `info` has `config`, `gain` (None for a failure) and `metrics`."""
        if self._steps is None:
            raise UsageError("step() before reset(): reset the environment first")
        position = np.asarray(action, dtype=np.float64)
        if position.shape != (self.space.dims(),) or not np.isfinite(position).all():
            raise UsageError(f"an action has {self.space.dims()} finite numbers in [-1, 1], got {position.tolist()}")
        self._steps += 1
        config = self.space.repair(self.space.decode((np.clip(position, -1.0, 1.0) + 1.0) / 2.0))
        told = self._score(config)
        gain, metrics = told if isinstance(told, tuple) else (told, {})
        if gain is not None and math.isnan(gain):
            gain = None
        if gain is None:
            earned, observed = self._worst, self._observed(0.0, {})
        else:
            own = min(max(gain, -MOST_GAIN), MOST_GAIN)
            earned = reward(math.expm1(own), math.expm1(own - self._before))
            observed = self._observed(own, metrics)
            self._before = own
            self._worst = min(self._worst, earned)
        info = {"config": config, "gain": gain, "metrics": dict(metrics)}
        return observed, earned, False, self._steps >= self._horizon, info

    def _observed(self, gain: float, metrics: Mapping[str, float]) -> Floats:
        values = [metrics.get(name, 0.0) for name in self._names] or [gain]
        return np.clip(np.nan_to_num(np.array(values, dtype=np.float32)), -MOST_STATE, MOST_STATE)


class Scored:
    """Runs configurations of a target, the default beside each with the same seed.

    Attributes:
        metrics: Names of what it tells, in order; static metrics are left out.
    """

    def __init__(self, session: Session, metrics: Mapping[str, Metric], objective: str, seed: int) -> None:
        self._session, self._objective, self._seed = session, objective, seed
        self._known = {name: one for name, one in metrics.items() if one.kind != "static"}
        self._runs = 0
        self.metrics = tuple(self._known)

    def __call__(self, config: Config) -> Told:
        seed = integer_seed(self._seed, trials=self._runs, role="environment")
        self._runs += 1
        default = self._run({}, seed)
        if not isinstance(default, Measurement):
            raise TargetError(f"the default fails ({default.kind}: {default.reason}): repair the target first")
        outcome = self._run(config, seed)
        if not isinstance(outcome, Measurement):
            return None
        found: dict[str, float] = {}
        for name, metric in self._known.items():
            pair = (outcome.metrics.get(name), default.metrics.get(name))
            ratio = _log_ratio(metric, *pair)
            if ratio is not None:
                found[name] = ratio
        if self._objective not in found:
            return None
        return (1.0 if self._known[self._objective].better == "higher" else -1.0) * found[self._objective], found

    def _run(self, config: Config, seed: int) -> Outcome:
        reason = ""
        for _ in range(_TRIES):
            outcome = self._session.measure(config, seed=seed)
            if isinstance(outcome, Measurement) or outcome.blames_config:
                return outcome
            reason = f"{outcome.kind}: {outcome.reason}"
        raise InfrastructureError(f"the machine failed {_TRIES} times in a row ({reason})")


def _log_ratio(metric: Metric, value: float | None, reference: float | None) -> float | None:
    if value is None or reference is None:
        return None
    if metric.may_be_zero:
        return math.log1p(max(value, 0.0)) - math.log1p(max(reference, 0.0))
    return math.log(value / reference) if value > 0.0 and reference > 0.0 else None


@contextmanager
def scored(target: Target, objective: str, *, limits: Limits | None = None, seed: int = 0) -> Generator[Scored]:
    """Open a session of a target for a `TuningEnv`; leaving it stops every process.

    Args:
        target: What is tuned.
        objective: Name of the metric that counts; its `better` says which way.
        limits: What its children may use; None means no limit.
        seed: Seeds the runs.

    Raises:
        UsageError: a metric that the target does not measure.
        TargetError: when called, if the default fails.

    >>> from mlsysopt.testing.planted import Planted
    >>> with scored(Planted(), "throughput") as score:
    ...     env = TuningEnv(score, Planted().space(), metrics=score.metrics)
    ...     env.reset(seed=1)[0].shape
    (4,)
    """
    metrics = target.metrics()
    known = [name for name, one in metrics.items() if one.kind != "static"]
    if objective not in known:
        raise UsageError(f"{target.name} measures no {objective!r}; {near_misses(objective, known, noun='metric')}")
    with target.session(limits or Limits()) as session:
        yield Scored(session, metrics, objective, seed)

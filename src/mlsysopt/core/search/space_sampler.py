"""`SpaceSampler`: any Optuna sampler, kept inside a space.

A suggested parameter cannot be changed afterwards, so the whole configuration is decided at once:
the base proposes it, a few times if need be, and what still breaks a rule is repaired before Optuna
sees it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler
from optuna.trial import TrialState

from mlsysopt.core.errors import SpaceError, UsageError
from mlsysopt.core.space import Permutation, Space
from mlsysopt.core.space.columns import at_positions, configs_of, of_configs, rows_of, valid_rows

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["SpaceSampler"]

_REASKS = 8
_REASKS_RANDOM = 64
_RADII = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_TRIES = 6
# Optuna's GP lists every value of a whole number, which for 1 GiB of bytes takes 8 GB of memory.
_LONG_LIST = 4096
# A space with fewer configurations than this is searched to its end for one that is left.
_SMALL = 1024
_CLOUD = 4096
_TAKEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)


class SpaceSampler(BaseSampler):
    """Keeps the proposals of any sampler valid and new.

    Args:
        base: The sampler that proposes; it sees Optuna parameters and trials as always.
        space: What may be chosen.
        seed: Seed of what happens to a proposal that is taken already.
        reasks: How often the base is asked again after an invalid or taken proposal, before repair;
            None means 8, for random search 64 (so that it stays uniform in most spaces), and 0 for
            Optuna's GP, which fits its model again for every answer and would give nearly the same.

    Attributes:
        history: Which configurations trials have; a sampler around this one tells it what became of a proposal.

    Never proposes an invalid configuration; never one of a finished, running or waiting trial as long as
    the space has others.

    >>> from mlsysopt.core.space import Int
    >>> import optuna
    >>> space = Space([Int("a", 1, 9, default=1), Int("b", 1, 9)], constraints=["a <= b"])
    >>> sampler = SpaceSampler(optuna.samplers.RandomSampler(seed=1), space, seed=1)
    >>> trial = optuna.create_study(sampler=sampler).ask(space.distributions())
    >>> space.violations(trial.params)
    []
    """

    def __init__(self, base: BaseSampler, space: Space, *, seed: int, reasks: int | None = None) -> None:
        if reasks is not None and reasks < 0:
            raise UsageError(f"reasks must be at least 0, got {reasks}")
        self.base, self.space = base, space
        self.reasks = _default_reasks(base) if reasks is None else reasks
        self._seed = int(seed)
        self.history = Tried(space)

    def __str__(self) -> str:
        return f"SpaceSampler({self.base})"

    def reseed_rng(self) -> None:
        """Give the base and this sampler new random streams."""
        self.base.reseed_rng()
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on to the base."""
        self.base.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass on to the base."""
        if not isinstance(self.base, CmaEsSampler):
            self.base.after_trial(study, trial, state, values)
            return
        with warnings.catch_warnings():
            # Every trial of a study carries constraints; this sampler learns from the bad value beside them.
            warnings.filterwarnings("ignore", "Constraints have been set")
            self.base.after_trial(study, trial, state, values)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return one valid configuration as Optuna parameters; names outside the space go to the base."""
        own = self.space.distributions()
        foreign = {name: one for name, one in search_space.items() if own.get(name) != one}
        params: dict[str, Any] = {}
        if len(foreign) < len(search_space):
            params = self.space.to_params(self._propose(study, trial, own))
            params = {name: value for name, value in params.items() if name in search_space and name not in foreign}
        if foreign:
            params |= self.base.sample_relative(study, trial, foreign)
            for name, distribution in foreign.items():
                if name not in params:
                    params[name] = self.base.sample_independent(study, trial, name, distribution)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Pass on to the base: a parameter that is not of the space, or not active in this trial."""
        return self.base.sample_independent(study, trial, param_name, param_distribution)

    def _propose(self, study: Study, trial: FrozenTrial, own: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        taken = self.history.taken(study, trial.number)
        fixed = {name: value for name, value in trial.system_attrs.get("fixed_params", {}).items() if name in own}
        inferred = self.base.infer_relative_search_space(study, trial)
        together = {name: _relaxed(one) for name, one in inferred.items() if own.get(name) == one}
        proposals: list[dict[str, Any]] = []
        chosen: dict[str, Any] | None = None
        size = self.space.size()
        last: dict[str, Any] | None = None
        for _ in range(1 + self.reasks):
            config = self._ask(study, trial, own, together, fixed)
            # In a large space chance does not repeat itself: this base gives one answer, however often it is asked.
            if config == last and (size is None or size > _SMALL):
                break
            last = config
            if not self.space.violations(config):
                if self.space.canonical(config) not in taken:
                    chosen = config
                    break
                # A valid one that is taken is still the best place to start a search for its neighbours.
                proposals.insert(0, config)
            proposals.append(config)
        if chosen is None:
            rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(trial.number,)))
            if fixed:
                chosen = self._around_fixed(proposals[0], fixed, rng)
            else:
                chosen = self._fresh(self.space.repair(proposals[0]), taken, rng)
        self.history.remember(trial.number, self.space.canonical(chosen))
        return chosen

    def _ask(
        self,
        study: Study,
        trial: FrozenTrial,
        own: Mapping[str, BaseDistribution],
        together: dict[str, BaseDistribution],
        fixed: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Ask the base once for everything that is active."""
        space = self.space
        known = self.base.sample_relative(study, trial, together)
        known = {name: _rounded(own[name], value) for name, value in known.items() if name in own} | dict(fixed)
        params: dict[str, Any] = {}
        for name in (*(name for name in space.names if name not in space.conditions), *space.conditional):
            if name in space.conditions and name not in space.active(space.from_params(params)):
                continue
            for key in _keys(space, name):
                # `range` or a special value is decided first; a special value needs no number.
                if key == name and params.get(f"{name}?", "range") != "range":
                    continue
                if key in known:
                    params[key] = known[key]
                else:
                    params[key] = self.base.sample_independent(study, trial, key, own[key])
        return space.from_params(params)

    def _fresh(self, config: dict[str, Any], taken: set[str], rng: np.random.Generator) -> dict[str, Any]:
        """Return a valid configuration near this one that no trial has, itself if it is free."""
        if self.space.canonical(config) not in taken:
            return config
        for candidate in self._neighbours(config, rng):
            if self.space.canonical(candidate) not in taken:
                return candidate
        return config

    def _neighbours(self, config: dict[str, Any], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        u = self.space.encode(config)
        for radius in _RADII:
            for _ in range(_TRIES):
                yield self.space.repair(self.space.decode(u + radius * rng.standard_normal(u.shape)))
        size = self.space.size()
        # Sixteen draws for each configuration miss the last free one once in ten million times.
        yield from self.space.sample(rng, 16 * min(size, _SMALL) if size is not None else 64)

    def _around_fixed(
        self, config: dict[str, Any], fixed: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Return a valid configuration near this one that keeps the values a user enqueued.

        Raises:
            SpaceError: no configuration with these values meets the constraints.
        """
        space = self.space
        if not space.violations(config):
            return config
        kept = {name for name in space.names if any(key in fixed for key in _keys(space, name))}
        wrong = [one.text for one in space.violations({name: config[name] for name in kept if name in config})]
        u = space.encode(config)
        spread = np.geomspace(0.01, 2.0, _CLOUD)[:, None] * rng.uniform(-1.0, 1.0, (_CLOUD, len(u)))
        codes = at_positions(space, u + spread)
        exact = of_configs(space, [space.repair(config) | {name: config[name] for name in kept if name in config}])
        for name in kept:
            codes[name] = np.repeat(exact[name], _CLOUD, axis=0)
        found = configs_of(space, rows_of(codes, valid_rows(space, codes)))
        if not found or any(space.violations(one) for one in found[:1]):
            values = ", ".join(f"{name}={value}" for name, value in fixed.items())
            raise SpaceError(f"no valid configuration has the enqueued {values}\n" + "\n".join(wrong[:2]))
        far = np.linalg.norm(space.encode_many(found) - u, axis=1)
        return found[int(np.argmin(far))]


class Tried:
    """Which configurations trials have, read once per finished trial."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._of: tuple[Any, int] | None = None
        self._finished: dict[int, str | None] = {}
        # Own proposals whose parameters may not be in the store yet.
        self._proposed: dict[int, str] = {}

    def taken(self, study: Study, number: int) -> set[str]:
        """Return the canonical configurations of every other trial that counts."""
        # Study objects come and go for one stored study; no public name says which one it is without a query.
        storage, number_of_study = study._storage, study._study_id  # pyright: ignore[reportPrivateUsage]
        if self._of is None or self._of[0] is not storage or self._of[1] != number_of_study:
            self._of = (storage, number_of_study)
            self._finished.clear()
            self._proposed.clear()
        found: set[str] = set()
        for trial in study.get_trials(deepcopy=False, states=_TAKEN):
            if trial.number == number:
                continue
            if trial.state.is_finished():
                self._proposed.pop(trial.number, None)
                if trial.number not in self._finished:
                    self._finished[trial.number] = self._config(trial)
                config = self._finished[trial.number]
            else:
                config = self._config(trial) or self._proposed.get(trial.number)
            if config is not None:
                found.add(config)
        return found

    def remember(self, number: int, config: str) -> None:
        """Keep what was proposed until its trial has it."""
        self._proposed[number] = config

    def _config(self, trial: FrozenTrial) -> str | None:
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        try:
            config = self._space.from_params(params)
            complete = self._space.to_params(config).keys() <= params.keys()
        except SpaceError:
            # A value of a time when the space had other choices.
            return None
        return self._space.canonical(config) if complete else None


def _default_reasks(base: BaseSampler) -> int:
    if isinstance(base, RandomSampler):
        return _REASKS_RANDOM
    return 0 if isinstance(base, GPSampler) else _REASKS


def _relaxed(distribution: BaseDistribution) -> BaseDistribution:
    """Return a long range of whole numbers as a continuous one; its values are rounded afterwards."""
    if (
        isinstance(distribution, IntDistribution)
        and distribution.high - distribution.low > _LONG_LIST * distribution.step
    ):
        return FloatDistribution(distribution.low, distribution.high, log=distribution.log)
    return distribution


def _rounded(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, IntDistribution) and isinstance(value, float):
        low, step = distribution.low, distribution.step
        return min(max(low + round((value - low) / step) * step, low), distribution.high)
    return value


def _keys(space: Space, name: str) -> tuple[str, ...]:
    parameter = space[name]
    if isinstance(parameter, Permutation):
        return tuple(f"{name}#{i}" for i in range(parameter.n))
    return (f"{name}?", name) if f"{name}?" in space.distributions() else (name,)

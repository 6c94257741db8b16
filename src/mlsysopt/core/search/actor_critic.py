"""Reinforcement learning of a configuration: TD3 and DDPG, as database tuners have used them.

An actor maps what a system reports (its state) to a configuration (an action); critics learn what a
configuration brings. After CDBTune (Zhang et al. 2019), with its reward.

What to expect: after 30 trials this is noise around its start. An actor with thousands of weights learns little
from so few rewards, and a server that is restarted for every trial has no memory that a discount could use
(`gamma=0` says so). It is here because published comparisons have it; where trials cost seconds, prefer `tpe`,
`dds` or `structured`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import UsageError
from mlsysopt.core.references import Reference
from mlsysopt.core.search.actor_critic_nets import Learner, Replay, Rules, Variant
from mlsysopt.core.search.past import PastSampler, Tried, fresh, spending
from mlsysopt.core.search.threads import one_thread
from mlsysopt.core.seeds import integer_seed, stream
from mlsysopt.core.space import Space

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["ActorCriticSampler", "reward", "rewards"]

Floats = NDArray[np.float64]

UPDATES = 64
NOISE = (0.3, 0.05)
"""Standard deviation of the exploration, in actions of -1 to 1, at the start and at the end of the budget."""

MOST_METRICS = 64
_TRIES = 16
# e^3 = 20 times the default: beyond it a reward, which grows with the cube of a ratio, would drown all others.
_MOST_GAIN = 3.0
_MOST_STATE = 5.0
# The square of a value must not overflow.
_LARGEST = 1e150


def reward(d0: float, dt: float) -> float:
    """Return CDBTune's reward of one step.

    `((1 + d0)^2 - 1) |1 + dt|` above the default, else `-((1 - d0)^2 - 1) |1 - dt|`.

    Args:
        d0: Relative change to the default, -0.2 for a fifth less.
        dt: Relative change to the previous trial.

    References:
        Zhang et al., CDBTune, SIGMOD 2019.

    >>> reward(0.5, 0.0), reward(0.5, 1.0), reward(-0.5, 0.0)
    (1.25, 2.5, -1.25)
    """
    if d0 > 0.0:
        return ((1.0 + d0) ** 2 - 1.0) * abs(1.0 + dt)
    return -((1.0 - d0) ** 2 - 1.0) * abs(1.0 - dt)


def rewards(gains: Sequence[float | None]) -> Floats:
    """Return the rewards of a sequence of trials, shape (n,).

    Args:
        gains: Logarithms of the ratio to the default, None for a failure: it earns the worst reward so far, which
            is at most 0, and the step after it is compared with the last trial that worked.
    """
    found = np.zeros(len(gains))
    worst, before = 0.0, 0.0
    for place, gain in enumerate(gains):
        if gain is None:
            found[place] = worst
            continue
        own = min(max(gain, -_MOST_GAIN), _MOST_GAIN)
        found[place] = reward(math.expm1(own), math.expm1(own - before))
        before = own
        worst = min(worst, float(found[place]))
    return found


class ActorCriticSampler(PastSampler):
    """TD3 or DDPG for the knobs of a system, as an ordinary Optuna sampler.

    State: the metrics of the trial before (user attribute `metrics`: logarithms of ratios to the default beside it),
    standardised; zeros when there are none. Action: the unit cube, stretched to [-1, 1]. Reward: `reward`.
    After the starting points each trial is the actor's answer with normal noise, 0.3 at the start of the budget
    and 0.05 at its end (`spending` says how the budget reaches it). In a study that is not ours, whose values are no
    logarithms of ratios, gains are differences to the first trial in standard deviations.

    After 30 trials expect noise around the start; see the module.

    The networks are a function of the finished trials, in the order in which they ended, and the seed: 64 updates
    after each. The same object goes on from where it was; a new one makes the updates of all trials again,
    about 0.02 CPU-seconds for each.

    Args:
        space: What may be chosen, with its constraints; None takes Optuna's intersection of the trials'.
        seed: Seed.
        variant: "td3" has two critics, smoothed targets and a delayed actor; "ddpg" one critic and none of these.
        gamma: Discount, 0 <= gamma < 1; with 0 a trial's reward is all that counts.
        n_trials: As for `DDSSampler`.
        n_startup: Starting points: the space's default, then Sobol points.
        updates: Updates after each trial.
        rules: Constants of the updates, in place of `variant` and `gamma`.

    Raises:
        UsageError: a number out of range.
        StudyError: a study with several objectives.

    >>> import optuna
    >>> study = optuna.create_study(sampler=ActorCriticSampler(seed=1, n_startup=3))
    >>> study.optimize(lambda trial: (trial.suggest_float("x", -4, 4) - 1) ** 2, n_trials=8)
    >>> len(study.trials)
    8
    """

    references: ClassVar[list[Reference]] = [
        Reference(
            "zhang2019",
            "inproceedings",
            "An End-to-End Automatic Cloud Database Tuning System Using Deep Reinforcement Learning",
            "J. Zhang and Y. Liu and K. Zhou and G. Li and Z. Xiao and B. Cheng and J. Xing and Y. Wang and T. Cheng "
            "and L. Liu and M. Ran and Z. Li",
            2019,
            {"booktitle": "SIGMOD", "doi": "10.1145/3299869.3300085"},
        ),
        Reference(
            "fujimoto2018",
            "inproceedings",
            "Addressing Function Approximation Error in Actor-Critic Methods",
            "S. Fujimoto and H. van Hoof and D. Meger",
            2018,
            {"booktitle": "ICML"},
        ),
        Reference(
            "lillicrap2016",
            "inproceedings",
            "Continuous Control with Deep Reinforcement Learning",
            "T. P. Lillicrap and J. J. Hunt and A. Pritzel and N. Heess and T. Erez and Y. Tassa and D. Silver "
            "and D. Wierstra",
            2016,
            {"booktitle": "ICLR"},
        ),
    ]

    def __init__(
        self,
        *,
        space: Space | None = None,
        seed: int,
        variant: Variant = "td3",
        gamma: float = 0.9,
        n_trials: int | None = None,
        n_startup: int = 6,
        updates: int = UPDATES,
        rules: Rules | None = None,
    ) -> None:
        if variant not in ("td3", "ddpg"):
            raise UsageError(f"variant: allowed are 'td3' and 'ddpg', got {variant!r}")
        if not 0.0 <= gamma < 1.0:
            raise UsageError(f"gamma must lie in [0, 1), got {gamma}")
        if n_startup < 1:
            raise UsageError(f"n_startup must be at least 1, got {n_startup}")
        if updates < 0:
            raise UsageError(f"updates must be at least 0, got {updates}")
        super().__init__(space=space, seed=seed, n_trials=n_trials, n_startup=n_startup)
        self._updates = updates
        self._rules = Rules(variant=variant, discount=gamma) if rules is None else rules
        self._agent: _Agent | None = None

    def propose(self, study: Study, trial: FrozenTrial, space: Space, rng: np.random.Generator) -> dict[str, Any]:
        seen, past = self.past.seen, self.past.tried
        if len(past) < self.n_startup:
            return fresh(space, seen, rng)
        if self._agent is None or not self._agent.goes_on(space, self.seed, past):
            self._agent = _Agent(space, self.seed, past[: self.n_startup], self._rules, self._updates)
        with one_thread():
            self._agent.learn(past)
            action = self._agent.act()
        spent, _ = spending(study, trial, self.n_trials)
        first, last = NOISE
        noise = first + (last - first) * spent
        for _ in range(_TRIES):
            tried = np.clip(action + noise * rng.standard_normal(len(action)), -1.0, 1.0)
            config = space.repair(space.decode((tried + 1.0) / 2.0))
            if space.canonical(config) not in seen:
                return config
            noise = min(1.2 * noise, 1.0)
        return fresh(space, seen, rng)


class _Agent:
    """The networks after some trials.

    Args:
        space: What may be chosen.
        seed: Seed.
        first: Trials whose metrics make up the state.
        rules: Constants of the updates.
        updates: Updates after each trial.
    """

    def __init__(self, space: Space, seed: int, first: Sequence[Tried], rules: Rules, updates: int) -> None:
        self._key = (space, seed)
        self._space, self._seed, self._updates = space, seed, updates
        self._names = sorted({name for one in first for name in one.metrics})[:MOST_METRICS]
        self._done: list[int] = []
        self._first = len(first)
        self._actions = np.zeros((0, space.dims()))
        self._raw = np.zeros((0, max(len(self._names), 1)))
        seed = integer_seed(seed, role="weights")
        self._learner = Learner(self._raw.shape[1], space.dims(), rules, seed)
        self._state: Floats = np.zeros(self._raw.shape[1])

    def goes_on(self, space: Space, seed: int, past: Sequence[Tried]) -> bool:
        """Return whether these trials begin with those that are learnt."""
        done = self._done
        return self._key == (space, seed) and [one.number for one in past[: len(done)]] == done

    def learn(self, past: Sequence[Tried]) -> None:
        """Make the updates that each new trial brings."""
        new = past[len(self._done) :]
        if not new:
            return
        positions = self._space.encode_many([one.config for one in new])
        self._actions = np.concatenate([self._actions, 2.0 * positions - 1.0])
        # What a trial did not report counts as the default's.
        raw = [[one.metrics.get(name, 0.0) for name in self._names] or [0.0] for one in new]
        self._raw = np.concatenate([self._raw, np.array(raw)])
        for count in range(max(len(self._done) + 1, self._first), len(past) + 1):
            rng = stream(self._seed, trials=count, role="updates")
            self._learner.learn(self._replay(past[:count]), self._updates, rng)
        self._done = [one.number for one in past]

    def _replay(self, past: Sequence[Tried]) -> Replay:
        """Return what is known after some trials, in the scale of these trials."""
        raw = self._raw[: len(past)]
        spread = raw.std(axis=0)
        states = np.clip((raw - raw.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0), -_MOST_STATE, _MOST_STATE)
        self._state = states[-1]
        before = np.concatenate([np.zeros((1, states.shape[1])), states[:-1]])
        earned = rewards(_gains(past))
        scale = float(earned.std())
        earned = (earned - earned.mean()) / (scale if scale > 1e-9 else 1.0)
        return Replay(*(one.astype(np.float32) for one in (before, self._actions[: len(past)], earned, states)))

    def act(self) -> Floats:
        """Return the actor's answer to the last state, shape (d,)."""
        return self._learner.act(self._state[None].astype(np.float32))[0].astype(np.float64)


def _gains(past: Sequence[Tried]) -> list[float | None]:
    """Return the logarithms of the ratio to the default, or what stands for them in a study that is not ours."""
    known = [one.gain for one in past if one.gain is not None]
    if all(one.stated for one in past if one.gain is not None):
        return [one.gain for one in past]
    bounded = np.clip(known, -_LARGEST, _LARGEST)
    spread = float(bounded.std())
    found = iter(((bounded - bounded[0]) / (spread if spread > 0.0 else 1.0)).tolist())
    return [None if one.gain is None else next(found) for one in past]

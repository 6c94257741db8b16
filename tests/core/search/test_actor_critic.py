"""The actor-critic samplers: rewards, networks against torch, updates, resuming, and both contract suites."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import TrialState

from mlsysopt.core.errors import StudyError, UsageError
from mlsysopt.core.search import SpaceSampler
from mlsysopt.core.search.actor_critic import ActorCriticSampler, reward, rewards
from mlsysopt.core.search.actor_critic_nets import Adam, Learner, Nets, Replay, Rules, Variant
from mlsysopt.core.space import Float, Space
from mlsysopt.testing.samplers import SamplerContract

BOX = Space([Float(f"x{i}", 0.0, 1.0) for i in range(3)])


class TestInOptuna(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        # Few starting points, so that the suite reaches the networks; few updates, as it learns nothing there.
        return lambda: ActorCriticSampler(seed=0, n_startup=2, updates=4)


class TestTd3(SamplerContract):
    trials = 12
    learning_seeds = (1,)

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return SpaceSampler(ActorCriticSampler(space=space, seed=seed, n_trials=30), space, seed=seed)


class TestDdpgAlone(SamplerContract):
    trials = 12

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return ActorCriticSampler(space=space, seed=seed, n_trials=30, variant="ddpg", updates=16)


# --- rewards -----------------------------------------------------------------------------------------


def test_the_reward_is_the_published_one() -> None:
    """By hand."""
    assert reward(0.5, 0.2) == pytest.approx((1.5**2 - 1) * 1.2)
    assert reward(-0.5, 0.2) == pytest.approx(-(1.5**2 - 1) * 0.8)
    assert reward(-0.5, -0.2) == pytest.approx(-(1.5**2 - 1) * 1.2)
    assert reward(0.0, 7.0) == 0.0


def test_rewards_of_a_sequence() -> None:
    """Twice the default, then the same, a failure, half the default, a failure."""
    found = rewards([math.log(2), math.log(2), None, math.log(0.5), None])
    assert found == pytest.approx([6.0, 3.0, 0.0, -1.25 * 1.75, -1.25 * 1.75])
    assert np.isfinite(rewards([700.0, -math.inf, math.inf])).all()


# --- the networks ------------------------------------------------------------------------------------


def _precise(count: int, inputs: int, outputs: int) -> Nets:
    """Return networks in double precision, whose slopes can be checked by differences."""
    nets = Nets(count, inputs, outputs, np.random.default_rng(0), hidden=7)
    nets.flat = 0.5 * np.random.default_rng(1).standard_normal(nets.flat.shape)
    nets.gradient = np.zeros_like(nets.flat)
    nets._layers, nets._into = nets._views(nets.flat), nets._views(nets.gradient)
    return nets


def test_outputs_are_those_of_each_network_alone() -> None:
    nets = Nets(2, 5, 3, np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((4, 5), dtype=np.float32)
    out, _ = nets.forward(x)
    for net in range(2):
        found = x
        for place, (weights, biases) in enumerate(nets._layers):
            found = found @ weights[net] + biases[net]
            found = np.maximum(found, 0) if place < 2 else found
        assert np.allclose(out[net], found, atol=1e-6)
    assert np.abs(out).max() < 0.1
    assert out.dtype == nets.flat.dtype == np.float32


def test_slopes_are_those_of_finite_differences() -> None:
    nets, rng = _precise(2, 4, 3), np.random.default_rng(2)
    x, slope = rng.standard_normal((6, 4)), rng.standard_normal((2, 6, 3))
    _, kept = nets.forward(x)
    nets.backward(kept, slope)
    analytic, step = nets.gradient.copy(), 1e-6
    for i in range(len(nets.flat)):
        own, sides = nets.flat[i], []
        for sign in (1, -1):
            nets.flat[i] = own + sign * step
            sides.append(float((slope * nets.forward(x)[0]).sum()))
        nets.flat[i] = own
        assert analytic[i] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-6)
    for net in range(2):
        back = nets.slope_of_inputs(kept, slope[net], net=net)
        for i, j in np.ndindex(x.shape):
            sides = []
            for sign in (1, -1):
                moved = x.copy()
                moved[i, j] += sign * step
                sides.append(float((slope[net] * nets.forward(moved)[0][net]).sum()))
            assert back[i, j] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-6)


def test_adam_is_the_published_one() -> None:
    """Algorithm 1 of Kingma and Ba, written out."""
    rng = np.random.default_rng(0)
    parameters = rng.standard_normal(8)
    expected, m, v = parameters.copy(), np.zeros(8), np.zeros(8)
    adam = Adam(parameters, 0.01)
    for t in range(1, 20):
        gradient = rng.standard_normal(8)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        expected -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        adam.step(gradient)
        assert np.allclose(parameters, expected, atol=1e-9)


@pytest.mark.parametrize("variant", ["td3", "ddpg"])
def test_constant_rewards_are_worth_their_discounted_sum(variant: Variant) -> None:
    rng = np.random.default_rng(1)
    states = rng.standard_normal((64, 2)).astype(np.float32)
    actions = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
    replay = Replay(states, actions, np.ones(64, dtype=np.float32), np.roll(states, 1, axis=0))
    learner = Learner(2, 2, Rules(variant, discount=0.5, rate=0.1, critic_rate=3e-3), seed=0)
    learner.learn(replay, 600, rng)
    assert learner.values(states, actions) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize(("variant", "gamma"), [("td3", 0.9), ("td3", 0.0), ("ddpg", 0.0)])
def test_the_actor_finds_what_the_state_asks_for(variant: Variant, gamma: float) -> None:
    """The best action is half the state: an actor that ignores its state earns -0.08, this one nearly 0."""
    rng = np.random.default_rng(2)
    states = rng.uniform(-1, 1, (400, 1)).astype(np.float32)
    actions = rng.uniform(-1, 1, (400, 1)).astype(np.float32)
    earned = -((actions[:, 0] - 0.5 * states[:, 0]) ** 2)
    replay = Replay(states, actions, earned * 3, rng.permutation(states))
    learner = Learner(1, 1, Rules(variant, discount=gamma, actor_rate=3e-3, critic_rate=3e-3), seed=0)
    learner.learn(replay, 1000, rng)
    asked = np.array([[-0.8], [0.8]], dtype=np.float32)
    assert learner.act(asked)[:, 0] == pytest.approx([-0.4, 0.4], abs=0.2)


def test_the_variants_differ_as_they_should() -> None:
    """TD3 has two critics and moves its actor at every second update only."""
    rng = np.random.default_rng(3)
    replay = Replay(*(rng.standard_normal(shape).astype(np.float32) for shape in ((9, 2), (9, 3), 9, (9, 2))))
    state = np.ones((1, 2), dtype=np.float32)
    for variant, critics, moved in (("td3", 2, False), ("ddpg", 1, True)):
        learner = Learner(2, 3, Rules(variant), seed=0)
        before = learner.act(state)
        learner.learn(replay, 1, rng)
        assert (not np.array_equal(before, learner.act(state))) == moved
        assert learner.values(state, before).shape == (critics, 1)
        learner.learn(replay, 1, rng)
        assert not np.array_equal(before, learner.act(state))


# --- the sampler -------------------------------------------------------------------------------------


def _value(params: dict[str, float]) -> float:
    return -sum((x - 0.3) ** 2 for x in params.values())


def _told(study: optuna.Study, trial: optuna.Trial, *, fails: bool = False) -> None:
    gain = _value(trial.params)
    trial.set_user_attr("state", "crashed" if fails else "valid")
    if not fails:
        trial.set_user_attr("metrics", {"reads": trial.params["x0"], "gain": gain})
    study.tell(trial, -1.0 if fails else gain)


def _run(parts: tuple[int, ...], **settings: Any) -> list[dict[str, Any]]:
    study = optuna.create_study(direction="maximize")
    for count in parts:
        study.sampler = ActorCriticSampler(**{"space": BOX, "seed": 4, "n_trials": 30, "updates": 16, **settings})
        for _ in range(count):
            trial = study.ask(BOX.distributions())
            _told(study, trial, fails=trial.number % 7 == 6)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("variant", ["td3", "ddpg"])
def test_a_sampler_built_anew_goes_on_the_same_way(variant: Variant) -> None:
    assert _run((16,), variant=variant) == _run((9, 4, 3), variant=variant)


def test_variants_and_discounts_are_different_searches() -> None:
    found = [_run((12,)), _run((12,), variant="ddpg"), _run((12,), gamma=0.0), _run((12,), seed=5)]
    starts = [[tuple(params.values()) for params in run[:6]] for run in found]
    assert starts[0] == starts[1] == starts[2] != starts[3]
    assert len({tuple(run[-1].values()) for run in found}) == 4


def test_the_noise_falls_over_the_budget() -> None:
    """Spread of repeated proposals from one history: wide early in a budget, narrow late."""

    def spread(budget: int) -> float:
        study = optuna.create_study(direction="maximize")
        study.set_user_attr("budget_trials", budget)
        sampler = ActorCriticSampler(space=BOX, seed=1, updates=4)
        study.sampler = sampler
        for _ in range(8):
            _told(study, study.ask(BOX.distributions()))
        number = study.ask().number
        frozen = study.get_trials()[number]
        asked = [sampler.sample_relative(study, frozen, BOX.distributions()) for _ in range(60)]
        return float(np.std([list(params.values()) for params in asked], axis=0).mean())

    # Half of the noise of an action, since the cube is half as wide as [-1, 1].
    assert spread(10**6) == pytest.approx(0.15, rel=0.25)
    assert spread(9) == pytest.approx(0.025, rel=0.25)


def test_trials_that_end_out_of_order_are_learnt_in_the_order_in_which_they_ended() -> None:
    """A late one with an early date makes the same object start over, and so agree with a new one."""
    study = optuna.create_study(direction="maximize")
    sampler = ActorCriticSampler(space=BOX, seed=1, updates=8, n_startup=2)
    study.sampler = sampler
    for _ in range(6):
        _told(study, study.ask(BOX.distributions()))
    study.ask(BOX.distributions())
    early = optuna.trial.create_trial(
        value=-0.1,
        params={"x0": 0.1, "x1": 0.2, "x2": 0.3},
        distributions=BOX.distributions(),
        user_attrs={"state": "valid"},
    )
    early.datetime_complete = datetime.datetime(2020, 1, 1)
    study.add_trial(early)
    number = study.ask().number
    frozen = study.get_trials()[number]
    anew = ActorCriticSampler(space=BOX, seed=1, updates=8, n_startup=2)
    assert sampler.sample_relative(study, frozen, BOX.distributions()) == anew.sample_relative(
        study, frozen, BOX.distributions()
    )


def test_values_of_a_foreign_study_may_be_of_any_size() -> None:
    for scale in (1e-12, 1.0, 1e200, math.inf):
        study = optuna.create_study(sampler=ActorCriticSampler(space=BOX, seed=1, updates=4, n_startup=2))
        for number in range(6):
            trial = study.ask(BOX.distributions())
            study.tell(trial, number * scale if number else 0.0)
        assert BOX.violations(study.ask(BOX.distributions()).params) == []


def test_minimising_is_maximising_the_negative() -> None:
    def last(direction: str, sign: float) -> dict[str, Any]:
        study = optuna.create_study(
            direction=direction, sampler=ActorCriticSampler(space=BOX, seed=1, updates=8, n_startup=3)
        )
        for _ in range(8):
            trial = study.ask(BOX.distributions())
            study.tell(trial, sign * _value(trial.params))
        return study.trials[-1].params

    assert last("maximize", 1.0) == last("minimize", -1.0)


def test_it_gets_near_a_planted_optimum() -> None:
    study = optuna.create_study(
        direction="maximize", sampler=ActorCriticSampler(space=BOX, seed=1, n_trials=60, gamma=0.0)
    )
    for _ in range(60):
        _told(study, study.ask(BOX.distributions()))
    late = [list(trial.params.values()) for trial in study.trials[-10:]]
    assert np.abs(np.mean(late, axis=0) - 0.3).max() < 0.2


def test_nothing_worked_yet() -> None:
    study = optuna.create_study(sampler=ActorCriticSampler(space=BOX, seed=1, n_startup=2))
    for _ in range(4):
        study.tell(study.ask(BOX.distributions()), state=TrialState.FAIL)
    assert BOX.violations(study.ask(BOX.distributions()).params) == []


def test_an_ask_is_cheap() -> None:
    """The median of a study of 60 trials: what each new trial's updates cost, far below the bar of 0.3 CPU-s."""
    study = optuna.create_study(direction="maximize", sampler=ActorCriticSampler(space=BOX, seed=1))
    for config in BOX.sobol(60, 1):
        study.add_trial(
            optuna.trial.create_trial(value=_value(config), params=config, distributions=BOX.distributions())
        )
    study.ask(BOX.distributions())
    costs = []
    for _ in range(5):
        study.tell(study.ask(BOX.distributions()), 0.0)
        started = time.process_time()
        study.ask(BOX.distributions())
        costs.append(time.process_time() - started)
    assert np.median(costs) <= 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "sac"}, "allowed are 'td3' and 'ddpg', got 'sac'"),
        ({"gamma": 1.0}, r"gamma must lie in \[0, 1\), got 1.0"),
        ({"n_trials": 0}, "n_trials must be at least 1, got 0"),
        ({"n_startup": 0}, "n_startup must be at least 1, got 0"),
        ({"updates": -1}, "updates must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ActorCriticSampler(seed=1, **settings)


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=ActorCriticSampler(space=BOX, seed=0))
    with pytest.raises(StudyError, match="the study has 2"):
        study.ask(BOX.distributions())

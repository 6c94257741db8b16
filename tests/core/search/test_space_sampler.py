"""The wrapper itself: re-asks, repairs, pins, never repeats; the contract suites test the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mlsysopt.core.errors import SpaceError, UsageError
from mlsysopt.core.search import SpaceSampler
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space
from mlsysopt.testing.samplers import suggest


class Scripted(BaseSampler):
    """Proposes what a function says, together or one by one, and keeps what it was asked."""

    def __init__(self, answer: Callable[[int], dict[str, Any]], together: bool = True) -> None:
        self.answer, self.together = answer, together
        self.asked = 0
        self.spaces: list[dict[str, BaseDistribution]] = []
        self.seen: list[str] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(_SPACE.distributions()) if self.together else {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        self.spaces.append(search_space)
        self.asked += 1
        answer = self.answer(self.asked)
        return {name: answer[name] for name in search_space if name in answer}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self.answer(self.asked)[param_name]

    def reseed_rng(self) -> None:
        self.seen.append("reseed")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.seen.append("before")

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.seen.append("after")


_SPACE = Space([Int("a", 1, 9, default=1), Int("b", 1, 9, default=9)], constraints=["a < b"])


def _propose(sampler: SpaceSampler, study: Study | None = None) -> dict[str, Any]:
    study = study or optuna.create_study(sampler=sampler)
    study.sampler = sampler
    return study.ask(sampler.space.distributions()).params


@pytest.mark.parametrize("together", [True, False])
def test_asks_again_before_it_repairs(together: bool) -> None:
    base = Scripted(lambda n: {"a": 5, "b": 3} if n < 4 else {"a": 2, "b": 8}, together)
    assert _propose(SpaceSampler(base, _SPACE, seed=0)) == {"a": 2, "b": 8}
    assert base.asked == 4


@pytest.mark.parametrize("together", [True, False])
def test_repairs_the_first_proposal_at_last(together: bool) -> None:
    base = Scripted(lambda n: {"a": 6, "b": 5} if n == 1 else {"a": 9, "b": 1}, together)
    assert _propose(SpaceSampler(base, _SPACE, seed=0, reasks=3)) == _SPACE.repair({"a": 6, "b": 5})
    assert base.asked == 4


def test_a_base_with_one_answer_is_not_asked_for_it_again_and_again() -> None:
    space = Space([Float("x", 0, 1, default=0.1), Float("y", 0, 1, default=0.1)], constraints=["x + y <= 0.5"])
    base = Scripted(lambda n: {"x": 0.9, "y": 0.9})
    base.infer_relative_search_space = lambda study, trial: space.distributions()  # type: ignore[method-assign]
    assert _propose(SpaceSampler(base, space, seed=0)) == space.repair({"x": 0.9, "y": 0.9})
    assert base.asked == 2


def test_passes_hooks_on_and_names_the_base() -> None:
    base = Scripted(lambda n: {"a": 2, "b": 8})
    sampler = SpaceSampler(base, _SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_int("a", 1, 9), n_trials=1)
    sampler.reseed_rng()
    assert base.seen == ["before", "after", "reseed"]
    assert str(sampler) == "SpaceSampler(Scripted)"
    with pytest.raises(UsageError, match="at least 0"):
        SpaceSampler(base, _SPACE, seed=0, reasks=-1)


def test_never_repeats_a_finished_running_or_waiting_trial() -> None:
    """A base that always says the same, in a space of 36: all of them come, each once."""
    base = Scripted(lambda n: {"a": 4, "b": 6})
    sampler = SpaceSampler(base, _SPACE, seed=0, reasks=1)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"a": 4, "b": 6})
    seen: list[tuple[int, int]] = []
    waiting = study.ask(_SPACE.distributions())
    seen.append((waiting.params["a"], waiting.params["b"]))
    for number in range(35):
        trial = study.ask(_SPACE.distributions())
        seen.append((trial.params["a"], trial.params["b"]))
        if number % 3:
            study.tell(trial, 0.0)
    assert len(set(seen)) == 36 and all(a < b for a, b in seen)
    # Nothing is left: it repeats rather than fails.
    assert _propose(sampler, study) == {"a": 4, "b": 6}


def test_lost_trials_may_be_proposed_again() -> None:
    sampler = SpaceSampler(Scripted(lambda n: {"a": 4, "b": 6}), _SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    trial = study.ask(_SPACE.distributions())
    study.tell(trial, state=TrialState.FAIL)
    assert _propose(sampler, study) == {"a": 4, "b": 6}


def test_neighbours_of_a_taken_point_are_near() -> None:
    space = Space([Float("x", 0, 1), Float("y", 0, 1)], constraints=["x + y <= 1.5"])
    base = Scripted(lambda n: {"x": 0.7, "y": 0.8}, together=False)
    sampler = SpaceSampler(base, space, seed=0, reasks=0)
    study = optuna.create_study(sampler=sampler)
    points = []
    for _ in range(5):
        trial = study.ask(space.distributions())
        points.append([trial.params["x"], trial.params["y"]])
        study.tell(trial, 0.0)
    assert len({tuple(point) for point in points}) == 5
    assert np.linalg.norm(np.array(points) - [0.7, 0.8], axis=1).max() < 0.15


def test_trials_asked_before_any_is_suggested_differ() -> None:
    """Two trials are asked at once; neither has a parameter in the storage when it is decided."""
    sampler = SpaceSampler(Scripted(lambda n: {"a": 4, "b": 6}), _SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    first, second = study.ask(), study.ask()
    assert first.relative_params == {"a": 4, "b": 6}
    assert second.relative_params != {"a": 4, "b": 6}


def test_enqueued_values_are_kept_and_the_rest_fits() -> None:
    sampler = SpaceSampler(optuna.samplers.RandomSampler(seed=1), _SPACE, seed=0, reasks=0)
    study = optuna.create_study(sampler=sampler)
    for a in (8, 7, 1, 8):
        study.enqueue_trial({"a": a})
        params = study.ask(_SPACE.distributions()).params
        assert params["a"] == a and params["b"] > a
    study.enqueue_trial({"a": 9})
    with pytest.raises(SpaceError, match="no valid configuration has the enqueued a=9"):
        study.ask(_SPACE.distributions())


def test_long_ranges_of_whole_numbers_are_shown_as_continuous() -> None:
    """Optuna's GP would list 2**30 values: eight gigabytes."""
    space = Space([Int("cache", 1, 2**30, log=True), Int("n", 1, 99)])
    base = Scripted(lambda n: {"cache": 1234.6, "n": 5})
    base.infer_relative_search_space = lambda study, trial: space.distributions()  # type: ignore[method-assign]
    params = _propose(SpaceSampler(base, space, seed=0))
    assert base.spaces[0] == {"cache": FloatDistribution(1, 2**30, log=True), "n": IntDistribution(1, 99)}
    assert params == {"cache": 1235, "n": 5}
    assert type(params["cache"]) is int


def test_conditional_parameters_are_asked_only_when_active() -> None:
    asked: list[str] = []

    class Recording(optuna.samplers.RandomSampler):
        def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
            asked.append(param_name)
            return (
                "range"
                if param_name == "ahead?"
                else super().sample_independent(study, trial, param_name, param_distribution)
            )

    space = Space(
        [
            Int("bits", 1, 9),
            Choice("codec", ("none",)),
            Bool("on", default=True),
            Int("ahead", 1, 9, special=(0,)),
            Permutation("o", 2),
        ],
        conditions={"bits": "codec == 'none' and on", "o": "codec != 'none'"},
    )
    sampler = SpaceSampler(Recording(seed=0), space, seed=0)
    study = optuna.create_study(sampler=sampler)
    switched: set[bool] = set()
    for _ in range(6):
        asked.clear()
        params = study.ask().relative_params
        assert asked == ["codec", "on", "ahead?", "ahead", *(["bits"] if params["on"] else [])]
        assert params.keys() == set(asked)
        switched.add(params["on"])
    assert switched == {True, False}


def test_partial_fixed_and_threads_work() -> None:
    sampler: BaseSampler = SpaceSampler(optuna.samplers.RandomSampler(seed=1), _SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        params = {name: suggest(trial, name, one) for name, one in _SPACE.distributions().items()}
        assert params["a"] < params["b"]
        return float(params["a"])

    study.optimize(objective, n_trials=12, n_jobs=2)
    assert len({(trial.params["a"], trial.params["b"]) for trial in study.trials}) >= 11


def test_random_search_stays_uniform_where_most_points_are_invalid() -> None:
    """With few re-asks, repair would pile trials up on the edge of the valid region."""
    space = Space([Float("x", 0, 1, default=0.05), Float("y", 0, 1, default=0.05)], constraints=["x * y <= 0.02"])
    study = optuna.create_study(sampler=SpaceSampler(optuna.samplers.RandomSampler(seed=3), space, seed=0))
    products = []
    for _ in range(300):
        params = study.ask(space.distributions()).params
        products.append(params["x"] * params["y"])
    truth = [row["x"] * row["y"] for row in space.sample(np.random.default_rng(0), 3000)]
    assert np.mean(products) == pytest.approx(float(np.mean(truth)), rel=0.15)
    assert np.mean(np.array(products) > 0.0199) < 0.03


def test_a_space_whose_bounds_grew_goes_on_in_the_old_study() -> None:
    small = Space([Int("a", 1, 9), Choice("c", ("u", "v"))])
    study = optuna.create_study(
        sampler=SpaceSampler(optuna.samplers.TPESampler(seed=1, n_startup_trials=3), small, seed=0)
    )
    for _ in range(6):
        study.tell(study.ask(small.distributions()), 1.0)
    grown = small.with_bounds("a", high=30)
    study.sampler = SpaceSampler(optuna.samplers.TPESampler(seed=2, n_startup_trials=3), grown, seed=1)
    for _ in range(6):
        study.tell(study.ask(grown.distributions()), 1.0)
    assert len({(trial.params["a"], trial.params["c"]) for trial in study.trials}) == 12

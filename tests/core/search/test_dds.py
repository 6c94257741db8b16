"""Dynamically dimensioned search: its schedule, its steps, its budget, and both contract suites."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import TrialState

from mlsysopt.core.errors import StudyError, UsageError
from mlsysopt.core.search import SpaceSampler
from mlsysopt.core.search.dds import DDSSampler, neighbours, probability
from mlsysopt.core.search.past import Past, spending
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space
from mlsysopt.testing.samplers import SamplerContract


class TestInOptuna(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: DDSSampler(seed=0, n_startup=2)


class TestWrapped(SamplerContract):
    trials = 12

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return SpaceSampler(DDSSampler(space=space, seed=seed), space, seed=seed)


class TestAlone(SamplerContract):
    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return DDSSampler(space=space, seed=seed, n_trials=30)


MIXED = Space(
    [
        Float("x", -1.0, 3.0),
        Float("log", 1e-6, 1.0, log=True),
        Float("grid", 0.0, 1.0, step=0.25),
        Int("few", 1, 3),
        Int("many", 1, 2**30, log=True, special=(0, -1)),
        Bool("flag"),
        Choice("codec", ("a", "b", "c", "d")),
        Permutation("order", 5),
        Choice("fixed", ("only",)),
    ]
)
FLOATS = Space([Float(f"x{i}", 0.0, 1.0, default=0.3) for i in range(10)])


def _filled(space: Space, config: dict[str, Any], **kept: Any) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    _add(study, space, config, 1.0, **kept)
    return study


def _add(
    study: optuna.Study, space: Space, config: dict[str, Any], value: float, *, took_s: float = 0.0, **kept: Any
) -> None:
    params = space.to_params(config)
    trial = optuna.trial.create_trial(
        value=value,
        params=params,
        distributions={name: one for name, one in space.distributions().items() if name in params},
        user_attrs=kept.pop("user_attrs", {}),
        **kept,
    )
    trial.datetime_start = datetime.datetime(2026, 1, 1)
    trial.datetime_complete = trial.datetime_start + datetime.timedelta(seconds=took_s)
    study.add_trial(trial)


def _next(study: optuna.Study, space: Space, **settings: Any) -> dict[str, Any]:
    study.sampler = DDSSampler(**{"space": space, "seed": 3, "n_startup": 0, **settings})
    return space.from_params(study.ask(space.distributions()).params)


# --- the schedule ------------------------------------------------------------------------------------


def test_probability_is_the_published_one() -> None:
    """P(i) = 1 - ln(i) / ln(m) of evaluation i = 1 .. m (Tolson, Shoemaker 2007)."""
    for m in (2, 10, 100, 1000):
        for i in range(1, m + 1):
            f = (i - 1) / (m - 1)
            assert probability(f, m) == pytest.approx(1.0 - math.log(i) / math.log(m), abs=1e-12)


@given(st.floats(0.0, 1.0), st.floats(1.0, 1e9))
def test_probability_falls_from_one_to_nothing(f: float, n: float) -> None:
    assert probability(0.0, n) == 1.0
    assert probability(1.0, n) == pytest.approx(0.0, abs=1e-9)
    assert -1e-9 <= probability(f, n) <= 1.0
    assert probability(min(f + 0.1, 1.0), n) <= probability(f, n) + 1e-9


def test_shares_beyond_the_budget_count_as_its_ends() -> None:
    assert probability(-0.5, 50) == 1.0
    assert probability(2.0, 50) == 0.0
    assert probability(0.25, 1) == 0.75
    with pytest.raises(UsageError, match=r"at least 1, got 0.5"):
        probability(0.1, 0.5)


@pytest.mark.parametrize("f", [0.0, 0.1, 0.4, 1.0])
def test_as_many_knobs_move_as_the_schedule_says(f: float) -> None:
    """Counts are binomial in P, but for the draws without any, in which exactly one knob moves."""
    study, d, draws = _filled(FLOATS, FLOATS.default()), len(FLOATS), 200
    study.sampler = DDSSampler(space=FLOATS, seed=7, share=lambda study, trial: f, n_trials=100, n_startup=0)
    moved = []
    for _ in range(draws):
        trial = study.ask(FLOATS.distributions())
        # Told as one that failed, so that the incumbent stays.
        study.tell(trial, state=TrialState.FAIL)
        moved.append(sum(trial.params[name] != value for name, value in FLOATS.default().items()))
    p = probability(f, 100)
    expected = d * p + (1.0 - p) ** d
    spread = math.sqrt(d * p * (1.0 - p) / draws)
    assert min(moved) >= 1
    assert abs(float(np.mean(moved)) - expected) <= 4 * spread + 1e-12


def test_the_budget_of_a_study_sets_the_schedule() -> None:
    """Nearly all knobs move early in a budget, one in its last trial."""
    study = _filled(FLOATS, FLOATS.default())
    study.set_user_attr("budget_trials", 3)
    _add(study, FLOATS, {**FLOATS.default(), "x0": 0.9}, 0.0)
    config = _next(study, FLOATS)
    assert sum(config[name] != 0.3 for name in FLOATS.names) == 1
    again = optuna.create_study(direction="maximize")
    again.set_user_attr("budget_trials", 10**9)
    _add(again, FLOATS, FLOATS.default(), 1.0)
    assert sum(value != 0.3 for value in _next(again, FLOATS).values()) >= 8


# --- the budget --------------------------------------------------------------------------------------


def _spent(study: optuna.Study, n_trials: int | None = None) -> tuple[float, float]:
    number = study.ask().number
    return spending(study, study.get_trials(deepcopy=False)[number], n_trials)


def test_seconds_are_those_of_finished_trials_and_refusals_are_cheap() -> None:
    study = optuna.create_study(direction="maximize")
    study.set_user_attr("budget_s", 100.0)
    study.set_user_attr("budget_trials", 5)
    _add(study, FLOATS, FLOATS.default(), 0.0, user_attrs={"state": "valid"})
    for seconds in (4.0, 6.0, 5.0):
        _add(study, FLOATS, FLOATS.default(), 0.0, took_s=seconds, user_attrs={"state": "valid"})
    for _ in range(10):
        _add(study, FLOATS, FLOATS.default(), 0.0, took_s=0.5, user_attrs={"state": "rejected"})
    share, n = _spent(study)
    assert share == pytest.approx(0.2)
    assert n == pytest.approx(20.0)


def test_without_a_budget_trials_are_counted() -> None:
    study = optuna.create_study(direction="maximize")
    assert _spent(study) == (0.0, 100.0)
    # The trial that was asked for above still runs; it counts.
    assert _spent(study, n_trials=11) == (0.1, 11.0)
    _add(study, FLOATS, FLOATS.default(), 0.0, user_attrs={"state": "refused"})
    _add(study, FLOATS, FLOATS.default(), 0.0, user_attrs={"state": "lost"})
    assert _spent(study, n_trials=11) == (0.2, 11.0)
    study.set_user_attr("budget_trials", 4)
    assert _spent(study, n_trials=11) == (1.0, 4.0)


def test_seconds_without_any_run_yet() -> None:
    study = optuna.create_study()
    study.set_user_attr("budget_s", 60.0)
    assert _spent(study) == (0.0, 100.0)


# --- the steps ---------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.2, 1.0]))
def test_what_moves_changes_and_what_stays_is_the_same(seed: int, chance: float) -> None:
    rng = np.random.default_rng(seed)
    config = MIXED.sample(rng, 1)[0]
    for found in neighbours(MIXED, config, chance, 0.2, rng):
        assert MIXED.violations(found) == []
        changed = {name for name in MIXED.names if found[name] != config[name]}
        assert changed
        assert "fixed" not in changed
        if chance == 0.0:
            assert len(changed) == 1
        if chance == 1.0:
            assert len(changed) == len(MIXED) - 1
        if "order" in changed:
            assert sum(a != b for a, b in zip(found["order"], config["order"], strict=True)) == 2


def test_steps_are_normal_and_reflected() -> None:
    """From the middle the spread is the radius; from an end no step is thrown away or stuck there."""
    space = Space([Float("x", 0.0, 10.0)])
    rng = np.random.default_rng(1)

    def steps(x: float) -> np.ndarray:
        rounds = (next(neighbours(space, {"x": x}, 1.0, 0.2, rng)) for _ in range(1500))
        return np.array([one["x"] for one in rounds])

    assert np.std(steps(5.0)) == pytest.approx(2.0, rel=0.06)
    ends = steps(0.0)
    assert ends.min() > 0.0
    assert np.mean(ends) == pytest.approx(2.0 * math.sqrt(2.0 / math.pi), rel=0.06)


def test_knobs_that_are_not_active_do_not_count_as_the_one_that_moves() -> None:
    space = Space([Bool("on"), Int("depth", 1, 100, default=50)], conditions={"depth": "on"})
    rng = np.random.default_rng(0)
    found = [next(neighbours(space, space.default(), 0.0, 0.2, rng)) for _ in range(20)]
    # Switched on, the other knob starts at its default.
    assert all(one == {"on": True, "depth": 50} for one in found)


def test_a_space_with_one_configuration_is_proposed_again() -> None:
    space = Space([Choice("only", ("one",))])
    assert _next(_filled(space, {"only": "one"}), space) == {"only": "one"}


def test_small_spaces_are_used_up_before_anything_repeats() -> None:
    space = Space([Bool("a"), Int("b", 1, 3)])
    study = optuna.create_study(sampler=DDSSampler(space=space, seed=0))
    for _ in range(6):
        study.tell(study.ask(space.distributions()), 1.0)
    assert len({space.canonical(space.from_params(trial.params)) for trial in study.trials}) == 6


# --- the incumbent -----------------------------------------------------------------------------------


def test_starts_with_the_default_then_sobol_points() -> None:
    study = optuna.create_study(direction="maximize", sampler=DDSSampler(space=FLOATS, seed=2))
    asked = [study.ask(FLOATS.distributions()) for _ in range(6)]
    configs = [FLOATS.from_params(trial.params) for trial in asked]
    assert configs[0] == FLOATS.default()
    assert len({FLOATS.canonical(config) for config in configs}) == 6


def test_greedy_around_the_best_valid_feasible_trial() -> None:
    study = optuna.create_study(direction="maximize")
    for x, value, kept in (
        (0.2, 1.0, {}),
        (0.5, 5.0, {"user_attrs": {"state": "crashed"}}),
        (0.6, 4.0, {"constraints": {"memory": 0.5}}),
        (0.7, 2.0, {"user_attrs": {"state": "valid", "effective": {"x0": 0.75}}}),
        (0.9, 1.5, {}),
    ):
        _add(study, FLOATS, {**FLOATS.default(), "x0": x}, value, **kept)
    past = Past()
    past.read(study, FLOATS, ignore=99)
    best = past.incumbent()
    assert best is not None
    assert best.config["x0"] == 0.75
    config = _next(study, FLOATS, share=lambda study, trial: 1.0, seed=1)
    assert sum(config[name] != best.config[name] for name in FLOATS.names) == 1


def test_the_least_infeasible_leads_while_nothing_is_feasible_and_equals_move_on() -> None:
    study = optuna.create_study(direction="minimize")
    for x, value, excess in ((0.1, 1.0, 2.0), (0.2, 3.0, 0.5), (0.3, 3.0, 0.5)):
        _add(study, FLOATS, {**FLOATS.default(), "x0": x}, value, constraints={"memory": excess, "disk": -9.0})
    past = Past()
    past.read(study, FLOATS, ignore=99)
    best = past.incumbent()
    assert best is not None
    assert best.config["x0"] == 0.3


def test_nothing_worked_yet() -> None:
    study = optuna.create_study(direction="maximize")
    _add(study, FLOATS, FLOATS.default(), -1.0, user_attrs={"state": "crashed"})
    assert FLOATS.violations(_next(study, FLOATS)) == []


def test_a_sampler_built_anew_goes_on_the_same_way() -> None:
    def run(parts: tuple[int, ...]) -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize")
        for count in parts:
            study.sampler = DDSSampler(space=MIXED, seed=4, n_trials=20)
            for _ in range(count):
                trial = study.ask(MIXED.distributions())
                study.tell(trial, -abs(trial.params["x"] - 0.4))
        return [trial.params for trial in study.trials]

    assert run((16,)) == run((9, 4, 3))


def test_repairs_only_when_no_step_is_valid() -> None:
    """From a corner of a narrow band every single step leaves it."""
    space = Space([Float("a", 0.0, 1.0), Float("b", 0.0, 1.0)], constraints=["abs(a - b) <= 0.0001"])
    config = _next(_filled(space, {"a": 0.5, "b": 0.5}), space, share=lambda study, trial: 1.0)
    assert space.violations(config) == []
    assert config != {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("settings", [{"n_trials": 0}, {"n_startup": -1}, {"radius": 0.0}, {"radius": 1.5}])
def test_numbers_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"{next(iter(settings))} must .*got {next(iter(settings.values()))}"):
        DDSSampler(seed=1, **settings)


def test_several_objectives_are_refused_with_the_way_out() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=DDSSampler(space=FLOATS, seed=0))
    with pytest.raises(StudyError, match="has 2; use tpe or nsga2"):
        study.ask(FLOATS.distributions())

"""The model of p(valid), the wrapper that uses it, and what must not change before anything has failed."""

from __future__ import annotations

import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState

from mlsysopt.core.search import SpaceSampler, StructuredGPSampler, registry, validity
from mlsysopt.core.search.evidence import Evidence
from mlsysopt.core.search.validity import ValidityModel, ValiditySampler, for_structured
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space
from mlsysopt.testing.samplers import SamplerContract, suggest

SQUARE = Space([Float("x", 0.0, 1.0, default=0.1), Float("y", 0.0, 1.0, default=0.1)])
MIXED = Space(
    [
        Int("size", 1, 2**20, log=True, default=64),
        Int("ahead", 1, 2**10, log=True, special=(0,), default=0),
        Bool("on", default=True),
        Int("bits", 1, 20, default=10),
        Choice("codec", ("none", "fast", 3)),
        Permutation("order", 3),
    ],
    constraints=["ahead <= size"],
    conditions={"bits": "on"},
)


def _corner(n: int = 40, seed: int = 0, space: Space = SQUARE) -> list[Evidence]:
    """Half of the square fails: where the sum is large."""
    points = space.sample(np.random.default_rng(seed), n)
    return [
        Evidence(one, one["x"] + one["y"] <= 1.0, "" if one["x"] + one["y"] <= 1.0 else "crashed") for one in points
    ]


def _run(sampler: BaseSampler, space: Space, works: Callable[[dict[str, Any]], bool], n: int) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(n):
        _step(study, space, works)
    return study


def _step(study: optuna.Study, space: Space, works: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    trial = study.ask()
    chosen = trial.relative_params
    params = {name: suggest(trial, name, one) for name, one in space.distributions().items() if name in chosen}
    config = space.from_params(params)
    trial.set_user_attr("config", space.canonical(config))
    trial.set_user_attr("state", "valid" if works(config) else "rejected")
    trial.set_constraint("valid", -1.0 if works(config) else 1.0)
    study.tell(trial, float(len(params)))
    return config


# --- the model -------------------------------------------------------------------------------------


def test_p_is_one_before_any_failure() -> None:
    model = ValidityModel(MIXED, [Evidence(one, True) for one in MIXED.sample(np.random.default_rng(0), 5)])
    assert not model.has_failures and model.rules == ()
    assert model.p(MIXED.sample(np.random.default_rng(1), 9)).tolist() == [1.0] * 9
    assert ValidityModel(MIXED, []).log_p(np.full((3, MIXED.dims()), 0.3)).tolist() == [0.0] * 3


def test_one_failure_leaves_most_of_the_space_likely() -> None:
    model = ValidityModel(SQUARE, [Evidence({"x": 0.9, "y": 0.9}, False, "crashed")])
    p = model.p(SQUARE.sample(np.random.default_rng(0), 200))
    assert p.min() > 0.3 and p.max() < 0.9


def test_it_learns_a_boundary_and_is_calibrated() -> None:
    model = ValidityModel(SQUARE, _corner(80))
    fresh = SQUARE.sample(np.random.default_rng(7), 2000)
    p = model.p(fresh)
    works = np.array([one["x"] + one["y"] <= 1.0 for one in fresh])
    assert np.mean((p >= 0.5) == works) > 0.9
    assert np.mean((p - works) ** 2) < 0.1


def test_positions_and_configurations_agree_and_a_seed_decides() -> None:
    known = [Evidence(one, one["size"] < 500, "rejected") for one in MIXED.sample(np.random.default_rng(0), 40)]
    configs = MIXED.sample(np.random.default_rng(1), 50)
    first, again, other = (ValidityModel(MIXED, known, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.p(configs), again.p(configs))
    assert (first.p(configs) != other.p(configs)).any()
    np.testing.assert_allclose(np.exp(first.log_p(MIXED.encode_many(configs))), np.maximum(first.p(configs), 1e-12))
    assert first.p([]).shape == first.log_p(np.zeros((0, MIXED.dims()))).shape == (0,)


def test_hard_rules_are_zero_and_soft_ones_discount() -> None:
    space = Space([Int("a", 1, 10_000, log=True, default=10), Float("b", 0.0, 1.0)])
    refused = Evidence({"a": 5000}, False, "rejected", ("a",), True, ("a",))
    soft = ValidityModel(space, [refused])
    (rule,) = soft.rules
    assert not rule.hard and rule.support == 1
    hard = ValidityModel(space, [refused, Evidence({"a": 900}, True, probe=True)])
    assert hard.rules[0].hard
    assert hard.p([{"a": 9000}]).tolist() == [0.0]
    assert hard.log_p(space.encode_many([{"a": 9000}])).tolist() == [math.log(1e-12)]
    # Beside the boundary only the rule makes a difference: two thirds for one refusal.
    beside = soft.p([{"a": 5000, "b": 0.3}])[0]
    soft._expressions.clear()
    assert beside == pytest.approx(soft.p([{"a": 5000, "b": 0.3}])[0] * 2 / 3)


def test_starting_is_told_from_running() -> None:
    """Everything starts, the upper half dies under load: starts must not talk the model out of it."""
    points = SQUARE.sample(np.random.default_rng(0), 60)
    trials = [Evidence(one, one["x"] <= 0.5, "crashed") for one in points[:30]]
    probes = [Evidence(one, True, probe=True) for one in SQUARE.sample(np.random.default_rng(5), 200)]
    model = ValidityModel(SQUARE, [*trials, *probes])
    upper, lower = model.p([{"x": 0.9, "y": 0.5}, {"x": 0.2, "y": 0.5}])
    assert upper < 0.3 and lower > 0.7
    # The same probes do talk it out of a failure to start.
    refused = [Evidence(one.config, one.valid, "rejected") for one in trials]
    assert ValidityModel(SQUARE, [*refused, *probes]).p([{"x": 0.9, "y": 0.5}])[0] > 0.5


def test_bounds_that_narrowed_do_not_make_their_edge_fail() -> None:
    wide = [Evidence({"x": 5.0 + i, "y": 0.5}, False, "rejected") for i in range(20)]
    assert not ValidityModel(SQUARE, wide).has_failures


# --- the wrapper -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "tpe", "cmaes", "qmc"])
def test_before_any_failure_it_is_exactly_its_base(name: str) -> None:
    plain = registry.sampler(name, space=MIXED, seed=4)
    wrapped = ValiditySampler(registry.sampler(name, space=MIXED, seed=4), MIXED, seed=4)
    runs = [[trial.params for trial in _run(one, MIXED, lambda config: True, 14).trials] for one in (plain, wrapped)]
    assert runs[0] == runs[1]
    assert wrapped.asked_again == 0


def test_before_any_failure_a_bare_base_is_left_alone() -> None:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 1, 9) + len(trial.suggest_categorical("c", "ab"))

    runs: list[Any] = []
    for one in (TPESampler(seed=3), ValiditySampler(TPESampler(seed=3), seed=0)):
        study = optuna.create_study(sampler=one)
        study.optimize(objective, n_trials=20)
        runs.append([trial.params for trial in study.trials])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("base", [lambda: RandomSampler(seed=0), lambda: TPESampler(seed=0, multivariate=True)])
def test_proposals_keep_to_the_space_and_to_what_works(base: Callable[[], BaseSampler]) -> None:
    """Conditions, a special value, a permutation, a constraint: through a bare base as through a wrapped one."""

    def works(config: dict[str, Any]) -> bool:
        return config["size"] <= 4096 and config["codec"] != 3

    for inner in (base(), SpaceSampler(base(), MIXED, seed=0)):
        known = [Evidence({"size": 2**20}, False, "rejected")]
        sampler = ValiditySampler(inner, MIXED, seed=0, probes=lambda known=known: known)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        configs = [_step(study, MIXED, works) for _ in range(24)]
        assert all(MIXED.violations(one) == [] and set(one) == {*MIXED.active(one)} for one in configs)
        assert len({MIXED.canonical(one) for one in configs}) == 24
        assert sampler.asked_again > 0
        late = [works(one) for one in configs[12:]]
        assert sum(late) >= 8, sum(late)


def test_one_ask_in_ten_may_refute_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubtful(ValidityModel):
        def _estimate(self, x: Any, codes: Any) -> Any:
            return np.where(x[:, 0] > 0.5, 0.3, 0.9)

    monkeypatch.setattr(validity, "ValidityModel", Doubtful)
    sampler = ValiditySampler(SpaceSampler(RandomSampler(seed=1), SQUARE, seed=1), SQUARE, seed=1, probes=_corner)
    study = optuna.create_study(sampler=sampler)
    far: dict[int, bool] = {}
    for _ in range(60):
        trial = study.ask(SQUARE.distributions())
        far[trial.number] = trial.params["x"] > 0.5
    assert not any(at for number, at in far.items() if number % 10 != 9)
    assert any(at for number, at in far.items() if number % 10 == 9)


class Stubborn(RandomSampler):
    """Gives one answer, however often it is asked, and counts."""

    asked = 0

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return SQUARE.distributions()

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        self.asked += 1
        return {"x": 0.9, "y": 0.8}


def test_a_base_with_one_answer_is_asked_twice_and_its_nearest_likely_neighbour_taken() -> None:
    base = Stubborn()
    sampler = ValiditySampler(base, SQUARE, seed=0, probes=lambda: _corner(80))
    study = optuna.create_study(sampler=sampler)
    params = study.ask(SQUARE.distributions()).params
    assert (base.asked, sampler.asked_again) == (2, 1)
    model = sampler.model(study)
    assert model is not None and model.p([params])[0] >= 0.5
    # On the near side of the boundary, and near it; not just anywhere.
    assert 0.75 < params["x"] + params["y"] < 1.25
    again = study.ask(SQUARE.distributions()).params
    assert again != params


def test_a_base_that_is_not_to_be_asked_again_is_not() -> None:
    base = Stubborn()
    sampler = ValiditySampler(SpaceSampler(base, SQUARE, seed=0, reasks=0), SQUARE, seed=0, probes=lambda: _corner(80))
    assert optuna.create_study(sampler=sampler).ask(SQUARE.distributions()).params["x"] < 0.9
    assert (base.asked, sampler.asked_again) == (1, 0)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([0.6], 1), ([0.01, 0.6], 2), ([0.01, 0.02, 0.6], 2), ([0.3, 0.01, 0.6], 3), ([0.01, 0.3, 0.2, 0.6], 3),
    ],
)  # fmt: skip
def test_a_base_is_asked_a_third_time_only_if_an_answer_came_near(
    answers: list[float], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p is the first parameter; a half is needed, and an eighth is near."""

    class First(ValidityModel):
        def _estimate(self, x: Any, codes: Any) -> Any:
            return x[:, 0]

    class Scripted(Stubborn):
        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            self.asked += 1
            return {"x": answers[self.asked - 1], "y": 0.5}

    monkeypatch.setattr(validity, "ValidityModel", First)
    base = Scripted()
    sampler = ValiditySampler(base, SQUARE, seed=0, probes=_corner)
    x = optuna.create_study(sampler=sampler).ask(SQUARE.distributions()).params["x"]
    assert (base.asked, sampler.asked_again) == (asked, asked - 1)
    assert (x == answers[asked - 1]) is (answers[asked - 1] >= 0.5) and x >= 0.5


def test_the_nearest_likely_candidate_is_that_of_a_plain_search() -> None:
    """Conditions, special values and a permutation: against every candidate as a configuration, one by one."""
    known = [
        Evidence(one, one["size"] < 500 and one["codec"] != 3, "rejected")
        for one in MIXED.sample(np.random.default_rng(0), 40)
    ]
    model = ValidityModel(MIXED, known)
    taken: set[str] = set()
    for i, config in enumerate(MIXED.sample(np.random.default_rng(1), 4) * 2):
        found = validity._nearest(model, config, 0.5, taken, np.random.default_rng(i % 4))
        at = MIXED.encode(config)
        positions = validity._candidates(at, model.worked, np.random.default_rng(i % 4))
        decoded = [MIXED.decode(u) for u in positions]
        free = [one for one in decoded if not MIXED.violations(one) and MIXED.canonical(one) not in taken]
        far = np.linalg.norm(MIXED.encode_many(free) - at, axis=1)
        key = list(zip(-np.minimum(model.p(free), 0.5), far, strict=True))
        assert MIXED.canonical(found) == MIXED.canonical(free[key.index(min(key))])
        # The second time round each of them is taken.
        taken.add(MIXED.canonical(found))
    assert len(taken) == 8


def test_where_every_candidate_is_taken_the_proposal_stays() -> None:
    space = Space([Bool("on")])
    model = ValidityModel(space, [Evidence({"on": False}, False, "rejected")])
    taken = {space.canonical({"on": on}) for on in (True, False)}
    assert validity._nearest(model, {"on": False}, 0.5, taken, np.random.default_rng(0)) == {"on": False}


def test_what_a_user_enqueued_is_not_judged() -> None:
    sampler = ValiditySampler(
        SpaceSampler(RandomSampler(seed=0), SQUARE, seed=0), SQUARE, seed=0, probes=lambda: _corner(80)
    )
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"x": 0.95, "y": 0.99})
    study.enqueue_trial({"x": 0.97})
    assert study.ask(SQUARE.distributions()).params == {"x": 0.95, "y": 0.99}
    assert study.ask(SQUARE.distributions()).params["x"] == 0.97
    assert sampler.asked_again == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fixed = optuna.samplers.PartialFixedSampler({"x": 0.98}, sampler)
    assert optuna.create_study(sampler=fixed).ask(SQUARE.distributions()).params["x"] == 0.98


def test_two_that_run_at_once_differ() -> None:
    sampler = ValiditySampler(Stubborn(), SQUARE, seed=0, probes=lambda: _corner(80))
    study = optuna.create_study(sampler=sampler)
    first, second = study.ask(), study.ask()
    assert first.relative_params != second.relative_params


def test_without_a_space_it_goes_by_optunas_distributions() -> None:
    sampler = ValiditySampler(RandomSampler(seed=1), seed=1)
    study = optuna.create_study(sampler=sampler)
    failed: list[bool] = []

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 1e-3, 1e3, log=True)
        kind = trial.suggest_categorical("kind", ("u", "v", None))
        if trial.number % 2:
            trial.suggest_int("sometimes", 1, 9)
        trial.suggest_int("always", 3, 3)
        failed.append(x > 1.0 and kind != "u")
        if failed[-1]:
            raise ValueError("does not start")
        return x

    study.optimize(objective, n_trials=40, catch=ValueError)
    model = sampler.model(study)
    assert model is not None and set(model.space.names) == {"x", "kind"}
    assert sum(failed[20:]) <= 4


def test_a_rebuilt_sampler_judges_alike() -> None:
    def works(config: dict[str, Any]) -> bool:
        return config["x"] + config["y"] <= 0.8

    def make() -> ValiditySampler:
        return ValiditySampler(Stubborn(), SQUARE, seed=5, probes=lambda: _corner(10))

    study = _run(make(), SQUARE, works, 12)
    answers: list[dict[str, Any]] = []
    for _ in range(2):
        copy = optuna.create_study(direction="maximize", sampler=make())
        copy.add_trials(study.trials)
        answers.append(copy.ask(SQUARE.distributions()).params)
    assert answers[0] == answers[1]
    assert answers[0] == study.ask(SQUARE.distributions()).params


def test_hooks_are_passed_on() -> None:
    seen: list[str] = []

    class Watched(RandomSampler):
        def before_trial(self, study: Any, trial: Any) -> None:
            seen.append("before")

        def after_trial(self, study: Any, trial: Any, state: TrialState, values: Any) -> None:
            seen.append("after")

        def reseed_rng(self) -> None:
            seen.append("reseed")

    sampler = ValiditySampler(Watched(seed=0), SQUARE, seed=0)
    assert str(sampler) == "ValiditySampler(Watched)"
    _run(sampler, SQUARE, lambda config: False, 1)
    sampler.reseed_rng()
    assert seen == ["before", "after", "reseed"]


def test_enough_is_known_in_a_fraction_of_a_second() -> None:
    """Not the bar itself, which `bench/` holds: twice its allowance, in CPU seconds, on whatever machine."""
    space = Space([Float(f"k{i}", 0.0, 1.0, default=0.3) for i in range(30)])

    def label(config: dict[str, Any], probe: bool) -> Evidence:
        valid = config["k0"] + config["k1"] <= 1.0
        return Evidence(config, valid, "" if valid else "rejected", (), probe)

    known = [label(one, i >= 60) for i, one in enumerate(space.sample(np.random.default_rng(0), 160))]
    spent: list[float] = []
    for seed in range(3):
        sampler = ValiditySampler(
            SpaceSampler(RandomSampler(seed=seed), space, seed=0), space, seed=0, probes=lambda: known
        )
        study = optuna.create_study(sampler=sampler)
        begun = time.process_time()
        study.ask(space.distributions())
        spent.append(time.process_time() - begun)
    assert sorted(spent)[1] < 0.6, spent


# --- in the Gaussian-process sampler ----------------------------------------------------------------


def test_the_structured_sampler_takes_it() -> None:
    calls: list[int] = []

    def probes() -> list[Evidence]:
        calls.append(1)
        return _corner(60)

    sampler = StructuredGPSampler(space=SQUARE, seed=1, n_startup=4, validity=for_structured(SQUARE, probes, seed=1))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    sums: list[float] = []
    for _ in range(14):
        trial = study.ask(SQUARE.distributions())
        total = trial.params["x"] + trial.params["y"]
        sums.append(total)
        trial.set_user_attr("state", "valid" if total <= 1.0 else "timeout")
        # The objective pulls into the corner that fails.
        study.tell(trial, total if total <= 1.0 else 0.0)
    assert len(calls) == 9
    late = sums[6:]
    assert sum(total <= 1.0 for total in late) >= 5, late
    assert max(total for total in sums if total <= 1.0) > 0.9


def test_its_validity_is_one_before_anything_fails() -> None:
    study = optuna.create_study(sampler=StructuredGPSampler(space=SQUARE, seed=1))
    for _ in range(3):
        study.tell(study.ask(SQUARE.distributions()), 1.0)
    history = StructuredGPSampler(space=SQUARE, seed=1)._read(study, SQUARE)
    assert for_structured(SQUARE)(history)(np.array([[0.2, 0.9], [0.5, 0.5]])).tolist() == [1.0, 1.0]


# --- the contracts ---------------------------------------------------------------------------------


class TestAroundRandom(SamplerContract):
    """Random search learns nothing; what is learned here is the wrapper's."""

    trials = 12
    learning_seeds = (1,)

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return ValiditySampler(SpaceSampler(RandomSampler(seed=seed), space, seed=seed), space, seed=seed)


class TestAroundTPE(SamplerContract):
    trials = 12
    learning_seeds = (1,)

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return ValiditySampler(registry.sampler("tpe", space=space, seed=seed), space, seed=seed)


class TestAroundBareBase(SamplerContract):
    """The space's rules are kept by the wrapper from the first failure on, so one is known from the start."""

    trials = 10
    learning_seeds = (1,)

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        far = space.sample(np.random.default_rng(99), 2)
        known = [Evidence(one, False, "rejected") for one in far]
        return ValiditySampler(TPESampler(seed=seed), space, seed=seed, probes=lambda: known)


class IgnoresP(ValiditySampler):
    def model(self, study: optuna.Study) -> ValidityModel | None:
        found = super().model(study)
        if found is not None:
            found.__dict__["_forests"] = []
            found.__dict__["rules"] = ()
        return found


def test_the_contract_catches_a_wrapper_that_ignores_its_model() -> None:
    class Mutant(SamplerContract):
        def make_sampler(self, space: Space, seed: int) -> BaseSampler:
            return IgnoresP(SpaceSampler(RandomSampler(seed=seed), space, seed=seed), space, seed=seed)

    with pytest.raises(AssertionError, match="fell into the half that fails"):
        Mutant().test_learns_from_failures()


class TestOptunasContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Around a sampler that proposes together, without a space of ours."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ValiditySampler(TPESampler(seed=0, multivariate=True, n_startup_trials=0), seed=0)


class TestOptunasContractAfterFailures(BasicSamplerTestCase, RelativeSamplerTestCase):
    """The suites ask for parameters of their own; those of the space are judged beside them."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        space = Space([Int("v", 1, 9), Float("w", 0.0, 10.0)], constraints=["v <= 5 or w <= 5"])
        known = [Evidence({"w": one / 2}, one < 12, "rejected") for one in range(20)]
        return lambda: ValiditySampler(RandomSampler(seed=0), space, seed=0, probes=lambda: known)


def test_neither_torch_nor_sklearn_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, mlsysopt.core.search.validity as v\n"
        "found = {'torch', 'sklearn'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The sampler: what it reads from trials, what it proposes, what it explains."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from mlsysopt.core.errors import StudyError
from mlsysopt.core.search.structured import StructuredGPSampler
from mlsysopt.core.space import Choice, Float, Int, Space

KNOWLEDGE = {"read_us": ["block", "codec"], "write_us": ["buffer", "count"]}


def _space() -> Space:
    return Space(
        [
            Int("block", 1, 256, default=4, log=True),
            Int("buffer", 1, 256, default=64, log=True),
            Int("count", 1, 8, default=2),
            Float("ratio", 0.0, 1.0),
            Choice("codec", ("none", "fast", "dense"), default="fast"),
        ],
        constraints=["buffer * count <= 512"],
    )


def _costs(config: dict[str, Any]) -> dict[str, float]:
    codec = {"none": 0.1, "fast": 0.0, "dense": 0.4}[config["codec"]]
    read = 0.05 * (math.log2(config["block"]) - 4.5) ** 2 + codec
    write = 0.04 * (math.log2(config["buffer"]) - 6.5) ** 2 + 0.03 * abs(config["count"] - 3)
    return {"read_us": read, "write_us": write}


def _gain(config: dict[str, Any]) -> float:
    costs = _costs(config)
    return -math.log(0.8 * math.exp(costs["read_us"]) + 0.2 * math.exp(costs["write_us"]))


def _finish(
    study: optuna.Study, space: Space, config: dict[str, Any], *, value: float | None = None, **attributes: Any
) -> None:
    constraints = attributes.pop("constraints", None)
    study.add_trial(
        optuna.trial.create_trial(
            value=_gain(config) if value is None else value,
            params=space.to_params(config),
            distributions=space.distributions(),
            user_attrs={"state": "valid", "config": space.canonical(config), **attributes},
            constraints=constraints,
        )
    )


def _run(study: optuna.Study, space: Space, trials: int, tell: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    for _ in range(trials):
        trial = study.ask(space.distributions())
        config = space.from_params(trial.params)
        for name, value in tell(config).items():
            trial.set_user_attr(name, value)
        study.tell(trial, _gain(config))


def _metrics(config: dict[str, Any]) -> dict[str, Any]:
    costs = _costs(config)
    return {"state": "valid", "metrics": {**costs, "throughput": _gain(config)}, "noise": dict.fromkeys(costs, 1e-4)}


def _filled(n: int, **attributes: Any) -> tuple[optuna.Study, Space]:
    space = _space()
    study = optuna.create_study(direction="maximize")
    for config in space.sobol(n, 1):
        _finish(study, space, config, **{**_metrics(config), **attributes})
    return study, space


def _proposal(study: optuna.Study, space: Space, **settings: Any) -> dict[str, Any]:
    study.sampler = StructuredGPSampler(space=space, seed=5, **settings)
    return space.from_params(study.ask(space.distributions()).params)


def test_starts_with_the_default_then_sobol_points() -> None:
    space = _space()
    study = optuna.create_study(direction="maximize", sampler=StructuredGPSampler(space=space, seed=2))
    _run(study, space, 6, _metrics)
    configs = [space.from_params(trial.params) for trial in study.trials]
    assert configs[0] == space.default()
    assert len({space.canonical(config) for config in configs}) == 6


def test_it_finds_the_planted_optimum_with_few_trials() -> None:
    space = _space()
    study = optuna.create_study(
        direction="maximize", sampler=StructuredGPSampler(space=space, seed=3, knowledge=KNOWLEDGE)
    )
    _run(study, space, 20, _metrics)
    best = max(_gain(config) for config in space.sobol(4096, 0))
    assert study.best_value > best - 0.03


def test_minimising_the_negative_is_the_same_search() -> None:
    space = _space()
    up, _ = _filled(9)
    down = optuna.create_study(direction="minimize")
    for trial in up.trials:
        config = space.from_params(trial.params)
        _finish(down, space, config, value=-(trial.value or 0.0), **_metrics(config))
    assert _proposal(up, space, knowledge=KNOWLEDGE) == _proposal(down, space, knowledge=KNOWLEDGE)


def test_a_sampler_built_anew_goes_on_the_same_way() -> None:
    space = _space()
    whole = optuna.create_study(
        direction="maximize", sampler=StructuredGPSampler(space=space, seed=4, knowledge=KNOWLEDGE)
    )
    _run(whole, space, 16, _metrics)
    broken = optuna.create_study(direction="maximize")
    for _ in range(16):
        broken.sampler = StructuredGPSampler(space=space, seed=4, knowledge=KNOWLEDGE)
        _run(broken, space, 1, _metrics)
    assert [trial.params for trial in whole.trials] == [trial.params for trial in broken.trials]


def test_the_objective_itself_is_no_subgoal() -> None:
    study, space = _filled(12)
    sampler = StructuredGPSampler(space=space, seed=1)
    assert {row.metric for row in sampler.explain(study)} == {"read_us", "write_us"}


def test_explain_names_knobs_weights_and_aggregator() -> None:
    study, space = _filled(24)
    rows = StructuredGPSampler(space=space, seed=1, knowledge=KNOWLEDGE).explain(study)
    assert all(row.in_use and row.explained is not None and row.explained > 0.9 for row in rows)
    assert rows[0].aggregator == "formula"
    by_metric: dict[str, list[str]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row.knob)
    assert by_metric["read_us"][0] in KNOWLEDGE["read_us"]
    assert rows[0].metric == "read_us" and rows[0].effect == pytest.approx(-0.8, abs=0.1)


def test_metrics_that_explain_nothing_are_dropped_and_said() -> None:
    rng = np.random.default_rng(0)
    space = _space()
    study = optuna.create_study(direction="maximize")
    for config in space.sobol(14, 1):
        _finish(study, space, config, metrics={"weather": float(rng.normal())})
    sampler = StructuredGPSampler(space=space, seed=1)
    assert sampler.model(study).choice is None
    assert all(not row.in_use and row.aggregator == "plain" for row in sampler.explain(study))


def test_guards_keep_it_out() -> None:
    space = _space()
    study = optuna.create_study(
        direction="maximize", sampler=StructuredGPSampler(space=space, seed=6, knowledge=KNOWLEDGE)
    )
    # The planted optimum of `block` lies at 23; the guard allows 8.
    for _ in range(22):
        trial = study.ask(space.distributions())
        config = space.from_params(trial.params)
        for name, value in _metrics(config).items():
            trial.set_user_attr(name, value)
        trial.set_constraint("valid", -1.0)
        trial.set_constraint("memory", math.log2(config["block"]) - 3.0)
        study.tell(trial, _gain(config))
    late = [space.from_params(trial.params)["block"] for trial in study.trials[10:]]
    assert sum(block <= 8 for block in late) >= 9
    feasible = [trial.value or 0.0 for trial in study.trials if trial.constraints["memory"] <= 0]
    best = max(_gain(config) for config in space.sobol(4096, 0) if config["block"] <= 8)
    assert max(feasible) > best - 0.05


def test_failures_teach_without_numbers() -> None:
    space = _space()
    failed = 0
    for seed in (5, 6, 7):
        sampler = StructuredGPSampler(space=space, seed=seed, knowledge=KNOWLEDGE)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(24):
            trial = study.ask(space.distributions())
            config = space.from_params(trial.params)
            if config["block"] > 12:
                trial.set_user_attr("state", "crashed")
                study.tell(trial, -5.0)
                failed += trial.number >= 12
            else:
                for name, value in _metrics(config).items():
                    trial.set_user_attr(name, value)
                study.tell(trial, _gain(config))
        assert sampler._read(study, space).gain.min() > -5.0
    # More than half of the space fails, and the best of it would be there.
    assert failed <= 14


def test_a_timeout_is_one_bad_observation() -> None:
    study, space = _filled(10)
    config = {**space.default(), "block": 23, "buffer": 91}
    sampler = StructuredGPSampler(space=space, seed=1, knowledge=KNOWLEDGE)
    before = sampler.model(study).predict(space.encode(config)[None])[0][0]
    _finish(study, space, config, value=-3.0, state="timeout")
    after = sampler.model(study).predict(space.encode(config)[None])[0][0]
    worst = min(trial.value or 0.0 for trial in study.trials[:10])
    assert after < before - 0.1
    assert after > worst - 0.5


@pytest.mark.parametrize("state", ["lost", "infrastructure"])
def test_what_is_nobodys_fault_is_ignored(state: str) -> None:
    study, space = _filled(9)
    config = space.sobol(1, 99)[0]
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.FAIL,
            params=space.to_params(config),
            distributions=space.distributions(),
            user_attrs={"state": state, "config": space.canonical(config)},
        )
    )
    sampler = StructuredGPSampler(space=space, seed=1)
    assert len(sampler._read(study, space).failed) == 0


def test_effective_values_are_modelled_and_not_tried_again() -> None:
    study, space = _filled(8)
    asked = {**space.default(), "count": 6, "buffer": 70}
    real = {**asked, "count": 5}
    attributes: dict[str, Any] = {**_metrics(real), "effective": {"count": 5, "foreign": 1, "buffer": 1e9}}
    _finish(study, space, asked, **attributes)
    history = StructuredGPSampler(space=space, seed=1)._read(study, space)
    column = space.column_names().index("count")
    assert history.x[-1, column] == pytest.approx(space.encode(real)[column])
    assert space.canonical(asked) in history.seen
    assert history.x[-1, space.column_names().index("buffer")] == pytest.approx(1.0, abs=0.01)


def test_running_trials_are_believed_and_not_repeated() -> None:
    study, space = _filled(12)
    study.sampler = StructuredGPSampler(space=space, seed=8, knowledge=KNOWLEDGE)
    configs = [space.from_params(study.ask(space.distributions()).params) for _ in range(4)]
    assert len({space.canonical(config) for config in configs}) == 4
    u = space.encode_many(configs)
    gaps = [np.linalg.norm(u[i] - u[j]) for i in range(4) for j in range(i)]
    assert max(gaps) > 0.1


def test_wrong_knowledge_costs_samples_not_the_optimum() -> None:
    space = _space()
    wrong = {"read_us": ["count", "ratio"], "write_us": ["codec", "block"]}
    study = optuna.create_study(direction="maximize", sampler=StructuredGPSampler(space=space, seed=9, knowledge=wrong))
    _run(study, space, 35, _metrics)
    best = max(_gain(config) for config in space.sobol(4096, 0))
    assert study.best_value > best - 0.06


def test_a_metric_that_one_trial_lacks_is_left_out() -> None:
    study, space = _filled(8)
    config = space.sobol(20, 3)[-1]
    _finish(study, space, config, metrics={"read_us": _costs(config)["read_us"]})
    history = StructuredGPSampler(space=space, seed=1)._read(study, space)
    assert set(history.metrics) == {"read_us"}
    assert math.isnan(history.partial["write_us"][-1])


def test_infinite_values_do_not_reach_the_models() -> None:
    study, space = _filled(8)
    for value in (math.inf, -math.inf):
        _finish(study, space, space.sobol(40, 4)[-1 if value > 0 else -2], value=value)
    history = StructuredGPSampler(space=space, seed=1)._read(study, space)
    assert np.isfinite(history.gain).all()
    assert len(history.failed) == 1
    assert space.violations(_proposal(study, space)) == []


def test_many_trials_still_ask_quickly_and_consistently() -> None:
    """Beyond the size at which every trial refits, a fit of the older trials is extended."""
    study, space = _filled(63)
    once = _proposal(study, space, knowledge=KNOWLEDGE)
    again, _ = _filled(63)
    assert once == _proposal(again, space, knowledge=KNOWLEDGE)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"subgoals": "magic"}, "allowed are 'auto'"),
        ({"subgoals": "knowledge"}, "needs knowledge="),
        ({"subgoals": {"read_us": ["blok"]}}, "did you mean block"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(StudyError, match=match):
        StructuredGPSampler(space=_space(), **settings)


def test_a_given_map_is_used_as_it_is() -> None:
    study, space = _filled(20)
    sampler = StructuredGPSampler(space=space, seed=1, subgoals={"read_us": ["block", "codec", "ratio"]})
    assert {row.knob for row in sampler.explain(study)} == {"block", "codec", "ratio"}


def test_too_few_trials_to_explain() -> None:
    study, space = _filled(1)
    with pytest.raises(StudyError, match="at least 2"):
        StructuredGPSampler(space=space).model(study)
    with pytest.raises(StudyError, match="pass space="):
        StructuredGPSampler().explain(optuna.create_study())


def test_a_guard_is_learned_from_knobs_that_its_map_leaves_out() -> None:
    """Strict maps are believed; the automatic one is a hint."""
    study, space = _filled(0)
    for config in space.sobol(24, 2):
        told = _metrics(config)
        told["metrics"]["heat"] = heat = config["ratio"] - 0.5
        _finish(study, space, config, **told, constraints={"heat": heat})
    known = {**KNOWLEDGE, "heat": ["codec"]}
    at = np.asarray(space.encode_many([{**space.default(), "ratio": ratio} for ratio in (0.05, 0.95)]))
    rise = {}
    for subgoals in ("auto", "knowledge"):
        sampler = StructuredGPSampler(space=space, seed=1, knowledge=known, subgoals=subgoals)
        mean, _ = sampler.model(study).guards["heat"].posterior(at)
        rise[subgoals] = mean[1] - mean[0]
    assert rise["auto"] > 0.7
    assert abs(rise["knowledge"]) < 0.05


def test_the_noise_of_a_gain_is_what_repeats_showed() -> None:
    study, space = _filled(20, noise={"throughput": 0.04})
    assert StructuredGPSampler(space=space, seed=1).model(study).noise == pytest.approx(0.2)
    assert StructuredGPSampler(space=space, seed=1).model(_filled(20)[0]).noise == 0.0

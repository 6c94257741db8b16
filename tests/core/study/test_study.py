"""Whole studies on a target whose truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from mlsysopt.core.errors import InfrastructureError, PluginError, StoreError, StudyError, TargetError
from mlsysopt.core.study import Event, Result, Study
from mlsysopt.core.target import Failure, Limits, Measurement
from mlsysopt.testing.planted import Planted, PlantedSession


def study(target: Planted | None = None, **given: object) -> Study:
    settings: dict[str, object] = {"maximize": "throughput", "sampler": "random", "seed": 3, **given}
    return Study(target or Planted(), **settings)  # type: ignore[arg-type]


def test_a_planted_gain_is_found_and_verified_near_its_truth() -> None:
    target = Planted()
    result = study(target).run(30)
    assert result.status == "proven" and result.exit_code == 0
    assert result.winner is not None
    told = result.verified["throughput"]
    truth = target.truth(result.config)["throughput"] / target.truth({})["throughput"]
    assert told.low <= truth <= told.high
    assert truth > 1.2


def test_nothing_to_gain_is_called_not_proven_and_the_default_is_written(tmp_path: Path) -> None:
    result = study(Planted(gain=False, noise=0.05)).run(12)
    assert result.status == "not proven" and result.exit_code == 4
    path = result.write(tmp_path / "out.json")
    assert json.loads(path.read_text()) == Planted().space().default()


def test_no_invalid_configuration_is_ever_recorded_and_failures_are_kept() -> None:
    one = study(Planted(noise=0.01), seed=11)
    one.run(60, verify=False)
    trials = one.trials()
    assert all(one.space.violations(trial.config) == [] for trial in trials if trial.config)
    failed = [trial for trial in trials if trial.state in ("rejected", "timeout")]
    assert failed and all(trial.reason for trial in failed)


def test_failures_reach_the_sampler_as_violated_constraints_with_the_worst_value() -> None:
    one = study(Planted(noise=0.01), seed=11)
    one.run(60, verify=False)
    with one.open_store() as store:
        stored = store.study(one.name, identity=one.identity(), directions=["maximize"], load_only=True)
        trials = stored.get_trials()
    worst = min(trial.values[0] for trial in trials if trial.user_attrs["state"] == "valid")
    names = {frozenset(trial.constraints) for trial in trials}
    assert names == {frozenset({"valid", "write_us"})}
    for trial in trials:
        if trial.user_attrs["state"] in ("rejected", "timeout"):
            assert trial.constraints["valid"] > 0 and trial.values[0] <= max(worst, 0.0)


def test_values_told_are_log_ratios_to_the_canary_beside_them() -> None:
    one = study(Planted(noise=0.3), seed=5)
    one.run(6, verify=False)
    with one.open_store() as store:
        rows = store.measurements(one.name)
    for trial in one.trials():
        if not trial.valid or trial.is_default:
            continue
        got = [
            row.metrics["throughput"]
            for row in rows
            if row.trial == trial.number and row.role == "trial" and row.metrics
        ]
        beside = [
            row.metrics["throughput"]
            for row in rows
            if row.trial == trial.number and row.role == "canary" and row.metrics
        ]
        expected = sum(math.log(a / b) for a, b in zip(got, beside, strict=True)) / len(got)
        assert trial.gains[0] == pytest.approx(expected)


def test_a_would_be_leader_defends_itself_and_a_loser_is_measured_once() -> None:
    one = study(Planted(noise=0.2), seed=5)
    one.run(20, verify=False)
    rounds = {trial.number: trial.rounds for trial in one.trials() if trial.valid and not trial.is_default}
    assert max(rounds.values()) > 1
    assert min(rounds.values()) == 1


def test_the_starts_are_the_same_for_every_sampler() -> None:
    seen = []
    for sampler in ("random", "tpe"):
        one = study(sampler=sampler)
        one.run(6, verify=False)
        seen.append([dict(trial.config) for trial in one.trials()[:6]])
    assert seen[0] == seen[1]
    assert seen[0][0] == Planted().space().default()


def test_same_seed_same_store_same_sequence_and_another_seed_another(tmp_path: Path) -> None:
    def sequence(seed: int) -> list[dict[str, object]]:
        one = study(seed=seed)
        one.run(12, verify=False)
        return [dict(trial.config) for trial in one.trials()]

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


def test_running_again_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    study(store=path).run(6, verify=False)
    again = study(store=path)
    again.run(10, verify=False)
    trials = again.trials()
    assert len(trials) == 10
    assert len({json.dumps(dict(trial.config), sort_keys=True) for trial in trials}) == 10
    with again.open_store() as store:
        assert len(store.measurements(again.name, role="baseline")) == 3


def test_a_broken_guard_rules_a_candidate_out_even_when_it_is_faster() -> None:
    class Cheats(Planted):
        def truth(self, config: object) -> dict[str, float]:
            found = super().truth(config)  # type: ignore[arg-type]
            return {**found, "write_us": 10.0 if not config else 30.0}

    result = study(Cheats()).run(20)
    assert result.status == "not proven"
    assert "guard" in result.reason or "within its guards" in result.reason


def test_static_limits_refuse_before_a_run_is_spent() -> None:
    one = study(guard={"memory_bytes": "<= 128MiB"}, seed=2)
    one.run(15, verify=False)
    refused = [trial for trial in one.trials() if trial.state == "refused"]
    assert refused and all("memory_bytes" in trial.reason for trial in refused)
    with one.open_store() as store:
        measured = {row.trial for row in store.measurements(one.name, role="trial")}
    assert measured.isdisjoint(trial.number for trial in refused)


def test_several_objectives_return_a_front() -> None:
    result = study(maximize="throughput", minimize="write_us", guard={"write_us": "off"}).run(20)
    assert len(result.objectives) == 2
    gains = [point["gains"] for point in result.pareto]
    assert gains
    assert not any(a != b and all(x >= y for x, y in zip(a, b, strict=True)) for a in gains for b in gains)


def test_a_default_that_fails_stops_the_study_with_its_log() -> None:
    with pytest.raises(TargetError, match=r"the default itself fails.*three times[\s\S]*planted: abort"):
        study(Planted(broken_default=True)).run(5)


def test_time_budget_too_small_for_one_trial_says_how_much_is_needed() -> None:
    with pytest.raises(StudyError, match="smallest workable budget is"):
        study(SlowClock()).run("5s")


class SlowClock(Planted):
    """Pretends that every run takes a second."""

    def session(self, limits: Limits, *, purpose: str = "search"):  # type: ignore[no-untyped-def, override]
        from contextlib import nullcontext

        return nullcontext(_OneSecond(self))


class _OneSecond(PlantedSession):
    def measure(self, config, *, seed, fidelity=1.0, timeout_s=None):  # type: ignore[no-untyped-def]
        outcome = PlantedSession.measure(self, config, seed=seed)
        assert isinstance(outcome, Measurement)
        return replace(outcome, wall_s=1.0)


class _Scripted:
    """A session that gives prepared outcomes first."""

    def __init__(self, target: Planted, outcomes: list[Failure]) -> None:
        self.inner, self.outcomes = PlantedSession(target), outcomes

    def measure(self, config, *, seed, fidelity=1.0, timeout_s=None):  # type: ignore[no-untyped-def]
        if config and self.outcomes:
            return self.outcomes.pop(0)
        return self.inner.measure(config, seed=seed)


class Scripted(Planted):
    """A target whose candidates fail as scripted."""

    script: ClassVar[list[Failure]] = []

    def session(self, limits: Limits, *, purpose: str = "search"):  # type: ignore[no-untyped-def, override]
        from contextlib import nullcontext

        return nullcontext(_Scripted(self, type(self).script))


def test_infrastructure_is_retried_once_and_not_blamed() -> None:
    class Once(Scripted):
        script: ClassVar[list[Failure]] = [Failure("infrastructure", "port 1 is taken")]

    one = study(Once())
    one.run(4, verify=False)
    assert [trial.state for trial in one.trials()] == ["valid"] * 4


def test_infrastructure_twice_stops_the_study_and_loses_nothing(tmp_path: Path) -> None:
    class Twice(Scripted):
        script: ClassVar[list[Failure]] = [Failure("infrastructure", "disk full: 0 B free")] * 2

    path = tmp_path / "tune.db"
    with pytest.raises(InfrastructureError, match=r"twice: disk full"):
        study(Twice(), store=path).run(4, verify=False)
    again = study(store=path)
    again.run(4, verify=False)
    states = [trial.state for trial in again.trials()]
    assert states.count("lost") == 1 and states.count("valid") == 4


def test_a_target_that_raises_is_named_with_file_and_line() -> None:
    class Raises(Planted):
        def session(self, limits: Limits, *, purpose: str = "search"):  # type: ignore[no-untyped-def, override]
            from contextlib import nullcontext

            return nullcontext(self)

        def measure(self, config, *, seed, fidelity=1.0, timeout_s=None):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError("oops")

    with pytest.raises(PluginError, match=r"'planted' raised in Session.measure.*oops.*test_study.py:\d+"):
        study(Raises()).run(3)


def test_ctrl_c_ends_cleanly_with_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"

    def stop(event: Event) -> None:
        if event.kind == "asked" and event.data["trial"] == 4:
            raise KeyboardInterrupt

    result = study(store=path, on_event=stop).run(10)
    assert result.status == "interrupted" and result.exit_code == 130
    again = study(store=path)
    again.run(8, verify=False)
    assert [trial.state for trial in again.trials()].count("valid") >= 7


def test_a_store_of_another_target_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    study(store=path).run(3, verify=False)
    with pytest.raises(StoreError, match="gain"):
        study(Planted(gain=False), store=path).run(3, verify=False)


def test_a_result_survives_its_json() -> None:
    result = study().run(15)
    again = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert again.text() == result.text()
    assert again.to_json() == result.to_json()


def test_verification_uses_seeds_that_no_trial_used() -> None:
    one = study()
    one.run(15)
    with one.open_store() as store:
        rows = store.measurements(one.name)
    searched = {row.seed for row in rows if row.role != "verify"}
    verified = {row.seed for row in rows if row.role == "verify"}
    assert verified and searched.isdisjoint(verified)


def test_five_rounds_cannot_be_asked_for() -> None:
    one = study()
    one.run(4, verify=False)
    with pytest.raises(StudyError, match="at least 6"):
        one.verify(rounds=5)


def test_verifying_several_together() -> None:
    one = study()
    one.run(25, verify=False)
    result = one.verify(top=3)
    assert 1 <= len(result.candidates) <= 3
    assert result.status == "proven"


def test_the_same_command_again_gives_the_stored_result_without_measuring(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    first = study(store=path).run(12)
    again = study(store=path)
    with again.open_store() as store:
        before = len(store.measurements(again.name))
    second = again.run(12)
    assert second.to_json() == first.to_json()
    with again.open_store() as store:
        assert len(store.measurements(again.name)) == before

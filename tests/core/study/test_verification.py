"""Verifications that are stopped: what was proven stays, finished rounds are not measured again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.processes.identity import start_ticks, this_process
from mlsysopt.core.store import MeasurementRow
from mlsysopt.core.study import Event, Result, Study
from mlsysopt.core.target import Config, Failure, Limits, Measurement, Outcome, Purpose
from mlsysopt.testing.planted import Planted, PlantedSession

Ratios = list[dict[str, tuple[float, ...]]]


@dataclass(frozen=True)
class Stopping(Planted):
    """Its verification is stopped before run `script["stop"]`; configurations in `script["fail"]` fail."""

    script: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def session(self, limits: Limits, *, purpose: Purpose = "search") -> Generator[StoppingSession]:  # type: ignore[override]
        yield StoppingSession(self, purpose, self.script.get("folder"))


@dataclass
class StoppingSession:
    target: Stopping
    purpose: Purpose
    folder: Path | None
    runs: int = 0

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        if self.purpose == "verify":
            if self.runs == self.target.script.get("stop"):
                raise KeyboardInterrupt
            self.runs += 1
            if config and dict(config) in self.target.script.get("fail", []):
                return Failure("crashed", "as scripted")
        outcome = PlantedSession(self.target).measure(config, seed=seed)
        if self.purpose == "search" and "baseline_s" in self.target.script and isinstance(outcome, Measurement):
            # A run is said to take long, so that time is left to verify; what was spent says less than the clock.
            self.runs += 1
            return replace(outcome, wall_s=self.target.script["baseline_s"] if self.runs <= 3 else outcome.wall_s)
        return outcome


class Case:
    """One study whose verification can be stopped."""

    def __init__(self, path: Path | None, **given: Any) -> None:
        self.script: dict[str, Any] = {}
        self.said: list[Event] = []
        self.given = {
            "maximize": "throughput",
            "sampler": "random",
            "seed": 3,
            "store": path,
            "guard": {"write_us": "off"},
            **given,
        }
        self.study = self.again()

    def again(self, **given: Any) -> Study:
        self.study = Study(Stopping(script=self.script), **{"on_event": self.said.append, **self.given, **given})
        return self.study

    def rows(self) -> list[MeasurementRow]:
        with self.study._borrowed() as store:
            return store.measurements(self.study.name, role="verify")

    def stored(self) -> Result:
        return self.study._last_result()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose search is done and whose verification is not."""
    path = tmp_path_factory.mktemp("searched") / "tune.db"
    made = Case(path)
    made.script["baseline_s"] = 0.3
    made.study.run(12, verify=False)
    return path


@pytest.fixture
def case(searched: Path, tmp_path: Path) -> Case:
    shutil.copy(searched, tmp_path / "tune.db")
    return Case(tmp_path / "tune.db")


@pytest.fixture(scope="module")
def undisturbed(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Ratios]:
    """The ratios of verifications that were never stopped."""

    @cache
    def run(top: int = 1) -> Ratios:
        path = tmp_path_factory.mktemp("undisturbed") / "tune.db"
        shutil.copy(searched, path)
        return ratios(Case(path).study.verify(top=top))

    return run


def measured(rows: list[MeasurementRow]) -> Counter[tuple[int, str, int]]:
    return Counter((row.trial, row.side, row.seed) for row in rows)


def again_measured(rows: list[MeasurementRow]) -> set[int]:
    """Return the seeds of the rounds of which something was measured more than once."""
    return {seed for (_, _, seed), count in measured(rows).items() if count > 1}


def ratios(result: Result) -> Ratios:
    return [{name: ratio.per_round for name, ratio in one.ratios.items()} for one in result.candidates]


# --- the verdict ---------------------------------------------------------------------------------


def test_ctrl_c_in_a_second_verification_leaves_the_verdict(case: Case) -> None:
    proven = case.study.verify()
    assert proven.status == "proven"
    case.script["stop"] = 5
    stopped = case.study.verify()
    assert stopped.status == "interrupted" and stopped.exit_code == 130
    assert "the verdict stored before stands: proven" in stopped.reason
    assert case.stored().to_json() == proven.to_json()


def test_ctrl_c_in_a_longer_search_leaves_the_verdict_and_the_next_run_verifies_the_new_trials(case: Case) -> None:
    proven = case.study.verify()

    def stop(event: Event) -> None:
        if event.kind == "asked" and event.data["trial"] == 14:
            raise KeyboardInterrupt

    assert case.again(on_event=stop).run(20).status == "interrupted"
    assert case.stored().to_json() == proven.to_json()
    # Every trial of the budget is there, only the verification is missing: the old verdict is not the answer.
    case.script["stop"] = 3
    assert case.again().run(20).status == "interrupted"
    assert case.stored().to_json() == proven.to_json()
    del case.script["stop"]
    assert case.again().run(20).counts["valid"] > proven.counts["valid"]
    assert case.stored().counts["valid"] > proven.counts["valid"]


def test_a_search_without_verification_leaves_the_verdict(case: Case) -> None:
    proven = case.study.verify()
    assert case.again().run(14, verify=False).status == "unverified"
    assert case.stored().to_json() == proven.to_json()


def test_without_a_verdict_an_interruption_is_what_is_known(case: Case) -> None:
    case.script["stop"] = 2
    assert case.study.verify().status == "interrupted"
    assert case.stored().status == "interrupted"


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 7, 10, 11])
def test_a_stopped_verification_goes_on_and_ends_like_one_that_never_stopped(
    case: Case, undisturbed: Callable[[int], Ratios], stop: int
) -> None:
    case.script["stop"] = stop
    assert case.study.verify().status == "interrupted"
    del case.script["stop"]
    before = case.rows()
    result = case.again().verify()
    assert any("going on with the verification" in event.text for event in case.said)
    # Whole rounds are kept; of a half one the first side is measured again, beside the second.
    half = {before[-1].seed} if stop % 2 else set()
    assert again_measured(case.rows()) == half
    assert len(case.rows()) == 12 + len(half)
    assert ratios(result) == undisturbed(1)
    assert result.status == "proven" and case.stored().to_json() == result.to_json()


def test_it_may_be_stopped_again_and_again(case: Case, undisturbed: Callable[[int], Ratios]) -> None:
    for _ in range(5):
        case.script["stop"] = 3
        assert case.again().verify().status == "interrupted"
    del case.script["stop"]
    assert ratios(case.again().verify()) == undisturbed(1)
    # Each attempt finishes one round and loses half of the next.
    assert sum(count - 1 for count in measured(case.rows()).values()) <= 5


def test_the_run_command_goes_on_too(case: Case) -> None:
    case.script["stop"] = 6
    assert case.again().run(12).status == "interrupted"
    del case.script["stop"]
    assert case.again().run(12).status == "proven"
    assert set(measured(case.rows()).values()) == {1}


def test_a_time_budget_that_was_used_up_is_not_spent_again(case: Case) -> None:
    case.script["stop"] = 6
    assert case.study.run("8s").status == "interrupted"
    del case.script["stop"]
    before = case.study.trials()
    assert case.again().run("8s").status == "proven"
    assert case.study.trials() == before
    assert set(measured(case.rows()).values()) == {1}


def test_in_memory_as_well() -> None:
    case = Case(None)
    case.study.run(12, verify=False)
    case.script["stop"] = 6
    case.study.verify()
    del case.script["stop"]
    assert case.study.verify().status == "proven"
    assert set(measured(case.rows()).values()) == {1}


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 7, 8])
def test_several_together_go_on(case: Case, undisturbed: Callable[[int], Ratios], stop: int) -> None:
    case.script["stop"] = stop
    case.study.verify(top=3)
    del case.script["stop"]
    before = case.rows()
    result = case.again().verify(top=3)
    half = {before[-1].seed} if stop % 4 else set()
    assert again_measured(case.rows()) == half
    assert ratios(result) == undisturbed(3)


def test_a_candidate_that_failed_is_not_run_again(case: Case) -> None:
    leading = case.study.verify(rounds=6).candidates[0].config
    case.script.update(fail=[dict(leading)], stop=6)
    assert case.study.verify().status == "interrupted"
    del case.script["stop"]
    first = len(case.rows())
    result = case.again().verify()
    assert [candidate.verdict for candidate in result.candidates] == ["failed", "proven"]
    failed = [row for row in case.rows() if row.failure_kind]
    assert len(failed) == 1
    assert len(case.rows()) == first + 8


def test_a_verdict_closes_it_and_the_next_verification_is_measured_anew(case: Case) -> None:
    case.script["stop"] = 4
    case.study.verify()
    del case.script["stop"]
    case.again().verify()
    before = case.rows()
    case.again().verify()
    fresh = case.rows()[len(before) :]
    assert len(fresh) == 12
    assert {row.seed for row in fresh}.isdisjoint(row.seed for row in before)


# --- anew ----------------------------------------------------------------------------------------


def stopped(case: Case) -> set[int]:
    case.script["stop"] = 6
    case.study.verify()
    del case.script["stop"]
    return {row.seed for row in case.rows()}


def fresh_seeds(case: Case, before: set[int], result: Result) -> None:
    seeds = [row.seed for row in case.rows()][6:]
    assert set(seeds).isdisjoint(before)
    assert result.candidates[0].ratios["throughput"].rounds >= 6


def test_another_number_of_rounds_is_another_verification(case: Case) -> None:
    before = stopped(case)
    fresh_seeds(case, before, case.again().verify(rounds=8))


def test_other_candidates_are_another_verification(case: Case) -> None:
    before = stopped(case)
    fresh_seeds(case, before, case.again().verify(top=2))


def test_another_guard_is_another_verification(case: Case) -> None:
    before = stopped(case)
    fresh_seeds(case, before, case.again(guard={"write_us": "<= 1.4x"}).verify())


def test_another_place_is_another_verification(case: Case, tmp_path: Path) -> None:
    case.script["folder"] = tmp_path / "one" / "not made yet"
    before = stopped(case)
    case.script["folder"] = tmp_path / "two"
    fresh_seeds(case, before, case.again().verify())


def test_another_device_at_the_same_place_is_another_verification(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.script["folder"] = tmp_path
    before = stopped(case)
    real = Path.stat

    def elsewhere(self: Path, **given: Any) -> Any:
        found = real(self, **given)
        if self != tmp_path:
            return found
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))

    monkeypatch.setattr(Path, "stat", elsewhere)
    fresh_seeds(case, before, case.again().verify())


def test_another_machine_is_another_verification(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stopped(case)
    me = this_process()
    monkeypatch.setattr("mlsysopt.core.study.judging.this_process", lambda: replace(me, host="elsewhere"))
    fresh_seeds(case, before, case.again().verify())


def test_what_a_living_process_verifies_is_left_to_it(case: Case) -> None:
    before = stopped(case)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        ticks = start_ticks(other.pid)
        owner = replace(this_process(), pid=other.pid, ticks=ticks or 0)
        assert ticks
        keys = reowned(case, owner.to_json())
        fresh_seeds(case, before, case.again().verify())
        other.communicate(b"\n")
    assert keys
    # Now it is dead, and its rounds are there to go on with.
    case.again().verify()
    assert set(measured(case.rows()).values()) == {1}
    assert len(case.rows()) == 12 + 12


def reowned(case: Case, owner: Mapping[str, Any]) -> list[str]:
    """Say that another process runs the open verification."""
    import optuna

    with case.study._borrowed() as store:
        study = optuna.load_study(study_name=case.study.name, storage=store.optuna)
        keys = [key for key, value in study.user_attrs.items() if key.startswith("verification:") and value]
        for key in keys:
            study.set_user_attr(key, {**study.user_attrs[key], "owner": dict(owner)})
    return keys

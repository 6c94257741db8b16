"""Several workers on one study: real processes, some of them killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest

from mlsysopt.core.errors import InfrastructureError, PluginError, StudyError
from mlsysopt.core.processes import descendants
from mlsysopt.core.store import MeasurementRow
from mlsysopt.core.study import Event, Study
from mlsysopt.core.target import Config, Failure, Limits, Outcome, Purpose
from mlsysopt.testing.planted import Planted, PlantedSession


@dataclass(frozen=True)
class Clocked(Planted):
    """Takes real time and says when; in a worker it may die, or raise.

    Args:
        parent: Process number of the one that starts the workers.
        killed: File that the first worker to measure a candidate makes before it kills itself.
        all_die: Every worker kills itself.
        raises: Every worker raises.
    """

    parent: int = 0
    killed: Path | None = None
    all_die: bool = False
    raises: bool = False

    @contextmanager
    def session(self, limits: Limits, *, purpose: Purpose = "search") -> Generator[ClockedSession]:  # type: ignore[override]
        yield ClockedSession(self)


@dataclass(frozen=True)
class ClockedSession:
    target: Clocked

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        target, began, started = self.target, time.time(), time.monotonic()
        if config and os.getpid() != target.parent:
            if target.raises:
                raise ZeroDivisionError("in a worker")
            if target.all_die or (target.killed is not None and _first(target.killed)):
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        outcome = PlantedSession(target).measure(config, seed=seed)
        if isinstance(outcome, Failure):
            return outcome
        return replace(outcome, started_at=began, wall_s=time.monotonic() - started)


def _first(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Study]:
    def study(*, sampler: Any = "random", on_event: Any = None, **target: Any) -> Study:
        return Study(
            Clocked(parent=os.getpid(), **target),
            maximize="throughput",
            guard={"write_us": "off"},
            sampler=sampler,
            store=tmp_path / "tune.db",
            seed=3,
            on_event=on_event,
        )

    return study


def rows_of(study: Study, role: Any) -> list[MeasurementRow]:
    with study.open_store() as store:
        return store.measurements(study.name, role=role)


def configs(study: Study) -> list[str]:
    return [json.dumps(dict(trial.config), sort_keys=True) for trial in study.trials() if trial.config]


def test_two_workers_share_the_budget_and_never_the_cores(make: Callable[..., Study]) -> None:
    running = set(descendants(os.getpid()))
    said: list[Event] = []
    study = make(on_event=said.append)
    result = study.run(16, workers=2)
    assert result.status == "proven"
    trials = study.trials()
    assert {trial.state for trial in trials} <= {"valid", "rejected", "timeout"}
    assert 16 <= len(trials) <= 17
    # No two proposals are the same, no two runs of the search have the same seed.
    assert len(set(configs(study))) == len(trials)
    rows = rows_of(study, "trial")
    assert len({row.seed for row in rows}) == len(rows)
    assert len({row.worker for row in rows}) == 2
    # The default was measured once for all.
    assert len(rows_of(study, "baseline")) == 3
    spans = sorted(
        (row.started_at, row.started_at + row.wall_s)
        for role in ("baseline", "canary", "trial", "verify")
        for row in rows_of(study, role)
    )
    assert all(end <= start + 1e-3 for (_, end), (start, _) in pairwise(spans))
    told = [event.data["trial"] for event in said if event.kind == "trial"]
    assert sorted(told) == [trial.number for trial in trials if not trial.is_default]
    assert all("left_s" in event.data for event in said if event.kind == "trial")
    assert set(descendants(os.getpid())) <= running


def test_a_killed_worker_loses_its_trial_and_the_others_go_on(make: Callable[..., Study], tmp_path: Path) -> None:
    said: list[Event] = []
    study = make(on_event=said.append, killed=tmp_path / "killed")
    assert study.run(14, workers=2).status == "proven"
    states = [trial.state for trial in study.trials()]
    assert states.count("lost") == 1 and "running" not in states
    assert len(states) - 1 >= 14
    lost = next(trial for trial in study.trials() if trial.state == "lost")
    assert any("a worker died" in event.text for event in said)
    assert sum(event.data.get("trial") == lost.number and "lost" in event.text for event in said) == 1
    done = [trial for trial in study.trials() if trial.state != "lost"]
    assert len({json.dumps(dict(trial.config), sort_keys=True) for trial in done}) == len(done)


def test_when_all_die_it_says_so_and_the_next_run_goes_on(make: Callable[..., Study]) -> None:
    with pytest.raises(InfrastructureError, match=r"all 2 workers died, the last one so: .*SIGKILL"):
        make(all_die=True).run(8, workers=2)
    study = make()
    states = [trial.state for trial in study.trials()]
    assert states.count("lost") == 2 and "running" not in states
    study.run(8, workers=2, verify=False)
    assert sum(trial.state not in ("lost", "running") for trial in study.trials()) >= 8


def test_what_a_worker_raises_ends_all_of_them(make: Callable[..., Study]) -> None:
    running = set(descendants(os.getpid()))
    with pytest.raises(PluginError, match=r"raised in Session.measure.*in a worker.*test_crew.py:\d+"):
        make(raises=True).run(8, workers=2)
    assert "running" not in [trial.state for trial in make().trials()]
    assert set(descendants(os.getpid())) <= running


def test_ctrl_c_ends_every_worker_and_the_next_run_goes_on(make: Callable[..., Study]) -> None:
    running = set(descendants(os.getpid()))

    def stop(event: Event) -> None:
        if event.kind == "trial":
            raise KeyboardInterrupt

    result = make(on_event=stop).run(40, workers=2)
    assert result.status == "interrupted" and result.exit_code == 130
    assert set(descendants(os.getpid())) <= running
    study = make()
    before = study.trials()
    assert "running" not in [trial.state for trial in before] and len(before) < 40
    study.run(len(before) + 4, workers=2, verify=False)
    assert sum(trial.state not in ("lost", "running") for trial in study.trials()) >= len(before) + 4


def test_workers_do_not_share_the_random_stream_of_a_given_sampler(make: Callable[..., Study]) -> None:
    study = make(sampler=optuna.samplers.RandomSampler(seed=1))
    study.run(14, workers=2, verify=False)
    assert len(set(configs(study))) == len(study.trials())


@pytest.mark.parametrize(
    ("store", "given", "says"),
    [
        (None, {"workers": 2}, "2 workers share a store"),
        ("x.db", {"workers": 0}, "at least 1"),
        ("x.db", {"workers": 2, "executor": "inprocess"}, "need processes of their own"),
        ("x.db", {"workers": 2, "executor": "loca"}, "did you mean local"),
        ("x.db", {"executor": "loca"}, "did you mean local"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    tmp_path: Path, store: str | None, given: dict[str, Any], says: str
) -> None:
    place = tmp_path / store if store else None
    with pytest.raises(StudyError, match=says):
        Study(Planted(), maximize="throughput", sampler="random", store=place).run(8, **given)
    assert not list(tmp_path.iterdir())

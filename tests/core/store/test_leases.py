"""Real processes, really killed: nothing finished is lost, nothing running is stolen."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from mlsysopt.core.errors import StoreUnavailable
from mlsysopt.core.store import Store, leases
from tests.core.store.actors import answer, one_trial, start, study_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tune.db"


def test_many_workers_start_at_once(path: Path) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(start("work", path, "5")) for _ in range(5)]
        answers = [json.loads(worker.communicate(timeout=90)[0]) for worker in workers]
    assert sorted(one["worker"] for one in answers) == list(range(5))
    with Store.open(path) as store:
        trials = study_of(store).trials
        assert [trial.number for trial in trials] == list(range(25))
        assert all(trial.state.name == "COMPLETE" and set(trial.params) == {"x", "n"} for trial in trials)
        assert sorted(number for one in answers for number in one["trials"]) == list(range(25))
        assert sorted(row.trial for row in store.measurements("s")) == list(range(25))


def test_killed_worker_is_lost_and_a_live_one_is_not(path: Path) -> None:
    with start("hold", path) as dead, start("hold", path) as live:
        first, second = answer(dead), answer(live)
        dead.kill()
        dead.wait()
        with Store.open(path) as store:
            study = study_of(store)
            mine = study.ask()
            assert store.sweep_lost(study) == [first["trial"]]
            assert store.sweep_lost(study) == []
            trials = study.trials
            lost = trials[first["trial"]]
            assert (lost.state.name, lost.user_attrs["state"]) == ("FAIL", "lost")
            assert lost.user_attrs["reason"] == f"its process {dead.pid} is gone"
            assert lost.user_attrs["config"] == "{}", "what it wrote before it died is kept"
            assert trials[second["trial"]].state.name == trials[mine.number].state.name == "RUNNING"
            study.tell(mine, 1.0)
        live.communicate("tell", timeout=30)
        assert live.returncode == 0


def test_a_zombie_is_dead(path: Path) -> None:
    with start("hold", path) as worker, Store.open(path) as store:
        held = answer(worker)
        os.kill(worker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        assert store.sweep_lost(study_of(store)) == [held["trial"]]


def test_a_stopped_process_is_alive(path: Path) -> None:
    with start("hold", path) as worker:
        answer(worker)
        os.kill(worker.pid, signal.SIGSTOP)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE trial_heartbeats SET heartbeat = '2001-01-01 00:00:00'")
        with Store.open(path) as store:
            assert store.sweep_lost(study_of(store)) == []
        os.kill(worker.pid, signal.SIGCONT)
        worker.communicate("tell", timeout=30)
        assert worker.returncode == 0


def test_killed_right_after_asking(path: Path) -> None:
    with start("ask", path) as worker:
        held = answer(worker)
        worker.kill()
    with Store.open(path) as store:
        assert store.sweep_lost(study_of(store)) == [held["trial"]]


@pytest.mark.parametrize("told", [3, 8])
def test_killed_while_writing(path: Path, told: int) -> None:
    with start("churn", path) as worker:
        assert worker.stdout is not None
        seen = [int(worker.stdout.readline()) for _ in range(told)]
        worker.kill()
        seen += [int(line) for line in worker.stdout.read().split()]
    with Store.open(path) as store:
        study = study_of(store)
        store.sweep_lost(study)
        for number in seen:
            assert study.trials[number].state.name == "COMPLETE", "a trial that was told stays told"
        rest = study.trials[len(seen) :]
        assert all(trial.user_attrs["state"] in ("lost", "valid") for trial in rest) and len(rest) <= 1
        assert one_trial(store, study) == len(seen) + len(rest)


def test_elsewhere_the_heartbeat_decides(path: Path) -> None:
    with start("hold", path) as worker:
        held = answer(worker)
        with Store.open(path) as store, closing(sqlite3.connect(path, timeout=10)) as connection:
            study = study_of(store)
            with connection:
                connection.execute("UPDATE mlsysopt_lease SET host = 'elsewhere', boot = 'other'")
            assert store.sweep_lost(study) == []
            with connection:
                connection.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-31 seconds')")
            assert store.sweep_lost(study) == [held["trial"]]
            assert "no sign of life from elsewhere for 3" in study.trials[held["trial"]].user_attrs["reason"]
        worker.communicate("tell", timeout=30)
        assert worker.returncode == 7, "whoever lost its trial is told so"


def test_another_container_is_not_judged_by_its_process_numbers() -> None:
    here = leases.this_process()
    there = replace(here, namespace="pid:[1]", pid=2**22 + 1, ticks=5)
    assert not here.sees(there) and not here.is_dead(there)
    assert here.sees(here) and not here.is_dead(here)


def test_a_reused_process_number_is_another_process() -> None:
    here = leases.this_process()
    assert here.is_dead(replace(here, ticks=here.ticks - 1))


def test_a_closed_store_gives_up_its_trials(path: Path) -> None:
    with Store.open(path) as store:
        study_of(store).ask()
    with Store.open(path) as store:
        study = study_of(store)
        assert store.sweep_lost(study) == [0] and "gave it up" in study.trials[0].user_attrs["reason"]


def test_interrupted_right_after_the_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(path) as store:
        study = study_of(store)
        trial = study.ask()
        commit = store._database.engine.dialect.do_commit

        def interrupted(connection: object) -> None:
            commit(connection)
            raise KeyboardInterrupt

        monkeypatch.setattr(store._database.engine.dialect, "do_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study.tell(trial, 1.0)
        monkeypatch.undo()
        assert study.trials[0].state.name == "COMPLETE"


def test_trials_of_plain_optuna_are_never_swept(path: Path) -> None:
    import optuna

    with Store.open(path) as store:
        study_of(store)
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        optuna.load_study(study_name="s", storage=storage).ask()
        storage.engine.dispose()
        study = study_of(store)
        assert store.sweep_lost(study) == [] and study.trials[0].state.name == "RUNNING"


def test_two_workers_never_take_the_same_enqueued_trial(path: Path) -> None:
    with Store.open(path) as one, Store.open(path) as other:
        first, second = study_of(one), study_of(other)
        for x in (0.1, 0.2, 0.3):
            first.enqueue_trial({"x": x})
        assert len(second.trials) == 3
        taken = [study.ask().suggest_float("x", 0, 1) for study in (first, second, first)]
        assert taken == [0.1, 0.2, 0.3]


def test_heartbeats_go_on_by_themselves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.01)
    with Store.open(path) as store, closing(sqlite3.connect(path, timeout=10)) as connection:
        study = study_of(store)
        with store.lease(study.ask()):
            connection.execute("UPDATE trial_heartbeats SET heartbeat = '2001-01-01 00:00:00'")
            connection.commit()
            for _ in range(1000):
                (at,) = connection.execute("SELECT heartbeat FROM trial_heartbeats").fetchone()
                if not at.startswith("2001"):
                    break
                store._trials._pulse._end.wait(0.01)  # type: ignore[union-attr]
            assert not at.startswith("2001")


def test_buffered_loses_at_most_what_was_not_flushed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start("buffered", path) as worker:
        held = answer(worker)
        assert held["trial"] == 50
        monkeypatch.setattr("mlsysopt.core.store.sqlite_file.OPEN_S", 0.05)
        with pytest.raises(StoreUnavailable, match="locked"):
            Store.open(path)
        worker.kill()
    monkeypatch.undo()
    with Store.open(path, buffered=True) as store:
        study = study_of(store)
        assert len(store.sweep_lost(study)) <= 1
        done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        assert len(done) == 50 and len(store.measurements("s")) == 50
        assert one_trial(store, study) == len(study.trials) - 1

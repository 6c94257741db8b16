"""The store on a real PostgreSQL server: the same promises, several processes, no password shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase

from mlsysopt.core.errors import StoreError, StoreUnavailable
from mlsysopt.core.store import Store
from tests.core.store.actors import IDENTITY, answer, row, start
from tests.real import postgres

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(postgres.program("initdb") is None, reason="PostgreSQL (initdb) is not installed"),
]

_numbers = count()


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Cluster]:
    with postgres.cluster() as running:
        yield running


@pytest.fixture
def url(server: postgres.Cluster) -> str:
    return server.create(f"tune{next(_numbers)}")


@pytest.fixture(scope="module")
def shared(server: postgres.Cluster) -> str:
    return server.create("contract")


class TestStorage(StorageTestCase):
    @pytest.fixture
    def storage(self, shared: str) -> Iterator[BaseStorage]:
        with Store.open(shared) as store:
            for info in store.optuna.get_all_studies():
                store.optuna.delete_study(info._study_id)
            yield store.optuna


def test_shows_no_password(server: postgres.Cluster, url: str) -> None:
    with Store.open(url) as store:
        assert "***" in store.url
        assert postgres.PASSWORD not in f"{store.url}{store!r}{store.optuna!r}"
    with pytest.raises(StoreUnavailable) as wrong:
        Store.open(server.url("postgres", password="wrong-pass/word"))
    with pytest.raises(StoreUnavailable) as absent:
        Store.open(server.url("absent"))
    closed = server.url().replace(str(server.port), "1")
    with pytest.raises(StoreUnavailable) as refused:
        Store.open(closed)
    for raised in (wrong, absent, refused):
        text = "".join(str(part) for part in (raised.value, raised.value.__cause__))
        assert "wrong-pass" not in text and "s3cret" not in text, text
        assert raised.value.__suppress_context__
        assert str(raised.value).count("\n") == 0


def test_another_programs_database_is_left_alone(url: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int)")
    with pytest.raises(StoreError, match="another program's database \\(tables orders\\)"):
        Store.open(url)
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert names == [("orders",)]


def test_many_workers_start_at_once(url: str) -> None:
    workers = [start("work", url, "4") for _ in range(6)]
    answers = [json.loads(worker.communicate(timeout=90)[0]) for worker in workers]
    assert sorted(answer["worker"] for answer in answers) == list(range(6))
    with Store.open(url) as store:
        study = store.study("s", identity=IDENTITY, directions=["maximize"])
        assert [trial.number for trial in study.trials] == list(range(24))
        assert all(trial.state.name == "COMPLETE" and len(trial.params) == 2 for trial in study.trials)
        assert len(store.measurements("s")) == 24
        assert sorted(n for answer in answers for n in answer["trials"]) == list(range(24))


def test_killed_worker_is_lost_and_a_live_one_is_not(url: str) -> None:
    with start("hold", url) as dead, start("hold", url) as live:
        first, second = answer(dead), answer(live)
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
        with Store.open(url) as store:
            study = store.study("s", identity=IDENTITY, directions=["maximize"])
            assert store.sweep_lost(study) == [first["trial"]]
            assert store.sweep_lost(study) == []
            states = {trial.number: trial for trial in study.trials}
            assert states[first["trial"]].user_attrs["state"] == "lost"
            assert states[second["trial"]].state.name == "RUNNING"
        live.communicate("", timeout=30)
        assert live.returncode == 0


def test_another_machine_is_judged_by_its_heartbeat(url: str) -> None:
    import psycopg

    with start("hold", url) as worker:
        held = answer(worker)
        with Store.open(url) as store, psycopg.connect(url, autocommit=True) as connection:
            study = store.study("s", identity=IDENTITY, directions=["maximize"])
            connection.execute("UPDATE mlsysopt_lease SET host = 'elsewhere', boot = 'other'")
            assert store.sweep_lost(study) == []
            connection.execute("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '31 seconds'")
            assert store.sweep_lost(study) == [held["trial"]]
            assert "no sign of life from elsewhere" in study.trials[held["trial"]].user_attrs["reason"]
        worker.communicate("tell", timeout=30)
        assert worker.returncode == 7, "the worker whose trial was taken must be told so"


def test_heartbeats_do_not_depend_on_a_clients_time_zone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    with start("hold", url) as worker:
        answer(worker)
        monkeypatch.setenv("PGTZ", "America/Los_Angeles")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE mlsysopt_lease SET host = 'elsewhere', boot = 'other'")
        with Store.open(url) as store:
            assert store.sweep_lost(store.study("s", identity=IDENTITY, directions=["maximize"])) == []
        worker.communicate("", timeout=30)


def test_text_that_postgres_refuses_is_kept_readable(url: str) -> None:
    with Store.open(url) as store:
        store.record(row(log_tail="a\x00b\udcff", reason="bad \x00", config={"p": (2, 0, 1), "x": 1.5}))
        (kept,) = store.measurements("s")
    assert kept.log_tail == "a\ufffdb?" and kept.config == {"p": (2, 0, 1), "x": 1.5}


def test_reading_only(url: str) -> None:
    with pytest.raises(StoreError, match="holds no study of this program"):
        Store.open(url, read_only=True)
    with Store.open(url) as store:
        store.study("s", identity=IDENTITY, directions=["maximize"])
    with Store.open(url, read_only=True) as store:
        assert [info.name for info in store.studies()] == ["s"]
        with pytest.raises(StoreError, match="reading only"):
            store.register_worker("s")


def test_a_plain_optuna_program_reads_it(url: str) -> None:
    with Store.open(url) as store:
        study = store.study("s", identity=IDENTITY, directions=["maximize"])
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))
    script = (
        "import sys, optuna; s = optuna.load_study(study_name='s', storage=sys.argv[1]);"
        "t = s.ask(); s.tell(t, t.suggest_float('x', 0, 1)); print(len(s.trials))"
    )
    plain = url.replace("postgresql://", "postgresql+psycopg://")
    done = subprocess.run([sys.executable, "-c", script, plain], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "2"

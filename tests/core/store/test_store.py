"""What a store keeps, in memory and in a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest

from mlsysopt.core.errors import StoreError
from mlsysopt.core.store import Store
from tests.core.store.actors import IDENTITY, one_trial, row, study_of


@pytest.fixture(params=["memory", "file", "buffered"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    where = None if request.param == "memory" else tmp_path / "tune.db"
    with Store.open(where, buffered=request.param == "buffered") as opened:
        yield opened


def test_keeps_measurements_exactly(store: Store) -> None:
    rows = [
        row(trial=-1, role="baseline", config={}, round=0),
        row(trial=3, role="canary", metrics={"speed": 0.1 + 0.2, "zero": 0.0, "huge": 1e308}),
        row(trial=3, metrics=None, failure_kind="crashed", reason="signal 11", log_tail="line\nline"),
        row(trial=3, round=1, config={"order": (2, 0, 1), "on": True, "n": 3, "x": 1e-9, "s": "a"}),
    ]
    for one in rows:
        store.record(one)
    store.record(row(study="other"))
    assert store.measurements("s") == rows
    assert store.measurements("s", trial=3, role="canary") == [rows[1]]
    assert store.measurements("s", role="baseline")[0].config == {}


def test_numpy_values_become_plain(store: Store) -> None:
    store.record(row(metrics={"speed": np.float32(0.5)}, config={"n": np.int64(3), "on": np.bool_(True)}))
    (kept,) = store.measurements("s")
    assert [type(value) for value in (*kept.metrics.values(), *kept.config.values())] == [float, int, bool]


def test_study_is_created_then_loaded(store: Store) -> None:
    study = study_of(store)
    numbers = [one_trial(store, study) for _ in range(3)]
    again = study_of(store)
    assert numbers == [0, 1, 2] and len(again.trials) == 3
    (info,) = store.studies()
    assert (info.name, info.target, info.trials) == ("s", "toy", 3)
    assert info.created_at is not None and abs(info.created_at - time.time()) < 60
    assert store.find() == store.find("s") == info
    trial = again.trials[1]
    assert trial.user_attrs["state"] == "valid" and trial.constraints == {"valid": -1.0}


def test_identity_may_differ_in_what_may_grow(store: Store) -> None:
    study_of(store)
    other = {**IDENTITY, "seed": 5, "bounds": {"x": [0, 2]}}
    assert store.study("s", identity=other, directions=["maximize"]).study_name == "s"


def test_another_identity_is_refused_with_both_values(store: Store) -> None:
    study_of(store)
    other = {"target": {"name": "toy", "engine": "b"}, "space": {"x": "float"}, "objectives": IDENTITY["objectives"]}
    with pytest.raises(StoreError) as error:
        store.study("s", identity=other, directions=["maximize"])
    assert "target.engine" in str(error.value) and '"a"' in str(error.value) and '"b"' in str(error.value)
    assert "space.n" in str(error.value) and str(error.value).count("\n") <= 2 and error.value.exit_code == 2
    assert len(store.studies()) == 1


def test_a_long_difference_stays_short(store: Store) -> None:
    store.study("s", identity={"target": {str(i): "x" * 500 for i in range(99)}}, directions=["maximize"])
    with pytest.raises(StoreError) as error:
        store.study("s", identity={"target": {}}, directions=["maximize"])
    assert str(error.value).count("\n") <= 2 and len(str(error.value)) < 700


def test_directions_must_agree(store: Store) -> None:
    study_of(store)
    with pytest.raises(StoreError, match="directions maximize; asked for minimize"):
        store.study("s", identity=IDENTITY, directions=["minimize"])


def test_choosing_a_study(store: Store) -> None:
    with pytest.raises(StoreError, match="holds no study yet"):
        store.find()
    with pytest.raises(StoreError, match="holds no study 's'"):
        store.study("s", identity=IDENTITY, directions=["maximize"], load_only=True)
    for name in ("first", "second"):
        store.study(name, identity=IDENTITY, directions=["maximize"])
    with pytest.raises(StoreError, match=r"--study NAME\nfirst \(0 trials\), second \(0 trials\)"):
        store.find()
    with pytest.raises(StoreError, match="did you mean first"):
        store.find("frist")


def test_plain_optuna_study_is_not_taken_over(store: Store) -> None:
    optuna.create_study(study_name="theirs", storage=store.optuna)
    assert store.find("theirs").target == ""
    with pytest.raises(StoreError, match="made by another program"):
        store.study("theirs", identity=IDENTITY, directions=["minimize"])


def test_workers_are_numbered_per_study(store: Store) -> None:
    assert [store.register_worker("a") for _ in range(3)] == [0, 1, 2]
    assert store.register_worker("b") == 0


def test_bounds_rules_samples_cache(store: Store) -> None:
    store.add_bound("rocksdb", "block_size", high=2**20, evidence={"trial": 7, "value": np.float64(1.5)})
    store.add_bound("rocksdb", "block_size", low=512)
    store.add_rule("rocksdb", "a <= b", origin="user")
    store.add_sample("estimate", "gemm", {"m": 3, "s": 0.5})
    store.add_sample("estimate", "conv", {"m": 4})
    high, low = store.bounds("rocksdb")
    assert (high.name, high.low, high.high, high.evidence) == ("block_size", None, 2.0**20, {"trial": 7, "value": 1.5})
    assert (low.low, low.high, low.machine) == (512.0, None, store.machine_key)
    assert [rule.expression for rule in store.rules("rocksdb")] == ["a <= b"] and store.rules("x") == []
    assert [sample.row for sample in store.samples("estimate", "gemm")] == [{"m": 3, "s": 0.5}]
    assert len(store.samples("estimate")) == 2 and store.samples("other") == []
    with pytest.raises(StoreError, match="low must not be above high"):
        store.add_bound("rocksdb", "x", low=2, high=1)
    key = {"space": "x", "config": {"a": 1}, "seed": 3}
    assert store.cached(key) is None
    store.cache(key, {"latency_s": 0.1})
    store.cache(dict(reversed(key.items())), {"latency_s": 0.2})
    assert store.cached(key) == {"latency_s": 0.2}


def test_annotate_is_written_at_once_and_final_after_tell(store: Store) -> None:
    study = study_of(store)
    trial = study.ask()
    store.annotate(trial, {"config": "{}", "n": np.int64(3)}, constraints={"valid": -1, "p99": 0.5})
    assert study.trials[0].user_attrs == {"config": "{}", "n": 3}
    assert study.trials[0].constraints == {"valid": -1.0, "p99": 0.5}
    study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        store.annotate(trial, {"late": 1})


def test_enqueued_parameters(store: Store) -> None:
    study = study_of(store)
    study.enqueue_trial({"x": 0.25, "n": 3})
    trial = study.ask()
    assert store.fixed_params(trial) == {"x": 0.25, "n": 3} and trial.suggest_float("x", 0, 1) == 0.25
    assert store.fixed_params(study.ask()) is None


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    for buffered in (True, False, True):
        with Store.open(path, buffered=buffered) as store:
            study = study_of(store)
            study.enqueue_trial({"x": 0.5, "n": 2})
            study.add_trial(optuna.trial.create_trial(value=0.0, user_attrs={"state": "valid"}))
            for _ in range(3):
                one_trial(store, study)
            before = study.trials
        with Store.open(path) as store:
            after = study_of(store).trials
            assert [trial.number for trial in after] == list(range(len(after)))
            assert after == before
            assert len(store.measurements("s")) == len([trial for trial in after if trial.params])
    assert [file.name for file in tmp_path.iterdir()] == ["tune.db"], "no side files stay behind"
    assert len(store.url) > 0


def test_plain_optuna_reads_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    with Store.open(path) as store:
        study = study_of(store)
        for _ in range(3):
            one_trial(store, study)
        ours = study.trials
        plain = optuna.load_study(study_name="s", storage=f"sqlite:///{path}")
        assert plain.trials == ours
        trial = plain.ask()
        plain.tell(trial, trial.suggest_float("x", 0, 1))
        assert [trial.number for trial in study.trials] == [0, 1, 2, 3], "another program's trial is seen at once"
        plain._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_an_existing_optuna_file_gets_our_tables(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    theirs = optuna.create_study(study_name="theirs", storage=storage)
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    storage.engine.dispose()
    with Store.open(path) as store:
        study_of(store)
        assert [(info.name, info.trials) for info in store.studies()] == [("theirs", 2), ("s", 0)]


def test_a_fork_must_open_its_own(tmp_path: Path) -> None:
    with Store.open(tmp_path / "tune.db") as store:
        store._database._pid += 1
        with pytest.raises(StoreError, match="open it again in the child"):
            store.studies()
        store._database._pid -= 1

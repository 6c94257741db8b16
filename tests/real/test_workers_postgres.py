"""Two workers of one study on one PostgreSQL server: each trial is run by one of them, and by one only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from mlsysopt.core.store import Store
from mlsysopt.core.study.trials import TrialView, views
from tests.real import postgres

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(postgres.program("initdb") is None, reason="PostgreSQL (initdb) is not installed"),
]

DRIVER = Path(__file__).parents[1] / "core" / "study" / "driver.py"
TRIALS = 30


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres.cluster() as server:
        yield server.create("workers")


def start(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(DRIVER), url, "1", str(TRIALS)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def read(url: str) -> tuple[list[TrialView], list[tuple[int, int, int]]]:
    """Return the trials, and (trial, round, worker) of every measured candidate."""
    with Store.open(url) as store:
        trials = views(optuna.load_study(study_name="planted", storage=store.optuna).get_trials())
        rows = [(row.trial, row.round, row.worker) for row in store.measurements("planted", role="trial")]
    return trials, rows


def test_two_workers_and_one_of_them_killed(url: str) -> None:
    one, two, three = start(url), start(url), start(url)
    assert three.stdout is not None
    for line in three.stdout:
        if line.startswith("asked"):
            break
    three.kill()
    for worker in (one, two, three):
        _, err = worker.communicate(timeout=120)
        assert worker is three or worker.returncode in (0, 4), err
        assert postgres.PASSWORD not in err

    trials, rows = read(url)
    done = [trial for trial in trials if trial.state not in ("lost", "running")]
    assert len(done) >= TRIALS
    assert [trial.state for trial in trials].count("running") == 0
    assert len({(trial, round) for trial, round, _ in rows}) == len(rows)
    of_trial: dict[int, set[int]] = {}
    for trial, _, worker in rows:
        of_trial.setdefault(trial, set()).add(worker)
    assert all(len(workers) == 1 for workers in of_trial.values())
    assert len({worker for workers in of_trial.values() for worker in workers}) >= 2
    configs = [json.dumps(dict(trial.config), sort_keys=True) for trial in done]
    assert len(set(configs)) == len(configs)

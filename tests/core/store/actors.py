"""Processes that the store's tests start, and kill: `python -m tests.core.store.actors WHAT URL ...`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna

from mlsysopt.core.store import MeasurementRow, Store

IDENTITY: dict[str, Any] = {
    "target": {"name": "toy", "engine": "a"},
    "space": {"x": "float", "n": "int"},
    "objectives": ["higher speed"],
}
ROOT = Path(__file__).parents[3]


def row(**changes: Any) -> MeasurementRow:
    """Return a measurement with some fields changed."""
    fields: dict[str, Any] = {
        "study": "s", "trial": 0, "role": "trial", "round": 0, "side": "trial", "config": {"x": 0.5},
        "effective": {"x": 0.5}, "metrics": {"speed": 1.25}, "failure_kind": None, "reason": None, "log_tail": "",
        "seed": 7, "cpu_s": 0.25, "wall_s": 0.5, "started_at": 1.5e9, "conditions": {"load1": 0.5},
        "machine": "m", "worker": 0,
    }  # fmt: skip
    return MeasurementRow(**{**fields, **changes})


def start(what: str, url: str | Path, *more: str) -> subprocess.Popen[str]:
    """Start one of the actors below."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.core.store.actors", what, str(url), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the next line of an actor."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    assert line, f"the actor ended with {worker.wait()}"
    return json.loads(line)


def say(what: object) -> None:
    """Tell the test something, at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def study_of(store: Store) -> optuna.Study:
    return store.study("s", identity=IDENTITY, directions=["maximize"], sampler=optuna.samplers.RandomSampler())


def one_trial(store: Store, study: optuna.Study) -> int:
    """Ask, record and tell one trial."""
    trial = study.ask()
    value = trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 1, 4)
    store.annotate(trial, {"config": json.dumps(trial.params)})
    with store.lease(trial):
        store.record(row(trial=trial.number, metrics={"speed": value}))
        store.annotate(trial, {"state": "valid", "metrics": {"speed": value}}, constraints={"valid": -1.0})
        study.tell(trial, value)
    return trial.number


def work(url: str, trials: str) -> int:
    """Run trials and print the worker's number and those of its trials."""
    with Store.open(url) as store:
        study = study_of(store)
        worker = store.register_worker("s")
        done = [one_trial(store, study) for _ in range(int(trials))]
    say(json.dumps({"worker": worker, "trials": done}))
    return 0


def hold(url: str) -> int:
    """Hold one running trial until standard input ends; told `tell`, finish it."""
    with Store.open(url) as store:
        study = study_of(store)
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        store.annotate(trial, {"config": "{}"})
        with store.lease(trial):
            say(json.dumps({"trial": trial.number}))
            if sys.stdin.read().strip() == "tell":
                try:
                    study.tell(trial, 1.0)
                except optuna.exceptions.UpdateFinishedTrialError:
                    return 7
    return 0


def ask_only(url: str) -> int:
    """Ask for a trial and stop right there, before anything else is written."""
    store = Store.open(url)
    trial = study_of(store).ask()
    say(json.dumps({"trial": trial.number}))
    sys.stdin.read()
    return 0


def churn(url: str) -> int:
    """Run trials until killed, one line for each that was told."""
    with Store.open(url) as store:
        study = study_of(store)
        while True:
            say(one_trial(store, study))


def buffered(url: str) -> int:
    """Run 50 trials in a buffered store, say so, and wait."""
    store = Store.open(url, buffered=True)
    study = study_of(store)
    for _ in range(50):
        one_trial(store, study)
    store.optuna.flush()  # type: ignore[attr-defined]
    waiting = study.ask()
    say(json.dumps({"trial": waiting.number}))
    sys.stdin.read()
    store.close()
    return 0


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    actors = {"work": work, "hold": hold, "ask": ask_only, "churn": churn, "buffered": buffered}
    raise SystemExit(actors[sys.argv[1]](*sys.argv[2:]))

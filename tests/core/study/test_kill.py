"""kill -9 at any point, then the same command: finished work is kept, half a trial is lost, nothing leaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlsysopt.core.processes import descendants
from mlsysopt.core.store import Store
from mlsysopt.core.study import stored_result
from mlsysopt.core.study.trials import TrialView, views
from tests.core.study.driver import search

DRIVER = Path(__file__).with_name("driver.py")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "tune.db"


def start(store: Path, *, seed: int = 1, trials: int = 12) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(DRIVER), str(store), str(seed), str(trials)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_at(store: Path, what: str, *, seed: int = 1) -> None:
    """Run the driver until it says a line, then kill it at once."""
    driver = start(store, seed=seed)
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.strip() == what:
            break
    else:
        pytest.fail(f"the driver never said {what!r}: {driver.communicate()[1]}")
    driver.send_signal(signal.SIGKILL)
    driver.communicate()


def finished(store: Path, *, seed: int = 1, trials: int = 12) -> None:
    """Let nobody stop it: this needs no process of its own, which would take longer to start than to search."""
    assert search(str(store), seed, trials) in (0, 4)


def trials_of(store: Path) -> list[TrialView]:
    with Store.open(store, read_only=True) as opened:
        import optuna

        return views(optuna.load_study(study_name="planted", storage=opened.optuna).get_trials())


def ended(store: Path) -> int:
    """Count the trials that came to an end."""
    return sum(trial.state not in ("lost", "running") for trial in trials_of(store))


def measured_twice(store: Path) -> Iterator[tuple[int, int]]:
    """Yield (trial, round) of every trial measurement that was recorded more than once."""
    with Store.open(store, read_only=True) as opened:
        rows = [(row.trial, row.round) for row in opened.measurements("planted", role="trial")]
    seen: set[tuple[int, int]] = set()
    for row in rows:
        if row in seen:
            yield row
        seen.add(row)


@pytest.mark.parametrize("moment", ["asked 3", "asked 8", "trial 5", "baseline"])
def test_killed_in_the_search(store: Path, moment: str) -> None:
    running = set(descendants(os.getpid()))
    killed_at(store, moment)
    before = {trial.number: trial for trial in trials_of(store) if trial.valid} if moment != "baseline" else {}
    finished(store)
    after = trials_of(store)
    for number, trial in before.items():
        assert after[number] == trial
    assert [trial.state for trial in after].count("lost") == (
        1 if moment.startswith("asked") else 0
    ) or moment == "trial 5"
    assert sum(trial.state not in ("lost", "running") for trial in after) == 12
    assert not any(trial.state == "running" for trial in after)
    assert list(measured_twice(store)) == []
    assert set(descendants(os.getpid())) <= running


def verified(store: Path) -> tuple[list[tuple[str, int]], list[float]]:
    """Return (side, seed) of every verification run, and the ratios of the verdict round by round."""
    with Store.open(store, read_only=True) as opened:
        rows = [(row.side, row.seed) for row in opened.measurements("planted", role="verify")]
        result = stored_result(opened, opened.find("planted"))
    assert result is not None and result.winner is not None
    return rows, list(result.verified["throughput"].per_round)


def test_killed_in_the_verification_it_goes_on_with_the_finished_rounds(store: Path, tmp_path: Path) -> None:
    killed_at(store, "verify 4")
    before = trials_of(store)
    finished(store)
    after = trials_of(store)
    assert [trial.config for trial in after] == [trial.config for trial in before]
    rows, ratios = verified(store)
    # A round that had just begun may have lost its first side; no finished one was measured again.
    seeds = list(dict.fromkeys(seed for _, seed in rows))
    twice = {seed for side, seed in rows if rows.count((side, seed)) > 1}
    assert twice <= {seeds[4]}
    undisturbed = tmp_path / "undisturbed.db"
    finished(undisturbed)
    others, others_ratios = verified(undisturbed)
    assert (list(dict.fromkeys(seed for _, seed in others)), others_ratios) == (seeds, ratios)


def test_killed_again_and_again_it_still_ends(store: Path) -> None:
    for moment in ("baseline", "asked 2", "asked 5", "asked 9"):
        killed_at(store, moment)
    finished(store)
    assert ended(store) == 12


def test_two_workers_share_a_store_and_one_is_killed(store: Path) -> None:
    finished(store, trials=3)
    one, two = start(store, trials=24), start(store, trials=24)
    assert one.stdout is not None
    for line in one.stdout:
        if line.startswith("asked"):
            break
    one.send_signal(signal.SIGKILL)
    one.communicate()
    _, err = two.communicate(timeout=100)
    assert two.returncode in (0, 4), err
    after = trials_of(store)
    done = [trial for trial in after if trial.state not in ("lost", "running")]
    assert len(done) >= 24
    assert [trial.state for trial in after].count("lost") <= 1
    assert list(measured_twice(store)) == []
    configs = [json.dumps(dict(trial.config), sort_keys=True) for trial in done]
    assert len(set(configs)) == len(configs)


def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(store: Path) -> None:
    # More trials than it can do before it hears.
    driver = start(store, trials=500)
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.strip() == "asked 4":
            break
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)
    assert driver.returncode == 130
    before = ended(store)
    finished(store, trials=before + 2)
    assert ended(store) == before + 2

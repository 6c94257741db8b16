"""kill -9 of `mlsysopt tune run ./server.py` at any moment: the same command goes on, and nothing is left."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlsysopt.cli.main import run
from mlsysopt.core.processes import sweep_orphans
from mlsysopt.core.store import Store
from mlsysopt.core.study.trials import TrialView, views
from tests.operate.tune.planted_server import PLANTED

TRIALS = 6
# The first and the fifth trial are better by a fifth and more with it: a verification is certain.
SEED = 1


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # A timing slot of its own, here and in the programs: another study on this machine would have these wait.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    no_server_is_left(tmp_path)


def servers_in(folder: Path) -> list[str]:
    """Return the command lines of processes that work in a folder."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder / "data") in words:
                found.append(words)
    return found


def no_server_is_left(folder: Path) -> None:
    """Servers die with whoever started them, a moment later."""
    until = time.monotonic() + 2.0
    while servers_in(folder) and time.monotonic() < until:
        time.sleep(0.02)
    assert servers_in(folder) == []


def started(where: Path, *more: str) -> subprocess.Popen[str]:
    argv = [
        sys.executable, "-W", "ignore", "-m", "mlsysopt", "tune", "run", str(PLANTED), "--knobs", "cache,ticks",
        "--budget", str(TRIALS), "--sampler", "random", "--seed", str(SEED), "--store", "x.db",
        "--directory", str(where / "data"), *more,
    ]  # fmt: skip
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=where)


def killed_at(process: subprocess.Popen[str], words: str, later_s: float = 0.0) -> None:
    """Kill it as soon as it says something, or a moment later."""
    assert process.stderr is not None
    said: list[str] = []
    with killed(process):
        for line in process.stderr:
            said.append(line)
            if words in line:
                time.sleep(later_s)
                return
    pytest.fail(f"it never said {words!r}: {''.join(said)}")


@contextmanager
def killed(process: subprocess.Popen[str]) -> Generator[None]:
    """Kill it at the end, whatever happens until then."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def trials_of(where: Path) -> list[TrialView]:
    import optuna

    with Store.open(where / "x.db", read_only=True) as store:
        return views(optuna.load_study(study_name="planted", storage=store.optuna).get_trials())


def resumed() -> None:
    """Go on in this process: nobody kills that one, and it need not start."""
    assert run(["tune", "resume", "x.db"]) in (0, 4)


def ended_well(where: Path, before: list[TrialView]) -> None:
    after = trials_of(where)
    for trial in before:
        if trial.valid:
            assert after[trial.number] == trial
    assert sum(trial.state not in ("lost", "running") for trial in after) == TRIALS
    assert not any(trial.state == "running" for trial in after)
    # What the killed ones left was swept by those that came after; the last one left nothing.
    assert list((where / "data").iterdir()) == []
    assert sweep_orphans() == []


@pytest.mark.slow
def test_killed_three_times_at_any_moment_it_still_ends(where: Path) -> None:
    moments = random.Random(11)
    with killed(started(where)):
        # Nothing is known of what it has got to: a fast machine is in its first trials by then.
        time.sleep(moments.uniform(0.2, 1.2))
    no_server_is_left(where)
    for _ in range(2):
        # A trial's end, or a round of the verification where the first two got that far.
        killed_at(started(where), "trial ", later_s=moments.uniform(0.0, 0.4))
        no_server_is_left(where)
    before = trials_of(where)
    assert sum(trial.valid for trial in before) >= 1
    resumed()
    ended_well(where, before)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["default 2/3", "verifying trial"])
def test_killed_at_the_default_and_in_the_verification(where: Path, moment: str) -> None:
    killed_at(started(where, "--validity", "learned"), moment)
    before = trials_of(where)
    resumed()
    ended_well(where, before)

"""The process that samples are forked from: what it measures, what it survives, what it leaves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import InfrastructureError
from mlsysopt.core.executors import Local
from mlsysopt.core.processes.memory import descendants
from mlsysopt.core.target import Failure
from mlsysopt.train.estimate import TrainerRecord, trainer
from mlsysopt.train.estimate.forks import Job, Reading
from mlsysopt.train.estimate.host import Host
from tests.train.estimate.planted import burn, dying, failing, hanging, planted, ratings

DATA = ratings(200)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def ask(host: Host, record: TrainerRecord, **options: Any) -> Reading | Failure:
    path = host.keep(DATA)
    try:
        return host.ask(Job(path, record.settled(), dict(record.params), data=record.data, **options))
    finally:
        host.forget(path)


def test_measures_cpu_time_of_the_training_alone(host: Host) -> None:
    seconds = 0.12
    found = ask(host, trainer("t", fit=lambda data: burn(seconds), time="R"))
    assert isinstance(found, Reading)
    assert found.cpu_s == pytest.approx(seconds, rel=0.2)
    assert found.repeats == 1
    assert found.spent_s > found.cpu_s


def test_short_trainings_are_repeated_inside_one_timing(host: Host) -> None:
    found = ask(host, trainer("t", fit=lambda data: burn(0.002), time="R"))
    assert isinstance(found, Reading)
    assert found.repeats >= 8
    assert found.cpu_s == pytest.approx(0.002, rel=0.5)


def test_memory_is_that_of_the_training(host: Host) -> None:
    def fit(data: Any) -> Any:
        import numpy as np

        return np.ones(4 * 2**20)

    found = ask(host, trainer("t", fit=fit, time="R"))
    assert isinstance(found, Reading)
    assert found.growth_bytes == pytest.approx(32 * 2**20, rel=0.1)
    assert found.peak_bytes >= found.base_bytes + found.growth_bytes


def test_conversions_are_made_before_the_clock_starts(host: Host) -> None:
    seen: Any = trainer("t", fit=lambda data: burn(0.05) if data.csr().nnz else None, time="R")
    found = ask(host, seen)
    assert isinstance(found, Reading)
    assert found.cpu_s == pytest.approx(0.05, rel=0.3)


def test_a_trainer_that_raises_is_told_with_its_output(host: Host) -> None:
    found = ask(host, failing)
    assert isinstance(found, Failure)
    assert (found.kind, found.reason) == ("crashed", "ZeroDivisionError: float division")
    assert "about to fail" in found.log_tail and "planted.py" in found.log_tail


def test_a_trainer_that_hangs_is_ended(host: Host) -> None:
    started = time.monotonic()
    found = ask(host, hanging, timeout_s=0.8)
    assert isinstance(found, Failure) and found.kind == "timeout"
    assert time.monotonic() - started < 10


def test_a_trainer_that_is_killed_is_told(host: Host) -> None:
    found = ask(host, dying)
    assert isinstance(found, Failure)
    assert (found.kind, "SIGKILL" in found.reason) == ("crashed", True)


def test_a_trainer_that_takes_all_memory_is_ended(host: Host) -> None:
    def fit(data: Any) -> Any:
        import numpy as np

        kept = []
        while True:
            kept.append(np.ones(2**20))
            time.sleep(0.005)

    found = ask(host, trainer("t", fit=fit, time="R"), memory_bytes=200 * 2**20)
    assert isinstance(found, Failure)
    assert (found.kind, found.reason) == ("crashed", "over its memory limit")


def test_goes_on_after_every_failure(host: Host) -> None:
    assert isinstance(ask(host, failing), Failure)
    assert isinstance(ask(host, planted), Reading)


def test_leaves_no_process_and_no_file() -> None:
    others = set(_descendants())
    with Host() as host:
        assert isinstance(ask(host, planted), Reading)
        folder = host.folder
        children = set(_descendants()) - others
        assert children
    assert not folder.exists()
    assert not children & set(_descendants())


def test_ends_in_the_middle_of_a_sample_when_left() -> None:
    others = set(_descendants())
    with Host() as host:
        assert isinstance(ask(host, planted), Reading)
        path = host.keep(DATA)
        waiting = threading.Thread(target=_swallow, args=(host, Job(path, hanging.settled(), dict(hanging.params))))
        waiting.start()
        while len(running := set(_descendants()) - others) < 2:
            time.sleep(0.01)
        host._connection.close()  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        host._thread.join()  # pyright: ignore[reportPrivateUsage]
        waiting.join(timeout=10)
    assert not running & set(_descendants())
    assert not [pid for pid in running if _is_sample(pid)]


def test_runs_on_any_executor() -> None:
    with Local(workers=1) as local, Host(local) as host:
        assert isinstance(ask(host, planted), Reading)


def test_a_full_disk_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with Host() as host:
        monkeypatch.setattr("pickle.dump", full)
        with pytest.raises(InfrastructureError, match="No space left on device"):
            host.keep(replace(DATA))


def _swallow(host: Host, job: Job) -> None:
    try:
        host.ask(job)
    except OSError:
        return


def _descendants() -> list[int]:
    return descendants(os.getpid())


def _is_sample(pid: int) -> bool:
    """Whether a process of ours still runs under this number."""
    try:
        return "mlsysopt" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False

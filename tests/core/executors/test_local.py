"""Faults of the local executor that the contract cannot ask of every executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.core.executors import Local
from mlsysopt.core.processes import descendants, sweep_orphans
from mlsysopt.core.processes.identity import start_ticks
from mlsysopt.core.target import Failure


@pytest.fixture
def local() -> Iterator[Local]:
    with Local(workers=2) as made:
        yield made


def until(condition: object, timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


def test_workers_are_kept_warm(local: Local) -> None:
    assert {local.submit(os.getpid).result() for _ in range(5)}.isdisjoint({os.getpid()})
    assert len({local.submit(os.getpid).result() for _ in range(5)}) == 1


def test_many_guilty_and_many_innocent(local: Local) -> None:
    results = list(local.map(_die_if_odd, range(12)))
    assert results[::2] == list(range(0, 12, 2))
    for guilty in results[1::2]:
        assert isinstance(guilty, Failure) and guilty.kind == "crashed" and "SIGKILL" in guilty.reason


def test_a_worker_that_is_killed_while_it_idles_is_nobodys_fault(local: Local) -> None:
    idle: int = local.submit(os.getpid).result()
    os.kill(idle, signal.SIGKILL)
    assert until(lambda: start_ticks(idle) is None)
    assert local.submit(pow, 2, 3).result() == 8


def test_a_worker_that_is_killed_from_outside_is_a_failure_of_its_task(local: Local, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    task = local.submit(_say_pid_and_wait, str(mark))
    assert until(mark.exists)
    os.kill(int(mark.read_text()), signal.SIGKILL)
    ended = task.result(timeout=60)
    assert isinstance(ended, Failure) and ended.kind == "crashed"


def test_no_more_tasks_at_once_than_cores(local: Local) -> None:
    spans = list(local.map(_span, range(6))) + list(local.map(_span, range(4), fresh=True))
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    running = 0
    for _, step in edges:
        running += step
        assert running <= 2


def test_a_large_task_is_not_overtaken(local: Local, tmp_path: Path) -> None:
    order: list[str] = []
    release = tmp_path / "go"
    first = local.submit(_wait_for, str(release))
    large = local.submit(pow, 2, 3, cpus=2)
    small = local.submit(pow, 2, 3)
    large.add_done_callback(lambda _: order.append("large"))
    small.add_done_callback(lambda _: order.append("small"))
    # One core is free, yet the small task stays behind the large one that came before it.
    assert not small.done()
    release.touch()
    assert first.result() == "went" and small.result() == 8
    assert order == ["large", "small"]


def test_a_waiting_task_can_be_cancelled(local: Local, tmp_path: Path) -> None:
    release = tmp_path / "go"
    blocking = [local.submit(_wait_for, str(release)) for _ in range(2)]
    waiting = local.submit(pow, 2, 3)
    assert waiting.cancel()
    release.touch()
    assert [future.result() for future in blocking] == ["went", "went"]


def test_a_reader_who_stops_cancels_the_rest(local: Local, tmp_path: Path) -> None:
    results = local.map(_touch, [str(tmp_path / str(n)) for n in range(50)])
    next(results)
    results.close()  # type: ignore[attr-defined]
    local.shutdown()
    assert len(list(tmp_path.iterdir())) < 50


def test_what_cannot_be_sent_is_refused_at_once(local: Local) -> None:
    with pytest.raises(UsageError, match="cannot be sent to another process"):
        local.submit(len, threading.Lock())


def test_what_cannot_be_sent_back_is_an_exception(local: Local) -> None:
    with pytest.raises(TypeError, match="pickle"):
        local.submit(threading.Lock).result()
    with pytest.raises(TypeError, match="pickle"):
        local.submit(threading.Lock, fresh=True).result()


def test_after_the_end_nothing_is_taken() -> None:
    local = Local(workers=1)
    assert local.submit(pow, 2, 3).result() == 8
    local.shutdown()
    local.shutdown()
    with pytest.raises(UsageError, match="shut down"):
        local.submit(pow, 2, 3)


def test_the_end_waits_for_tasks_and_leaves_no_process() -> None:
    with Local(workers=2) as local:
        futures = [local.submit(os.getpid), local.submit(os.getpid, fresh=True), local.submit(_span, 0)]
    pids = [future.result() for future in futures[:2]]
    assert all(future.done() for future in futures)
    assert all(start_ticks(pid) is None for pid in pids)


def test_a_kill_ends_running_tasks_and_cancels_waiting_ones(tmp_path: Path) -> None:
    local = Local(workers=2)
    marks = [tmp_path / "warm", tmp_path / "fresh"]
    running = [
        local.submit(_say_pid_and_wait, str(marks[0])),
        local.submit(_say_pid_and_wait, str(marks[1]), fresh=True),
    ]
    waiting = local.submit(pow, 2, 3)
    assert until(lambda: all(mark.exists() for mark in marks))
    local.shutdown(kill=True)
    assert [future.result().kind for future in running] == ["lost", "lost"]
    assert waiting.cancelled()
    assert all(start_ticks(int(mark.read_text())) is None for mark in marks)


def test_ctrl_c_in_the_block_ends_everything(tmp_path: Path) -> None:
    done = driver("with Local(2) as local:\n    run(local)", tmp_path, signal.SIGINT)
    assert done == 130
    assert all(start_ticks(int(mark.read_text())) is None for mark in tmp_path.iterdir())


def test_a_killed_driver_takes_its_workers_along(tmp_path: Path) -> None:
    driver("run(Local(2))", tmp_path, signal.SIGKILL)
    # A worker notices by itself; the sweep is for those that cannot.
    assert until(lambda: all(start_ticks(int(mark.read_text())) is None for mark in tmp_path.iterdir()))
    sweep_orphans()


DRIVER = """
import sys
from tests.core.executors.test_local import _say_pid_and_wait
from mlsysopt.core.executors import Local
def run(local):
    a = local.submit(_say_pid_and_wait, sys.argv[1] + "/warm")
    b = local.submit(_say_pid_and_wait, sys.argv[1] + "/fresh", fresh=True)
    a.result()
try:
    {code}
except KeyboardInterrupt:
    sys.exit(130)
"""


def driver(code: str, folder: Path, number: int) -> int:
    """Run a driver with two tasks in flight, send it a signal, return its exit status."""
    text = DRIVER.format(code=code.replace("\n", "\n    "))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    with subprocess.Popen([sys.executable, "-c", text, str(folder)], env=environment) as process:
        try:
            assert until(lambda: all((folder / mark).exists() for mark in ("warm", "fresh")))
        except BaseException:
            process.kill()
            raise
        process.send_signal(number)
        return process.wait(timeout=60)


@pytest.mark.parametrize("workers", [0, -1])
def test_impossible_numbers_of_workers(workers: int) -> None:
    with pytest.raises(UsageError, match=f"workers must be at least 1, got {workers}"):
        Local(workers=workers)


def test_nothing_runs_before_the_first_task() -> None:
    before = set(descendants(os.getpid()))
    with Local():
        assert set(descendants(os.getpid())) == before


def _die_if_odd(number: int) -> int:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _span(_: int) -> tuple[float, float]:
    begin = time.monotonic()
    time.sleep(0.05)
    return begin, time.monotonic()


def _say_pid_and_wait(mark: str) -> None:
    draft = Path(f"{mark}.draft")
    draft.write_text(str(os.getpid()))
    draft.rename(mark)
    time.sleep(120)


def _wait_for(mark: str) -> str:
    return "went" if until(Path(mark).exists) else "never"


def _touch(path: str) -> None:
    time.sleep(0.02)
    Path(path).touch()

"""What any executor must do: inherit `ExecutorContract` and say how yours is made."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.core.executors import Executor, exclusive_slot
from mlsysopt.core.target import Failure

__all__ = ["ExecutorContract"]


class ExecutorContract:
    """Checks the promises of `Executor`.

    A subclass implements `make_executor` (two cores are enough) and sets `isolates` to False when a
    task shares the driver's process, so that killing it would end the tests.
    """

    isolates = True

    @classmethod
    def make_executor(cls) -> Executor:
        """Return a new executor with two workers."""
        raise AssertionError("a subclass of ExecutorContract defines make_executor")

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
        """One executor for all tests of the class, since starting one may take seconds; its state is not the user's."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
            with cls.make_executor() as made:
                yield made

    def test_fulfils_the_protocol(self, executor: Executor) -> None:
        assert isinstance(executor, Executor)

    def test_returns_the_value(self, executor: Executor) -> None:
        assert executor.submit(pow, 2, 10).result() == 1024

    def test_runs_what_cannot_be_imported(self, executor: Executor) -> None:
        captured = [1, 2]
        assert executor.submit(lambda extra: [*captured, extra], 3).result() == [1, 2, 3]

    def test_map_keeps_the_order(self, executor: Executor) -> None:
        # The first item takes longest.
        assert list(executor.map(_late, [0.3, 0.1, 0.0])) == [0.3, 0.1, 0.0]

    def test_map_of_nothing_is_nothing(self, executor: Executor) -> None:
        assert list(executor.map(_late, [])) == []

    def test_an_exception_of_the_function_is_raised(self, executor: Executor) -> None:
        with pytest.raises(KeyError, match="missing"):
            executor.submit(_raise, KeyError("missing")).result()

    def test_an_exception_that_cannot_travel_keeps_its_words(self, executor: Executor) -> None:
        with pytest.raises(Exception, match="two words"):
            executor.submit(_raise_awkward).result()

    def test_map_turns_exceptions_into_failures(self, executor: Executor) -> None:
        good, bad, after = executor.map(_not_two, [1, 2, 3])
        assert (good, after) == (1, 3)
        assert isinstance(bad, Failure) and bad.kind == "crashed"
        assert bad.reason == "ValueError: two is refused"
        assert "_not_two" in bad.log_tail

    def test_a_failure_is_a_value_like_any_other(self, executor: Executor) -> None:
        failure = Failure("rejected", "did not start")
        assert executor.submit(_same, failure).result() == failure

    def test_large_values_travel(self, executor: Executor) -> None:
        assert executor.submit(len, b"x" * 3_000_000).result() == 3_000_000
        assert len(executor.submit(bytes, 3_000_000, fresh=True).result()) == 3_000_000

    def test_fresh_is_another_process_each_time(self, executor: Executor) -> None:
        first, second = executor.submit(os.getpid, fresh=True), executor.submit(os.getpid, fresh=True)
        pids = {os.getpid(), first.result(), second.result()}
        assert len(pids) == 3
        assert not any(Path(f"/proc/{pid}").exists() for pid in (first.result(), second.result()))

    def test_what_a_fresh_task_prints_is_no_part_of_its_answer(self, executor: Executor) -> None:
        assert executor.submit(_print_and_return, fresh=True).result() == 7

    def test_a_time_out_is_a_failure(self, executor: Executor) -> None:
        began = time.monotonic()
        ended = executor.submit(time.sleep, 60, timeout_s=1.0).result()
        assert isinstance(ended, Failure) and ended.kind == "timeout"
        assert time.monotonic() - began < 20

    def test_a_memory_limit_is_a_failure(self, executor: Executor) -> None:
        ended = executor.submit(_take_memory, 600 * 2**20, memory_bytes=200 * 2**20).result()
        assert isinstance(ended, Failure) and ended.kind == "crashed"
        assert "memory limit" in ended.reason

    def test_an_allocation_beyond_the_address_space_is_the_same_failure(self, executor: Executor) -> None:
        ended = executor.submit(_take_memory, 2**40, memory_bytes=200 * 2**20).result()
        assert isinstance(ended, Failure) and ended.kind == "crashed"
        assert "memory limit" in ended.reason

    def test_a_fresh_task_that_dies_is_a_failure_with_its_last_words(self, executor: Executor) -> None:
        ended = executor.submit(_say_and_die, fresh=True).result()
        assert isinstance(ended, Failure) and ended.kind == "crashed"
        assert "SIGKILL" in ended.reason
        assert "last words" in ended.log_tail

    def test_a_fresh_task_that_leaves_without_an_answer_is_a_failure(self, executor: Executor) -> None:
        ended = executor.submit(os._exit, 0, fresh=True).result()
        assert isinstance(ended, Failure) and ended.kind == "crashed"

    def test_a_killed_worker_fails_its_own_task_only(self, executor: Executor, tmp_path: Path) -> None:
        if not self.isolates:
            pytest.skip("a task shares the driver's process here")
        # The innocent task is in flight beside the guilty one, and ends only after that one is dead.
        mark = tmp_path / "dead"
        innocent = executor.submit(_after, str(mark))
        guilty = executor.submit(_die)
        ended = guilty.result()
        mark.touch()
        assert isinstance(ended, Failure) and ended.kind == "crashed"
        assert innocent.result() == "innocent"
        assert executor.submit(pow, 2, 3).result() == 8

    def test_libraries_get_as_many_threads_as_cores(self, executor: Executor) -> None:
        if not self.isolates:
            pytest.skip("a task has the driver's threads here")
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        assert executor.submit(os.getenv, "OMP_NUM_THREADS", cpus=2).result() == "2"

    def test_more_cores_than_there_are_means_all(self, executor: Executor) -> None:
        assert executor.submit(pow, 2, 3, cpus=10_000).result() == 8

    def test_exclusive_tasks_never_overlap(self, executor: Executor) -> None:
        spans = sorted(executor.map(_span, range(3), exclusive=True))
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))

    def test_an_exclusive_task_runs_under_a_slot_that_its_caller_holds(self, executor: Executor) -> None:
        with exclusive_slot():
            assert executor.submit(pow, 2, 3, exclusive=True).result(timeout=60) == 8

    def test_an_exclusive_task_waits_for_others(self, executor: Executor) -> None:
        entered, leave = threading.Event(), threading.Event()
        left_at: list[float] = []

        def other() -> None:
            with exclusive_slot():
                entered.set()
                leave.wait(60)
                left_at.append(time.monotonic())

        holder = threading.Thread(target=other)
        holder.start()
        entered.wait(60)
        threading.Timer(0.3, leave.set).start()
        begin, _ = executor.submit(_span, 0, exclusive=True).result(timeout=60)
        holder.join()
        assert begin >= left_at[0]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"cpus": 0}, "cpus must be at least 1, got 0"),
            ({"timeout_s": 0.0}, "timeout_s must be above 0"),
            ({"memory_bytes": -1}, "memory_bytes must be above 0"),
        ],
    )
    def test_impossible_options_are_refused(self, executor: Executor, options: dict[str, Any], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            executor.submit(pow, 2, 3, **options)


def _same(value: Any) -> Any:
    return value


def _late(delay_s: float) -> float:
    # The delay is the work: order must not depend on which task is done first.
    time.sleep(delay_s)
    return delay_s


def _raise(error: BaseException) -> None:
    raise error


class _Awkward(Exception):
    """Cannot be made again from its arguments, as pickle does it."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def _raise_awkward() -> None:
    raise _Awkward("two", "words")


def _not_two(number: int) -> int:
    if number == 2:
        raise ValueError("two is refused")
    return number


def _print_and_return() -> int:
    os.write(1, b"printed\n" * 100_000)
    return 7


def _take_memory(size: int) -> int:
    taken = bytearray(size)
    for page in range(0, size, 4096):
        taken[page] = 1
    # Keeps it until the watchdog looks; the limit ends the wait.
    time.sleep(30)
    return len(taken)


def _say_and_die() -> None:
    os.write(2, b"last words\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after(mark: str) -> str:
    deadline = time.monotonic() + 60
    while not os.path.exists(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    return "innocent"


def _span(_: int) -> tuple[float, float]:
    begin = time.monotonic()
    time.sleep(0.05)
    return begin, time.monotonic()

"""The simplest executor: here and now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from mlsysopt.core.errors import UsageError
from mlsysopt.core.executors.protocol import Executor
from mlsysopt.core.executors.tasks import Task, check_options, outcome, run_here, settle

__all__ = ["InProcess"]


class InProcess(Executor):
    """Runs each task at once in the calling thread; a limited or `fresh` one in a process of its own.

    A task that kills its process kills this one, unless it is `fresh`.

    >>> with InProcess() as here:
    ...     here.submit(pow, 2, 10).result()
    1024
    """

    def __init__(self) -> None:
        self._closed = False

    def submit(
        self,
        fn: Callable[..., Any],
        *args: Any,
        cpus: int = 1,
        exclusive: bool = False,
        fresh: bool = False,
        timeout_s: float | None = None,
        memory_bytes: int | None = None,
    ) -> Future[Any]:
        """Run `fn(*args)` before returning; see `Executor`."""
        if self._closed:
            raise UsageError("this executor has been shut down")
        if not check_options(cpus, fresh, timeout_s, memory_bytes):
            return run_here(fn, args, exclusive)
        task = Task.of(
            fn, args, cpus=cpus, exclusive=exclusive, fresh=fresh, timeout_s=timeout_s, memory_bytes=memory_bytes
        )
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        settle(future, task.run())
        return future

    def map(
        self,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        cpus: int = 1,
        exclusive: bool = False,
        fresh: bool = False,
        timeout_s: float | None = None,
        memory_bytes: int | None = None,
    ) -> Iterator[Any]:
        """Run `fn` on each item when its result is asked for; see `Executor`."""
        for item in items:
            yield outcome(
                self.submit(
                    fn, item, cpus=cpus, exclusive=exclusive, fresh=fresh,
                    timeout_s=timeout_s, memory_bytes=memory_bytes,
                )
            )  # fmt: skip

    def shutdown(self, wait: bool = True, *, kill: bool = False) -> None:
        """Take no more tasks."""
        self._closed = True

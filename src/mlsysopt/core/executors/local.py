"""This machine's cores: warm loky workers for plain tasks, a process of its own for limited ones.

A loky pool dies as a whole when one of its workers does, and every task in flight fails with it.
So each worker here is a pool of one: when it dies there is no doubt whose task it was, nobody else
is touched, and only that pool is made anew.
"""

from __future__ import annotations

import os
import queue
import re
import select
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlsysopt.core.errors import UsageError
from mlsysopt.core.executors.protocol import Executor
from mlsysopt.core.executors.tasks import STOPPED, Task, settle, thread_variables
from mlsysopt.core.processes.child import Child
from mlsysopt.core.processes.identity import start_ticks
from mlsysopt.core.processes.ledger import current_ledger
from mlsysopt.core.processes.slot import holds_slot
from mlsysopt.core.processes.strays import TOKEN
from mlsysopt.core.target import Failure

__all__ = ["Local"]


@dataclass(frozen=True, slots=True)
class _Event:
    """Something that the dispatcher has to know."""

    kind: Literal["submitted", "done", "closing", "killing"]
    task: Task | None = None
    future: Future[Any] | None = None
    cores: int = 0
    pool: Any = None


class Local(Executor):
    """Runs tasks on the cores of this machine.

    Each worker has one BLAS, OpenMP and torch thread; a task with more `cpus`, with a limit or with
    `fresh` runs in a process of its own, started with as many threads.

    Args:
        workers: Cores that are used; None means all that this process may use.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"workers must be at least 1, got {workers}")
        self.workers = workers or len(os.sched_getaffinity(0))
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._dispatcher: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()
        # From here on, only the dispatcher touches the state.
        self._waiting: deque[_Event] = deque()
        self._running: dict[Future[Any], Child | None] = {}
        self._idle: list[Any] = []
        self._pools: list[Any] = []
        self._free = self.workers

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
        """Run `fn(*args)` as soon as there are cores; see `Executor`. More cores than there are means all."""
        task = Task.of(
            fn, args, cpus=cpus, exclusive=exclusive, fresh=fresh, timeout_s=timeout_s, memory_bytes=memory_bytes
        )
        if exclusive and holds_slot():
            # The caller holds the slot while it waits for this task: it is covered.
            task = replace(task, exclusive=False)
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise UsageError("this executor has been shut down")
            if self._dispatcher is None:
                self._dispatcher = threading.Thread(target=self._dispatch, name="mlsysopt-dispatcher", daemon=True)
                self._dispatcher.start()
            self._events.put(_Event("submitted", task, future, min(cpus, self.workers)))
        return future

    def shutdown(self, wait: bool = True, *, kill: bool = False) -> None:
        """Take no more tasks and end; see `Executor`."""
        with self._lock:
            self._closed = True
            dispatcher = self._dispatcher
        self._events.put(_Event("killing" if kill else "closing"))
        if wait and dispatcher is not None:
            dispatcher.join()

    def _dispatch(self) -> None:
        closing = False
        while not (closing and not self._waiting and self._free == self.workers):
            event = self._events.get()
            if event.kind == "submitted":
                self._waiting.append(event)
            elif event.kind == "done":
                self._free += event.cores
                if event.future is not None:
                    self._running.pop(event.future, None)
                if event.pool is not None:
                    self._idle.append(event.pool)
            else:
                closing = True
                if event.kind == "killing":
                    self._kill()
            # In order: a task that needs many cores is not overtaken for ever.
            while self._waiting and self._waiting[0].cores <= self._free:
                self._start(self._waiting.popleft())
        for pool in self._pools:
            pool.shutdown(wait=True)
        self._pools.clear()

    def _start(self, event: _Event) -> None:
        task, future = event.task, event.future
        assert task is not None and future is not None
        if not future.set_running_or_notify_cancel():
            return
        self._free -= event.cores
        self._running[future] = None
        if task.fresh or event.cores > 1:
            alone = replace(task, fresh=True)
            threading.Thread(target=self._run_alone, args=(alone, future, event.cores), daemon=True).start()
            return
        try:
            pool, answer = self._submitted(task)
            answer.add_done_callback(lambda done: self._take(done, future, pool))
        except Exception as error:
            self._finish(future, Failure("infrastructure", f"no worker can be started: {error}"), event.cores)

    def _submitted(self, task: Task) -> tuple[Any, Future[Any]]:
        from loky.process_executor import BrokenProcessPool  # pyright: ignore[reportMissingTypeStubs]

        while (pool := self._idle_pool()) is not None:
            try:
                return pool, pool.submit(task.run)
            except BrokenProcessPool:
                # Its worker died while it idled, and the pool has noticed before we did.
                self._drop(pool)
        pool = self._new_pool()
        return pool, pool.submit(task.run)

    def _idle_pool(self) -> Any:
        """Return a pool whose worker still lives: one that was killed while it idled is nobody's fault."""
        while self._idle:
            pool = self._idle.pop()
            # None left: its end was noticed, and the pool is about to be marked as broken. `is_alive` may
            # say yes while another thread is collecting the exit code; the process list does not.
            workers = list(pool._processes)
            if workers and all(start_ticks(pid) is not None for pid in workers):
                return pool
            self._drop(pool)
        return None

    def _drop(self, pool: Any) -> None:
        self._pools.remove(pool)
        pool.shutdown(wait=False)

    def _run_alone(self, task: Task, future: Future[Any], cores: int) -> None:
        def note(child: Child) -> None:
            self._running[future] = child
            if future.done():
                # Killed while the process was being started.
                child.kill()

        try:
            reply = task.run(threads=cores, on_start=note)
        except Exception as error:
            reply = Failure("infrastructure", f"its process could not be started: {error}")
        self._finish(future, reply, cores)

    def _take(self, done: Future[Any], future: Future[Any], pool: Any) -> None:
        """Take a worker's answer; runs in a thread of that worker's pool."""
        from loky.process_executor import BrokenProcessPool  # pyright: ignore[reportMissingTypeStubs]

        error = done.exception()
        if error is None:
            self._finish(future, done.result(), 1, pool)
        elif isinstance(error, BrokenProcessPool):
            codes = re.search(r"\{(.+)\}", str(error))
            self._finish(future, Failure("crashed", f"its worker died: {codes[1] if codes else error}"), 1)
        else:
            self._finish(future, Failure("infrastructure", f"{type(error).__name__}: {error}"), 1)

    def _finish(self, future: Future[Any], reply: bytes | Failure, cores: int, pool: Any = None) -> None:
        with suppress(InvalidStateError):
            # After a kill the future has its answer already.
            settle(future, reply)
        self._events.put(_Event("done", future=future, cores=cores, pool=pool))

    def _kill(self) -> None:
        for event in self._waiting:
            assert event.future is not None
            event.future.cancel()
        self._waiting.clear()
        for future, child in list(self._running.items()):
            if not future.done():
                future.set_result(STOPPED)
            if child is not None:
                child.kill()
        for pool in self._pools:
            pool.shutdown(wait=True, kill_workers=True)
        self._pools.clear()
        self._idle.clear()

    def _new_pool(self) -> Any:
        from loky import ProcessPoolExecutor  # pyright: ignore[reportMissingTypeStubs]

        ledger = current_ledger()
        ledger.open()
        pool = ProcessPoolExecutor(
            1,
            initializer=_begin_worker,
            initargs=(os.getpid(),),
            env={**thread_variables(1), TOKEN: ledger.token},
        )
        self._pools.append(pool)
        return pool


def _begin_worker(parent: int) -> None:
    """Prepare a new worker: Ctrl-C is the parent's to handle, and without a parent there is no work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        handle = os.pidfd_open(parent)
    except OSError:
        os._exit(1)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_leave_with, args=(handle,), name="mlsysopt-parent", daemon=True).start()


def _leave_with(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    os._exit(1)

"""A Ray cluster under the same contract: one started here, or one that runs already."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import InfrastructureError, MissingExtra, UsageError
from mlsysopt.core.executors.protocol import Executor
from mlsysopt.core.executors.tasks import STOPPED, Task, settle
from mlsysopt.core.processes.child import on_spawner
from mlsysopt.core.processes.folders import temporary_folder
from mlsysopt.core.processes.ledger import current_ledger
from mlsysopt.core.processes.slot import holds_slot
from mlsysopt.core.processes.strays import TOKEN
from mlsysopt.core.target import Failure

__all__ = ["Ray"]

# Ray puts its sockets some 65 characters below its folder, and a socket's path may have 107.
_LONGEST_FOLDER = 40

_AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}


class Ray(Executor):
    """Runs tasks on Ray workers.

    Ray takes some 15 seconds to start. Its own files go to a temporary folder, none to the user's
    home; there is no dashboard and nothing is reported to anybody. A Ray that this process has
    started already is used and left running.

    Args:
        workers: Cores of a cluster started here; None means all that this process may use.
        address: A running cluster (`auto`, `host:port`); None starts one here.

    Raises:
        MissingExtra: ray is not installed.
        InfrastructureError: it does not start.
    """

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"workers must be at least 1, got {workers}")
        if workers is not None and address is not None:
            raise UsageError("workers are those of the cluster when address= names one: give only one of the two")
        self._ray = _import_ray()
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._open: dict[Future[Any], Any] = {}
        self._closed = False
        if not self._ray.is_initialized():
            self._start(workers or len(os.sched_getaffinity(0)), address)
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        # Only the task itself knows whether it may run twice.
        self._remote = self._ray.remote(max_retries=0)(_run)

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
        """Run `fn(*args)` on a worker; see `Executor`. More cores than there are means all."""
        task = Task.of(
            fn, args, cpus=cpus, exclusive=exclusive, fresh=fresh, timeout_s=timeout_s, memory_bytes=memory_bytes
        )
        if exclusive and holds_slot():
            task = replace(task, exclusive=False)
        cores = min(cpus, self.workers)
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise UsageError("this executor has been shut down")
            # A worker's threads were counted when it started; more of them need a process of their own.
            reference = self._remote.options(num_cpus=cores).remote(
                replace(task, fresh=task.fresh or cores > 1, cpus=cores)
            )
            self._open[future] = reference
        future.add_done_callback(self._forget)
        reference.future().add_done_callback(lambda done: self._take(done, future))
        return future

    def shutdown(self, wait: bool = True, *, kill: bool = False) -> None:
        """Take no more tasks and end; see `Executor`. A cluster started here is stopped."""
        with self._lock:
            self._closed = True
            waiting = dict(self._open)
        if kill:
            for future, reference in waiting.items():
                with suppress(InvalidStateError):
                    future.set_result(STOPPED)
                self._ray.cancel(reference, force=True)
        if wait or kill:
            concurrent.futures.wait(waiting)
            self._stack.close()
        else:
            threading.Thread(target=self.shutdown, name="mlsysopt-ray-end", daemon=True).start()

    def _start(self, workers: int, address: str | None) -> None:
        options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
        if address is not None:
            options["address"] = address
        else:
            options |= {
                "num_cpus": workers,
                "include_dashboard": False,
                "_temp_dir": str(self._stack.enter_context(temporary_folder("ray-", base=_short_folder()))),
            }
        ledger = current_ledger()
        ledger.open()
        variables = {
            "RAY_USAGE_STATS_ENABLED": "0",
            # Titles of its processes would be written over their environment, and the token with it.
            "SPT_NOENV": "1",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
            TOKEN: ledger.token,
        }
        if address is None and not _AUTHENTICATION.intersection(os.environ):
            # Others on this machine must not use the cluster; left to itself Ray keeps a token in the home.
            # Given a token it switches the check on by itself, and says so with every start.
            variables["RAY_AUTH_TOKEN"] = _access_token()
        try:
            with _environment(variables), _silent("ray._private.authentication.authentication_token_setup"):
                # Ray's processes die with the thread that starts them.
                on_spawner(lambda: self._ray.init(**options))
        except Exception as error:
            self._stack.close()
            raise InfrastructureError(f"Ray does not start: {type(error).__name__}: {error}") from error
        self._stack.callback(self._ray.shutdown)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            reference = self._open.pop(future, None)
        if reference is not None and future.cancelled():
            self._ray.cancel(reference, force=True)

    def _take(self, done: Future[Any], future: Future[Any]) -> None:
        """Take a worker's answer; runs in a thread of Ray's."""
        errors = self._ray.exceptions
        error = done.exception()
        if error is None:
            reply = done.result()
        elif isinstance(error, errors.OutOfMemoryError):
            reply = Failure("crashed", "its worker was ended: the machine had no memory left")
        elif isinstance(error, errors.WorkerCrashedError):
            reply = Failure("crashed", "its worker died")
        elif isinstance(error, errors.TaskCancelledError):
            reply = STOPPED
        else:
            reply = Failure("infrastructure", f"Ray: {type(error).__name__}: {error}")
        # A cancelled or stopped task has its answer already.
        with suppress(InvalidStateError):
            settle(future, reply)


def _run(task: Task) -> bytes | Failure:
    return task.run()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtra.of("the ray executor", "cluster") from None
    return ray


@cache
def _access_token() -> str:
    # Ray reads it once per process: a second cluster must have the same.
    return secrets.token_hex(32)


def _short_folder() -> Path:
    for folder in (Path(tempfile.gettempdir()), Path("/tmp")):
        if len(str(folder)) <= _LONGEST_FOLDER - len("/ray-0123456789ab") and os.access(folder, os.W_OK):
            return folder
    raise InfrastructureError(
        f"Ray needs a folder with a short path, {tempfile.gettempdir()} is too long for its sockets: set TMPDIR=/tmp"
    )


@contextmanager
def _environment(variables: dict[str, str]) -> Generator[None]:
    """Set variables for what is started inside the block: Ray takes them from nowhere else, and sets one itself."""
    before = {name: os.environ.get(name) for name in (*variables, "RAY_AUTH_MODE")}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silent(logger: str) -> Generator[None]:
    voice = logging.getLogger(logger)
    level = voice.level
    voice.setLevel(logging.ERROR)
    try:
        yield
    finally:
        voice.setLevel(level)

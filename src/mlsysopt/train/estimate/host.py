"""Where samples run: one limited child that imports the libraries once and forks a clean process per sample.

A sample must not pay for imports, nor be trained in a heap that earlier samples left in pieces. So
the executor starts one fresh child, which does nothing but import; each sample is a fork of it. Whoever
times takes the machine's timing slot around `ask`.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]

from mlsysopt.core.errors import InfrastructureError, MlsysoptError
from mlsysopt.core.processes.folders import temporary_folder
from mlsysopt.core.target import Failure
from mlsysopt.train.estimate.forks import Job, Reading, serve

if TYPE_CHECKING:
    from mlsysopt.core.executors import Executor
    from mlsysopt.train.estimate.ratings import Ratings

__all__ = ["Host", "Job", "Reading"]


class Host:
    """The child that samples are forked from, seen from this process.

    Args:
        executor: Runs it; None takes one of this process.
        modules: What it imports before the first sample.
        threads: Cores, and threads that numerical libraries may start.
        memory_bytes: Limit of the host with all its samples.

    >>> import pickle
    >>> from mlsysopt.train.estimate import synthetic
    >>> with Host() as host:
    ...     reading = host.ask(Job(host.keep(synthetic.ratings(n_users=50, n_items=40, n_ratings=600)), None, {}))
    >>> reading.repeats, reading.peak_bytes > 0
    (0, True)
    """

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        modules: tuple[str, ...] = (),
        threads: int = 1,
        memory_bytes: int | None = None,
    ) -> None:
        self._executor = executor
        self._modules = modules
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._connection: Connection | None = None
        self._done: Future[Any] = Future()
        self._files = 0
        self.spent_s = 0.0

    def __enter__(self) -> Host:
        self._place = temporary_folder("estimate-")
        self.folder = Path(self._place.__enter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._connection is not None:
                # The host takes the end of the line as the order to end, also in the middle of a sample.
                self._connection.close()
                self._thread.join()
                self._connection = None
        finally:
            self._place.__exit__(kind, error, trace)

    def keep(self, ratings: Ratings) -> str:
        """Write ratings where a job finds them; return the path."""
        self._files += 1
        path = self.folder / f"{self._files}.pickle"
        try:
            with path.open("wb") as stream:
                pickle.dump(ratings, stream, protocol=5)
        except OSError as error:
            raise InfrastructureError(f"a sample cannot be written to {path}: {error.strerror or error}") from error
        return str(path)

    def forget(self, path: str) -> None:
        """Remove what `keep` wrote."""
        with suppress(OSError):
            os.unlink(path)

    def ask(self, job: Job) -> Reading | Failure:
        """Run one job; what goes wrong in it is a `Failure`."""
        connection = self._connected()
        if isinstance(connection, Failure):
            return connection
        connection.send_bytes(cloudpickle.dumps(job))  # pyright: ignore[reportUnknownMemberType]
        try:
            while not connection.poll(0.5):
                if self._done.done():
                    return self._gone()
            reply: Reading | Failure = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            return self._gone()
        self.spent_s += reply.spent_s if isinstance(reply, Reading) else reply.cpu_s
        return reply

    def _connected(self) -> Connection | Failure:
        if self._connection is not None:
            return self._gone() if self._done.done() else self._connection
        with socket.socket(socket.AF_UNIX) as door:
            address = str(self.folder / "host")
            door.bind(address)
            door.listen(1)
            door.settimeout(0.2)
            self._thread = threading.Thread(target=self._run, args=(address,), name="mlsysopt-samples", daemon=True)
            self._thread.start()
            while True:
                try:
                    line, _ = door.accept()
                    break
                except TimeoutError:
                    if self._done.done():
                        return self._gone()
        line.setblocking(True)
        self._connection = Connection(line.detach())
        # The first word is what starting cost.
        try:
            self.spent_s += float(pickle.loads(self._connection.recv_bytes()))
        except (EOFError, ConnectionError):
            return self._gone()
        return self._connection

    def _run(self, address: str) -> None:
        from mlsysopt.core.executors import InProcess

        executor = self._executor or InProcess()
        try:
            future = executor.submit(
                serve,
                address,
                self._modules,
                cpus=self._threads,
                fresh=True,
                memory_bytes=self._memory_bytes,
            )
            self._done.set_result(future.result())
        except BaseException as error:
            self._done.set_exception(error)

    def _gone(self) -> Failure:
        """Say why there is no host any more."""
        try:
            found = self._done.result(timeout=10.0)
        except MlsysoptError:
            raise
        except Exception as error:
            return Failure("infrastructure", f"the process for samples ended: {type(error).__name__}: {error}")
        if isinstance(found, Failure):
            return found
        return Failure("crashed", "the process for samples ended without an answer")

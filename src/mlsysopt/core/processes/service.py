"""Servers for the length of a `with` block: start, readiness, last log lines, stop."""

from __future__ import annotations

import logging
import os
import re
import signal
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from mlsysopt.core.errors import InfrastructureError, MlsysoptError, ProcessError, UsageError, near_misses
from mlsysopt.core.processes.child import Child, Ended, start_child
from mlsysopt.core.processes.folders import temporary_folder
from mlsysopt.core.processes.memory import descendants, over_limit
from mlsysopt.core.processes.ports import LOOPBACK, answers, free_port, listens
from mlsysopt.core.processes.users import account
from mlsysopt.core.target import Limits

__all__ = ["NotReadyInTime", "Ready", "Service", "Stack"]

log = logging.getLogger("mlsysopt.processes")

Ready = int | str | re.Pattern[str] | Callable[["Service"], object]
"""When a server is up: it listens on a port (0: a free one), writes a line, or a question says so."""

_LOOK_S = 0.02
_WATCH_S = 0.1
_TAIL_BYTES = 64 * 1024
# Another process may take a port between the moment it was found free and the server's bind.
_PORT_TRIES = 3
_TAKEN = re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE)


class NotReadyInTime(ProcessError):
    """A server still runs, but was not ready when its time was up."""


class Service:
    """One server: runs inside a `with` block, or between `start` and `stop`.

    `{port}` and `{folder}` in `argv` stand for the port and the working folder. Standard output and
    error go to `service.log` in a temporary folder of the service's own.

    Args:
        argv: Program and arguments; no shell reads them.
        ready: Port (0: a free one), a text or pattern that appears in the log, or a callable that is
            asked again and again and may raise OSError while the server is not up.
        name: For messages; None means the program's name.
        port: Port, when `ready` is not one itself; 0 means a free one.
        env: Variables on top of this process's own.
        cwd: Working folder; None means a temporary one that is removed at the end.
        user: Run as this user (root only); the temporary folder is then that user's.
        limits: Memory is watched as long as the server runs; the time-out is not used.
        files: Template file -> values. Each is written to the working folder, `.template` cut from its
            name, with `$name` replaced; `port` and `folder` need not be given.
        grace_s: Seconds between the request to stop and KILL.
        unready_grace_s: The same for a server that was not ready in time; None means `grace_s`.
        stop_signal: What asks it to stop.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        ready: Ready = 0,
        name: str | None = None,
        port: int | None = None,
        env: Mapping[str, str | None] | None = None,
        cwd: str | Path | None = None,
        user: str | None = None,
        limits: Limits | None = None,
        files: Mapping[str | Path, Mapping[str, object]] | None = None,
        grace_s: float = 5.0,
        unready_grace_s: float | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.name = name or Path(str(argv[0])).name
        self._argv = [str(word) for word in argv]
        self._ready = ready
        self._asked_port = ready if isinstance(ready, int) else port
        self._port: int | None = None
        self._env, self._cwd, self._user = env, cwd, user
        self._limits = limits or Limits()
        self._files = dict(files or {})
        self._grace_s, self._stop_signal = grace_s, stop_signal
        self._unready_grace_s = grace_s if unready_grace_s is None else unready_grace_s
        self._child: Child | None = None
        self._log: Path | None = None
        self._folder: Path | None = None
        self._stack = ExitStack()
        self._last_tail = ""
        self.killed_for_memory = False

    def __enter__(self) -> Service:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on; ProcessError when it has none or does not run."""
        if self._port is None:
            raise ProcessError(f"{self.name} has no port: it is not running, or neither `ready` nor `port` names one")
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as sockets take them."""
        return LOOPBACK, self.port

    @property
    def pid(self) -> int:
        """Process number of the server; ProcessError when it does not run."""
        return self._server().pid

    @property
    def folder(self) -> Path:
        """Its working folder; ProcessError when it does not run."""
        if self._folder is None:
            raise ProcessError(f"{self.name} is not running")
        return self._folder

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._child is not None and not self._child.has_ended()

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of its log, also after it was stopped."""
        if self._log is not None and self._log.exists():
            with self._log.open("rb") as log_file:
                log_file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
                self._last_tail = log_file.read().decode(errors="replace")
        return "\n".join(self._last_tail.splitlines()[-lines:])

    def start(self, timeout_s: float = 30.0) -> Service:
        """Start the server and wait until it is ready.

        Raises:
            MissingProgram: no such program.
            InfrastructureError: the port is taken, the folder cannot be used.
            ProcessError: it died before it was ready (said at once, with its last log lines).
            NotReadyInTime: it is not ready after `timeout_s`.
        """
        if self._child is not None:
            raise ProcessError(f"{self.name} runs already (process {self._child.pid})")
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                self._start(timeout_s)
                break
            except MlsysoptError as error:
                taken = isinstance(error, _PortTaken) or _TAKEN.search(self.log_tail()) is not None
                self._end(self._unready_grace_s if isinstance(error, NotReadyInTime) else self._grace_s)
                if taken and self._asked_port:
                    raise self._port_taken() from None
                if not (taken and self._asked_port == 0 and tries_left):
                    raise
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> Ended | None:
        """Stop it: TERM, grace, KILL on its whole group; twice is once. Removes its temporary folder.

        Returns:
            How it ended; None when it did not run.
        """
        return self._end(self._grace_s)

    def _end(self, grace_s: float) -> Ended | None:
        child, self._child = self._child, None
        ended: Ended | None = None
        try:
            if child is not None:
                ended = child.stop(grace_s=grace_s, signal_number=self._stop_signal)
                self.log_tail()
        finally:
            self._stack.close()
            self._folder = self._log = self._port = None
        return ended

    def _server(self) -> Child:
        if self._child is None:
            raise ProcessError(f"{self.name} is not running")
        return self._child

    def _start(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        self.killed_for_memory, self._last_tail = False, ""
        own = self._stack.enter_context(temporary_folder(f"{self.name}-", user=self._user))
        self._folder = Path(self._cwd) if self._cwd is not None else own
        self._log = own / "service.log"
        if self._asked_port is not None:
            self._port = self._asked_port or free_port()
            # A stranger's answer on the port would look like readiness.
            if answers(self._port):
                raise self._port_taken()
        self._write_files()
        argv = [self._filled(word) for word in self._argv]
        with self._log.open("ab") as log_file:
            self._child = start_child(
                argv, cwd=self._folder, env=self._env, limits=self._limits, user=self._user,
                stdout=log_file, stderr=log_file,
            )  # fmt: skip
        if self._limits.memory_bytes is not None:
            threading.Thread(target=self._watch, args=(self._child,), name=f"watch-{self.name}", daemon=True).start()
        self._await(self._child, deadline, timeout_s)

    def _await(self, child: Child, deadline: float, timeout_s: float) -> None:
        while not self._is_ready(child):
            if child.has_ended(_LOOK_S):
                ended, lived_s = child.wait(), time.monotonic() - child.started_at
                why = "over its memory limit, " if self.killed_for_memory else ""
                raise ProcessError(
                    f"{self.name} ended with {ended.words()} ({why}after {lived_s:.1f} s), before it was ready; "
                    f"its last lines:\n{self.log_tail(2) or '(it wrote nothing)'}"
                )
            if time.monotonic() >= deadline:
                raise NotReadyInTime(
                    f"{self.name} is not ready after {timeout_s:g} s (waited for {self._waited_for()}); "
                    f"its last lines:\n{self.log_tail(2) or '(it wrote nothing)'}"
                )

    def _is_ready(self, child: Child) -> bool:
        ready = self._ready
        if isinstance(ready, int):
            assert self._port is not None
            if not answers(self._port):
                return False
            if listens([child.pid, *descendants(child.pid)], self._port) is False:
                raise self._port_taken()
            return True
        if isinstance(ready, str):
            return ready in self._log_text()
        if isinstance(ready, re.Pattern):
            return ready.search(self._log_text()) is not None
        try:
            return bool(ready(self))
        except OSError:
            return False

    def _log_text(self) -> str:
        assert self._log is not None
        return self._log.read_text(errors="replace")

    def _waited_for(self) -> str:
        if isinstance(self._ready, int):
            return f"port {self._port}"
        if isinstance(self._ready, re.Pattern):
            return f"a log line that matches {self._ready.pattern!r}"
        return f"the log line {self._ready!r}" if isinstance(self._ready, str) else "its own question"

    def _port_taken(self) -> _PortTaken:
        return _PortTaken(
            f"port {self._port or self._asked_port} for {self.name} is taken by another process: "
            "stop that one, or use port 0 for a free one"
        )

    def _places(self) -> dict[str, str]:
        places = {"folder": str(self._folder)}
        return places if self._port is None else {**places, "port": str(self._port)}

    def _filled(self, word: str) -> str:
        for name, value in self._places().items():
            word = word.replace(f"{{{name}}}", value)
        return word

    def _write_files(self) -> None:
        assert self._folder is not None
        who = account(self._user)
        for template, values in self._files.items():
            given = {**self._places(), **{name: str(value) for name, value in values.items()}}
            path = self._folder / Path(template).name.removesuffix(".template")
            try:
                text = string.Template(Path(template).read_text()).substitute(given)
                path.write_text(text)
                if who is not None:
                    os.chown(path, who.uid, who.gid)
            except KeyError as error:
                missing = str(error.args[0])
                raise UsageError(
                    f"{template} has ${missing}, which has no value: {near_misses(missing, given, noun='value')}"
                ) from None
            except ValueError as error:
                raise UsageError(f"{template} is no template: {error} (write $$ for a dollar sign)") from None
            except OSError as error:
                raise InfrastructureError(f"cannot write {path} from {template}: {error.strerror or error}") from error

    def _watch(self, child: Child) -> None:
        """End the server when its tree takes more memory than it may."""
        while not child.has_ended(_WATCH_S):
            if over_limit(child.pid, self._limits.memory_bytes):
                self.killed_for_memory = True
                log.warning("%s (process %d) was ended: over its memory limit", self.name, child.pid)
                # Only killed here: whoever started it reaps it.
                child.kill()
                return


class _PortTaken(InfrastructureError):
    """Somebody else listens on the port."""


class Stack:
    """Several services: started in order, stopped in reverse; all are stopped when one does not start.

    Args:
        services: In the order in which they need one another.
    """

    def __init__(self, services: Iterable[Service]) -> None:
        self.services = tuple(services)
        self._stack = ExitStack()

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __getitem__(self, name: str) -> Service:
        for service in self.services:
            if service.name == name:
                return service
        known = [service.name for service in self.services]
        raise UsageError(f"no service {name!r} here: {near_misses(name, known, noun='service')}")

    def start(self, timeout_s: float = 30.0) -> Stack:
        """Start each service once the one before it is ready; `timeout_s` holds for each."""
        try:
            for service in self.services:
                service.start(timeout_s)
                self._stack.callback(service.stop)
        except (MlsysoptError, KeyboardInterrupt, OSError):
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all, the last one first; one that fails to stop does not keep the others running."""
        self._stack.close()

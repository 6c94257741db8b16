"""One child process: started so that it cannot outlive this one, ended as a whole group.

A child is exec'ed through two tiny programs of the base system, never through Python code between
fork and exec, which may deadlock in a process with threads: `setpriv` asks the kernel to kill the
child when its parent dies, `sh` sets the limits and leaves if the parent is dead already.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import resource
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from mlsysopt.core.errors import InfrastructureError, MissingProgram, ProcessError, UsageError
from mlsysopt.core.processes.identity import start_ticks
from mlsysopt.core.processes.ledger import Entry, current_ledger
from mlsysopt.core.processes.memory import descendants
from mlsysopt.core.processes.segments import remove_segments
from mlsysopt.core.processes.strays import TOKEN
from mlsysopt.core.processes.users import account, check_reachable
from mlsysopt.core.target import Limits

__all__ = ["ADDRESS_SLACK_BYTES", "Child", "Ended", "on_spawner", "start_child"]

log = logging.getLogger("mlsysopt.processes")

ADDRESS_SLACK_BYTES = 2 * 2**30
"""Address space above the memory limit: libraries, thread stacks and allocator arenas reserve it without using it."""

# A process in the kernel's hands (a dead network disk) cannot even be killed; do not wait for ever.
_DEATH_S = 30.0

Stream = int | IO[bytes] | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        returncode: Exit status; minus the signal's number when a signal ended it.
        cpu_s: User + system seconds of the child and of the descendants it waited for.
        max_rss_bytes: Largest resident size as the kernel counted it; includes what the driver had
            at the fork, so it is meaningful only above that.
    """

    returncode: int
    cpu_s: float
    max_rss_bytes: int

    @property
    def signal(self) -> int | None:
        """Number of the signal that ended it, None when it left by itself."""
        return -self.returncode if self.returncode < 0 else None

    def words(self) -> str:
        """Return how it ended, for messages: `exit status 1`, `signal SIGKILL`."""
        if self.signal is None:
            return f"exit status {self.returncode}"
        with suppress(ValueError):
            return f"signal {signal.Signals(self.signal).name}"
        return f"signal {self.signal}"


class Child:
    """A running child, leader of its own session and process group.

    Made by `start_child`. It must be reaped: by `wait` or `stop`.

    Attributes:
        pid: Process number, stays ours until the child is reaped.
        handle: File descriptor that becomes readable when it ends.
        started_at: Monotonic time of the start.
        rss_at_start: Bytes that the kernel counted for this process when it made the child.
    """

    def __init__(self, process: subprocess.Popen[bytes], entry: Entry | None, handle: int, started_at: float) -> None:
        self.pid = process.pid
        self.handle = handle
        self.started_at = started_at
        self.rss_at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._process = process
        self._entry = entry
        self._ended: Ended | None = None
        self._lock = threading.Lock()

    @property
    def stdin(self) -> IO[bytes] | None:
        """Pipe to the child, if it was started with one."""
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        """Pipe from the child, if it was started with one."""
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        """Pipe from the child, if it was started with one."""
        return self._process.stderr

    def has_ended(self, timeout_s: float | None = 0.0) -> bool:
        """Whether it has ended; waits for it up to `timeout_s`, None for ever, and returns at once when it does."""
        if self._ended is not None:
            return True
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))

    def send(self, number: int) -> None:
        """Send a signal to the whole group and to descendants that have left it."""
        with self._lock:
            # Once reaped, the number may belong to somebody else.
            if self._ended is not None:
                return
            outside = [pid for pid in descendants(self.pid) if _group_of(pid) not in (self.pid, None)]
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
            for pid in outside:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def kill(self) -> None:
        """Kill the whole group and descendants that have left it; it still has to be reaped."""
        self.send(signal.SIGKILL)

    def wait(self) -> Ended:
        """Wait for the end, kill what is left of its group, and reap it; twice returns the same.

        Raises:
            ProcessError: something else in this process waited for it (`os.wait`, an ignored SIGCHLD).
        """
        if self._ended is None:
            poll = select.poll()
            poll.register(self.handle, select.POLLIN)
            poll.poll()
        with self._lock:
            if self._ended is None:
                # The unreaped leader keeps the group's number from being used again.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._ended = self._reap()
                remove_segments([self.pid], since=time.time() - (time.monotonic() - self.started_at))
        return self._ended

    def stop(self, *, grace_s: float = 2.0, signal_number: int = signal.SIGTERM) -> Ended:
        """End it: ask, wait up to `grace_s`, kill, reap.

        Raises:
            InfrastructureError: it does not even die of a kill.
        """
        try:
            self.send(signal_number)
            self.has_ended(grace_s)
        finally:
            # Also when a second Ctrl-C cuts the waiting short.
            self.kill()
            if not self.has_ended(_DEATH_S):
                raise InfrastructureError(f"process {self.pid} does not die of SIGKILL: a device hangs")
            ended = self.wait()
        return ended

    def _reap(self) -> Ended:
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:
            self._close(0)
            raise ProcessError(f"somebody else waited for our child {self.pid}: its exit status is lost") from None
        ended = Ended(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
        self._close(ended.returncode)
        return ended

    def _close(self, returncode: int) -> None:
        # Popen would wait for the process itself as long as it knows no status.
        self._process.returncode = returncode
        if self._entry is not None:
            self._entry.close()
        os.close(self.handle)


def start_child(
    argv: Sequence[str | Path],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    limits: Limits | None = None,
    user: str | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    guarded: bool = True,
) -> Child:
    """Start a child in a session of its own; it dies with this process, also after a kill -9.

    Args:
        argv: Program and arguments; no shell reads them.
        cwd: Working folder.
        env: Variables on top of this process's own; None as a value removes one.
        limits: Address space, open files, file size and CPU seconds are set as kernel limits. Time-out
            and resident memory are the caller's to watch.
        user: Run as this user (root only).
        stdin: As for `subprocess.Popen`, like the other streams.
        pass_fds: File descriptors that it inherits.
        guarded: False leaves out the guard programs, which would be measured with a command of a few
            milliseconds, and the ledger's line: no limits then, and after a kill -9 of this process it runs
            on until the next sweep finds it by its environment.

    Raises:
        MissingProgram: no such program.
        InfrastructureError: it cannot be started: no rights, no processes left, a folder that is closed.
        UsageError: limits for a child without guards.
    """
    if limits is not None and not guarded:
        raise UsageError(f"limits need the guard programs: start {argv[0]} with guarded=True")
    words = [str(word) for word in argv]
    who = account(user)
    if who is not None and cwd is not None:
        check_reachable(Path(cwd), who)
    ledger = current_ledger()
    environment = {**os.environ, **(who.environment() if who else {}), **(env or {}), TOKEN: ledger.token}
    variables = {name: value for name, value in environment.items() if value is not None}
    _check_program(words[0], cwd, variables.get("PATH"))
    command = _wrapped(words, limits or Limits()) if guarded else words

    def start() -> Child:
        ledger.open()
        started_at = time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, env=variables, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds,
            user=who.uid if who else None, group=who.gid if who else None,
            extra_groups=list(who.groups) if who else None, start_new_session=True,
        )  # fmt: skip
        try:
            name = Path(words[0]).name
            entry = ledger.add_child(process.pid, start_ticks(process.pid) or 0, name) if guarded else None
            return Child(process, entry, os.pidfd_open(process.pid), started_at)
        except BaseException:
            process.kill()
            process.wait()
            raise

    try:
        # Only the parent-death signal, which the guards ask for, minds which thread starts a child.
        return on_spawner(start, undo=lambda child: child.stop(grace_s=0)) if guarded else start()
    except OSError as error:
        raise InfrastructureError(f"cannot start {words[0]}: {error.strerror or error}") from error


def on_spawner(job: Callable[[], Any], *, undo: Callable[[Any], object] | None = None) -> Any:
    """Run a job on a thread that lives as long as this process, and return its result.

    The kernel sends the parent-death signal when the *thread* that made a child ends, so children
    must not be made by threads that come and go.

    Args:
        job: What to run.
        undo: Called with the result when the caller was interrupted before it could take it.
    """
    future: Future[Any] = Future()
    _spawner().put((future, job))
    try:
        return future.result()
    except BaseException:
        if undo is not None:
            future.add_done_callback(lambda done: None if done.exception() else undo(done.result()))
        raise


_spawners: dict[int, queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]]] = {}
_guard = threading.Lock()


def _spawner() -> queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]]:
    with _guard:
        # A forked process has no threads but the one that forked.
        if os.getpid() not in _spawners:
            jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(jobs,), name="mlsysopt-spawner", daemon=True).start()
            _spawners[os.getpid()] = jobs
        return _spawners[os.getpid()]


def _serve(jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]]) -> None:
    while True:
        future, job = jobs.get()
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)
        # Keep neither a result nor a traceback alive until the next job.
        del future, job


def _after_fork() -> None:
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _wrapped(words: list[str], limits: Limits) -> list[str]:
    """Put the guard programs in front of a command line."""
    script = "; ".join(['[ "$PPID" = "$1" ] || exit 125', "shift", "ulimit -c 0", *_ulimits(limits), 'exec "$@"'])
    guarded = ["/bin/sh", "-c", script, "mlsysopt", str(os.getpid()), *words]
    setpriv = _setpriv()
    return [setpriv, "--pdeathsig", "KILL", "--", *guarded] if setpriv else guarded


def _ulimits(limits: Limits) -> list[str]:
    lines: list[str] = []
    # Names, units and the amount of each limit as `sh` takes them.
    for name, kind, unit, amount in (
        ("v", resource.RLIMIT_AS, 1024, _address_space(limits.memory_bytes)),
        ("n", resource.RLIMIT_NOFILE, 1, limits.files),
        ("f", resource.RLIMIT_FSIZE, 512, limits.file_bytes),
        ("t", resource.RLIMIT_CPU, 1, limits.cpu_s),
    ):
        if amount is None:
            continue
        hard = resource.getrlimit(kind)[1]
        allowed = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        number = max(1, math.ceil(allowed / unit))
        # The kernel kills at the hard limit of CPU time; the soft one, which says why, must come before.
        later = number + 1 if kind == resource.RLIMIT_CPU and hard in (resource.RLIM_INFINITY, None) else number
        lines += [f"ulimit -S -{name} {number}", f"ulimit -H -{name} {later}"]
    return lines


def _address_space(memory_bytes: int | None) -> int | None:
    return None if memory_bytes is None else memory_bytes + ADDRESS_SLACK_BYTES


@cache
def _setpriv() -> str | None:
    found = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if found is None:
        log.info("no setpriv (util-linux) here: after a kill -9 children run on until the next start sweeps them")
        return None
    works = subprocess.run([found, "--pdeathsig", "KILL", "--", "true"], capture_output=True, check=False)
    return found if works.returncode == 0 else None


def _check_program(name: str, cwd: str | Path | None, path: str | None) -> None:
    """Find a missing program here: behind the shell it would only be an exit status."""
    looked_up = str(Path(cwd or ".", name)) if "/" in name else name
    if shutil.which(looked_up, path=path) is None:
        if "/" in name and Path(looked_up).is_file():
            raise InfrastructureError(f"cannot start {name}: Permission denied")
        raise MissingProgram(f"no program {name!r}{'' if '/' in name else ' on PATH'}")


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None

"""Run one program to its end, within limits, and say what it cost."""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlsysopt.core.errors import InfrastructureError
from mlsysopt.core.processes.child import Child, start_child
from mlsysopt.core.processes.idle import Hold, Rest
from mlsysopt.core.processes.memory import over_limit, peak_rss_bytes
from mlsysopt.core.target import Limits

__all__ = ["STDERR_BYTES", "STDOUT_BYTES", "ChildResult", "run_child"]

STDOUT_BYTES = 64 * 2**20
"""Standard output is kept whole up to this; of more, the end is kept."""
STDERR_BYTES = 256 * 2**10
"""Only the end of standard error is kept."""

_CHUNK = 1 << 16
# First looks come early, since short children have their peak early; later ones must cost nothing.
_FIRST_LOOK_S, _LOOK_S = 0.01, 0.05
# What a daemonised grandchild may still write after its parent ended, before the pipe is given up.
_DRAIN_S = 0.2
_DEATH_S = 30.0
# The smallest pipe there is: a child that is held must not get far.
_HELD_PIPE_BYTES = 4096
_HELD_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class ChildResult:
    """What one child did and cost.

    Attributes:
        returncode: Exit status; minus the signal's number when a signal ended it.
        signal: Number of the signal that ended it, else None.
        stdout: Its standard output, at most the last `STDOUT_BYTES`.
        stderr: The end of its standard error, at most `STDERR_BYTES`.
        wall_s: Seconds from its start to its end.
        cpu_s: User + system seconds of the child and of all descendants that were waited for.
        max_rss_bytes: Largest resident size of one process of it. Exact when it exceeds what the driver
            itself had, else sampled: the kernel counts the driver's pages before the exec.
        timed_out: It was ended at `limits.timeout_s`.
        killed_for_memory: It was ended above `limits.memory_bytes`, or because the machine ran out.
        started_after_s: Seconds from the call to the start of the child.
        held: It was held, came to rest, and went on.
    """

    returncode: int
    signal: int | None
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float
    max_rss_bytes: int
    timed_out: bool = False
    killed_for_memory: bool = False
    started_after_s: float = 0.0
    held: bool = False


def run_child(
    argv: Sequence[str | Path],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    limits: Limits | None = None,
    user: str | None = None,
    stdin: str | bytes | None = None,
    on_output: Callable[[str], object] | None = None,
    on_start: Callable[[Child], object] | None = None,
    pass_fds: Sequence[int] = (),
    grace_s: float = 2.0,
    hold: Hold | None = None,
) -> ChildResult:
    """Run a program to its end.

    The child leads its own process group. At the time-out, above the memory limit, at Ctrl-C or any
    other exception the whole group is asked to end (TERM), and killed after `grace_s`. Whatever it
    leaves running in its group when it ends is killed as well. It dies with this process.

    Args:
        argv: Program and arguments; no shell reads them.
        cwd: Working folder.
        env: Variables on top of this process's own; None as a value removes one.
        limits: Time-out, memory, open files, file size, CPU seconds.
        user: Run as this user (root only).
        stdin: What it reads; None means nothing.
        on_output: Called with each line of either stream, without its end, as soon as it is there.
        on_start: Called with the child once it runs; another thread may end it through that.
        pass_fds: File descriptors that it inherits.
        grace_s: Seconds between TERM and KILL.
        hold: Where to keep it waiting until its background threads are at rest.

    Raises:
        MissingProgram: no such program.
        InfrastructureError: it cannot be started.

    >>> run_child(["echo", "hello"]).stdout
    'hello\\n'
    """
    limits = limits or Limits()
    called = time.monotonic()
    child = start_child(
        argv, cwd=cwd, env=env, limits=limits, user=user, pass_fds=pass_fds,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        with _Watch(child, limits, grace_s, on_output, stdin, hold) as watch:
            if on_start is not None:
                on_start(child)
            watch.until_end()
            ended_at = time.monotonic()
            ended = child.wait()
            watch.drain()
    except BaseException:
        child.stop(grace_s=grace_s)
        raise
    exact = ended.max_rss_bytes if ended.max_rss_bytes > child.rss_at_start else 0
    return ChildResult(
        returncode=ended.returncode,
        signal=ended.signal,
        stdout=watch.text(child.stdout),
        stderr=watch.text(child.stderr),
        wall_s=ended_at - child.started_at,
        cpu_s=ended.cpu_s,
        max_rss_bytes=max(exact, watch.peak_rss_bytes),
        timed_out=watch.ended_for == "time-out",
        killed_for_memory=watch.ended_for == "memory",
        started_after_s=child.started_at - called,
        held=watch.held,
    )


class _Tail:
    """The end of a stream, and its lines as they come."""

    def __init__(self, limit: int, on_line: Callable[[str], object] | None) -> None:
        self.kept = bytearray()
        self._limit = limit
        self._on_line = on_line
        self._open = bytearray()

    def add(self, data: bytes) -> None:
        self.kept += data
        # Cut rarely: each cut moves everything that is kept.
        if len(self.kept) > 2 * self._limit:
            del self.kept[: -self._limit]
        if self._on_line is not None:
            *lines, rest = (bytes(self._open) + data).split(b"\n")
            self._open = bytearray(rest[-_CHUNK:])
            for line in lines:
                self._on_line(line.decode(errors="replace"))

    def close(self) -> None:
        if self._on_line is not None and self._open:
            self._on_line(self._open.decode(errors="replace"))
            self._open.clear()

    def text(self) -> str:
        return self.kept[-self._limit :].decode(errors="replace")


class _Watch:
    """Everything that is watched while a child runs: its pipes, its end, the clock and its memory."""

    def __init__(
        self,
        child: Child,
        limits: Limits,
        grace_s: float,
        on_output: Callable[[str], object] | None,
        stdin: str | bytes | None,
        hold: Hold | None,
    ) -> None:
        self.child = child
        self.held = False
        self._hold = hold
        self._rest: Rest | None = None
        self.ended_for: str | None = None
        self.peak_rss_bytes = 0
        self._limits = limits
        self._grace_s = grace_s
        self._deadline = None if limits.timeout_s is None else child.started_at + limits.timeout_s
        self._next_look, self._pause = child.started_at + _FIRST_LOOK_S, _FIRST_LOOK_S
        self._kill_at: float | None = None
        self._killed = False
        self._input = memoryview(stdin.encode() if isinstance(stdin, str) else stdin or b"")
        self._tails: dict[IO[bytes], _Tail] = {}
        self._selector = selectors.DefaultSelector()
        for stream, limit in ((child.stdout, STDOUT_BYTES), (child.stderr, STDERR_BYTES)):
            assert stream is not None
            self._tails[stream] = _Tail(limit, on_output)
            self._selector.register(stream, selectors.EVENT_READ)
        if hold is not None:
            assert child.stdout is not None
            fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _HELD_PIPE_BYTES)
        if child.stdin is not None:
            os.set_blocking(child.stdin.fileno(), False)
            self._selector.register(child.stdin, selectors.EVENT_WRITE)
        self._selector.register(child.handle, selectors.EVENT_READ)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for stream in (self.child.stdin, self.child.stdout, self.child.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def until_end(self) -> None:
        """Serve the pipes and the clock until the child has ended."""
        while True:
            now = time.monotonic()
            self._enforce(now)
            for key, _ in self._selector.select(max(0.0, self._next_event() - time.monotonic())):
                if key.fd == self.child.handle:
                    self._selector.unregister(self.child.handle)
                    return
                self._serve(key.fileobj)

    def drain(self) -> None:
        """Read what is left in the pipes of a child that has ended."""
        if self.child.stdin is not None:
            with suppress(KeyError, ValueError):
                self._selector.unregister(self.child.stdin)
        self._let_go()
        self._hold = None
        deadline = time.monotonic() + _DRAIN_S
        while self._selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._serve(key.fileobj)
        for tail in self._tails.values():
            tail.close()

    def text(self, stream: IO[bytes] | None) -> str:
        """Return what came out of one stream."""
        return self._tails[stream].text() if stream is not None else ""

    def _next_event(self) -> float:
        next_look = self._next_look if self._rest is None else min(self._next_look, time.monotonic() + _HELD_LOOK_S)
        times = (self._deadline if self.ended_for is None else None, next_look, self._kill_at)
        return min(when for when in times if when is not None)

    def _enforce(self, now: float) -> None:
        if self._kill_at is not None and now >= self._kill_at:
            if self._killed:
                raise InfrastructureError(f"process {self.child.pid} does not die of SIGKILL: a device hangs")
            self.child.kill()
            self._killed, self._kill_at = True, now + _DEATH_S
        if self.ended_for is None and self._deadline is not None and now >= self._deadline:
            self._end("time-out", now)
        if self._hold is not None and self._rest is not None and self._rest.lasted_s() >= self._hold.idle_s:
            self.held = True
            self._let_go()
        if now >= self._next_look:
            self._pause = min(_LOOK_S, 2 * self._pause)
            self._next_look = now + self._pause
            self.peak_rss_bytes = max(self.peak_rss_bytes, peak_rss_bytes(self.child.pid))
            # Nothing is asked of a child that takes more than it may: while it tidies up, it grows.
            if self.ended_for is None and over_limit(self.child.pid, self._limits.memory_bytes):
                self.ended_for, self._kill_at = "memory", now

    def _end(self, why: str, now: float) -> None:
        self.ended_for, self._kill_at = why, now + self._grace_s
        self.child.send(signal.SIGTERM)

    def _serve(self, stream: object) -> None:
        if stream is self.child.stdin:
            self._feed()
            return
        assert stream in (self.child.stdout, self.child.stderr)
        pipe: IO[bytes] = stream  # pyright: ignore[reportAssignmentType]
        data = os.read(pipe.fileno(), _CHUNK)
        if data:
            tail = self._tails[pipe]
            tail.add(data)
            if pipe is self.child.stdout and self._hold is not None:
                mark = self._hold.after.encode()
                if mark in tail.kept[-len(data) - len(mark) :]:
                    self._rest = Rest(self.child.pid)
                    self._selector.unregister(pipe)
        else:
            self._selector.unregister(pipe)

    def _let_go(self) -> None:
        """Read a held child's output on."""
        if self._rest is not None:
            assert self.child.stdout is not None
            self._hold = self._rest = None
            self._selector.register(self.child.stdout, selectors.EVENT_READ)

    def _feed(self) -> None:
        pipe = self.child.stdin
        assert pipe is not None
        try:
            self._input = self._input[os.write(pipe.fileno(), self._input[:_CHUNK]) :] if self._input else self._input
        except BlockingIOError:
            return
        except BrokenPipeError:
            # A child need not read what it is given.
            self._input = memoryview(b"")
        if not self._input:
            self._selector.unregister(pipe)
            with suppress(OSError):
                pipe.close()

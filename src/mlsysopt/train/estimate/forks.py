"""The far side of the host: import once, fork a clean process for each sample, measure in it."""

from __future__ import annotations

import copy
import ctypes
import gc
import importlib
import os
import pickle
import resource
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from mlsysopt.core.processes.memory import forget_peak, over_limit
from mlsysopt.core.target import Failure
from mlsysopt.train.estimate import clock

if TYPE_CHECKING:
    from mlsysopt.train.estimate.ratings import Ratings
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord

__all__ = ["LEAST_CPU_S", "Job", "Reading", "serve"]

LEAST_CPU_S = 0.03
"""Shorter trainings are repeated inside one timing until they add up to this."""

_PR_SET_PDEATHSIG = 1
_TAIL_LINES = 20
_MOST_REPEATS = 1000
_WATCH_S = 0.1
# Libraries and thread stacks reserve address space that they never use.
_ADDRESS_SLACK = 2 * 2**30
_WARM_ROWS = 12
# Readings of the fixed loop before and after a training that differ by more: neither tells of the middle.
_CHANGED = 1.25


@dataclass(frozen=True, slots=True)
class Job:
    """One request to the host.

    Attributes:
        path: File of pickled ratings.
        record: Settled record; None only loads and walks.
        params: Hyper-parameters of this training.
        walks: Which walks to time.
        data: What to build from the ratings.
        timeout_s: Time-out of the whole request.
        memory_bytes: Limit of the process; None means the machine's reserve.
        least_cpu_s: Shorter trainings are repeated inside one timing until they add up to this.
    """

    path: str
    record: TrainerRecord | None
    params: dict[str, Any]
    walks: tuple[str, ...] = ()
    data: str = "ratings"
    timeout_s: float = 600.0
    memory_bytes: int | None = None
    least_cpu_s: float = LEAST_CPU_S


@dataclass(frozen=True, slots=True)
class Reading:
    """What one request found; times in seconds, memory in bytes.

    Attributes:
        load_s: CPU seconds of reading the ratings and building what the trainer takes.
        walks: Name -> CPU seconds of one walk.
        cpu_s: CPU seconds of one training, 0 without one.
        wall_s: Elapsed seconds of one training.
        repeats: Trainings inside the timing.
        base_bytes: Resident size before anything was loaded.
        loaded_bytes: What loading added.
        growth_bytes: What training added at its peak.
        peak_bytes: Highest resident size.
        paces_s: CPU seconds of the fixed loop just before and just after the training, 0 without one.
        spent_s: CPU seconds of the whole request.
    """

    load_s: float
    walks: dict[str, float]
    cpu_s: float
    wall_s: float
    repeats: int
    base_bytes: int
    loaded_bytes: int
    growth_bytes: int
    peak_bytes: int
    paces_s: tuple[float, float] = (0.0, 0.0)
    spent_s: float = 0.0

    @property
    def pace_s(self) -> float:
        """Pace of the machine around the training: the mean of both readings."""
        return sum(self.paces_s) / 2.0

    @property
    def disturbed(self) -> bool:
        """Whether the machine changed while the training ran."""
        return max(self.paces_s) > _CHANGED * min(self.paces_s)


def serve(address: str, modules: tuple[str, ...]) -> None:
    """Be the host: import, then fork for each job until the line ends."""
    for module in ("scipy.sparse", "mlsysopt.train.estimate.ratings", *modules):
        with suppress(ImportError):
            importlib.import_module(module)
    line = socket.socket(socket.AF_UNIX)
    line.connect(address)
    connection = Connection(line.detach())
    with suppress(EOFError, ConnectionError):
        connection.send_bytes(pickle.dumps(time.process_time()))
        while True:
            job = pickle.loads(connection.recv_bytes())
            gc.collect()
            gc.freeze()
            reply = _forked(job, connection)
            if reply is None:
                return
            connection.send_bytes(pickle.dumps(reply))


def _forked(job: Job, connection: Connection) -> Reading | Failure | None:
    """Run a job in a fork of this process; None when the other side has gone."""
    answer, log = os.memfd_create("sample"), os.memfd_create("sample-log")
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_sample(job, answer, log)
    try:
        handle = os.pidfd_open(pid)
        try:
            why = _watch(job, pid, handle, connection, started)
        finally:
            os.close(handle)
        if why:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        cpu_s, wall_s = usage.ru_utime + usage.ru_stime, time.monotonic() - started
        if why == "gone":
            return None
        tail = "\n".join(_content(log).decode(errors="replace").splitlines()[-_TAIL_LINES:])
        if why == "timeout":
            return Failure("timeout", f"not done after {job.timeout_s:.3g} s", tail, wall_s, cpu_s)
        if why:
            return Failure("crashed", _memory_reason(why), tail, wall_s, cpu_s)
        written = _content(answer)
        if not written:
            code = os.waitstatus_to_exitcode(status)
            ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            return Failure("crashed", f"the process of the sample ended with {ended}", tail, wall_s, cpu_s)
        found = pickle.loads(written)
        if isinstance(found, dict):
            return Reading(**found, spent_s=cpu_s)
        reason, trace = found
        return Failure("crashed", reason, f"{tail}\n{trace}".strip(), wall_s, cpu_s)
    finally:
        os.close(answer)
        os.close(log)


def _memory_reason(why: str) -> str:
    return "over its memory limit" if why == "limit" else "the machine had no memory left"


def _watch(job: Job, pid: int, handle: int, connection: Connection, started: float) -> str:
    """Wait for the end of a sample; return why it has to be ended, empty when it ended by itself."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(connection.fileno(), select.POLLIN | select.POLLHUP)
    while True:
        ready = {number for number, _ in poll.poll(_WATCH_S * 1000)}
        if handle in ready:
            return ""
        if ready:
            return "gone"
        if time.monotonic() - started > job.timeout_s:
            return "timeout"
        if (why := over_limit(pid, job.memory_bytes)) is not None:
            return why


def _be_sample(job: Job, answer: int, log: int) -> None:
    """Be the fork: never return."""
    code = 1
    try:
        # Killed with the host, also when the host is killed.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        if job.memory_bytes is not None:
            size = _status("VmSize:") + job.memory_bytes + _ADDRESS_SLACK
            resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
        found: Any = _measure(job)
        code = 0
    except MemoryError:
        found = ("over its memory limit", traceback.format_exc(limit=5))
    except BaseException as error:
        found = (f"{type(error).__name__}: {error}".strip(), traceback.format_exc(limit=8))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(answer, pickle.dumps(found))
    finally:
        os._exit(code)


def _measure(job: Job) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    base = _status("VmRSS:")
    started = time.process_time()
    with open(job.path, "rb") as stream:
        ratings: Ratings = pickle.load(stream)
    warm = _few(ratings)
    data = _fed(ratings, job.data)
    loaded_cpu = time.process_time() - started
    if job.data != "ratings":
        # What a user's own program would have let go of as well.
        del ratings
    _trim()
    walks = clock.walks(data, job.walks)
    if job.record is not None:
        used = _warm_up(job, warm)
        for name in used:
            getattr(data, name)()
    gc.collect()
    _trim()
    forget_peak()
    before = _status("VmRSS:")
    found: dict[str, Any] = {
        "load_s": loaded_cpu,
        "walks": walks,
        "cpu_s": 0.0,
        "wall_s": 0.0,
        "repeats": 0,
        "base_bytes": base,
        "loaded_bytes": max(0, before - base),
        "growth_bytes": 0,
        "paces_s": (0.0, 0.0),
    }
    if job.record is not None:
        cpu, wall, repeats = 0.0, 0.0, 0
        first = clock.pace()
        while repeats == 0 or (cpu < job.least_cpu_s and repeats < _MOST_REPEATS):
            # A trainset remembers its mean: each training has to work it out, as the only one does.
            given = copy.copy(data) if job.data == "trainset" else data
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            model = job.record.fit(given, **job.params)
            cpu += time.process_time() - cpu_before
            wall += time.perf_counter() - wall_before
            repeats += 1
            if repeats == 1:
                found["growth_bytes"] = max(0, _status("VmHWM:") - before)
            del model
        # The clock of the kernel may stand still for a very short training.
        found |= {"cpu_s": max(cpu, 1e-7) / repeats, "wall_s": max(wall, 1e-7) / repeats, "repeats": repeats}
        found["paces_s"] = (first, clock.pace())
    found["peak_bytes"] = _status("VmHWM:")
    return found


class _Data:
    """Ratings whose conversions are made once, so that a trainer of the user's does not time them."""

    def __init__(self, ratings: Ratings) -> None:
        self._ratings = ratings
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name in ("csr", "trainset"):
            return lambda: self._once(name)
        return getattr(self._ratings, name)

    def __len__(self) -> int:
        return len(self._ratings)

    def _once(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = getattr(self._ratings, name)()
        return self._made[name]

    def used(self) -> tuple[str, ...]:
        """Return which conversions were asked for."""
        return tuple(self._made)


def _fed(ratings: Ratings, data: str) -> Any:
    if data == "trainset":
        return ratings.trainset()
    return ratings.csr() if data == "csr" else _Data(ratings)


def _few(ratings: Ratings) -> Ratings:
    """Return the rows of a few users: enough to run every line of a trainer once."""
    return ratings.subset_users(list(range(min(_WARM_ROWS, ratings.n_users))))


def _warm_up(job: Job, few: Ratings) -> tuple[str, ...]:
    """Train on next to nothing, so that imports and first calls are not timed; return which conversions it used."""
    assert job.record is not None
    data = _fed(few, job.data)
    params = dict(job.params)
    if job.record.epochs in params:
        params[str(job.record.epochs)] = 1
    # So few rows may be too few for a trainer: the sample itself will tell.
    with suppress(Exception):
        job.record.fit(data, **params)
    return data.used() if isinstance(data, _Data) else ()


def _content(handle: int) -> bytes:
    return os.pread(handle, os.fstat(handle).st_size, 0)


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def _trim() -> None:
    """Give what the allocator keeps back to the system: memory it already holds would hide growth."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

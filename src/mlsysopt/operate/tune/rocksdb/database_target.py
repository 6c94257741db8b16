"""What every engine's target shares: goals, guards, and a trial on a fresh database."""

from __future__ import annotations

import time
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Self

from mlsysopt.core.errors import InfrastructureError, UsageError
from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.references import Reference
from mlsysopt.core.space import Space
from mlsysopt.core.target import Config, Failure, Limits, Metric, Outcome, Purpose, Value
from mlsysopt.operate.tune.disks import filesystem_of
from mlsysopt.operate.tune.rocksdb import storage
from mlsysopt.operate.tune.rocksdb.space import memory_bytes
from mlsysopt.operate.tune.rocksdb.workloads import Operation, Workload

__all__ = ["DatabaseSession", "DatabaseTarget", "knowledge", "metrics_of"]

_PREFIX = "mlsysopt-rocksdb-"


def knowledge() -> dict[str, tuple[str, ...]]:
    """Return the shipped map: sub-goal (a metric) -> the knobs that drive it, of both presets."""
    text = resources.files("mlsysopt.operate.tune.rocksdb").joinpath("knowledge.toml").read_text()
    return {goal: (*row["paper"], *row["more"]) for goal, row in tomllib.loads(text).items()}


def metrics_of(operations: Sequence[Operation]) -> dict[str, Metric]:
    """Return the metrics of a workload that reports these latencies."""
    words = {"get": "Get", "seek": "Seek with its scan", "write": "Put"}
    made = {
        "throughput": Metric("ops/s", "higher", clock="wall", twin="throughput_cpu", about="operations per second"),
        "throughput_cpu": Metric("ops/CPU-s", "higher", clock="cpu", twin="throughput",
                                 about="operations per CPU second of the run, opening not counted"),
    }  # fmt: skip
    for kind in operations:
        made[f"{kind}_us"] = Metric("us", "lower", clock="wall", about=f"mean latency of a {words[kind]}")
        for p in ("p50", "p95", "p99"):
            made[f"{p}_{kind}_us"] = Metric("us", "lower", clock="wall", about=f"{p} latency of a {words[kind]}")
    return made | {
        "stall_us": Metric("us", "lower", clock="wall", may_be_zero=True, about="time that writes were stalled"),
        "write_amp": Metric("", "lower", about="bytes flushed and compacted per byte written by the user"),
        "block_misses_per_op": Metric("", "lower", may_be_zero=True, about="block cache misses per operation"),
        "cache_hit": Metric("", "higher", may_be_zero=True, about="share of block look-ups that the cache answered"),
        "l0_files": Metric("", "lower", may_be_zero=True, about="files in level 0 after the load"),
        "disk_bytes": Metric("B", "lower", about="bytes of the database after the run"),
        "load_ops": Metric("ops/s", "higher", clock="wall", twin="load_ops_cpu", about="keys loaded per second"),
        "load_ops_cpu": Metric("ops/CPU-s", "higher", clock="cpu", twin="load_ops",
                               about="keys loaded per CPU second, flushes and compactions included"),
        "memory_bytes": Metric("B", "lower", kind="static", about="block cache plus memtables, at most"),
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseTarget(ABC):
    """One engine, one workload, one space of knobs, one memory budget; plain data, so it can be pickled.

    Attributes:
        workload: What is loaded and run.
        knobs: The space.
        budget_bytes: Memory for block cache and memtables.
        base: Values of the memory knobs that hold where a configuration says nothing.
        directory: Where a verification keeps its databases.
    """

    workload: Workload
    knobs: Space
    budget_bytes: int
    base: Mapping[str, Value]
    directory: Path
    name: str = "rocksdb"
    references: list[Reference] = field(default_factory=list)
    objective: str = "throughput"

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return what must agree before two results may be compared."""

    @abstractmethod
    def trial(self, knobs: Config, folder: Path, *, seed: int, fidelity: float, limits: Limits) -> Outcome:
        """Load, open and run one configuration.

        Args:
            knobs: Every knob, or none at all.
            folder: An empty folder, removed afterwards.
            seed: Seed of the load and the run.
            fidelity: Share of the full work.
            limits: Limits of every child; the time-out is of the whole trial.

        Returns:
            The outcome; its time and place are added by the session.
        """

    @property
    def about(self) -> str:
        """What the workload does, in one line."""
        return self.workload.about

    @property
    def guards(self) -> dict[str, str]:
        """What must not get worse, relative to the default configuration."""
        tails = {f"p99_{kind}_us": "<= 1.1x" for kind in ("get", "write") if kind in (self.workload.operations or ())}
        return {
            **tails,
            "load_ops_cpu": ">= 0.9x",
            "write_amp": "<= 1.1x",
            "disk_bytes": "<= 1.2x",
            "memory_bytes": f"<= {self.budget_bytes}",
        }

    @property
    def subgoals(self) -> dict[str, tuple[str, ...]]:
        """The shipped knowledge as far as this space and workload go."""
        reported = self.metrics()
        found = {goal: tuple(n for n in names if n in self.knobs) for goal, names in knowledge().items()}
        return {goal: names for goal, names in found.items() if names and goal in reported}

    def space(self) -> Space:
        return self.knobs

    def with_space(self, space: Space) -> Self:
        return replace(self, knobs=space)

    def metrics(self) -> dict[str, Metric]:
        return metrics_of(self.workload.operations or ())

    def static(self, config: Config) -> dict[str, float]:
        """Return `memory_bytes`: block cache plus memtables of a configuration, without running it."""
        return {"memory_bytes": float(memory_bytes(self.filled(config), self.base))}

    def filled(self, config: Config) -> dict[str, Value]:
        """Fill in missing parameters; an empty configuration stays empty: no knob is set at all."""
        return {**self.knobs.default(), **config} if config else {}

    def needed_bytes(self, memtables_bytes: int, fidelity: float = 1.0) -> int:
        """Return the bytes that a trial may need on disk."""
        loads = len(self.workload.timed("load"))
        return storage.bytes_needed(self.workload.flags, memtables_bytes, loads=loads, fidelity=fidelity)

    @contextmanager
    def session(self, limits: Limits, *, purpose: Purpose = "search") -> Generator[DatabaseSession]:
        """Measure on fresh databases; each is removed after its trial whatever happens.

        A search runs in memory where the database fits, a verification on `directory`.
        """
        needed = self.needed_bytes(self.budget_bytes)
        search = storage.choose("search", self.directory, needed, self.budget_bytes)
        folder = storage.choose(purpose, self.directory, needed, self.budget_bytes)
        systems = {"search": filesystem_of(search), "verify": filesystem_of(self.directory)}
        yield DatabaseSession(self, limits, folder, purpose, systems)

    @contextmanager
    def scratch(self, needed: int) -> Generator[Path]:
        """Make a folder for a probe of that many bytes.

        Raises:
            InfrastructureError: there is no room or no right to write.
        """
        folder = storage.choose("search", self.directory, needed, self.budget_bytes)
        if failure := storage.room_for(folder, needed):
            raise InfrastructureError(failure.reason)
        with temporary_folder(_PREFIX, base=folder) as temporary:
            yield temporary


@dataclass(slots=True)
class DatabaseSession:
    """Measures configurations one after another, each on its own fresh database."""

    target: DatabaseTarget
    limits: Limits
    folder: Path
    purpose: Purpose
    filesystems: Mapping[str, str]

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        """Load, open and run one configuration; see `Session.measure`."""
        if not 1 <= seed < 2**31:
            raise UsageError(f"seed must lie in [1, 2**31), got {seed}: 0 means the clock to db_bench")
        if not 0 < fidelity <= 1:
            raise UsageError(f"fidelity must lie in (0, 1], got {fidelity}")
        target, started_at, started = self.target, time.time(), time.monotonic()
        knobs = target.filled(config)
        if knobs and (broken := target.knobs.violations(knobs)):
            return Failure("rejected", "not in the space: " + "; ".join(v.text for v in broken))
        if failure := storage.room_for(
            self.folder, target.needed_bytes(memory_bytes(knobs, target.base), fidelity=fidelity)
        ):
            return failure
        limits = self.limits if timeout_s is None else self.limits.with_timeout(timeout_s)
        try:
            with temporary_folder(_PREFIX, base=self.folder) as temporary:
                outcome = target.trial(knobs, temporary, seed=seed, fidelity=fidelity, limits=limits)
        except (OSError, InfrastructureError) as error:
            told = error.strerror if isinstance(error, OSError) else None
            outcome = Failure("infrastructure", f"{self.folder}: {told or error}")
        where = {"filesystem": self.filesystems[self.purpose], "filesystems": dict(self.filesystems)}
        extra, wall_s = {**where, **outcome.extra}, time.monotonic() - started
        if isinstance(outcome, Failure):
            return replace(outcome, wall_s=wall_s, extra=extra)
        return replace(outcome, started_at=started_at, wall_s=wall_s, extra=extra)

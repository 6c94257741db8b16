"""RocksDB inside a Python wheel (rocksdict) as a target, for machines without db_bench.

A trial is one child process: it loads a fresh database, waits until it is quiet, opens it again and
replays a stream of operations on it. Sizes are those of db_bench's presets: 120,000 keys of a
kilobyte are two default memtables, so that the reads reach the files, and take 2 to 3 seconds.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import InfrastructureError, MissingExtra, TargetError, UsageError, near_misses
from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.references import Reference
from mlsysopt.core.space import Space
from mlsysopt.core.target import Config, Failure, Limits, Measurement, Metric, Outcome, Purpose, Value
from mlsysopt.operate.tune.rocksdb import storage
from mlsysopt.operate.tune.rocksdb.embedded_child import DATABASE, Answer, Description, Job
from mlsysopt.operate.tune.rocksdb.embedded_driver import LOG_LINES, ask, damping, measured
from mlsysopt.operate.tune.rocksdb.embedded_options import UNSAFE, flags_of
from mlsysopt.operate.tune.rocksdb.embedded_stream import FLAGS, check_workload
from mlsysopt.operate.tune.rocksdb.flags import Flag
from mlsysopt.operate.tune.rocksdb.options import DB, OptionsFile, effective, newest_options, warnings_of
from mlsysopt.operate.tune.rocksdb.output import tail
from mlsysopt.operate.tune.rocksdb.space import base_values, build_space, memory_budget, memory_bytes
from mlsysopt.operate.tune.rocksdb.target import knowledge, metrics_of
from mlsysopt.operate.tune.rocksdb.workloads import ALABED2021, Workload, workload

__all__ = ["Embedded", "EmbeddedSession", "embedded"]

log = logging.getLogger("mlsysopt.tune")


@dataclass(frozen=True, slots=True)
class Embedded:
    """One installed rocksdict, one workload, one space of knobs, one memory budget.

    Made by `embedded()` (or `mlsysopt.operate.tune.rocksdb`); plain data, so it can be pickled.

    Attributes:
        wheel: Version of rocksdict.
        version: Version of the RocksDB inside it.
        workload: What is loaded and run.
        fixed: Options that hold for the default and every candidate alike.
    """

    wheel: str
    version: str
    workload: Workload
    fixed: Mapping[str, Value]
    knobs: Space
    budget_bytes: int
    base: Mapping[str, Value]
    directory: Path
    name: str = "rocksdb"
    references: list[Reference] = field(default_factory=list)

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

    def fingerprint(self) -> dict[str, Any]:
        """Return what must agree before two results may be compared."""
        return {
            "target": self.name,
            "engine": "embedded",
            "version": self.version,
            "rocksdict": self.wheel,
            "workload": self.workload.name,
            "load": list(self.workload.load),
            "run": list(self.workload.run),
            "flags": dict(sorted({**self.workload.flags, **self.fixed}.items())),
            "memory_bytes": self.budget_bytes,
        }

    def space(self) -> Space:
        return self.knobs

    def with_space(self, space: Space) -> Embedded:
        return replace(self, knobs=space)

    def metrics(self) -> dict[str, Metric]:
        return metrics_of(self.workload.operations or ())

    def static(self, config: Config) -> dict[str, float]:
        """Return `memory_bytes`: block cache plus memtables of a configuration, without running it."""
        return {"memory_bytes": float(memory_bytes(self.filled(config), self.base))}

    @contextmanager
    def session(self, limits: Limits, *, purpose: Purpose = "search") -> Generator[EmbeddedSession]:
        """Measure on fresh databases; each is removed after its trial whatever happens.

        A search runs in memory where the database fits, a verification on `directory`.
        """
        needed = storage.bytes_needed(self.workload.flags, self.budget_bytes, loads=len(self.workload.timed("load")))
        search = storage.choose("search", self.directory, needed, self.budget_bytes)
        folder = storage.choose(purpose, self.directory, needed, self.budget_bytes)
        systems = {"search": storage.filesystem_of(search), "verify": storage.filesystem_of(self.directory)}
        yield EmbeddedSession(self, limits, folder, purpose, systems)

    def export(self, config: Config, path: Path) -> None:
        """Write the RocksDB OPTIONS file that a database opened with this configuration writes down.

        The block cache lives outside OPTIONS files; its size stands in the header.

        Raises:
            InfrastructureError: there is no room or no right to write.
            TargetError: RocksDB refuses the configuration.
        """
        config = self.filled(config)
        if config:
            self.knobs.check(config)
        folder = storage.choose("search", self.directory, 0, self.budget_bytes)
        if failure := storage.room_for(folder, 0):
            raise InfrastructureError(failure.reason)
        with temporary_folder("mlsysopt-rocksdb-", base=folder) as temporary:
            answer = ask(Job("open", str(temporary), self.options(config)), Limits(timeout_s=60))
        if isinstance(answer, Failure):
            raise TargetError(f"RocksDB does not open with this configuration: {answer.reason}\n{answer.log_tail}")
        cache = {**self.base, **config}["cache_size"]
        header = (
            f"RocksDB options for the workload {self.workload.name!r}, tuned with RocksDB {self.version}, "
            f"rocksdict {self.wheel}.\n"
            f"The block cache is not part of an OPTIONS file: give it {cache} bytes yourself "
            f"(rocksdict: Options.load_latest(FOLDER, cache=Cache({cache})))."
        )
        # The probe's own folder must not go into somebody's program.
        text = OptionsFile.parse(answer["options"]).with_values(DB, wal_dir="", db_log_dir="").text(header=header)
        try:
            path.write_text(text)
        except OSError as error:
            raise InfrastructureError(f"cannot write {path}: {error.strerror or error}") from error

    def filled(self, config: Config) -> dict[str, Value]:
        """Fill in missing parameters; an empty configuration stays empty: no knob is set at all."""
        return {**self.knobs.default(), **config} if config else {}

    def options(self, config: Config) -> dict[str, Value]:
        """Return every option that a trial sets, the block cache's size among them; empty when there is none."""
        wanted = {**self.fixed, **config}
        return {"cache_size": self.base["cache_size"], **wanted} if wanted else {}


@dataclass(slots=True)
class EmbeddedSession:
    """Measures configurations one after another, each on its own fresh database."""

    target: Embedded
    limits: Limits
    folder: Path
    purpose: Purpose
    filesystems: Mapping[str, str]

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        """Load, open and run one configuration; see `Session.measure`."""
        if not 1 <= seed < 2**31:
            raise UsageError(f"seed must lie in [1, 2**31), got {seed}")
        if not 0 < fidelity <= 1:
            raise UsageError(f"fidelity must lie in (0, 1], got {fidelity}")
        target, started_at, started = self.target, time.time(), time.monotonic()
        knobs = target.filled(config)
        if knobs and (broken := target.knobs.violations(knobs)):
            return Failure("rejected", "not in the space: " + "; ".join(v.text for v in broken))
        work = target.workload
        needed = storage.bytes_needed(
            work.flags, memory_bytes(knobs, target.base), loads=len(work.timed("load")), fidelity=fidelity
        )
        if failure := storage.room_for(self.folder, needed):
            return failure
        limits = self.limits if timeout_s is None else self.limits.with_timeout(timeout_s)
        try:
            with temporary_folder("mlsysopt-rocksdb-", base=self.folder) as temporary:
                job = Job("trial", str(temporary), target.options(knobs), _scaled(work.flags, fidelity),
                          work.load, work.run, seed)  # fmt: skip
                answer = ask(job, limits)
                if isinstance(answer, Failure):
                    return replace(answer, wall_s=time.monotonic() - started, extra=self._where())
                outcome = self._measurement(Answer.from_json(answer), knobs, temporary / DATABASE)
        except (OSError, InfrastructureError) as error:
            told = error.strerror if isinstance(error, OSError) else None
            reason = f"{self.folder}: {told or error}"
            return Failure("infrastructure", reason, wall_s=time.monotonic() - started, extra=self._where())
        return replace(outcome, started_at=started_at, wall_s=time.monotonic() - started)

    def _measurement(self, answer: Answer, knobs: Config, database: Path) -> Measurement:
        target, phases = self.target, {"load": answer.load, "open": answer.opened, "run": answer.run}
        written = newest_options(database)
        assert written is not None
        log_text = (database / "LOG").read_text(errors="replace")
        metrics = {**measured(answer), "disk_bytes": float(storage.used_bytes(database))}
        cpu_s = {name: phase.cpu_s for name, phase in phases.items()}
        extra = {
            **self._where(),
            "open_cpu_share": answer.opened.cpu_s / max(answer.opened.cpu_s + answer.run.cpu_s, 1e-6),
            "cpu_s": cpu_s,
            "wall_s": {name: phase.wall_s for name, phase in phases.items()},
            "python_share": answer.idle_share,
            "python_us": dict(answer.idle_us),
            "corrections": warnings_of(log_text),
            "notes": [damping(answer.idle_share)],
        }
        return Measurement(
            {name: metrics[name] for name, told in target.metrics().items() if told.kind != "static"},
            effective(OptionsFile.read(written), {**target.knobs.default(), **knobs}, log_text=log_text),
            sum(cpu_s.values()),
            wall_s=0.0,
            started_at=0.0,
            log_tail=tail(log_text, LOG_LINES),
            extra=extra,
        )

    def _where(self) -> dict[str, Any]:
        return {"filesystem": self.filesystems[self.purpose], "filesystems": dict(self.filesystems)}


def _scaled(flags: Mapping[str, Any], fidelity: float) -> dict[str, Any]:
    """Scale keys and operations together: one alone would change how much of the data is hot."""
    counts = {name: int(flags.get(name, FLAGS[name].default)) for name in ("num", "reads")}
    return {**flags, **{name: max(1, round(n * fidelity)) for name, n in counts.items() if n > 0}}


def embedded(
    given: str | Workload = "mixgraph",
    *,
    knobs: str | Sequence[str] | Mapping[str, tuple[Any, Any]] = "paper10",
    memory: str | int | None = None,
    directory: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    unfence: Sequence[str] = (),
    threads: int = 1,
) -> Embedded:
    """Make the target for the RocksDB inside the rocksdict wheel.

    Args:
        given: `mixgraph`, `ycsb-a`, `ycsb-b`, `ycsb-c`, or a `Workload` of benchmarks that this engine has.
        knobs: See `build_space`; knobs of a preset that this RocksDB lacks are dropped with a logged line.
        memory: Budget of block cache and memtables; None is 1.5 times what the default needs.
        directory: Where verification keeps its databases; None is the user's state folder.
        settings: Flags of the workload and options that hold for the default and every candidate alike.
        unfence: Groups of knobs that may be tuned although they trade safety for speed.
        threads: 1; more need db_bench.

    Raises:
        MissingExtra: rocksdict is not installed.
        UsageError: an unknown name, a wrong value, or a budget below what the default needs.
    """
    if importlib.util.find_spec("rocksdict") is None:
        raise MissingExtra.of("the embedded RocksDB engine", "tune")
    if threads != 1:
        raise UsageError(f"the embedded engine runs in one thread, got threads={threads}; use --engine db_bench")
    wheel = metadata.version("rocksdict")
    engine, options, found = _describe(wheel)
    known = flags_of(options, found.cache_size)
    asked = workload(given)
    read = _read_settings({**asked.flags, **(settings or {})}, {**known, **FLAGS}, engine)
    own = {name: value for name, value in read.items() if name in FLAGS}
    chosen = replace(asked.with_flags(own), flags=own)
    check_workload(chosen)
    base = base_values(known, read)
    budget = memory_budget(memory, base)
    space = build_space(
        known, knobs, budget, engine, settings=read, fixed=frozenset(asked.flags), codecs=found.codecs,
        unfence=unfence,
    )  # fmt: skip
    for name in space.names:
        if name in UNSAFE and "durability" not in unfence:
            raise UsageError(f"knob {name!r} is fenced: it trades durability for speed (--unfence durability)")
    return Embedded(
        wheel=wheel,
        version=options.sections["Version"]["rocksdb_version"],
        workload=chosen,
        fixed={name: value for name, value in read.items() if name not in FLAGS},
        knobs=space,
        budget_bytes=budget,
        base=base,
        directory=Path(directory) if directory is not None else storage.default_directory(),
        references=[ALABED2021, *chosen.references],
    )


@functools.lru_cache(maxsize=1)
def _describe(wheel: str) -> tuple[str, OptionsFile, Description]:
    """Ask the wheel once for its defaults; the key is its version."""
    with temporary_folder("mlsysopt-rocksdb-") as folder:
        answer = ask(Job("describe", str(folder)), Limits(timeout_s=60))
    if isinstance(answer, Failure):
        raise TargetError(f"rocksdict {wheel} does not work here: {answer.reason}\n{answer.log_tail}")
    found = Description(**answer)
    options = OptionsFile.parse(found.options)
    return f"rocksdict {wheel} (RocksDB {options.sections['Version']['rocksdb_version']})", options, found


def _read_settings(settings: Mapping[str, Any], known: Mapping[str, Flag], engine: str) -> dict[str, Value]:
    for name in settings:
        if name not in known:
            raise UsageError(f"no flag {name!r} in {engine}; {near_misses(name, known, noun='flag')}")
    return {name: known[name].read(value) for name, value in settings.items()}

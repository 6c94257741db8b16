"""RocksDB as a target: db_bench runs a workload on fresh databases and reports what it cost."""

from __future__ import annotations

import logging
import time
import tomllib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import InfrastructureError, TargetError, UsageError, near_misses
from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.references import Reference
from mlsysopt.core.space import Space
from mlsysopt.core.target import Config, Failure, Limits, Measurement, Metric, Outcome, Purpose, Value
from mlsysopt.operate.tune.rocksdb import storage
from mlsysopt.operate.tune.rocksdb.flags import Binary, accepted_codecs, find_db_bench, help_of
from mlsysopt.operate.tune.rocksdb.options import DB, effective
from mlsysopt.operate.tune.rocksdb.output import OutputError, load_metrics, run_metrics
from mlsysopt.operate.tune.rocksdb.phases import Trial, format_flag, run_trial
from mlsysopt.operate.tune.rocksdb.space import KNOBS, base_values, build_space, memory_budget, memory_bytes
from mlsysopt.operate.tune.rocksdb.workloads import ALABED2021, Operation, Workload, workload

__all__ = ["DbBench", "db_bench", "knowledge", "metrics_of"]

log = logging.getLogger("mlsysopt.tune")
# Keys of the load that `export` makes to let RocksDB write down what it really uses.
_EXPORT_KEYS = 1000
# What --set may not touch although it is no knob either: the trial's own plumbing.
_OWN = frozenset({"benchmarks", "db", "seed", "use_existing_db", "statistics", "histogram", "threads", "options_file"})


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


@dataclass(frozen=True, slots=True)
class DbBench:
    """One installed db_bench, one workload, one space of knobs, one memory budget.

    Made by `db_bench()` (or `mlsysopt.operate.tune.rocksdb`); plain data, so it can be pickled.
    """

    program: str
    version: str
    workload: Workload
    knobs: Space
    budget_bytes: int
    base: Mapping[str, Value]
    directory: Path
    threads: int = 1
    name: str = "rocksdb"
    references: list[Reference] = field(default_factory=list)
    objective: str = "throughput"

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
            "engine": "db_bench",
            "version": self.version,
            "workload": self.workload.name,
            "load": list(self.workload.load),
            "run": list(self.workload.run),
            "flags": dict(sorted(self.workload.flags.items())),
            "memory_bytes": self.budget_bytes,
            "threads": self.threads,
        }

    def space(self) -> Space:
        return self.knobs

    def with_space(self, space: Space) -> DbBench:
        return replace(self, knobs=space)

    def metrics(self) -> dict[str, Metric]:
        return metrics_of(self.workload.operations or ())

    def static(self, config: Config) -> dict[str, float]:
        """Return `memory_bytes`: block cache plus memtables of a configuration, without running it."""
        return {"memory_bytes": float(memory_bytes(self.filled(config), self.base))}

    @contextmanager
    def session(self, limits: Limits, *, purpose: Purpose = "search") -> Generator[DbBenchSession]:
        """Measure on fresh databases; each is removed after its trial whatever happens.

        A search runs in memory where the database fits, a verification on `directory`.
        """
        needed = storage.bytes_needed(self.workload.flags, self.budget_bytes, loads=self.loads())
        folder = storage.choose(purpose, self.directory, needed, self.budget_bytes)
        systems = {
            "search": storage.filesystem_of(storage.choose("search", self.directory, needed, self.budget_bytes)),
            "verify": storage.filesystem_of(self.directory),
        }
        yield DbBenchSession(self, limits, folder, purpose, systems)

    def export(self, config: Config, path: Path) -> None:
        """Write a RocksDB OPTIONS file and, beside it, the same as db_bench flags (`<path>.flags`).

        The file holds what RocksDB uses after a short real load with these knobs. The block cache
        lives outside OPTIONS files; its size stands in the header and in the flags.

        Raises:
            InfrastructureError: there is no room or no right to write.
            TargetError: RocksDB refuses the configuration.
        """
        config = self.filled(config)
        if config:
            self.knobs.check(config)
        small = {**self.workload.flags, "num": _EXPORT_KEYS, "reads": 1}
        probe = replace(self.workload, load=("fillrandom", "flush"), run=("readrandom",), flags=small, operations=None)
        folder = storage.choose("search", self.directory, 64 * 1024**2, self.budget_bytes)
        if failure := storage.room_for(folder, 64 * 1024**2):
            raise InfrastructureError(failure.reason)
        with temporary_folder("mlsysopt-rocksdb-", base=folder) as temporary:
            done = run_trial(self.program, probe, config, temporary / "db", seed=1, limits=Limits(timeout_s=120))
        if isinstance(done, Failure):
            raise TargetError(f"RocksDB does not run with this configuration: {done.reason}\n{done.log_tail}")
        # Settings of the user hold for every candidate, so they belong to the winner too.
        flags = {**{name: value for name, value in self.workload.flags.items() if name in KNOBS}, **config}
        cache = {**self.base, **config}["cache_size"]
        header = (
            f"RocksDB options for the workload {self.workload.name!r}, tuned with db_bench {self.version}.\n"
            f"The block cache is not part of an OPTIONS file: give it {cache} bytes yourself "
            f"(db_bench: --options_file=FILE --cache_size={cache}).\n"
            f"db_bench flags: {' '.join(format_flag(name, value) for name, value in flags.items()) or '(none)'}"
        )
        # The probe's own folder and listener must not go into somebody's program.
        options = done.options.with_values(DB, wal_dir="", db_log_dir="", listeners="{}")
        text = options.text(header=header)
        lines = "".join(f"{format_flag(name, value)}\n" for name, value in flags.items())
        try:
            path.write_text(text)
            path.with_name(path.name + ".flags").write_text(lines)
        except OSError as error:
            raise InfrastructureError(f"cannot write {path}: {error.strerror or error}") from error

    def filled(self, config: Config) -> dict[str, Value]:
        """Fill in missing parameters; an empty configuration stays empty: no knob is set at all."""
        return {**self.knobs.default(), **config} if config else {}

    def loads(self) -> int:
        """Return how many benchmarks of the load write the keys."""
        return len(self.workload.timed("load"))


@dataclass(slots=True)
class DbBenchSession:
    """Measures configurations one after another, each on its own fresh database."""

    target: DbBench
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
        memtables = memory_bytes(knobs, target.base)
        needed = storage.bytes_needed(target.workload.flags, memtables, loads=target.loads(), fidelity=fidelity)
        if failure := storage.room_for(self.folder, needed):
            return failure
        limits = self.limits if timeout_s is None else self.limits.with_timeout(timeout_s)
        try:
            with temporary_folder("mlsysopt-rocksdb-", base=self.folder) as temporary:
                database = temporary / "db"
                done = run_trial(
                    target.program, target.workload, knobs, database,
                    seed=seed, fidelity=fidelity, threads=target.threads, limits=limits,
                )  # fmt: skip
                disk_bytes = storage.used_bytes(database) if isinstance(done, Trial) else 0
        except OSError as error:
            return Failure(
                "infrastructure", f"{self.folder}: {error.strerror or error}", wall_s=time.monotonic() - started
            )
        if isinstance(done, Failure):
            return replace(done, extra={**done.extra, **self._where()})
        try:
            return self._measurement(done, knobs, disk_bytes, started_at, time.monotonic() - started)
        except OutputError as error:
            reason, _, ending = str(error).partition("\n")
            return Failure(
                "crashed", reason, ending, wall_s=time.monotonic() - started, cpu_s=_cpu_s(done), extra=self._where()
            )

    def _measurement(
        self, trial: Trial, knobs: Config, disk_bytes: int, started_at: float, wall_s: float
    ) -> Measurement:
        target, load, opened, run = self.target, trial.load, trial.opened, trial.run
        # A run shorter than the clock's grain must not divide by zero.
        run_cpu_s = max(run.cpu_s - opened.cpu_s, 1e-3)
        metrics = run_metrics(
            load.output, opened.output, run.output,
            target.workload.timed("run"), target.workload.operations or (), run_cpu_s,
        )  # fmt: skip
        metrics |= load_metrics(load.output, target.workload.timed("load"), max(load.cpu_s, 1e-3))
        metrics["disk_bytes"] = float(disk_bytes)
        extra = {
            **self._where(),
            "open_cpu_share": opened.cpu_s / max(run.cpu_s, 1e-3),
            "cpu_s": {"load": load.cpu_s, "open": opened.cpu_s, "run": run.cpu_s},
            "wall_s": {"load": load.wall_s, "open": opened.wall_s, "run": run.wall_s},
            "corrections": list(trial.warnings),
            "notes": list(run.output.warnings),
        }
        return Measurement(
            {name: metrics[name] for name, told in target.metrics().items() if told.kind != "static"},
            effective(trial.options, {**target.knobs.default(), **knobs}, log_text=trial.log_text),
            _cpu_s(trial),
            wall_s,
            started_at,
            run.output.ending,
            extra,
        )

    def _where(self) -> dict[str, Any]:
        return {"filesystem": self.filesystems[self.purpose], "filesystems": dict(self.filesystems)}


def _cpu_s(trial: Trial) -> float:
    return trial.load.cpu_s + trial.opened.cpu_s + trial.run.cpu_s


def db_bench(
    given: str | Workload = "mixgraph",
    *,
    knobs: str | Sequence[str] | Mapping[str, tuple[Any, Any]] = "paper10",
    memory: str | int | None = None,
    directory: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    unfence: Sequence[str] = (),
    threads: int = 1,
    program: str | Path | None = None,
) -> DbBench:
    """Make the target for an installed db_bench.

    Args:
        given: `mixgraph`, `ycsb-a`, `ycsb-b`, `ycsb-c`, or a `Workload`.
        knobs: See `build_space`.
        memory: Budget of block cache and memtables; None is 1.5 times what the default needs.
        directory: Where verification keeps its databases; None is the user's state folder.
        settings: db_bench flags that hold for the default and every candidate alike (`--set`).
        unfence: Groups of knobs that may be tuned although they trade safety for speed.
        threads: Threads of the run.
        program: Path or name of db_bench.

    Raises:
        MissingProgram: db_bench is not installed.
        UsageError: an unknown name, a wrong value, or a budget below what the default needs.
    """
    binary = help_of(find_db_bench(program))
    if threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    chosen = workload(given)
    set_flags = _read_settings(settings or {}, binary)
    chosen = chosen.with_flags({**_read_settings(chosen.flags, binary, own=True), **set_flags})
    base = base_values(binary.flags, {**chosen.flags, **set_flags})
    budget = memory_budget(memory, base)
    own = {name: flag for name, flag in binary.flags.items() if "db_bench" in flag.file}
    wanted = build_space(
        own,
        knobs,
        budget,
        f"db_bench {binary.version}",
        settings={**chosen.flags, **set_flags},
        fixed=frozenset(workload(given).flags),
        codecs=accepted_codecs(Path(binary.path)) if _needs_codecs(knobs) else None,
        unfence=unfence,
    )
    return DbBench(
        program=binary.path,
        version=binary.version,
        workload=chosen,
        knobs=wanted,
        budget_bytes=budget,
        base=base,
        directory=Path(directory) if directory is not None else storage.default_directory(),
        threads=threads,
        references=[ALABED2021, *chosen.references],
    )


def _read_settings(settings: Mapping[str, Any], binary: Binary, *, own: bool = False) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, given in settings.items():
        if name not in binary.flags:
            near = near_misses(name, binary.flags, noun="flag")
            raise UsageError(f"no flag {name!r} in db_bench {binary.version}; {near}")
        if name in _OWN and not own:
            raise UsageError(f"flag {name!r} is set by every trial itself and cannot be given with --set")
        found[name] = binary.flags[name].read(given)
    return found


def _needs_codecs(knobs: object) -> bool:
    return any(word in str(knobs) for word in ("wide", "compression_type"))

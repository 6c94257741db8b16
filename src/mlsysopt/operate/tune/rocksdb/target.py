"""RocksDB as a target: db_bench runs a workload on fresh databases and reports what it cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import InfrastructureError, TargetError, UsageError
from mlsysopt.core.target import Config, Failure, Limits, Measurement, Outcome
from mlsysopt.operate.tune.rocksdb import storage
from mlsysopt.operate.tune.rocksdb.database_target import DatabaseTarget
from mlsysopt.operate.tune.rocksdb.flags import accepted_codecs, find_db_bench, help_of, read_settings
from mlsysopt.operate.tune.rocksdb.options import DB, effective
from mlsysopt.operate.tune.rocksdb.output import OutputError, load_metrics, run_metrics
from mlsysopt.operate.tune.rocksdb.phases import Trial, format_flag, run_trial
from mlsysopt.operate.tune.rocksdb.space import KNOBS, base_values, build_space, memory_budget
from mlsysopt.operate.tune.rocksdb.workloads import ALABED2021, Workload, workload

__all__ = ["DbBench", "db_bench"]

log = logging.getLogger("mlsysopt.tune")
# Keys of the load that `export` makes to let RocksDB write down what it really uses.
_EXPORT_KEYS = 1000
# What --set may not touch although it is no knob either: the trial's own plumbing.
_OWN = frozenset({"benchmarks", "db", "seed", "use_existing_db", "statistics", "histogram", "threads", "options_file"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DbBench(DatabaseTarget):
    """One installed db_bench.

    Made by `db_bench()` (or `mlsysopt.operate.tune.rocksdb`).

    Attributes:
        program: Its path.
        version: Version of the RocksDB in it.
        threads: Threads of the timed run.
    """

    program: str
    version: str
    threads: int = 1

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

    def trial(self, knobs: Config, folder: Path, *, seed: int, fidelity: float, limits: Limits) -> Outcome:
        database = folder / "db"
        done = run_trial(
            self.program, self.workload, knobs, database,
            seed=seed, fidelity=fidelity, threads=self.threads, limits=limits,
        )  # fmt: skip
        if isinstance(done, Failure):
            return done
        try:
            return self._measurement(done, knobs, storage.used_bytes(database))
        except OutputError as error:
            reason, _, ending = str(error).partition("\n")
            return Failure("crashed", reason, ending, cpu_s=_cpu_s(done))

    def _measurement(self, trial: Trial, knobs: Config, disk_bytes: int) -> Measurement:
        load, opened, run = trial.load, trial.opened, trial.run
        # A run shorter than the clock's grain must not divide by zero.
        run_cpu_s = max(run.cpu_s - opened.cpu_s, 1e-3)
        metrics = run_metrics(
            load.output, opened.output, run.output,
            self.workload.timed("run"), self.workload.operations or (), run_cpu_s,
        )  # fmt: skip
        metrics |= load_metrics(load.output, self.workload.timed("load"), max(load.cpu_s, 1e-3))
        metrics["disk_bytes"] = float(disk_bytes)
        extra = {
            "open_cpu_share": opened.cpu_s / max(run.cpu_s, 1e-3),
            "cpu_s": {"load": load.cpu_s, "open": opened.cpu_s, "run": run.cpu_s},
            "wall_s": {"load": load.wall_s, "open": opened.wall_s, "run": run.wall_s},
            "corrections": list(trial.warnings),
            "notes": list(run.output.warnings),
        }
        return Measurement(
            {name: metrics[name] for name, told in self.metrics().items() if told.kind != "static"},
            effective(trial.options, {**self.knobs.default(), **knobs}, log_text=trial.log_text),
            _cpu_s(trial),
            wall_s=0.0,
            started_at=0.0,
            log_tail=run.output.ending,
            extra=extra,
        )

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
        with self.scratch(64 * 1024**2) as temporary:
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
        given: `mixgraph`, `mixgraph-hot`, `ycsb-a`, `ycsb-b`, `ycsb-c`, or a `Workload`.
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
    engine = f"db_bench {binary.version}"
    set_flags = read_settings(settings or {}, binary.flags, engine, refused=_OWN)
    chosen = chosen.with_flags({**read_settings(chosen.flags, binary.flags, engine), **set_flags})
    base = base_values(binary.flags, {**chosen.flags, **set_flags})
    budget = memory_budget(memory, base)
    own = {name: flag for name, flag in binary.flags.items() if "db_bench" in flag.file}
    wanted = build_space(
        own,
        knobs,
        budget,
        engine,
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


def _needs_codecs(knobs: object) -> bool:
    return any(word in str(knobs) for word in ("wide", "compression_type"))

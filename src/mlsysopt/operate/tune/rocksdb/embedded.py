"""RocksDB inside a Python wheel (rocksdict) as a target, for machines without db_bench.

A trial is one child process: it loads a fresh database, waits until it is quiet, opens it again and
replays a stream of operations on it. Sizes are those of db_bench's presets: 120,000 keys of a
kilobyte are as much as two default memtables, so that reads reach the files; a trial takes about
three seconds.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import InfrastructureError, MissingExtra, TargetError, UsageError
from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.target import Config, Failure, Limits, Measurement, Outcome, Value
from mlsysopt.operate.tune.rocksdb import storage
from mlsysopt.operate.tune.rocksdb.database_target import DatabaseTarget
from mlsysopt.operate.tune.rocksdb.embedded_child import DATABASE, Answer, Description, Job
from mlsysopt.operate.tune.rocksdb.embedded_driver import LOG_LINES, ask, damping, measured
from mlsysopt.operate.tune.rocksdb.embedded_options import UNSAFE, flags_of
from mlsysopt.operate.tune.rocksdb.embedded_stream import FLAGS, check_workload
from mlsysopt.operate.tune.rocksdb.flags import read_settings
from mlsysopt.operate.tune.rocksdb.options import DB, OptionsFile, effective, newest_options, warnings_of
from mlsysopt.operate.tune.rocksdb.output import tail
from mlsysopt.operate.tune.rocksdb.space import base_values, build_space, memory_budget
from mlsysopt.operate.tune.rocksdb.workloads import ALABED2021, Workload, workload

__all__ = ["Embedded", "embedded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded(DatabaseTarget):
    """One installed rocksdict.

    Made by `embedded()` (or `mlsysopt.operate.tune.rocksdb`).

    Attributes:
        wheel: Version of rocksdict.
        version: Version of the RocksDB inside it.
        fixed: Options that hold for the default and every candidate alike.
    """

    wheel: str
    version: str
    fixed: Mapping[str, Value]

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

    def trial(self, knobs: Config, folder: Path, *, seed: int, fidelity: float, limits: Limits) -> Outcome:
        work = self.workload
        job = Job("trial", str(folder), self.options(knobs), work.scaled(fidelity), work.load, work.run, seed)
        answer = ask(job, limits)
        if isinstance(answer, Failure):
            return answer
        return self._measurement(Answer.from_json(answer), knobs, folder / DATABASE)

    def _measurement(self, answer: Answer, knobs: Config, database: Path) -> Measurement:
        phases = {"load": answer.load, "open": answer.opened, "run": answer.run}
        written = newest_options(database)
        assert written is not None
        log_text = (database / "LOG").read_text(errors="replace")
        metrics = {**measured(answer), "disk_bytes": float(storage.used_bytes(database))}
        cpu_s = {name: phase.cpu_s for name, phase in phases.items()}
        extra = {
            "open_cpu_share": answer.opened.cpu_s / max(answer.opened.cpu_s + answer.run.cpu_s, 1e-6),
            "cpu_s": cpu_s,
            "wall_s": {name: phase.wall_s for name, phase in phases.items()},
            "python_share": answer.idle_share,
            "python_us": dict(answer.idle_us),
            "corrections": warnings_of(log_text),
            "notes": [damping(answer.idle_share)],
        }
        return Measurement(
            {name: metrics[name] for name, told in self.metrics().items() if told.kind != "static"},
            effective(OptionsFile.read(written), {**self.knobs.default(), **knobs}, log_text=log_text),
            sum(cpu_s.values()),
            wall_s=0.0,
            started_at=0.0,
            log_tail=tail(log_text, LOG_LINES),
            extra=extra,
        )

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
        with self.scratch(0) as temporary:
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

    def options(self, config: Config) -> dict[str, Value]:
        """Return every option that a trial sets, the block cache's size among them; empty when there is none."""
        wanted = {**self.fixed, **config}
        return {"cache_size": self.base["cache_size"], **wanted} if wanted else {}


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
        given: `mixgraph`, `mixgraph-hot`, `ycsb-a`, `ycsb-b`, `ycsb-c`, or a `Workload` of benchmarks that
            this engine has.
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
    read = read_settings({**asked.flags, **(settings or {})}, {**known, **FLAGS}, engine)
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

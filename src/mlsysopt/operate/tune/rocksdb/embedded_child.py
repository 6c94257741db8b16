"""The child process of the embedded engine: `python -m mlsysopt.operate.tune.rocksdb.embedded_child`.

It reads one job (JSON) from its standard input and prints one answer (JSON); what it is doing stands
on its standard error, one `phase NAME` a line, so that a driver knows where a dead child died.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlsysopt.core.target import Value
from mlsysopt.operate.tune.rocksdb.embedded_options import with_knobs
from mlsysopt.operate.tune.rocksdb.embedded_replay import Replay
from mlsysopt.operate.tune.rocksdb.embedded_stream import FLAGS, load_keys, text_starts, to_keys
from mlsysopt.operate.tune.rocksdb.options import OptionsFile, newest_options
from mlsysopt.operate.tune.rocksdb.output import parse

if TYPE_CHECKING:
    from rocksdict import Options, Rdict

__all__ = ["DATABASE", "Answer", "Description", "Job", "Phase", "main"]

DATABASE = "db"
"""Name of the database inside the job's folder."""

_PENDING = ("mem-table-flush-pending", "num-running-flushes", "compaction-pending", "num-running-compactions")
# A compaction may be scheduled between two looks, so one quiet look proves nothing.
_QUIET_LOOKS, _LOOK_S = 3, 0.002
# Our name of a codec -> the binding's.
_CODECS = {"none": "none", "snappy": "snappy", "zlib": "zlib", "bzip2": "bz2", "lz4": "lz4", "lz4hc": "lz4hc",
           "zstd": "zstd"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """What the child is asked to do.

    Attributes:
        action: "trial" loads, reopens and runs; "open" only makes an empty database with the knobs;
            "describe" does so without knobs and tells about the engine.
        folder: An empty folder; the database goes into `folder/db`.
        knobs: Options by db_bench's names, `cache_size` among them; empty sets none at all.
        flags: The workload's flags.
        load: Benchmarks of the load.
        run: Benchmarks of the timed run.
        seed: Seed of every random choice.
    """

    action: Literal["trial", "open", "describe"]
    folder: str
    knobs: Mapping[str, Value] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    load: Sequence[str] = ()
    run: Sequence[str] = ()
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Phase:
    """What one phase did and cost, and RocksDB's counters at its end (those that are not zero).

    Attributes:
        operations: Keys loaded, or operations run.
        busy_s: Wall seconds of the operations alone.
        wall_s: Wall seconds of the whole phase.
        cpu_s: User + system seconds of this process in the phase, RocksDB's threads included.
    """

    operations: int
    busy_s: float
    wall_s: float
    cpu_s: float
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to a trial; latencies in microseconds.

    Attributes:
        latencies: Operation -> mean, p50, p95, p99 of the whole call as this process sees it.
        idle_us: Operation -> mean where RocksDB has next to nothing to do: Python, the binding.
        idle_share: Share of the run's CPU seconds that this part took.
        l0_files: Files in level 0 after the load.
    """

    load: Phase
    opened: Phase
    run: Phase
    latencies: Mapping[str, Mapping[str, float]]
    idle_us: Mapping[str, float]
    idle_share: float
    l0_files: int

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Answer:
        """Read back what `dataclasses.asdict` wrote."""
        phases: dict[str, Any] = {name: Phase(**content[name]) for name in ("load", "opened", "run")}
        return cls(**{**content, **phases})


@dataclass(frozen=True, slots=True)
class Description:
    """Answer to the other two actions: the OPTIONS file's text, the block cache's bytes, the codecs."""

    options: str
    cache_size: int
    codecs: Sequence[str] = ()


def main() -> int:
    """Do the job on standard input; the exit status is 0 when the answer is not an error."""
    job = Job(**json.load(sys.stdin))
    # A collection in the middle of the run would be somebody's latency; nothing here makes cycles.
    gc.disable()
    try:
        answer = asdict(_ACTIONS[job.action](job))
    except Exception as error:  # RocksDB's errors reach Python as plain exceptions
        answer = {"error": str(error) or type(error).__name__}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


def _trial(job: Job) -> Answer:
    flags: dict[str, Any] = {**{name: flag.default for name, flag in FLAGS.items()}, **job.flags}
    loading, running, letters = (np.random.default_rng(seed) for seed in np.random.SeedSequence(job.seed).spawn(3))
    keys = to_keys(load_keys(job.load, flags, loading), int(flags["key_size"]))
    replay = Replay(job.run, flags, running, letters)
    database = Path(job.folder, DATABASE)

    _say("start")
    opening = _opening(job)
    started = _clocks()
    db = _open(database, opening)
    _say("load")
    busy_s = _load(db, keys, replay.text, int(flags["value_size"]))
    db.flush(True)
    _settle(db)
    db.close()
    load = _phase(len(keys), busy_s, started, opening)

    _say("open")
    opening = _opening(job)
    started = _clocks()
    db = _open(database, opening)
    opened = _phase(0, 0.0, started, opening)
    l0_files = int(db.property_value("rocksdb.num-files-at-level0") or 0)

    _say("run")
    started = _clocks()
    spent = replay.on(db.get, db.put, db.values)
    # Ended before the database is closed: this binding flushes on closing, db_bench does not.
    run = _phase(len(spent), float(spent.sum()) / 1e9, started, opening)
    db.close()
    idle = replay.idle(Path(job.folder, "idle"), run.counters.get("rocksdb.number.db.next", 0))
    return Answer(load, opened, run, replay.latencies(spent), idle, replay.idle_share(idle, run.cpu_s), l0_files)


def _open_only(job: Job) -> Description:
    _say("start")
    database = Path(job.folder, DATABASE)
    db = _open(database, _opening(job))
    cache_size = int(db.property_value("rocksdb.block-cache-capacity") or 0)
    db.close()
    return Description(_written(database).text(), cache_size)


def _describe(job: Job) -> Description:
    import rocksdict

    found = _open_only(job)
    codecs: list[str] = []
    for name, word in _CODECS.items():
        opening = _plain()
        opening.family.set_compression_type(getattr(rocksdict.DBCompressionType, word)())
        try:
            _open(Path(job.folder, f"codec-{name}"), opening).close()
        except Exception:  # RocksDB does not open a database with a codec that it was built without
            continue
        codecs.append(name)
    return Description(found.options, found.cache_size, codecs)


_ACTIONS: Mapping[str, Callable[[Job], Answer | Description]] = {
    "trial": _trial, "open": _open_only, "describe": _describe,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Opening:
    """Options to open a database with, those of its one column family apart.

    They are always named: opened again without, a database gets the values it has written down, and
    the binding's small cache instead of the engine's.
    """

    database: Options
    family: Options


def _opening(job: Job) -> _Opening:
    """Return the engine's own options, or those of an OPTIONS file with the knobs in it.

    An empty configuration takes nothing through a file, so that it is the engine's default by
    construction.
    """
    import rocksdict

    if job.knobs:
        plain = Path(job.folder, "plain")
        if not plain.exists():
            _open(plain, _plain()).close()
        folder = Path(job.folder, "options")
        folder.mkdir(exist_ok=True)
        (folder / "OPTIONS-000001").write_text(with_knobs(_written(plain), job.knobs).text())
        cache = rocksdict.Cache(int(str(job.knobs["cache_size"])))
        database, families = rocksdict.Options.load_latest(str(folder), cache=cache)
        opening = _Opening(database, families["default"])
    else:
        opening = _plain()
    opening.database.enable_statistics()
    return opening


def _plain() -> _Opening:
    import rocksdict

    options = rocksdict.Options(raw_mode=True)
    return _Opening(options, options)


def _open(database: Path, opening: _Opening) -> Rdict:
    import rocksdict

    opening.database.create_if_missing(True)
    return rocksdict.Rdict(str(database), opening.database, {"default": opening.family})


def _written(database: Path) -> OptionsFile:
    path = newest_options(database)
    if path is None:
        raise FileNotFoundError(f"RocksDB wrote no OPTIONS file into {database}")
    return OptionsFile.read(path)


def _load(db: Rdict, keys: Sequence[bytes], text: bytes, size: int) -> float:
    put = db.put
    starts = text_starts(np.full(len(keys), size), len(text))
    started = time.perf_counter()
    for key, start in zip(keys, starts, strict=True):
        put(key, text[start : start + size])
    return time.perf_counter() - started


def _settle(db: Rdict) -> None:
    """Wait until nothing is flushed or compacted any more; the driver's time-out ends a wait for ever."""
    quiet = 0
    while quiet < _QUIET_LOOKS:
        busy = any(db.property_value(f"rocksdb.{name}") != "0" for name in _PENDING)
        quiet = 0 if busy else quiet + 1
        time.sleep(_LOOK_S)


def _clocks() -> tuple[float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime


def _phase(operations: int, busy_s: float, started: tuple[float, float], opening: _Opening) -> Phase:
    wall, cpu = _clocks()
    counters = parse(opening.database.get_statistics() or "").counters
    return Phase(operations, busy_s, wall - started[0], cpu - started[1], {n: c for n, c in counters.items() if c})


def _say(phase: str) -> None:
    sys.stderr.write(f"phase {phase}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

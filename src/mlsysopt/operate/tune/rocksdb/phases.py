"""One trial: three children of db_bench on a fresh database - load, open, run.

The middle child only opens what the load left: its CPU seconds are the cost of opening, which the
run pays too and which is none of the workload's business.

A load ends when nothing is left to flush or to compact. db_bench's `waitforcompaction` sleeps five
seconds before it looks, and ten more where it found something to do. At the end of a list it is
replaced: statistics are printed into a pipe that nobody reads until all threads are at rest.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlsysopt.core.processes import ChildResult, Hold, run_child
from mlsysopt.core.quantities import format_bytes
from mlsysopt.core.target import Config, Failure, Limits, Value
from mlsysopt.operate.tune.rocksdb.options import OptionsFile, newest_options, warnings_of
from mlsysopt.operate.tune.rocksdb.output import PhaseOutput, parse, tail
from mlsysopt.operate.tune.rocksdb.workloads import STEPS, Workload

__all__ = ["Phase", "Trial", "command", "format_flag", "run_phase", "run_trial", "unflushed_bytes"]

# A child that dies this soon after the trial began did not start: the configuration was refused.
START_S = 2.0
# The machine's fault, whatever the configuration was.
_MACHINE = re.compile(
    r"No space left on device|Permission denied|Read-only file system|Disk quota exceeded|Input/output error"
)
# What prints almost nothing and may stand between the last work and the waiting.
_SILENT = frozenset({"flush", "compact", "compact0", "compact1", "compactall"})
# Each prints 3.7 kB or more; a page of the pipe, one of db_bench's buffer and one that was read hold three.
_STATS_TO_WAIT = 6
_HOLD = Hold(after="Level Files Size(MB)")
_COMPLAINT = re.compile(r"error|illegal|unknown|cannot|invalid|assertion|terminate", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Phase:
    """One child that ended well."""

    name: str
    output: PhaseOutput
    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Trial:
    """Three phases and the state of the database between them.

    Attributes:
        options: What RocksDB used, from the OPTIONS file that the load wrote.
        log_text: The database's LOG of the load.
        warnings: Corrections and other warnings in it.
    """

    load: Phase
    opened: Phase
    run: Phase
    options: OptionsFile
    log_text: str = field(repr=False)
    warnings: tuple[str, ...]


def format_flag(name: str, value: Value) -> str:
    """Write one flag as gflags reads it.

    >>> format_flag("disable_wal", True), format_flag("value_k", 0.2615)
    ('--disable_wal=true', '--value_k=0.2615')
    """
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"--{name}={text}"


def command(
    program: str, benchmarks: Sequence[str], database: Path, flags: Mapping[str, Any], *, seed: int, existing: bool
) -> list[str]:
    """Return the command line of one child.

    The seed is the same in the load and the run: the run's random keys are then keys that exist.
    """
    own: dict[str, Any] = {"db": database, "statistics": True, "histogram": True, "seed": seed}
    if existing:
        own["use_existing_db"] = True
    listed = f"--benchmarks={','.join(benchmarks)}"
    return [program, listed, *(format_flag(name, value) for name, value in {**flags, **own}.items())]


def run_trial(
    program: str,
    workload: Workload,
    knobs: Config,
    database: Path,
    *,
    seed: int,
    fidelity: float = 1.0,
    threads: int = 1,
    limits: Limits,
) -> Trial | Failure:
    """Load, open and run one configuration in an empty folder.

    Args:
        program: Path of db_bench.
        workload: What is run; a fidelity below 1 scales its keys and its operations together.
        knobs: Flags that the configuration sets; empty sets none of them.
        database: A folder that does not exist yet, or is empty.
        seed: Seed of the load and the run.
        fidelity: Share of the full work.
        threads: Threads of the run; the load has one, since it would write once per thread.
        limits: Limits of every child; the time-out is of all three together.
    """
    started = time.monotonic()
    flags = {**workload.scaled(fidelity), **knobs}
    held = _held_at_the_end(workload.load)
    steps = (
        ("load", held or _with_stats(workload.load), {}, False, _HOLD if held else None),
        ("open", ("levelstats",), {}, True, None),
        ("run", _with_stats(workload.run), {"threads": threads} if threads > 1 else {}, True, None),
    )
    phases: dict[str, Phase] = {}
    options, log_text = None, ""
    for name, benchmarks, more, existing, hold in steps:
        argv = command(program, benchmarks, database, {**flags, **more}, seed=seed, existing=existing)
        done = run_phase(name, argv, database, limits, started, hold)
        if isinstance(done, Failure):
            return _with_spent(done, phases, started)
        phases[name] = done
        if name != "run" and (left := unflushed_bytes(database)):
            reason = (
                f"the {name} left {format_bytes(left)} of write-ahead log that no flush wrote out: the run would "
                "replay it on opening, so it is not counted; end the workload's load with 'flush'"
            )
            return _with_spent(Failure("degraded", reason, done.output.ending), phases, started)
        if name == "load":
            written = newest_options(database)
            if written is None:
                return _with_spent(Failure("crashed", "the load left no database", done.output.ending), phases, started)
            options, log_text = OptionsFile.read(written), (database / "LOG").read_text(errors="replace")
    assert options is not None
    return Trial(phases["load"], phases["open"], phases["run"], options, log_text, tuple(warnings_of(log_text)))


def run_phase(
    name: str, argv: Sequence[str], database: Path, limits: Limits, started: float, hold: Hold | None = None
) -> Phase | Failure:
    """Run one child; `started` is the monotonic time at which the trial, and its time-out, began."""
    if limits.timeout_s is not None:
        left = limits.timeout_s - (time.monotonic() - started)
        if left <= 0:
            return Failure("timeout", f"nothing left of the time-out of {limits.timeout_s:.3g} s for the {name}")
        child = run_child(argv, limits=limits.with_timeout(left), hold=hold)
    else:
        child = run_child(argv, limits=limits, hold=hold)
    failure = _failure(name, child, database, limits, time.monotonic() - started)
    if failure is None and hold is not None and not child.held:
        reason = f"db_bench ended the {name} before its compactions could be waited for"
        failure = Failure("crashed", reason, tail(child.stdout, 8), wall_s=child.wall_s, cpu_s=child.cpu_s)
    return failure or Phase(name, parse(child.stdout), child.cpu_s, child.wall_s)


def unflushed_bytes(database: Path) -> int:
    """Return the bytes in write-ahead logs of a closed database; a flush leaves only empty ones."""
    return sum(path.stat().st_size for path in database.glob("*.log"))


def _failure(name: str, child: ChildResult, database: Path, limits: Limits, elapsed_s: float) -> Failure | None:
    ending = "\n".join(part for part in (tail(child.stdout, 6), tail(child.stderr, 8)) if part)

    def failed(kind: Any, reason: str) -> Failure:
        return Failure(kind, reason, ending, wall_s=child.wall_s, cpu_s=child.cpu_s)

    if child.timed_out:
        return failed("timeout", f"over its time-out of {limits.timeout_s:.3g} s, in the {name}")
    if child.killed_for_memory:
        limit = format_bytes(limits.memory_bytes) if limits.memory_bytes else "the machine's reserve"
        return failed("crashed", f"over its memory limit ({limit}), in the {name}")
    if child.signal:
        return failed("crashed", f"db_bench was killed by signal {int(child.signal)} in the {name}")
    if child.returncode:
        machine = _MACHINE.search(child.stderr) or _MACHINE.search(child.stdout)
        if machine:
            free = _free_bytes(database)
            return failed("infrastructure", f"{machine[0]} in the {name} ({free} bytes free in {database.parent})")
        words = f"db_bench left the {name} with exit status {child.returncode} after {elapsed_s:.1f} s"
        return failed("rejected" if elapsed_s < START_S else "crashed", f"{words}: {_complaint(child)}")
    return None


def _complaint(child: ChildResult) -> str:
    """Return the line that says why, the last such line of either stream."""
    lines = [line for text in (child.stderr, child.stdout) for line in reversed(tail(text, 12).splitlines())]
    lines = [line for line in lines if not line.startswith("WARNING:")]
    told = (line for line in lines if _COMPLAINT.search(line))
    return next(told, lines[0] if lines else "no message")[:200]


def _free_bytes(database: Path) -> int:
    folder = database if database.exists() else database.parent
    return shutil.disk_usage(folder).free


def _with_spent(failure: Failure, phases: Mapping[str, Phase], started: float) -> Failure:
    cpu_s = failure.cpu_s + sum(phase.cpu_s for phase in phases.values())
    return Failure(failure.kind, failure.reason, failure.log_tail, time.monotonic() - started, cpu_s, failure.extra)


def _held_at_the_end(benchmarks: Sequence[str]) -> tuple[str, ...] | None:
    """Return a load that waits at its end for whoever reads its output; None where it is to wait by itself.

    >>> _held_at_the_end(["fillrandom", "flush", "waitforcompaction"])[:4]
    ('fillrandom', 'levelstats', 'flush', 'stats')
    """
    if not benchmarks or benchmarks[-1] != "waitforcompaction":
        return None
    work = len(benchmarks) - 1
    while work and benchmarks[work - 1] in STEPS:
        work -= 1
    between = benchmarks[work:-1]
    if not work or not _SILENT.issuperset(between):
        return None
    return (*benchmarks[:work], "levelstats", *between, *["stats"] * _STATS_TO_WAIT)


def _with_stats(benchmarks: Sequence[str]) -> tuple[str, ...]:
    return tuple(benchmarks) if "stats" in benchmarks else (*benchmarks, "stats")

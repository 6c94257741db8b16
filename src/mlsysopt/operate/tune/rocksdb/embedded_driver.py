"""Driving the child process of the embedded engine: one job, its answer, or why there is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlsysopt
from mlsysopt.core.processes import ChildResult, run_child
from mlsysopt.core.quantities import format_bytes
from mlsysopt.core.target import Failure, Limits
from mlsysopt.operate.tune.rocksdb.embedded_child import DATABASE, Answer, Job
from mlsysopt.operate.tune.rocksdb.output import tail

__all__ = ["LOG_LINES", "ask", "damping", "measured"]

LOG_LINES = 4
"""Lines of RocksDB's log that are kept: enough to see the last event, since they are long."""

_COMMAND = (sys.executable, "-m", "mlsysopt.operate.tune.rocksdb.embedded_child")
_MACHINE = re.compile(r"No space left|Permission denied|Read-only file system|quota exceeded|Input/output error", re.I)
_PHASE = re.compile(r"^phase (\w+)$", re.MULTILINE)


def measured(answer: Answer) -> dict[str, float]:
    """Return the metrics of a trial, but for the database's size on disk."""
    load, run = answer.load, answer.run
    # A run shorter than the clock's grain must not divide by zero.
    found = {
        "throughput": run.operations / max(run.busy_s, 1e-6),
        "throughput_cpu": run.operations / max(run.cpu_s, 1e-3),
        "load_ops": load.operations / max(load.busy_s, 1e-6),
        "load_ops_cpu": load.operations / max(load.cpu_s, 1e-3),
    }
    for kind, values in answer.latencies.items():
        found |= {f"{kind}_us" if word == "mean" else f"{word}_{kind}_us": value for word, value in values.items()}

    def total(*names: str) -> int:
        return sum(phase.counters.get(f"rocksdb.{name}", 0) for phase in (load, run) for name in names)

    hits, misses = (run.counters.get(f"rocksdb.block.cache.{word}", 0) for word in ("hit", "miss"))
    return found | {
        "stall_us": float(total("stall.micros")),
        "write_amp": total("flush.write.bytes", "compact.write.bytes") / max(1, total("bytes.written")),
        "block_misses_per_op": misses / run.operations,
        # Nothing looked up means nothing missed: all of it was in memtables.
        "cache_hit": hits / (hits + misses) if hits + misses else 1.0,
        "l0_files": float(answer.l0_files),
    }


def damping(share: float) -> str:
    """Say what Python does to a ratio.

    >>> damping(0.1)
    'Python takes up to 10 % of the timed run whatever the knobs are: a RocksDB twice as fast shows as 1.82x'
    """
    shown = 1 / (share + (1 - share) / 2)
    return (
        f"Python takes up to {100 * share:.0f} % of the timed run whatever the knobs are: "
        f"a RocksDB twice as fast shows as {shown:.2f}x"
    )


def ask(job: Job, limits: Limits) -> dict[str, Any] | Failure:
    """Run the child, and return its answer or why there is none."""
    # The child must find this very package, however this process did.
    path = os.pathsep.join(filter(None, [str(Path(mlsysopt.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    env = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    child = run_child(_COMMAND, env=env, limits=limits, stdin=json.dumps(asdict(job)))
    failure = _failure(child, Path(job.folder), limits)
    return failure or json.loads(child.stdout)


def _failure(child: ChildResult, folder: Path, limits: Limits) -> Failure | None:
    where = (_PHASE.findall(child.stderr) or ["start"])[-1]
    ending = _ending(child, folder)

    def failed(kind: Any, reason: str) -> Failure:
        return Failure(kind, reason, ending, child.wall_s, child.cpu_s)

    if child.timed_out:
        return failed("timeout", f"over its time-out of {limits.timeout_s:.3g} s, in the {where}")
    if child.killed_for_memory:
        limit = format_bytes(limits.memory_bytes) if limits.memory_bytes else "the machine's reserve"
        return failed("crashed", f"over its memory limit ({limit}), in the {where}")
    if child.signal:
        return failed("crashed", f"the embedded engine was killed by signal {child.signal} in the {where}")
    if child.returncode == 0:
        return None
    try:
        complaint = json.loads(child.stdout)["error"]
    except (ValueError, KeyError, TypeError):
        words = (tail(child.stderr, 1) or "no message")[:200]
        return failed("crashed", f"the embedded engine left the {where} with exit status {child.returncode}: {words}")
    if _MACHINE.search(complaint):
        free = shutil.disk_usage(folder).free
        return failed("infrastructure", f"{complaint} in the {where} ({free} bytes free in {folder.parent})")
    # Options that RocksDB cannot read or does not open with are refused before anything is done.
    return failed("rejected" if where == "start" else "crashed", f"RocksDB refuses, in the {where}: {complaint}")


def _ending(child: ChildResult, folder: Path) -> str:
    """Return the last words of the child and of RocksDB's own log."""
    said = [line for line in child.stderr.splitlines() if not _PHASE.match(line)]
    try:
        logged = tail((folder / DATABASE / "LOG").read_text(errors="replace"), LOG_LINES)
    except OSError:
        logged = ""
    return "\n".join(part for part in (tail("\n".join(said), 8), logged) if part)

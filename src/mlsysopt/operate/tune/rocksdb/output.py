"""What db_bench prints, as numbers.

A line that should be there and is not is an error that names it and shows the last lines; it never
becomes a zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlsysopt.core.errors import TargetError
from mlsysopt.operate.tune.rocksdb.workloads import Operation

__all__ = ["Histogram", "OutputError", "PhaseOutput", "ResultLine", "load_metrics", "parse", "run_metrics", "tail"]

_RESULT = re.compile(r"^(\S+)\s+:\s+([\d.]+) micros/op (\d+) ops/sec ([\d.]+) seconds (\d+) operations;", re.MULTILINE)
_HISTOGRAM = re.compile(
    r"^Microseconds per (\w+):\nCount: (\d+) Average: ([\d.]+).*\nMin: (\d+).*Max: (\d+)", re.MULTILINE
)
_BUCKET = re.compile(r"[\[(]\s*(\d+),\s*(\d+) [\])]\s+(\d+)\s")
_COUNTER = re.compile(r"^(rocksdb\.\S+) COUNT : (\d+)\s*$", re.MULTILINE)
_LEVELS = re.compile(r"^Level Files Size\(MB\)\n-+\n((?:\s*\d+\s+\d+\s+\d+\n)+)", re.MULTILINE)
_WARNING = re.compile(r"^WARNING: (.+)$", re.MULTILINE)
_KINDS: Mapping[str, Operation] = {"read": "get", "write": "write", "seek": "seek"}
PERCENTILES = (50, 95, 99)


class OutputError(TargetError):
    """Output of db_bench that lacks a line."""


@dataclass(frozen=True, slots=True)
class ResultLine:
    """`mixgraph : 20.855 micros/op 47943 ops/sec 0.626 seconds 30000 operations; ...`"""

    benchmark: str
    micros_per_op: float
    ops_per_s: float
    seconds: float
    operations: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies of whole operations in microseconds, as the benchmark's own clock takes them.

    For a seek this holds the scan that follows it, so that the means times the shares add up to the
    time per operation. The program's statistics (`rocksdb.db.seek.micros`) would leave the scan out.
    """

    count: int
    total: float
    low: float
    high: float
    buckets: tuple[tuple[float, float, int], ...]

    @property
    def mean(self) -> float:
        return self.total / self.count

    def percentile(self, p: float) -> float:
        """Interpolate inside the bucket as RocksDB does (HistogramStat::Percentile)."""
        threshold, seen = self.count * p / 100, 0
        for left, right, count in self.buckets:
            if seen + count >= threshold:
                value = left + (right - left) * (threshold - seen) / count
                return min(max(value, self.low), self.high)
            seen += count
        return self.high

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both together."""
        counts: dict[tuple[float, float], int] = {}
        for left, right, count in (*self.buckets, *other.buckets):
            counts[left, right] = counts.get((left, right), 0) + count
        buckets = tuple((left, right, count) for (left, right), count in sorted(counts.items()))
        return Histogram(self.count + other.count, self.total + other.total, min(self.low, other.low),
                         max(self.high, other.high), buckets)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PhaseOutput:
    """Everything of one child's output that is used.

    Attributes:
        results: One per benchmark that printed a result line.
        histograms: Latency histograms; those of several benchmarks are merged.
        counters: Name -> count of the statistics dump.
        level_files: Files per level, from `levelstats`; empty when it did not run.
        warnings: What the program warned about.
        ending: The last lines, for messages.
    """

    results: tuple[ResultLine, ...]
    histograms: Mapping[Operation, Histogram]
    counters: Mapping[str, int]
    level_files: tuple[int, ...]
    warnings: tuple[str, ...]
    ending: str

    def result(self, benchmarks: Sequence[str]) -> ResultLine:
        """Return the result of some benchmarks together; each of them must have printed its line."""
        chosen = [line for line in self.results if line.benchmark in {name.split("[")[0] for name in benchmarks}]
        for name in benchmarks:
            if not any(line.benchmark == name.split("[")[0] for line in chosen):
                raise OutputError(f"db_bench printed no result line for {name!r}; its last lines were:\n{self.ending}")
        if len(chosen) == 1:
            return chosen[0]
        operations, seconds = sum(line.operations for line in chosen), sum(line.seconds for line in chosen)
        micros = seconds * 1e6 / max(1, operations)
        return ResultLine("+".join(benchmarks), micros, operations / max(seconds, 1e-6), seconds, operations)

    def histogram(self, kind: Operation) -> Histogram:
        if kind not in self.histograms:
            word = next(word for word, name in _KINDS.items() if name == kind)
            raise OutputError(f"db_bench printed no 'Microseconds per {word}:'; its last lines were:\n{self.ending}")
        return self.histograms[kind]

    def counter(self, name: str) -> int:
        if name not in self.counters:
            raise OutputError(f"db_bench printed no '{name} COUNT'; its last lines were:\n{self.ending}")
        return self.counters[name]


def parse(text: str) -> PhaseOutput:
    """Read the standard output of one db_bench child.

    >>> parse("fillseq : 4.9 micros/op 204060 ops/sec 0.588 seconds 120000 operations;  203.9 MB/s").results
    (ResultLine(benchmark='fillseq', micros_per_op=4.9, ops_per_s=204060.0, seconds=0.588, operations=120000),)
    """
    results = tuple(ResultLine(m[1], float(m[2]), float(m[3]), float(m[4]), int(m[5])) for m in _RESULT.finditer(text))
    histograms: dict[Operation, Histogram] = {}
    for match in _HISTOGRAM.finditer(text):
        if match[1] in _KINDS and int(match[2]):
            made = Histogram(int(match[2]), int(match[2]) * float(match[3]), float(match[4]), float(match[5]),
                             _buckets(text[match.end() :]))  # fmt: skip
            kind = _KINDS[match[1]]
            histograms[kind] = histograms[kind].merge(made) if kind in histograms else made
    levels = _LEVELS.search(text)
    return PhaseOutput(
        results,
        histograms,
        {match[1]: int(match[2]) for match in _COUNTER.finditer(text)},
        tuple(int(row.split()[1]) for row in levels[1].splitlines()) if levels else (),
        tuple(_WARNING.findall(text)),
        tail(text),
    )


def _buckets(text: str) -> tuple[tuple[float, float, int], ...]:
    rows: list[tuple[float, float, int]] = []
    # The line of percentiles and a rule stand between the head of a histogram and its buckets.
    for line in text.lstrip("\n").splitlines():
        match = _BUCKET.match(line)
        if match:
            rows.append((float(match[1]), float(match[2]), int(match[3])))
        elif rows:
            break
    return tuple(rows)


def tail(text: str, lines: int = 12) -> str:
    """Return the last lines without progress reports, which are overwritten with carriage returns.

    >>> tail("a\\n... finished 100 ops\\r... finished 200 ops\\rput error: IO error\\n")
    'a\\nput error: IO error'
    """
    pieces = (line.rstrip() for line in text.splitlines())
    return "\n".join([piece for piece in pieces if piece and not piece.startswith("... finished")][-lines:])


def load_metrics(load: PhaseOutput, benchmarks: Sequence[str], cpu_s: float) -> dict[str, float]:
    """Return what the load phase says about itself; its CPU seconds include flushes and compactions."""
    result = load.result(benchmarks)
    return {"load_ops": result.ops_per_s, "load_ops_cpu": result.operations / cpu_s}


def run_metrics(
    load: PhaseOutput,
    opened: PhaseOutput,
    run: PhaseOutput,
    benchmarks: Sequence[str],
    operations: Sequence[Operation],
    cpu_s: float,
) -> dict[str, float]:
    """Return the metrics of the timed phase and those that count both phases.

    Args:
        load: Output of the load.
        opened: Output of the child that only opened the database, with `levelstats`.
        run: Output of the timed phase.
        benchmarks: The timed benchmarks.
        operations: Which latencies the workload reports.
        cpu_s: CPU seconds of the run child without what opening costs.
    """
    result = run.result(benchmarks)
    metrics: dict[str, float] = {"throughput": result.ops_per_s, "throughput_cpu": result.operations / cpu_s}
    for kind in operations:
        histogram = run.histogram(kind)
        metrics[f"{kind}_us"] = histogram.mean
        metrics |= {f"p{p}_{kind}_us": histogram.percentile(p) for p in PERCENTILES}
    if not opened.level_files:
        raise OutputError(f"db_bench printed no 'Level Files Size(MB)'; its last lines were:\n{opened.ending}")
    written = sum(
        phase.counter(name)
        for phase in (load, run)
        for name in ("rocksdb.flush.write.bytes", "rocksdb.compact.write.bytes")
    )
    user = load.counter("rocksdb.bytes.written") + run.counter("rocksdb.bytes.written")
    if user == 0:
        raise OutputError(
            "the load wrote nothing, so write amplification is not defined; check the workload's load list"
        )
    hits, misses = run.counter("rocksdb.block.cache.hit"), run.counter("rocksdb.block.cache.miss")
    return {
        **metrics,
        "stall_us": float(load.counter("rocksdb.stall.micros") + run.counter("rocksdb.stall.micros")),
        "write_amp": written / user,
        "block_misses_per_op": misses / result.operations,
        # Nothing looked up means nothing missed: all of it was in memtables.
        "cache_hit": hits / (hits + misses) if hits + misses else 1.0,
        "l0_files": float(opened.level_files[0]),
    }

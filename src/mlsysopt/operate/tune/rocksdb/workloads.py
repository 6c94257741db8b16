"""What a trial runs: a list of benchmarks that loads a database, and one that uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.references import Reference

__all__ = ["ALABED2021", "CAO2020", "DEFAULT_KEYS", "WORKLOADS", "Operation", "Workload", "workload"]

Operation = Literal["get", "seek", "write"]

ALABED2021 = Reference(
    "alabed2021",
    "inproceedings",
    "High-Dimensional {Bayesian} Optimization with Multi-Task Learning for {RocksDB}",
    "Sami Alabed and Eiko Yoneki",
    2021,
    {"booktitle": "Proceedings of the 1st Workshop on Machine Learning and Systems (EuroMLSys)",
     "doi": "10.1145/3437984.3458841", "eprint": "2103.16267", "archiveprefix": "arXiv"},
)  # fmt: skip
CAO2020 = Reference(
    "cao2020characterizing",
    "inproceedings",
    "Characterizing, Modeling, and Benchmarking {RocksDB} Key-Value Workloads at {Facebook}",
    "Zhichao Cao and Siying Dong and Sagar Vemuri and David H. C. Du",
    2020,
    {"booktitle": "18th USENIX Conference on File and Storage Technologies (FAST)", "pages": "209--223"},
)
COOPER2010 = Reference(
    "cooper2010benchmarking",
    "inproceedings",
    "Benchmarking Cloud Serving Systems with {YCSB}",
    "Brian F. Cooper and Adam Silberstein and Erwin Tam and Raghu Ramakrishnan and Russell Sears",
    2010,
    {"booktitle": "Proceedings of the 1st ACM Symposium on Cloud Computing", "doi": "10.1145/1807128.1807152"},
)

# Which of db_bench's own latency histograms a benchmark fills (`Microseconds per read|write|seek`).
_OPERATIONS: Mapping[str, tuple[Operation, ...]] = {
    **dict.fromkeys(("fillseq", "fillrandom", "filluniquerandom", "overwrite", "fillbatch", "fillsync"), ("write",)),
    **dict.fromkeys(("readrandom", "readwhilewriting", "readmissing", "readhot", "readtorowcache"), ("get",)),
    **dict.fromkeys(("seekrandom", "seekrandomwhilewriting"), ("seek",)),
    "readrandomwriterandom": ("get", "write"),
    "mixgraph": ("get", "write", "seek"),
}
# Benchmarks that do something to the database, or print, but are not the work that is timed.
STEPS = frozenset({"flush", "waitforcompaction", "compact", "compact0", "compact1", "compactall", "stats", "levelstats",
                   "sstables", "resetstats"})  # fmt: skip

DEFAULT_KEYS = 1_000_000
"""Keys of a workload that does not say how many, in db_bench."""
# Counts of keys and operations; below 0 an operation count means as many as keys.
_COUNTS = ("num", "reads", "writes")


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload for db_bench.

    Args:
        load: Benchmarks that fill a fresh database; they must leave it flushed, or opening it again
            would replay the log inside the timed run.
        run: Benchmarks that are timed.
        flags: db_bench flags that both phases get, among them `num` (keys) and `reads` (operations).
        name: What a report and the store call it.
        operations: Which latencies the run reports; None finds them from the benchmark names.
        references: Where the workload comes from.
        about: One line for people.

    >>> Workload(load=["fillrandom", "flush"], run=["readrandom"], flags={"num": 1000}).operations
    ('get',)
    """

    load: Sequence[str]
    run: Sequence[str]
    flags: Mapping[str, Any] = field(default_factory=dict)
    name: str = "custom"
    operations: tuple[Operation, ...] | None = None
    references: tuple[Reference, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        for phase in ("load", "run"):
            names = getattr(self, phase)
            if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
                raise UsageError(f"workload {self.name!r}: {phase} must be a list of benchmark names, got {names!r}")
            object.__setattr__(self, phase, tuple(names))
            if not self.timed(phase):
                raise UsageError(
                    f"workload {self.name!r}: {phase} has no benchmark that works, got {list(names)}; "
                    "for example load=['fillrandom', 'flush', 'waitforcompaction'], run=['readrandom']"
                )
        object.__setattr__(self, "flags", dict(self.flags))
        object.__setattr__(self, "operations", self._find_operations())

    def timed(self, phase: str) -> tuple[str, ...]:
        """Return the benchmarks of a phase that print a result line."""
        return tuple(name for name in getattr(self, phase) if name.split("[")[0] not in STEPS)

    def with_flags(self, flags: Mapping[str, Any]) -> Workload:
        """Return the workload with some flags set to other values; which latencies it reports may change with them."""
        known = self.operations if any(name.split("[")[0] not in _OPERATIONS for name in self.timed("run")) else None
        return replace(self, flags={**self.flags, **flags}, operations=known)

    def scaled(self, fidelity: float) -> dict[str, Any]:
        """Return the flags of a share of the work: keys and operations together, or other data would be hot.

        >>> WORKLOADS["ycsb-a"].scaled(0.25)["num"], WORKLOADS["ycsb-a"].scaled(0.25)["reads"]
        (30000, 25000)
        """
        if fidelity == 1:
            return dict(self.flags)
        counts = {"num": DEFAULT_KEYS, **{name: self.flags[name] for name in _COUNTS if name in self.flags}}
        return {**self.flags, **{name: max(1, round(n * fidelity)) for name, n in counts.items() if n > 0}}

    def _find_operations(self) -> tuple[Operation, ...]:
        if self.operations is not None:
            return tuple(self.operations)
        found: set[Operation] = set()
        for name in (name.split("[")[0] for name in self.timed("run")):
            if name not in _OPERATIONS:
                raise UsageError(
                    f"workload {self.name!r}: which latencies does {name!r} report? say operations=('get', ...); "
                    f"allowed: get, seek, write; found without asking: {', '.join(sorted(_OPERATIONS))}"
                )
            found.update(self._with_share(name))
        order: tuple[Operation, ...] = ("get", "seek", "write")
        return tuple(kind for kind in order if kind in found)

    def _with_share(self, name: str) -> tuple[Operation, ...]:
        """Leave out an operation whose share in the mix is zero: db_bench prints no histogram for it."""
        if name == "mixgraph":
            ratios = {"get": "mix_get_ratio", "seek": "mix_seek_ratio", "write": "mix_put_ratio"}
            defaults = {"mix_get_ratio": 1.0, "mix_seek_ratio": 0.0, "mix_put_ratio": 0.0}
            return tuple(
                kind for kind in _OPERATIONS[name] if float(self.flags.get(ratios[kind], defaults[ratios[kind]])) > 0
            )
        if name == "readrandomwriterandom":
            reads = float(self.flags.get("readwritepercent", 90))
            shares: tuple[tuple[Operation, float], ...] = (("get", reads), ("write", 100 - reads))
            return tuple(kind for kind, share in shares if share > 0)
        return _OPERATIONS[name]


_LOAD = ("fillrandom", "flush", "waitforcompaction")
# Section 5 of Cao et al.: two-term exponential key-range hotness, generalised-Pareto value sizes
# and scan lengths, as fitted to their "All_dist" workload; the load does not use the last two.
# db_bench heeds key ranges only together with the law of keys inside them, so these flags alone mean
# uniform keys. They stay as they are: recorded tables refer to them.
_MIXGRAPH = {
    "key_size": 48, "value_size": 1000, "num": 120_000, "reads": 30_000,
    "mix_get_ratio": 0.806, "mix_put_ratio": 0.16, "mix_seek_ratio": 0.034, "sine_mix_rate": 0,
    "keyrange_dist_a": 14.18, "keyrange_dist_b": -2.917, "keyrange_dist_c": 0.0164, "keyrange_dist_d": -0.08082,
    "keyrange_num": 30, "value_k": 0.2615, "value_sigma": 25.45, "iter_k": 2.517, "iter_sigma": 14.236,
}  # fmt: skip
_MIXGRAPH_HOT = {**_MIXGRAPH, "key_dist_a": 0.002312, "key_dist_b": 0.3467}
# YCSB's record is ten fields of 100 B; 120 MB of them do not fit the default's two memtables.
_YCSB = {"key_size": 24, "value_size": 1000, "num": 120_000, "reads": 100_000}

WORKLOADS: Mapping[str, Workload] = {
    made.name: made
    for made in (
        Workload(_LOAD, ["mixgraph"], _MIXGRAPH, "mixgraph", references=(CAO2020,),
                 about="social-graph mix of FAST 2020: 80.6 % Get, 16 % Put, 3.4 % scans; uniform keys, as db_bench "
                       "draws them while key_dist_a and key_dist_b are unset"),
        Workload(_LOAD, ["mixgraph"], _MIXGRAPH_HOT, "mixgraph-hot", references=(CAO2020,),
                 about="the same mix with the key ranges of FAST 2020: three of four operations go to one thirtieth "
                       "of the keys"),
        Workload(_LOAD, ["readrandomwriterandom"], {**_YCSB, "readwritepercent": 50}, "ycsb-a",
                 references=(COOPER2010,), about="50 % Get, 50 % Put of 1-kB records, uniform keys"),
        Workload(_LOAD, ["readrandomwriterandom"], {**_YCSB, "readwritepercent": 95}, "ycsb-b",
                 references=(COOPER2010,), about="95 % Get, 5 % Put of 1-kB records, uniform keys"),
        Workload(_LOAD, ["readrandomwriterandom"], {**_YCSB, "readwritepercent": 100}, "ycsb-c",
                 references=(COOPER2010,), about="Get only, 1-kB records, uniform keys"),
    )
}  # fmt: skip


def workload(given: str | Workload) -> Workload:
    """Return a preset by name, or the workload itself.

    >>> workload("ycsb-b").flags["readwritepercent"]
    95
    """
    if isinstance(given, Workload):
        return given
    if given not in WORKLOADS:
        near = near_misses(given, WORKLOADS, noun="workload")
        raise UsageError(f"no workload {given!r}; {near} Presets: {', '.join(WORKLOADS)}; or pass a Workload(...)")
    return WORKLOADS[given]

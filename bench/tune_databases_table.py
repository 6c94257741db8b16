"""Tuners on recorded PostgreSQL trials: `python -m bench.tune_databases_table replay`. Bars tune-databases.4 and .8.

The table (`python -m bench.tune_databases_record` makes it) was recorded from raw metadata ranges, with failures and
their seconds. Every tuner sees the same default, the same five starting points and the same noise per seed, and may
spend the same seconds, of runs, refusals and probes; its own thinking is a column. What counts is the area under
the regret over the seconds after the starts. Each tuner runs twice: told of failures as `Study` tells them, and kept to
what is likely to work by `ValiditySampler`. `oracle tpe` is TPE kept by the replay's own truth about what runs, with
no probes and no mistakes: where that misses the bar, no model of validity reaches it. Two processes, one thread each.
Exit code 3 without a table.

Optuna's GPSampler takes a CPU second or two for one proposal: traces of its rows are kept in
`tests/tables/replay-seconds-peers.json.gz` under a key of table, protocol, Optuna's version and, for the row that is
kept to what works, our own sources; `python -m bench.tune_databases_table peers` runs the rows of which no kept trace
fits. `replay` runs the start of one of them again as a check, and the whole row where no kept one fits;
`--gp-seeds 0` leaves that row out.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by BLAS when numpy is imported below; a thread per core would only make two processes wait.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from bench.protocol import Bench  # noqa: E402
from bench.replayed import Table  # noqa: E402
from bench.replayed_seconds import MOST_TRIALS, RAN, TimedReplay, TimedTrace, study_in_seconds  # noqa: E402
from bench.tune_rocksdb_table import ratio  # noqa: E402

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from mlsysopt.core.search.evidence import Evidence
    from mlsysopt.core.space import Space

TABLE = Path(__file__).parent.parent / "tests" / "tables" / "postgres-mixed.json.gz"
PEER_FILE = "replay-seconds-peers.json.gz"
PROTOCOL = 1
"""To be raised when the replay changes in a way that changes traces."""
CHECKED_TRIALS = 9
SOURCES = (
    "core/search/validity.py", "core/search/evidence.py", "core/search/forest.py", "core/search/rules.py",
    "core/search/templates.py", "core/search/space_sampler.py", "core/study/learning.py", "operate/tune/diagnose.py",
)  # fmt: skip
SEEDS, GP_SEEDS, ABLATED_SEEDS, RUNS = 20, 5, 10, 40
QUIET = 10.0
"""Median pressure of a recording, in percent, below which its wall clock decides."""
ASKS, AT, FAILED = 9, 60, 24


@dataclass(frozen=True)
class Contestant:
    """One row of the experiment.

    Attributes:
        name: What it is called.
        base: Name of the sampler.
        kept: Whether `ValiditySampler` keeps it to what is likely to work.
        probes: Whether failures are looked into by probes.
        tells_fail: Whether failures are told as FAIL.
        ablation: Whether it is there to be seen beside others, and in no bar.
        oracle: Whether the replay itself says what runs, in place of a model. No part of the key of kept traces.
    """

    name: str
    base: str
    kept: bool = False
    probes: bool = False
    tells_fail: bool = False
    ablation: bool = False
    oracle: bool = field(default=False, repr=False)

    def seeds(self, most: int, gp: int) -> int:
        """Return how many seeds it gets."""
        return min(most, gp if self.base == "gp" else ABLATED_SEEDS if self.ablation else most)


BASES = ("random", "tpe", "dds", "cmaes", "gp")


def contestants() -> list[Contestant]:
    """Return every row; where nobody can diagnose yet, the wrapper learns from trials alone."""
    plain = [Contestant(base, base) for base in BASES]
    can = diagnosis() is not None
    kept = [Contestant(f"valid {base}", base, kept=True, probes=can) for base in BASES]
    alone = [Contestant("valid tpe, no probes", "tpe", kept=True, ablation=True)] if can else []
    oracle = Contestant("oracle tpe", "tpe", kept=True, oracle=True)
    return [*plain, Contestant("tpe, FAIL", "tpe", tells_fail=True, ablation=True), *kept, *alone, oracle]


@cache
def diagnosis() -> Callable[..., Sequence[str]] | None:
    """Return what finds culprits by probes, as `ServerSession.diagnose` calls it; None without the module."""
    if importlib.util.find_spec("mlsysopt.operate.tune.diagnose") is None:
        return None
    found: Any = importlib.import_module("mlsysopt.operate.tune.diagnose")

    def culprits(space: Space, config: Any, failure: Any, probe: Any) -> Sequence[str]:
        return found.diagnose(space, config, failure, probe).blamed

    return culprits


def sampler(
    one: Contestant, it: TimedReplay, space: Space, seed: int, probes: Callable[[], Sequence[Evidence]]
) -> BaseSampler:
    """Make the sampler of a row."""
    from bench.replayed_truth import TruthSampler
    from mlsysopt.core.search import SpaceSampler, registry
    from mlsysopt.core.search.dds import DDSSampler
    from mlsysopt.core.search.validity import ValiditySampler

    if one.base == "dds" and "dds" not in registry.names():
        made: BaseSampler = SpaceSampler(DDSSampler(space=space, seed=seed), space, seed=seed)
    else:
        made = registry.sampler(one.base, space=space, seed=seed)
    if one.oracle:
        return TruthSampler(made, space, seed=seed, replay=it)
    return ValiditySampler(made, space, seed=seed, probes=probes) if one.kept else made


def objective_of(obj: Mapping[str, Any]) -> str:
    """Return the recorded objective, by the CPU where the machine was busy."""
    told = obj.get("objective", "tps")
    pressure = [value for value in obj["columns"].get("pressure", ()) if value is not None]
    busy = not pressure or statistics.median(pressure) >= QUIET
    return f"{told}_cpu" if busy and f"{told}_cpu" in obj["metrics"] else told


@cache
def load(path: Path, objective: str | None = None) -> TimedReplay:
    """Read a table once per process."""
    obj = json.loads(gzip.decompress(path.read_bytes()))
    name = path.name.removesuffix(".json.gz")
    return TimedReplay(Table.of_json(name, obj, objective=objective or objective_of(obj), absolute=True))


@dataclass(frozen=True)
class Setting:
    """What all rows of one experiment have in common.

    Attributes:
        path: The table.
        objective: Metric to maximise; None chooses by how quiet the recording was.
        runs: The budget, in runs of the default.
        canaries: Canaries beside every trial, refused ones too, in runs of the default; the budget grows alike.
    """

    path: Path
    objective: str | None = None
    runs: float = RUNS
    canaries: float = 0.0


Job = tuple[Setting, Contestant, int, int]


def _one(job: Job) -> TimedTrace:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    setting, one, seed, most_trials = job
    it = load(setting.path, setting.objective)
    return study_in_seconds(
        it, lambda space, n, probes: sampler(one, it, space, n, probes), seed=seed, tells_fail=one.tells_fail,
        budget_s=setting.runs * (1.0 + setting.canaries) * it.default_s, beside_s=setting.canaries * it.default_s,
        diagnose=diagnosis() if one.probes else None, most_trials=most_trials,
    )  # fmt: skip


def replay(
    setting: Setting, rows: Sequence[Contestant], seeds: Callable[[Contestant], int], processes: int
) -> dict[str, list[TimedTrace]]:
    """Run every row on every seed; return name -> traces by seed."""
    # The slow ones first, so that no process is left alone with them at the end.
    slow = sorted(rows, key=lambda one: (one.base != "gp", not one.kept))
    jobs: list[Job] = [(setting, one, seed, MOST_TRIALS) for one in slow for seed in range(seeds(one))]
    found: dict[str, list[TimedTrace]] = {one.name: [] for one in rows}
    with ProcessPoolExecutor(processes) as pool:
        for (_, one, _, _), trace in zip(jobs, pool.map(_one, jobs), strict=True):
            found[one.name].append(trace)
    return found


def key(setting: Setting, one: Contestant) -> str:
    """Return what the traces of a row depend on."""
    import optuna

    content = hashlib.sha256(gzip.decompress(setting.path.read_bytes())).hexdigest()[:32]
    told = f"{content} protocol {PROTOCOL} optuna {optuna.__version__} {setting.objective} {setting.runs:g} runs "
    told += f"{setting.canaries:g} canaries {one}"
    if one.kept:
        root = Path(inspect.getfile(importlib.import_module("mlsysopt"))).parent
        texts = [(root / name).read_bytes() for name in SOURCES if (root / name).is_file()]
        told += f" {hashlib.sha256(b''.join(texts)).hexdigest()[:32]}"
    return told


def keep(folder: Path, setting: Setting, rows: Sequence[Contestant], traces: Mapping[str, list[TimedTrace]]) -> Path:
    """Write the traces of slow rows."""
    from mlsysopt.core.measure import machine

    record = {
        "format": "replay-seconds-peers", "version": 1, "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine().as_dict(),
        "rows": {key(setting, one): [trace.to_json() for trace in traces[one.name]] for one in rows},
    }  # fmt: skip
    path = folder / PEER_FILE
    path.write_bytes(gzip.compress(json.dumps(record, allow_nan=False).encode(), 9, mtime=0))
    return path


def kept(folder: Path, setting: Setting, one: Contestant, seeds: int) -> list[TimedTrace] | None:
    """Return kept traces of a row, None where there are none for this table, protocol, version and code."""
    file = folder / PEER_FILE
    if not file.is_file():
        return None
    found = json.loads(gzip.decompress(file.read_bytes()))["rows"].get(key(setting, one), ())
    return [TimedTrace.from_json(row) for row in found[:seeds]] if len(found) >= seeds else None


def check_kept(setting: Setting, one: Contestant, trace: TimedTrace) -> str:
    """Run the start of a kept trace again and say whether it came out the same."""
    again = _one((setting, one, 0, CHECKED_TRIALS)).gains
    before = trace.gains[:CHECKED_TRIALS]
    same = int(np.argmin(np.append(np.isclose(again, before), False)))
    verdict = "the same" if same == len(before) else f"the same for {same} trials, then different arithmetic"
    return f"{one.name}: kept traces; the first {len(before)} trials of one, run again: {verdict}"


def ask_costs(it: TimedReplay, base: str) -> tuple[float, float, int]:
    """Return CPU seconds of the median ask after 60 trials, of a base and of it kept, and how many of the 60 failed.

    Both have the same recorded trials; after each ask its result is told, so that every model is made anew. NaN
    where the table has too few trials of either kind.
    """
    trials = np.flatnonzero(it.table.trials)
    ran = np.array([sort == RAN for sort in it.sorts(it.table.x[trials])])
    good, bad = trials[ran][: AT - 1 - FAILED], trials[~ran][:FAILED]
    starts = [it.table.configs[i] for i in sorted([*good, *bad])]
    if len(starts) < AT - 1:
        return math.nan, math.nan, len(bad)

    def median(one: Contestant) -> float:
        trace = study_in_seconds(
            it, lambda space, n, probes: sampler(one, it, space, n, probes), seed=0, starts=starts,
            budget_s=1e6 * it.default_s, diagnose=diagnosis() if one.probes else None,
            most_trials=1 + len(starts) + ASKS,
        )  # fmt: skip
        return float(np.median(trace.cpu_s))

    kept = Contestant(base, base, kept=True, probes=diagnosis() is not None)
    return median(Contestant(base, base)), median(kept), len(bad)


def behind(worse: Sequence[float], best: Sequence[float]) -> float:
    """Return by how much one ends below the other: 1 less the ratio of the means of logarithms, paired by seed.

    >>> round(behind([0.0, 0.0], [math.log(1.25), math.log(1.25)]), 6)
    0.2
    """
    n = min(len(worse), len(best))
    return 1.0 - math.exp(float(np.mean(worse[:n])) - float(np.mean(best[:n])))


def reach(plain: Sequence[TimedTrace], oracle: tuple[float, float, float]) -> str:
    """Return whether bar 4a can be reached on this table: what refusals take, and what knowing them all brings."""
    share = float(np.mean([trace.refused_share for trace in plain]))
    can = "can be reached" if oracle[0] <= 0.9 else "cannot be reached"
    return (
        f"tune-databases.4a {can} on this table: TPE kept by the truth about what runs has {oracle[0]:.2f} "
        f"[{oracle[1]:.2f}, {oracle[2]:.2f}] of plain TPE's area; refusals take {share:.1%} of plain TPE's seconds"
    )


def report(bench: Bench, it: TimedReplay, traces: Mapping[str, list[TimedTrace]]) -> None:
    """Print the table and state the bars of section 4."""
    table = it.table
    ceiling = max([it.ceiling, *(trace.best for ts in traces.values() for trace in ts)])
    failed = [kind for kind in table.failures if kind is not None]
    counts = ", ".join(f"{failed.count(kind)} {kind}" for kind in sorted(set(failed)))
    print(
        f"{table.name}: {int(table.trials.sum())} trials, failures: {counts or 'none'}; of the replayed raw space "
        f"{it.feasible_share:.1%} runs and keeps the guards, the best at {math.exp(ceiling):.2f}x "
        f"{table.objective}; a run of the default takes {it.default_s:.1f} s"
    )
    ranks = ", ".join(f"{metric} {rank:.2f}" for metric, rank in it.quality().items())
    seen = " with pairs" if it.sorts.paired else ""
    print(f"out-of-bag: rank correlation {ranks}; validity forest{seen} {it.sorts.accuracy:.2f} balanced accuracy")
    areas = {name: [trace.area(ceiling) for trace in ts] for name, ts in traces.items()}
    versus = {
        one.name: ratio(areas[one.name], areas[one.base][: len(areas[one.name])])
        for one in contestants()
        if one.name in areas and one.base in areas and one.name != one.base
    }
    rows = []
    for name, ts in traces.items():
        found = versus.get(name)
        cpu = np.concatenate([trace.cpu_s for trace in ts])
        rows.append(
            [
                name,
                len(ts),
                f"{np.mean(areas[name]):.3f}",
                f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]" if found else "",
                f"{math.exp(float(np.mean([trace.best for trace in ts]))):.3f}x",
                f"{np.mean([trace.valid_share for trace in ts]):.0%}",
                f"{np.mean([len(trace.gains) - 1 for trace in ts]):.0f}",
                f"{np.mean([trace.probes for trace in ts]):.0f}",
                f"{np.median(cpu):.3f}" if len(cpu) else "",
            ]
        )
        for seed, trace in enumerate(ts):
            bench.round(
                tuner=name, seed=seed, area=areas[name][seed], end=trace.best, valid_share=trace.valid_share,
                trials=len(trace.gains) - 1, probes=trace.probes, ask_cpu_s=float(trace.cpu_s.sum()),
            )  # fmt: skip
    bench.table(["tuner", "seeds", "area", "vs base", "end", "valid", "trials", "probes", "CPU-s/ask"], rows)
    for letter, base in zip("abcd", ("tpe", "random", "dds", "cmaes"), strict=True):
        value = versus.get(f"valid {base}", (math.nan,))[0]
        about = f"area of {base} with ValiditySampler over {base}'s"
        bench.bar(f"tune-databases.4{letter}", value, "<=", 0.9, must=letter == "a", about=about)
    if "tpe" in traces and "oracle tpe" in versus:
        print(reach(traces["tpe"], versus["oracle tpe"]))
    ends = {name: [trace.best for trace in ts] for name, ts in traces.items()}
    gaps: dict[str, float] = {}
    for name in ("random", "valid random"):
        if name in ends:
            # Paired over the seeds that both have: those of the slow rows are fewer.
            gaps[name] = max(behind(ends[name], others) for others in ends.values())
    best = max(ends, key=lambda name: behind(ends.get("random", [0.0]), ends[name]))
    said = [f"{name} ends {100 * gap:.1f} % below the best" for name, gap in gaps.items()]
    bench.headline = f"{' and '.join(said)} ({best}); paper: random search 4 %"
    print(bench.headline)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune_databases_table", description=__doc__)
    parser.add_argument("verb", choices=["replay", "peers"])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--gp-seeds", type=int, default=GP_SEEDS, help="of Optuna's GP; 0 runs no row of it anew")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=float, default=RUNS, help="the budget, in runs of the default")
    parser.add_argument("--canaries", type=float, default=0.0, help="runs of the default beside every trial")
    parser.add_argument("--objective", help="metric to maximise; by default as quiet as the recording was")
    parser.add_argument("--tuners", help="names of rows, comma separated; all without it")
    options = parser.parse_args(arguments)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    bench = Bench(
        "tune_databases_table",
        "keeping a tuner to what is likely to work pays in seconds, although refusals are cheap",
        f"Optuna {optuna.__version__}: RandomSampler, TPESampler(multivariate), CmaEsSampler, GPSampler, and our DDS, "
        "each told of failures by a constraint with the worst value",
        f"{options.seeds} seeds (GP: {options.gp_seeds}), {options.runs:g} runs of the default in seconds, default + 5 "
        "Sobol starts in common, paired by seed; truth: one forest per metric on ln ratios to the canary, noise: "
        "residual vectors, failures: a forest over recorded outcomes, with their recorded seconds",
    )
    if not options.table.is_file():
        return bench.missing(f"recorded table {options.table} (python -m bench.tune_databases_record makes it)")
    started = time.monotonic()
    setting = Setting(options.table, options.objective, options.runs, options.canaries)
    rows = [one for one in contestants() if options.tuners is None or one.name in options.tuners.split(",")]
    counts = {one.name: one.seeds(options.seeds, options.gp_seeds) for one in rows}
    folder = options.table.parent
    if options.verb == "peers":
        slow = [one for one in rows if one.base == "gp" and counts[one.name] > 0]
        fitting = {one.name: kept(folder, setting, one, counts[one.name]) for one in slow}
        missing = [one for one in slow if fitting[one.name] is None]
        traces = {name: found for name, found in fitting.items() if found is not None}
        traces |= replay(setting, missing, lambda one: counts[one.name], options.processes)
        print(keep(folder, setting, slow, traces))
        print(f"took {time.monotonic() - started:.0f} s", file=sys.stderr)
        return 0
    if diagnosis() is None:
        print("mlsysopt.operate.tune.diagnose is not there: the wrapper learns from trials alone\n")
    stored = {
        one.name: kept(folder, setting, one, one.seeds(options.seeds, options.gp_seeds or GP_SEEDS))
        for one in rows
        if one.base == "gp"
    }
    ready = {name: traces for name, traces in stored.items() if traces is not None}
    live = [one for one in rows if one.name not in ready and counts[one.name] > 0]
    out = [one.name for one in rows if one.name not in ready and one not in live]
    if out:
        print(f"left out, as no kept traces fit: {', '.join(out)}")
    rows = [one for one in rows if one.name not in out]
    traces = replay(setting, live, lambda one: counts[one.name], options.processes) | ready
    traces = {one.name: traces[one.name] for one in rows}
    for one in rows:
        if one.name in ready:
            print(check_kept(setting, one, ready[one.name][0]))
    it = load(options.table, options.objective)
    report(bench, it, traces)
    plain, wrapped, failed = ask_costs(it, "tpe")
    bench.round(tuner="tpe", ask_at=AT, failures=failed, ask_cpu_s=plain, ask_kept_cpu_s=wrapped)
    about = f"CPU-s that the wrapper adds to TPE's median ask ({plain:.3f}) at {AT} trials, {failed} of them failures"
    bench.bar("tune-databases.8", wrapped - plain, "<=", 0.3, about=about)
    print(f"took {time.monotonic() - started:.0f} s", file=sys.stderr)
    whole = options.tuners is None and options.seeds == SEEDS and options.gp_seeds == GP_SEEDS
    return bench.finish(write=whole and options.table == TABLE)


if __name__ == "__main__":
    raise SystemExit(main())

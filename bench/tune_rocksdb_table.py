"""Samplers on recorded RocksDB trials: `python -m bench.tune_rocksdb_table replay [--ablations]`.

Every sampler sees the same default, the same five starting points and the same noise per seed; the area
under the guarded regret curve counts the trials after them. Bars tune-rocksdb.2, .3 and the stretch .9.
Two processes, one thread each. Exit code 3 when no table was recorded yet.

Optuna's GPSampler takes 2-3 CPU-s for one guarded proposal, an hour for all of them: its traces are kept in
`tests/tables/replay-peers.json.gz` under a key of table, protocol and Optuna version, and `replay` runs the
start of one of them again as a check. `python -m bench.tune_rocksdb_table peers` makes that file anew;
without a fitting one, `replay` runs the peer itself.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by BLAS when numpy is imported below; a thread per core would only make two processes wait.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from numpy.typing import ArrayLike  # noqa: E402

from bench.protocol import Bench  # noqa: E402
from bench.replayed import STARTS, Replay, Table, Trace, study  # noqa: E402

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

PEER_FILE = "replay-peers.json.gz"
PROTOCOL = 1
"""To be raised when the replay changes in a way that changes traces."""
CHECKED_TRIALS = 9
TABLES = Path(__file__).parent.parent / "tests" / "tables"
SEEDS, TRIALS, GOAL = 20, 30, math.log(1.25)
PEERS = ("random", "tpe", "gp")
SLOW = ("gp",)
OURS = ("structured", "permuted")
ABLATIONS = ("plain", "no-residual", "knowledge", "data-only", "icm")
QUALITY = 0.8


def sampler(name: str, space: Any, seed: int, knowledge: Mapping[str, Sequence[str]]) -> BaseSampler:
    """Make a contestant; each is wrapped so that it proposes only valid configurations."""
    from mlsysopt.core.search import SpaceSampler, StructuredGPSampler, registry

    if name in (*PEERS, "icm"):
        return registry.sampler(name, space=space, seed=seed, knowledge=knowledge)
    given: dict[str, Any] = {"knowledge": knowledge, "space": space, "seed": seed}
    if name == "permuted":
        given["knowledge"] = permuted(knowledge, space.names, seed)
    elif name == "plain":
        given["decompose"] = False
    elif name == "no-residual":
        given["residual"] = False
    elif name == "knowledge":
        given["subgoals"] = "knowledge"
    elif name == "data-only":
        # The metrics are named, so that the same ones are used, but every knob weighs the same.
        given["knowledge"] = {metric: list(space.names) for metric in knowledge}
    return SpaceSampler(StructuredGPSampler(**given), space, seed=seed)


def permuted(knowledge: Mapping[str, Sequence[str]], knobs: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Return the map with every knob renamed by one random permutation."""
    order = np.random.default_rng([seed, 77]).permutation(len(knobs))
    other = {knob: knobs[int(place)] for knob, place in zip(knobs, order, strict=True)}
    return {metric: [other[knob] for knob in drivers] for metric, drivers in knowledge.items()}


_replays: dict[str, Replay] = {}


def _one(job: tuple[str, str, str, int, int]) -> tuple[str, str, int, Trace]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path, table, name, seed, trials = job
    replay = _replays.get(path) or _replays.setdefault(path, Replay(Table.load(Path(path))))
    knowledge = replay.table.subgoals
    return table, name, seed, study(replay, lambda s, n: sampler(name, s, n, knowledge), seed=seed, trials=trials)


def replay(
    tables: Mapping[str, Path], names: Sequence[str], seeds: int, processes: int, trials: int = TRIALS
) -> dict[str, dict[str, list[Trace]]]:
    """Run every sampler on every table and seed; return table -> sampler -> traces by seed."""
    jobs = [
        (str(path), table, name, seed, trials)
        for table, path in tables.items()
        for name in names
        for seed in range(seeds)
    ]
    found: dict[str, dict[str, dict[int, Trace]]] = {t: {n: {} for n in names} for t in tables}
    with ProcessPoolExecutor(processes) as pool:
        for table, name, seed, trace in pool.map(_one, jobs, chunksize=max(1, seeds // (2 * processes))):
            found[table][name][seed] = trace
    return {t: {n: [by_seed[i] for i in range(seeds)] for n, by_seed in by.items()} for t, by in found.items()}


def key(path: Path) -> str:
    """Return what the traces of a peer depend on."""
    import optuna

    content = hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
    return f"{content[:32]} protocol {PROTOCOL} trials {TRIALS} optuna {optuna.__version__}"


def keep(folder: Path, tables: Mapping[str, Path], traces: Mapping[str, Mapping[str, list[Trace]]]) -> Path:
    """Write the traces of slow peers."""
    from mlsysopt.core.measure import machine

    kept = {
        table: {
            "key": key(tables[table]),
            "traces": {
                name: [{"gains": t.gains.tolist(), "cpu_s": [round(c, 3) for c in t.cpu_s.tolist()]} for t in ts]
                for name, ts in by_name.items()
            },
        }
        for table, by_name in traces.items()
    }
    record = {
        "format": "replay-peers",
        "version": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine().as_dict(),
        "tables": kept,
    }
    path = folder / PEER_FILE
    # JSON has no infinity; a trial without a feasible value is null.
    text = json.dumps(record).replace("-Infinity", "null")
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return path


def kept(folder: Path, table: str, path: Path, name: str, seeds: int) -> list[Trace] | None:
    """Return kept traces of a peer, None where they do not fit this table, protocol and version."""
    file = folder / PEER_FILE
    if not file.is_file():
        return None
    entry = json.loads(gzip.decompress(file.read_bytes()))["tables"].get(table)
    if entry is None or entry["key"] != key(path) or len(entry["traces"].get(name, ())) < seeds:
        return None
    return [
        Trace(np.array([-math.inf if gain is None else gain for gain in row["gains"]]), np.array(row["cpu_s"]))
        for row in entry["traces"][name][:seeds]
    ]


def check_kept(tables: Mapping[str, Path], traces: Mapping[str, Mapping[str, list[Trace]]], name: str) -> str:
    """Run the start of one kept trace again and say whether it came out the same."""
    table, path = next(iter(tables.items()))
    again = _one((str(path), table, name, 0, CHECKED_TRIALS))[3].gains
    before = traces[table][name][0].gains[:CHECKED_TRIALS]
    same = int(np.argmin(np.append(np.isclose(again, before), False)))
    verdict = "the same" if same == CHECKED_TRIALS else f"the same for {same} trials, then different arithmetic"
    return f"{name}: kept traces; the first {CHECKED_TRIALS} trials of one, run again: {verdict}"


def ratio(ours: ArrayLike, theirs: ArrayLike) -> tuple[float, float, float]:
    """Return the ratio of total areas, with a 95 % bootstrap interval over seeds (paired)."""
    a, b = np.asarray(ours), np.asarray(theirs)
    rows = np.random.default_rng(0).integers(len(a), size=(4000, len(a)))
    drawn = a[rows].sum(axis=1) / b[rows].sum(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(a.sum() / b.sum()), float(low), float(high)


def report(bench: Bench, replays: Mapping[str, Replay], traces: Mapping[str, Mapping[str, list[Trace]]]) -> str:
    """Print a table per recording, state the bars, and return them in one line."""
    told: list[str] = []
    for table, by_name in traces.items():
        it = replays[table]
        ceiling = max([it.ceiling, *(float(t.gains.max()) for ts in by_name.values() for t in ts)])
        quality = it.quality()
        print(
            f"{table}: {int(it.table.trials.sum())} trials, {it.observed_share:.0%} of them meet the guards; of the "
            f"replayed space {it.feasible_share:.1%} do, the best at {math.exp(ceiling):.2f}x"
        )
        print("out-of-bag rank correlation: " + ", ".join(f"{m} {r:.2f}" for m, r in quality.items()))
        areas = {name: [trace.area(ceiling) for trace in ts] for name, ts in by_name.items()}
        rows = []
        for name, ts in by_name.items():
            versus = [ratio(areas[name], areas[peer]) for peer in PEERS]
            reached = [trace.reached(GOAL) for trace in ts]
            rows.append(
                [
                    name,
                    f"{np.mean(areas[name]):.3f}",
                    *(f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in versus),
                    f"{median_trials(reached):.4g}",
                    f"{math.exp(ceiling - np.median([t.regret(ceiling)[-1] for t in ts])):.2f}x",
                    f"{np.median(np.concatenate([t.cpu_s for t in ts])):.2f}",
                ]
            )
            for seed, trace in enumerate(ts):
                bench.round(
                    table=table, sampler=name, seed=seed, area=areas[name][seed], reached=trace.reached(GOAL),
                    final=float(ceiling - trace.regret(ceiling)[-1]), ask_cpu_s=float(np.median(trace.cpu_s)),
                )  # fmt: skip
        header = ["sampler", "area", *(f"vs {peer}" for peer in PEERS), "trials to 1.25x", "median end", "CPU-s/ask"]
        bench.table(header, rows)
        key = table.removeprefix("rocksdb-")
        objective = quality[it.table.objective]
        bench.bar(f"tune-rocksdb.2q-{key}", objective, ">=", QUALITY, must=False, about="out-of-bag rank correlation")
        over = {peer: ratio(areas["structured"], areas[peer])[0] for peer in PEERS}
        told.append(f"{key}: area " + ", ".join(f"{value:.2f}x {peer}'s" for peer, value in over.items()))
        for (peer, value), limit in zip(over.items(), (0.8, 1.0, 1.0), strict=True):
            bench.bar(f"tune-rocksdb.2-{key}-{peer}", value, "<=", limit, about=f"area over {peer}'s")
        reach = {n: median_trials([t.reached(GOAL) for t in by_name[n]]) for n in ("structured", "tpe")}
        bench.bar(f"tune-rocksdb.2-{key}-trials", reach["structured"], "<=", 10, about="median trials to 1.25x")
        bench.bar(f"tune-rocksdb.2-{key}-trials-tpe", reach["structured"], "<=", reach["tpe"], about="and TPE's")
        wrong = ratio(areas["permuted"], areas["random"])[0]
        bench.bar(f"tune-rocksdb.3-{key}", wrong, "<=", 1.0, about="permuted knowledge, area over random's")
        bench.bar(f"tune-rocksdb.9-{key}", over["tpe"], "<=", 0.9, must=False, about="area over tpe's")
    return "; ".join(told)


def median_trials(reached: Sequence[int | None]) -> float:
    """Return the median; studies that never got there count as infinite."""
    return float(np.median([math.inf if value is None else value for value in reached]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune_rocksdb_table", description=__doc__)
    parser.add_argument("verb", choices=["replay", "peers"])
    parser.add_argument("--tables", default="mixgraph,ycsb-b", help="names, comma separated")
    parser.add_argument("--folder", type=Path, default=TABLES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ablations", action="store_true", help=f"also {', '.join(ABLATIONS)}: adds some minutes")
    options = parser.parse_args(arguments)
    paths = {f"rocksdb-{name}": options.folder / f"rocksdb-{name}.json.gz" for name in options.tables.split(",")}
    import optuna

    bench = Bench(
        "tune_rocksdb_table",
        "the structured sampler needs fewer trials than random search, TPE and a plain Gaussian process",
        f"Optuna {optuna.__version__}: RandomSampler, TPESampler(multivariate), GPSampler",
        f"{options.seeds} seeds, {TRIALS} trials, default + {STARTS} Sobol starts in common, paired by seed; "
        "truth: one forest per metric on ln ratios to the canary, noise: residual vectors",
    )
    absent = [str(path) for path in paths.values() if not path.is_file()]
    if absent:
        return bench.missing(f"recorded table {', '.join(absent)} (python -m bench.tune_rocksdb_record makes it)")
    if options.verb == "peers":
        print(keep(options.folder, paths, replay(paths, SLOW, options.seeds, options.processes)))
        return 0
    started = time.monotonic()
    replays = {name: Replay(Table.load(path)) for name, path in paths.items()}
    names = [*PEERS, *OURS, *(ABLATIONS if options.ablations else ())]
    stored = {n: {t: kept(options.folder, t, path, n, options.seeds) for t, path in paths.items()} for n in SLOW}
    ready = [name for name, by_table in stored.items() if all(traces is not None for traces in by_table.values())]
    found = replay(paths, [name for name in names if name not in ready], options.seeds, options.processes)
    traces = {t: {n: (stored[n][t] or []) if n in ready else found[t][n] for n in names} for t in paths}
    for name in ready:
        print(check_kept(paths, traces, name))
    bench.headline = report(bench, replays, traces)
    print(f"took {time.monotonic() - started:.0f} s", file=sys.stderr)
    return bench.finish()


if __name__ == "__main__":
    raise SystemExit(main())

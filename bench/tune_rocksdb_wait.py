"""Waiting for RocksDB's compactions from outside against db_bench's own sleep: `python -m bench.tune_rocksdb_wait`.

The same seed is loaded, opened and run both ways, in turn; a ratio is of two neighbours. The trees that
compact most are in the list, since only they have something to wait for.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace

from bench.protocol import Bench
from mlsysopt.core.errors import MissingProgram
from mlsysopt.core.target import Config, Failure, Limits
from mlsysopt.operate.tune.rocksdb.target import DbBench, db_bench
from mlsysopt.operate.tune.rocksdb.workloads import workload

ROUNDS = 8
CONFIGS: dict[str, Config] = {
    "default": {},
    "compacts": {
        "write_buffer_size": 4 << 20,
        "level0_file_num_compaction_trigger": 2,
        "max_background_compactions": 3,
    },
    "levels": {"write_buffer_size": 16 << 20, "level0_file_num_compaction_trigger": 2},
}
METRICS = ("throughput_cpu", "load_ops_cpu", "write_amp", "disk_bytes")


def main() -> int:
    mix = workload("mixgraph")
    try:
        held = db_bench(mix)
        # Where something comes after it, db_bench waits by itself.
        slept = db_bench(replace(mix, load=(*mix.load, "levelstats"), name="mixgraph-slept"))
    except MissingProgram as error:
        print(error, file=sys.stderr)
        return 3
    bench = Bench(
        "tune_rocksdb_wait",
        "a trial whose compactions are waited for from outside measures the same, in a third of the time",
        f"db_bench {held.version}: its waitforcompaction, which sleeps five seconds before it looks",
        f"{ROUNDS} rounds of {len(CONFIGS)} configurations, the same seed both ways, in turn",
    )
    rows: list[list[object]] = []
    walls: list[float] = []
    for name, config in CONFIGS.items():
        pairs = [_pair(bench, name, held, slept, config, seed) for seed in range(1, ROUNDS + 1)]
        ratios = {metric: [a[metric] / b[metric] for a, b in pairs] for metric in METRICS}
        fast, slow = (statistics.median(side["wall_s"] for side in sides) for sides in zip(*pairs, strict=True))
        walls.append(fast)
        told = [f"{statistics.median(values):.3f} [{min(values):.2f}, {max(values):.2f}]" for values in ratios.values()]
        rows.append([name, f"{fast:.2f}", f"{slow:.2f}", *told])
        for metric in METRICS:
            off = abs(statistics.median(ratios[metric]) - 1.0)
            bench.bar(f"tune-rocksdb.12-{name}-{metric}", off, "<=", 0.05, about="median ratio of the two, less 1")
    bench.table(["configuration", "wall s", "wall s, slept", *METRICS], rows)
    bench.bar("tune-rocksdb.12", max(walls), "<=", 5.0, must=False, about="seconds of a trial, the longest median")
    bench.headline = f"{max(walls):.1f} s a trial, the same measurements"
    return bench.finish()


def _pair(
    bench: Bench, name: str, held: DbBench, slept: DbBench, config: Config, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    sides = [("held", held), ("slept", slept)]
    for side, target in sides if seed % 2 else sides[::-1]:
        with target.session(Limits(timeout_s=120), purpose="verify") as session:
            outcome = session.measure(config, seed=seed)
        if isinstance(outcome, Failure):
            raise SystemExit(f"{side} {name}, seed {seed}: {outcome.kind}: {outcome.reason}")
        found[side] = {metric: outcome.metrics[metric] for metric in METRICS}
        found[side]["wall_s"] = sum(outcome.extra["wall_s"].values())
        bench.round(configuration=name, side=side, seed=seed, **found[side])
    return found["held"], found["slept"]


if __name__ == "__main__":
    raise SystemExit(main())

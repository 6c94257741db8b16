"""A real RocksDB, tuned and verified within its memory budget and guards.

`python -m bench.tune_rocksdb live --seed 1` takes under eight minutes; `--with random,tpe` runs
other samplers with the same guards, trials and verification beside it. `seeds` asks how often 16
trials are enough (stretch .10), `wide` tunes all knobs in no more memory than the default has (.11).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

from bench.protocol import Bench
from mlsysopt.core.errors import MissingProgram
from mlsysopt.core.measure import is_quiet
from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.study import Event, Result, Study
from mlsysopt.core.target import Target
from mlsysopt.operate import tune

TRIALS = 20
MEMORY = "256MiB"
LEAST_MEMORY = "136MiB"
"""What the default needs: two memtables of 64 MiB and a block cache of 8 MiB. Less is refused."""
SEEDS, FEW_TRIALS = 5, 16
WIDE_TRIALS = 40
NEVER = float("nan")
HEADER = ["sampler", "verified", "rounds wall", "rounds CPU", "p99 get", "write amp", "load/CPU", "trials", "min"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["live", "seeds", "wide"], nargs="?", default="live")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--with", dest="others", default="", help="samplers to run beside it, e.g. random,tpe")
    given = parser.parse_args(arguments)
    try:
        if given.what == "seeds":
            return _seeds()
        return _wide(given.seed) if given.what == "wide" else _live(given.seed, given.others)
    except MissingProgram as error:
        print(error, file=sys.stderr)
        return 3


def _live(seed: int, others: str) -> int:
    target = _target()
    version = target.fingerprint().get("version", "")
    bench = Bench(
        "tune_rocksdb",
        "20 trials of the structured sampler make mixgraph at least 1.35x faster in wall and CPU time, guards kept",
        f"the program's own default, no knob set (db_bench {version}); samplers beside it: {others or 'none'}",
        f"{TRIALS} trials, {MEMORY}, seed {seed}; verified in interleaved rounds on fresh databases and seeds",
    )
    quiet = is_quiet()
    samplers = ["structured", *[name for name in others.split(",") if name]]
    rows: list[list[object]] = []
    shares: list[float] = []
    results: dict[str, Result] = {}
    for name in samplers:
        results[name], opened, minutes = _run(target, name, seed)
        shares += opened
        rows.append(_row(name, results[name], minutes))
        bench.round(sampler=name, minutes=round(minutes, 2), result=results[name].to_json())
    bench.table(HEADER, rows)
    _bars(bench, results["structured"], shares, quiet)
    bench.headline = _told(results["structured"])
    return bench.finish()


def _seeds() -> int:
    target = _target()
    bench = Bench(
        "tune_rocksdb_seeds",
        "ten trials after the starting points are enough for a verified 1.25x, whatever the seed",
        "the program's own default, no knob set",
        f"{SEEDS} seeds, {FEW_TRIALS} trials each (default, 5 starts, 10 proposals), {MEMORY}, default guards",
    )
    enough = 0
    rows: list[list[object]] = []
    for seed in range(1, SEEDS + 1):
        result, _, minutes = _run(target, "structured", seed, FEW_TRIALS)
        told = result.verified.get("throughput")
        enough += result.status == "proven" and told is not None and told.value >= 1.25
        rows.append([seed, *_row("structured", result, minutes)[1:]])
        bench.round(seed=seed, minutes=round(minutes, 2), result=result.to_json())
    bench.table(["seed", *HEADER[1:]], rows)
    bench.bar("tune-rocksdb.10", enough, ">=", 4, must=False, about=f"of {SEEDS} seeds verified at 1.25x or more")
    bench.headline = f"{enough} of {SEEDS} seeds verified at 1.25x or more after ten proposals"
    return bench.finish()


def _wide(seed: int) -> int:
    target = _target("wide", LEAST_MEMORY)
    bench = Bench(
        "tune_rocksdb_wide",
        "all knobs, in the memory that the default has, make mixgraph 1.6x faster with all guards kept",
        "the program's own default, no knob set",
        f"{WIDE_TRIALS} trials, {LEAST_MEMORY}, {len(target.space().names)} knobs, seed {seed}",
    )
    result, _, minutes = _run(target, "structured", seed, WIDE_TRIALS)
    bench.round(minutes=round(minutes, 2), result=result.to_json())
    bench.table(HEADER, [_row("structured", result, minutes)])
    gain = result.verified["throughput"].value if result.status == "proven" else 1.0
    bench.bar("tune-rocksdb.11", gain, ">=", 1.6, must=False, about="verified ratio, all guards kept")
    bench.headline = _told(result)
    return bench.finish()


def _target(knobs: str = "paper10", memory: str = MEMORY) -> Target:
    return tune.rocksdb(workload="mixgraph", engine="db_bench", knobs=knobs, memory=memory)


def _run(target: Target, sampler: str, seed: int, trials: int = TRIALS) -> tuple[Result, list[float], float]:
    """Return what a study found, what opening cost in each run as a share of its CPU, and the minutes it took."""
    began = time.monotonic()
    with temporary_folder("bench-rocksdb-") as folder:
        study = Study(
            target,
            maximize="throughput",
            sampler=sampler,
            store=folder / "tune.db",
            seed=seed,
            on_event=_show,
        )
        result = study.run(trials)
        with study.open_store() as store:
            rows = store.measurements(study.name)
        shares = [
            row.conditions["extra"]["open_cpu_share"]
            for row in rows
            if "open_cpu_share" in row.conditions.get("extra", {})
        ]
        return result, shares, (time.monotonic() - began) / 60


def _show(event: Event) -> None:
    if event.kind in ("started", "trial", "refused", "verify", "note"):
        print(f"  {event.text}", file=sys.stderr, flush=True)


def _told(result: Result) -> str:
    return str(result.verified["throughput"]) if "throughput" in result.verified else result.reason


def _rounds(result: Result, metric: str) -> tuple[float, ...]:
    ratio = result.verified.get(metric)
    return ratio.per_round if ratio is not None else ()


def _row(name: str, result: Result, minutes: float) -> list[object]:
    def value(metric: str) -> str:
        ratio = result.verified.get(metric)
        return f"{ratio.value:.2f}x" if ratio is not None else "-"

    told = result.verified.get(result.objectives[0])
    return [
        name,
        str(told) if told is not None else result.status,
        " ".join(f"{r:.2f}" for r in _rounds(result, "throughput")),
        " ".join(f"{r:.2f}" for r in _rounds(result, "throughput_cpu")),
        value("p99_get_us"),
        value("write_amp"),
        value("load_ops_cpu"),
        ", ".join(f"{n} {state}" for state, n in result.counts.items()),
        f"{minutes:.1f}",
    ]


def _bars(bench: Bench, result: Result, shares: Sequence[float], quiet: bool) -> None:
    wall, cpu = _rounds(result, "throughput"), _rounds(result, "throughput_cpu")
    p99, amp, load = (_rounds(result, metric) for metric in ("p99_get_us", "write_amp", "load_ops_cpu"))
    about = "quiet machine" if quiet else "the machine was not quiet: wall is shown, CPU decides"
    bench.bar(
        "tune-rocksdb.1a", _median(wall), ">=", 1.35, must=quiet, about=f"median wall ratio to the default; {about}"
    )
    bench.bar("tune-rocksdb.1b", _median(cpu), ">=", 1.35, about="median ratio of operations per CPU second")
    bench.bar("tune-rocksdb.1c", _lower_quartile(wall if quiet else cpu), ">=", 1.2, about="lower quartile of rounds")
    bench.bar("tune-rocksdb.1d", _median(p99), "<=", 1.15, about="median p99 Get")
    bench.bar("tune-rocksdb.1e", _median(amp), "<=", 1.1, about="median write amplification")
    bench.bar("tune-rocksdb.1f", _median(load), ">=", 0.9, about="median load operations per CPU second")
    bench.bar("tune-rocksdb.1g", len(wall), ">=", 6, about="verification rounds")
    low = sum(share < 0.05 for share in shares) / len(shares) if shares else NEVER
    bench.bar(
        "tune-rocksdb.5",
        low,
        ">=",
        0.95,
        about=f"share of {len(shares)} runs whose opening cost is below 5 % of the CPU",
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else NEVER


def _lower_quartile(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=4, method="inclusive")[0] if len(values) > 1 else NEVER


if __name__ == "__main__":
    raise SystemExit(main())

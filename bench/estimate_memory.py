"""Peak memory of trainers against their formulas, in fresh processes, and a refusal that starts nothing."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.protocol import Bench
from mlsysopt.core import datasets
from mlsysopt.core.errors import DatasetError, MissingExtra
from mlsysopt.core.processes.memory import descendants, peak_rss_bytes
from mlsysopt.core.quantities import format_bytes
from mlsysopt.train.estimate import Ratings, Sample, synthetic
from mlsysopt.train.estimate.forks import Job, Reading
from mlsysopt.train.estimate.host import Host
from mlsysopt.train.estimate.memory import arrays, peak_of
from mlsysopt.train.estimate.sampling import subset
from mlsysopt.train.estimate.trainers import find

PAIRS = [("knn", {"sim": sim, "user_based": by}) for sim in ("msd", "cosine", "pearson", "pearson_baseline")
         for by in (True, False)]  # fmt: skip
SQUARES = [*PAIRS, ("slopeone", {})]
FACTORS: list[tuple[str, dict[str, Any]]] = [
    ("svdpp", {"n_factors": 50, "n_epochs": 1}),
    ("svdpp", {"n_factors": 50, "n_epochs": 1, "cache_ratings": True}),
    ("nmf", {"n_factors": 60, "n_epochs": 1}),
    ("als", {"factors": 64, "iterations": 1}),
    ("als", {"factors": 64, "iterations": 1, "alpha": 2.0}),
]
GiB = 2**30


def measured(host: Host, ratings: Ratings, name: str, params: dict[str, Any]) -> Reading | str:
    """Train once in a process of its own."""
    record = find(name).settled(params, ratings)
    path = host.keep(ratings)
    found = host.ask(Job(path, record, dict(record.params), walks=(), data=record.data, least_cpu_s=0.0))
    host.forget(path)
    return found if isinstance(found, Reading) else f"{found.kind}: {found.reason}"


def sample(host: Host, ratings: Ratings, share: float, name: str, params: dict[str, Any]) -> Sample:
    """Measure what a forecast of the peak is made from: a small part."""
    part = subset(ratings, "user", share, seed=1)
    found = measured(host, part, name, params)
    if isinstance(found, str):
        raise SystemExit(f"{name}: {found}")
    return Sample(
        share, part.characteristics, find(name).settled(params, part).params, max(found.cpu_s, 1e-6), found.wall_s,
        extra={
            "base_bytes": found.base_bytes, "loaded_bytes": found.loaded_bytes, "growth_bytes": found.growth_bytes,
        },
    )  # fmt: skip


def page_by_page() -> tuple[Ratings, str]:
    """Return the page network both ways, or pairs of its size where there is no data mirror."""
    try:
        edges = datasets.load("musae-facebook")["edges"]
        return synthetic.from_pairs(edges[0], edges[1]), "musae-facebook, page by page"
    except (DatasetError, MissingExtra, KeyError, IndexError, TypeError) as error:
        made = synthetic.ratings("heavy", "flat", n_users=22_470, n_items=22_470, n_ratings=341_825, seed=1)
        return made, f"synthetic, of the size of musae-facebook ({type(error).__name__})"


def refusal(ratings: Ratings) -> tuple[int, float, float, str]:
    """Ask for by-user neighbours under 8 GiB: return exit code, seconds, largest process in GiB, message."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "pages.csv"
        rows = zip(ratings.user.tolist(), ratings.item.tolist(), ratings.value.tolist(), strict=True)
        table.write_text("user,item,rating\n" + "".join(f"{u},{i},{v}\n" for u, i, v in rows))
        words = ["estimate", "run", str(table), "--trainer", "knn", "--set", "user_based=true", "--memory", "8GiB"]
        started = time.monotonic()
        program = subprocess.Popen(
            [sys.executable, "-m", "mlsysopt", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "XDG_STATE_HOME": folder},
        )  # fmt: skip
        largest = 0
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(program.communicate()[1]))
        reader.start()
        while reader.is_alive():
            largest = max([largest, *(peak_rss_bytes(pid) for pid in [program.pid, *descendants(program.pid)])])
            reader.join(0.05)
        return program.returncode, time.monotonic() - started, largest / GiB, said[0].strip()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller data, every trainer")
    given = parser.parse_args(arguments)
    users, items, number = (1500, 1200, 30_000) if given.quick else (3000, 2500, 120_000)
    bench = Bench(
        "estimate_memory",
        "the array formulas of the trainers are exact, and what cannot fit is refused before it starts",
        "the kernel's high-water mark (VmHWM) of a fresh process per training",
        f"{number:,} ratings, {users:,} x {items:,}, shuffled; 0.8 million ratings for ALS",
    )
    ratings = synthetic.ratings("lognormal", "zipf0.7", n_users=users, n_items=items, n_ratings=number,
                                order="shuffled", seed=1)  # fmt: skip
    wide = ratings if given.quick else synthetic.ratings(
        "lognormal", "zipf0.7", n_users=30_000, n_items=6_000, n_ratings=800_000, order="shuffled", seed=2
    )  # fmt: skip
    rows: list[list[object]] = []
    growth: dict[str, list[float]] = {"squares": [], "factors": []}
    peaks: list[float] = []
    with Host(modules=("surprise", "implicit.cpu.als")) as host:
        for kind, cases in (("squares", SQUARES), ("factors", FACTORS)):
            for name, params in cases:
                data = wide if kind == "factors" else ratings
                found = measured(host, data, name, params)
                label = f"{name} {json.dumps(params)}"
                if isinstance(found, str):
                    rows.append([label, found, "", "", "", ""])
                    growth[kind].append(float("inf"))
                    continue
                record = find(name).settled(params, data)
                small = [sample(host, data, share, name, params) for share in (0.05, 0.15)]
                peak = peak_of(record, data.characteristics, samples=small)
                formula = sum(arrays(record, data.characteristics).values()) + peak.other
                off, whole = abs(formula / found.growth_bytes - 1), abs(peak.bytes / found.peak_bytes - 1)
                growth[kind].append(off)
                peaks.append(whole)
                rows.append(
                    [label, format_bytes(found.growth_bytes), format_bytes(formula), f"{off:.1%}",
                     format_bytes(found.peak_bytes), f"{whole:.1%}"]
                )  # fmt: skip
                bench.round(trainer=name, params=params, growth=found.growth_bytes, formula=formula,
                            peak=found.peak_bytes, forecast=peak.bytes)  # fmt: skip
    bench.table(["trainer", "growth", "formula", "off", "whole peak", "forecast off"], rows)
    pages, source = page_by_page()
    code, seconds, largest, said = refusal(pages)
    print(f"{source}:\n{said}\n")
    bench.round(refusal=said, code=code, seconds=seconds, largest_gib=largest, data=source)
    bench.headline = f"growth within {max(growth['squares']):.1%} (squares), {max(growth['factors']):.1%} (factors)"
    bench.bar("train-estimate.5a", max(growth["squares"]), "<=", 0.05, about="kNN and Slope One: growth, worst")
    bench.bar("train-estimate.5b", max(peaks), "<=", 0.15, about="whole peak from two samples, worst")
    bench.bar("train-estimate.5c", max(growth["factors"]), "<=", 0.20, about="SVD++, NMF, ALS: growth, worst")
    bench.bar("train-estimate.5d", int(code != 1 or "nothing was started" not in said), "==", 0, about="not refused")
    bench.bar("train-estimate.5e", seconds, "<", 10.0, about="seconds until the refusal")
    bench.bar("train-estimate.5f", largest, "<=", 1.0, about="GiB of the largest process")
    return bench.finish(write=not given.quick)


if __name__ == "__main__":
    raise SystemExit(main())

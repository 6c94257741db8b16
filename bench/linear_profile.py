"""What learning costs, and what a model alone is worth: `python -m bench.linear_profile`. Bar compile-linear.4."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.linear_cells import ROWS, SHAPES, Cell, copies_of, geomean, host, timed_cell
from bench.protocol import Bench, as_installed
from mlsysopt.compile.linear.decide import costs
from mlsysopt.compile.linear.grid import grid
from mlsysopt.compile.linear.profiling import ProfilePrices, candidates
from mlsysopt.compile.linear.segments import decision
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.site import Epilogue, Site

LEARN_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# Torch is there already when a model is adapted: what it takes to import is no part of a start with the file.
_PROFILE = """
import json, sys, time
from mlsysopt.compile.linear.grid import grid
from mlsysopt.compile.linear.profiling import profile
from mlsysopt.compile.linear.shapes import parse_shapes
seen = []
plan = profile(parse_shapes("bert-base"), grid(), budget_s=float(sys.argv[1]), watch=seen.append, settled=True)
print(json.dumps({"text": str(plan), "cells": len(seen), "open": seen[-1].open}))
"""
_START = """
import json, time
import torch
torch.set_num_threads(1)
start, cpu = time.perf_counter(), time.process_time()
from mlsysopt.compile.linear.grid import grid
from mlsysopt.compile.linear.profiling import report
from mlsysopt.compile.linear.shapes import parse_shapes
plan = report(parse_shapes("bert-base"), grid())
print(json.dumps({"text": str(plan), "cpu": time.process_time() - cpu, "wall": time.perf_counter() - start}))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.linear_profile", description=__doc__)
    parser.add_argument("--budget", type=float, default=13.0, help="CPU seconds of timing; imports come on top")
    parser.add_argument("--shapes", type=int, default=12, help="random products that the model learns from")
    parser.add_argument("--quick", action="store_true", help="2 s, three random products, nothing written")
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    _, line = host()
    as_installed()
    bench = Bench(
        "linear_profile",
        "a machine is known in 20 CPU seconds, the next start reads the file, and a model alone chooses well",
        f"torch {torch.__version__}; the best single variant of each cell in a fresh timing",
        f"{line}; 1 thread, CPU time, cold weights; profile and start each in a process of their own",
    )
    _starts(bench, 2.0 if given.quick else given.budget)
    value = _model_alone(bench, 3 if given.quick else given.shapes)
    bench.headline = f"a model of other products alone chooses within {value:.2f}x of the best"
    return bench.finish(write=not given.quick)


def _starts(bench: Bench, budget_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="linear-profile-") as folder:
        # The profile is new; object code of kernels is cached by then in any real use, and takes 0.3 s.
        first, cpu = _child(_PROFILE, folder, str(budget_s))
        second, _ = _child(_START, folder)
    print(f"{first['text']}\n\n{first['cells']} cells timed, {first['open']} left open, {cpu:.1f} CPU-s with imports")
    print(f"second start: {second['cpu']:.2f} CPU-s, {second['wall']:.2f} s elapsed, torch imported before\n")
    bench.round(part="starts", profile_cpu_s=cpu, cells=first["cells"], open=first["open"], start=second)
    same = first["text"] == second["text"]
    bench.bar("compile-linear.4a", cpu, "<=", 20.0, about="CPU-s for the profile of BERT-base, imports included")
    bench.bar("compile-linear.4b", second["cpu"], "<=", 1.0, about="CPU-s of a start with the file")
    bench.bar("compile-linear.4c", float(same), "==", 1.0, about="the second start says the same")


def _child(code: str, folder: str, *words: str) -> tuple[dict[str, Any], float]:
    environment = {**os.environ, "XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]), spent


def _model_alone(bench: Bench, count: int) -> float:
    """Learn from random products, choose for BERT-base's without a single time of theirs, and time these anew."""
    with tempfile.TemporaryDirectory(prefix="linear-model-") as folder:
        machine = MachineProfile.open(Path(folder) / "machine.db")
        able = candidates()
        cells = [_site(k, n).at(M=m) for k, n in _random_shapes(count) for m in LEARN_ROWS]
        machine.measure(cells, able)
        prices = ProfilePrices(machine)
        lines: list[list[object]] = []
        by_table: list[float] = []
        by_mean: list[float] = []
        for k, n in SHAPES:
            known = costs(_site(k, n), able, prices, grid())
            table = decision(known)
            contestants = _contestants(k, n)
            for m in ROWS:
                chosen = table.at(m)
                fastest = min(known.seconds, key=lambda name: known.at(name, m))
                cell = timed_cell(contestants, _rows(m, k))
                best = min(cell.seconds, key=cell.median)
                by_table.append(cell.median(chosen) / cell.median(best))
                by_mean.append(cell.median(fastest) / cell.median(best))
                told = known.at(best, m) / cell.median(best)
                _keep(bench, k, n, m, chosen, fastest, cell)
                lines.append([f"{k}x{n}", m, chosen, fastest, best, f"{by_table[-1]:.2f}", f"{told:.2f}"])
        machine.close()
    header = ["K x N", "M", "table says", "predicted fastest", "best", "table / best", "predicted / true, best"]
    bench.table(header, lines)
    bench.bar("compile-linear.4d", geomean(by_table), "<=", 1.05, about=f"chosen / best, geomean of {len(lines)} cells")
    bench.bar("compile-linear.4e", geomean(by_mean), "<=", 1.05, must=False, about="the same without the 2 % rule")
    return geomean(by_table)


def _random_shapes(count: int) -> list[tuple[int, int]]:
    import numpy as np

    rng = np.random.default_rng(4)
    found: list[tuple[int, int]] = []
    while len(found) < count:
        k, n = (int(round(float(np.exp(rng.uniform(np.log(192), np.log(4096)))) / 16) * 16) for _ in range(2))
        if k * n <= 6 << 20 and (k, n) not in SHAPES:
            found.append((k, n))
    return found


def _site(k: int, n: int) -> Site:
    return Site.linear(1, n, k, epilogue=Epilogue(bias=True))


def _contestants(k: int, n: int) -> dict[str, Any]:
    import torch

    site, bias = _site(k, n), torch.randn(n)
    weights = [torch.randn(n, k) / k**0.5 for _ in range(copies_of(4 * n * k))]
    return {
        one.name: [one.bind(site, one.prepare(w, bias, site), bias) for w in weights]
        for one in candidates()
        if one.supports(site) is None
    }


def _rows(m: int, k: int) -> Any:
    import torch

    return torch.randn(m, k)


def _keep(bench: Bench, k: int, n: int, m: int, chosen: str, fastest: str, cell: Cell) -> None:
    medians = {name: cell.median(name) for name in cell.seconds}
    bench.round(part="model", k=k, n=n, m=m, chosen=chosen, predicted_fastest=fastest, seconds=medians)


if __name__ == "__main__":
    raise SystemExit(main())

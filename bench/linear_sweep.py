"""Products of BERT-base at ten row counts, and 200 random ones through the module: `python -m bench.linear_sweep`.

Bars compile-linear.1 and compile-linear.7. The tables are learned first, in a profile of their own; then every cell is
timed anew.
Where weights lie in memory moves a time by a tenth, for the same code: a cell that looks too slow is timed once more
with fresh copies, and counts when both timings say so.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.linear_cells import ROUNDS, ROWS, SHAPES, Cell, copies_of, geomean, host, timed_cell
from bench.protocol import Bench
from mlsysopt.compile.linear.grid import grid
from mlsysopt.compile.linear.paper import FirstSeen
from mlsysopt.compile.linear.profiling import candidates, profile
from mlsysopt.compile.linear.shapes import Shape
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.site import Epilogue, Site, Variant
from mlsysopt.core.measure import Ratio

PLAIN, ADAPTIVE, PAPER = "F.linear", "adaptive", "policy=paper"
PACKED, PANEL = "onednn.packed", "panel.f32"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.linear_sweep", description=__doc__)
    parser.add_argument("--budget", type=float, default=60.0, help="CPU seconds for learning the tables")
    parser.add_argument("--random", type=int, default=200, help="random products of bar 7")
    parser.add_argument("--quick", action="store_true", help="one shape, three row counts, nothing written")
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    kind, line = host()
    shapes, rows = (SHAPES[:1], (1, 8, 50)) if given.quick else (SHAPES, ROWS)
    bench = Bench(
        "linear_sweep",
        "the table of this machine makes products faster than F.linear and oneDNN's packed ones, and harms none",
        f"torch {torch.__version__} with its MKL and oneDNN",
        f"{line}; 1 thread, CPU time, cold weights, 8 rounds; cells timed anew after learning, slow ones twice",
    )
    with tempfile.TemporaryDirectory(prefix="linear-sweep-") as folder:
        machine = MachineProfile.open(Path(folder) / "machine.db")
        tables = _learn(shapes, given.budget, machine)
        cells = _swept(bench, shapes, rows, tables)
        _bars_of_sweep(bench, cells, kind, dict(zip(shapes, tables, strict=True)))
        gains = _harmless(bench, 12 if given.quick else given.random, machine)
        machine.close()
    overall = geomean([cell.faster(ADAPTIVE, PLAIN) for cell in cells.values()])
    bench.headline = f"{overall:.2f}x F.linear over {len(cells)} cells; {gains:.2f}x over random products by module"
    return bench.finish(write=not given.quick)


def _learn(shapes: Sequence[tuple[int, int]], budget_s: float, machine: MachineProfile) -> list[Decision]:
    start = time.process_time()
    found = profile([Shape(k, n) for k, n in shapes], grid(), budget_s=budget_s, machine=machine, settled=True)
    print(found)
    print(f"\nlearned in {time.process_time() - start:.1f} CPU-s\n")
    return [one.decision for one in found.products]


def _swept(
    bench: Bench, shapes: Sequence[tuple[int, int]], rows: Sequence[int], tables: Sequence[Decision]
) -> dict[tuple[int, int, int], Cell]:
    import torch

    cells: dict[tuple[int, int, int], Cell] = {}
    names = [one.name for one in candidates()]
    lines: list[list[object]] = []
    for (k, n), table in zip(shapes, tables, strict=True):
        contestants = _contestants(k, n, table, max(rows))
        for m in rows:
            chosen = table.at(m)
            some = {name: calls for name, calls in contestants.items() if name != ADAPTIVE}
            some[ADAPTIVE] = contestants[ADAPTIVE]
            cell = cells[k, n, m] = timed_cell(some, torch.randn(m, k))
            best = min(names, key=cell.median)
            for name, seconds in cell.seconds.items():
                bench.round(part="sweep", k=k, n=n, m=m, contestant=name, seconds=list(seconds))
            lines.append(
                [
                    f"{k}x{n}",
                    m,
                    f"{cell.median(PLAIN) * 1e6:.0f}",
                    chosen,
                    *(f"{cell.faster(name, PLAIN):.2f}x" for name in (ADAPTIVE, PAPER, PACKED, PANEL)),
                    best,
                    f"{cell.faster(ADAPTIVE, best):.2f}x",
                ]
            )
    header = ["K x N", "M", "F.linear us", "table says", ADAPTIVE, PAPER, "always oneDNN packed", "always panel",
              "best single", "adaptive over it"]  # fmt: skip
    bench.table(header, lines)
    _summary(bench, cells)
    return cells


def _contestants(k: int, n: int, table: Decision, most: int) -> dict[str, list[Callable[[Any], Any]]]:
    """Return, for each way to run the product, one call for each copy of its weights."""
    import torch

    site = Site.linear(most, n, k, epilogue=Epilogue(bias=True))
    weights = [torch.randn(n, k) / math.sqrt(k) for _ in range(copies_of(4 * n * k))]
    bias = torch.randn(n)
    linear = torch.nn.functional.linear
    found: dict[str, list[Callable[[Any], Any]]] = {PLAIN: [lambda x, w=w: linear(x, w, bias) for w in weights]}
    able = [one for one in candidates() if one.supports(site) is None]
    for variant in able:
        found[variant.name] = [_bound(variant, site, w, bias) for w in weights]
    found[PAPER] = [FirstSeen(w, bias) for w in weights]
    # Weights of its own, so that no other contestant has warmed them.
    by_name = {one.name: [_bound(one, site, w.clone(), bias) for w in weights] for one in able
               if one.name in table.variants}  # fmt: skip

    def adaptive(copy: int) -> Callable[[Any], Any]:
        calls = [by_name[one.variant][copy] for one in table.segments]
        return lambda x: calls[table.index(x.shape[0])](x)

    found[ADAPTIVE] = [adaptive(copy) for copy in range(len(weights))]
    return found


def _bound(variant: Variant, site: Site, weights: Any, bias: Any) -> Callable[[Any], Any]:
    return variant.bind(site, variant.prepare(weights, bias, site), bias)


def _summary(bench: Bench, cells: dict[tuple[int, int, int], Cell]) -> None:
    rows: list[list[object]] = []
    for name, shown in (
        (ADAPTIVE, ADAPTIVE),
        (PAPER, PAPER),
        (PACKED, "always oneDNN packed"),
        (PANEL, "always panel"),
    ):
        gains = [cell.faster(name, PLAIN) for cell in cells.values()]
        rows.append([shown, f"{geomean(gains):.2f}x", f"{min(gains):.2f}x", f"{max(gains):.2f}x"])
    bench.table(["over F.linear", "geomean", "smallest", "largest"], rows)
    print("the paper: up to 1.71x over eager (2.37x in v3) on many-core servers, BERT, batch 1\n")


def _bars_of_sweep(
    bench: Bench, cells: dict[tuple[int, int, int], Cell], kind: str, tables: dict[tuple[int, int], Decision]
) -> None:
    import torch

    plain = geomean([cell.faster(ADAPTIVE, PLAIN) for cell in cells.values()])
    packed = geomean([cell.faster(ADAPTIVE, PACKED) for cell in cells.values()])
    names = [one.name for one in candidates()]
    behind = 0
    for (k, n, m), cell in cells.items():
        best = min((name for name in names if name in cell.seconds), key=cell.median)
        if not behind_by(cell.ratio(ADAPTIVE, best), 0.97):
            continue
        fresh = _contestants(k, n, tables[k, n], m)
        again = timed_cell({name: fresh[name] for name in (best, ADAPTIVE)}, torch.randn(m, k), rounds=2 * ROUNDS)
        print(f"{k}x{n}, M = {m}: adaptive against {best}: {said(cell, best)}; with fresh copies {said(again, best)}")
        bench.round(part="again", k=k, n=n, m=m, against=best, seconds={a: list(b) for a, b in again.seconds.items()})
        behind += behind_by(again.ratio(ADAPTIVE, best), 0.97)
    limit = 1.5 if kind == "wide" else 1.4
    bench.bar("compile-linear.1a", plain, ">=", limit, about=f"geomean over F.linear, {kind}")
    bench.bar("compile-linear.1b", packed, ">=", 1.15, about="geomean over oneDNN packed")
    bench.bar("compile-linear.1c", behind, "==", 0, about="cells proven below 0.97x of the best single variant")
    if kind == "narrow":
        bench.bar("compile-linear.1d", plain, ">=", 1.5, must=False, about="geomean over F.linear, narrow")


def behind_by(ratio: Ratio, share: float) -> bool:
    """Whether the whole interval of the speed lies below a share of the other's."""
    return 1 / ratio.low < share if ratio.low > 0 else False


def said(cell: Cell, over: str) -> str:
    ratio = cell.ratio(ADAPTIVE, over)
    return f"{1 / ratio.value:.2f}x [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"


def _harmless(bench: Bench, count: int, machine: MachineProfile) -> float:
    """Time random products as modules, plain and adapted with a tenth of the usual budget."""
    import logging

    import numpy as np
    import torch

    # That a model of one tiny layer is left as it was is no news two hundred times.
    logging.getLogger("mlsysopt").setLevel(logging.ERROR)
    rng = np.random.default_rng(0)
    gains: list[float] = []
    harmed = touched = 0
    smallest = ""
    for number in range(count):
        k, n = (round(float(np.exp(rng.uniform(np.log(4), np.log(2048))))) for _ in range(2))
        m = round(float(np.exp(rng.uniform(0, np.log(512)))))
        plain, adapted, changed = _modules(k, n, machine)
        x = torch.randn(m, k)
        cell = timed_cell({PLAIN: plain, ADAPTIVE: adapted}, x)
        touched += changed
        bench.round(part="harm", k=k, n=n, m=m, changed=changed, plain=list(cell.seconds[PLAIN]),
                    adapted=list(cell.seconds[ADAPTIVE]))  # fmt: skip
        gains.append(cell.faster(ADAPTIVE, PLAIN))
        if gains[-1] == min(gains):
            smallest = f"{k}x{n}, M = {m}: {said(cell, PLAIN)}"
        if behind_by(cell.ratio(ADAPTIVE, PLAIN), 0.95):
            plain, adapted, _ = _modules(k, n, machine)
            again = timed_cell({PLAIN: plain, ADAPTIVE: adapted}, x, rounds=2 * ROUNDS)
            print(f"product {number}: {k}x{n}, M = {m}: {said(cell, PLAIN)}; with fresh copies {said(again, PLAIN)}")
            harmed += behind_by(again.ratio(ADAPTIVE, PLAIN), 0.95)
    found = geomean(gains)
    print(f"{count} random products through the module: {touched} adapted; smallest cell {smallest}\n")
    bench.bar("compile-linear.7a", found, ">=", 1.0, about="geomean through the module path")
    bench.bar("compile-linear.7b", harmed, "==", 0, about="cells proven below 0.95x F.linear")
    return found


def _modules(k: int, n: int, machine: MachineProfile) -> tuple[list[Any], list[Any], bool]:
    """Return plain layers and adapted ones with the same weights, and whether anything was adapted."""
    import copy

    import torch

    from mlsysopt.compile.linear import adapt, plan_of

    layers = torch.nn.ModuleList([torch.nn.Linear(k, n) for _ in range(copies_of(4 * k * n))]).eval()
    adapted = adapt(copy.deepcopy(layers), threads=1, profile=machine, budget="0.2s")
    return list(layers), list(adapted), plan_of(adapted).changed


if __name__ == "__main__":
    raise SystemExit(main())

"""BERT-base with random weights, batch 1: `python -m bench.linear_model`. Bars compile-linear.2 and compile-linear.8.

`adapt` learns its tables within a budget, in a profile of its own; then every length is timed against the plain model
and Inductor with freezing, which also fuses what lies between the products. Memory is read in fresh processes.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.linear_cells import Cell, geomean, host, timed_cell
from bench.protocol import Bench
from mlsysopt.compile.linear import adapt, plan_of
from mlsysopt.compile.peers import peer
from mlsysopt.compile.variants.machine import MachineProfile

LENGTHS = (8, 16, 32, 64, 128, 384)
EAGER, ADAPTED, FOLDED, PAPER, INDUCTOR = "eager", "adapted", "adapted 0x", "policy=paper", "inductor"
MEMORIES = ("0x", "1x")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.linear_model", description=__doc__)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for learning the tables")
    parser.add_argument("--layers", type=int, default=12, help="fewer for a quick look; then nothing is written")
    parser.add_argument("--lengths", type=lambda text: tuple(map(int, text.split(","))), default=LENGTHS)
    parser.add_argument("--no-inductor", action="store_true", help="for a quick look; then nothing is written")
    parser.add_argument("--memory", choices=MEMORIES, help="print the growth of this process and end")
    parser.add_argument("--profile", type=Path)
    given = parser.parse_args(arguments)
    if find_spec("transformers") is None:
        print("bench.linear_model: transformers is missing; nothing was measured", file=sys.stderr)
        return 3
    import torch

    torch.set_num_threads(1)
    if given.memory:
        print(json.dumps(_grown(given.memory, given.layers, given.profile)))
        return 0
    kind, line = host()
    bench = Bench(
        "linear_model",
        "an adapted BERT-base is faster than eager at every length, and ready long before Inductor",
        f"torch {torch.__version__}: eager, and Inductor with freezing, fresh caches",
        f"{line}; batch 1, 1 thread, CPU time, 8 interleaved rounds, a new order in each",
    )
    with tempfile.TemporaryDirectory(prefix="linear-model-") as folder:
        machine = MachineProfile.open(Path(folder) / "machine.db")
        sides, ready = _sides(bench, given, machine)
        cells = _timed(bench, sides, given.lengths)
        machine.close()
        grown = _memory(bench, given.layers, Path(folder) / "machine.db")
    _bars(bench, kind, cells, ready, grown)
    return bench.finish(write=not given.no_inductor and given.layers == 12 and given.lengths == LENGTHS)


def _sides(
    bench: Bench, given: argparse.Namespace, machine: MachineProfile
) -> tuple[dict[str, Callable[[Any], Any]], dict[str, float]]:
    """Return the models as functions of ids, and the seconds until each was ready."""
    import torch

    eager = _bert(given.layers)
    ready: dict[str, float] = {}
    settings: dict[str, Any] = {"profile": machine, "likely_rows": given.lengths}
    models: dict[str, Any] = {EAGER: eager}
    wishes: dict[str, dict[str, Any]] = {
        ADAPTED: {"budget": given.budget},
        FOLDED: {"budget": "0s", "max_extra_memory": "0x"},
        PAPER: {"policy": "paper"},
    }
    for name, more in wishes.items():
        start = time.perf_counter()
        models[name] = adapt(copy.deepcopy(eager), **settings, **more)
        ready[name] = time.perf_counter() - start
    print(f"{plan_of(models[ADAPTED])}\n")
    # Ready again once the machine is known: what every start but the first costs.
    start = time.perf_counter()
    adapt(copy.deepcopy(eager), **settings, budget="0s")
    ready["adapted, known machine"] = time.perf_counter() - start
    sides: dict[str, Callable[[Any], Any]] = {name: _hidden(model) for name, model in models.items()}
    if not given.no_inductor:
        ids = torch.randint(0, 30000, (1, given.lengths[0]))
        compiled = peer("inductor", module=_module(eager), examples=(ids,))
        ready[INDUCTOR] = compiled.ready_s
        sides[INDUCTOR] = lambda ids: compiled.ready((ids,))()
    for name, seconds in ready.items():
        bench.round(part="ready", side=name, seconds=seconds)
    bench.table(["ready", "s"], [[name, f"{seconds:.1f}"] for name, seconds in ready.items()])
    return sides, ready


def _timed(bench: Bench, sides: dict[str, Callable[[Any], Any]], lengths: Sequence[int]) -> dict[int, Cell]:
    import torch

    cells: dict[int, Cell] = {}
    rows: list[list[object]] = []
    for length in lengths:
        ids = torch.randint(0, 30000, (1, length), generator=torch.Generator().manual_seed(length))
        with torch.inference_mode():
            wanted = sides[EAGER](ids)
            apart = {name: float((run(ids) - wanted).abs().max()) for name, run in sides.items()}
        cell = cells[length] = timed_cell({name: [run] for name, run in sides.items()}, ids)
        for name, seconds in cell.seconds.items():
            bench.round(part="length", length=length, side=name, seconds=list(seconds), difference=apart[name])
        ratio = cell.ratio(ADAPTED, EAGER)
        others = [f"{cell.faster(name, EAGER):.2f}x" for name in sides if name not in (EAGER, ADAPTED)]
        rows.append(
            [length, f"{cell.median(EAGER) * 1e3:.1f}", f"{cell.median(ADAPTED) * 1e3:.1f}", f"{1 / ratio.value:.2f}x",
             f"[{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]", ratio.verdict, f"{apart[ADAPTED]:.1e}", *others]
        )  # fmt: skip
    header = ["length", "eager ms", "adapted ms", "faster", "interval", "verdict", "max |difference|"]
    bench.table([*header, *(name for name in sides if name not in (EAGER, ADAPTED))], rows)
    return cells


def _memory(bench: Bench, layers: int, profile: Path) -> dict[str, dict[str, float]]:
    grown: dict[str, dict[str, float]] = {}
    for memory in MEMORIES:
        argv = [sys.executable, "-m", "bench.linear_model", "--memory", memory, "--layers", str(layers)]
        found = subprocess.run([*argv, "--profile", str(profile)], capture_output=True, text=True, check=True)
        grown[memory] = json.loads(found.stdout.splitlines()[-1])
        bench.round(part="memory", budget=memory, **grown[memory])
    bench.table(
        ["memory", "weights MiB", "resident growth MiB", "plan says MiB"],
        [
            [name, *(f"{one[part] / 2**20:.1f}" for part in ("weights", "growth", "extra"))]
            for name, one in grown.items()
        ],
    )
    return grown


def _bars(
    bench: Bench, kind: str, cells: dict[int, Cell], ready: dict[str, float], grown: dict[str, dict[str, float]]
) -> None:
    gains = {length: cell.faster(ADAPTED, EAGER) for length, cell in cells.items()}
    least, at_eight = (1.3, 1.7) if kind == "wide" else (1.2, 1.5)
    overall = geomean(list(gains.values()))
    slower = [length for length, cell in cells.items() if 1 / cell.ratio(ADAPTED, EAGER).low < 0.98]
    worst = max(row["difference"] for row in bench.rounds if row.get("side") == ADAPTED and "difference" in row)
    bench.bar("compile-linear.2a", overall, ">=", least, about=f"geomean over eager, {kind}")
    if 8 in gains:
        bench.bar("compile-linear.2b", gains[8], ">=", at_eight, about=f"over eager at length 8, {kind}")
    bench.bar("compile-linear.2c", len(slower), "==", 0, about="lengths proven below 0.98x of eager")
    bench.bar("compile-linear.2d", worst, "<=", 1e-4, about="largest difference of the output")
    if INDUCTOR in ready:
        short = geomean([cell.faster(ADAPTED, INDUCTOR) for length, cell in cells.items() if length <= 32])
        every = geomean([cell.faster(ADAPTED, INDUCTOR) for cell in cells.values()])
        bench.bar("compile-linear.2e", short, ">=", 1.05, must=kind == "wide", about="over Inductor, lengths up to 32")
        bench.bar("compile-linear.2f", every, ">=", 1.05, must=False, about="over Inductor, all lengths")
        sooner = ready[INDUCTOR] / ready["adapted, known machine"]
        bench.bar("compile-linear.2g", sooner, ">=", 10, about="times sooner ready than Inductor, on a known machine")
        first = ready[INDUCTOR] / ready[ADAPTED]
        bench.bar(
            "compile-linear.2h", first, ">=", 1, must=False, about="the same with the tables learned from nothing"
        )
    zero = grown["0x"]
    bench.bar(
        "compile-linear.8a", zero["growth"] / zero["weights"], "<=", 0.05, about="resident growth over weights at 0x"
    )
    small = geomean([cell.faster(FOLDED, EAGER) for length, cell in cells.items() if length <= 64])
    bench.bar("compile-linear.8b", small, ">=", 1.15, must=False, about="0x over eager, lengths up to 64")
    one = grown["1x"]
    bench.bar(
        "compile-linear.8c", one["extra"] / one["weights"], "<=", 1.0, about="copies over weights at 1x, as planned"
    )
    print("\nthe paper: up to 1.71x over eager (2.37x in v3) on many-core servers, BERT, batch 1")
    bench.headline = (
        f"{overall:.2f}x eager over {len(gains)} lengths ({min(gains.values()):.2f}x to {max(gains.values()):.2f}x)"
    )


def _grown(memory: str, layers: int, profile: Path) -> dict[str, float]:
    """Return by how much this process grows when a model is adapted and run."""
    import torch

    machine = MachineProfile.open(profile)
    # Libraries, kernels and scratch come once, whatever the model.
    first = torch.nn.Sequential(torch.nn.Linear(768, 3072), torch.nn.Linear(3072, 768)).eval()
    small = adapt(first, budget="0s", max_extra_memory=memory, profile=machine)
    model, ids = _bert(layers), torch.randint(0, 30000, (1, 16))
    with torch.inference_mode():
        small(torch.randn(16, 768))
        model(ids)
        before = _resident()
        adapt(model, budget="0s", max_extra_memory=memory, profile=machine)
        model(ids)
    plan = plan_of(model)
    grown = _resident() - before
    return {"growth": float(grown), "weights": float(plan.weights_bytes), "extra": float(plan.extra_bytes)}


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def _bert(layers: int) -> Any:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig(num_hidden_layers=layers), add_pooling_layer=False).eval()


def _hidden(model: Any) -> Callable[[Any], Any]:
    return lambda ids: model(ids).last_hidden_state


def _module(model: Any) -> Any:
    """Return a module with one tensor in and one out, as compilers like it."""
    import torch

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any) -> Any:
            return self.model(ids).last_hidden_state

    return Hidden().eval()


if __name__ == "__main__":
    raise SystemExit(main())

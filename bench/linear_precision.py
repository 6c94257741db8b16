"""Narrow weights: what they gain, and what refuses them: `python -m bench.linear_precision`. Bar compile-linear.3."""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.linear_cells import SHAPES, copies_of, geomean, host, timed_cell
from bench.protocol import Bench
from mlsysopt.compile.linear import adapt, compare, plan_of
from mlsysopt.compile.linear.decide import table
from mlsysopt.compile.linear.profiling import candidates
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.site import Epilogue, Site

LENGTHS = (8, 16, 32, 64, 128, 384)
LIMIT = 2e-2
SMALL = (1, 2, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.linear_precision", description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="two layers, two lengths, nothing written")
    given = parser.parse_args(arguments)
    import torch

    from mlsysopt.compile.codegen.target import host_isa

    torch.set_num_threads(1)
    kind, line = host()
    dots = host_isa().bf16
    lengths, layers = ((8, 32), 2) if given.quick else (LENGTHS, given.layers)
    bench = Bench(
        "linear_precision",
        "narrow weights are faster where bytes are the limit, and refused where they break the error limit",
        f"torch {torch.__version__}, f32 eager; panel.f32",
        f"{line}, {'with' if dots else 'without'} bf16 dot products; 1 thread, CPU time, error limit {LIMIT:g}",
    )
    with tempfile.TemporaryDirectory(prefix="linear-precision-") as folder:
        machine = MachineProfile.open(Path(folder) / "machine.db")
        narrow = _narrow(bench, machine)
        if not dots:
            _bar_without_dots(bench, narrow["panel.bf16w"], machine)
        whole = _whole_model(bench, lengths, layers, machine)
        if dots:
            bench.bar("compile-linear.3a", whole, ">=", 1.9, about="bf16 over f32 eager, geomean over lengths")
        int8 = narrow["panel.int8w"]
        bench.bar("compile-linear.3d", int8, ">=", 2.0, must=False, about="panel.int8w over panel.f32 at M <= 4")
        _planted(bench, machine)
        machine.close()
    bench.headline = f"bf16 weights {narrow['panel.bf16w']:.2f}x panel.f32 at M <= 4; {kind}"
    return bench.finish(write=not given.quick)


def _narrow(bench: Bench, machine: MachineProfile) -> dict[str, float]:
    """Return how many times faster than f32 panels the narrow ones are, geometric mean over products and M <= 4."""
    import torch

    names = ("panel.f32", "panel.bf16w", "panel.int8w")
    gains: dict[str, list[float]] = {name: [] for name in names}
    lines: list[list[object]] = []
    for k, n in SHAPES:
        site = Site.linear(1, n, k, epilogue=Epilogue(bias=True))
        weights = [torch.randn(n, k) / k**0.5 for _ in range(copies_of(n * k))]
        bias = torch.randn(n)
        able = [one for one in candidates("int8w") if one.name in names and one.supports(site) is None]
        calls = {one.name: [one.bind(site, one.prepare(w, bias, site), bias) for w in weights] for one in able}
        exact = {m: _exact(weights[0], bias, m, k) for m in SMALL}
        for m in SMALL:
            x, truth = exact[m]
            errors = {
                name: float((some[0](x).double() - truth).abs().max() / truth.square().mean().sqrt())
                for name, some in calls.items()
            }
            cell = timed_cell(calls, x)
            for name in calls:
                gains[name].append(cell.faster(name, "panel.f32"))
                bench.round(part="narrow", k=k, n=n, m=m, contestant=name, seconds=list(cell.seconds[name]),
                            error=errors[name])  # fmt: skip
            lines.append(
                [
                    f"{k}x{n}",
                    m,
                    f"{cell.median('panel.f32') * 1e6:.0f}",
                    *(f"{gains[name][-1]:.2f}x, {errors[name]:.1e}" for name in names[1:] if name in calls),
                ]
            )
    bench.table(["K x N", "M", "panel.f32 us", "bf16w: faster, error", "int8w: faster, error"], lines)
    return {name: geomean(values) for name, values in gains.items()}


def _exact(weights: Any, bias: Any, m: int, k: int) -> tuple[Any, Any]:
    import torch

    x = torch.randn(m, k)
    return x, torch.nn.functional.linear(x.double(), weights.double(), bias.double())


def _bar_without_dots(bench: Bench, gain: float, machine: MachineProfile) -> None:
    """A variant below its limit must then be left out by the tables, which is what refused means."""
    if gain >= 1.2:
        bench.bar("compile-linear.3a", gain, ">=", 1.2, about="panel.bf16w over panel.f32 at M <= 4, geomean")
        return
    print(f"panel.bf16w is {gain:.2f}x panel.f32 at M <= 4: it must not be chosen there")
    chosen = 0
    for k, n in SHAPES:
        site = Site.linear(1, n, k, epilogue=Epilogue(bias=True))
        found = table(site, candidates("bf16"), profile=machine, budget_s=10.0, likely_rows=SMALL, most_rows=16)
        chosen += sum(found.at(m) == "panel.bf16w" for m in SMALL)
    bench.bar("compile-linear.3a", chosen, "==", 0, about=f"cells where panel.bf16w ({gain:.2f}x) is chosen at M <= 4")


def _whole_model(bench: Bench, lengths: Sequence[int], layers: int, machine: MachineProfile) -> float:
    """Return the gain of bf16 over f32 eager for BERT-base; int8w must pass its gate or be refused."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(num_hidden_layers=layers)).eval()
    drawn = torch.Generator().manual_seed(1)
    batches = [torch.randint(0, 30522, (1, length), generator=drawn) for length in (8, 16, 32, 64)]
    gains: list[float] = []
    lines: list[list[object]] = []
    for precision in ("bf16", "int8w"):
        low = adapt(
            copy.deepcopy(model), threads=1, precision=precision, error=LIMIT, calibration=batches,
            likely_rows=lengths, budget="30s", profile=machine, max_extra_memory="2x",
        )  # fmt: skip
        outcome = plan_of(low).precision
        print(outcome.text())
        largest = outcome.errors.largest if outcome.errors else 0.0
        bench.round(part="gate", precision=precision, lowered=outcome.lowered, error=largest, refused=outcome.refused)
        sound = outcome.refused or largest <= LIMIT
        name = "compile-linear.3b" if precision == "int8w" else "compile-linear.3c"
        bench.bar(name, float(sound), "==", 1.0, about=f"{precision} is within its limit or refused: {largest:.1e}")
        for length in lengths if precision == "bf16" else ():
            ids = torch.randint(0, 30522, (1, length), generator=drawn)
            found = compare(low, (ids,), max_seconds=20)
            gains.append(found.gain)
            bench.round(part="model", precision=precision, length=length, ratio=found.ratio.to_json(),
                        difference=found.difference)  # fmt: skip
            lines.append([length, f"{found.gain:.2f}x", f"{found.difference:.1e}", found.ratio.verdict])
    bench.table(["length", "bf16 over f32 eager", "largest difference", "verdict"], lines)
    return geomean(gains)


def _planted(bench: Bench, machine: MachineProfile) -> None:
    """Plant a layer whose columns differ by 1e4, undone by the layer before it: int8 cannot hold it, bf16 can."""
    import torch
    from torch import nn

    # Large enough that weights are cold, where their bytes are what a call waits for.
    width = 1536
    torch.manual_seed(0)
    layers = [nn.Linear(width, width) for _ in range(4)]
    net = nn.Sequential(*(one for layer in layers for one in (layer, nn.ReLU()))).eval()
    spread = torch.logspace(-4, 0, width)
    with torch.no_grad():
        layers[1].weight.div_(spread[:, None])
        layers[1].bias.div_(spread)
        layers[2].weight.mul_(spread)
    batches = [torch.randn(4, width) for _ in range(4)]
    low = adapt(
        net, threads=1, precision="auto", error=0.1, calibration=batches, likely_rows=(1,), budget="10s",
        profile=machine,
    )  # fmt: skip
    outcome = plan_of(low).precision
    print(outcome.text())
    for name, rung in outcome.rungs.items():
        print(f"  {name}: {rung}")
    first = outcome.promoted[0][0] if outcome.promoted else "none"
    bench.round(part="planted", rungs=dict(outcome.rungs), promoted=[list(one) for one in outcome.promoted])
    bench.bar("compile-linear.3e", float(first == "4"), "==", 1.0, about=f"the planted layer moves up first: {first}")
    within = outcome.refused or outcome.tried[-1].passed
    bench.bar(
        "compile-linear.3f", float(within), "==", 1.0, about="the mixed model is within its limit, on batches kept back"
    )


if __name__ == "__main__":
    raise SystemExit(main())

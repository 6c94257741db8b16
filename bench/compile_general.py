"""Programs that nobody wrote by hand, and how much of known models ends in generated kernels.

`python -m bench.compile_general`. Bar compile-dynamic.7: 300 generated programs equal the float64 interpreter at five
sizes each, 0, 1 and primes among them; of six models of the importer's tests at least 95 % of the ops that are no
products, convolutions or pools end in generated kernels.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from bench.compile_duel import width
from bench.protocol import Bench

PROGRAMS, SIZES = 300, (0, 1, 2, 7, 13)
TOLERANCE = 2e-4


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--programs", type=int, default=PROGRAMS)
    given = arguments.parse_args(argv)
    from mlsysopt.compile import dynamic
    from mlsysopt.compile.options import Options

    bench = Bench(
        "compile_general",
        "any program of elementwise ops, broadcasts, reductions, permutes and gathers is right at every size",
        "the float64 interpreter",
        f"{given.programs} programs of 4 to 14 ops at sizes {SIZES}, f32, tolerance {TOLERANCE}; {width()} host",
    )
    wrong, compared, outside = 0, 0, 0
    worst = 0.0
    for seed in range(given.programs):
        graph = generated(seed)
        run = dynamic.build(graph, Options(check="none", cache=False))
        outside += bool(run.plan.outsides)
        for size in SIZES:
            error = difference(graph, run, size, seed)
            if error is None:
                continue
            compared += 1
            worst = max(worst, error)
            if not error <= TOLERANCE:
                wrong += 1
                bench.round(seed=seed, size=size, error=error, program=str(graph))
    shares = zoo_shares()
    bench.table(["model", "in generated kernels"], [[name, f"{share:.1%}"] for name, share in shares.items()])
    print(f"{compared} comparisons, largest error {worst:.1e}; {outside} programs have a step outside native code")
    bench.bar("compile-dynamic.7a", wrong, "==", 0, about=f"of {compared} comparisons that differ")
    bench.bar("compile-dynamic.7b", min(shares.values()), ">=", 0.95, about="smallest share in generated kernels")
    bench.headline = f"{given.programs} generated programs equal the interpreter at {compared} sizes"
    return bench.finish(write=given.programs >= PROGRAMS)


def generated(seed: int) -> Any:
    """Return a program of the kinds that the bar names."""
    import random

    from mlsysopt.graph import Builder, dims, f32, i64

    rng = random.Random(seed)
    (n,) = dims("N", min=0, max=64)
    b = Builder(f"g{seed}")
    pool = [b.input("x", f32[n, 6]), b.input("y", f32[n, 6]), b.input("r", f32[1, 6]), b.input("c", f32[n, 1])]
    table, ids = b.input("t", f32[9, 6]), b.input("ids", i64[n])
    pool.append(b.op("embedding", table, ids))
    for _ in range(rng.randint(4, 14)):
        one = rng.choice(pool)
        kind = rng.choice(["unary", "binary", "binary", "reduce", "permute", "scale", "where", "gather", "cumulate"])
        if kind == "unary":
            made = b.op(rng.choice(["tanh", "sigmoid", "gelu", "relu", "silu", "neg", "erf", "sin"]), one)
        elif kind == "reduce":
            axis = rng.randrange(one.type.rank)
            made = b.op(rng.choice(["sum", "mean", "max", "min"]), one, axes=(axis,), keepdims=True)
        elif kind == "permute":
            turned = b.op("transpose", one, perm=(1, 0))
            made = b.op("transpose", b.op("tanh", turned), perm=(1, 0))
        elif kind == "scale":
            made = b.op("mul", one, b.scalar(rng.uniform(-1, 1), one))
        elif kind == "gather" and one.shape[0] == n:
            made = (
                b.op("slice", one, starts=(0, 1), limits=(n, one.shape[1]), strides=(1, 1))
                if one.shape[1] == 6
                else one
            )
            made = b.op("concat", made, one, axis=1) if made is not one else b.op("neg", one)
        elif kind == "cumulate":
            made = b.op("softmax", one, axis=rng.randrange(2))
        else:
            fits = [two for two in pool if _broadcasts(one.shape, two.shape)]
            other = rng.choice(fits)
            if kind == "where":
                made = b.op("where", b.op("lt", one, other), one, other)
            else:
                made = b.op(rng.choice(["add", "sub", "mul", "maximum"]), one, other)
        pool.append(made)
    return b.finish([*pool[-2:], rng.choice(pool[5:])])


def _broadcasts(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(x == y or x == 1 or y == 1 for x, y in zip(a, b, strict=True))


def difference(graph: Any, run: Any, size: int, seed: int) -> float | None:
    """Return the largest error over the largest element of the reference; None where the reference has no meaning."""
    from mlsysopt.graph import GraphError, interpret

    rng = np.random.default_rng((seed, size))
    inputs: dict[str, Any] = {}
    for value in graph.inputs:
        shape = value.type.at(N=size)
        inputs[value.name] = (
            rng.integers(0, 9, shape) if value.name == "ids" else rng.normal(size=shape).astype(np.float32)
        )
    try:
        with np.errstate(all="ignore"):
            wanted = list(interpret(graph, inputs=inputs).values())
    except GraphError as error:
        if "axis of size 0" not in str(error):
            raise
        return None  # a maximum of nothing has no meaning
    found = run(**inputs)
    worst = 0.0
    for mine, reference in zip(found if isinstance(found, tuple) else (found,), wanted, strict=False):
        if mine.shape != reference.shape:
            return float("inf")
        nan = np.isnan(reference)
        if not (np.isnan(mine) == nan).all():
            return float("inf")
        scale = max(1.0, float(np.max(np.abs(reference[~nan]), initial=0.0)))
        worst = max(worst, float(np.max(np.abs(mine[~nan] - reference[~nan]), initial=0.0)) / scale)
    return worst


def zoo_shares() -> dict[str, float]:
    """Return, for six models, the share of ops beside products, convolutions and pools that generated kernels do."""
    from mlsysopt.compile.codegen.row import supports
    from mlsysopt.compile.dynamic.fuse import plan

    return {name: plan(graph, supports=supports).fused_share for name, graph in zoo().items()}


def zoo() -> dict[str, Any]:
    import torch
    from torch import nn

    from bench.compile_duel import encoder
    from mlsysopt.graph import dims, f32, from_torch, i64

    B, S = dims("B", "S", max=(64, 512))
    torch.manual_seed(0)
    found = {"BERT": from_torch(encoder(2), {"input_ids": i64[B, S], "attention_mask": i64[B, S]})}

    class Gated(nn.Module):
        """RMSNorm and a SwiGLU block."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.RMSNorm(64)
            self.gate, self.up, self.down = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 64)

        def forward(self, x: Any) -> Any:
            y = self.norm(x)
            return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))

    class Mixer(nn.Module):
        """Products along both axes."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.tokens, self.channels = nn.LayerNorm(32), nn.Linear(16, 16), nn.Linear(32, 32)

        def forward(self, x: Any) -> Any:
            x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
            return x + nn.functional.gelu(self.channels(self.norm(x)))

    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True, activation="gelu")
    convolutional = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.SiLU(),
    )  # fmt: skip
    recommender = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 1), nn.Sigmoid())
    for name, module, types in (
        ("SwiGLU block", Gated(), {"x": f32[B, S, 64]}),
        ("MLP mixer", Mixer(), {"x": f32[B, 16, 32]}),
        ("encoder layer", layer, {"src": f32[B, S, 64]}),
        ("convolutions", convolutional, {"x": f32[B, 3, 16, 16]}),
        ("click model", recommender, {"x": f32[B, 40]}),
    ):
        found[name] = from_torch(module.eval(), types)
    return found


if __name__ == "__main__":
    raise SystemExit(main())

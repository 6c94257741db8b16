"""Fifty sizes that nobody announced: `python -m bench.compile_stream`. Bar compile-dynamic.2.

A 2-layer BERT-base body meets 50 random (B, S), 1 and primes among them, in one order, each once. What is counted is
everything after `torch.export`: our stages, Inductor's compilations (fresh caches), and all runs, in wall seconds on
two cores as they are. Each side is a process of its own, so that nobody finds another's caches warm; the sides take
turns.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time

from bench.compile_duel import encoder, encoder_inputs, width
from bench.protocol import Bench, as_installed

LAYERS, COUNT = 2, 50


def stream(seed: int = 5) -> list[tuple[int, int]]:
    """Return sizes with at most about 600 rows each; the first is none of the special ones."""
    rng = random.Random(seed)
    primes = [2, 3, 5, 7, 11, 13, 17, 23, 31, 37, 53, 61, 97, 127, 199, 251]
    found = [(1, 1), (1, 7), (1, 97), (2, 199), (3, 1), (7, 31), (1, 251), (5, 61)]
    while len(found) < COUNT:
        batch = rng.choice([1, 1, 1, 2, 3, 4, 8])
        length = rng.choice(primes) if rng.random() < 0.3 else rng.randint(1, 300)
        if batch * length <= 600:
            found.append((batch, length))
    rng.shuffle(found)
    return found


def side(name: str) -> dict[str, float]:
    """Run one side and return its seconds."""
    import torch

    torch.set_num_threads(1)
    model = encoder(LAYERS)
    sizes = stream()
    inputs = [encoder_inputs(batch, length, seed=i) for i, (batch, length) in enumerate(sizes)]
    recompiles = 0
    if name == "ours":
        import mlsysopt
        from mlsysopt.graph import dims, from_torch, i64

        B, S = dims("B", "S", max=(64, 512), likely={"S": [32, 128]})
        graph = from_torch(model, {"input_ids": i64[B, S], "attention_mask": i64[B, S]})
        start = time.perf_counter()
        run = mlsysopt.compile(graph, threads=1, cache=False)
        for one in inputs:
            run(*one)
        total, recompiles = time.perf_counter() - start, run.stats.recompiles
    elif name == "inductor":
        from mlsysopt.compile.peers import fresh_inductor_cache

        start = time.perf_counter()
        compiled = torch.compile(model, dynamic=True)
        with fresh_inductor_cache(), torch.inference_mode():
            for one in inputs:
                compiled(*one)
        total = time.perf_counter() - start
    else:
        with torch.inference_mode():
            start = time.perf_counter()
            for one in inputs:
                model(*one)
            total = time.perf_counter() - start
    return {"wall_s": total, "recompiles": recompiles}


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--side")
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args(argv)
    if given.side:
        print(json.dumps(side(given.side)))
        return 0
    import torch

    as_installed()
    bench = Bench(
        "compile_stream",
        "no size is compiled twice: a stream of 50 sizes is over before Inductor has compiled",
        f"PyTorch {torch.__version__} eager and torch.compile(dynamic=True), fresh caches",
        f"{LAYERS}-layer BERT-base body, 50 sizes once each, wall seconds after export, {given.rounds} processes each "
        f"in turns, medians; {width()} host",
    )
    found: dict[str, list[float]] = {"ours": [], "eager": [], "inductor": []}
    recompiles = 0.0
    for _ in range(given.rounds):
        for name in found:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "bench.compile_stream", "--side", name],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                return bench.missing(f"a run of {name}: {done.stderr[-400:]}")
            row = json.loads(done.stdout.splitlines()[-1])
            found[name].append(row["wall_s"])
            recompiles = max(recompiles, row["recompiles"])
            bench.round(side=name, **row)
    middle = {name: statistics.median(values) for name, values in found.items()}
    bench.table(["side", "wall s"], [[name, f"{value:.2f}"] for name, value in middle.items()])
    bench.bar("compile-dynamic.2a", middle["inductor"] / middle["ours"], ">=", 4.0, about="over torch.compile, cold")
    bench.bar("compile-dynamic.2b", middle["eager"] / middle["ours"], ">=", 1.05, about="over eager")
    bench.bar("compile-dynamic.2c", recompiles, "==", 0, about="recompilations")
    bench.headline = (
        f"{middle['ours']:.1f} s; eager {middle['eager']:.1f} s, torch.compile(dynamic=True) {middle['inductor']:.1f} s"
    )
    return bench.finish()


if __name__ == "__main__":
    raise SystemExit(main())

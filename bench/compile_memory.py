"""Memory over four hundred sizes, and what a call costs outside native code: `python -m bench.compile_memory`.

Bars compile-dynamic.5 and .6. A 2-layer BERT-base body runs at 400 distinct sizes in random order in one process;
another process runs the largest of them alone. Arena bytes are compared with the formula at each size, and the
formula with what the executable touched. What a call costs outside native code is measured on a program whose native
part is next to nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.compile_duel import encoder, encoder_inputs, width
from bench.protocol import Bench

LAYERS, COUNT = 2, 400


def sizes() -> list[tuple[int, int]]:
    rng = random.Random(3)
    every = [(b, s) for b in (1, 2, 3, 4, 6, 8) for s in range(1, 301) if b * s <= 600]
    found = rng.sample(every, COUNT - 1)
    return [*found, (2, 300)] if (2, 300) not in found else [*found, next(one for one in every if one not in found)]


def executable() -> Any:
    import mlsysopt
    from mlsysopt.graph import dims, i64

    B, S = dims("B", "S", max=(64, 512), likely={"S": [32, 128]})
    return mlsysopt.compile(encoder(LAYERS), {"input_ids": i64[B, S], "attention_mask": i64[B, S]}, threads=1)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def side(many: bool) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    run = executable()
    given = sizes() if many else [max(sizes(), key=lambda one: one[0] * one[1] * (1000 + one[1]))] * 3
    differ, above, highest = 0, 0, 0
    before = resident()
    most = 0
    for batch, length in given:
        inputs = encoder_inputs(batch, length)
        run(*inputs)
        at, bound = {"B": batch, "S": length}, run.memory_bound()
        differ += run.stats.arena_bytes != bound.arena.at(at)
        highest = max(highest, (bound.arena + bound.scratch).at(at))
        above += run.stats.peak_bytes > highest
        most = max(most, resident())
    return {"before": before, "most": most, "differ": differ, "above": above, "call_outs": run.stats.call_outs}


def outside_us() -> float:
    """Return microseconds of a call whose native part is one vector."""
    import torch

    import mlsysopt
    from mlsysopt.graph import Builder, f32

    builder = Builder("tiny")
    x, y = (builder.input(name, f32["B", 8]) for name in "xy")
    run = mlsysopt.compile(builder.finish([builder.op("add", x, y)]))
    a, b = torch.randn(1, 8), torch.randn(1, 8)
    found: list[float] = []
    for _ in range(21):
        start = time.thread_time()
        for _ in range(500):
            run(a, b)
        found.append((time.thread_time() - start) / 500)
    return 1e6 * statistics.median(found)


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--side")
    given = arguments.parse_args(argv)
    if given.side:
        print(json.dumps(side(given.side == "many")))
        return 0
    bench = Bench(
        "compile_memory",
        "memory is a formula of the sizes, and hundreds of sizes need no more than the largest one",
        "the largest size alone, in a process of its own",
        f"{LAYERS}-layer BERT-base body, {COUNT} distinct sizes in random order, resident bytes; {width()} host",
    )
    rows: dict[str, dict[str, Any]] = {}
    for name in ("many", "largest"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "bench.compile_memory", "--side", name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return bench.missing(f"the run {name}: {done.stderr[-400:]}")
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        bench.round(side=name, **rows[name])
    growth = {name: row["most"] - row["before"] for name, row in rows.items()}
    bench.table(
        ["side", "before MiB", "most MiB", "grew MiB"],
        [[n, *(f"{v / 2**20:.0f}" for v in (r["before"], r["most"], growth[n]))] for n, r in rows.items()],
    )
    outside = outside_us()
    ratio = rows["many"]["most"] / rows["largest"]["most"]
    bench.bar("compile-dynamic.5a", ratio, "<=", 1.10, about="resident over 400 sizes / largest size alone")
    bench.bar("compile-dynamic.5b", rows["many"]["differ"], "==", 0, about="sizes whose arena is not the formula")
    bench.bar("compile-dynamic.5c", rows["many"]["above"], "==", 0, about="sizes that needed more than the formula")
    bench.bar("compile-dynamic.6a", rows["many"]["call_outs"], "==", 0, about="calls out of the encoder's flow")
    bench.bar("compile-dynamic.6b", outside, "<=", 15.0, must=False, about="us outside native code (our target)")
    bench.headline = f"{ratio:.2f}x the largest size's memory over {COUNT} sizes; {outside:.1f} us outside native code"
    return bench.finish()


if __name__ == "__main__":
    raise SystemExit(main())

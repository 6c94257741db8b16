"""Tables and forms against brute force: `python -m bench.linear_table`. Bar compile-linear.5."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from typing import Any

from bench.protocol import Bench
from mlsysopt.compile.linear.forms import UNIT_BYTES, Choice, choose
from mlsysopt.compile.linear.segments import LEAST_GAIN, MOST_LOSS, Costs, segments, weighted_seconds
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.core.errors import UsageError

NAMES = ("aten.nt", "panel.f32", "onednn.packed", "mkl.packed")


def random_costs(rng: Any) -> Costs:
    """Times with near ties, intervals and variants that do not do every size: what makes segments interesting."""
    import numpy as np

    n, many = int(rng.integers(1, 8)), int(rng.integers(1, 5))
    rows = tuple(int(row) for row in np.cumsum(rng.integers(1, 9, n)))
    weights = tuple(float(weight) for weight in rng.dirichlet(np.ones(n)))
    base = np.cumsum(rng.uniform(0.1, 1.0, n))
    seconds: dict[str, list[float]] = {}
    low: dict[str, list[float]] = {}
    high: dict[str, list[float]] = {}
    for name in NAMES[:many]:
        times = base * rng.choice([0.7, 0.98, 0.99, 1.0, 1.01, 1.03, 1.3], n)
        if name != "aten.nt":
            times[rng.random(n) < 0.05] = math.inf
        wide = rng.choice([0.0, 0.01, 0.2])
        seconds[name] = times.tolist()
        low[name], high[name] = (times * (1 - wide)).tolist(), (times * (1 + wide)).tolist()
    return Costs(rows, weights, seconds, low, high)


def best_table(costs: Costs, baseline: str | None) -> tuple[int, float]:
    """Return the fewest segments, and their smallest weighted time, among all tables that keep the rules."""
    n = len(costs.rows)

    def gain(name: str, k: int) -> float:
        if baseline is None:
            return math.inf
        over = costs.high[name][k]
        return 0.0 if math.isinf(over) else costs.low[baseline][k] / over

    least = LEAST_GAIN * (1 - 1e-12)
    best = [
        min(times[k] for name, times in costs.seconds.items() if name == baseline or gain(name, k) >= least)
        for k in range(n)
    ]

    def allowed(i: int, j: int, name: str) -> bool:
        inside = range(i, j)
        if any(costs.seconds[name][k] > MOST_LOSS * best[k] for k in inside):
            return False
        if baseline is None or name == baseline:
            return True
        whole = sum(costs.weights[k] for k in inside)
        return math.exp(sum(costs.weights[k] * math.log(gain(name, k)) for k in inside) / whole) >= least

    found: list[tuple[int, float]] = []
    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, n), c) for c in range(n)):
        time = 0.0
        for i, j in itertools.pairwise([0, *cuts, n]):
            times = [
                sum(costs.weights[k] * row[k] for k in range(i, j))
                for name, row in costs.seconds.items()
                if allowed(i, j, name)
            ]
            time += min(times, default=math.inf)
        if math.isfinite(time):
            found.append((len(cuts) + 1, time))
    return min(found)


def random_modules(rng: Any) -> tuple[list[list[Choice]], int]:
    """Return choices of some modules, and a budget in bytes."""
    modules = [
        [
            Choice(
                (f"f{i}",), int(rng.integers(-2, 9)) * UNIT_BYTES + int(rng.integers(0, 2)) * 1000, rng.uniform(1, 9)
            )
            for i in range(rng.integers(1, 4))
        ]
        for _ in range(rng.integers(1, 6))
    ]
    return modules, int(rng.integers(0, 40)) * UNIT_BYTES


def best_forms(modules: Sequence[Sequence[Choice]], budget: int) -> float:
    """Return the smallest time of all combinations that fit, inf when none does."""
    return min(
        (
            sum(one.seconds for one in picked)
            for picked in itertools.product(*modules)
            if sum(math.ceil(one.extra_bytes / UNIT_BYTES) for one in picked) <= budget // UNIT_BYTES
        ),
        default=math.inf,
    )


def same_table(costs: Costs, baseline: str | None) -> bool:
    """Whether the dynamic programme finds what brute force finds."""
    spans = segments(costs, baseline=baseline)
    count, time = best_table(costs, baseline)
    return len(spans) == count and math.isclose(weighted_seconds(costs, spans), time, rel_tol=1e-9)


def same_forms(modules: Sequence[Sequence[Choice]], budget: int) -> bool:
    """Whether the knapsack finds what brute force finds."""
    best = best_forms(modules, budget)
    try:
        picks = choose(modules, budget)
    except UsageError:
        return math.isinf(best)
    return math.isclose(sum(row[i].seconds for row, i in zip(modules, picks, strict=True)), best, rel_tol=1e-9)


def growth(calls: int) -> tuple[int, int]:
    """Return how many segments and how many bytes of Python objects a layer has more after as many distinct M."""
    import gc
    import tracemalloc

    import torch

    from mlsysopt.compile.linear.packs import Packs

    width = 128
    weight = torch.nn.Parameter(torch.randn(width, width), requires_grad=False)
    table = Decision.of([(1, "panel.f32"), (65, "aten.nn"), (257, "onednn.packed")])
    packs = Packs(table, width, width, threads=torch.get_num_threads())
    x = torch.randn(calls, width)
    with torch.inference_mode():
        for rows in (1, 2, 65, 257, 300):
            packs.multiply(x[:rows], weight, None)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for rows in range(1, calls + 1):
            packs.multiply(x[:rows], weight, None)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return len(packs.decision.segments) - len(table.segments), after - before


def main(arguments: Sequence[str] | None = None) -> int:
    import numpy as np

    parser = argparse.ArgumentParser(prog="python -m bench.linear_table", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    bench = Bench(
        "linear_table",
        "the fewest segments and the best forms within a memory are found exactly, and a table stays as short as it is",
        "brute force over all tables and all choices",
        "500 random tables with a baseline and without, 200 random knapsacks, one layer called with 10,000 distinct M",
    )
    rng = np.random.default_rng(options.seed)
    tables = [random_costs(rng) for _ in range(500)]
    with_baseline = sum(same_table(one, "aten.nt") for one in tables)
    without = sum(same_table(one, None) for one in tables)
    knapsacks = [random_modules(rng) for _ in range(200)]
    forms = sum(same_forms(modules, budget) for modules, budget in knapsacks)
    segments_more, bytes_more = growth(10_000)
    bench.round(
        tables=500, with_baseline=with_baseline, without=without, knapsacks=200, forms=forms,
        segments_more=segments_more, bytes_more=bytes_more,
    )  # fmt: skip
    longest = max(len(segments(one)) for one in tables)
    bench.table(["what", "equal", "of"], [["tables with a baseline", with_baseline, 500],
                ["tables without", without, 500], ["forms", forms, 200]])  # fmt: skip
    print(f"longest table: {longest} segments\n")
    bench.bar("compile-linear.5a", min(with_baseline, without), "==", 500, about="segments equal brute force")
    bench.bar("compile-linear.5b", forms, "==", 200, about="forms equal brute force")
    bench.bar("compile-linear.5c", segments_more, "==", 0, about="segments more after calls with 10,000 distinct M")
    bench.bar("compile-linear.5d", bytes_more, "<=", 65536, must=False, about="Python bytes more after these calls")
    bench.headline = "500 tables and 200 knapsacks equal brute force"
    return bench.finish()


if __name__ == "__main__":
    raise SystemExit(main())

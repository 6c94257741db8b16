"""What asking costs: CPU seconds spent against the budget, and whether a larger budget is worth it."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from bench.estimating import at_pace
from bench.protocol import Bench
from mlsysopt.core.measure import tree_cpu
from mlsysopt.core.quantities import format_seconds
from mlsysopt.train.estimate import Ratings, SamplingFailed, run, synthetic
from mlsysopt.train.estimate.forks import Job, Reading
from mlsysopt.train.estimate.host import Host
from mlsysopt.train.estimate.intervals import Bank
from mlsysopt.train.estimate.synthetic import TEST
from mlsysopt.train.estimate.trainers import find

BUDGETS = (5.0, 20.0, 60.0)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("svd", {"n_factors": 50, "n_epochs": 20}),
    ("nmf", {"n_factors": 15, "n_epochs": 20}),
    ("baseline", {"n_epochs": 40}),
    ("knn", {"user_based": False}),
    ("cocluster", {"n_epochs": 10}),
]
# Start of the interpreter that asks, its imports and the fit of the formula: once, whatever the budget.
FIXED_S = 1.5


def truth(host: Host, ratings: Ratings, name: str, params: dict[str, Any]) -> Reading:
    """Train on everything, once, in a process of its own."""
    record = find(name).settled(params, ratings)
    path = host.keep(ratings)
    found = host.ask(Job(path, record, dict(record.params), data=record.data, least_cpu_s=0.0))
    host.forget(path)
    if not isinstance(found, Reading):
        raise SystemExit(f"{name}: {found.kind}: {found.reason}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two trainers, budgets of 3 and 8 s, smaller data")
    given = parser.parse_args(arguments)
    number = 150_000 if given.quick else 500_000
    budgets, cases = ((3.0, 8.0), CASES[:2]) if given.quick else (BUDGETS, CASES)
    shape = TEST[1]
    ratings = synthetic.ratings(
        shape.users, shape.items, n_users=number // 30, n_items=number // 100, n_ratings=number, order="shuffled",
        locality=shape.locality, seed=3,
    )  # fmt: skip
    bench = Bench(
        "estimate_budget",
        "asking costs what it was allowed to cost, and a larger budget does not make the forecast worse",
        "the budget itself; truth are full trainings between the runs, each in a process, at the pace of the samples",
        f"{number:,} ratings, {shape.name}, shuffled; budgets {', '.join(f'{one:g} s' for one in budgets)}; every run",
    )
    errors: dict[float, list[float]] = {budget: [] for budget in budgets}
    overspent: list[float] = []
    rows: list[list[object]] = []
    with Host(modules=("surprise",)) as host:
        for name, params in cases:
            truths = [truth(host, ratings, name, params)]
            for budget in budgets:
                before = tree_cpu()
                try:
                    # The interval plays no part here: a bank of nobody's cases will do.
                    found = run(ratings, name, params, budget=budget, always=True, bank=Bank(()))
                except SamplingFailed as error:
                    rows.append([name, f"{budget:g} s", str(error), "", "", ""])
                    errors[budget].append(float("inf"))
                    overspent.append(float("inf"))
                    continue
                spent = tree_cpu() - before - found.load_s
                truths.append(truth(host, ratings, name, params))
                # At the pace of the samples, as the forecast is.
                pace = statistics.mean(one.pace_s for one in found.samples)
                median = statistics.median(at_pace(one, pace) for one in truths)
                off = abs(found.seconds / median - 1)
                errors[budget].append(off)
                overspent.append(max(spent - FIXED_S, found.spent_s) / budget)
                largest = max(one.rows_share for one in found.samples)
                rows.append(
                    [name, f"{budget:g} s", format_seconds(found.spent_s), format_seconds(spent), f"{largest:.1%}",
                     f"{format_seconds(found.seconds)} for {format_seconds(median)}: {off:.0%}"]
                )  # fmt: skip
                bench.round(trainer=name, budget=budget, spent_s=found.spent_s, tree_s=spent, load_s=found.load_s,
                            forecast_s=found.seconds, truth_s=median, samples=len(found.samples))  # fmt: skip
    bench.table(["trainer", "budget", "spent", "whole tree, less loading", "largest", "forecast"], rows)
    medians = {budget: statistics.median(values) for budget, values in errors.items()}
    bench.headline = ", ".join(f"{budget:g} s: median APE {off:.0%}" for budget, off in medians.items())
    bench.bar("train-estimate.8a", max(overspent), "<=", 1.1,
              about=f"CPU over budget, worst run; {FIXED_S:g} s of start-up left out of the tree's")  # fmt: skip
    bench.bar("train-estimate.8b", medians[budgets[-1]] - medians[budgets[0]], "<=", 0.0,
              about="median APE at the largest budget less that at the smallest")  # fmt: skip
    return bench.finish(write=not given.quick)


if __name__ == "__main__":
    raise SystemExit(main())

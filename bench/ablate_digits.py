"""The study of a residual network on digits: what ten seeds at most can say, and what one seed would have said."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np

from bench.protocol import Bench
from mlsysopt.design.ablate import Result

SETS = 5
MARGIN = 0.015
BLOCKS = "both blocks"


def digits_study(store: str) -> Any:
    """Return the study: modules, groups of modules, columns of the image."""
    from bench.ablate_nets import DigitsNet, digits, train_digits_plainly
    from mlsysopt.design import ablate

    return (
        ablate.study(DigitsNet, train_digits_plainly, digits(), maximize="accuracy", margin=MARGIN, store=store)
        .modules("stem", "blocks.*", "pool", "drop", groups={BLOCKS: "blocks.*", "norms": "type:BatchNorm2d"})
        .features(
            groups={"left": ["columns:0-1"], "right": ["columns:6-7"], "both borders": ["columns:0-1", "columns:6-7"]}
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one set of seeds, nothing written")
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    sets = 1 if given.quick else SETS
    bench = Bench(
        "ablate_digits",
        "ten seeds at most find what the network needs, and no two sets of seeds contradict each other",
        "the table of one seed, as it is usually published",
        f"{sets} disjoint sets of at most ten seeds, adaptive, margin {MARGIN:g}, trained for real on 1,437 digits for "
        "five epochs; an earlier study, of three epochs on shifted images and with keywords in place of columns, "
        "missed 6a: both blocks needed in 2 of 5 sets",
    )
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(sets):
            study = digits_study(f"{folder}/{number}.db")
            results.append(study.run(first_seed=100 * number, workers=given.workers, inference=False))
            print(f"seeds from {100 * number}: {results[-1].trainings} trainings, {results[-1].cpu_s:.0f} CPU-s")
    print(results[0].table(), "\n")
    names = [row.name for row in results[0].rows]
    table, wrong = [], 0
    for name in names:
        rows = [result.row(name) for result in results]
        truth = float(np.mean([d for row in rows for d in row.deltas if d is not None]))
        singles = [row.deltas[0] for row in rows]
        # A sign is an error where the rows together have one: half the smallest step of the metric at least.
        errors = sum(
            d is not None and abs(truth) > results[0].step / 2 and np.sign(d) not in (0, np.sign(truth))
            for d in singles
        )
        wrong += errors
        table.append(
            [name, *(row.word for row in rows), f"{truth:+.4f}", *(f"{d:+.4f}" for d in singles if d is not None)]
        )
        bench.round(
            component=name, words=[row.word for row in rows], mean=truth, one_seed=singles, sign_errors=int(errors)
        )
    bench.table(
        ["component", *(f"set {i + 1}" for i in range(sets)), "mean of all", *(f"seed {100 * i}" for i in range(sets))],
        table,
    )
    clashes = sum({"needed", "harmful"} <= {result.row(name).word for result in results} for name in names)
    cpu = max(result.cpu_s for result in results)
    needed = sum(result.row(BLOCKS).word == "needed" for result in results)
    bench.headline = (
        f"both residual blocks needed in {needed} of {sets} sets at {cpu:.0f} CPU-s at most; "
        f"one seed gives the wrong sign in {wrong} of {sets * len(names)} rows"
    )
    bench.bar("design-ablate.6a", int(results[0].row(BLOCKS).word == "needed"), "==", 1, about="both blocks needed")
    bench.bar("design-ablate.6b", cpu, "<=", 180, about="CPU-s of the dearest set")
    bench.bar("design-ablate.6c", clashes, "==", 0, about="rows needed in one set and harmful in another")
    if not given.quick:
        backward(bench)
    return bench.finish(write=not given.quick)


def backward(bench: Bench) -> None:
    """Drop parts greedily and verify what is left with fresh seeds."""
    with tempfile.TemporaryDirectory() as folder:
        study = digits_study(f"{folder}/prune.db")
        pruned = study.prune(study.run(workers=0, inference=False), workers=0).pruned
    assert pruned is not None
    saved = -float(pruned["parameters"] or 0.0)
    print(f"backward: {pruned}\n")
    bench.round(pruned=pruned)
    bench.bar("design-ablate.9", saved, ">=", 0.3, must=False, about="parameters dropped, verified on fresh seeds")


if __name__ == "__main__":
    raise SystemExit(main())

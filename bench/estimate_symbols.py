"""What-ifs for free: samples around 20 factors and 5 epochs, asked for 100 factors and 20 epochs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench import estimating
from bench.estimating import Laboratory, Question
from bench.estimating_errors import WHITE, Errors, peers, spent
from bench.protocol import Bench
from mlsysopt.train.estimate.synthetic import TEST

FACTORS, EPOCHS, MORE_FACTORS, MORE_EPOCHS = 20, 5, 100, 20


def questions(*, quick: bool) -> list[Question]:
    found: list[Question] = []
    for name in ("svd", "svdpp", "nmf", "als"):
        factors, epochs = ("factors", "iterations") if name == "als" else ("n_factors", "n_epochs")
        asked = {factors: MORE_FACTORS, epochs: MORE_EPOCHS}
        found.append(Question(name, name, {factors: FACTORS, epochs: EPOCHS}, asked))
    # SVD++ takes half a minute.
    return [one for one in found if not quick or one.label != "svdpp"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60,000 ratings, one seed, without SVD++")
    given = parser.parse_args(arguments)
    number = 60_000 if given.quick else 127_000
    bench = Bench(
        "estimate_symbols",
        "factors 20 -> 100 and epochs 5 -> 20 without a new sample: mean APE <= 25 %, worst <= 50 %",
        peers(),
        f"{number:,} ratings of one test shape; the library's own ladder up to 36 % for 20 factors and 5 epochs",
    )
    asked = questions(quick=given.quick)
    with Laboratory() as lab:
        found = estimating.outcomes(
            lab,
            estimating.situations(TEST[:1], number, orders=("shuffled",)),
            asked,
            seeds=(1,) if given.quick else (1, 2),
            design=estimating.crossed,
            truths=2,
        )
    if not found:
        return bench.missing("; ".join(lab.failures))
    errors = Errors.over(found)
    errors.show(bench)
    spent(bench, lab)
    worst = float(errors.of[WHITE].max())
    bench.headline = f"mean APE {100 * errors.mape(WHITE):.0f} %, worst {100 * worst:.0f} %"
    bench.bar("train-estimate.4a", errors.mape(WHITE), "<=", 0.25, about="mean APE")
    bench.bar("train-estimate.4b", worst, "<=", 0.50, about="worst APE")
    bench.bar(
        "train-estimate.4c", len(asked) * (1 if given.quick else 2) - len(found), "==", 0, about="without an answer"
    )
    return bench.finish(write=not given.quick)


if __name__ == "__main__":
    raise SystemExit(main())

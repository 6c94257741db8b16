"""Off the distribution: errors on test shapes and on two real structures against those on the fitting shapes.

The structures are those of the page network of musae-facebook (GPL-3.0, test data only): which page has
which feature, and which page links to which; the ratings are drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from bench import estimating
from bench.estimating import Laboratory, Question, Situation
from bench.estimating_errors import WHITE, Errors, peers, spent
from bench.protocol import Bench
from mlsysopt.core import datasets
from mlsysopt.core.errors import MlsysoptError
from mlsysopt.train.estimate import synthetic
from mlsysopt.train.estimate.synthetic import FITTING, TEST

RATINGS = 80_000
# Squares of 22,470 rows do not fit everywhere: on pages x pages only trainers without them are asked.
SQUARE = ("knn-item", "knn-user", "slopeone")


def real(*, quick: bool) -> list[tuple[Situation, list[Question]]]:
    """Return both structures with what is asked of each."""
    pages = datasets.load("musae-facebook")
    starts, columns, edges = pages["starts"], pages["columns"], pages["edges"]
    user = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    features = synthetic.from_pairs(user, columns, order="shuffled", seed=1)
    links = synthetic.from_pairs(edges[0], edges[1], order="user", seed=2)
    plain = [one for one in estimating.QUESTIONS if one.label not in SQUARE]
    by_item = [one for one in estimating.QUESTIONS if one.label != "knn-user"]
    found = [(Situation("pages-features real shuffled", features), by_item)]
    return found if quick else [*found, (Situation("pages-pages real user", links), plain)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one fitting shape, one test shape, one real structure")
    given = parser.parse_args(arguments)
    bench = Bench(
        "estimate_shift",
        "errors on test shapes and real structures are at most 1.5x those on the shapes that constants were fitted on",
        peers(),
        f"paper protocol, one seed; {RATINGS:,} ratings a shape; pages x features 22,470 x 4,714 with 314,583 "
        "pairs, pages x pages with 341,825; trainers that hold squares of 22,470 rows are not asked there",
    )
    try:
        structures = real(quick=given.quick)
    except MlsysoptError as error:
        print(error, file=sys.stderr)
        return bench.missing("data set musae-facebook")
    fitting = estimating.situations(FITTING, RATINGS, seed=50)
    unseen = estimating.situations(TEST, RATINGS, seed=60)
    if given.quick:
        fitting, unseen = fitting[:1], unseen[:1]
    with Laboratory() as lab:
        known = estimating.outcomes(lab, fitting, truths=2)
        new = estimating.outcomes(lab, unseen, truths=2)
        for situation, questions in structures:
            new += estimating.outcomes(lab, [situation], questions, truths=2)
    if not known or not new:
        return bench.missing("; ".join(lab.failures))
    at_home, away = Errors.over(known), Errors.over(new)
    at_home.show(bench)
    away.show(bench)
    spent(bench, lab)
    shift = away.mape(WHITE) / at_home.mape(WHITE)
    best = away.ratio("best")
    bench.headline = (
        f"MAPE {100 * away.mape(WHITE):.0f} % off the distribution, {100 * at_home.mape(WHITE):.0f} % on it; best "
        f"black box off it {100 * away.mape(away.best_black_box()):.0f} %"
    )
    bench.bar("train-estimate.7a", shift, "<=", 1.5, about="MAPE off the distribution over that on it")
    bench.bar(
        "train-estimate.7b", best[0], "<=", 0.75, about=f"over the best black box there ({away.best_black_box()})"
    )
    bench.bar("train-estimate.7c", len(lab.failures), "==", 0, about="failures")
    return bench.finish(write=not given.quick)


if __name__ == "__main__":
    raise SystemExit(main())

"""By-user nearest neighbours loop over items: forecasts from whole items against forecasts from whole users."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench import estimating
from bench.estimating import Laboratory, Question
from bench.estimating_errors import WHITE, Errors, peers, spent
from bench.protocol import Bench
from mlsysopt.train.estimate.synthetic import TEST

SIMILARITIES = ("msd", "cosine")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one set of 0.1 million ratings")
    given = parser.parse_args(arguments)
    number = 100_000 if given.quick else estimating.SIZED_FOR
    bench = Bench(
        "estimate_side",
        "a sample of the side that the outer loop runs over forecasts by-user neighbours within 35 %",
        f"the same terms fitted to whole users, which thin every item; {peers()}",
        f"msd and cosine by user, {number:,} ratings of {1 if given.quick else 3} test shapes, at most 10 % of rows",
    )
    questions = [
        Question(f"{sim} from {side}s", "knn", {"sim": sim, "user_based": True})
        for sim in SIMILARITIES
        for side in ("item", "user")
    ]
    sides = {question.label: question.label.split()[-1].removesuffix("s") for question in questions}
    where = estimating.situations(TEST, number)
    with Laboratory() as lab:
        found = estimating.outcomes(
            lab, where[:1] if given.quick else where, questions, seeds=(1,) if given.quick else (1, 2), truths=1,
            sides=sides,
        )  # fmt: skip
    if not found:
        return bench.missing("; ".join(lab.failures))
    errors = Errors.over(found)
    errors.show(bench)
    spent(bench, lab)
    mapes = {
        side: errors.mape(WHITE, [k for k, one in enumerate(found) if one.question.endswith(side)])
        for side in ("items", "users")
    }
    expected = len(questions) * (1 if given.quick else 6)
    bench.headline = f"mean APE from whole items {100 * mapes['items']:.0f} %, whole users {100 * mapes['users']:.0f} %"
    bench.bar("train-estimate.3a", mapes["items"], "<=", 0.35, about="mean APE from whole items")
    bench.bar("train-estimate.3b", mapes["items"] / mapes["users"], "<=", 0.6, about="over that from whole users")
    bench.bar("train-estimate.3c", expected - len(found), "==", 0, about="questions without an answer")
    return bench.finish(write=not given.quick)


if __name__ == "__main__":
    raise SystemExit(main())

"""A forecast from a tenth of the users, against the full training and against black boxes on the same samples.

`--record` keeps samples and truths for `bench.estimate_intervals`, which judges intervals without training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench import estimating
from bench.estimating import Laboratory
from bench.estimating_errors import WHITE, Errors, peers, spent
from bench.protocol import Bench
from mlsysopt.train.estimate.rivals import MEAN
from mlsysopt.train.estimate.synthetic import TEST

LIMIT_MAPE, LIMIT_MEDIAN, LIMIT_BEST, LIMIT_MEAN, LIMIT_COST = 0.35, 0.25, 0.75, 0.9, 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one set, one seed")
    parser.add_argument("--record", action="store_true", help="keep samples and truths for the interval bench")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    bench = Bench(
        "estimate_accuracy",
        "time forecast from at most 10 % of the rows: MAPE <= 35 %, <= 0.75x the best black box in hindsight",
        peers(),
        "paper protocol: whole rows, 1, 4, 6, 10 %, the full training's own epochs and factors; three test shapes, one "
        "per row order; samples and full fits shuffled into one another, each in a fork; samples at the mean pace of "
        "the machine, for every predictor alike",
    )
    where = estimating.situations(TEST, estimating.SIZED_FOR, seed=given.seed)
    with Laboratory() as lab:
        found = estimating.outcomes(
            lab, where[:1] if given.quick else where, seeds=(1,) if given.quick else (1, 2), design=estimating.paper
        )
    if not found:
        return bench.missing("; ".join(lab.failures))
    errors = Errors.over(found)
    errors.show(bench)
    errors.by_trainer(bench)
    spent(bench, lab)
    if given.record:
        estimating.write_recorded(found)
    best, mean = errors.ratio("best"), errors.ratio(MEAN)
    mape, median = errors.mape(WHITE), errors.median(WHITE)
    bench.headline = (
        f"MAPE {100 * mape:.0f} %, best black box {100 * errors.mape(errors.best_black_box()):.0f} % "
        f"({errors.best_black_box()}), mean of black boxes {100 * errors.mape(MEAN):.0f} %"
    )
    # Two seeds sample the same truths: the cost of one forecast is that of one of them.
    cost = lab.sampling_s / (lab.truth_s * (1 if given.quick else 2))
    expected = len(estimating.QUESTIONS) * (1 if given.quick else len(where) * 2)
    bench.bar("train-estimate.1a", mape, "<=", LIMIT_MAPE, about="MAPE")
    bench.bar("train-estimate.1b", median, "<=", LIMIT_MEDIAN, about="median APE")
    bench.bar("train-estimate.1c", best[0], "<=", LIMIT_BEST, about=f"MAPE over the best black box's {interval(best)}")
    bench.bar("train-estimate.1d", mean[0], "<=", LIMIT_MEAN, about=f"MAPE over their mean's {interval(mean)}")
    if not given.quick:
        # One set has no spread between sets.
        bench.bar("train-estimate.1e", max(best[2], mean[2]), "<", 1.0, about="upper ends, bootstrap over sets")
    bench.bar("train-estimate.1f", cost, "<=", LIMIT_COST, about="CPU of the samples' fits over that of the full ones")
    bench.bar("train-estimate.1g", expected - len(found), "==", 0, about="questions without an answer")
    bench.bar("train-estimate.12a", mape, "<=", 0.20, must=False, about="MAPE")
    bench.bar("train-estimate.12b", best[0], "<=", 0.5, must=False, about="over the best black box")
    return bench.finish(write=not given.quick)


def interval(ratio: tuple[float, float, float]) -> str:
    return f"[{ratio[1]:.2f}, {ratio[2]:.2f}]"


if __name__ == "__main__":
    raise SystemExit(main())

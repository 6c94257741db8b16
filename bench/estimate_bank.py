"""Make the bank of finished cases that intervals come from: fitting shapes only, every order, every trainer.

`--write` puts it into the package. The test shapes are never touched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlsysopt.train.estimate as package
from bench import estimating
from bench.estimating import ORDERS, Laboratory, Outcome
from bench.estimating_errors import Errors, spent
from bench.protocol import Bench
from mlsysopt.core.measure import machine
from mlsysopt.train.estimate.intervals import Bank
from mlsysopt.train.estimate.synthetic import FITTING

FEWEST = 60
RATINGS = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every shape in one order")
    parser.add_argument("--write", action="store_true", help="replace the package's bank.json")
    parser.add_argument("--keep", type=Path, help="write samples and truths there, for study")
    parser.add_argument("--from", dest="source", type=Path, help="make it from what was kept; nothing is trained")
    given = parser.parse_args(arguments)
    bench = Bench(
        "estimate_bank",
        f"at least {FEWEST} finished cases of fitting shapes, whose own intervals hold with their set left out",
        "none: this makes what others are judged by",
        f"{RATINGS:,} ratings, {len(FITTING)} shapes x {1 if given.quick else len(ORDERS)} orders x "
        f"{len(estimating.QUESTIONS)} trainers x two protocols (the paper's, the library's ladder up to 36 %)",
    )
    kept = estimating.read_recorded(given.source) if given.source is not None else _measured(bench, given)
    if not kept:
        return bench.missing("every outcome")
    cases = [replace(one.case(), shape=f"{one.situation}, {'paper' if one.seed % 2 else 'ladder'}") for one in kept]
    bank = Bank(tuple(cases), f"fitting shapes on {machine().cpu}")
    inside = _set_left_out(bank)
    low, high = bank.quantiles()
    print(f"scores: {low:.2f} to {high:.2f} hold 90 %\n")
    bench.headline = f"{len(cases)} cases, scores {low:.2f} to {high:.2f}"
    bench.bar("train-estimate.6g", len(cases), ">=", FEWEST if not given.quick else 40, about="cases")
    good = bench.bar("train-estimate.6h", inside, ">=", 0.80, about="inside 90 % intervals, their set left out")
    if given.write and good:
        target = Path(next(iter(package.__path__))) / "bank.json"
        target.write_text(bank.to_json(machine_key=machine().key()))
        print(f"written: {target}", file=sys.stderr)
    return bench.finish(write=not given.quick)


def _measured(bench: Bench, given: argparse.Namespace) -> list[Outcome]:
    kept: list[Outcome] = []
    with Laboratory() as lab:
        for turn in range(1 if given.quick else len(ORDERS)):
            # Shape, order and longer side turn against each other.
            orders = [ORDERS[(k + turn) % len(ORDERS)] for k in range(len(FITTING))]
            where = estimating.situations(FITTING, RATINGS, orders=orders, seed=100 + 10 * turn)
            found = estimating.outcomes(lab, where, seeds=(1, 2), design=estimating.alternating, truths=2)
            kept += found
            if given.keep is not None:
                estimating.write_recorded(kept, given.keep)
            Errors.over(found).show(bench)
    spent(bench, lab)
    return kept


def _set_left_out(bank: Bank) -> float:
    sets = [case.shape.split(",")[0] for case in bank.cases]
    hits = 0
    for name, case in zip(sets, bank.cases, strict=True):
        rest = Bank(tuple(other for other, theirs in zip(bank.cases, sets, strict=True) if theirs != name))
        low, high = rest.interval(case.forecast_s, case.rho, case.s_fit)
        hits += low <= case.truth_s <= high
    return hits / len(bank.cases)


if __name__ == "__main__":
    raise SystemExit(main())

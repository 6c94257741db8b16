"""Make what forecasts know beforehand: typical costs of terms, and the bank of cases that intervals come from.

Fitting shapes only, every order, every trainer; the test shapes are never touched. A case of the bank is
forecast with what the other sets taught, never with its own. `--write` puts both into the package.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np

import mlsysopt.train.estimate as package
from bench import estimating
from bench.estimating import ORDERS, Laboratory, Outcome
from bench.estimating_errors import spent
from bench.protocol import Bench
from mlsysopt.core.measure import machine
from mlsysopt.train.estimate.characteristics import WALKS
from mlsysopt.train.estimate.intervals import Bank, Case
from mlsysopt.train.estimate.samples import steady
from mlsysopt.train.estimate.synthetic import FITTING
from mlsysopt.train.estimate.terms import Terms
from mlsysopt.train.estimate.typical import Typical, learned
from mlsysopt.train.estimate.whitebox import completed

FEWEST = 60
# Ratings and seed of each turn: the last one lies outside most caches.
TURNS = ((100_000, 100), (100_000, 110), (100_000, 120), (250_000, 130))


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
        f"{len(FITTING)} shapes of {' and '.join(sorted({f'{number:,}' for number, _ in TURNS}))} ratings x "
        f"{1 if given.quick else len(ORDERS)} orders x {len(estimating.QUESTIONS)} trainers, "
        f"{len(estimating.SETTINGS)} further settings x two protocols (the paper's, the library's ladder up to 36 %)",
    )
    kept = estimating.read_recorded(given.source) if given.source is not None else _measured(bench, given)
    if not kept:
        return bench.missing("every outcome")
    cases: list[Case] = []
    for name in dict.fromkeys(one.situation for one in kept):
        others = typical_of([one for one in kept if one.situation != name])
        for one in kept:
            if one.situation == name:
                shape = f"{name}, {'paper' if one.seed % 2 else 'ladder'}"
                cases.append(replace(one.case(others), shape=shape))
    bank = Bank(tuple(cases), f"fitting shapes on {machine().cpu}")
    inside = _set_left_out(bank)
    low, high = bank.quantiles()
    off = [abs(case.forecast_s / case.truth_s - 1) for case in cases]
    print(f"scores: {low:.2f} to {high:.2f} hold 90 %; APE mean {mean(off):.0%}, median {median(off):.0%}\n")
    bench.headline = f"{len(cases)} cases, median APE {median(off):.0%}, scores {low:.2f} to {high:.2f}"
    bench.bar("train-estimate.6g", len(cases), ">=", FEWEST if not given.quick else 40, about="cases")
    good = bench.bar("train-estimate.6h", inside, ">=", 0.80, about="inside 90 % intervals, their set left out")
    if given.write and good:
        folder = Path(next(iter(package.__path__)))
        (folder / "bank.json").write_text(bank.to_json(machine_key=machine().key()))
        (folder / "typical.json").write_text(typical_of(kept).to_json(machine_key=machine().key()))
        print(f"written: bank.json and typical.json in {folder}", file=sys.stderr)
    return bench.finish(write=not given.quick)


def typical_of(found: Sequence[Outcome]) -> Typical:
    """Learn what terms cost from finished trainings and their samples, with and without the walks."""
    groups: dict[tuple[str, tuple[str, ...]], list[Outcome]] = {}
    for one in found:
        groups.setdefault((one.record.name, one.record.time), []).append(one)
    rows: dict[tuple[str, tuple[str, ...]], tuple[float, ...]] = {}
    for (name, texts), group in groups.items():
        bare = [text for text in texts if not Terms([text]).names & set(WALKS)]
        for kept in (texts, bare):
            terms = completed(kept)
            costs = learned(_trainings(group, terms), terms.texts)
            rows[name, tuple(costs)] = tuple(costs.values())
    return Typical(rows, f"fitting shapes on {machine().cpu}")


def _trainings(group: Sequence[Outcome], terms: Terms) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    for one in group:
        samples = steady(one.samples)
        phi = np.array([terms.columns(sample.characteristics, sample.params) for sample in samples])
        yield phi, np.array([sample.cpu_s for sample in samples]), False
        yield terms.columns(one.full, one.record.params), np.array(one.truth_s), True


def _measured(bench: Bench, given: argparse.Namespace) -> list[Outcome]:
    kept: list[Outcome] = []
    with Laboratory() as lab:
        for turn, (number, seed) in enumerate(TURNS[:1] if given.quick else TURNS):
            # Shape, order and longer side turn against each other.
            orders = [ORDERS[(k + turn) % len(ORDERS)] for k in range(len(FITTING))]
            where = estimating.situations(FITTING, number, orders=orders, seed=seed)
            asked = (*estimating.QUESTIONS, *(estimating.SETTINGS if turn == 0 else ()))
            found = estimating.outcomes(lab, where, asked, seeds=(1, 2), design=estimating.alternating, truths=2)
            kept += found
            if given.keep is not None:
                estimating.write_recorded(kept, given.keep)
            print(f"turn {turn + 1}: {len(found)} outcomes", file=sys.stderr)
    spent(bench, lab)
    return kept


def _set_left_out(bank: Bank) -> float:
    sets = [case.shape.split(",")[0] for case in bank.cases]
    hits = 0
    for name, case in zip(sets, bank.cases, strict=True):
        rest = Bank(tuple(other for other, theirs in zip(bank.cases, sets, strict=True) if theirs != name))
        low, high = rest.nearest(case.trainer).interval(case.forecast_s, case.rho, case.s_fit)
        hits += low <= case.truth_s <= high
    return hits / len(bank.cases)


if __name__ == "__main__":
    raise SystemExit(main())

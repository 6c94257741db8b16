"""Errors of the white box and of every rival over the same outcomes: tables, means and ratios with intervals."""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from bench.estimating import Laboratory, Outcome, digits
from bench.protocol import Bench
from mlsysopt.train.estimate.rivals import BLACK_BOXES, MEAN

WHITE, NO_WALK = "white box", "white box without the walk"


def peers() -> str:
    """Name the rivals, with version."""
    return (
        f"linear, log-log, random forest, Gaussian process (scikit-learn {version('scikit-learn')}), all on the same "
        "samples; their geometric mean; a Gaussian process given our characteristics"
    )


@dataclass(frozen=True, slots=True)
class Errors:
    """What every predictor said, and how wrong it was.

    Attributes:
        outcomes: The outcomes.
        of: Predictor -> absolute relative errors, one for each outcome, in their order.
        told: Predictor -> CPU seconds, for each outcome.
    """

    outcomes: Sequence[Outcome]
    of: Mapping[str, np.ndarray]
    told: Sequence[Mapping[str, float]] = ()

    @classmethod
    def over(cls, found: Sequence[Outcome]) -> Errors:
        told = [one.told() for one in found]
        names = [WHITE, NO_WALK, *(name for name in told[0] if name not in (WHITE, NO_WALK))]
        names = [name for name in names if any(name in one for one in told)]
        # A trainer without a walk has one white box, not two.
        pairs = [(one, row) for one, row in zip(found, told, strict=True)]
        errors = {
            name: np.array([abs(row.get(name, row[WHITE]) / one.truth_s - 1) for one, row in pairs]) for name in names
        }
        return cls(found, errors, told)

    def mape(self, name: str, rows: Sequence[int] | None = None) -> float:
        values = self.of[name] if rows is None else self.of[name][list(rows)]
        return float(values.mean())

    def mape_as_timed(self, name: str) -> float:
        """Return the mean error against full fits as they were timed, whatever the pace of the machine just then."""
        return statistics.mean(
            abs(row.get(name, row[WHITE]) / one.timed_s - 1) for one, row in zip(self.outcomes, self.told, strict=True)
        )

    def median(self, name: str) -> float:
        return float(np.median(self.of[name]))

    def best_black_box(self, rows: Sequence[int] | None = None) -> str:
        return min(BLACK_BOXES, key=lambda name: self.mape(name, rows))

    def ratio(self, against: str) -> tuple[float, float, float]:
        """Return our MAPE over a rival's, with a 95 % bootstrap interval over whole situations.

        `best` is the black box that is best in hindsight, chosen anew in every resample: to its favour.
        """

        def one(rows: Sequence[int] | None) -> float:
            rival = self.best_black_box(rows) if against == "best" else against
            return self.mape(WHITE, rows) / self.mape(rival, rows)

        names = sorted({outcome.situation for outcome in self.outcomes})
        groups = [[k for k, outcome in enumerate(self.outcomes) if outcome.situation == name] for name in names]
        if len(groups) <= 5:
            picks: Iterable[Any] = itertools.product(groups, repeat=len(groups))
        else:
            rng = np.random.default_rng(0)
            picks = ([groups[k] for k in rng.integers(0, len(groups), len(groups))] for _ in range(2000))
        draws = [one(list(itertools.chain.from_iterable(pick))) for pick in picks]
        low, high = np.quantile(draws, [0.025, 0.975])
        return one(None), float(low), float(high)

    def show(self, bench: Bench) -> None:
        """Print every row and every predictor, and keep them as rounds."""
        header = ["set", "trainer", "seed", "truth s", "largest s", *(_column(name) for name in self.of)]
        rows: list[list[object]] = []
        for k, one in enumerate(self.outcomes):
            largest = max(sample.cpu_s for sample in one.samples)
            signed = self.told[k]
            rows.append(
                [
                    *(one.situation.split()[0], one.question, one.seed, f"{one.truth_s:.3g}", f"{largest:.3g}"),
                    *(f"{100 * (signed.get(name, signed[WHITE]) / one.truth_s - 1):+.0f}" for name in self.of),
                ]
            )
            bench.round(
                situation=one.situation, trainer=one.question, seed=one.seed, truth_s=[digits(t) for t in one.truths],
                timed_s=[digits(t) for t in one.timed],
                told={name: digits(value) for name, value in signed.items()},
                ape={name: round(float(values[k]), 4) for name, values in self.of.items()},
            )  # fmt: skip
        rows.append(["MAPE %", "", "", "", "", *(f"{100 * values.mean():.0f}" for values in self.of.values())])
        rows.append(
            ["median %", "", "", "", "", *(f"{100 * float(np.median(values)):.0f}" for values in self.of.values())]
        )
        rows.append(["as timed %", "", "", "", "", *(f"{100 * self.mape_as_timed(name):.0f}" for name in self.of)])
        bench.table(header, rows)
        bench.round(mape_as_timed={name: round(self.mape_as_timed(name), 4) for name in self.of})

    def by_trainer(self, bench: Bench) -> None:
        labels = list(dict.fromkeys(one.question for one in self.outcomes))
        rows: list[list[object]] = []
        for label in labels:
            mine = [k for k, one in enumerate(self.outcomes) if one.question == label]
            rows.append([label, *(f"{100 * self.mape(name, mine):.0f}" for name in self.of)])
        bench.table(["MAPE % by trainer", *(_column(name) for name in self.of)], rows)


def spent(bench: Bench, lab: Laboratory) -> None:
    """Print what sampling cost, how busy the machine was, and what failed."""
    share = lab.sampling_s / lab.truth_s if lab.truth_s else math.nan
    print(
        f"full fits {lab.truth_s:.1f} CPU-s; fits of samples {lab.sampling_s:.1f} CPU-s ({100 * share:.0f} %), "
        f"building them {lab.building_s:.1f}; loading and walking the full data {lab.loading_s:.1f} CPU-s\n"
        f"{lab.busy} samples repeated since the pace of the machine changed meanwhile; load {os.getloadavg()[0]:.1f}; "
        f"failures: {'; '.join(lab.failures) or 'none'}\n",
        flush=True,
    )
    bench.round(
        full_s=lab.truth_s, sampling_s=lab.sampling_s, building_s=lab.building_s, loading_s=lab.loading_s,
        busy=lab.busy, load=os.getloadavg()[0], failures=lab.failures,
    )  # fmt: skip


def _column(name: str) -> str:
    return {
        WHITE: "white", NO_WALK: "no walk", "linear": "linear", "log-log": "loglog", "random forest": "forest",
        "Gaussian process": "GP", MEAN: "mean BB", "mean of white box and log-log": "white+loglog",
        "Gaussian process on our characteristics": "GP chars", "terms picked from the dictionary": "auto",
    }.get(name, name)  # fmt: skip

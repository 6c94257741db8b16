"""Do 90 % intervals hold: recorded samples and truths of test shapes against the shipped bank. Trains nothing."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench import estimating
from bench.protocol import Bench
from mlsysopt.train.estimate.intervals import Bank, shipped
from mlsysopt.train.estimate.synthetic import TEST

FEWEST, LARGEST_BYTES = 24, 300_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first set only")
    parser.add_argument("--recorded", type=Path, default=estimating.RECORDED, help="made by estimate_accuracy --record")
    given = parser.parse_args(arguments)
    bank = shipped()
    bench = Bench(
        "estimate_intervals",
        "90 % intervals from the shipped bank hold on shapes it has never seen, and are no wider than 2.5x",
        f"the shipped bank, {len(bank.cases)} cases: {bank.about}",
        f"recorded samples and truths of the test shapes, at most {LARGEST_BYTES:,} bytes, against the bank's "
        "cases of the same trainer; nothing is trained",
    )
    if not given.recorded.exists():
        return bench.missing(f"{given.recorded} (python -m bench.estimate_accuracy --record)")
    found = estimating.read_recorded(given.recorded)
    if given.quick:
        found = [one for one in found if one.situation == found[0].situation]
    rows: list[list[object]] = []
    inside: dict[str, list[bool]] = {}
    widths: list[float] = []
    for one in found:
        forecast = one.forecast(bank.nearest(one.record.name))
        # An interval is for the seconds that a user will see.
        hit = forecast.low <= one.timed_s <= forecast.high
        inside.setdefault(one.question, []).append(hit)
        widths.append(forecast.high / forecast.low)
        rows.append(
            [
                *(one.situation.split()[0], one.question, one.seed, f"{one.timed_s:.3g}", f"{forecast.seconds:.3g}"),
                *(f"[{forecast.low:.3g}, {forecast.high:.3g}]", f"{widths[-1]:.2f}", f"{forecast.rolling_error:.2f}"),
                "yes" if hit else "NO",
            ]
        )
        bench.round(
            situation=one.situation, trainer=one.question, seed=one.seed, truth_s=one.timed_s,
            forecast_s=forecast.seconds, low=forecast.low, high=forecast.high, inside=hit,
        )  # fmt: skip
    bench.table(["set", "trainer", "seed", "truth s", "forecast s", "90 %", "high/low", "rolling", "inside"], rows)
    bench.table(["trainer", "inside", "of"], [[name, sum(hits), len(hits)] for name, hits in inside.items()])
    covered = statistics.mean(hit for hits in inside.values() for hit in hits)
    shapes = [shape.name for shape in TEST]
    leaked = sum(any(name in case.shape for name in shapes) for case in bank.cases)
    alone = _leave_one_shape_out(bank)
    bench.headline = f"{100 * covered:.0f} % of {len(found)} inside, median high/low {statistics.median(widths):.2f}"
    bench.bar("train-estimate.6a", covered, ">=", 0.80, about=f"of {len(found)} cases inside their 90 % interval")
    bench.bar("train-estimate.6b", statistics.median(widths), "<=", 2.5, about="median high / low")
    if not given.quick:
        bench.bar("train-estimate.6c", len(found), ">=", FEWEST, about="cases")
    bench.bar("train-estimate.6d", given.recorded.stat().st_size, "<=", LARGEST_BYTES, about="bytes recorded")
    bench.bar("train-estimate.6e", leaked, "==", 0, about="cases of test shapes in the shipped bank")
    bench.bar(
        "train-estimate.6f", alone, ">=", 0.80, must=False, about="of the bank's own cases inside, their shape left out"
    )
    return bench.finish(write=not given.quick)


def _leave_one_shape_out(bank: Bank) -> float:
    shapes = sorted({case.shape.split()[0] for case in bank.cases})
    hits: list[bool] = []
    for shape in shapes:
        rest = Bank(tuple(case for case in bank.cases if not case.shape.startswith(shape)))
        for case in bank.cases:
            if case.shape.startswith(shape):
                low, high = rest.nearest(case.trainer).interval(case.forecast_s, case.rho, case.s_fit)
                hits.append(low <= case.truth_s <= high)
    return statistics.mean(hits)


if __name__ == "__main__":
    raise SystemExit(main())

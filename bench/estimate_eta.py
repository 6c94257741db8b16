"""Time left of a running training: how far off at a quarter and at half of it, and after the machine slows down."""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, TextIO

from threadpoolctl import threadpool_limits

from bench.protocol import Bench
from mlsysopt.core.measure import Ratio
from mlsysopt.core.quantities import format_seconds
from mlsysopt.train.estimate import Estimate, Ratings, Tracker, run, synthetic
from mlsysopt.train.estimate.intervals import Bank, Case
from mlsysopt.train.estimate.track import Left
from mlsysopt.train.estimate.trainers import find

CASES: list[tuple[str, dict[str, Any]]] = [
    ("svd", {"n_factors": 50, "n_epochs": 40}),
    ("svdpp", {"n_factors": 5, "n_epochs": 12}),
    ("nmf", {"n_factors": 15, "n_epochs": 40}),
    ("cocluster", {"n_epochs": 16}),
    ("als", {"factors": 48, "iterations": 40}),
]
# A forecast is good for 30 % either way: what an interval of the shipped bank comes to.
BANK = Bank(tuple(Case("any", "", 1.3 ** ((n % 21 - 10) / 10), 1.0, 1.0, 0.2) for n in range(63)), "for this bench")


def data_of(record: Any, ratings: Ratings) -> Any:
    return ratings.csr() if record.data == "csr" else ratings.trainset()


def train(record: Any, data: Any, tracker: Tracker) -> None:
    """Run one training that tells its epochs to a tracker."""
    if record.events == "callback":
        # The threads of a training are its own; those of the linear algebra inside it would be theirs squared.
        with threadpool_limits(1, "blas"), tracker:
            record.fit(data, **record.params, callback=tracker.callback)
    else:
        with redirect_stdout(io.StringIO()), tracker:
            record.fit(data, **record.params, verbose=True)


class Burners:
    """A busy loop on each core, started beforehand: a fork in the middle of a training would slow it by itself."""

    def __enter__(self) -> Burners:
        self._go = multiprocessing.Event()
        self._all = [
            multiprocessing.Process(target=_burn, args=(self._go, core), daemon=True)
            for core in sorted(os.sched_getaffinity(0))
        ]
        for one in self._all:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._all:
            one.terminate()
            one.join()

    def burn(self) -> None:
        self._go.set()

    def rest(self) -> None:
        self._go.clear()


class Watched:
    """One tracked training: what was said after each epoch, and when it really ended."""

    def __init__(self, estimate: Estimate, record: Any, data: Any, burners: Burners | None = None) -> None:
        self.told: list[tuple[float, Left]] = []
        self.burnt: float | None = None
        self.tracker = estimate.track(remember=False, on_left=self._hear)
        self._burners = burners
        self._started = time.perf_counter()
        self.first = self.tracker.left()
        try:
            train(record, data, self.tracker)
        finally:
            if burners is not None:
                burners.rest()
        self.ended = self.tracker.finished_s or 0.0

    def _hear(self, left: Left) -> None:
        now = time.perf_counter() - self._started
        self.told.append((now, left))
        if self._burners is not None and self.burnt is None and left.done >= 0.5:
            self.burnt = left.done
            self._burners.burn()

    def at(self, share: float) -> tuple[float, Left]:
        """Return what was said first at or after this share of the epochs."""
        return next((told for told in self.told if told[1].done >= share), self.told[-1])

    def off(self, share: float) -> float:
        """Return how far off the time left was, at this share of the epochs."""
        when, left = self.at(share)
        return abs(left.seconds / max(self.ended - when, 1e-9) - 1)


def _burn(go: Any, core: int) -> None:
    # Where the scheduler may move them, the training has a core of its own every now and then.
    os.sched_setaffinity(0, {core})
    while True:
        go.wait()
        sum(range(100_000))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller data, two trainers, no pairs for the cost")
    given = parser.parse_args(arguments)
    number = 30_000 if given.quick else 120_000
    cases = [CASES[0], CASES[4]] if given.quick else CASES
    ratings = synthetic.ratings("lognormal", "zipf0.7", n_users=number // 20, n_items=number // 60, n_ratings=number,
                                order="shuffled", seed=5)  # fmt: skip
    bench = Bench(
        "estimate_eta",
        "a forecast that sharpens with every epoch tells the time left within 12 % at a quarter and 7 % at half",
        "the real end of the same training; cost of epochs that are tracked against others of the same training",
        f"{number:,} ratings, shuffled; elapsed time; a burner bound to each core from half-way in a second training",
    )
    quarters: list[float] = []
    halves: list[float] = []
    narrowed: list[float] = []
    recovered: list[float] = []
    rows: list[list[object]] = []
    for name, params in cases:
        record = find(name).settled(params, ratings)
        estimate = run(ratings, name, params, budget=4.0 if given.quick else 10.0, always=True, bank=BANK)
        with Burners() as burners:
            data = data_of(record, ratings)
            quiet = Watched(estimate, record, data)
            loud = Watched(estimate, record, data, burners)
        _, quarter = quiet.at(0.25)
        width = (quarter.high - quarter.low) / max(quiet.first.high - quiet.first.low, 1e-9)
        epochs = loud.tracker.epochs or 1
        after = loud.off(min((loud.burnt or 0.5) + 3 / epochs, 0.95))
        quarters.append(quiet.off(0.25))
        halves.append(quiet.off(0.5))
        narrowed.append(width)
        recovered.append(after)
        rows.append(
            [name, format_seconds(estimate.wall_s), format_seconds(quiet.ended), f"{quarters[-1]:.0%}",
             f"{halves[-1]:.0%}", f"{width:.2f}x", format_seconds(loud.ended), f"{after:.0%}"]
        )  # fmt: skip
        bench.round(trainer=name, forecast_s=estimate.wall_s, took_s=quiet.ended, quarter=quarters[-1],
                    half=halves[-1], width=width, loud_s=loud.ended, after_burners=after)  # fmt: skip
    bench.table(
        ["trainer", "forecast", "took", "off at 1/4", "at 1/2", "interval", "with burners", "off 3 epochs later"], rows
    )
    bench.headline = f"time left off by {statistics.median(quarters):.0%} at a quarter, {statistics.median(halves):.0%}"
    bench.bar("train-estimate.9a", statistics.median(quarters), "<=", 0.12, about="median APE of the time left at 25 %")
    bench.bar("train-estimate.9b", statistics.median(halves), "<=", 0.07, about="the same at 50 %")
    bench.bar("train-estimate.9c", statistics.median(narrowed), "<=", 0.5, about="interval at 25 % over the first one")
    bench.bar("train-estimate.9d", max(recovered), "<=", 0.20, about="off three epochs after burners began, worst")
    if not given.quick:
        bench.bar("train-estimate.9e", cost_of_tracking(bench, ratings), "<=", 1.01, about="CPU with over without")
    return bench.finish(write=not given.quick)


class EverySecond(io.TextIOBase):
    """Standard output whose every second epoch is told to a tracker; what each epoch cost is kept, in pairs.

    Attributes:
        plain: CPU seconds of epochs that were not told, their line included.
        tracked: The same of those that were, in the order of the pairs.
    """

    def __init__(self, out: TextIO, tracker: TextIO) -> None:
        self._out, self._tracker = out, tracker
        self._began: float | None = None
        self._number = 0
        self.plain: list[float] = []
        self.tracked: list[float] = []

    @property
    def _telling(self) -> bool:
        # Plain, tracked, tracked, plain: a machine that drifts favours neither.
        return self._number % 4 in (2, 3)

    def write(self, text: str, /) -> int:
        if text.startswith("Processing epoch"):
            now = time.process_time()
            if self._began is not None:
                (self.tracked if self._telling else self.plain).append(now - self._began)
            self._began = now
            self._number += 1
        return (self._tracker if self._telling else self._out).write(text)


def cost_of_tracking(bench: Bench, ratings: Ratings) -> float:
    """Return CPU seconds of a tracked over an untracked epoch, paired with its neighbour in one training."""
    epochs = 801
    record = find("svd").settled({"n_factors": 20, "n_epochs": epochs}, ratings)
    data = ratings.trainset()
    tracker = Tracker(epochs=epochs, epoch_s=0.1, line=record.line)
    with redirect_stdout(io.StringIO()) as plain, tracker:
        every_second = EverySecond(plain, sys.stdout)
        with redirect_stdout(every_second):
            record.fit(data, **record.params, verbose=True)
    ratio = Ratio.of(every_second.plain, every_second.tracked, metric="time", better="lower", clock="cpu", unit="s")
    print(ratio)
    bench.round(cost_of_tracking=ratio.value, low=ratio.low, high=ratio.high, pairs=ratio.rounds,
                epoch_s=ratio.baseline_value, told=tracker.done)  # fmt: skip
    return ratio.value


if __name__ == "__main__":
    raise SystemExit(main())

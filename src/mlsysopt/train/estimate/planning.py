"""Which trainers fit into a time and a memory: all of them under one budget, each as far as it is undecided."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import MissingExtra, MlsysoptError
from mlsysopt.core.measure import machine
from mlsysopt.core.places import artefact_header
from mlsysopt.core.quantities import format_bytes, format_seconds, parse_quantity
from mlsysopt.core.report.columns import aligned
from mlsysopt.train.estimate.answer import Estimate, Verdict
from mlsysopt.train.estimate.climb import Climb, answer
from mlsysopt.train.estimate.measuring import Measuring, Note
from mlsysopt.train.estimate.memory import DoesNotFit, Free, check, free, peak_of
from mlsysopt.train.estimate.question import check_terms, opened, seconds_of
from mlsysopt.train.estimate.trainers.registry import TrainerRecord, find, names

if TYPE_CHECKING:
    from mlsysopt.core.executors import Executor
    from mlsysopt.core.report import Report
    from mlsysopt.core.store import Store
    from mlsysopt.train.estimate.intervals import Bank
    from mlsysopt.train.estimate.ratings import Ratings

__all__ = ["Plan", "Row", "plan"]

_ROUNDS = 3
_MOST_EPOCHS = 100_000


@dataclass(frozen=True, slots=True)
class Row:
    """One trainer of a plan.

    Attributes:
        trainer: Name, with its switches where they differ from the defaults.
        verdict: `fits`, `just train`, `does not fit`, `undecided`, or `failed`.
        why: The reason in words.
        estimate: None where nothing was sampled or sampling failed.
        epochs: Most epochs that surely fit into the time, None where there are no epochs or no limit.
        rmse: Error on held-out ratings of the sampled rows, nan where it was not asked for.
    """

    trainer: str
    verdict: Verdict | str
    why: str
    estimate: Estimate | None = None
    epochs: int | None = None
    rmse: float = math.nan


@dataclass(frozen=True, eq=False)
class Plan:
    """All trainers, most certain first.

    Attributes:
        rows: One each.
        source: Where the ratings come from.
        time_s: Limit of elapsed time, None without one.
        room: Memory that may be used.
        spent_s: CPU seconds that asking cost.
        load_s: CPU seconds of loading the full data.
    """

    rows: tuple[Row, ...]
    source: str
    time_s: float | None
    room: Free
    spent_s: float
    load_s: float

    @property
    def exit_code(self) -> int:
        """0 when something fits, 4 when that is undecided, 1 when nothing does."""
        verdicts = {row.verdict for row in self.rows}
        return 0 if verdicts & {"fits", "just train"} else 4 if "undecided" in verdicts else 1

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "source": self.source,
            "time_s": self.time_s,
            "spent_s": self.spent_s,
            "load_s": self.load_s,
            "free": {"bytes": self.room.bytes, "limit": self.room.limit},
            "exit_code": self.exit_code,
            "trainers": [
                {
                    "trainer": row.trainer,
                    "verdict": row.verdict,
                    "why": row.why,
                    "epochs": row.epochs,
                    "rmse": row.rmse if math.isfinite(row.rmse) else None,
                    "estimate": row.estimate.about() if row.estimate is not None else None,
                }
                for row in self.rows
            ],
        }

    def to_json(self) -> str:
        """Return everything as text."""
        return json.dumps({**artefact_header("estimate-plan", 1, machine=machine().key()), **self.as_dict()}, indent=1)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows for people."""
        with_rmse = any(math.isfinite(row.rmse) for row in self.rows)
        header = ["trainer", "verdict", "CPU time", "90 %", "elapsed", "peak", "because"]
        if with_rmse:
            header.insert(6, f"rmse at {self._largest():.0%} of the rows, ranks may change")
        lines: list[list[str]] = []
        for row in self.rows:
            one = row.estimate
            cells = ["-", "-", "-", "-"]
            if one is not None:
                high = format_seconds(one.high) if math.isfinite(one.high) else "?"
                cells = [
                    format_seconds(one.seconds),
                    f"[{format_seconds(one.low)}, {high}]",
                    format_seconds(one.wall_s),
                    format_bytes(one.peak.bytes),
                ]
            if with_rmse:
                cells.append(f"{row.rmse:.3f}" if math.isfinite(row.rmse) else "-")
            lines.append([row.trainer, row.verdict, *cells, row.why])
        return header, lines

    def _largest(self) -> float:
        return max((one.rows_share for row in self.rows if row.estimate for one in row.estimate.samples), default=0.0)

    def report(self, folder: str | Path, *, command: str = "mlsysopt estimate plan") -> Path:
        """Write the HTML report and return its page."""
        return self.page(command).write(folder)

    def page(self, command: str) -> Report:
        """Return the report under construction."""
        from mlsysopt.core.report import Report
        from mlsysopt.train.estimate.explain import REFERENCES

        fitting = [row.trainer for row in self.rows if row.verdict in ("fits", "just train")]
        page = Report(
            "Which trainers fit",
            command=command,
            references=REFERENCES,
            verdict=f"{len(fitting)} of {len(self.rows)} fit: {', '.join(fitting) or 'none'}",
            status={0: "good", 1: "bad", 4: "warn"}[self.exit_code],  # pyright: ignore[reportArgumentType]
        )
        header, lines = self.table()
        page.section("Plan").table(header, lines, f"{self.source or 'ratings'}; {self.room.text()}")
        rivals = {
            rival.name
            for row in self.rows
            if row.estimate and row.estimate.forecast
            for rival in row.estimate.forecast.rivals
        }
        if rivals:
            wanted = sorted(rivals)
            body: list[list[object]] = []
            for row in self.rows:
                if row.estimate is not None and row.estimate.forecast is not None:
                    told = {rival.name: rival.seconds for rival in row.estimate.forecast.rivals}
                    body.append([row.trainer, *(told.get(name) for name in wanted)])
            page.section("The same samples, other predictors").table(["trainer", *wanted], body, "CPU seconds")
        return page

    def __str__(self) -> str:
        header, lines = self.table()
        shown = aligned([header, *lines])
        limit = "" if self.time_s is None else f" within {format_seconds(self.time_s)}"
        shown.append(f"{self.room.text()}{limit}; spent {format_seconds(self.spent_s)} CPU")
        return "\n".join(shown)


def plan(
    ratings: Ratings,
    *,
    time: str | float | None = None,
    memory: str | int | None = None,
    trainers: Sequence[str | TrainerRecord] | Mapping[str, Mapping[str, Any]] | None = None,
    budget: str | float = "60s",
    seed: int = 0,
    rmse: bool = False,
    store: Store | str | Path | None = None,
    executor: Executor | None = None,
    bank: Bank | None = None,
    watch: Callable[[Note], object] | None = None,
) -> Plan:
    """Say which trainers fit into a time and a memory.

    All share one budget: first some rungs each, the cheapest first; then what is left goes to whichever
    is least decided. Rungs take turns, so that a neighbour's load does not fall on one trainer.

    Args:
        ratings: What would be trained on.
        time: Limit of elapsed time.
        memory: Limit of the whole process; what is free is always one.
        trainers: Names or records, or name -> hyper-parameters; None takes all that are installed.
        budget: CPU seconds for all of them.
        seed: Of every draw.
        rmse: Also train on a part of the largest sample and show the error on the rest of it.
        store: Where samples are kept.
        executor: Where the process for samples runs; None means here.
        bank: Finished cases that give the intervals.
        watch: Called with each `Note`.
    """
    budget_s = seconds_of(budget, "budget")
    time_s = None if time is None else seconds_of(time, "time")
    ratings.check_size()
    room = free(None if memory is None else int(parse_quantity(memory, kind="bytes")))
    records, rows = _records(trainers, ratings)
    climbing: list[tuple[str, Climb]] = []
    with ExitStack() as stack:
        store_here = stack.enter_context(opened(store))
        measuring = stack.enter_context(
            Measuring(
                ratings,
                budget_s=budget_s,
                room=room,
                store=store_here,
                executor=executor,
                watch=watch,
                modules=tuple(sorted({module for _, record in records for module in record.modules})),
            )
        )
        for name, record in records:
            try:
                check(record, ratings, room)
            except DoesNotFit as refusal:
                peak = peak_of(record, ratings.characteristics)
                rows.append(Row(name, "does not fit", f"{str(refusal).splitlines()[0]} ({format_bytes(peak.bytes)})"))
                continue
            share = 1.0 / len(records)
            climbing.append((name, Climb(record, ratings, measuring, seed=seed, within_s=time_s, share=share)))
        _climb_all([climb for _, climb in climbing], measuring, room, time_s, bank)
        for name, climb in climbing:
            rows.append(_row(name, climb, room, time_s, bank, rmse=rmse))
        spent, loaded = measuring.spent_s, measuring.loading_s
    order = {"fits": 0, "just train": 0, "undecided": 1, "does not fit": 2, "failed": 3}
    rows.sort(key=lambda row: (order[row.verdict], row.estimate.seconds if row.estimate else math.inf))
    return Plan(tuple(rows), ratings.source, time_s, room, spent, loaded)


def _records(
    given: Sequence[str | TrainerRecord] | Mapping[str, Mapping[str, Any]] | None, ratings: Ratings
) -> tuple[list[tuple[str, TrainerRecord]], list[Row]]:
    """Return settled records by label, and rows for those that are not installed."""
    asked: list[tuple[str | TrainerRecord, Mapping[str, Any]]]
    if isinstance(given, Mapping):
        asked = list(given.items())
    else:
        asked = [(one, {}) for one in (given if given is not None else names())]
    records: list[tuple[str, TrainerRecord]] = []
    rows: list[Row] = []
    for one, params in asked:
        record = find(one)
        label = record.name + (f"({', '.join(f'{k}={v}' for k, v in params.items())})" if params else "")
        try:
            settled = record.settled(params, ratings)
            settled.check_installed()
            check_terms(settled, ratings)
        except MissingExtra as error:
            if given is not None:
                raise
            rows.append(Row(label, "failed", str(error)))
            continue
        records.append((label, settled))
    return records, rows


def _climb_all(
    climbs: Sequence[Climb], measuring: Measuring, room: Free, time_s: float | None, bank: Bank | None
) -> None:
    going = list(climbs)
    for number in range(_ROUNDS):
        # Nobody may take more than a fair part before everybody has had three rungs.
        fair = measuring.budget_s / max(1, len(climbs))
        for climb in sorted(going, key=lambda one: _known_cost(one)):
            most = fair if number else None
            if not climb.go(most_s=most) and (number == 0 or climb.just is not None or climb.stopped):
                going.remove(climb)
    while going and measuring.left_s > 0:
        climb = max(going, key=lambda one: _doubt(one, room, time_s, bank))
        if not climb.go():
            going.remove(climb)


def _known_cost(climb: Climb) -> float:
    return climb.samples[-1].cpu_s if climb.samples else 0.0


def _doubt(climb: Climb, room: Free, time_s: float | None, bank: Bank | None) -> float:
    """Return how undecided a trainer is: 1 and more while the limit lies inside its interval."""
    try:
        now = answer(climb, climb.samples, room, time_s, bank=bank)
    except MlsysoptError:
        return 10.0
    if now.forecast is None:
        return 0.0
    width = math.log(now.high / now.low) if now.low > 0 and math.isfinite(now.high) else 5.0
    return width + (1.0 if now.verdict == "undecided" else 0.0)


def _row(name: str, climb: Climb, room: Free, time_s: float | None, bank: Bank | None, *, rmse: bool) -> Row:
    try:
        estimate = answer(climb, climb.samples, room, time_s, bank=bank)
    except MlsysoptError as error:
        return Row(name, "failed", "; ".join(str(error).splitlines()[:2]))
    epochs = _most_epochs(estimate, climb.record, time_s)
    why = "; ".join(estimate.reasons)
    if epochs is not None and estimate.verdict != "just train":
        asked = estimate.params[str(climb.record.epochs)]
        if epochs < asked:
            most = f"{epochs} epochs fit, {asked} do not" if epochs else "not even one epoch surely fits"
            why = f"{most}; {why}"
        else:
            why = f"up to {epochs:,} epochs fit; {why}"
    error = _held_out_error(climb) if rmse else math.nan
    return Row(name, estimate.verdict, why, estimate, epochs, error)


def _most_epochs(estimate: Estimate, record: TrainerRecord, time_s: float | None) -> int | None:
    """Invert the formula: the most epochs whose whole interval lies inside the limit."""
    name = record.epochs
    if time_s is None or estimate.forecast is None or name is None or name not in record.term_params:
        return None

    def fits(epochs: int) -> bool:
        return estimate.at(**{str(name): epochs}).high * estimate.wall_per_cpu <= time_s

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= _MOST_EPOCHS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _held_out_error(climb: Climb) -> float:
    """Train on four fifths of the ratings of the largest sample's rows, return the error on the rest."""
    from mlsysopt.train.estimate.accuracy import held_out_rmse
    from mlsysopt.train.estimate.sampling import subset

    if not climb.samples or climb.record.data != "trainset":
        return math.nan
    largest = max(climb.samples, key=lambda one: one.rows_share)
    rows = subset(climb.ratings, climb.record.side, largest.rows_share, seed=largest.seed)
    return held_out_rmse(climb.record, rows, seed=largest.seed, memory_bytes=climb.measuring.room.bytes)

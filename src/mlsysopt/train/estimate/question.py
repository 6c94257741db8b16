"""One question, one answer: will this training fit, and how long will it take."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError
from mlsysopt.core.measure import machine
from mlsysopt.core.quantities import parse_quantity
from mlsysopt.train.estimate.answer import Estimate, verdict_of
from mlsysopt.train.estimate.climb import FEWEST, Climb, answer, too_few
from mlsysopt.train.estimate.forecast import Predictor
from mlsysopt.train.estimate.measuring import Measuring, Note
from mlsysopt.train.estimate.memory import Free, check, free, peak_of
from mlsysopt.train.estimate.terms import Terms
from mlsysopt.train.estimate.trainers.registry import TrainerRecord, find

if TYPE_CHECKING:
    from mlsysopt.core.executors import Executor
    from mlsysopt.core.store import Store
    from mlsysopt.train.estimate.intervals import Bank
    from mlsysopt.train.estimate.ratings import Ratings
    from mlsysopt.train.estimate.samples import Sample

__all__ = ["check_terms", "opened", "run", "seconds_of"]

log = logging.getLogger("mlsysopt.estimate")

_TRANSFER_SHARES = (0.01, 0.03, 0.06)


def run(
    ratings: Ratings,
    trainer: str | TrainerRecord,
    params: Mapping[str, Any] | None = None,
    *,
    budget: str | float = "20s",
    memory: str | int | None = None,
    within: str | float | None = None,
    seed: int = 0,
    protocol: str = "default",
    predictor: Predictor = "whitebox",
    always: bool = False,
    model: str | Path | Estimate | None = None,
    transfer: bool = False,
    store: Store | str | Path | None = None,
    executor: Executor | None = None,
    bank: Bank | None = None,
    watch: Callable[[Note], object] | None = None,
) -> Estimate:
    """Say how long a training will take and how much memory it needs, from small samples.

    Args:
        ratings: What would be trained on.
        trainer: Name, `module:attribute`, or a record made by `estimate.trainer`.
        params: Hyper-parameters that differ from the trainer's defaults.
        budget: CPU seconds to spend (`20s`, `1min`); loading the full data for the walk comes on top.
        memory: Limit of the whole process (`8GiB`); what is free is always one.
        within: Limit of elapsed time (`10min`).
        seed: Of every draw.
        protocol: `default`, or `paper`: at most 10 % of the rows and the hyper-parameters in question.
        predictor: `whitebox`, or `average`.
        always: Sample even where training costs less than asking.
        model: An estimate, or its file, whose samples are to be used instead of new ones.
        transfer: Allow one of another machine or other data, after timing three rungs here.
        store: Where samples are kept, so that the same question goes on where it stopped.
        executor: Where the process for samples runs; None means here.
        bank: Finished cases that give the interval; None takes the user's own from 20 on, else the shipped ones.
        watch: Called with each `Note`.

    Raises:
        UsageError: an unknown trainer, hyper-parameter or protocol, or data that are too small.
        MissingExtra: the trainer is not installed.
        DoesNotFit: the memory does not suffice; nothing was started.
        SamplingFailed: fewer than three good samples.
    """
    budget_s = seconds_of(budget, "budget")
    limit = None if memory is None else int(parse_quantity(memory, kind="bytes"))
    within_s = None if within is None else seconds_of(within, "within")
    record = find(trainer).settled(params, ratings)
    record.check_installed()
    ratings.check_size()
    room = free(limit)
    check_terms(record, ratings)
    check(record, ratings, room)
    if model is not None:
        given = model if isinstance(model, Estimate) else Estimate.read(model)
        if not transfer:
            return _asked_again(given, record, ratings, room, within_s)
    else:
        given = None
    with ExitStack() as stack:
        kept = stack.enter_context(opened(store))
        threads = int(record.params[record.threads]) if record.threads else 1
        measuring = stack.enter_context(
            Measuring(
                ratings,
                budget_s=budget_s,
                room=room,
                store=kept,
                executor=executor,
                threads=threads,
                modules=record.modules,
                watch=watch,
            )
        )
        climb = Climb(record, ratings, measuring, seed=seed, protocol=protocol, always=always, within_s=within_s)
        if given is not None:
            climb.retime(_TRANSFER_SHARES)
        while climb.go():
            pass
        samples = climb.samples if given is None else _transferred(given, climb)
        return answer(climb, samples, room, within_s, predictor=predictor, bank=bank)


def check_terms(record: TrainerRecord, ratings: Ratings) -> None:
    """Compute every term for the full data: one that is negative there is known before anything is timed.

    Raises:
        TermError: the term, its value and what it was computed from.
    """
    sizes = ratings.characteristics
    Terms(record.time).columns(sizes.with_walk(Wu=1e-8 * sizes.R, Wi=1e-8 * sizes.R), record.params)


def _asked_again(
    given: Estimate, record: TrainerRecord, ratings: Ratings, room: Free, within_s: float | None
) -> Estimate:
    """Answer from an estimate of the same machine and data, without a new sample."""
    here = machine().key()
    if given.trainer != record.name:
        raise UsageError(f"the estimate is of trainer {given.trainer!r}, asked is {record.name!r}")
    if given.machine != here or given.digest != ratings.digest:
        raise UsageError(
            f"the estimate is of machine {given.machine} and data {given.digest[:12]}, "
            f"this is machine {here} and data {ratings.digest[:12]}\n"
            "with --transfer three rungs are timed here first"
        )
    if given.forecast is None:
        raise UsageError("the estimate has no formula: training was cheaper than asking; run it without --model")
    forecast = given.forecast.at(**record.params)
    peak = peak_of(record, ratings.characteristics, samples=forecast.samples)
    verdict, reasons = verdict_of(forecast, 0.0, peak, room, within_s, given.wall_per_cpu)
    return replace(
        given,
        params=dict(record.params),
        forecast=forecast,
        peak=peak,
        room=room,
        within_s=within_s,
        verdict=verdict,
        reasons=reasons,
        record=record,
        spent_s=0.0,
        load_s=0.0,
        from_store=len(forecast.samples),
    )


def _transferred(given: Estimate, climb: Climb) -> list[Sample]:
    """Join the samples of another machine or data with those just taken here, by one common factor of speed."""
    if given.trainer != climb.record.name:
        raise UsageError(f"the estimate is of trainer {given.trainer!r}, asked is {climb.record.name!r}")
    if given.forecast is None:
        raise UsageError("the estimate has no formula to transfer: run it without --model")
    if len(climb.samples) < FEWEST:
        raise too_few(climb)
    terms = Terms(given.forecast.terms)
    factors = [
        one.cpu_s / float(terms.columns(one.characteristics, one.params) @ list(given.forecast.coefficients))
        for one in climb.samples
    ]
    factor = statistics.median(factors)
    log.info("transferred: this machine takes %.2f times as long", factor)
    old = [
        replace(
            one,
            cpu_s=one.cpu_s * factor,
            wall_s=one.wall_s * factor,
            weight=0.5 * one.weight,
            # Read there: it says nothing of here.
            pace_s=0.0,
            characteristics=one.characteristics.with_walk(
                Wu=one.characteristics.Wu * factor, Wi=one.characteristics.Wi * factor
            ),
        )
        for one in given.forecast.samples
    ]
    return [*old, *climb.samples]


def opened(store: Store | str | Path | None) -> AbstractContextManager[Store | None]:
    """Open a store for the length of a `with` block; an open one stays open."""
    if store is None or not isinstance(store, str | Path):
        return nullcontext(store)
    from mlsysopt.core.store import Store

    return Store.open(store)


def seconds_of(given: str | float, what: str) -> float:
    """Read a time above 0.

    Raises:
        QuantityError: not a time.
        UsageError: not above 0.
    """
    found = float(parse_quantity(given, kind="seconds"))
    if not found > 0:
        raise UsageError(f"{what} must be above 0, got {given!r}")
    return found

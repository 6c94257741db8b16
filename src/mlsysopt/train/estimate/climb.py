"""The way up a ladder of samples: which rung comes next, whether it can be afforded, when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlsysopt.core.errors import MlsysoptError
from mlsysopt.core.measure import conditions, machine
from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.target import Failure
from mlsysopt.train.estimate import clock
from mlsysopt.train.estimate import forecast as forecasts
from mlsysopt.train.estimate.answer import Estimate, verdict_of
from mlsysopt.train.estimate.forecast import Forecast, Predictor
from mlsysopt.train.estimate.intervals import scale_of
from mlsysopt.train.estimate.measuring import Measuring, Part
from mlsysopt.train.estimate.memory import Free, peak_of
from mlsysopt.train.estimate.samples import steady
from mlsysopt.train.estimate.sampling import Rung, bound, ladder, predicted, usable
from mlsysopt.train.estimate.typical import usual
from mlsysopt.train.estimate.whitebox import fitted

if TYPE_CHECKING:
    from mlsysopt.train.estimate.characteristics import Characteristics
    from mlsysopt.train.estimate.intervals import Bank
    from mlsysopt.train.estimate.ratings import Ratings
    from mlsysopt.train.estimate.samples import Sample
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord

__all__ = ["FEWEST", "Climb", "SamplingFailed", "answer", "too_few"]

FEWEST = 3
"""Fewer samples give no forecast."""

# Below this part of the budget a training is not worth asking about.
_JUST_TRAIN = 0.2
# A rung may cost a little more than it was expected to.
_MARGIN = 1.25
# Rungs that were skipped, to fill what is left of a budget with a smaller step.
_SHRINK = (1.0, 0.8, 0.65)
_NARROWER = 0.97
_MOST_FAILURES = 3
_MOST_RUNGS = 24


class SamplingFailed(MlsysoptError):
    """Fewer than three samples came out well: there is no forecast."""


class Climb:
    """One trainer's way up its ladder, a rung at a time, so that several can take turns.

    Args:
        record: Settled record.
        ratings: All of them.
        measuring: What takes the samples.
        seed: Of every draw.
        protocol: See `ladder`.
        always: Sample even where training costs less than asking.
        within_s: Limit of elapsed time: a training that may exceed it is not "just" done.
        share: Part of the budget that is this trainer's.

    Attributes:
        samples: Those that came out well.
        failures: Those that did not.
        just: CPU seconds of the full training, once it is known to cost less than asking.
        sizes: Characteristics of all the data, walks included.
    """

    def __init__(
        self,
        record: TrainerRecord,
        ratings: Ratings,
        measuring: Measuring,
        *,
        seed: int = 0,
        protocol: str = "default",
        always: bool = False,
        within_s: float | None = None,
        share: float = 1.0,
    ) -> None:
        self.record = record
        self.ratings = ratings
        self.measuring = measuring
        self.always = always or protocol == "paper"
        self._within_s = within_s
        self._cheap_s = _JUST_TRAIN * share * measuring.budget_s
        self.samples: list[Sample] = []
        self.failures: list[Failure] = []
        self.just: float | None = None
        self.steps = ladder(record, ratings, seed=seed, protocol=protocol)
        self.stopped = ""
        self._planned = protocol == "paper"
        self._waiting: Rung | None = None
        self._sizes: Characteristics | None = None
        self._spreads: list[float] = []

    @property
    def sizes(self) -> Characteristics:
        if self._sizes is None:
            self._sizes = self.measuring.walked(self.record)
        return self._sizes

    def go(self, *, most_s: float | None = None) -> bool:
        """Take the next rung; False when the way ends here.

        Args:
            most_s: CPU seconds that this rung may cost; None means what is left of the budget.
        """
        rung = self._peek()
        if rung is None or self.just is not None or self.stopped:
            return False
        self._waiting = None
        sizes = self.sizes
        left = self.measuring.left_s if most_s is None else min(most_s, self.measuring.left_s)
        part = self._affordable(rung, left)
        if part is None:
            return self._stop("the next rung would break the budget")
        sample = self.measuring.known(part)
        if sample is None:
            expected = self._expected(part)
            found = self.measuring.take(part, sizes, expected_s=expected)
            if isinstance(found, Failure):
                self.failures.append(found)
                if found.kind == "rejected" or "memory" in found.reason:
                    return self._stop(f"memory: {found.reason}")
                if len(self.failures) >= _MOST_FAILURES:
                    return self._stop(f"{len(self.failures)} samples failed")
                return True
            sample = found
        self.samples.append(sample)
        if part.rung.share >= 0.999:
            return self._stop("that was all of the data")
        return self._worth_going_on()

    def retime(self, shares: Sequence[float]) -> None:
        """Take rungs of these shares, whatever the training costs, instead of the ladder."""
        rungs = list(zip(shares, self.steps, strict=False))
        self.steps = iter(
            [replace(rung, number=n, share=max(share, rung.share), tilt=0) for n, (share, rung) in enumerate(rungs)]
        )
        self.always = self._planned = True

    def _peek(self) -> Rung | None:
        if self._waiting is None and len(self.samples) + len(self.failures) < _MOST_RUNGS:
            self._waiting = next(self.steps, None)
        return self._waiting

    def _expected(self, part: Part) -> float:
        own = part.ratings.characteristics.with_ramp(W1=self.sizes.W1, W2=self.sizes.W2)
        walks = {name: getattr(self.sizes, name) * own.R / self.sizes.R for name in self.record.walks}
        return predicted(part.record, self.samples, own.with_walk(**walks), part.rung.params)

    def _affordable(self, rung: Rung, left: float) -> Part | None:
        """Return the rung as it is, cheaper, or smaller; None where nothing useful can be afforded."""
        largest = max((one.rows_share for one in self.samples), default=0.0)
        tried = [rung]
        if not self._planned and len(self.samples) >= FEWEST:
            cheap = dict(rung.params)
            if self.record.epochs in cheap:
                cheap[str(self.record.epochs)] = 1
            for part in _SHRINK:
                share = rung.share * part
                if share > largest:
                    tried += [replace(rung, share=share), replace(rung, share=share, params=cheap)]
        for one in tried:
            part = self.measuring.part(self.record, one)
            expected = self._expected(part)
            # The first rung is the smallest there is: it is tried unless the budget is gone.
            cost = (0.0 if math.isnan(expected) else _MARGIN * expected) + self.measuring.overhead_s(part)
            if cost <= left:
                return part
        return None

    def _worth_going_on(self) -> bool:
        number = len(self.samples)
        if number == 2 and not self.always:
            most = min(bound(self.record, one, self.sizes, self.record.params) for one in self.samples)
            wall = most * max(one.wall_s / one.cpu_s for one in self.samples)
            if most <= self._cheap_s and (self._within_s is None or wall <= self._within_s):
                self.just = min(most, predicted(self.record, self.samples, self.sizes, self.record.params))
                return self._stop("training costs less than asking")
        if number < FEWEST + 1 or self._planned:
            return True
        # Rivals and terms from the dictionary can wait for the last sample.
        known = usual(self.record.name, calibrated=self.record.calibrated)
        terms = usable(self.record, [self.sizes, *(one.characteristics for one in self.samples)])
        white = fitted(terms.texts, steady(self.samples), trainer=self.record.name, typical=known)
        seconds = float(white.terms.columns(self.sizes, self.record.params) @ white.coefficients)
        rho = seconds / max(one.cpu_s for one in self.samples)
        self._spreads.append(scale_of(rho, white.rolling_error))
        best = min(self._spreads[:-2], default=math.inf)
        if len(self._spreads) > 2 and all(later > _NARROWER * best for later in self._spreads[-2:]) and rho < 20:
            return self._stop("the interval stopped narrowing")
        return True

    def _stop(self, why: str) -> bool:
        self.stopped = why
        return False


def answer(
    climb: Climb,
    samples: Sequence[Sample],
    room: Free,
    within_s: float | None,
    *,
    predictor: Predictor = "whitebox",
    bank: Bank | None = None,
) -> Estimate:
    """Make the estimate from what a climb found.

    Raises:
        SamplingFailed: fewer than three good samples.
    """
    record, ratings, measuring = climb.record, climb.ratings, climb.measuring
    peak = peak_of(record, ratings.characteristics, samples=climb.samples)
    forecast: Forecast | None = None
    if climb.just is None:
        if len(samples) < FEWEST:
            raise too_few(climb)
        forecast = forecasts.fit(
            record,
            samples,
            climb.sizes,
            predictor=predictor,
            digest=ratings.digest,
            calibrated=record.calibrated,
            loaded_bytes=peak.process + peak.loaded + peak.other,
            bank=bank,
        )
    # A machine that is slower now than at any sample; paces that the samples saw are in their mean.
    paces = [one.pace_s for one in climb.samples if one.pace_s > 0]
    change = max(1.0, clock.pace() / max(paces)) if paces else 1.0
    ratio = sum(one.wall_s for one in climb.samples) / sum(one.cpu_s for one in climb.samples) * change
    verdict, reasons = verdict_of(forecast, climb.just or 0.0, peak, room, within_s, ratio)
    return Estimate(
        trainer=record.name,
        params=dict(record.params),
        source=ratings.source,
        digest=ratings.digest,
        forecast=forecast,
        about_s=climb.just or 0.0,
        peak=peak,
        room=room,
        within_s=within_s,
        verdict=verdict,
        reasons=reasons,
        spent_s=measuring.spent_s,
        load_s=measuring.loading_s,
        wall_per_cpu=ratio,
        failures=tuple(climb.failures),
        from_store=measuring.from_store,
        machine=machine().key(),
        load1=conditions().load1,
        record=record,
    )


def too_few(climb: Climb) -> MlsysoptError:
    good = len(climb.samples)
    if not climb.failures:
        cost = climb.measuring.budget_s
        return SamplingFailed(
            f"{climb.record.name}: the budget of {format_seconds(cost)} bought {good} samples, a forecast needs "
            f"{FEWEST}: give --budget {math.ceil(3 * cost)}s"
        )
    last = climb.failures[-1]
    tail = last.log_tail.strip().splitlines()[-1:] or [""]
    return SamplingFailed(
        f"{climb.record.name}: {len(climb.failures)} samples failed, {good} came out well, a forecast needs {FEWEST}\n"
        f"the last one: {last.kind}: {last.reason}\n{tail[0]}".strip()
    )

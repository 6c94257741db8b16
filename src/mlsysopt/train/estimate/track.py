"""The time left of a training that runs: from the forecast at first, from its own epochs more and more."""

from __future__ import annotations

import io
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from mlsysopt.core.errors import MlsysoptError, UsageError

if TYPE_CHECKING:
    from mlsysopt.train.estimate.answer import Estimate

__all__ = ["EpochClock", "Left", "Tracker", "TrainingStopped", "truncated_left"]

_Z90 = 1.6449
# The spread of single epochs before any was seen, in logarithms. Taken too small, noisy epochs are news, and what
# would have averaged out is forgotten; taken too large, little is lost: simulated with spreads of 0.03 to 0.25,
# anything from 0.09 to 0.15 does. On cores that others work on as well, 0.13 is in the middle of 40 trainings.
_EPOCH_NOISE = 0.13
_FORGET = 0.9
# An epoch so many standard errors off its prediction is news about the machine, not noise.
_SURPRISE = 4.0
# Two in a row that are half as surprising, on the same side, are as rare as one of those.
_LEAN = 2.0
_AFTER_SURPRISE = 0.03
_LEAST_SPREAD = 0.02


class TrainingStopped(MlsysoptError):
    """Raised inside a training that was asked to stop."""


@dataclass(frozen=True, slots=True)
class Left:
    """Elapsed seconds that a training will still take, with a 90 % interval.

    Attributes:
        seconds: Most likely.
        low: Lower end.
        high: Upper end.
        done: Share of the epochs that are finished; nan for one-phase trainers.
        basis: What it rests on.
    """

    seconds: float
    low: float
    high: float
    done: float
    basis: str


class EpochClock:
    """What one epoch takes: a normal belief about its logarithm, updated by every epoch that ends.

    Args:
        epoch_s: Seconds of one epoch as forecast.
        spread: Standard deviation of the forecast's logarithm.
        forget: Weight that old epochs keep with each new one, so that a slower machine is noticed.

    >>> clock = EpochClock(1.0, 0.3)
    >>> for _ in range(5):
    ...     clock.add(2.0)
    >>> round(clock.epoch_s, 1)
    2.0
    """

    def __init__(self, epoch_s: float, spread: float, *, forget: float = _FORGET) -> None:
        self._mean = math.log(max(epoch_s, 1e-9))
        self._precision = 1.0 / max(spread, _LEAST_SPREAD) ** 2
        self._forget = forget
        self._noise = _EPOCH_NOISE
        self._mixed = False
        self._leaning = 0.0
        self.epochs = 0

    @property
    def epoch_s(self) -> float:
        """Seconds of one epoch as believed now."""
        return math.exp(self._mean)

    @property
    def spread(self) -> float:
        """Standard deviation of that belief, in logarithms."""
        return math.sqrt(1.0 / self._precision)

    def add(self, seconds: float) -> None:
        """Learn from one finished epoch."""
        seen = math.log(max(seconds, 1e-9))
        miss = seen - self._mean
        expected = math.hypot(self.spread, self._noise)
        leaning = math.copysign(1.0, miss) if abs(miss) > _LEAN * expected else 0.0
        again = leaning != 0.0 and leaning == self._leaning
        surprised = self.epochs > 0 and (abs(miss) > _SURPRISE * expected or again)
        # What was believed is worth less with every epoch, and next to nothing after a jump; so is the epoch
        # that jumped, since the machine changed somewhere in the middle of it.
        prior = self._precision * (_AFTER_SURPRISE if surprised or self._mixed else self._forget)
        weight = 1.0 / self._noise**2
        self._mean = (prior * self._mean + weight * seen) / (prior + weight)
        self._precision = prior + weight
        if not surprised and not self._mixed and self.epochs:
            # Slowly, and never to nothing: three equal epochs prove no clockwork.
            self._noise = math.sqrt(max(_LEAST_SPREAD**2, 0.8 * self._noise**2 + 0.2 * min(miss**2, 0.09)))
        self._mixed = surprised and not again and not self._mixed
        self._leaning = 0.0 if surprised else leaning
        self.epochs += 1

    def left(self, epochs: float) -> tuple[float, float, float]:
        """Return seconds of so many epochs to come, with the ends of their interval."""
        if epochs <= 0:
            return 0.0, 0.0, 0.0
        # A common factor that is uncertain, and noise that averages out.
        spread = math.sqrt(self.spread**2 + self._noise**2 / max(epochs, 1.0))
        middle = epochs * self.epoch_s
        return middle, middle * math.exp(-_Z90 * spread), middle * math.exp(_Z90 * spread)


def truncated_left(forecast_s: float, spread: float, passed_s: float) -> tuple[float, float, float]:
    """Return what is left of a training without epochs, given only that it has not ended yet.

    The forecast is log-normal; returned are `E[T - t | T > t]` and the 5 and 95 % points of `T - t`.

    Args:
        forecast_s: Median of the whole.
        spread: Standard deviation of its logarithm.
        passed_s: Time passed.

    >>> [round(x, 2) for x in truncated_left(10.0, 0.2, 4.0)]
    [6.2, 3.2, 9.9]
    """
    from scipy.special import log_ndtr, ndtri

    mu, s, t = math.log(forecast_s), max(spread, _LEAST_SPREAD), max(passed_s, 1e-9)
    z = (mu - math.log(t)) / s
    beyond = math.exp(float(log_ndtr(z)))
    if beyond < 1e-12:
        # Far beyond the forecast nothing of it is left to go by: as long again as it has been overdue, at least.
        rest = max(t - forecast_s, 0.1 * t)
        return rest, 0.0, 10.0 * rest
    mean = math.exp(mu + s * s / 2 + float(log_ndtr(z + s)) - float(log_ndtr(z)))
    low, high = (math.exp(mu - s * float(ndtri(beyond * (1.0 - part)))) for part in (0.05, 0.95))
    return max(mean - t, 0.0), max(low - t, 0.0), max(high - t, 0.0)


class Tracker:
    """Follows one training; use it with `with` around `fit`.

    Epochs are seen as lines on standard output (`verbose=True`), through `callback`, or by `step()`.

    Args:
        epochs: Epochs of the training; None for a trainer without any.
        epoch_s: Elapsed seconds of one epoch as forecast.
        setup_s: Elapsed seconds before the first one, as forecast.
        spread: Standard deviation of the forecast's logarithm.
        line: Pattern of the line that begins an epoch; "" listens to no lines.
        phase: Pattern of a line that tells a phase.
        on_left: Called with each new `Left`.
        clock: Reads elapsed seconds.

    Attributes:
        events: Seconds after the start at which each epoch began or ended.
        phases: Phase lines with their seconds.
    """

    def __init__(
        self,
        *,
        epochs: int | None,
        epoch_s: float,
        setup_s: float = 0.0,
        spread: float = 0.3,
        line: str = "",
        phase: str = "",
        on_left: Callable[[Left], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if epochs is not None and epochs < 1:
            raise UsageError(f"a tracker needs at least one epoch, got {epochs}")
        self.epochs = epochs
        self.clock = EpochClock(epoch_s, spread)
        self.events: list[float] = []
        self.phases: list[tuple[float, str]] = []
        self.finished_s: float | None = None
        self.cpu_s = 0.0
        self._whole = (setup_s + (epochs or 1) * epoch_s, spread)
        self._setup_s = setup_s
        self._line = re.compile(line) if line else None
        self._phase = re.compile(phase) if phase else None
        self._on_left = on_left
        self._now = clock
        self._started: float | None = None
        self._begun = 0
        self._stop = ""
        self._out: TextIO | None = None
        self._done: Callable[[Tracker], object] | None = None

    @classmethod
    def of(cls, estimate: Estimate, *, remember: bool = True, **options: Any) -> Tracker:
        """Make one from an estimate.

        Args:
            estimate: With or without a forecast.
            remember: Whether the finished training becomes a case of the user's own bank.
            options: `on_left`, `clock`.
        """
        record, forecast = estimate.record, estimate.forecast
        params = dict(estimate.params)
        name = record.epochs if record is not None else next((one for one in params if "epoch" in one), None)
        has_epochs = name in params and (record is None or record.events in ("lines", "callback", "step"))
        epochs = int(params[str(name)]) if has_epochs else None
        whole, setup = estimate.wall_s, 0.0
        epoch = whole / (epochs or 1)
        if forecast is not None and epochs is not None and epochs > 1:
            more = forecast.at(**{str(name): 2 * epochs}).seconds
            epoch = (more - forecast.seconds) / epochs * estimate.wall_per_cpu
            setup = max(0.0, whole - epochs * epoch)
        spread = (
            math.log(estimate.high / estimate.low) / (2 * _Z90) if 0 < estimate.low < estimate.high < math.inf else 0.5
        )
        lines = record is not None and record.events == "lines"
        phases = record is not None and record.events == "phases"
        tracker = cls(
            epochs=epochs,
            epoch_s=max(epoch, 1e-9),
            setup_s=setup,
            spread=spread,
            line=record.line if record is not None and lines else "",
            phase=record.line if record is not None and phases else "",
            **options,
        )
        if remember and forecast is not None:
            tracker._done = lambda done: _remember(estimate, done.cpu_s)
        return tracker

    def __enter__(self) -> Tracker:
        self._started = self._now()
        self._cpu_before = time.process_time()
        if self._line is not None or self._phase is not None:
            self._out = sys.stdout
            sys.stdout = _Tee(sys.stdout, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._out is not None:
            sys.stdout = self._out
            self._out = None
        self.finished_s = self._passed()
        self.cpu_s = time.process_time() - self._cpu_before
        if kind is None and self._done is not None:
            self._done(self)

    @property
    def done(self) -> int:
        """Epochs that have ended."""
        return len(self.events)

    def left(self) -> Left:
        """Return what the training will still take, as of now."""
        passed = self._passed()
        if self.epochs is None:
            seconds, low, high = truncated_left(*self._whole, passed)
            return Left(seconds, low, high, math.nan, "forecast, given that it has not ended")
        last = self.events[-1] if self.events else self._begin()
        running = max(0.0, passed - last)
        seconds, low, high = self.clock.left(self.epochs - self.done)
        if not self.events and not self._begun:
            # Set-up goes on: what is left of it comes on top.
            rest = max(0.0, self._setup_s - passed)
            running = 0.0
            seconds, low, high = seconds + rest, low + rest, high + rest
        basis = "forecast" if not self.done else f"forecast and {self.done} epochs"
        running = min(running, self.clock.epoch_s) if self.done < self.epochs else 0.0
        return Left(
            max(seconds - running, 0.0),
            max(low - running, 0.0),
            max(high - running, 0.0),
            self.done / self.epochs,
            basis,
        )

    def step(self) -> None:
        """Say that one epoch has ended."""
        if self.epochs is None:
            raise UsageError("this trainer has no epochs to step through")
        self._end_epoch()
        self._check_stop()

    def callback(self, *_: Any) -> None:
        """Be the `callback=` of a trainer that calls one after each epoch."""
        self.step()

    def stop(self, why: str = "asked to stop") -> None:
        """End the training at its next epoch by raising `TrainingStopped` inside it."""
        self._stop = why

    def _begin(self) -> float:
        return self._first if self._begun else 0.0

    def _passed(self) -> float:
        if self._started is None:
            return 0.0
        return self.finished_s if self.finished_s is not None else self._now() - self._started

    def _read(self, line: str) -> None:
        if self._phase is not None and self._phase.search(line):
            self.phases.append((self._passed(), line.strip()))
            self._tell()
            self._check_stop()
        if self._line is not None and self._line.search(line):
            # The line stands at the beginning of an epoch: the one before it has ended.
            if self._begun:
                self._end_epoch()
            else:
                self._first = self._passed()
                self._tell()
            self._begun += 1
            self._check_stop()

    def _end_epoch(self) -> None:
        now = self._passed()
        if self.events:
            self.clock.add(now - self.events[-1])
        elif self._begun:
            self.clock.add(now - self._first)
        else:
            # Nobody told when the first one began: set-up as forecast is taken off.
            self.clock.add(max(now - self._setup_s, 0.1 * now))
        self.events.append(now)
        self._tell()

    def _tell(self) -> None:
        if self._on_left is not None:
            self._on_left(self.left())

    def _check_stop(self) -> None:
        if self._stop:
            raise TrainingStopped(f"the training was ended after {self.done} epochs: {self._stop}")


class _Tee(io.TextIOBase):
    """Standard output that shows every whole line to a listener on its way."""

    def __init__(self, out: TextIO, listen: Callable[[str], object]) -> None:
        self._out = out
        self._listen = listen
        self._part = ""

    def write(self, text: str, /) -> int:
        written = self._out.write(text)
        *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            self._listen(line)
        return written

    def flush(self) -> None:
        self._out.flush()

    def isatty(self) -> bool:
        return self._out.isatty()

    def fileno(self) -> int:
        return self._out.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._out.encoding


def _remember(estimate: Estimate, cpu_s: float) -> None:
    from mlsysopt.train.estimate.intervals import Case, remember

    forecast = estimate.forecast
    if forecast is None or cpu_s <= 0:
        return
    remember(
        Case(
            forecast.trainer,
            f"{estimate.source or 'ratings'} {estimate.digest[:8]}",
            cpu_s,
            forecast.seconds,
            forecast.rho,
            forecast.rolling_error,
        )
    )

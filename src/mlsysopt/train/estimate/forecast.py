"""Samples in, a formula out: what the full training costs, how sure that is, and what else it answers for free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from mlsysopt.core.errors import MlsysoptError, UsageError, near_misses
from mlsysopt.core.measure import machine
from mlsysopt.core.quantities import format_bytes, format_seconds
from mlsysopt.train.estimate import rivals
from mlsysopt.train.estimate.characteristics import WALKS, Characteristics
from mlsysopt.train.estimate.intervals import Bank, bank_for
from mlsysopt.train.estimate.samples import Sample, steady
from mlsysopt.train.estimate.terms import Terms, numeric
from mlsysopt.train.estimate.typical import NOTHING, Typical, usual
from mlsysopt.train.estimate.whitebox import WhiteBox, automatic, fitted

__all__ = ["FLAG", "Forecast", "ForecastError", "Predictor", "Record", "Rival", "Sample", "fit"]

Predictor = Literal["whitebox", "average"]

_FEWEST = 3
# Beyond so many times the sampled range a hyper-parameter is extrapolated.
_FAR = 4.0
# How much uncertainty each e-fold beyond that range adds.
_PER_FAR_E_FOLD = 0.2
# From this rolling error on, the declared terms are said to contradict the samples.
FLAG = 0.25
_NO_WALK = "white box without the walk"


class ForecastError(MlsysoptError):
    """Samples that are too few for a forecast."""


class Record(Protocol):
    """What a forecast reads of a trainer."""

    @property
    def name(self) -> str:
        """The trainer's name."""
        ...

    @property
    def time(self) -> Sequence[str]:
        """Its cost terms; a constant is added."""
        ...

    @property
    def memory(self) -> str:
        """Bytes at its peak beyond the loaded data, as an expression."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Its hyper-parameters with their defaults."""
        ...


@dataclass(frozen=True, slots=True)
class Rival:
    """What another predictor says from the same samples.

    Attributes:
        name: The predictor.
        seconds: CPU seconds of the full training.
    """

    name: str
    seconds: float


@dataclass(frozen=True, eq=False)
class Forecast:
    """What a full training costs, as a formula with an interval; made by `fit`.

    Attributes:
        trainer: Name of the trainer.
        params: Hyper-parameters of the full training.
        asked: Those that the samples were designed for; `at` changes `params` only.
        characteristics: Of the full data.
        samples: What was measured, as if at one pace of the machine: see `steady`.
        terms: Cost terms.
        coefficients: CPU seconds per unit of each term, shape (k,).
        rolling_error: Root mean square of ln(predicted / true) over the latest rungs.
        seconds: CPU seconds forecast.
        low: Lower end of the interval.
        high: Upper end; inf where the bank is too small.
        memory: Expression for the peak beyond the loaded data, in bytes; "" where none is declared.
        loaded_bytes: What the loaded data and the interpreter take.
        calibration: Which cases the interval comes from, in words.
        extrapolated: Hyper-parameters asked for far beyond the sampled range.
        auto: Terms from the dictionary, CPU seconds and rolling error, where the declared terms were flagged.
        dropped: Terms left out because a walk was not timed.
        predictor: What `seconds` is.
        machine: Key of the machine that the samples were timed on.
        digest: Of the full data; "" where it is not known.
        bank: Cases that give the interval.
        typical: What the trainer's terms usually cost in proportion; empty where it is not known.
    """

    trainer: str
    params: dict[str, Any]
    asked: dict[str, Any]
    characteristics: Characteristics
    samples: tuple[Sample, ...]
    terms: tuple[str, ...]
    coefficients: tuple[float, ...]
    rolling_error: float
    seconds: float
    low: float
    high: float
    memory: str = ""
    loaded_bytes: float = 0.0
    calibration: str = ""
    extrapolated: tuple[str, ...] = ()
    auto: tuple[tuple[str, ...], float, float] | None = None
    dropped: tuple[str, ...] = ()
    predictor: Predictor = "whitebox"
    machine: str = ""
    digest: str = ""
    bank: Bank = field(default_factory=lambda: Bank(()), repr=False)
    typical: Typical = field(default=NOTHING, repr=False)

    @property
    def held(self) -> bool:
        """Whether the terms were held near what they usually cost in proportion."""
        return self.typical.expected(self.trainer, self.terms) is not None

    @property
    def flagged(self) -> bool:
        """Whether the declared terms contradict the samples; terms that held in other trainings do not."""
        return self.rolling_error > FLAG and not self.held

    @property
    def rho(self) -> float:
        """Forecast over the time of the largest sample."""
        return self.seconds / max(sample.cpu_s for sample in self.samples)

    @property
    def wall_s(self) -> float:
        """Elapsed seconds, if the full training gets as much of the machine as the samples did."""
        return self.seconds * float(np.median([sample.wall_s / sample.cpu_s for sample in self.samples]))

    @property
    def spent_s(self) -> float:
        """CPU seconds that the samples cost in all."""
        return sum(sample.spent_s or sample.cpu_s * sample.repeats for sample in self.samples)

    @property
    def peak_bytes(self) -> float:
        """Highest resident memory of the full training, the loaded data included; nan without a formula."""
        return self.loaded_bytes + self.array_bytes

    @property
    def array_bytes(self) -> float:
        """Bytes that the trainer itself adds at its peak."""
        if not self.memory:
            return math.nan
        return float(Terms([self.memory]).columns(self.characteristics, self.params)[0])

    @cached_property
    def rivals(self) -> tuple[Rival, ...]:
        """Every other predictor on the same samples, in a fixed order; none is left out.

        Raises:
            MissingExtra: without scikit-learn.
        """
        white = self._white(self.terms, self.coefficients)
        found = rivals.black_boxes(self.samples, self.characteristics, self.params)
        found[rivals.WITH_LOGLOG] = math.sqrt(white * found["log-log"])
        rows = {"white box": white, **found}
        walked = [term for term in self.terms if not Terms([term]).names & set(WALKS)]
        if len(walked) < len(self.terms):
            alone = fitted(walked, self.samples, trainer=self.trainer, typical=self.typical)
            rows[_NO_WALK] = self._white(alone.terms.texts, alone.coefficients)
        if self.auto is not None:
            rows["terms picked from the dictionary"] = self.auto[1]
        return tuple(Rival(name, seconds) for name, seconds in rows.items())

    def at(self, **params: Any) -> Forecast:
        """Return the forecast for other hyper-parameters, without a new sample.

        What lies beyond four times the sampled range, or never varied in the samples, is listed in
        `extrapolated`, and the interval is wider.

        Raises:
            UsageError: an unknown hyper-parameter, or one that is no number and so changes the terms.
        """
        for name, value in params.items():
            if name not in self.params:
                near = near_misses(name, self.params, noun="hyper-parameter")
                raise UsageError(f"{self.trainer} has no hyper-parameter {name!r}: {near}")
            if value != self.params[name] and not numeric({name: value}):
                raise UsageError(f"{name}={value!r} changes what is computed: it needs samples of its own")
        asked = {**self.params, **params}
        white = replace(self, params=asked)._white(self.terms, self.coefficients)
        if self.predictor == "average":
            white = math.sqrt(white * rivals.log_log(self.samples, self.characteristics, asked))
        auto = self.auto
        if auto is not None:
            picked = fitted(auto[0], self.samples)
            auto = (auto[0], float(picked.terms.columns(self.characteristics, asked) @ picked.coefficients), auto[2])
        return _with_interval(replace(self, params=asked, seconds=white, auto=auto))

    def contributions(self) -> dict[str, float]:
        """Return term -> CPU seconds that it adds to the full training."""
        values = Terms(self.terms).columns(self.characteristics, self.params) * np.array(self.coefficients)
        return {term: float(value) for term, value in zip(self.terms, values, strict=True)}

    def shares(self) -> dict[str, float]:
        """Return term -> its share of the white box's forecast; the shares add up to 1."""
        parts = self.contributions()
        total = sum(parts.values())
        return {term: value / total for term, value in parts.items()}

    def formula(self) -> str:
        """Return CPU seconds as a sum of terms; what was fitted to 0 is left out."""
        parts = [f"{c:.3g}*{term}" for c, term in zip(self.coefficients, self.terms, strict=True) if c > 0]
        return " + ".join(parts).replace("*1 ", " ").removesuffix("*1")

    def explain(self) -> dict[str, Any]:
        """Return everything that a reader may ask for, as JSON values."""
        return {
            "trainer": self.trainer,
            "params": self.params,
            "seconds": self.seconds,
            "low": self.low,
            "high": _finite(self.high),
            "wall_s": self.wall_s,
            "peak_bytes": _finite(self.peak_bytes),
            "array_bytes": _finite(self.array_bytes),
            "memory": self.memory,
            "formula": self.formula(),
            "shares": self.shares(),
            "rolling_error": self.rolling_error,
            "flagged": self.flagged,
            "auto": list(self.auto) if self.auto is not None else None,
            "dropped": list(self.dropped),
            "extrapolated": list(self.extrapolated),
            "calibration": self.calibration,
            "predictor": self.predictor,
            "rivals": {rival.name: rival.seconds for rival in self.rivals},
            "characteristics": self.characteristics.as_dict(),
            "samples": [sample.as_dict() for sample in self.samples],
            "spent_s": self.spent_s,
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Return what a reader must know besides the numbers, one sentence each."""
        found: list[str] = []
        if self.held and self.rolling_error > FLAG:
            found.append(f"the samples scatter by {100 * math.expm1(self.rolling_error):.0f} %: is the machine busy?")
        if self.flagged:
            # Twice as much is 100 % off; so is half as much, for whoever waits.
            off = 100 * math.expm1(self.rolling_error)
            found.append(f"your terms explain the samples within {off:.0f} % only")
            if self.auto is not None:
                found.append(
                    f"terms picked from the dictionary ({', '.join(self.auto[0])}) say {format_seconds(self.auto[1])}"
                )
        found += [f"{name} is extrapolated beyond the samples" for name in self.extrapolated]
        if self.dropped:
            found.append(f"no walk was timed: without {', '.join(self.dropped)}")
        if self.calibration.startswith("not calibrated"):
            found.append(self.calibration)
        return found

    def to_json(self, *, with_rivals: bool = True) -> str:
        """Return it as text; `from_json` reads it.

        Args:
            with_rivals: Whether the black boxes are fitted, if they were not yet, and kept.
        """
        from mlsysopt.train.estimate.artefact import written

        return written(self, with_rivals=with_rivals)

    @classmethod
    def from_json(cls, text: str) -> Forecast:
        """Read what `to_json` wrote.

        Raises:
            ArtefactError: no estimate, a newer one, or damaged.
        """
        from mlsysopt.train.estimate.artefact import read

        return read(text)

    def __str__(self) -> str:
        low, high = format_seconds(self.low), format_seconds(self.high) if math.isfinite(self.high) else "?"
        peak = f", peak {format_bytes(self.peak_bytes)}" if math.isfinite(self.peak_bytes) else ""
        largest = max(sample.rows_share for sample in self.samples)
        spent = f"spent {format_seconds(self.spent_s)}, {len(self.samples)} samples, largest {100 * largest:.2g} %"
        first = f"{self.trainer}: {format_seconds(self.seconds)} CPU [{low}, {high}] 90 %{peak}; {spent} of the rows"
        return "\n  ".join([first, *self.notes()])

    def _white(self, terms: Sequence[str], coefficients: Sequence[float] | np.ndarray[Any, Any]) -> float:
        return float(Terms(terms).columns(self.characteristics, self.params) @ np.asarray(coefficients))


def fit(
    record: Record,
    samples: Sequence[Sample],
    full: Characteristics,
    *,
    params: Mapping[str, Any] | None = None,
    predictor: Predictor = "whitebox",
    loaded_bytes: float = 0.0,
    digest: str = "",
    calibrated: bool = True,
    bank: Bank | None = None,
    typical: Typical | None = None,
) -> Forecast:
    """Fit a trainer's cost terms to samples and forecast the full training.

    Args:
        record: The trainer: name, cost terms, memory formula, hyper-parameters.
        samples: At least three; a sample or full data without a timed walk leaves its terms out.
        full: Characteristics of the full data.
        params: Hyper-parameters of the full training; None means the trainer's defaults.
        predictor: `whitebox`, or `average` for its geometric mean with log-log.
        loaded_bytes: What the loaded data and the interpreter take.
        digest: Of the full data, kept in the file.
        calibrated: False for a declared trainer: its interval is labeled so.
        bank: Cases that give the interval; None takes the user's own from 20 on, else the shipped ones.
        typical: What terms usually cost in proportion; None takes what is shipped, if calibrated.

    Raises:
        ForecastError: fewer than three samples.
        TermError: a term that cannot be read, has no value, or is negative.
        UsageError: an unknown predictor.
    """
    if predictor not in ("whitebox", "average"):
        raise UsageError(f"unknown predictor {predictor!r}: allowed are whitebox, average")
    if len(samples) < _FEWEST:
        raise ForecastError(f"{record.name}: {len(samples)} good samples, a forecast needs at least {_FEWEST}")
    samples = steady(samples)
    asked = {**record.params, **(params or {})}
    untimed = {
        name
        for name in WALKS
        if any(math.isnan(getattr(one, name)) for one in (full, *(sample.characteristics for sample in samples)))
    }
    dropped = tuple(term for term in record.time if Terms([term]).names & untimed)
    known = usual(record.name, calibrated=calibrated) if typical is None else typical.of(record.name)
    kept = [term for term in record.time if term not in dropped]
    white = fitted(kept, samples, trainer=record.name, typical=known)
    seconds = float(white.terms.columns(full, asked) @ white.coefficients)
    if predictor == "average":
        seconds = math.sqrt(seconds * rivals.log_log(samples, full, asked))
    picked = automatic(samples) if white.rolling_error > FLAG and not white.held else None
    cases, calibration = (bank, bank.about) if bank is not None else bank_for(record.name, calibrated=calibrated)
    forecast = Forecast(
        trainer=record.name,
        params=asked,
        asked=asked,
        characteristics=full,
        samples=samples,
        terms=white.terms.texts,
        coefficients=tuple(white.coefficients.tolist()),
        rolling_error=white.rolling_error,
        seconds=seconds,
        low=seconds,
        high=seconds,
        memory=record.memory,
        loaded_bytes=loaded_bytes,
        calibration=calibration,
        auto=_told(picked, full, asked),
        dropped=dropped,
        predictor=predictor,
        machine=machine().key(),
        digest=digest,
        bank=cases,
        typical=known,
    )
    return _with_interval(forecast)


def _told(
    picked: WhiteBox | None, full: Characteristics, asked: Mapping[str, Any]
) -> tuple[tuple[str, ...], float, float] | None:
    if picked is None:
        return None
    seconds = float(picked.terms.columns(full, asked) @ picked.coefficients)
    return picked.terms.texts, seconds, picked.rolling_error


def _with_interval(forecast: Forecast) -> Forecast:
    """Return the forecast with the interval and the marks that its question deserves."""
    far = _beyond(forecast)
    doubt = forecast.rolling_error
    if forecast.auto is not None and forecast.auto[1] > 0:
        # Two sets of terms that both saw the samples and disagree: half of that is doubt.
        doubt = math.hypot(doubt, 0.5 * math.log(forecast.auto[1] / forecast.seconds))
    doubt = math.hypot(doubt, _PER_FAR_E_FOLD * sum(far.values()))
    low, high = forecast.bank.interval(forecast.seconds, forecast.rho, doubt)
    return replace(forecast, low=low, high=high, extrapolated=tuple(far))


def _beyond(forecast: Forecast) -> dict[str, float]:
    """Return hyper-parameters asked for far beyond the samples, with how far in e-folds.

    One that the samples vary counts as sampled up to the value that they were designed for; one that
    they do not vary is known at its one value only.
    """
    settings = [numeric(sample.params) for sample in forecast.samples]
    designed = numeric(forecast.asked)
    found: dict[str, float] = {}
    for name, value in numeric(forecast.params).items():
        seen = [setting[name] for setting in settings if name in setting]
        if not seen or value <= 0 or min(seen) <= 0:
            continue
        reach = 1.0
        if min(seen) < max(seen):
            seen, reach = [*seen, designed[name]], _FAR
        over = max(value / max(seen), min(seen) / value)
        if over > reach * (1 + 1e-9):
            found[name] = math.log(over)
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

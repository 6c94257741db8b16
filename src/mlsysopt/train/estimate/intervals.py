"""How far off a forecast may be: conformal quantiles over finished cases, not over the few samples of one run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import ArtefactError, UsageError
from mlsysopt.core.measure import machine
from mlsysopt.core.places import artefact_header, data_dir, read_header
from mlsysopt.core.stats import conformal_quantile

__all__ = ["OWN_FROM", "Bank", "Case", "bank_for", "own_cases", "remember", "scale_of", "shipped"]

log = logging.getLogger("mlsysopt.estimate")

_FORMAT = "estimate-bank"
# From so many cases on, a bank of one's own replaces the shipped one; 19 are the fewest that bound 5 % on a side.
OWN_FROM = 20
# How much uncertainty grows with each e-fold between the largest sample and the full training.
_PER_E_FOLD = 0.05
# What no rolling error knows: this machine, this moment. On the fitting shapes, each set left out, intervals
# with these two constants are the narrowest, 2.3x in the middle; any floor from 0.1 to 0.5 comes close.
_LEAST = 0.2


@dataclass(frozen=True, slots=True)
class Case:
    """One finished training, and what had been forecast.

    Attributes:
        trainer: Name of the trainer.
        shape: What was trained on, in words.
        truth_s: CPU seconds it took.
        forecast_s: CPU seconds forecast.
        rho: Forecast over the time of the largest sample.
        s_fit: Rolling error of the fit, in logarithms.
    """

    trainer: str
    shape: str
    truth_s: float
    forecast_s: float
    rho: float
    s_fit: float

    def __post_init__(self) -> None:
        values = (self.truth_s, self.forecast_s, self.rho)
        if not all(math.isfinite(value) and value > 0 for value in values) or not self.s_fit >= 0:
            raise UsageError(f"a case needs times and a ratio above 0, got {self}")

    @property
    def score(self) -> float:
        """How wrong the forecast was, in units of how wrong it was expected to be.

        >>> round(Case("svd", "a", truth_s=2.0, forecast_s=1.0, rho=1.0, s_fit=0.5).score, 3)
        1.287
        """
        return math.log(self.truth_s / self.forecast_s) / scale_of(self.rho, self.s_fit)


def scale_of(rho: float, s_fit: float) -> float:
    """Return the expected error of a forecast in logarithms.

    The rolling error, what no fit knows, and how far the forecast reaches beyond the largest sample, as if
    independent of one another.

    Args:
        rho: Forecast over the time of the largest sample; below 1 counts as 1.
        s_fit: Rolling error of the fit, in logarithms.
    """
    return math.hypot(s_fit, _LEAST, _PER_E_FOLD * math.log(max(rho, 1.0)))


@dataclass(frozen=True, slots=True)
class Bank:
    """Finished cases; exchangeable with the next one is what its intervals assume.

    Attributes:
        cases: The cases.
        about: Where they come from, for reports.
    """

    cases: tuple[Case, ...]
    about: str = ""

    def quantiles(self, coverage: float = 0.9) -> tuple[float, float]:
        """Return the lower and the upper conformal quantile of the scores, half of the misses on each side.

        >>> bank = Bank(tuple(Case("t", "s", truth, 1.0, 1.0, 1.0) for truth in (0.5, 1.0, 2.0)))
        >>> [round(q, 3) for q in bank.quantiles(0.5)]
        [-0.68, 0.68]
        >>> bank.quantiles(0.9)
        (-inf, inf)
        """
        if not self.cases:
            return -math.inf, math.inf
        scores = [case.score for case in self.cases]
        side = 1.0 - (1.0 - coverage) / 2.0
        return -conformal_quantile([-score for score in scores], side), conformal_quantile(scores, side)

    def interval(self, forecast_s: float, rho: float, s_fit: float, *, coverage: float = 0.9) -> tuple[float, float]:
        """Return CPU seconds between which the truth lies with this probability.

        Args:
            forecast_s: CPU seconds forecast.
            rho: Forecast over the time of the largest sample.
            s_fit: Rolling error of the fit, in logarithms.
            coverage: Probability.
        """
        below, above = self.quantiles(coverage)
        scale = scale_of(rho, s_fit)
        # A bank of forecasts that were all too low must not put the forecast itself outside.
        low, high = min(below, 0.0) * scale, max(above, 0.0) * scale
        return forecast_s * math.exp(low), forecast_s * math.exp(high) if high < 700 else math.inf

    def of(self, trainer: str) -> Bank:
        """Return the cases of one trainer."""
        return Bank(tuple(case for case in self.cases if case.trainer == trainer), f"{self.about}, {trainer} only")

    def nearest(self, trainer: str) -> Bank:
        """Return the cases of one trainer, or all of them where these are too few for an interval."""
        alone = self.of(trainer)
        return alone if len(alone.cases) >= OWN_FROM else self

    def to_json(self, *, machine_key: str | None = None) -> str:
        """Return it as text, one case a line."""
        head = json.dumps({**artefact_header(_FORMAT, 1, machine=machine_key), "about": self.about})[:-1]
        rows = ",\n".join(json.dumps(_rounded(case)) for case in self.cases)
        return f'{head}, "cases": [\n{rows}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Bank:
        """Read what `to_json` wrote.

        Raises:
            ArtefactError: no bank, a newer one, or damaged.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ArtefactError(f"this is no {_FORMAT} file: {error}") from None
        read_header(content, _FORMAT, 1)
        return cls(_cases(content.get("cases", ())), str(content.get("about", "")))


@cache
def shipped() -> Bank:
    """Return the bank that comes with the package: fitting shapes only, see `bench/estimate_bank.py`."""
    return Bank.from_json(resources.files("mlsysopt.train.estimate").joinpath("bank.json").read_text())


def remember(case: Case) -> None:
    """Add a finished case of this machine to the user's own bank."""
    row = json.dumps({**_rounded(case), "machine": machine().key()})
    with _own_path().open("a", encoding="utf-8") as stream:
        stream.write(row + "\n")


def own_cases() -> Bank:
    """Return what was remembered on this machine; a line cut off by a kill or a full disk is left out."""
    try:
        lines = _own_path().read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    rows: list[Mapping[str, Any]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            log.warning("%s: a damaged line is left out", _own_path())
            continue
        if row.pop("machine", None) == machine().key():
            rows.append(row)
    return Bank(_cases(rows), "your own finished trainings")


def bank_for(trainer: str, *, calibrated: bool = True) -> tuple[Bank, str]:
    """Choose the cases that a forecast is judged by, and say in words which they are.

    Args:
        trainer: Name of the trainer.
        calibrated: Whether the shipped bank holds this trainer; a declared one uses all of it.
    """
    own, ours = own_cases(), shipped()
    # Another trainer on this machine is nearer than the same one elsewhere.
    source = own if len(own.cases) >= OWN_FROM else ours
    bank = source.nearest(trainer) if calibrated or source is own else source
    number = len(bank.cases)
    if bank is not source:
        return bank, f"{number} cases of {trainer}: {source.about}"
    if source is own or (calibrated and ours.of(trainer).cases):
        return bank, f"{number} cases of all trainers: {source.about}"
    return bank, f"not calibrated for this trainer; {number} cases of others: {source.about}"


def _own_path() -> Path:
    return data_dir() / "estimate-cases.jsonl"


def _cases(rows: Iterable[Mapping[str, Any]] | Sequence[Any]) -> tuple[Case, ...]:
    try:
        return tuple(Case(**row) for row in rows)
    except (TypeError, UsageError) as error:
        raise ArtefactError(f"this {_FORMAT} file holds a damaged case: {error}") from None


def _rounded(case: Case) -> dict[str, Any]:
    values = asdict(case)
    return {
        one.name: float(f"{values[one.name]:.5g}") if isinstance(values[one.name], float) else values[one.name]
        for one in fields(case)
    }

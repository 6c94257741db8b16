"""One comparison's result: candidate / baseline, with its interval, rounds, clock and verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import ArtefactError, MeasureError
from mlsysopt.core.measure.hardware import machine as this_machine
from mlsysopt.core.stats.sequential import SequentialRule, Standing
from mlsysopt.core.stats.signed_rank import hodges_lehmann, signed_rank_interval, signed_rank_p

__all__ = ["Ratio", "Verdict", "log_ratios"]

Verdict = Literal["proven", "refuted", "not proven"]
Clock = Literal["wall", "cpu"]

_TIME_UNITS = ("s", "ms", "us", "ns")


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times the baseline's value the candidate's is.

    Attributes:
        metric: What was measured.
        better: Which direction is an improvement.
        value: Hodges-Lehmann estimate of candidate / baseline, whatever `better` is.
        low: Lower end of the interval; 0 when there were too few rounds.
        high: Upper end; inf when there were too few rounds.
        rounds: Pairs of measurements that the estimate stands on.
        clock: Clock that the metric depends on, if any.
        baseline: Name of the baseline.
        candidate: Name of the candidate.
        machine: One line about the machine.
        p_value: Of "no difference", over all looks, corrected for the other candidates.
        level: Coverage that the whole comparison guarantees.
        other: The same on the other clock.
        per_round: candidate / baseline of each round, in order.
        unit: Unit of the values.
        baseline_value: Median of the baseline's values.
        candidate_value: Median of the candidate's values.
    """

    metric: str
    better: Literal["higher", "lower"]
    value: float
    low: float
    high: float
    rounds: int
    clock: Clock | None
    baseline: str
    candidate: str
    machine: str
    p_value: float
    level: float = 0.95
    other: Ratio | None = None
    per_round: tuple[float, ...] = ()
    unit: str = ""
    baseline_value: float = math.nan
    candidate_value: float = math.nan

    @classmethod
    def of(
        cls,
        baseline: Sequence[float],
        candidate: Sequence[float],
        *,
        metric: str,
        better: Literal["higher", "lower"],
        clock: Clock | None,
        baseline_name: str = "default",
        candidate_name: str = "candidate",
        rule: SequentialRule | None = None,
        p_value: float | None = None,
        latest: bool = False,
        may_be_zero: bool = False,
        unit: str = "",
        machine: str | None = None,
        level: float = 0.95,
    ) -> Ratio:
        """Estimate a ratio from paired values, one of each side per round and in their order.

        Args:
            baseline: Values of the baseline, shape (rounds,).
            candidate: Values of the candidate, shape (rounds,).
            metric: What was measured.
            better: Which direction is an improvement.
            clock: Clock that the metric depends on.
            baseline_name: Shown after "vs".
            candidate_name: For the record.
            rule: Looks at which the rounds could have been stopped; None means that their number
                was fixed beforehand.
            p_value: Shown instead of the rule's own, for one that was corrected for other candidates.
            latest: Judge at the last look reached instead of the first that decides.
            may_be_zero: Take the ratio of 1 + value, for counters.
            unit: Unit of the values.
            machine: One line about the machine; None means this one.
            level: Coverage that the comparison guarantees.

        Raises:
            MeasureError: no rounds, sides of different length, or a value that has no ratio.

        >>> ratio = Ratio.of([10.0] * 6, [7.0, 7.1, 6.9, 7.2, 7.3, 7.05], metric="time", better="lower",
        ...                  clock="cpu", unit="s", baseline_name="baseline")
        >>> print(ratio)
        0.71x time [0.69, 0.73] (1.41x faster), 6 rounds, cpu: proven
        """
        names = (baseline_name, candidate_name)
        logs = log_ratios(baseline, candidate, metric=metric, may_be_zero=may_be_zero, names=names)
        standing = _plain(logs, level) if rule is None else rule.standing(logs, latest=latest)
        used = logs[: standing.look or len(logs)]
        return cls(
            metric=metric,
            better=better,
            value=math.exp(hodges_lehmann(used)),
            low=math.exp(standing.low),
            high=_exp(standing.high),
            rounds=len(used),
            clock=clock,
            baseline=baseline_name,
            candidate=candidate_name,
            machine=this_machine().text() if machine is None else machine,
            p_value=standing.p_value if p_value is None else p_value,
            level=level,
            per_round=tuple(math.exp(value) for value in used),
            unit=unit,
            baseline_value=float(np.median(np.asarray(baseline[: len(used)], dtype=np.float64))),
            candidate_value=float(np.median(np.asarray(candidate[: len(used)], dtype=np.float64))),
        )

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies wholly on the better side of 1, on the worse side, or neither."""
        if self.low > 1.0:
            return "proven" if self.better == "higher" else "refuted"
        if self.high < 1.0:
            return "proven" if self.better == "lower" else "refuted"
        return "not proven"

    def text(self) -> str:
        """Return one line: never a number without its interval, rounds and verdict."""
        digits = self._digits()
        times, unit_word = f"{self.value:.{digits}f}x", ""
        words = [f"[{self.low:.{digits}f}, {self.high:.{digits}f}]"]
        if self.unit in _TIME_UNITS and self.better == "lower":
            unit_word = f" {self.metric}"
        if unit_word and self.value != 1.0:
            words += [f"({max(self.value, 1 / self.value):.{digits}f}x {'faster' if self.value < 1 else 'slower'})"]
        facts = [f"{times}{unit_word} {' '.join(words)}", f"{self.rounds} round{'s' if self.rounds != 1 else ''}"]
        facts += [self.clock] if self.clock else []
        facts += [f"vs {self.baseline}"] if self.baseline != "baseline" else []
        return f"{', '.join(facts)}: {self.verdict}"

    __str__ = text

    def with_other(self, other: Ratio | None) -> Ratio:
        """Return the same ratio with the one on the other clock beside it."""
        return replace(self, other=None if other is None else replace(other, other=None))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; an open end becomes None."""
        record = asdict(self)
        record["other"] = None if self.other is None else self.other.to_json()
        record["per_round"] = list(self.per_round)
        for name in ("high", "baseline_value", "candidate_value"):
            record[name] = record[name] if math.isfinite(record[name]) else None
        return {**record, "verdict": self.verdict}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Ratio:
        """Read what `to_json` wrote.

        Raises:
            ArtefactError: a field is missing.
        """
        known = {field.name for field in fields(cls)}
        record = {name: value for name, value in obj.items() if name in known}
        record["high"] = math.inf if record.get("high") is None else record["high"]
        for name in ("baseline_value", "candidate_value"):
            record[name] = math.nan if record.get(name) is None else record[name]
        record["per_round"] = tuple(record.get("per_round", ()))
        record["other"] = None if record.get("other") is None else cls.from_json(record["other"])
        try:
            return cls(**record)
        except TypeError as error:
            raise ArtefactError(f"a ratio cannot be read: {error}") from error

    def _digits(self) -> int:
        """Return 2, or as many as it takes that an end beside 1 does not read as 1."""
        ends = [end for end in (self.low, self.high) if end != 1.0 and math.isfinite(end)]
        return next((d for d in range(2, 6) if all(round(end, d) != 1.0 for end in ends)), 6)


def log_ratios(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    metric: str,
    may_be_zero: bool = False,
    names: tuple[str, str] = ("baseline", "candidate"),
) -> npt.NDArray[np.float64]:
    """Return ln(candidate / baseline) per round, of 1 + value for counters that may be zero.

    The difference of two logarithms changes only its sign when the sides are exchanged, bit for
    bit: the signed-rank test rests on that.

    Raises:
        MeasureError: no rounds, sides of different length, or a value that has no ratio.
    """
    if len(baseline) != len(candidate) or not len(baseline):
        raise MeasureError(
            f"{metric}: one value of each side per round is needed, got {len(baseline)} of {names[0]} "
            f"and {len(candidate)} of {names[1]}"
        )
    logs: list[npt.NDArray[np.float64]] = []
    for name, side in zip(names, (baseline, candidate), strict=True):
        values = np.asarray(side, dtype=np.float64)
        usable = np.isfinite(values) & ((values >= 0) if may_be_zero else (values > 0))
        if not np.all(usable):
            given = values[int(np.flatnonzero(~usable)[0])]
            allowed = "at least 0" if may_be_zero else "above 0; a counter that may be 0 is declared may_be_zero"
            raise MeasureError(f"{metric} of {name} was {given:g}: a ratio needs finite values {allowed}")
        logs.append(np.log1p(values) if may_be_zero else np.log(values))
    return logs[1] - logs[0]


def _plain(logs: npt.NDArray[np.float64], level: float) -> Standing:
    low, high = signed_rank_interval(logs, level)
    return Standing(len(logs), signed_rank_p(logs, ties="bound"), low, high, not low <= 0.0 <= high)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf

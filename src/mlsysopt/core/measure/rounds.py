"""The rounds of one comparison: A B B A ..., the same fresh seed for every side of a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlsysopt.core.errors import MeasureError
from mlsysopt.core.measure.ratio import Ratio, log_ratios
from mlsysopt.core.measure.sides import Reading, Runner, SideFailed
from mlsysopt.core.seeds import integer_seed
from mlsysopt.core.stats.multiplicity import holm, holm_levels
from mlsysopt.core.stats.sequential import SequentialRule
from mlsysopt.core.target import Failure, Metric

__all__ = ["Comparison", "Rounds"]

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several candidates against one baseline.

    Attributes:
        baseline: Name of the baseline.
        ratios: Candidate -> metric -> ratio; p-values of the deciding metrics are corrected by Holm.
        readings: Side -> one reading per round; a candidate that was decided or failed has fewer.
        seeds: Seed per round.
        failed: Candidate -> why it was dropped.
        decided: Candidates for which every deciding metric was settled.
    """

    baseline: str
    ratios: dict[str, dict[str, Ratio]]
    readings: dict[str, tuple[Reading, ...]]
    seeds: tuple[int, ...]
    failed: dict[str, Failure]
    decided: tuple[str, ...]

    @property
    def rounds(self) -> int:
        """Rounds in which the baseline was measured."""
        return len(self.readings[self.baseline])


class Rounds:
    """State of one comparison while it runs."""

    def __init__(
        self,
        baseline: str,
        sides: Mapping[str, Runner],
        *,
        metrics: Mapping[str, Metric],
        decide: tuple[str, ...],
        looks: Sequence[int],
        seed: int,
        max_seconds: float | None,
    ) -> None:
        self.rule = SequentialRule.for_looks(looks, ALPHA)
        self.baseline, self.sides = baseline, dict(sides)
        self.metrics, self.decide = dict(metrics), decide
        self.seed, self.max_seconds = seed, max_seconds
        self.candidates = [name for name in sides if name != baseline]
        self.open: list[str] = list(self.candidates)
        self.readings: dict[str, list[Reading]] = {name: [] for name in sides}
        self.failed: dict[str, Failure] = {}
        self.seeds: list[int] = []

    def run(self, warmup: int, on_round: Callable[[Comparison], None] | None) -> Comparison:
        started = time.monotonic()
        for repeat in range(warmup):
            self._each_side(integer_seed(self.seed, role="warm-up", round=repeat), keep=False)
        first_round = time.monotonic()
        while self.open and self._another(time.monotonic() - started, time.monotonic() - first_round):
            number = len(self.seeds)
            self.seeds.append(integer_seed(self.seed, role="compare", round=number))
            self._each_side(self.seeds[-1], keep=True, backwards=number % 2 == 1)
            if on_round is not None:
                on_round(self.so_far())
            if len(self.seeds) in self.rule.looks:
                settled = self.so_far().decided
                self.open = [name for name in self.open if name not in settled]
        return self.so_far()

    def _another(self, spent_s: float, in_rounds_s: float) -> bool:
        done = len(self.seeds)
        if done >= self.rule.looks[-1]:
            return False
        if self.max_seconds is None:
            return True
        if done < self.rule.looks[0]:
            return spent_s < self.max_seconds
        missing = min(n for n in self.rule.looks if n > done) - done
        return spent_s + missing * in_rounds_s / done <= self.max_seconds

    def _each_side(self, seed: int, *, keep: bool, backwards: bool = False) -> None:
        order = [self.baseline, *self.open]
        for name in reversed(order) if backwards else order:
            try:
                reading = self.sides[name](seed)
            except SideFailed as error:
                if name == self.baseline:
                    raise MeasureError(f"{name}, the baseline of this comparison, failed: {error}") from error
                self.failed[name] = error.failure
                self.open.remove(name)
                continue
            self._check(name, reading)
            if keep:
                self.readings[name].append(reading)

    def _check(self, name: str, reading: Reading) -> None:
        """Refuse at once what could not be judged after the last round."""
        missing = [metric for metric in self.decide if metric not in reading.values]
        if missing:
            reported = ", ".join(sorted(reading.values)) or "nothing"
            raise MeasureError(
                f"{name} reported no {missing[0]!r}, which decides this comparison; it reported {reported}"
            )
        for metric, about in self.metrics.items():
            if metric in reading.values:
                value = [reading.values[metric]]
                log_ratios(value, value, metric=metric, may_be_zero=about.may_be_zero, names=(name, name))

    def so_far(self) -> Comparison:
        """Judge what was measured up to now."""
        ratios: dict[str, dict[str, Ratio]] = {name: {} for name in self.candidates}
        settled = {name: name not in self.failed for name in self.candidates}
        for metric in self.metrics:
            judged = self._deciding(metric) if metric in self.decide else self._watched(metric)
            for name, ratio in judged.items():
                ratios[name][metric] = ratio
        for name, found in ratios.items():
            settled[name] &= all(metric in found and found[metric].verdict != "not proven" for metric in self.decide)
        for found in ratios.values():
            paired = {metric: found.get(self.metrics[metric].twin or "") for metric in found}
            found.update({metric: found[metric].with_other(other) for metric, other in paired.items()})
        return Comparison(
            baseline=self.baseline,
            ratios={name: found for name, found in ratios.items() if found},
            readings={name: tuple(readings) for name, readings in self.readings.items()},
            seeds=tuple(self.seeds),
            failed=dict(self.failed),
            decided=tuple(name for name in self.candidates if settled[name]),
        )

    def _deciding(self, metric: str) -> dict[str, Ratio]:
        pairs = {name: pair for name in self.candidates if (pair := self._pairs(name, metric))[0]}
        raw = {name: self._standing_p(name, metric, *pair) for name, pair in pairs.items()}
        # A candidate without any round still counts: dropping it must not make the others easier.
        ps = [raw.get(name, 1.0) for name in self.candidates]
        adjusted = dict(zip(self.candidates, holm(ps), strict=True))
        levels = dict(zip(self.candidates, holm_levels(ps, ALPHA), strict=True))
        return {
            name: self._ratio(name, metric, *pair, rule=self.rule.at(levels[name]), p_value=adjusted[name])
            for name, pair in pairs.items()
        }

    def _watched(self, metric: str) -> dict[str, Ratio]:
        pairs = {name: pair for name in self.candidates if (pair := self._pairs(name, metric))[0]}
        return {name: self._ratio(name, metric, *pair, rule=self.rule, latest=True) for name, pair in pairs.items()}

    def _pairs(self, name: str, metric: str) -> tuple[list[float], list[float]]:
        """Return the values of the rounds in which both sides reported the metric."""
        both = [
            (before.values[metric], after.values[metric])
            for before, after in zip(self.readings[self.baseline], self.readings[name], strict=False)
            if metric in before.values and metric in after.values
        ]
        return [before for before, _ in both], [after for _, after in both]

    def _standing_p(self, name: str, metric: str, before: list[float], after: list[float]) -> float:
        logs = log_ratios(
            before,
            after,
            metric=metric,
            may_be_zero=self.metrics[metric].may_be_zero,
            names=(self.baseline, name),
        )
        # Over every look, not only up to the first that 5 % alone would decide: Holm may ask for more.
        return self.rule.p_value(self.rule.looks_at(logs))

    def _ratio(
        self,
        name: str,
        metric: str,
        before: list[float],
        after: list[float],
        *,
        rule: SequentialRule,
        p_value: float | None = None,
        latest: bool = False,
    ) -> Ratio:
        about = self.metrics[metric]
        return Ratio.of(
            before,
            after,
            metric=metric,
            better=about.better,
            clock=about.clock,
            baseline_name=self.baseline,
            candidate_name=name,
            rule=rule,
            p_value=p_value,
            latest=latest,
            may_be_zero=about.may_be_zero,
            unit=about.unit,
        )

"""How a trial is rated: ratios to the default beside it, their noise, guards, and what is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mlsysopt.core.measure import Ratio
from mlsysopt.core.quantities import format_number
from mlsysopt.core.search.evidence import VALID
from mlsysopt.core.space import Space
from mlsysopt.core.stats.signed_rank import hodges_lehmann
from mlsysopt.core.study.guards import Guard
from mlsysopt.core.study.noise import noise_variance, typical
from mlsysopt.core.study.objectives import Objective, log_ratios
from mlsysopt.core.study.result import GuardCheck
from mlsysopt.core.target import Config, Measurement, Target

__all__ = ["VALID", "Pair", "Rating"]

Pair = tuple[Measurement, Measurement]
"""The default and a candidate, measured one after the other with one seed."""

Values = tuple[Mapping[str, float], Mapping[str, float]]
"""The metrics of such a pair."""


@dataclass
class Rating:
    """Turns measurements into what a sampler is told, and judges guards in search and verification alike.

    Args:
        target: For its metrics and static values.
        space: For the default.
        objectives: What is improved.
        guards: What must not get worse.
        defaults: Every measurement of the default so far, oldest first; grows while the study runs.
    """

    target: Target
    space: Space
    objectives: Sequence[Objective]
    guards: Sequence[Guard]
    defaults: list[Mapping[str, float]] = field(default_factory=list[Mapping[str, float]])
    scale: dict[str, float] = field(default_factory=dict[str, float])

    def fix_scale(self) -> None:
        """Take the typical values of the default, once, as the unit of counters that may be zero."""
        self.scale = typical(self.defaults)

    def ratios(self, pairs: Sequence[Pair]) -> dict[str, float]:
        """Return ln(candidate / default) per metric, the mean over pairs."""
        metrics = self.target.metrics()
        rows = [log_ratios(metrics, got.metrics, canary.metrics, self.scale) for canary, got in pairs]
        names = [name for name in rows[0] if all(name in row for row in rows)]
        return {name: sum(row[name] for row in rows) / len(rows) for name in names}

    def noise(self, rounds: int) -> dict[str, float]:
        """Return the variance of such a mean: two measurements per round."""
        single = noise_variance(self.target.metrics(), self.defaults, self.scale)
        return {name: 2 * variance / max(1, rounds) for name, variance in single.items()}

    def gains(self, ratios: Mapping[str, float]) -> list[float]:
        """Return the improvement in each objective."""
        return [objective.sign * ratios[objective.told] for objective in self.objectives]

    @cached_property
    def default_static(self) -> Mapping[str, float]:
        """Static values of the default, computed once."""
        return self.target.static(self.space.default())

    def refusals(self, config: Config) -> list[str]:
        """Return the static limits that a configuration would break, in words."""
        static = self.target.static(config)
        return [
            f"{guard.metric} would be {static[guard.metric]:.4g}, allowed {guard.text()}"
            for guard in self.guards
            if guard.metric in static and guard.violation(static[guard.metric], self.default_static[guard.metric]) > 0
        ]

    def excess(self, guard: Guard, rounds: Sequence[Values], config: Config) -> float | None:
        """Return how far a candidate is beyond a guard; zero or less keeps it, None when nothing was measured of it.

        A static metric is computed. Of a measured one each round has a violation of its own, relative
        to the default beside it, and the Hodges-Lehmann estimate of these counts: the centre that
        verified ratios have, so that a single slow round decides nothing.

        Args:
            guard: The limit.
            rounds: Metrics of the default and of the candidate, per round.
            config: The candidate.
        """
        static = self.target.static(config)
        if guard.metric in static:
            return guard.violation(static[guard.metric], self.default_static[guard.metric])
        found = [
            guard.violation(got[guard.metric], default[guard.metric])
            for default, got in rounds
            if guard.metric in got and guard.metric in default
        ]
        return hodges_lehmann(found) if found else None

    def violation(self, guard: Guard, pairs: Sequence[Pair], config: Config) -> float:
        """Return the `excess` over what a trial measured; 0 when it says nothing of that metric."""
        return self.excess(guard, [(canary.metrics, got.metrics) for canary, got in pairs], config) or 0.0

    def check(self, guard: Guard, rounds: Sequence[Values], config: Config, ratio: Ratio | None) -> GuardCheck | None:
        """Judge a guard by its `excess` over verified rounds and show the numbers behind it.

        Args:
            guard: The limit.
            rounds: As for `excess`.
            config: The candidate.
            ratio: Verified ratio of the guarded metric, None when it has none.

        Returns:
            None when nothing was measured of that metric.
        """
        told = [(default, got) for default, got in rounds if guard.metric in default and guard.metric in got]
        # A ratio stands on the rounds up to the last look; the guard beside it must stand on the same.
        excess = self.excess(guard, told[: ratio.rounds] if ratio is not None else told, config)
        if excess is None:
            return None
        text = guard.text()
        static = self.target.static(config)
        if guard.metric in static:
            reference = self.default_static[guard.metric]
            value = low = high = static[guard.metric] / (reference if guard.relative and reference else 1.0)
        elif ratio is None:
            return None
        elif guard.relative and not self.target.metrics()[guard.metric].may_be_zero:
            value, low, high = ratio.value, ratio.low, ratio.high
        else:
            # The ratio of a counter is one of 1 + value; its guard means the plain value.
            value = low = high = ratio.candidate_value
            text += f" (default {format_number(ratio.baseline_value)})"
        return GuardCheck(text, guard.metric, value, low, high, excess <= 0)

    def constraints(self, pairs: Sequence[Pair], config: Config) -> dict[str, float]:
        """Return every constraint of a trial that ran."""
        return {VALID: -1.0, **{guard.metric: self.violation(guard, pairs, config) for guard in self.guards}}

    def default_constraints(self) -> dict[str, float]:
        """Return the constraints of the default, which is measured against itself."""
        found = {VALID: -1.0}
        for guard in self.guards:
            reference = self.scale.get(guard.metric, self.default_static.get(guard.metric, 0.0))
            found[guard.metric] = guard.violation(reference, reference)
        return found

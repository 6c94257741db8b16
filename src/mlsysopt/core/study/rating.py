"""How a trial is rated: ratios to the default beside it, their noise, guards, and what is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlsysopt.core.space import Space
from mlsysopt.core.study.guards import Guard
from mlsysopt.core.study.noise import noise_variance, typical
from mlsysopt.core.study.objectives import Objective, log_ratios
from mlsysopt.core.target import Config, Measurement, Target

__all__ = ["VALID", "Pair", "Rating"]

VALID = "valid"
"""Constraint that every trial carries: -1 for one that ran, +1 for one that did not."""

Pair = tuple[Measurement, Measurement]
"""The default and a candidate, measured one after the other with one seed."""


@dataclass
class Rating:
    """Turns measurements into what a sampler is told.

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

    def refusals(self, config: Config) -> list[str]:
        """Return the static limits that a configuration would break, in words."""
        static, reference = self.target.static(config), self.target.static(self.space.default())
        return [
            f"{guard.metric} would be {static[guard.metric]:.4g}, allowed {guard.text()}"
            for guard in self.guards
            if guard.metric in static and guard.violation(static[guard.metric], reference[guard.metric]) > 0
        ]

    def violation(self, guard: Guard, pairs: Sequence[Pair], config: Config) -> float:
        """Return how far a candidate is beyond a guard, the mean over pairs; zero or less is feasible."""
        static = self.target.static(config)
        if guard.metric in static:
            return guard.violation(static[guard.metric], self.target.static(self.space.default())[guard.metric])
        excesses = [
            guard.violation(got.metrics[guard.metric], canary.metrics[guard.metric])
            for canary, got in pairs
            if guard.metric in got.metrics and guard.metric in canary.metrics
        ]
        return sum(excesses) / len(excesses) if excesses else 0.0

    def constraints(self, pairs: Sequence[Pair], config: Config) -> dict[str, float]:
        """Return every constraint of a trial that ran."""
        return {VALID: -1.0, **{guard.metric: self.violation(guard, pairs, config) for guard in self.guards}}

    def default_constraints(self) -> dict[str, float]:
        """Return the constraints of the default, which is measured against itself."""
        found = {VALID: -1.0}
        static = self.target.static(self.space.default())
        for guard in self.guards:
            reference = self.scale.get(guard.metric, static.get(guard.metric, 0.0))
            found[guard.metric] = guard.violation(reference, reference)
        return found

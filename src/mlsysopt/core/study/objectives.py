"""What a study improves, and how one outcome becomes numbers relative to the default beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlsysopt.core.errors import StudyError, near_misses
from mlsysopt.core.target import Metric

__all__ = ["Objective", "log_ratio", "log_ratios", "parse_objectives"]


@dataclass(frozen=True, slots=True)
class Objective:
    """One metric and the direction that is asked for.

    Attributes:
        metric: Name of the metric the user asked for.
        better: Direction of improvement.
        told: Metric whose ratios the sampler is told: the metric itself, or its twin on the other clock.
    """

    metric: str
    better: Literal["higher", "lower"]
    told: str

    @property
    def sign(self) -> float:
        """+1 where higher is better, so that `sign * ln(ratio)` always grows with improvement."""
        return 1.0 if self.better == "higher" else -1.0


def parse_objectives(
    maximize: str | Sequence[str] | None,
    minimize: str | Sequence[str] | None,
    metrics: Mapping[str, Metric],
    *,
    clock: Literal["wall", "cpu"],
) -> tuple[Objective, ...]:
    """Resolve the metrics to improve; a metric bound to the other clock is told through its twin.

    Raises:
        StudyError: none given, unknown, given twice, or asked for against its own direction.
    """
    objectives: list[Objective] = []
    for names, better in ((_names(maximize), "higher"), (_names(minimize), "lower")):
        for name in names:
            if name not in metrics:
                raise StudyError(f"unknown metric {name!r}; {near_misses(name, metrics, noun='metric')}")
            metric = metrics[name]
            if metric.better != better:
                asked, other = ("maximize", "minimize") if better == "higher" else ("minimize", "maximize")
                raise StudyError(f"{asked} {name}: {metric.better} is better for this metric; use {other}={name!r}")
            if metric.kind == "static":
                raise StudyError(f"{name} is computed without running; put it into a constraint or a guard instead")
            told = metric.twin if metric.twin and metric.clock not in (None, clock) else name
            objectives.append(Objective(name, metric.better, told))
    if not objectives:
        known = ", ".join(name for name, metric in metrics.items() if metric.kind != "static")
        raise StudyError(f"nothing to improve: pass maximize= or minimize= with one of {known}")
    if len({objective.metric for objective in objectives}) < len(objectives):
        raise StudyError("the same metric was asked for twice")
    return tuple(objectives)


def _names(given: str | Sequence[str] | None) -> Iterable[str]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def log_ratio(metric: Metric, value: float, reference: float, scale: float) -> float:
    """Return ln(value / reference); of 1 + value / scale for counters that may be zero.

    Args:
        metric: What is compared.
        value: The candidate's value.
        reference: The value of the default measured beside it.
        scale: The default's typical value, the unit of a counter.

    >>> round(log_ratio(Metric("us", "lower"), 20.0, 10.0, 10.0), 3)
    0.693
    """
    if metric.may_be_zero:
        unit = scale if scale > 0 else 1.0
        return math.log1p(max(value, 0.0) / unit) - math.log1p(max(reference, 0.0) / unit)
    if value <= 0 or reference <= 0:
        raise StudyError(
            f"a ratio needs positive numbers, got {value:g} against {reference:g}; declare the metric may_be_zero"
        )
    return math.log(value / reference)


def log_ratios(
    metrics: Mapping[str, Metric],
    values: Mapping[str, float],
    reference: Mapping[str, float],
    scale: Mapping[str, float],
) -> dict[str, float]:
    """Return the log ratios of every measured metric that both sides report."""
    return {
        name: log_ratio(metric, values[name], reference[name], scale.get(name, 1.0))
        for name, metric in metrics.items()
        if metric.kind != "static" and name in values and name in reference
    }

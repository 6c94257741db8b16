"""How much one measurement of the same configuration varies, per metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from mlsysopt.core.study.objectives import log_ratio
from mlsysopt.core.target import Metric

__all__ = ["noise_variance", "shrunk_means", "typical"]

_FLOOR = 1e-6


def typical(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of every metric over several measurements of one configuration.

    >>> typical([{"a": 1.0}, {"a": 3.0}, {"a": 2.0}])
    {'a': 2.0}
    """
    names = {name for row in rows for name in row}
    return {name: _median([row[name] for row in rows if name in row]) for name in sorted(names)}


def noise_variance(
    metrics: Mapping[str, Metric], defaults: Sequence[Mapping[str, float]], scale: Mapping[str, float]
) -> dict[str, float]:
    """Return the variance of one log measurement, from repeats of the default in time order.

    Differences of neighbours are used, not the spread around a mean: a slow drift of the machine
    cancels in a ratio to the preceding canary, so it is no noise here.

    Args:
        metrics: What is measured.
        defaults: Measurements of the default, oldest first.
        scale: Typical value per metric.

    Returns:
        Variance of ln(value) for a single measurement; at least 1e-6.
    """
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        if metric.kind == "static":
            continue
        values = [row[name] for row in defaults if name in row]
        steps = [
            log_ratio(metric, later, earlier, scale.get(name, 1.0))
            for earlier, later in pairwise(values)
            if metric.may_be_zero or (earlier > 0 and later > 0)
        ]
        if steps:
            found[name] = max(_FLOOR, sum(step * step for step in steps) / (2 * len(steps)))
    return found


def shrunk_means(means: Sequence[float], variances: Sequence[float]) -> list[float]:
    """Pull each observed mean towards the mean of all, by how noisy it is.

    The best of many noisy observations is too good on average; the empirical-Bayes posterior mean
    under a common normal prior ranks candidates without that bias.

    Args:
        means: Observed mean log ratio per candidate.
        variances: Variance of each of these means.

    >>> shrunk_means([0.0, 1.0], [0.0, 0.0])
    [0.0, 1.0]
    """
    if not means:
        return []
    centre = sum(means) / len(means)
    spread = sum((mean - centre) ** 2 for mean in means) / max(1, len(means) - 1)
    prior = max(spread - sum(variances) / len(variances), 1e-9)
    return [
        centre + (mean - centre) * (prior / (prior + variance) if variance > 0 else 1.0)
        for mean, variance in zip(means, variances, strict=True)
    ]


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return math.fsum(ordered[middle - 1 : middle + 1]) / 2

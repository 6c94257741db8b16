"""Several hypotheses at once: Holm's step-down procedure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["holm", "holm_levels", "holm_many"]


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that comparing each with alpha keeps the family-wise error.

    Args:
        ps: Raw p-values, shape (m,), of hypotheses that may depend on each other in any way.

    References:
        Holm, Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    for p in ps:
        if not 0.0 <= p <= 1.0:
            raise UsageError(f"a p-value lies between 0 and 1, got {p}")
    m = len(ps)
    adjusted = [0.0] * m
    worst = 0.0
    for step, i in enumerate(sorted(range(m), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, (m - step) * ps[i]))
        adjusted[i] = worst
    return adjusted


def holm_levels(ps: Sequence[float], alpha: float = 0.05) -> list[float]:
    """Return the level at which Holm's procedure tests each hypothesis.

    A hypothesis is rejected exactly when its p-value is at most its level; those that are left
    when the procedure stops share the level at which it stopped. An interval at that level agrees
    with the verdict.

    >>> holm_levels([0.01, 0.04, 0.03], alpha=0.06)
    [0.02, 0.06, 0.03]
    >>> holm_levels([0.9, 0.8], alpha=0.05)
    [0.025, 0.025]
    """
    m = len(ps)
    levels = [alpha] * m
    stopped: float | None = None
    for step, i in enumerate(sorted(range(m), key=lambda i: ps[i])):
        level = alpha / (m - step) if stopped is None else stopped
        levels[i] = level
        if ps[i] > level:
            stopped = level
    return levels


def holm_many(ps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjust many families at once, like `holm` each.

    Args:
        ps: Raw p-values, shape (..., m).

    >>> holm_many(np.array([[0.01, 0.04, 0.03], [0.5, 0.5, 0.5]])).tolist()
    [[0.03, 0.06, 0.06], [1.0, 1.0, 1.0]]
    """
    m = ps.shape[-1]
    order = np.argsort(ps, axis=-1, kind="stable")
    stepped = np.minimum(1.0, np.take_along_axis(ps, order, axis=-1) * np.arange(m, 0, -1))
    adjusted = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(stepped, axis=-1), axis=-1)
    return adjusted

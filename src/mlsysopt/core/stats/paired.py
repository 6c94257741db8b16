"""Tests of paired differences that need more than their signs and ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["Paired", "paired_bootstrap", "paired_t"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Paired:
    """Mean difference with its interval and the two-sided p-value of "no difference"."""

    estimate: float
    low: float
    high: float
    p_value: float


def paired_t(differences: Sequence[float] | Floats, level: float = 0.95) -> Paired:
    """Student's t test of paired differences.

    Args:
        differences: Candidate minus baseline, shape (n,), n >= 2.
        level: Coverage of the interval.

    References:
        Student, Biometrika 6, 1908.

    >>> round(paired_t([1.0, 2.0, 3.0]).p_value, 4)
    0.0742
    """
    values = _differences(differences, level)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0.0:
        return Paired(mean, mean, mean, 1.0 if mean == 0.0 else 0.0)
    from scipy.special import stdtr, stdtrit

    freedom = len(values) - 1
    half = float(stdtrit(freedom, (1.0 + level) / 2)) * error
    return Paired(mean, mean - half, mean + half, float(2.0 * stdtr(freedom, -abs(mean) / error)))


def paired_bootstrap(
    differences: Sequence[float] | Floats, level: float = 0.95, *, seed: int = 0, resamples: int = 9999
) -> Paired:
    """Bootstrap of the mean of paired differences: bias-corrected and accelerated interval.

    The p-value comes from the differences moved to mean 0, studentised.

    Args:
        differences: Candidate minus baseline, shape (n,), n >= 2.
        level: Coverage of the interval.
        seed: Of the resampling.
        resamples: At least 99.

    References:
        Efron, JASA 82, 1987. Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.4.

    >>> found = paired_bootstrap([1.0, 2.0, 3.0, 2.5, 1.5, 2.0, 1.0, 3.0])
    >>> found.low < found.estimate == 2.0 < found.high, found.p_value < 0.01
    (True, True)
    """
    values = _differences(differences, level)
    if resamples < 99:
        raise UsageError(f"a bootstrap needs at least 99 resamples, got {resamples}")
    mean = float(values.mean())
    if np.ptp(values) == 0.0:
        return Paired(mean, mean, mean, 1.0 if mean == 0.0 else 0.0)
    n = len(values)
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(0, n, size=(resamples, n))]
    means = drawn.mean(axis=1)
    low, high = _bca(values, means, mean, level)
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(n)
    observed = abs(mean) / (float(values.std(ddof=1)) / math.sqrt(n))
    # A resample of one value repeated has no spread and any t: it counts as extreme.
    with np.errstate(divide="ignore", invalid="ignore"):
        extreme = ~(np.abs(means - mean) / errors < observed)
    return Paired(mean, low, high, float((1 + np.sum(extreme)) / (resamples + 1)))


def _bca(values: Floats, means: Floats, mean: float, level: float) -> tuple[float, float]:
    from scipy.special import ndtr, ndtri

    below = (np.sum(means < mean) + 0.5 * np.sum(means == mean)) / len(means)
    bias = ndtri(np.clip(below, 0.5 / len(means), 1 - 0.5 / len(means)))
    leave_one_out = (values.sum() - values) / (len(values) - 1)
    pull = leave_one_out.mean() - leave_one_out
    acceleration = np.sum(pull**3) / (6.0 * np.sum(pull**2) ** 1.5)
    ends = bias + ndtri(np.array([(1.0 - level) / 2, (1.0 + level) / 2]))
    found = np.quantile(means, np.asarray(ndtr(bias + ends / (1.0 - acceleration * ends)), dtype=np.float64))
    return float(found[0]), float(found[1])


def _differences(differences: Sequence[float] | Floats, level: float) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.all(np.isfinite(values)):
        raise UsageError(f"at least two finite paired differences are needed, got shape {values.shape}")
    if not 0.0 < level < 1.0:
        raise UsageError(f"level must lie between 0 and 1, got {level}")
    return values

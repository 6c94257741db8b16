"""Wilcoxon's signed-rank test, its interval, and the Hodges-Lehmann estimate, exact for small samples.

All three stand on the Walsh averages (x_i + x_j) / 2, i <= j: their median is the estimate, the
number of positive ones is the test statistic, and the interval runs between two of them.

Ties and zeros are treated in one of two ways:

- `bound`: a Walsh average of exactly zero counts against the finding. Adding an infinitely small
  symmetric noise to the data breaks every tie and can only move the statistic towards the finding,
  so this p-value is never below that of an exact test: it is valid for every symmetric noise,
  also at several looks together, and the interval excludes 0 exactly when p is small enough.
- `pratt`: zeros are ranked and then dropped, ties take mid-ranks, and the exact conditional
  distribution given these ranks is used (Pratt 1959). Sharper, for a single test.

References:
    Wilcoxon, Biometrics Bulletin 1, 1945. Pratt, JASA 54, 1959. Hodges and Lehmann, Annals of
    Mathematical Statistics 34, 1963. Hollander, Wolfe and Chicken, Nonparametric Statistical
    Methods, 3rd edition, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["attainable", "hodges_lehmann", "interval_at", "signed_rank_interval", "signed_rank_p", "walsh"]

Floats = npt.NDArray[np.float64]

# Up to here the null distribution is summed exactly; beyond it the normal one differs from it by less than 1e-4.
EXACT = 200
# Walsh averages of more values would fill hundreds of megabytes, and no longer say more than a t test.
LARGEST = 5000


def hodges_lehmann(x: Sequence[float] | Floats) -> float:
    """Return the median of the Walsh averages: the centre of a symmetric sample, robust to outliers.

    Args:
        x: Finite values, shape (n,), 1 <= n <= 5000.

    >>> hodges_lehmann([1.0, 2.0, 3.0, 100.0, 2.0])
    2.5
    """
    return float(np.median(walsh(x)))


def signed_rank_p(x: Sequence[float] | Floats, *, ties: Literal["pratt", "bound"] = "pratt") -> float:
    """Return the two-sided p-value of "the values are symmetric around 0".

    Exact for n <= 200. Without ties and zeros, both ways of treating them agree.

    Args:
        x: Paired differences, shape (n,).
        ties: See the module's text.

    >>> signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    0.03125
    """
    values = _sample(x)
    return _bound_p(values) if ties == "bound" else _pratt_p(values)


def signed_rank_interval(x: Sequence[float] | Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval for the centre: two Walsh averages, or infinite ends.

    Fewer than 6 values cannot give 95 %: the interval is then (-inf, inf).

    Args:
        x: Finite values, shape (n,).
        level: Least coverage, 0 < level < 1.

    >>> signed_rank_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (1.0, 6.0)
    >>> signed_rank_interval([1.0, 2.0, 3.0])
    (-inf, inf)
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level must lie between 0 and 1, got {level}")
    # 1 - 0.95 is a little more than 0.05 in binary; an attainable level must not be lost or won by that.
    return interval_at(x, (1.0 - level) * (1.0 + 1e-12))


def interval_at(x: Sequence[float] | Floats, alpha: float) -> tuple[float, float]:
    """Return the interval that excludes 0 exactly when the `bound` p-value is at most alpha."""
    averages = np.sort(walsh(x))
    n = len(_sample(x))
    left_out = _left_out(n, alpha)
    if left_out < 0:
        return -math.inf, math.inf
    return float(averages[left_out]), float(averages[len(averages) - 1 - left_out])


def walsh(x: Sequence[float] | Floats) -> Floats:
    """Return the n * (n + 1) / 2 averages of all pairs, each value paired with itself too."""
    values = _sample(x)
    first, second = np.triu_indices(len(values))
    # Halves before the sum: two values near the largest float must not overflow.
    return values[first] / 2 + values[second] / 2


@lru_cache(maxsize=64)
def attainable(n: int) -> tuple[float, ...]:
    """Return the two-sided p-value for t = 0, 1, ... Walsh averages on the smaller side.

    Args:
        n: Number of values, 1 <= n <= 200. For n <= 50 the numbers are exact in binary.

    >>> attainable(6)[:3]
    (0.03125, 0.0625, 0.09375)
    """
    tail = np.minimum(1.0, 2.0 * np.cumsum(_subset_sums(tuple(range(1, n + 1)))))
    return tuple(float(p) for p in tail[: n * (n + 1) // 4 + 1])


def _left_out(n: int, alpha: float) -> int:
    """Return how many Walsh averages the interval leaves out at each end, less the end itself; -1 for none."""
    if n <= EXACT:
        return int(np.searchsorted(attainable(n), alpha, side="right")) - 1
    mean, deviation = _moments(np.arange(1, n + 1))
    left_out = math.floor(mean - 0.5 + deviation * _normal_quantile(alpha / 2))
    return max(-1, min(left_out, n * (n + 1) // 4 - 1))


def _bound_p(values: Floats) -> float:
    n = len(values)
    averages = walsh(values)
    smaller = len(averages) - max(int(np.sum(averages > 0)), int(np.sum(averages < 0)))
    if n <= EXACT:
        p = attainable(n)
        return p[smaller] if smaller < len(p) else 1.0
    return _normal_p(smaller, *_moments(np.arange(1, n + 1)))


def _pratt_p(values: Floats) -> float:
    ranks = _mid_ranks_doubled(np.abs(values))
    kept = values != 0
    ranks, positive = ranks[kept], values[kept] > 0
    if not len(ranks):
        return 1.0
    above = int(ranks[positive].sum())
    smaller = min(above, int(ranks.sum()) - above)
    if len(ranks) <= EXACT:
        return min(1.0, 2.0 * float(np.sum(_subset_sums(tuple(int(r) for r in ranks))[: smaller + 1])))
    return _normal_p(smaller, *_moments(ranks))


def _mid_ranks_doubled(sizes: Floats) -> npt.NDArray[np.int64]:
    """Return twice the mid-ranks, which are whole numbers."""
    ordered = np.sort(sizes)
    below = np.searchsorted(ordered, sizes, side="left")
    up_to = np.searchsorted(ordered, sizes, side="right")
    return (below + up_to + 1).astype(np.int64)


@lru_cache(maxsize=64)
def _subset_sums(ranks: tuple[int, ...]) -> Floats:
    """Return the distribution of the sum of ranks when each is taken with probability one half.

    One rank after the other, in O(n * sum(ranks)) steps.
    """
    distribution = np.zeros(sum(ranks) + 1)
    distribution[0] = 1.0
    for rank in ranks:
        distribution *= 0.5
        distribution[rank:] += distribution[:-rank].copy()
    return distribution


def _moments(ranks: npt.NDArray[np.int64]) -> tuple[float, float]:
    return float(ranks.sum()) / 2, math.sqrt(float(np.sum(ranks.astype(np.float64) ** 2)) / 4)


def _normal_p(smaller: float, mean: float, deviation: float) -> float:
    # Half a step towards the mean: the usual correction for a discrete statistic.
    return min(1.0, math.erfc((mean - smaller - 0.5) / deviation / math.sqrt(2)))


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def _sample(x: Sequence[float] | Floats) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or not 1 <= len(values) <= LARGEST:
        raise UsageError(f"a flat sample of 1 to {LARGEST} values is needed, got shape {values.shape}")
    if not np.all(np.isfinite(values)):
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UsageError(f"every value of a sample must be finite, got {values[where]} at place {where}")
    return values

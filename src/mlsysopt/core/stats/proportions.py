"""Intervals for a share that was counted."""

from __future__ import annotations

from mlsysopt.core.errors import UsageError

__all__ = ["clopper_pearson"]


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval for a share of which k out of n were seen.

    Args:
        k: Successes, 0 <= k <= n.
        n: Trials, at least 1.
        level: Least coverage.

    References:
        Clopper and Pearson, Biometrika 26, 1934.

    >>> [round(end, 3) for end in clopper_pearson(0, 10)]
    [0.0, 0.308]
    """
    if not (n >= 1 and 0 <= k <= n):
        raise UsageError(f"0 <= k <= n and n >= 1 are needed, got k={k}, n={n}")
    if not 0.0 < level < 1.0:
        raise UsageError(f"level must lie between 0 and 1, got {level}")
    from scipy.special import betaincinv

    tail = (1.0 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1.0 - tail))
    return low, high

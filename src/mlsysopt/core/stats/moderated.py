"""Variances of many small samples, each shrunk towards what the others say.

Three differences say little about their own spread, but the rows of one study are noisy in similar
ways. The prior is fitted by moments to the logarithms of the sample variances; the shrunken
variance has more degrees of freedom than the sample's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["Moderated", "fitted_prior", "moderate"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moderated:
    """Shrunken variances and what they are worth.

    Attributes:
        variance: Shape (..., m).
        freedom: Degrees of freedom of a t statistic that uses them, shape (..., m).
    """

    variance: Floats
    freedom: Floats


def moderate(
    variance: Floats, freedom: Floats, *, cap: float | None = 1.0, centre: Literal["fitted", "between"] = "fitted"
) -> Moderated:
    """Shrink sample variances towards a common one, family by family.

    Args:
        variance: Sample variances, shape (..., m): m rows of one family; NaN for a row that takes no part.
        freedom: Degrees of freedom of each, broadcast to the same shape; at least 1 where a variance is given.
        cap: The prior counts for at most so many times a row's own degrees of freedom: where the rows share
            noise, the fit believes in more agreement than there is. None leaves it as fitted.
        centre: What the rows are shrunk towards: the fitted scale, or the geometric mean of that and of
            the plain average. A capped prior of the fitted scale is too small for the noisiest rows.

    Returns:
        NaN where the variance was NaN. A family of one row keeps its own variance.

    Raises:
        UsageError: a negative variance or no degrees of freedom.

    References:
        Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004, section 6.

    >>> shrunk = moderate(np.array([1.0, 4.0, 0.25]), np.array(2.0))
    >>> [round(float(v), 2) for v in shrunk.variance], float(shrunk.freedom[0])
    ([1.28, 2.78, 0.91], 4.0)
    """
    own, d = np.broadcast_arrays(np.asarray(variance, dtype=np.float64), np.asarray(freedom, dtype=np.float64))
    there = ~np.isnan(own)
    if np.any(own[there] < 0) or np.any(~(d[there] >= 1)):
        raise UsageError("a variance must be at least 0, with at least 1 degree of freedom")
    prior, weight = fitted_prior(own, d)
    if centre == "between":
        average = np.where(there, own, 0.0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
        prior = np.sqrt(prior * average)
    with np.errstate(invalid="ignore"):
        weight = np.broadcast_to(weight[..., None], own.shape)
        weight = np.minimum(weight, np.inf if cap is None else cap * d)
        # A prior that is certain leaves nothing of the row's own variance.
        certain = np.isinf(weight)
        finite = np.where(certain, 0.0, weight)
        mixed = (finite * prior[..., None] + d * own) / (finite + d)
        shrunk = np.where(certain, prior[..., None], mixed)
    return Moderated(np.where(there, shrunk, np.nan), np.where(there, weight + d, np.nan))


def fitted_prior(variance: Floats, freedom: Floats) -> tuple[Floats, Floats]:
    """Return the common variance and the degrees of freedom that it is worth, per family.

    Args:
        variance: Shape (..., m), NaN for a row that takes no part.
        freedom: The same shape.

    Returns:
        Two arrays of shape (...); weight 0 where fewer than two rows take part, infinity where the
        variances differ no more than by chance.
    """
    special = _special()
    there = ~np.isnan(variance)
    m = there.sum(axis=-1)
    d = np.where(there, freedom, 1.0)
    # Rows without any spread would be minus infinity in logarithms: they count as a tiny share of the typical one.
    filled = np.where(there, variance, 0.0)
    typical = filled.sum(axis=-1) / np.maximum(m, 1)
    floor = np.where(typical > 0, typical * 1e-6, 1.0)[..., None]
    offset = special.digamma(d / 2) - np.log(d / 2)
    e = np.where(there, np.log(np.maximum(filled, floor)) - offset, 0.0)
    mean = e.sum(axis=-1) / np.maximum(m, 1)
    spread = np.where(there, (e - mean[..., None]) ** 2, 0.0).sum(axis=-1) / np.maximum(m - 1, 1)
    by_chance = np.where(there, special.polygamma(1, d / 2), 0.0).sum(axis=-1) / np.maximum(m, 1)
    excess = spread - by_chance
    half = _trigamma_inverse(np.where(excess > 0, excess, 1.0))
    weight = np.where(excess > 0, 2.0 * half, np.inf)
    common = np.where(excess > 0, np.exp(mean + special.digamma(half) - np.log(half)), typical)
    alone = m < 2
    return np.where(alone, typical, common), np.where(alone, 0.0, weight)


def _trigamma_inverse(y: Floats) -> Floats:
    """Return x with trigamma(x) = y > 0, by interpolation in a table; the relative error is below 1e-4."""
    known_y, known_x = _trigamma_table()
    low, high = known_y[0], known_y[-1]
    inside = np.exp(np.interp(np.log(np.clip(y, low, high)), np.log(known_y), np.log(known_x)))
    # Beyond the table trigamma is 1/x^2 for small x and 1/x for large ones.
    return np.where(y > high, 1.0 / np.sqrt(y), np.where(y < low, 1.0 / y, inside))


@lru_cache(maxsize=1)
def _trigamma_table() -> tuple[Floats, Floats]:
    x = np.geomspace(1e4, 1e-3, 4000)
    return np.asarray(_special().polygamma(1, x)), x


def _special() -> Any:
    import scipy.special

    return scipy.special

"""Intervals that hold whatever model made the prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["conformal_quantile"]


def conformal_quantile(scores: Sequence[float] | npt.NDArray[np.float64], coverage: float) -> float:
    """Return the bound that a new exchangeable score stays under with at least this probability.

    Args:
        scores: How wrong the model was on samples it had not seen, shape (n,).
        coverage: 0 < coverage < 1.

    Returns:
        The ceil((n + 1) * coverage)-th smallest score; inf when n is too small for that coverage.

    References:
        Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.
        Lei et al., JASA 113, 2018, section 2.

    >>> conformal_quantile([0.1, 0.4, 0.2, 0.3], 0.6)
    0.3
    >>> conformal_quantile([0.1, 0.4], 0.9)
    inf
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if not 0.0 < coverage < 1.0:
        raise UsageError(f"coverage must lie between 0 and 1, got {coverage}")
    if values.ndim != 1 or not len(values) or np.any(np.isnan(values)):
        raise UsageError("scores must be a flat, non-empty sequence of numbers")
    # (n + 1) * coverage is a whole number for round figures such as 19 scores at 0.9, but not in binary.
    place = math.ceil((len(values) + 1) * coverage - 1e-9)
    return float(values[place - 1]) if place <= len(values) else math.inf

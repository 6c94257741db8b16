"""Two one-sided tests: is an effect small enough not to matter?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["two_one_sided"]

Floats = npt.NDArray[np.float64]


def two_one_sided(mean: Floats, error: Floats, freedom: Floats, margin: float) -> tuple[Floats, Floats]:
    """Return the p-values of "at most -margin" and of "at least +margin".

    Where both are small the effect lies inside the margin. Each is a valid test by itself, so both
    can be made sequential apart from one another, and the larger one is the p-value of "not equivalent".

    Args:
        mean: Estimated effects, any shape.
        error: Their standard errors.
        freedom: Degrees of freedom of these.
        margin: Largest effect that does not matter, above 0.

    References:
        Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987.

    >>> below, above = two_one_sided(np.array([0.0, 0.9]), np.array([0.25, 0.25]), np.array([9.0, 9.0]), 1.0)
    >>> [round(float(max(a, b)), 4) for a, b in zip(below, above)]
    [0.0016, 0.3492]
    """
    if not margin > 0:
        raise UsageError(f"margin must be above 0, got {margin}")
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.asarray(stdtr(freedom, -(mean + margin) / error))
        above = np.asarray(stdtr(freedom, (mean - margin) / error))
    return below, above

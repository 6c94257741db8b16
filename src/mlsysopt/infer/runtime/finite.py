"""What the weights of finite values need."""

from __future__ import annotations

import math

__all__ = ["inverse_or_nan"]


def inverse_or_nan(x: float) -> float:
    """1 / x of a scale; nan where x is none."""
    if x > 0.0:
        return 1.0 / x
    return math.nan

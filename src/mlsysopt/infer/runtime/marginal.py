"""What summing out finite variables needs."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["log_sum"]


def log_sum(logs: Any) -> float:
    """log(sum(exp(logs))) of an array; -inf where all are."""
    top = logs[0]
    for i in range(1, logs.shape[0]):
        if logs[i] > top:
            top = logs[i]
    if top == -math.inf:
        return top
    total = 0.0
    for i in range(logs.shape[0]):
        total += math.exp(logs[i] - top)
    return top + math.log(total)

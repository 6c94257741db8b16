"""Proposals of random walks, and the logarithms that correct for them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "proposal_log_ratio",
    "proposal_scale",
    "simplex_inside",
    "simplex_log_volume",
    "simplex_step",
    "step_size",
    "vector_step",
]

Floats = NDArray[np.float64]

WALK_TARGET = 0.3
"""Accepted share towards which steps are adapted."""
WALK_RATE = 0.1
WALK_LEAST = 1e-300
"""What underflowed to 0 in a row of probabilities is taken as this, so that its logarithm can move again."""


def simplex_step(rng: np.random.Generator, row: Floats, old: Floats, size: float) -> None:
    """Move the logarithms of a row of probabilities by normals: symmetric in the log ratios of any two of them."""
    most = -math.inf
    for k in range(row.shape[0]):
        row[k] = math.log(max(old[k], WALK_LEAST)) + size * rng.standard_normal()
        most = max(most, row[k])
    total = 0.0
    for k in range(row.shape[0]):
        row[k] = math.exp(row[k] - most)
        total += row[k]
    for k in range(row.shape[0]):
        row[k] = row[k] / total


def simplex_inside(row: Floats) -> None:
    """Take numbers of a row that underflowed to 0 off the edge."""
    for k in range(row.shape[0]):
        row[k] = max(row[k], WALK_LEAST)


def simplex_log_volume(row: Floats) -> float:
    """Return the logarithm of the Jacobian from log ratios to probabilities: the sum of all logarithms."""
    found = 0.0
    for k in range(row.shape[0]):
        found += math.log(max(row[k], WALK_LEAST))
    return found


def vector_step(rng: np.random.Generator, row: Floats, old: Floats, size: float) -> None:
    """Move every number of a vector by a normal."""
    for k in range(row.shape[0]):
        row[k] = old[k] + size * rng.standard_normal()


def step_size(size: float, accepted: bool) -> float:
    """Return the next step's size after one was accepted or not; only warming up may ask."""
    return size * math.exp(WALK_RATE * ((1.0 if accepted else 0.0) - WALK_TARGET))


def proposal_scale(v: float) -> float:
    """Return the step's standard deviation at a number: a tenth of it, 0.1 at least."""
    return max(0.1 * abs(v), 0.1)


def proposal_log_ratio(v: float, new: float) -> float:
    """Return the log density of proposing `v` from `new` less that of `new` from `v`, whose scales differ."""
    s, t = proposal_scale(v), proposal_scale(new)
    d = new - v
    return math.log(s) - math.log(t) + 0.5 * d * d * (1.0 / (s * s) - 1.0 / (t * t))

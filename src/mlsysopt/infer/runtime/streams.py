"""Random streams: one generator for each chain, from the seed alone, whatever runs it."""

from __future__ import annotations

import numpy as np

__all__ = ["stream"]


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one chain, replicate or draw.

    >>> stream(1, 0).random() == stream(1, 0).random() != stream(1, 1).random()
    True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))

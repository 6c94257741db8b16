"""Random streams of one training: one for the order of the data, the global ones for everything else."""

from __future__ import annotations

import random
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlsysopt.core.seeds import seed_sequence

__all__ = ["data_rng", "seed_all", "seeded"]


def data_rng(seed: int) -> np.random.Generator:
    """Return the generator for the order of the data.

    It is apart from the streams that torch and numpy draw from: a removed dropout layer does not
    reshuffle the batches.

    >>> int(data_rng(3).integers(1000)) == int(data_rng(3).integers(1000))
    True
    """
    return np.random.default_rng(seed_sequence(seed, "data order"))


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Set the global streams of random, numpy and torch, and put them back afterwards."""
    torch: Any = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002
    seed_all(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch = sys.modules.get("torch")
        if torch is not None and before[2] is not None:
            torch.set_rng_state(before[2])


def seed_all(seed: int) -> None:
    """Set the global streams of random, numpy and, where it is imported, torch."""
    state = int(seed_sequence(seed, "training").generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)  # noqa: NPY002
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(state)

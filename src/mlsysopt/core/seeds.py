"""Random streams that never repeat: not after a resume, not on a second machine.

Every stream is keyed by the study's seed, the worker, the trials that are already in the store,
the role and the round. A sampler that is reloaded with one fixed seed would propose the same
points again; one that is rebuilt from such a stream does not.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mlsysopt.core.errors import UsageError

__all__ = ["integer_seed", "seed_sequence", "stream"]


def seed_sequence(seed: int, *key: int | str) -> np.random.SeedSequence:
    """Return the seed sequence of one key; different keys give independent streams.

    Args:
        seed: Seed of the study, at least 0.
        key: Whole numbers from 0, or words; words are hashed by SHA-256, so that a key means the
            same in every process and version of Python.

    Raises:
        UsageError: a negative seed or number.

    >>> seed_sequence(1, 0, "trial").spawn_key == seed_sequence(1, 0, "trial").spawn_key
    True
    >>> bool(seed_sequence(1, 0).generate_state(1) == seed_sequence(1, 1).generate_state(1))
    False
    """
    return np.random.SeedSequence(
        entropy=_whole(seed, "seed"),
        spawn_key=tuple(word for part in key for word in _words(part)),
    )


def stream(seed: int, *, worker: int = 0, trials: int = 0, role: str = "trial", round: int = 0) -> np.random.Generator:
    """Return the generator of one role in one worker.

    Args:
        seed: Seed of the study.
        worker: Number of this process among all that share the store.
        trials: Trials already in the store.
        role: What the numbers are for.
        round: Repeat of that role.

    >>> int(stream(7, worker=1).integers(100)) == int(stream(7, worker=1).integers(100))
    True
    """
    return np.random.default_rng(seed_sequence(seed, worker, trials, role, round))


def integer_seed(seed: int, *, worker: int = 0, trials: int = 0, role: str = "trial", round: int = 0) -> int:
    """Return one seed for a program that takes a number; 1 <= result < 2**31.

    >>> integer_seed(7, round=1) == integer_seed(7, round=2)
    False
    """
    return int(stream(seed, worker=worker, trials=trials, role=role, round=round).integers(1, 2**31))


def _words(part: int | str) -> tuple[int, int, int]:
    """Encode one part of a key in a fixed number of 32-bit words.

    `SeedSequence` joins the words of all parts: with parts of different lengths, two keys could
    meet. The first word keeps numbers and words apart.
    """
    if isinstance(part, str):
        digest = hashlib.sha256(part.encode()).digest()
        return 1, int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")
    number = _whole(part, "key")
    if number >= 2**64:
        raise UsageError(f"a key must be below 2**64, got {part}")
    return 0, number & 0xFFFFFFFF, number >> 32


def _whole(value: int, noun: str) -> int:
    number = int(value)
    if number < 0 or number != value:
        raise UsageError(f"{noun} must be a whole number from 0, got {value!r}")
    return number

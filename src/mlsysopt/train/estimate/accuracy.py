"""How well a trainer predicts, on part of the rows only: an aside to its cost, and headed so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.target import Failure

if TYPE_CHECKING:
    from mlsysopt.core.executors import Executor
    from mlsysopt.train.estimate.ratings import Ratings
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord

__all__ = ["held_out_rmse"]

_HELD_OUT = 0.2


def held_out_rmse(
    record: TrainerRecord,
    rows: Ratings,
    *,
    seed: int = 0,
    timeout_s: float = 60.0,
    memory_bytes: int | None = None,
    executor: Executor | None = None,
) -> float:
    """Train on four fifths of the ratings, return the root mean square error on the rest; nan when that fails.

    Args:
        record: Settled record of a trainer that is given a trainset and whose model has `test`.
        rows: Whole rows of some users or items.
        seed: Of the split.
        timeout_s: Time-out of the training.
        memory_bytes: Its limit.
        executor: Where it runs; None means here. It runs in a process of its own.
    """
    from mlsysopt.core.executors import InProcess

    where = executor or InProcess()
    done = where.submit(
        _error, record, rows, seed, exclusive=True, fresh=True, timeout_s=timeout_s, memory_bytes=memory_bytes
    )
    try:
        found = done.result()
    except Exception:
        # What a trainer raises on part of the rows says nothing about its cost.
        return math.nan
    return math.nan if isinstance(found, Failure) else float(found)


def _error(record: TrainerRecord, rows: Ratings, seed: int) -> float:
    from mlsysopt.train.estimate.ratings import Ratings

    held = np.random.default_rng(seed).random(len(rows)) < _HELD_OUT
    if not held.any() or held.all():
        return math.nan
    kept = Ratings.from_codes(
        rows.user[~held],
        rows.item[~held],
        rows.value[~held],
        user_names=np.arange(rows.n_users),
        item_names=np.arange(rows.n_items),
    )
    model: Any = record.fit(kept.trainset(), **dict(record.params))
    unseen = list(zip(rows.user[held].tolist(), rows.item[held].tolist(), rows.value[held].tolist(), strict=True))
    misses = np.array([one.r_ui - one.est for one in model.test(unseen)])
    return float(np.sqrt(np.mean(misses**2)))

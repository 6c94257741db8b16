"""Trainers and what their training costs: Surprise, implicit, and whoever declares one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord, find, names, trainer

__all__ = ["TrainerRecord", "find", "names", "trainer"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "TrainerRecord": "mlsysopt.train.estimate.trainers.registry",
        "find": "mlsysopt.train.estimate.trainers.registry",
        "names": "mlsysopt.train.estimate.trainers.registry",
        "trainer": "mlsysopt.train.estimate.trainers.registry",
    },
)

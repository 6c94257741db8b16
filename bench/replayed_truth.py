"""A sampler kept by a replay's own truth about what runs: what no learned model of it can beat."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.replayed_seconds import RAN, TimedReplay
from mlsysopt.core.search.evidence import evidence_of
from mlsysopt.core.search.rules import LearnedRule
from mlsysopt.core.search.validity import ValidityModel, ValiditySampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study

    from mlsysopt.core.search.evidence import Evidence
    from mlsysopt.core.space import Space
    from mlsysopt.core.space.columns import Codes

Floats = NDArray[np.float64]


class Truth(ValidityModel):
    """p(valid) as the replay has it: 1 where it runs, else 0.

    Args:
        replay: The system.
        evidence: What is known; it says where candidates are drawn, and nothing else.
    """

    def __init__(self, replay: TimedReplay, evidence: list[Evidence]) -> None:
        super().__init__(replay.table.space, evidence)
        self._replay = replay

    @property
    def has_failures(self) -> bool:
        return True

    @cached_property
    def rules(self) -> tuple[LearnedRule, ...]:
        return ()

    def _estimate(self, x: Floats, codes: Codes) -> Floats:
        return np.array([sort == RAN for sort in self._replay.sorts(x)], dtype=np.float64)


class TruthSampler(ValiditySampler):
    """`ValiditySampler` with nothing to learn: no probes, no mistakes, from the first trial on."""

    def __init__(self, base: BaseSampler, space: Space, *, seed: int, replay: TimedReplay) -> None:
        super().__init__(base, space, seed=seed)
        self._replay = replay

    def model(self, study: Study) -> ValidityModel:
        return Truth(self._replay, evidence_of(study.get_trials(deepcopy=False), self._replay.table.space))

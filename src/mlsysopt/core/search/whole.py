"""What samplers that propose whole configurations have in common with Optuna: the space, the seeds, one objective."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection

from mlsysopt.core.errors import StudyError
from mlsysopt.core.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["WholeSampler", "in_common", "refuse_several"]


class WholeSampler(BaseSampler):
    """Decides all parameters of a trial at once; one that is asked for alone is drawn at random.

    A subclass implements `whole`. Its state must be a function of the trials and the seed.

    Args:
        space: What may be chosen, with its constraints; None takes Optuna's intersection of the trials'.
        seed: Seed.

    Raises:
        StudyError: when asked, in a study with several objectives.
    """

    def __init__(self, *, space: Space | None, seed: int) -> None:
        self.space, self.seed = space, int(seed)
        self._independent = RandomSampler(seed=self.seed)
        self._intersection = IntersectionSearchSpace()
        # Repeats within one trial must differ: a wrapper that refuses a proposal asks again.
        self._asked: tuple[int, int] = (-1, 0)

    @abstractmethod
    def whole(self, study: Study, trial: FrozenTrial, space: Space, round: int) -> dict[str, Any]:
        """Return a valid configuration.

        Args:
            study: The study.
            trial: What it is for.
            space: What may be chosen.
            round: How often this trial has been asked for before.
        """

    def reseed_rng(self) -> None:
        self.seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        refuse_several(study)
        return self.space.distributions() if self.space is not None else in_common(self._intersection, study)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        refuse_several(study)
        if not search_space:
            return {}
        space = self.space if self.space is not None else Space.from_distributions(search_space)
        number, times = self._asked
        self._asked = (trial.number, times + 1 if number == trial.number else 0)
        params = space.to_params(self.whole(study, trial, space, self._asked[1]))
        return {name: value for name, value in params.items() if name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        refuse_several(study)
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._independent.after_trial(study, trial, state, values)


def in_common(intersection: IntersectionSearchSpace, study: Study) -> dict[str, BaseDistribution]:
    """Return the parameters that all trials of a study share, those with a single value left out."""
    return {name: one for name, one in intersection.calculate(study).items() if not one.single()}


def refuse_several(study: Study) -> None:
    """Refuse a study with several objectives.

    Raises:
        StudyError: with what to use instead.
    """
    directions = cast("Sequence[StudyDirection]", study.directions)
    if len(directions) > 1:
        raise StudyError(
            f"this sampler improves one objective, the study has {len(directions)}; "
            "use tpe or nsga2, or make the others guards"
        )

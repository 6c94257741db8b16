"""Samplers around samplers: one that picks by the number of objectives, one that says whose fault it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.samplers import BaseSampler

from mlsysopt.core.errors import MlsysoptError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["Blamed", "ByObjectives"]

T = TypeVar("T")


class ByObjectives(BaseSampler):
    """Uses one sampler for studies with one objective and another for those with several.

    Args:
        one: For one objective.
        several: For more.

    >>> import optuna
    >>> from optuna.samplers import RandomSampler, TPESampler
    >>> chosen = ByObjectives(one=TPESampler(), several=RandomSampler())
    >>> type(chosen.chosen(optuna.create_study(directions=["minimize", "maximize"]))).__name__
    'RandomSampler'
    """

    def __init__(self, *, one: BaseSampler, several: BaseSampler) -> None:
        self.one, self.several = one, several

    def chosen(self, study: Study) -> BaseSampler:
        """Return the sampler for a study."""
        return self.one if len(study.directions) == 1 else self.several

    def reseed_rng(self) -> None:
        self.one.reseed_rng()
        self.several.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.chosen(study).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.chosen(study).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.chosen(study).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.chosen(study).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.chosen(study).after_trial(study, trial, state, values)


class Blamed(BaseSampler):
    """Passes every call on; what the inner sampler raises comes out as one error that names it.

    Args:
        base: A sampler of somebody else's.
        blame: Makes the error from the hook's name and what was raised.
    """

    def __init__(self, base: BaseSampler, blame: Callable[[str, Exception], MlsysoptError]) -> None:
        self.base = base
        self._blame = blame

    def _call(self, hook: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except MlsysoptError:
            raise
        except Exception as error:
            raise self._blame(hook, error) from error

    def reseed_rng(self) -> None:
        self._call("reseed_rng", self.base.reseed_rng)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._call("infer_relative_search_space", lambda: self.base.infer_relative_search_space(study, trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._call("sample_relative", lambda: self.base.sample_relative(study, trial, search_space))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._call(
            "sample_independent",
            lambda: self.base.sample_independent(study, trial, param_name, param_distribution),
        )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._call("before_trial", lambda: self.base.before_trial(study, trial))

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._call("after_trial", lambda: self.base.after_trial(study, trial, state, values))

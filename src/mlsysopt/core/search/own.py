"""The samplers that this distribution registers: ours, and Optuna's own under short names.

Each is a factory as any distribution may register one under `mlsysopt.samplers`: it takes what it needs of
`space`, `seed`, `knowledge` and `trials`, and returns an Optuna sampler. `references` on a factory is what it
is based on, a list or a function that returns one. Nothing heavy is imported before a factory is called.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mlsysopt.core.errors import MissingExtra
from mlsysopt.core.references import Reference

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from mlsysopt.core.space import Space

__all__ = ["auto", "cmaes", "ddpg", "dds", "gp", "icm", "nsga2", "qmc", "random", "structured", "td3", "tpe"]

STARTS = 6
"""The default and five Sobol points come first; after them every sampler trusts its model."""

Knowledge = Mapping[str, Mapping[str, float] | Sequence[str]]
F = TypeVar("F", bound=Callable[..., Any])

OPTUNA = Reference(
    "akiba2019",
    "inproceedings",
    "{Optuna}: A Next-generation Hyperparameter Optimization Framework",
    "T. Akiba and S. Sano and T. Yanase and T. Ohta and M. Koyama",
    2019,
    {"booktitle": "KDD", "doi": "10.1145/3292500.3330701"},
)
BERGSTRA2011 = Reference(
    "bergstra2011",
    "inproceedings",
    "Algorithms for Hyper-Parameter Optimization",
    "J. Bergstra and R. Bardenet and Y. Bengio and B. K{\\'e}gl",
    2011,
    {"booktitle": "NeurIPS"},
)
BERGSTRA2012 = Reference(
    "bergstra2012",
    "article",
    "Random Search for Hyper-Parameter Optimization",
    "J. Bergstra and Y. Bengio",
    2012,
    {"journal": "Journal of Machine Learning Research", "volume": "13"},
)
HANSEN2001 = Reference(
    "hansen2001",
    "article",
    "Completely Derandomized Self-Adaptation in Evolution Strategies",
    "N. Hansen and A. Ostermeier",
    2001,
    {"journal": "Evolutionary Computation", "volume": "9", "number": "2", "doi": "10.1162/106365601750190398"},
)
DEB2002 = Reference(
    "deb2002",
    "article",
    "A Fast and Elitist Multiobjective Genetic Algorithm: {NSGA-II}",
    "K. Deb and A. Pratap and S. Agarwal and T. Meyarivan",
    2002,
    {"journal": "IEEE Transactions on Evolutionary Computation", "volume": "6", "doi": "10.1109/4235.996017"},
)
AMENT2023 = Reference(
    "ament2023",
    "inproceedings",
    "Unexpected Improvements to Expected Improvement for {Bayesian} Optimization",
    "S. Ament and S. Daulton and D. Eriksson and M. Balandat and E. Bakshy",
    2023,
    {"booktitle": "NeurIPS"},
)


def _of_structured() -> list[Reference]:
    from mlsysopt.core.search.structured import StructuredGPSampler

    return [*StructuredGPSampler.references, OPTUNA]


def _of_icm() -> list[Reference]:
    from mlsysopt.core.search.icm import ICMSampler

    return [*ICMSampler.references, OPTUNA]


def _of_dds() -> list[Reference]:
    from mlsysopt.core.search.dds import DDSSampler

    return [*DDSSampler.references, OPTUNA]


def _of_actor_critic() -> list[Reference]:
    from mlsysopt.core.search.actor_critic import ActorCriticSampler

    return [*ActorCriticSampler.references, OPTUNA]


def based_on(found: Sequence[Reference] | Callable[[], Sequence[Reference]]) -> Callable[[F], F]:
    """Return a decorator that says what a factory is based on."""

    def mark(factory: F) -> F:
        factory.references = found  # pyright: ignore[reportFunctionMemberAccess]
        return factory

    return mark


@based_on([OPTUNA])
def random(*, seed: int) -> BaseSampler:
    """Uniform random search."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


@based_on([OPTUNA, BERGSTRA2011])
def tpe(*, seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator, multivariate."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTS)


@based_on([OPTUNA, AMENT2023])
def gp(*, seed: int) -> BaseSampler:
    """One Gaussian process on all knobs."""
    from optuna.samplers import GPSampler

    return _needing("torch", lambda: GPSampler(seed=seed, n_startup_trials=STARTS))


@based_on([OPTUNA, HANSEN2001])
def cmaes(*, seed: int) -> BaseSampler:
    """Covariance matrix adaptation."""
    from optuna.samplers import CmaEsSampler

    return _needing("cmaes", lambda: CmaEsSampler(seed=seed, n_startup_trials=STARTS, warn_independent_sampling=False))


@based_on([OPTUNA, BERGSTRA2012])
def qmc(*, seed: int) -> BaseSampler:
    """Scrambled Sobol points."""
    from optuna.samplers import QMCSampler

    return QMCSampler(seed=seed, scramble=True)


@based_on([OPTUNA, DEB2002])
def nsga2(*, seed: int) -> BaseSampler:
    """Genetic search for several objectives."""
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=20)


@based_on(_of_structured)
def structured(*, space: Space, seed: int, knowledge: Knowledge | None = None) -> BaseSampler:
    """Structured multi-task Gaussian processes."""
    from mlsysopt.core.search.structured import StructuredGPSampler

    return StructuredGPSampler(space=space, seed=seed, knowledge=knowledge)


@based_on(_of_icm)
def icm(*, space: Space, seed: int, knowledge: Knowledge | None = None) -> BaseSampler:
    """One multi-task Gaussian process over the objective and the intermediate metrics."""
    from mlsysopt.core.search.icm import ICMSampler

    return _needing("botorch", lambda: ICMSampler(space=space, seed=seed, knowledge=knowledge))


@based_on(_of_dds)
def dds(*, space: Space, seed: int) -> BaseSampler:
    """Dynamically dimensioned search: a greedy walk that moves ever fewer knobs."""
    from mlsysopt.core.search.dds import DDSSampler

    return DDSSampler(space=space, seed=seed, n_startup=STARTS)


@based_on(_of_actor_critic)
def td3(*, space: Space, seed: int) -> BaseSampler:
    """Reinforcement learning: an actor and two critics."""
    from mlsysopt.core.search.actor_critic import ActorCriticSampler

    return ActorCriticSampler(space=space, seed=seed, variant="td3", n_startup=STARTS)


@based_on(_of_actor_critic)
def ddpg(*, space: Space, seed: int) -> BaseSampler:
    """Reinforcement learning: an actor and one critic."""
    from mlsysopt.core.search.actor_critic import ActorCriticSampler

    return ActorCriticSampler(space=space, seed=seed, variant="ddpg", n_startup=STARTS)


@based_on(_of_structured)
def auto(*, space: Space, seed: int, knowledge: Knowledge | None = None) -> BaseSampler:
    """Structured for one objective, TPE for several."""
    from mlsysopt.core.search.automatic import ByObjectives

    return ByObjectives(one=structured(space=space, seed=seed, knowledge=knowledge), several=tpe(seed=seed))


def _needing(module: str, make: Callable[[], BaseSampler]) -> BaseSampler:
    """Make a sampler whose library is looked for now, not in the middle of a study."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtra.of(f"this sampler (through {module})", "tune")
    return make()

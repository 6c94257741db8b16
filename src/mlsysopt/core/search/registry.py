"""Samplers by name: ours, Optuna's own, and those that other distributions bring."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.core import plugins
from mlsysopt.core.errors import MissingExtra, MlsysoptError, PluginError, UsageError, near_misses
from mlsysopt.core.references import Reference

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from mlsysopt.core.space import Space

__all__ = ["check", "names", "references", "sampler"]

GROUP: plugins.Group = "mlsysopt.samplers"
STARTS = 6
"""The default and five Sobol points come first; after them every sampler trusts its model."""

Knowledge = Mapping[str, Mapping[str, float] | Sequence[str]]


def _random(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _tpe(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTS)


def _gp(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from optuna.samplers import GPSampler

    return _needing("torch", lambda: GPSampler(seed=seed, n_startup_trials=STARTS))


def _cmaes(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return _needing("cmaes", lambda: CmaEsSampler(seed=seed, n_startup_trials=STARTS))


def _qmc(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from optuna.samplers import QMCSampler

    return QMCSampler(seed=seed, scramble=True)


def _nsga2(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=20)


def _structured(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from mlsysopt.core.search.structured import StructuredGPSampler

    return StructuredGPSampler(space=space, seed=seed, knowledge=knowledge)


def _icm(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from mlsysopt.core.search.icm import ICMSampler

    return _needing("botorch", lambda: ICMSampler(space=space, seed=seed, knowledge=knowledge))


def _auto(space: Space, seed: int, knowledge: Knowledge | None) -> BaseSampler:
    from mlsysopt.core.search.automatic import ByObjectives

    return ByObjectives(one=_structured(space, seed, knowledge), several=_tpe(space, seed, knowledge))


Factory = Callable[["Space", int, "Knowledge | None"], "BaseSampler"]
OWN: dict[str, Factory] = {
    "auto": _auto,
    "structured": _structured,
    "icm": _icm,
    "tpe": _tpe,
    "gp": _gp,
    "random": _random,
    "qmc": _qmc,
    "cmaes": _cmaes,
    "nsga2": _nsga2,
}


def names() -> list[str]:
    """Return every name that `sampler` knows; nothing is imported for it.

    >>> {"structured", "tpe", "random"} <= set(names())
    True
    """
    return [*OWN, *(name for name in plugins.names(GROUP) if name not in OWN)]


def check(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        UsageError: with the nearest names.

    >>> check("structred")
    Traceback (most recent call last):
    mlsysopt.core.errors.UsageError: unknown sampler 'structred'; did you mean structured?
    """
    known = names()
    if name not in known:
        raise UsageError(f"unknown sampler {name!r}; {near_misses(name, known, noun='sampler', width=12)}")


def sampler(
    name: str,
    *,
    space: Space,
    seed: int,
    knowledge: Knowledge | None = None,
    trials: Iterable[FrozenTrial] | None = None,
) -> BaseSampler:
    """Make a sampler that proposes only valid configurations of a space.

    Args:
        name: One of `names()`; "auto" is structured for one objective and TPE for several.
        space: What may be chosen.
        seed: Seeds it; the study derives it from its own seed, the worker and the trials so far.
        knowledge: Metric -> knobs that drive it, for samplers that can use it.
        trials: Trials that exist already. Every sampler reads the study's own; this is for plug-ins
            that ask for `trials`.

    Raises:
        UsageError: unknown name.
        MissingExtra: the sampler needs a library that is not installed.
        PluginError: a plug-in failed, or what it returned is no sampler.
    """
    from mlsysopt.core.search.space_sampler import SpaceSampler

    check(name)
    if name in OWN:
        with warnings.catch_warnings():
            from optuna.exceptions import ExperimentalWarning

            # Some of Optuna's samplers and arguments are marked so; choosing them by name is consent.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return SpaceSampler(OWN[name](space, seed, knowledge), space, seed=seed)
    return SpaceSampler(_plugin(name, space=space, seed=seed, knowledge=knowledge, trials=trials), space, seed=seed)


def references(name: str) -> list[Reference]:
    """Return what a sampler is based on.

    Raises:
        UsageError: unknown name.
        PluginError: a plug-in that does not import.
    """
    check(name)
    if name in ("auto", "structured"):
        from mlsysopt.core.search.structured import StructuredGPSampler

        return [*StructuredGPSampler.references, OPTUNA]
    if name == "icm":
        from mlsysopt.core.search.icm import ICMSampler

        return [*ICMSampler.references, OPTUNA]
    if name in OWN:
        return [OPTUNA, *METHODS.get(name, ())]
    return list(getattr(plugins.load(GROUP, name, noun="sampler"), "references", ()))


def _plugin(name: str, **given: Any) -> BaseSampler:
    import inspect

    from optuna.samplers import BaseSampler

    from mlsysopt.core.search.automatic import Blamed

    factory = plugins.load(GROUP, name, noun="sampler")
    try:
        taken = inspect.signature(factory).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
        made = factory(**{key: value for key, value in given.items() if anything or key in taken})
    except MlsysoptError:
        raise
    except Exception as error:
        raise plugins.blame(GROUP, name, "construction", error) from error
    if not isinstance(made, BaseSampler):
        raise PluginError(
            f"{name!r} from {plugins.origin(GROUP, name)} returned {type(made).__name__}, which is no Optuna sampler"
        )
    return Blamed(made, lambda hook, error: plugins.blame(GROUP, name, hook, error))


def _needing(module: str, make: Callable[[], BaseSampler]) -> BaseSampler:
    """Make a sampler whose library is looked for now, not in the middle of a study."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtra.of(f"this sampler (through {module})", "tune")
    return make()


OPTUNA = Reference(
    "akiba2019",
    "inproceedings",
    "{Optuna}: A Next-generation Hyperparameter Optimization Framework",
    "T. Akiba and S. Sano and T. Yanase and T. Ohta and M. Koyama",
    2019,
    {"booktitle": "KDD", "doi": "10.1145/3292500.3330701"},
)
METHODS: dict[str, tuple[Reference, ...]] = {
    "tpe": (
        Reference(
            "bergstra2011",
            "inproceedings",
            "Algorithms for Hyper-Parameter Optimization",
            "J. Bergstra and R. Bardenet and Y. Bengio and B. K{\\'e}gl",
            2011,
            {"booktitle": "NeurIPS"},
        ),
    ),
    "cmaes": (
        Reference(
            "hansen2001",
            "article",
            "Completely Derandomized Self-Adaptation in Evolution Strategies",
            "N. Hansen and A. Ostermeier",
            2001,
            {"journal": "Evolutionary Computation", "volume": "9", "number": "2", "doi": "10.1162/106365601750190398"},
        ),
    ),
    "nsga2": (
        Reference(
            "deb2002",
            "article",
            "A Fast and Elitist Multiobjective Genetic Algorithm: {NSGA-II}",
            "K. Deb and A. Pratap and S. Agarwal and T. Meyarivan",
            2002,
            {"journal": "IEEE Transactions on Evolutionary Computation", "volume": "6", "doi": "10.1109/4235.996017"},
        ),
    ),
    "gp": (
        Reference(
            "ament2023",
            "inproceedings",
            "Unexpected Improvements to Expected Improvement for {Bayesian} Optimization",
            "S. Ament and S. Daulton and D. Eriksson and M. Balandat and E. Bakshy",
            2023,
            {"booktitle": "NeurIPS"},
        ),
    ),
    "qmc": (
        Reference(
            "bergstra2012",
            "article",
            "Random Search for Hyper-Parameter Optimization",
            "J. Bergstra and Y. Bengio",
            2012,
            {"journal": "Journal of Machine Learning Research", "volume": "13"},
        ),
    ),
}

"""Samplers by name, found through the entry points of `mlsysopt.samplers`: ours the same way as a stranger's."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.core import plugins
from mlsysopt.core.errors import MlsysoptError, PluginError, UsageError, near_misses
from mlsysopt.core.references import Reference
from mlsysopt.core.search import own

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from mlsysopt.core.space import Space

__all__ = ["check", "names", "references", "sampler"]

GROUP: plugins.Group = "mlsysopt.samplers"

Knowledge = Mapping[str, Mapping[str, float] | Sequence[str]]


def names() -> list[str]:
    """Return every name that `sampler` knows; nothing of Optuna is imported for it.

    >>> {"structured", "tpe", "random"} <= set(names())
    True
    """
    return plugins.names(GROUP)


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
    from optuna.exceptions import ExperimentalWarning

    from mlsysopt.core.search.space_sampler import SpaceSampler

    check(name)
    with warnings.catch_warnings():
        # Some of Optuna's samplers and arguments are marked so; choosing them by name is consent.
        warnings.simplefilter("ignore", ExperimentalWarning)
        made = _made(name, space=space, seed=seed, knowledge=knowledge, trials=trials)
    return SpaceSampler(made, space, seed=seed)


def references(name: str) -> list[Reference]:
    """Return what a sampler is based on.

    Raises:
        UsageError: unknown name.
        PluginError: a plug-in that does not import.
    """
    check(name)
    found: Sequence[Reference] | Callable[[], Sequence[Reference]] = getattr(_factory(name), "references", ())
    return list(found() if callable(found) else found)


def _made(name: str, **given: Any) -> BaseSampler:
    from optuna.samplers import BaseSampler

    from mlsysopt.core.search.automatic import Blamed

    factory = _factory(name)
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
    if _is_ours(factory):
        # Nobody else is to blame: what it raises is a defect of this package, and comes out as it is.
        return made
    return Blamed(made, lambda hook, error: plugins.blame(GROUP, name, hook, error))


def _factory(name: str) -> Callable[..., Any]:
    return plugins.load(GROUP, name, noun="sampler")


def _is_ours(factory: Callable[..., Any]) -> bool:
    return getattr(factory, "__module__", None) == own.__name__

"""Targets by name: ours and a stranger's, built from the same plain settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mlsysopt.core import plugins
from mlsysopt.core.errors import MlsysoptError, PluginError, UsageError, near_misses
from mlsysopt.core.target import Target

__all__ = ["create", "names", "restore"]


def names() -> list[str]:
    """Return the names of all installed targets."""
    return plugins.names("mlsysopt.targets")


def create(name: str, **settings: Any) -> Target:
    """Build a target by its registered name.

    Args:
        name: Name in the entry-point group `mlsysopt.targets`.
        settings: Keyword arguments of its factory; None means not given.

    Raises:
        UsageError: unknown target, or a setting that this target does not have.
        PluginError: its factory raised, or what it returned is not a target.
    """
    factory = plugins.load("mlsysopt.targets", name, noun="target")
    given = {key: value for key, value in settings.items() if value is not None}
    accepted = inspect.signature(factory).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
        for key in given:
            if key not in accepted:
                raise UsageError(
                    f"target {name!r} has no setting {key!r}; {near_misses(key, accepted, noun='setting')}"
                )
    try:
        target = factory(**given)
    except MlsysoptError:
        raise
    except Exception as error:
        raise plugins.blame("mlsysopt.targets", name, "its factory", error) from error
    if not isinstance(target, Target):
        lacking = [word for word in _PROTOCOL if not hasattr(target, word)]
        raise PluginError(
            f"target {name!r} from {plugins.origin('mlsysopt.targets', name)} lacks {', '.join(lacking)}; "
            "a Target has all of " + ", ".join(_PROTOCOL)
        )
    return target


def restore(recipe: Mapping[str, Any]) -> Target:
    """Build the target of a stored study again.

    Raises:
        UsageError: the study was made from Python, so that nothing says how.
    """
    return create(recipe["target"], **recipe["settings"])


_PROTOCOL = (
    "name", "references", "guards", "fingerprint", "space", "with_space", "metrics", "static", "session", "export",
)  # fmt: skip

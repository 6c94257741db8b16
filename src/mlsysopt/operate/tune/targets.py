"""Targets by name: ours and a stranger's, built from the same plain settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mlsysopt.core import plugins
from mlsysopt.core.errors import MlsysoptError, PluginError, UsageError, near_misses
from mlsysopt.core.target import Target
from mlsysopt.operate.tune import server_files

__all__ = ["create", "is_target", "names", "restore"]


def names() -> list[str]:
    """Return the names of all installed targets, servers among them."""
    return sorted({*plugins.names("mlsysopt.targets"), *server_files.names()})


def is_target(what: str) -> bool:
    """Whether a word of the command line means a target: a name, or the path of a server file."""
    return what.endswith(".py") or what in names()


def create(name: str, **settings: Any) -> Target:
    """Build a target by its registered name.

    Args:
        name: Name in the entry-point groups `mlsysopt.targets` and `mlsysopt.servers`, or the path of a
            server file.
        settings: Keyword arguments of its factory; None means not given.

    Raises:
        UsageError: unknown target, or a setting that this target does not have.
        PluginError: its factory raised, or what it returned is not a target.
    """
    factory = _factory(name)
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


def _factory(name: str) -> Callable[..., Any]:
    if server_files.is_path(name) or name in server_files.names():
        from mlsysopt.operate.tune.server_target import server_target

        return partial(server_target, server_files.server(name), source=server_files.source(name))
    known = names()
    if name not in known:
        raise UsageError(f"unknown target {name!r}; {near_misses(name, known, noun='target')}")
    return plugins.load("mlsysopt.targets", name, noun="target")


def restore(recipe: Mapping[str, Any]) -> Target:
    """Build the target of a stored study again.

    Raises:
        UsageError: the study was made from Python, so that nothing says how.
    """
    return create(recipe["target"], **recipe["settings"])


_PROTOCOL = (
    "name", "references", "guards", "fingerprint", "space", "with_space", "metrics", "static", "session", "export",
)  # fmt: skip

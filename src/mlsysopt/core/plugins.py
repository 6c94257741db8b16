"""Parts that other distributions bring, found through entry points and checked before use.

Ours are registered the same way as a stranger's. A part that does not import, or is not what
its group promises, is an error that names it, its distribution and the line at fault; the others
go on.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from mlsysopt.core.errors import MlsysoptError, PluginError, UsageError, near_misses

__all__ = ["Group", "blame", "load", "module_at", "names", "origin"]

Group = Literal[
    "mlsysopt.targets",
    "mlsysopt.servers",
    "mlsysopt.samplers",
    "mlsysopt.ops",
    "mlsysopt.trainers",
    "mlsysopt.variants",
]


def names(group: Group) -> list[str]:
    """Return the names registered in a group, without importing any of them."""
    return sorted({entry.name for entry in _entries(group)})


def load(group: Group, name: str, *, noun: str) -> Callable[..., Any]:
    """Import one part.

    Args:
        group: Entry-point group.
        name: Registered name.
        noun: What such a part is called in messages.

    Raises:
        UsageError: no such name.
        PluginError: it cannot be imported or cannot be called.
    """
    entry = _find(group, name)
    if entry is None:
        raise UsageError(f"unknown {noun} {name!r}; {near_misses(name, names(group), noun=noun)}")
    try:
        part = entry.load()
    except MlsysoptError:
        raise
    except Exception as error:
        raise blame(group, name, "import", error) from error
    if not callable(part):
        raise PluginError(f"{noun} {name!r} from {origin(group, name)}: {entry.value} is not callable")
    return cast("Callable[..., Any]", part)


def module_at(path: Path, name: str) -> ModuleType:
    """Import a Python file as the module `name`; one that raises leaves nothing behind under that name.

    Args:
        path: Of the file.
        name: Under which `sys.modules` has it; a module of that name is replaced.

    Raises:
        ImportError: it is no Python file.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    before = sys.modules.get(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def origin(group: Group, name: str) -> str:
    """Return the distribution that registered a name, with its version."""
    entry = _find(group, name)
    if entry is None or entry.dist is None:
        return "an unknown distribution"
    return f"{entry.dist.name} {entry.dist.version}"


def blame(group: Group, name: str, hook: str, error: BaseException) -> PluginError:
    """Turn what a part raised into one line: name, distribution, hook, file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return PluginError(f"{name!r} from {origin(group, name)} failed in {hook}: {type(error).__name__}: {error}{where}")


def _find(group: Group, name: str) -> EntryPoint | None:
    found = [entry for entry in _entries(group) if entry.name == name]
    # Ours first: no other distribution may stand in for a part of this one by taking its name.
    found.sort(key=lambda entry: entry.dist is None or entry.dist.name != "mlsysopt")
    return found[0] if found else None


def _entries(group: Group) -> tuple[EntryPoint, ...]:
    """Return the entries of a group. Every distribution is asked once for each state of the path: that takes 20 ms."""
    return _asked(entry_points, group, tuple(sys.path))


@lru_cache(maxsize=64)
def _asked(ask: Callable[..., Iterable[EntryPoint]], group: Group, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    del path  # only tells states apart
    return tuple(ask(group=group))

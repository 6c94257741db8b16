"""Tables of contents whose entries are imported when they are first touched."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def lazy(package: str, where: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package that imports its names on first use.

    Args:
        package: The package's own `__name__`.
        where: Public name -> module that defines it; a module of the package stands for itself.

    >>> __getattr__, __dir__ = lazy("mlsysopt", {"Space": "mlsysopt.core.space"})
    >>> __dir__()
    ['Space']
    """

    def attribute(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(where[name])
        value = module if where[name] == f"{package}.{name}" else getattr(module, name)
        setattr(importlib.import_module(package), name, value)
        return value

    return attribute, lambda: sorted(where)

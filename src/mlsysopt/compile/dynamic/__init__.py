"""One executable for every size: views, fusion, memory and the flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.compile.dynamic.artefact import load
    from mlsysopt.compile.dynamic.bounds import MemoryBound, Stats
    from mlsysopt.compile.dynamic.building import build
    from mlsysopt.compile.dynamic.executable import Executable
    from mlsysopt.compile.dynamic.explain import Explanation
    from mlsysopt.compile.dynamic.plan import Plan

__all__ = ["Executable", "Explanation", "MemoryBound", "Plan", "Stats", "build", "load"]

_WHERE = {
    "artefact": ("load",),
    "building": ("build",),
    "bounds": ("MemoryBound", "Stats"),
    "executable": ("Executable",),
    "explain": ("Explanation",),
    "plan": ("Plan",),
}
__getattr__, __dir__ = lazy(
    __name__, {name: f"{__name__}.{module}" for module, names in _WHERE.items() for name in names}
)

"""Models made faster on a CPU: `mlsysopt.compile(model)` is the whole pipeline, its parts are products of their own.

The module is callable: `mlsysopt.compile(model, inputs=...)` is `mlsysopt.compile.compile(model, inputs=...)`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.compile import dynamic, linear
    from mlsysopt.compile.dynamic.artefact import load
    from mlsysopt.compile.dynamic.executable import Executable
    from mlsysopt.compile.errors import CompileError, InputError, NumericsError, StaleWeights
    from mlsysopt.compile.options import Options
    from mlsysopt.compile.pipeline import compile

__all__ = [
    "CompileError",
    "Executable",
    "InputError",
    "NumericsError",
    "Options",
    "StaleWeights",
    "compile",
    "dynamic",
    "linear",
    "load",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "CompileError": "mlsysopt.compile.errors",
        "Executable": "mlsysopt.compile.dynamic.executable",
        "InputError": "mlsysopt.compile.errors",
        "NumericsError": "mlsysopt.compile.errors",
        "Options": "mlsysopt.compile.options",
        "StaleWeights": "mlsysopt.compile.errors",
        "compile": "mlsysopt.compile.pipeline",
        "dynamic": "mlsysopt.compile.dynamic",
        "linear": "mlsysopt.compile.linear",
        "load": "mlsysopt.compile.dynamic.artefact",
    },
)


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from mlsysopt.compile.pipeline import compile

        return compile(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

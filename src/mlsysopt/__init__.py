"""Choose, measure, predict, decide: optimisation for machine-learning systems.

import mlsysopt as mo
from mlsysopt.operate import tune

study = mo.Study(tune.rocksdb(), maximize="throughput", store="tune.db")
result = study.run(budget="4min")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from mlsysopt._version import __version__
    from mlsysopt.core.errors import MlsysoptError
    from mlsysopt.core.measure import Ratio, compare, timed
    from mlsysopt.core.report import Report
    from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space
    from mlsysopt.core.store import Store
    from mlsysopt.core.study import Result, Study
    from mlsysopt.core.target import Failure, Limits, Measurement, Metric, Session, Target

    class _Compile(ModuleType):
        """`mlsysopt.compile` is a module that can be called; see `mlsysopt.compile.pipeline.compile`."""

        def __call__(self, model: Any, inputs: Any = None, **settings: Any) -> Any: ...
        def __getattr__(self, name: str) -> Any: ...

    compile: _Compile

__all__ = [
    "Bool",
    "Choice",
    "Failure",
    "Float",
    "Int",
    "Limits",
    "Measurement",
    "Metric",
    "MlsysoptError",
    "Permutation",
    "Ratio",
    "Report",
    "Result",
    "Session",
    "Space",
    "Store",
    "Study",
    "Target",
    "__version__",
    "compare",
    "compile",
    "timed",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Bool": "mlsysopt.core.space",
        "Choice": "mlsysopt.core.space",
        "Failure": "mlsysopt.core.target",
        "Float": "mlsysopt.core.space",
        "Int": "mlsysopt.core.space",
        "Limits": "mlsysopt.core.target",
        "Measurement": "mlsysopt.core.target",
        "Metric": "mlsysopt.core.target",
        "MlsysoptError": "mlsysopt.core.errors",
        "Permutation": "mlsysopt.core.space",
        "Ratio": "mlsysopt.core.measure",
        "Report": "mlsysopt.core.report",
        "Result": "mlsysopt.core.study",
        "Session": "mlsysopt.core.target",
        "Space": "mlsysopt.core.space",
        "Store": "mlsysopt.core.store",
        "Study": "mlsysopt.core.study",
        "Target": "mlsysopt.core.target",
        "__version__": "mlsysopt._version",
        "compare": "mlsysopt.core.measure",
        "compile": "mlsysopt.compile",
        "timed": "mlsysopt.core.measure",
    },
)

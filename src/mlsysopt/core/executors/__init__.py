"""Where work runs: in this process, on this machine's cores, on a cluster - under one contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.executors.cluster import Ray
    from mlsysopt.core.executors.inprocess import InProcess
    from mlsysopt.core.executors.local import Local
    from mlsysopt.core.executors.protocol import Executor
    from mlsysopt.core.executors.registry import executor
    from mlsysopt.core.processes.slot import exclusive_slot

__all__ = ["Executor", "InProcess", "Local", "Ray", "exclusive_slot", "executor"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Executor": "mlsysopt.core.executors.protocol",
        "InProcess": "mlsysopt.core.executors.inprocess",
        "Local": "mlsysopt.core.executors.local",
        "Ray": "mlsysopt.core.executors.cluster",
        "exclusive_slot": "mlsysopt.core.processes.slot",
        "executor": "mlsysopt.core.executors.registry",
    },
)

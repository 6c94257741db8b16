"""Child processes that never outlive their purpose: limits, services, temporary folders, orphan sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.processes.child import Child, Ended, start_child
    from mlsysopt.core.processes.folders import temporary_folder
    from mlsysopt.core.processes.idle import Hold
    from mlsysopt.core.processes.memory import available_bytes, descendants, tree_pss_bytes
    from mlsysopt.core.processes.ports import free_port
    from mlsysopt.core.processes.programs import apt_line, program
    from mlsysopt.core.processes.running import ChildResult, run_child
    from mlsysopt.core.processes.service import NotReadyInTime, Service, Stack
    from mlsysopt.core.processes.slot import exclusive_slot
    from mlsysopt.core.processes.sweep import sweep_orphans

__all__ = [
    "Child",
    "ChildResult",
    "Ended",
    "Hold",
    "NotReadyInTime",
    "Service",
    "Stack",
    "apt_line",
    "available_bytes",
    "descendants",
    "exclusive_slot",
    "free_port",
    "program",
    "run_child",
    "start_child",
    "sweep_orphans",
    "temporary_folder",
    "tree_pss_bytes",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Child": "mlsysopt.core.processes.child",
        "ChildResult": "mlsysopt.core.processes.running",
        "Ended": "mlsysopt.core.processes.child",
        "Hold": "mlsysopt.core.processes.idle",
        "NotReadyInTime": "mlsysopt.core.processes.service",
        "Service": "mlsysopt.core.processes.service",
        "Stack": "mlsysopt.core.processes.service",
        "apt_line": "mlsysopt.core.processes.programs",
        "available_bytes": "mlsysopt.core.processes.memory",
        "descendants": "mlsysopt.core.processes.memory",
        "exclusive_slot": "mlsysopt.core.processes.slot",
        "free_port": "mlsysopt.core.processes.ports",
        "program": "mlsysopt.core.processes.programs",
        "run_child": "mlsysopt.core.processes.running",
        "start_child": "mlsysopt.core.processes.child",
        "sweep_orphans": "mlsysopt.core.processes.sweep",
        "temporary_folder": "mlsysopt.core.processes.folders",
        "tree_pss_bytes": "mlsysopt.core.processes.memory",
    },
)

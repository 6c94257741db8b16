"""One database for trials, raw measurements, leases, bounds, rules and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.store.rows import Bound, MachineRow, MeasurementRow, Rule, Sample, StudyInfo
    from mlsysopt.core.store.store import Store

__all__ = ["Bound", "MachineRow", "MeasurementRow", "Rule", "Sample", "Store", "StudyInfo"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Bound": "mlsysopt.core.store.rows",
        "MachineRow": "mlsysopt.core.store.rows",
        "MeasurementRow": "mlsysopt.core.store.rows",
        "Rule": "mlsysopt.core.store.rows",
        "Sample": "mlsysopt.core.store.rows",
        "Store": "mlsysopt.core.store.store",
        "StudyInfo": "mlsysopt.core.store.rows",
    },
)

"""Reports: one self-contained folder that opens from disk and asks nothing of any network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.report.columns import aligned
    from mlsysopt.core.report.plots import Point, Span, axes, history, intervals
    from mlsysopt.core.report.report import Report

__all__ = ["Point", "Report", "Span", "aligned", "axes", "history", "intervals"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Point": "mlsysopt.core.report.plots",
        "Report": "mlsysopt.core.report.report",
        "Span": "mlsysopt.core.report.plots",
        "aligned": "mlsysopt.core.report.columns",
        "axes": "mlsysopt.core.report.plots",
        "history": "mlsysopt.core.report.plots",
        "intervals": "mlsysopt.core.report.plots",
    },
)

"""Which parts of a model are needed, said only when it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.design.ablate.builder import Study, study
    from mlsysopt.design.ablate.plan import Plan
    from mlsysopt.design.ablate.result import Result, RowResult
    from mlsysopt.design.ablate.streams import data_rng
    from mlsysopt.design.ablate.verdict import Rule

__all__ = ["Plan", "Result", "RowResult", "Rule", "Study", "data_rng", "study"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Plan": "mlsysopt.design.ablate.plan",
        "Result": "mlsysopt.design.ablate.result",
        "RowResult": "mlsysopt.design.ablate.result",
        "Rule": "mlsysopt.design.ablate.verdict",
        "Study": "mlsysopt.design.ablate.builder",
        "data_rng": "mlsysopt.design.ablate.streams",
        "study": "mlsysopt.design.ablate.builder",
    },
)

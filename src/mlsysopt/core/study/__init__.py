"""Studies: search a space by measuring, then verify what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.study.budget import Budget
    from mlsysopt.core.study.events import Event
    from mlsysopt.core.study.guards import Guard
    from mlsysopt.core.study.result import Candidate, GuardCheck, Result
    from mlsysopt.core.study.study import Study
    from mlsysopt.core.study.trials import TrialView
    from mlsysopt.core.study.verdicts import stored_result

__all__ = ["Budget", "Candidate", "Event", "Guard", "GuardCheck", "Result", "Study", "TrialView", "stored_result"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Budget": "mlsysopt.core.study.budget",
        "Candidate": "mlsysopt.core.study.result",
        "Event": "mlsysopt.core.study.events",
        "Guard": "mlsysopt.core.study.guards",
        "GuardCheck": "mlsysopt.core.study.result",
        "Result": "mlsysopt.core.study.result",
        "Study": "mlsysopt.core.study.study",
        "TrialView": "mlsysopt.core.study.trials",
        "stored_result": "mlsysopt.core.study.verdicts",
    },
)

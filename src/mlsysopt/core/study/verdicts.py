"""The verdict that a study keeps: what replaces it, and whether it still answers the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlsysopt.core.study import unfinished
from mlsysopt.core.study.result import Result, Status
from mlsysopt.core.study.trials import TrialView, counts, leader

if TYPE_CHECKING:
    import optuna

    from mlsysopt.core.store import Store, StudyInfo

__all__ = ["VERDICTS", "default_reason", "judges", "keep", "stored_result", "stored_verdict"]

VERDICTS = ("proven", "not proven")
"""What a verification ends with; everything else is said of a study that was not verified to its end."""
_KEY = "result"


def keep(study: optuna.Study, result: Result) -> None:
    """Store a result; one that knows less than a verdict never replaces it."""
    if result.status in VERDICTS:
        study.set_user_attr(_KEY, result.to_json())
        unfinished.close(study)
    elif stored_verdict(study) is None:
        study.set_user_attr(_KEY, result.to_json())


def stored_verdict(study: optuna.Study) -> Result | None:
    """Return the verdict of a study, None when nothing was verified to its end."""
    kept = study.user_attrs.get(_KEY)
    result = Result.from_json(kept) if kept else None
    return result if result is not None and result.status in VERDICTS else None


def judges(result: Result, trials: Sequence[TrialView]) -> bool:
    """Whether a verdict was reached when there were just the valid trials that there are now."""
    return result.counts.get("valid", 0) == counts(trials).get("valid", 0)


def stored_result(store: Store, info: StudyInfo) -> Result | None:
    """Return the last result that a study of a store ended with, None if it has none."""
    import optuna

    kept = optuna.load_study(study_name=info.name, storage=store.optuna).user_attrs.get(_KEY)
    return Result.from_json(kept) if kept else None


def default_reason(status: Status, trials: Sequence[TrialView], known: Result | None = None) -> str:
    """Return a status in words where nothing more is known.

    Args:
        status: The status.
        trials: All trials, for the best seen so far.
        known: The stored verdict, if there is one.
    """
    if status == "proven":
        return "verified against the default in fresh rounds"
    best = leader(trials)
    seen = f"; best seen so far is trial {best.number}, unverified" if best is not None and not best.is_default else ""
    stands = f"; the verdict stored before stands: {known.status}" if known is not None else ""
    return f"{'stopped by the user' if status == 'interrupted' else 'not verified'}{seen}{stands}"

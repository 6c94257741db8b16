"""The set of trials that no other trial beats in every objective."""

from __future__ import annotations

from collections.abc import Sequence

from mlsysopt.core.study.trials import TrialView

__all__ = ["front"]


def front(trials: Sequence[TrialView]) -> list[TrialView]:
    """Return the feasible trials that are not dominated, the largest first gain first.

    One trial dominates another when it gains at least as much in every objective and more in one.
    """
    able = [trial for trial in trials if trial.feasible and not trial.is_default]
    kept = [trial for trial in able if not any(_dominates(other, trial) for other in able)]
    return sorted(kept, key=lambda trial: (-trial.gains[0], trial.number))


def _dominates(one: TrialView, other: TrialView) -> bool:
    pairs = list(zip(one.gains, other.gains, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

"""One finished trial in words and as data, the same whoever ran it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mlsysopt.core.study.events import EventKind
from mlsysopt.core.study.objectives import Objective
from mlsysopt.core.study.trials import TrialView, leader

__all__ = ["INTERVAL_Z", "told"]

INTERVAL_Z = 1.96


def told(view: TrialView, objective: Objective, trials: Iterable[TrialView]) -> tuple[EventKind, str, dict[str, Any]]:
    """Return kind, line and data of the event that reports a trial.

    Args:
        view: The trial.
        objective: The first objective.
        trials: All trials, for the best so far.
    """
    if not view.valid:
        kind: EventKind = "note" if view.state == "lost" else "refused" if view.state == "refused" else "trial"
        text = f"trial {view.number}: {view.state}: {view.reason}"
        return kind, text, {"trial": view.number, "state": view.state, "reason": view.reason}
    half = INTERVAL_Z * math.sqrt(view.noise.get(objective.told, 0.0))
    log = objective.sign * view.gains[0]
    ratio, low, high = (math.exp(value) for value in (log, log - half, log + half))
    broken = [name for name, excess in view.constraints.items() if excess > 0]
    best = leader(trials)
    best_ratio = math.exp(objective.sign * best.gains[0]) if best is not None else 1.0
    guard = f", breaks {', '.join(broken)}" if broken else ""
    again = f", {view.rounds} rounds" if view.rounds > 1 else ""
    text = f"trial {view.number}: {ratio:.2f}x [{low:.2f}, {high:.2f}] {objective.told}{again}{guard}"
    data = {
        "trial": view.number, "state": "valid", "ratio": ratio, "low": low, "high": high, "rounds": view.rounds,
        "broken_guards": broken, "best": best_ratio, "config": dict(view.config),
    }  # fmt: skip
    return "trial", f"{text}; best {best_ratio:.2f}x", data

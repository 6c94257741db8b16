"""Which knobs moved which metric, from the trials of a study and its verified ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlsysopt.core.quantities import format_number
from mlsysopt.core.space import Space
from mlsysopt.core.study.result import Result
from mlsysopt.core.study.trials import TrialView
from mlsysopt.core.target import Metric

__all__ = ["Explanation", "Moved", "explain"]

FEWEST_TRIALS = 8
MOST_KNOBS = 3


@dataclass(frozen=True, slots=True)
class Moved:
    """One metric: its ratio in the verified rounds, and the changed knobs it depends on most."""

    metric: str
    ratio: float
    low: float
    high: float
    better: str
    knobs: tuple[str, ...]
    weights: tuple[float, ...]

    def shares(self) -> list[tuple[str, float]]:
        """Return (knob, share of importance) pairs."""
        return list(zip(self.knobs, self.weights, strict=True))

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low > 1.0 or self.high < 1.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the tuned configuration does what it does.

    Attributes:
        moved: Metrics with their ratio and the knobs behind it, the largest effect first.
        changes: Knob -> (default, tuned), effective values.
        notes: What the model says about itself.
    """

    moved: tuple[Moved, ...]
    changes: Mapping[str, tuple[Any, Any]]
    notes: tuple[str, ...]

    def text(self) -> str:
        """Return one line per metric: `get_us 0.71x [0.66, 0.77] <- block_size 4 KiB -> 12 KiB`."""
        if not self.moved:
            return "\n".join(self.notes) or "nothing was verified yet"
        width = max(len(row.metric) for row in self.moved)
        lines = []
        for row in self.moved:
            knobs = ", ".join(f"{knob} {self._change(knob)} ({weight:.0%})" for knob, weight in row.shares())
            span = f"{row.ratio:.2f}x [{row.low:.2f}, {row.high:.2f}]"
            verdict = "" if row.decided else " (not separable from 1)"
            lines.append(f"{row.metric:<{width}}  {span}{verdict}  <- {knobs or 'no changed knob'}")
        return "\n".join([*lines, *self.notes])

    def _change(self, knob: str) -> str:
        before, after = self.changes[knob]
        return f"{_value(before)} -> {_value(after)}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "moved": [
                {
                    "metric": row.metric, "ratio": row.ratio, "low": row.low, "high": row.high, "better": row.better,
                    "knobs": dict(row.shares()),
                }
                for row in self.moved
            ],
            "changes": {knob: list(pair) for knob, pair in self.changes.items()},
            "notes": list(self.notes),
        }  # fmt: skip


def explain(
    result: Result, trials: Sequence[TrialView], space: Space, metrics: Mapping[str, Metric], *, seed: int
) -> Explanation:
    """Join verified ratios with each knob's importance for that metric over all valid trials.

    Importance is the permutation importance of a random forest on the trials' log ratios: an
    association over the points that were tried, not a proof of cause.

    Args:
        result: What was verified.
        trials: All trials of the study.
        space: Its space.
        metrics: The target's metrics.
        seed: Seed of the forest.
    """
    candidate = result.winner or (result.candidates[0] if result.candidates else None)
    valid = [trial for trial in trials if trial.valid]
    if candidate is None:
        return Explanation((), {}, (f"{result.status}: {result.reason}",))
    default = space.default()
    changes = {
        name: (default[name], candidate.effective[name])
        for name in space.names
        if name in candidate.effective and candidate.effective[name] != default[name]
    }
    if len(valid) < FEWEST_TRIALS:
        note = f"{len(valid)} valid trials are too few to say which knob matters; {FEWEST_TRIALS} are needed"
        return Explanation((), changes, (note,))
    weights = _importances(valid, space, sorted(candidate.ratios), seed)
    rows: list[Moved] = []
    for name, ratio in candidate.ratios.items():
        if name not in weights or not all(np.isfinite([ratio.value, ratio.low, ratio.high])):
            continue
        ranked = sorted(((weights[name][knob], knob) for knob in changes if knob in weights[name]), reverse=True)
        kept = [(weight, knob) for weight, knob in ranked[:MOST_KNOBS] if weight >= 0.05]
        rows.append(
            Moved(
                name, ratio.value, ratio.low, ratio.high, metrics[name].better,
                tuple(knob for _, knob in kept), tuple(weight for weight, _ in kept),
            )
        )  # fmt: skip
    rows.sort(key=lambda row: (not row.decided, -abs(np.log(max(row.ratio, 1e-9)))))
    return Explanation(
        tuple(rows), changes, (f"importance over {len(valid)} valid trials; an association, not a proof",)
    )


def _importances(
    trials: Sequence[TrialView], space: Space, metrics: Sequence[str], seed: int
) -> dict[str, dict[str, float]]:
    """Return the share of each knob in the forest's permutation importance, per metric."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    names = [parameter.name for parameter in space]
    x = np.stack([space.encode({**space.default(), **trial.effective}) for trial in trials])
    found: dict[str, dict[str, float]] = {}
    for metric in metrics:
        rows = [i for i, trial in enumerate(trials) if metric in trial.metrics]
        y = np.array([trials[i].metrics[metric] for i in rows])
        if len(rows) < FEWEST_TRIALS or np.ptp(y) == 0.0:
            continue
        forest = RandomForestRegressor(200, min_samples_leaf=2, random_state=seed, n_jobs=1).fit(x[rows], y)
        found_importance: Any = permutation_importance(forest, x[rows], y, n_repeats=10, random_state=seed, n_jobs=1)
        raw = found_importance.importances_mean
        raw = np.clip(raw, 0.0, None)
        if raw.sum() > 0:
            shares = raw / raw.sum()
            columns = space.column_names()
            found[metric] = {
                name: float(
                    sum(share for share, column in zip(shares, columns, strict=True) if column.split("#")[0] == name)
                )
                for name in names
            }
    return found


def _value(value: Any) -> str:
    if isinstance(value, float):
        return format_number(value)
    return str(value)

"""A finished trial as the study sees it, whatever Optuna calls it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from mlsysopt.core.space import Space

__all__ = ["TrialView", "counts", "given", "leader", "views"]


@dataclass(frozen=True, slots=True)
class TrialView:
    """One trial of the store.

    Attributes:
        number: Optuna's trial number.
        state: `valid`, `refused` (a static limit), a failure kind, `lost`, or `running`.
        config: The decoded configuration that was asked for; empty while unknown.
        gains: Improvement per objective: `sign * ln(value / default)`, mean over its rounds.
        metrics: ln(value / default) per metric.
        effective: What the system really used of the knobs.
        noise: Variance of each entry of `metrics`.
        constraints: Guard -> violation; zero or less is feasible.
        rounds: Paired rounds behind the means.
        reason: Why it failed.
    """

    number: int
    state: str
    config: Mapping[str, Any]
    gains: tuple[float, ...]
    metrics: Mapping[str, float]
    effective: Mapping[str, Any]
    noise: Mapping[str, float]
    constraints: Mapping[str, float]
    rounds: int
    reason: str

    @property
    def valid(self) -> bool:
        return self.state == "valid"

    @property
    def feasible(self) -> bool:
        """Whether it ran and kept every guard."""
        return self.valid and all(excess <= 0 for excess in self.constraints.values())

    @property
    def is_default(self) -> bool:
        return self.number == 0 and self.rounds == 0 and self.valid


def views(trials: Iterable[optuna.trial.FrozenTrial]) -> list[TrialView]:
    """Read trials from their user attributes, oldest first; those that wait for a worker are left out."""
    begun = [trial for trial in trials if trial.state.name != "WAITING"]
    return [_view(trial) for trial in sorted(begun, key=lambda trial: trial.number)]


def _view(trial: optuna.trial.FrozenTrial) -> TrialView:
    attrs = trial.user_attrs
    # What it will be told may be written already while it still runs; a trial of a foreign Optuna program
    # has no word of ours.
    state = attrs.get("state", "lost") if trial.state.is_finished() else "running"
    config = attrs.get("config")
    return TrialView(
        number=trial.number,
        state=state,
        config=json.loads(config) if config else {},
        gains=tuple(trial.values) if state == "valid" and trial.values else (),
        metrics=attrs.get("metrics", {}),
        effective=attrs.get("effective", {}),
        noise=attrs.get("noise", {}),
        constraints=dict(trial.constraints) if state == "valid" else {},
        rounds=attrs.get("rounds", 0),
        reason=attrs.get("reason", ""),
    )


def given(number: int, config: Mapping[str, Any], space: Space) -> TrialView:
    """Return a configuration that no search has tried as if it were a trial, for a verification."""
    full = {**space.default(), **config}
    return TrialView(number, "valid", dict(config), (0.0,), {}, full, {}, {}, 1, "")


def counts(trials: Iterable[TrialView]) -> dict[str, int]:
    """Return how many trials ended in each state, the frequent ones first."""
    found: dict[str, int] = {}
    for trial in trials:
        found[trial.state] = found.get(trial.state, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def leader(trials: Iterable[TrialView]) -> TrialView | None:
    """Return the feasible trial with the largest observed gain in the first objective."""
    able = [trial for trial in trials if trial.feasible]
    return max(able, key=lambda trial: (trial.gains[0], -trial.number), default=None)

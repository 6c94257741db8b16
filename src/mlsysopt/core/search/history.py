"""The trials of a study as arrays: what was tried, what came out, what failed, what still runs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from mlsysopt.core.space import Space

__all__ = ["History", "Read", "read"]

Floats = NDArray[np.float64]
Read = Callable[["FrozenTrial"], Mapping[str, Any] | None]

UNBLAMED = frozenset({"lost", "infrastructure", "interrupted", "waiting"})
"""States that say nothing about the configuration."""


@dataclass(frozen=True, slots=True)
class History:
    """Finished and running trials in the unit cube.

    Attributes:
        numbers: Trial numbers of the n valid trials.
        x: Their *effective* configurations, shape (n, d).
        gain: Improvement in the objective, larger is better, shape (n,).
        gain_noise: Known variance of each gain, shape (n,); zero where unknown.
        metrics: Intermediate metrics, each (n,); only those that every valid trial reported.
        partial: Metrics that at least half of the valid trials reported, NaN where missing.
        noise: Known variance of each entry of `metrics` and `guards`.
        guards: Violations, each (n,); zero or less is feasible. Those that never vary are left out.
        failed: Configurations that did not work, shape (m, d).
        timeouts: Which of those ran out of time, shape (m,).
        pending: Configurations that are being measured now, shape (p, d).
        seen: Canonical forms of everything tried, requested and effective.
    """

    numbers: tuple[int, ...]
    x: Floats
    gain: Floats
    gain_noise: Floats
    metrics: Mapping[str, Floats]
    partial: Mapping[str, Floats]
    noise: Mapping[str, Floats]
    guards: Mapping[str, Floats]
    failed: Floats
    timeouts: NDArray[np.bool_]
    pending: Floats
    seen: frozenset[str]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which valid trials met every guard, shape (n,)."""
        met = np.ones(len(self), dtype=bool)
        for excess in self.guards.values():
            met &= excess <= 0
        return met

    @property
    def tried(self) -> tuple[Floats, NDArray[np.bool_]]:
        """All finished configurations and whether each worked."""
        worked = np.concatenate([np.ones(len(self.x), dtype=bool), np.zeros(len(self.failed), dtype=bool)])
        return np.vstack([self.x, self.failed]), worked


def read(
    trials: Iterable[FrozenTrial],
    space: Space,
    *,
    sign: float,
    metrics: Read,
    effective: Read,
    noise: Read,
    ignore: int | None = None,
) -> History:
    """Sort trials into valid, failed and running ones.

    Args:
        trials: All trials of the study.
        space: The space they are encoded in; values outside its present bounds are clipped.
        sign: +1 to maximise the objective, -1 to minimise it.
        metrics: Reads `{name: z}` of a trial.
        effective: Reads the values that really took effect, or None.
        noise: Reads `{name: variance}`, or None.
        ignore: Number of a trial to leave out, the one that is being asked for.
    """
    from optuna.trial import TrialState

    valid: list[FrozenTrial] = []
    configs: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    timeouts: list[bool] = []
    pending: list[dict[str, Any]] = []
    seen: set[str] = set()
    names = frozenset(space.distributions())
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.number == ignore or trial.state == TrialState.WAITING:
            continue
        asked = _config(trial, space, names)
        if asked is None:
            continue
        seen.add(space.canonical(asked))
        if trial.state == TrialState.RUNNING:
            pending.append(asked)
            continue
        state = trial.user_attrs.get("state")
        if _is_valid(trial, state, sign):
            took = effective(trial) or {}
            real = {**asked, **{k: space[k].nearest(v) for k, v in took.items() if k in space and v is not None}}
            seen.add(space.canonical(real))
            valid.append(trial)
            configs.append(real)
        elif state not in UNBLAMED and trial.state != TrialState.PRUNED:
            failed.append(asked)
            timeouts.append(state == "timeout")
    gain = _bounded(np.array([sign * float(trial.values[0]) for trial in valid]))
    everything = _columns([metrics(trial) or {} for trial in valid])
    z = {name: values for name, values in everything.items() if np.isfinite(values).all()}
    variance = [noise(trial) or {} for trial in valid]
    known = {name: _known([row.get(name) for row in variance]) for name in {n for row in variance for n in row}}
    copy = next((name for name, values in sorted(z.items()) if _is_copy(values, gain)), None)
    guards = {n: v for n, v in _columns([trial.constraints for trial in valid]).items() if np.isfinite(v).all()}
    return History(
        numbers=tuple(trial.number for trial in valid),
        x=_encode(configs, space),
        gain=gain,
        gain_noise=known.get(copy, np.zeros(len(valid))) if copy is not None else np.zeros(len(valid)),
        metrics={name: values for name, values in z.items() if not _is_copy(values, gain) and np.ptp(values) > 1e-12},
        partial={name: values for name, values in everything.items() if name not in z},
        noise=known,
        guards={name: values for name, values in guards.items() if np.ptp(values) > 1e-12},
        failed=_encode(failed, space),
        timeouts=np.array(timeouts, dtype=bool),
        pending=_encode(pending, space),
        seen=frozenset(seen),
    )


def _config(trial: FrozenTrial, space: Space, names: frozenset[str]) -> dict[str, Any] | None:
    """Return what was asked for, as a configuration of the space; None where the trial has not asked yet."""
    written = trial.user_attrs.get("config")
    if isinstance(written, str):
        try:
            return {name: value for name, value in json.loads(written).items() if name in space}
        except ValueError:
            pass
    params = {name: value for name, value in trial.params.items() if name in names}
    # Optuna writes a running trial's parameters one after the other; conditional ones may never come.
    if not params or not (trial.state.is_finished() or len(params) == len(names)):
        return None
    return space.from_params(params)


def _is_valid(trial: FrozenTrial, state: Any, sign: float) -> bool:
    from optuna.trial import TrialState

    if trial.state != TrialState.COMPLETE or trial.values is None or len(trial.values) != 1:
        return False
    value = float(trial.values[0])
    return state in (None, "valid") and not math.isnan(value) and sign * value > -math.inf


def _bounded(gain: Floats) -> Floats:
    """Replace infinite gains by the largest finite one."""
    finite = gain[np.isfinite(gain)]
    return np.minimum(gain, finite.max() if finite.size else 0.0)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Return the names that at least half of the rows carry, as columns with NaN where missing."""
    counts = Counter(name for row in rows for name, value in row.items() if _is_number(value))
    return {
        name: np.array([float(row[name]) if _is_number(row.get(name)) else math.nan for row in rows])
        for name, count in sorted(counts.items())
        if 2 * count >= len(rows)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _known(values: list[Any]) -> Floats:
    return np.array([float(value) if _is_number(value) and value >= 0 else 0.0 for value in values])


def _is_copy(values: Floats, gain: Floats) -> bool:
    """Whether a metric is the objective itself, which would predict itself perfectly."""
    return len(gain) > 0 and (np.allclose(values, gain, atol=1e-12) or np.allclose(-values, gain, atol=1e-12))


def _encode(configs: list[dict[str, Any]], space: Space) -> Floats:
    if not configs:
        return np.zeros((0, space.dims()))
    return np.clip(np.asarray(space.encode_many(configs), dtype=np.float64), 0.0, 1.0)

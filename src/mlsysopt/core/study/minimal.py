"""The smallest set of changed knobs that keeps a verified gain: fewer changes to understand, and to undo."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.errors import StudyError
from mlsysopt.core.space import Space
from mlsysopt.core.space.shown import shown
from mlsysopt.core.stats import hodges_lehmann, signed_rank_interval
from mlsysopt.core.study.result import Candidate, Result
from mlsysopt.core.study.trials import TrialView

if TYPE_CHECKING:
    from mlsysopt.core.study.study import Study

__all__ = ["Minimal", "Reduced", "find_minimal", "nested", "smallest"]

SHARE = 0.9
"""Part of the winner's logarithmic gain that a smaller set must keep."""
ROUNDS = 8
# Sizes that are tried, as parts of the winner's changes.
_PARTS = (0.2, 0.4, 0.7)
_FEWEST_TRIALS = 8
_TREES = 200


@dataclass(frozen=True, slots=True)
class Reduced:
    """One smaller set of changes, verified beside the winner.

    Attributes:
        kept: Knobs that stay changed.
        share: Part of the winner's logarithmic gain that it kept.
        ratio: Its value over the winner's, by the rounds in which both ran.
        low: Lower end of the interval of `ratio`.
        high: Upper end.
        candidate: It against the default.
    """

    kept: tuple[str, ...]
    share: float
    ratio: float
    low: float
    high: float
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Minimal:
    """What is left of a winner.

    Attributes:
        objective: Metric that decided.
        winner: The whole winner, verified again in the same rounds.
        tried: Smaller sets, the smallest first.
        chosen: The smallest that keeps enough; None means that the winner stays as it is.
        changes: Knob -> (default, winner's value) as text.
    """

    objective: str
    winner: Candidate
    tried: tuple[Reduced, ...]
    chosen: Reduced | None
    changes: Mapping[str, tuple[str, str]]
    study: Study | None = field(default=None, compare=False, repr=False)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration to use."""
        return self.chosen.candidate.config if self.chosen is not None else self.winner.config

    @property
    def kept(self) -> tuple[str, ...]:
        """Knobs that differ from the default."""
        return self.chosen.kept if self.chosen is not None else tuple(self.changes)

    @property
    def reverted(self) -> tuple[str, ...]:
        """Knobs of the winner that went back to the default."""
        return tuple(name for name in self.changes if name not in self.kept)

    def text(self) -> str:
        """Return which changes to keep, with what each set of them reached."""
        lines = [f"all {len(self.changes)} changes: {self.winner.ratios[self.objective]}"]
        for one in reversed(self.tried):
            mark = " <- enough" if one is self.chosen else ""
            lines.append(
                f"{len(one.kept)} of them: {one.candidate.ratios[self.objective]}, "
                f"{one.share:.0%} of the gain, {one.ratio:.2f}x [{one.low:.2f}, {one.high:.2f}] of the whole{mark}"
            )
        if self.chosen is None:
            lines.append(f"no smaller set keeps {SHARE:.0%} of the gain within the guards: keep all changes")
        width = max(len(name) for name in self.changes)
        for name, (before, after) in self.changes.items():
            word = "keep  " if name in self.kept else "revert"
            lines.append(f"  {word} {name:<{width}}  {before} -> {after}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "objective": self.objective,
            "winner": self.winner.to_json(),
            "tried": [
                {"kept": list(one.kept), "share": one.share, "ratio": one.ratio, "low": one.low, "high": one.high,
                 "candidate": one.candidate.to_json()}
                for one in self.tried
            ],
            "kept": list(self.kept),
            "reverted": list(self.reverted),
            "config": dict(self.config),
        }  # fmt: skip

    def write(self, path: str | Path) -> Path:
        """Write the configuration in the form that the system itself reads."""
        if self.study is None:
            raise StudyError("this was read from a file; open its study to write it")
        destination = Path(path)
        self.study.target.export(self.config, destination)
        return destination


def find_minimal(
    result: Result, study: Study, trials: Sequence[TrialView], *, rounds: int = ROUNDS, session: Any = None
) -> Minimal:
    """Verify smaller sets of the winner's changes beside it, all in the same rounds.

    A forest on the trials says in which order changes can go; what they are worth is measured.

    Args:
        result: With a winner.
        study: Where it comes from.
        trials: All its trials.
        rounds: Rounds of the joint verification, fixed beforehand.
        session: An open session of the target; None opens one.

    Raises:
        StudyError: nothing was proven, or only one knob was changed.
    """
    if result.winner is None:
        raise StudyError(f"study {study.name!r} has no winner ({result.status}): there is nothing to reduce")
    space, winner = study.space, result.winner
    default = space.default()
    changed = [name for name in space.names if name in winner.config and winner.config[name] != default[name]]
    if len(changed) < 2:
        raise StudyError(f"the winner changes only {', '.join(changed) or 'nothing'}: there is nothing to revert")
    sets = nested(space, winner.config, changed, trials, seed=study.seed)
    configs = [dict(winner.config), *({**default, **{name: winner.config[name] for name in one}} for one in sets)]
    configs = [{name: value for name, value in one.items() if name in space.active(one)} for one in configs]
    whole, *smaller = study.judge(configs, session=session, rounds=rounds, early=False)
    objective = result.objectives[0]
    if objective not in whole.ratios:
        raise StudyError(f"the winner did not run again: {whole.reason}")
    reduced = [_reduced(kept, one, whole, objective) for kept, one in zip(sets, smaller, strict=True)]
    tried = tuple(one for one in reduced if one is not None)
    changes = {name: (shown(space[name], default[name]), shown(space[name], winner.config[name])) for name in changed}
    return Minimal(objective, whole, tried, smallest(tried), changes, study)


def nested(
    space: Space, config: Mapping[str, Any], changed: Sequence[str], trials: Sequence[TrialView], *, seed: int
) -> list[tuple[str, ...]]:
    """Return nested sets of changes that are worth trying, the smallest first.

    Changes go one after the other, each time the one whose loss the forest thinks smallest; with too few
    trials for a forest, the one that is nearest to its default.
    """
    worth = _worth(space, trials, seed)
    default = space.default()
    left = list(changed)
    order: dict[int, tuple[str, ...]] = {}
    while len(left) > 1:
        options = [[name for name in left if name != gone] for gone in left]
        configs = [{**default, **{name: config[name] for name in one}} for one in options]
        values = worth(configs) if worth is not None else [-_far(space, config, name) for name in left]
        for i in np.argsort([-value for value in values], kind="stable"):
            if not space.violations(configs[int(i)]):
                left = options[int(i)]
                break
        else:
            break
        order[len(left)] = tuple(left)
    sizes = sorted({min(len(changed) - 1, max(1, math.ceil(part * len(changed)))) for part in _PARTS})
    return [order[size] for size in sizes if size in order]


def smallest(tried: Sequence[Reduced]) -> Reduced | None:
    """Return the smallest set that keeps enough of the gain and every guard; None when there is none."""
    for one in sorted(tried, key=lambda one: len(one.kept)):
        if one.share >= SHARE and all(check.kept for check in one.candidate.guards):
            return one
    return None


def _worth(space: Space, trials: Sequence[TrialView], seed: int) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    valid = [trial for trial in trials if trial.valid]
    if len(valid) < _FEWEST_TRIALS:
        return None
    x = space.encode_many([{**space.default(), **trial.config} for trial in valid])
    forest = ExtraTreesRegressor(_TREES, min_samples_leaf=2, random_state=seed, n_jobs=1)
    forest.fit(x, np.array([trial.gains[0] for trial in valid]))
    return lambda configs: forest.predict(space.encode_many(configs))


def _far(space: Space, config: Mapping[str, Any], name: str) -> float:
    return float(np.abs(space.encode({name: config[name]}) - space.encode({})).max())


def _reduced(kept: tuple[str, ...], one: Candidate, whole: Candidate, objective: str) -> Reduced | None:
    if objective not in one.ratios:
        return None
    own, full = one.ratios[objective], whole.ratios[objective]
    sign = 1.0 if own.better == "higher" else -1.0
    logs = np.log(own.per_round), np.log(full.per_round)
    rounds = min(len(logs[0]), len(logs[1]))
    differences = logs[0][:rounds] - logs[1][:rounds]
    low, high = signed_rank_interval(differences)
    gain = sign * math.log(full.value)
    share = sign * math.log(own.value) / gain if gain > 0 else 0.0
    return Reduced(kept, share, math.exp(hodges_lehmann(differences)), math.exp(low), math.exp(high), one)

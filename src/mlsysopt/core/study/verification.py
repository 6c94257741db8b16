"""Verification: default against candidates in fresh, interleaved rounds. Only this is reported.

Candidates are tested in the order that the search fixed beforehand. The next one is tried only
after one that was proven faster broke a guard, or that did not run at all: tests in a fixed order,
where each is reached only when the one before it was decided, need no correction. Several verified
*together* (`top > 1`) are corrected by Holm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlsysopt.core.errors import StudyError
from mlsysopt.core.measure import Comparison, Ratio, SideFailed, compare_many
from mlsysopt.core.study.events import Event, Listener
from mlsysopt.core.study.measuring import Measurer
from mlsysopt.core.study.noise import shrunk_means
from mlsysopt.core.study.objectives import Objective
from mlsysopt.core.study.rating import Rating
from mlsysopt.core.study.result import Candidate, GuardCheck
from mlsysopt.core.study.trials import TrialView
from mlsysopt.core.study.unfinished import FinishedRounds
from mlsysopt.core.target import Failure

__all__ = ["LOOKS", "Verifier", "looks_for", "ranked"]

LOOKS = (6, 8, 12, 16, 20)


def looks_for(rounds: int | None) -> tuple[int, ...]:
    """Return the rounds after which a verification may stop.

    Args:
        rounds: The largest number; None means the usual ones.

    Raises:
        StudyError: so few rounds cannot prove anything.

    >>> looks_for(10)
    (6, 8, 10)
    """
    if rounds is None:
        return LOOKS
    if rounds < LOOKS[0]:
        raise StudyError(f"{rounds} rounds cannot prove anything at 95 %: at least {LOOKS[0]} are needed")
    return (*(n for n in LOOKS if n < rounds), rounds)


def ranked(trials: Sequence[TrialView], objective: Objective) -> list[TrialView]:
    """Return the trials worth verifying, the most promising first.

    Feasible trials with a gain, by their shrunken mean: an observation that was made once and is
    noisy must lead by more than one that defended itself over several rounds. Requests that the
    system turns into the same effective configuration are verified once.
    """
    able = [trial for trial in trials if trial.feasible and not trial.is_default]
    means = shrunk_means([trial.gains[0] for trial in able], [trial.noise.get(objective.told, 0.0) for trial in able])
    order = sorted(range(len(able)), key=lambda i: (-means[i], able[i].number))
    seen: set[tuple[tuple[str, Any], ...]] = set()
    chosen: list[TrialView] = []
    for i in order:
        key = tuple(sorted((name, _hashable(value)) for name, value in able[i].effective.items()))
        if key not in seen and able[i].gains[0] > 0:
            seen.add(key)
            chosen.append(able[i])
    return chosen


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass
class Verifier:
    """Verifies candidates of one study.

    Args:
        rating: Objectives and guards, and how they are judged.
        measurer: Measures on the file system that the user will run on.
        seed: The seeds of all rounds are derived from it.
        both_clocks: Whether the twin metric on the other clock must point the same way.
        finished: Rounds of an earlier attempt with this seed; they are not measured again.
        looks: Rounds after which the comparison may stop.
        max_seconds: Time for one comparison; None means the looks alone decide.
    """

    rating: Rating
    measurer: Measurer
    seed: int
    tell_listener: Listener
    both_clocks: bool
    finished: FinishedRounds = field(default_factory=FinishedRounds)
    looks: Sequence[int] = LOOKS
    max_seconds: float | None = None

    def in_order(self, candidates: Sequence[TrialView]) -> list[Candidate]:
        """Verify one after the other until one is decided for or against on its own merits."""
        done: list[Candidate] = []
        for view in candidates:
            done.extend(self.together([view]))
            if done[-1].verdict not in ("guard broken", "failed"):
                break
        return done

    def together(self, views: Sequence[TrialView]) -> list[Candidate]:
        """Verify several candidates in the same rounds, corrected by Holm."""
        taking = _Sides(self.measurer, self.finished, {f"trial {view.number}": view for view in views})

        def show(comparison: Comparison) -> None:
            if comparison.rounds in self.looks:
                taking.leave(comparison.decided)
            if not taking.replayed(comparison.seeds[-1]):
                self._show(comparison)

        with self.measurer.exclusive():
            comparison = compare_many(
                taking.side("default"),
                {name: taking.side(name) for name in taking.runs},
                metrics=self.rating.target.metrics(),
                decide=[objective.told for objective in self.rating.objectives],
                looks=tuple(self.looks),
                seed=self.seed,
                warmup=0,
                max_seconds=self.max_seconds,
                baseline_name="default",
                on_round=show,
            )
        return [self._judge(name, view, comparison, taking) for name, view in taking.runs.items()]

    def _show(self, comparison: Comparison) -> None:
        rounds, objectives = comparison.rounds, self.rating.objectives
        for name, ratios in comparison.ratios.items():
            told = [ratios[objective.told] for objective in objectives if objective.told in ratios]
            # Before the first look there is no interval to show, only where it is heading.
            shown = "; ".join(str(r) if rounds >= self.looks[0] else f"{r.metric} {r.value:.2f}x so far" for r in told)
            data = {"candidate": name, "rounds": rounds, "ratios": [ratio.to_json() for ratio in told]}
            self.tell_listener(Event("verify", f"verifying {name}, round {rounds}: {shown}", data))

    def _judge(self, name: str, view: TrialView, comparison: Comparison, taken: _Sides) -> Candidate:
        ratios = comparison.ratios.get(name, {})
        readings = zip(comparison.readings[comparison.baseline], comparison.readings[name], strict=False)
        rounds = [(default.values, got.values) for default, got in readings]
        checks = (
            self.rating.check(guard, rounds, view.config, ratios.get(guard.metric)) for guard in self.rating.guards
        )
        guards = [check for check in checks if check is not None]
        verdict, reason = self._verdict(ratios, guards, taken.failed.get(name))
        used = {knob: value for knob, value in taken.effective.get(name, {}).items() if knob in self.rating.space}
        objective = self.rating.objectives[0]
        return Candidate(
            trial=view.number,
            config=dict(view.config),
            effective={**view.config, **used},
            observed=math.exp(objective.sign * view.gains[0]),
            ratios=dict(ratios),
            guards=guards,
            verdict=verdict,
            reason=reason,
        )

    def _verdict(
        self, ratios: Mapping[str, Ratio], guards: Sequence[GuardCheck], failure: Failure | None
    ) -> tuple[str, str]:
        if failure is not None:
            return "failed", f"it did not run: {failure.kind}: {failure.reason}"
        decided = [ratios[objective.told] for objective in self.rating.objectives if objective.told in ratios]
        if len(decided) < len(self.rating.objectives):
            return "not proven", "too few rounds were measured"
        for ratio in decided:
            if ratio.verdict != "proven":
                return ratio.verdict, str(ratio)
        broken = [check for check in guards if not check.kept]
        if broken:
            return "guard broken", "; ".join(check.text() for check in broken)
        if self.both_clocks:
            for objective in self.rating.objectives:
                other = self._other_clock(objective, ratios)
                if other is not None and (other.value - 1.0) * objective.sign <= 0:
                    told = ratios[objective.told]
                    return (
                        "clocks disagree",
                        f"{told.clock} says {told.value:.2f}x, {other.clock} says {other.value:.2f}x",
                    )
        return "proven", str(decided[0])

    def _other_clock(self, objective: Objective, ratios: Mapping[str, Ratio]) -> Ratio | None:
        twin = self.rating.target.metrics()[objective.told].twin
        return ratios.get(twin) if twin is not None else None


class _Sides:
    """What one comparison runs: each side is measured, or taken from a finished round.

    Whether a round is finished is known before its first side is asked for: of a round that is not, no
    side is taken, since pairs must have been measured beside each other.
    """

    def __init__(self, measurer: Measurer, finished: FinishedRounds, runs: Mapping[str, TrialView]) -> None:
        self.runs = dict(runs)
        self.effective: dict[str, Mapping[str, Any]] = {}
        self.failed: dict[str, Failure] = {}
        self._measurer, self._finished = measurer, finished
        self._open = ["default", *runs]
        self._numbers = {"default": next(iter(runs.values())).number, **{n: view.number for n, view in runs.items()}}
        self._round: Counter[str] = Counter()
        self._replayed: dict[int, bool] = {}

    def side(self, name: str) -> Callable[[int], Mapping[str, float]]:
        """Return what runs one side, given the seed of the round."""
        config: Mapping[str, Any] = self.runs[name].config if name in self.runs else {}

        def measure(seed: int) -> Mapping[str, float]:
            if seed not in self._replayed:
                sides = [(self._numbers[side], side) for side in self._open]
                self._replayed[seed] = self._finished.complete(sides, seed)
            trial, round = self._numbers[name], self._round[name]
            if self._replayed[seed]:
                outcome = self._measurer.again(self._finished.row(trial, name, seed))
            else:
                outcome = self._measurer.take(config, trial=trial, role="verify", round=round, side=name, seed=seed)
            self._round[name] += 1
            if isinstance(outcome, Failure):
                self.failed[name] = outcome
                self.leave([name])
                raise SideFailed(outcome)
            self.effective[name] = outcome.effective_config
            return outcome.metrics

        return measure

    def leave(self, names: Iterable[str]) -> None:
        """Note that these sides are in no further round."""
        self._open = [name for name in self._open if name not in set(names)]

    def replayed(self, seed: int) -> bool:
        """Whether the round of this seed was taken from an earlier attempt."""
        return self._replayed.get(seed, False)

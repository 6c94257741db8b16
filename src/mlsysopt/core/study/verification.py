"""Verification: default against candidates in fresh, interleaved rounds. Only this is reported.

Candidates are tested in the order that the search fixed beforehand. The next one is tried only
after one that was proven faster broke a guard, or that did not run at all: tests in a fixed order,
where each is reached only when the one before it was decided, need no correction. Several verified
*together* (`top > 1`) are corrected by Holm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlsysopt.core.measure import Comparison, Ratio, SideFailed, compare_many
from mlsysopt.core.quantities import format_number
from mlsysopt.core.space import Space
from mlsysopt.core.study.events import Event, Listener
from mlsysopt.core.study.guards import Guard
from mlsysopt.core.study.measuring import Measurer
from mlsysopt.core.study.noise import shrunk_means
from mlsysopt.core.study.objectives import Objective
from mlsysopt.core.study.result import Candidate, GuardCheck
from mlsysopt.core.study.trials import TrialView
from mlsysopt.core.target import Failure, Target

__all__ = ["LOOKS", "Verifier", "ranked"]

LOOKS = (6, 8, 12, 16, 20)


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
        measurer: Measures on the file system that the user will run on.
        both_clocks: Whether the twin metric on the other clock must point the same way.
        looks: Rounds after which the comparison may stop.
        max_seconds: Time for one comparison; None means the looks alone decide.
    """

    target: Target
    space: Space
    measurer: Measurer
    objectives: Sequence[Objective]
    guards: Sequence[Guard]
    seed: int
    tell_listener: Listener
    both_clocks: bool
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
        runs = {f"trial {view.number}": view for view in views}
        effective: dict[str, Mapping[str, Any]] = {}
        failed: dict[str, Failure] = {}
        done: Counter[str] = Counter()

        def side(name: str, config: Mapping[str, Any], trial: int) -> Any:
            def measure(seed: int) -> Mapping[str, float]:
                outcome = self.measurer.take(config, trial=trial, role="verify", round=done[name], side=name, seed=seed)
                done[name] += 1
                if isinstance(outcome, Failure):
                    failed[name] = outcome
                    raise SideFailed(outcome)
                effective[name] = outcome.effective_config
                return outcome.metrics

            return measure

        first = views[0].number
        with self.measurer.exclusive():
            comparison = compare_many(
                side("default", {}, first),
                {name: side(name, view.config, view.number) for name, view in runs.items()},
                metrics=self.target.metrics(),
                decide=[objective.told for objective in self.objectives],
                looks=tuple(self.looks),
                seed=self.seed,
                warmup=0,
                max_seconds=self.max_seconds,
                baseline_name="default",
                on_round=self._show,
            )
        return [self._judge(name, view, comparison, effective, failed.get(name)) for name, view in runs.items()]

    def _show(self, comparison: Comparison) -> None:
        rounds = comparison.rounds
        for name, ratios in comparison.ratios.items():
            told = [ratios[objective.told] for objective in self.objectives if objective.told in ratios]
            # Before the first look there is no interval to show, only where it is heading.
            shown = "; ".join(str(r) if rounds >= self.looks[0] else f"{r.metric} {r.value:.2f}x so far" for r in told)
            data = {"candidate": name, "rounds": rounds, "ratios": [ratio.to_json() for ratio in told]}
            self.tell_listener(Event("verify", f"verifying {name}, round {rounds}: {shown}", data))

    def _judge(
        self,
        name: str,
        view: TrialView,
        comparison: Comparison,
        effective: Mapping[str, Mapping[str, Any]],
        failure: Failure | None,
    ) -> Candidate:
        ratios = comparison.ratios.get(name, {})
        guards = [check for guard in self.guards if (check := self._guard(guard, ratios, view)) is not None]
        verdict, reason = self._verdict(ratios, guards, failure)
        used = {knob: value for knob, value in effective.get(name, {}).items() if knob in self.space}
        objective = self.objectives[0]
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
        decided = [ratios[objective.told] for objective in self.objectives if objective.told in ratios]
        if len(decided) < len(self.objectives):
            return "not proven", "too few rounds were measured"
        for ratio in decided:
            if ratio.verdict != "proven":
                return ratio.verdict, str(ratio)
        broken = [check for check in guards if not check.kept]
        if broken:
            return "guard broken", "; ".join(check.text() for check in broken)
        if self.both_clocks:
            for objective in self.objectives:
                other = self._other_clock(objective, ratios)
                if other is not None and (other.value - 1.0) * objective.sign <= 0:
                    told = ratios[objective.told]
                    return (
                        "clocks disagree",
                        f"{told.clock} says {told.value:.2f}x, {other.clock} says {other.value:.2f}x",
                    )
        return "proven", str(decided[0])

    def _other_clock(self, objective: Objective, ratios: Mapping[str, Ratio]) -> Ratio | None:
        twin = self.target.metrics()[objective.told].twin
        return ratios.get(twin) if twin is not None else None

    def _guard(self, guard: Guard, ratios: Mapping[str, Ratio], view: TrialView) -> GuardCheck | None:
        static = self.target.static(view.config)
        if guard.metric in static:
            reference = self.target.static(self.space.default())[guard.metric]
            value, low, high = static[guard.metric], static[guard.metric], static[guard.metric]
            kept = guard.violation(value, reference) <= 0
            if guard.relative:
                value, low, high = (v / reference for v in (value, low, high))
            return GuardCheck(guard.text(), guard.metric, value, low, high, kept)
        ratio = ratios.get(guard.metric)
        if ratio is None:
            return None
        if guard.relative:
            return GuardCheck(
                guard.text(), guard.metric, ratio.value, ratio.low, ratio.high, guard.violation(ratio.value, 1.0) <= 0
            )
        value = ratio.candidate_value
        text = f"{guard.text()} (default {format_number(ratio.baseline_value)})"
        return GuardCheck(text, guard.metric, value, value, value, guard.violation(value, ratio.baseline_value) <= 0)

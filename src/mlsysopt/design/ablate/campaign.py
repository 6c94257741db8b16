"""One run of a study: the base first, then look after look, seeds only where they are still needed."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.quantities import format_seconds
from mlsysopt.design.ablate import answers, designs
from mlsysopt.design.ablate.answers import Evidence, Standing, standing
from mlsysopt.design.ablate.deltas import BASE, Row
from mlsysopt.design.ablate.designs import Design, Question
from mlsysopt.design.ablate.plan import Plan
from mlsysopt.design.ablate.result import Result, RowResult, Status
from mlsysopt.design.ablate.running import BaseFailed, Trainer
from mlsysopt.design.ablate.trial import TrialSpec
from mlsysopt.design.ablate.verdict import Rule

if TYPE_CHECKING:
    from mlsysopt.design.ablate.builder import Study

__all__ = ["Campaign"]

log = logging.getLogger("mlsysopt.ablate")


class Campaign:
    """Trains and judges until nothing is open.

    Args:
        study: The study.
        plan: Its plan.
        trainer: Runs trainings and keeps them.
        first_seed: Seeds are counted from here.
        inference: Whether negligible modules get their inference time compared.
    """

    def __init__(self, study: Study, plan: Plan, trainer: Trainer, *, first_seed: int, inference: bool) -> None:
        self.study, self.plan, self.trainer = study, plan, trainer
        self.first_seed, self.inference = first_seed, inference
        self.design: Design = plan.design
        self.looks = plan.looks
        self.rows = {row.key: row for row in self.design.rows}
        self.evidence = Evidence(self._find, study.metric, 1.0 if study.better == "higher" else -1.0, max(self.looks))
        self.warnings: list[str] = list(plan.warnings)

    def run(self) -> Result:
        """Run to the end, whatever it is, and return what is known by then."""
        status: Status = "finished"
        late: list[Question] = []
        try:
            status = self._first_trainings()
            if status == "finished":
                status = self._settle(self.design.questions, others=self.design.reserved)
            if status == "finished" and self.design.reserved:
                late = self._choose_pairs()
                status = self._settle(late, others=len(self.design.questions))
        except BaseFailed as error:
            status = "base failed"
            self.warnings.append(str(error))
        except KeyboardInterrupt:
            status = "interrupted"
            if self.trainer.owns_executor:
                self.trainer.executor.shutdown(wait=True, kill=True)
        result = self._result(status, late)
        if self.inference and status == "finished":
            from mlsysopt.design.ablate.inference import with_inference

            result = with_inference(self.study, result)
        return result

    # --- trainings -------------------------------------------------------------------------------

    def _find(self, row: str, place: int) -> Mapping[str, Any] | None:
        return self.trainer.have(TrialSpec(self.rows[row], self.first_seed + place))

    def _first_trainings(self) -> Status:
        """Train the base once, and once more with the same seed: does a seed repeat?"""
        base = TrialSpec(Row(()), self.first_seed)
        again = TrialSpec(Row(()), self.first_seed, again=True)
        if not self.trainer.run([base, again]):
            return "budget"
        one, two = self.trainer.have(base), self.trainer.have(again)
        if one is not None and two is not None and one["state"] == two["state"] == "ok":
            a, b = one["metrics"][self.study.metric], two["metrics"][self.study.metric]
            if a != b:
                self._warn(f"not repeatable: seed {self.first_seed} gave {a:.6g} and {b:.6g}; pairing gains nothing")
        return "finished"

    def _settle(self, questions: Sequence[Question], *, others: int) -> Status:
        """Give open questions more seeds, look after look, until none is open."""
        done = 0
        for look in self.looks:
            found = self._standing(questions, done, others)
            wanted = [question for i, question in enumerate(questions) if found.is_open(i)]
            if not wanted:
                break
            specs = [
                TrialSpec(self.rows[row], self.first_seed + place)
                for place in range(look)
                for row in dict.fromkeys(row for question in wanted for row, _ in question.contrast)
            ]
            if not self.trainer.run(specs):
                return "budget"
            done = look
            if self._seed_is_idle():
                return "no seed effect"
            self._warn_of_steps()
        return "finished"

    def _standing(self, questions: Sequence[Question], upto: int, others: int) -> Standing:
        return standing(self._rule(), self.evidence, questions, upto=upto, others=others)

    def _rule(self) -> Rule:
        return Rule(looks=self.looks, margin=self.study.margin, step=self._step())

    def _step(self) -> float:
        if self.study.step is not None:
            return self.study.step
        return answers.resolution([v for row in self.rows for v in self.evidence.values(row) if v is not None])

    def _choose_pairs(self) -> list[Question]:
        """Return the pairs among the largest single effects."""
        found = self._standing(self.design.questions, max(self.looks), self.design.reserved)
        singles = [
            (abs(float(found.judged.mean[0, i])), question.name)
            for i, question in enumerate(self.design.questions)
            if question.kind == "single" and not math.isnan(float(found.judged.mean[0, i]))
        ]
        top = [name for _, name in sorted(singles, reverse=True)[: self.study.pairs_top]]
        by_name = {one.name: one for one in self.study.components()}
        order = list(by_name)
        chosen = [designs.pair(by_name[a], by_name[b]) for a, b in combinations(sorted(top, key=order.index), 2)]
        there = {question.name for question in self.design.questions}
        chosen = [(row, question) for row, question in chosen if question.name not in there]
        self.rows |= {row.key: row for row, _ in chosen}
        return [question for _, question in chosen]

    # --- what is known ---------------------------------------------------------------------------

    def _seed_is_idle(self) -> bool:
        values = [value for value in self.evidence.values(BASE) if value is not None]
        if len(values) >= 3 and len(set(values)) == 1:
            self._warn(f"seed has no effect: is it used? The base gave {values[0]:.6g} with {len(values)} seeds")
            return True
        return False

    def _warn_of_steps(self) -> None:
        step = self._step()
        if self.study.margin is not None and step > self.study.margin:
            self._warn(f"the metric moves in steps of {step:g}, more than the margin {self.study.margin:g}")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            log.warning("%s", text)

    def _result(self, status: Status, late: Sequence[Question]) -> Result:
        rule, exhausted = self._rule(), status == "finished"
        found = self._standing(self.design.questions, max(self.looks), self.design.reserved)
        family = self.design.family
        rows = answers.rows_of(rule, self.evidence, found, family=family, exhausted=exhausted)
        if late:
            more = self._standing(late, max(self.looks), len(self.design.questions))
            rows += answers.rows_of(rule, self.evidence, more, family=family, exhausted=exhausted)
        if status == "no seed effect":
            rows = [replace(row, word="undecided", detail="", more_seeds=None) for row in rows]
        rows = [self._with_costs(row) for row in answers.backups(rows)]
        trials = [trial for trial in self.trainer.records.trials() if self._belongs(trial)]
        return Result(
            metric=self.study.metric, better=self.study.better, rows=tuple(rows), status=status,
            base=tuple(self.evidence.values(BASE)), margin=self.study.margin, step=rule.step,
            trainings=len(trials), cpu_s=math.fsum(float(trial["cpu_s"]) for trial in trials),
            lost=self.trainer.records.lost, refusals=self.plan.refusals, warnings=tuple(self.warnings),
            failures=tuple(
                (str(t["row"]), int(t["seed"]), str(t["state"]), str(t.get("reason", ""))) for t in trials
                if t["state"] != "ok"
            ),
            missing=self._missing(found) if status in ("budget", "interrupted") else "",
            setting={"looks": list(self.looks), "first_seed": self.first_seed, "family": family},
        )  # fmt: skip

    def _belongs(self, trial: Mapping[str, Any]) -> bool:
        return self.first_seed <= int(trial["seed"]) < self.first_seed + max(self.looks)

    def _missing(self, found: Standing) -> str:
        least = self.looks[0]
        names = [q.name for i, q in enumerate(found.questions) if found.reached[i] < least and found.is_open(i)]
        rows = {row for i, q in enumerate(found.questions) if found.is_open(i) for row, _ in q.contrast}
        now = max([len(self.evidence.values(row)) for row in self.rows] or [0])
        nearest = min((look for look in self.looks if look >= now), default=max(self.looks))
        missing = sum(max(0, nearest - len(self.evidence.values(row))) for row in rows)
        each = [float(trial["cpu_s"]) for trial in self.trainer.records.trials()]
        price = f", about {format_seconds(missing * float(np.median(each)))} CPU" if each else ""
        text = f"to the next look {missing} trainings are missing{price}; run again with the same store to go on"
        return (f"fewer than {least} seeds: {', '.join(names)}; " if names else "") + text

    def _with_costs(self, row: RowResult) -> RowResult:
        if row.kind not in ("single", "pair"):
            return row
        own, base = self._cpu(row.name), self._cpu(BASE)
        shared = [place for place in own if place in base and base[place] > 0]
        # The first training in a process pays for imports and warm caches: the median does not see it.
        ratio = float(np.median([own[place] / base[place] for place in shared])) if shared else None
        memory = max(
            (int(t["rss_bytes"]) for place in own if (t := self._find(row.name, place)) is not None), default=0
        )
        planned = {one.name: one for one in self.plan.rows}.get(row.name)
        extra: dict[str, Any] = {}
        if planned is not None:
            silent = tuple(f"also silences {name}" for name in planned.silences)
            extra = {
                "parameters": planned.parameters, "macs": planned.macs, "adapters": planned.adapters,
                "warnings": (*row.warnings, *silent, *planned.notes),
            }  # fmt: skip
        return replace(row, cpu_ratio=ratio, rss_bytes=memory, **extra)

    def _cpu(self, key: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for place in range(max(self.looks)):
            trial = self._find(key, place)
            if trial is not None and trial["state"] == "ok":
                found[place] = float(trial["cpu_s"])
        return found

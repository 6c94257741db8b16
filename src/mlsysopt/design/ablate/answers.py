"""From trainings to words: differences by seed, the rule, and what a person is told about each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.stats import clopper_pearson, signed_rank_p
from mlsysopt.design.ablate.deltas import BASE
from mlsysopt.design.ablate.designs import Question, interaction
from mlsysopt.design.ablate.result import RowResult, Word
from mlsysopt.design.ablate.verdict import HARMFUL, NEEDED, NEGLIGIBLE, OPEN, Judged, Rule, more_seeds

__all__ = ["Evidence", "Standing", "resolution", "standing"]

Floats = npt.NDArray[np.float64]
Find = Callable[[str, int], Mapping[str, Any] | None]
WORDS: dict[int, Word] = {NEEDED: "needed", HARMFUL: "harmful", NEGLIGIBLE: "negligible"}
# So many trainings must have been tried before failing is a verdict.
_LEAST_TRIED = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """Trainings by row and seed, seen as numbers.

    Attributes:
        find: Returns the training of a row with the n-th seed, None when it is not there.
        metric: Which number counts.
        sign: +1 when more is better, else -1.
        seeds: How many seeds there may be.
    """

    find: Find
    metric: str
    sign: float
    seeds: int

    def values(self, row: str) -> list[float | None]:
        """Return the metric of the leading seeds that are done; None where one failed."""
        out: list[float | None] = []
        for place in range(self.seeds):
            trial = self.find(row, place)
            if trial is None:
                break
            out.append(float(trial["metrics"][self.metric]) if trial["state"] == "ok" else None)
        return out

    def failures(self, row: str, upto: int) -> tuple[int, int]:
        """Return how many of the leading trainings failed by their own fault, and how many there are."""
        trials = [trial for place in range(upto) if (trial := self.find(row, place)) is not None]
        blamed = [trial for trial in trials if trial["state"] not in ("ok", "infrastructure", "lost")]
        return len(blamed), len(trials)

    def deltas(self, question: Question) -> list[float]:
        """Return the question's differences of the leading seeds; NaN where a side failed."""
        sides = [(self.values(row), weight) for row, weight in question.contrast]
        length = min(len(values) for values, _ in sides)
        return [
            self.sign * math.fsum(weight * _nan(values[place]) for values, weight in sides) for place in range(length)
        ]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a group of questions stands.

    Attributes:
        questions: Which.
        judged: By the rule; one study.
        reached: Leading seeds of each that are done.
        failing: Detail of the verdict where removal makes training fail, else "".
    """

    questions: tuple[Question, ...]
    judged: Judged
    reached: tuple[int, ...]
    failing: tuple[str, ...]

    def is_open(self, place: int) -> bool:
        """Whether a question still wants seeds."""
        return int(self.judged.word[0, place]) == OPEN and not self.failing[place]


def standing(rule: Rule, evidence: Evidence, questions: Sequence[Question], *, upto: int, others: int = 0) -> Standing:
    """Judge some questions by their first `upto` seeds.

    Args:
        rule: Of the study.
        evidence: The trainings.
        questions: Those that share their noise and their family.
        upto: Seeds that count.
        others: Further hypotheses of the family.
    """
    rows = [evidence.deltas(question)[:upto] for question in questions]
    width = max(upto, 1)
    deltas = np.full((1, len(rows), width), np.nan)
    for place, row in enumerate(rows):
        deltas[0, place, : len(row)] = row
    reached = np.array([[len(row) for row in rows]], dtype=np.int64)
    squares = np.array([question.squares for question in questions])
    judged = rule.judge(deltas, reached=reached, squares=squares, others=others)
    base_failed, _ = evidence.failures(BASE, upto)
    failing = tuple("" if base_failed else _failing(evidence, question, upto) for question in questions)
    return Standing(tuple(questions), judged, tuple(len(row) for row in rows), failing)


def resolution(values: Sequence[float]) -> float:
    """Return the smallest difference between two values of a metric, 0 when there is none.

    >>> resolution([0.5, 0.75, 0.5, 1.0])
    0.25
    """
    known = np.unique(np.array(list(values), dtype=np.float64))
    if len(known) < 2:
        return 0.0
    gaps = np.diff(known)
    # 0.1 + 0.2 and 0.3 are the same value of an accuracy.
    real = gaps[gaps > 1e-9 * max(1.0, float(np.abs(known).max()))]
    return float(real.min()) if len(real) else 0.0


def rows_of(rule: Rule, evidence: Evidence, found: Standing, *, family: int, exhausted: bool) -> list[RowResult]:
    """Return the answers to the questions of one standing.

    Args:
        rule: Of the study.
        evidence: The trainings.
        found: Where the questions stand.
        family: Hypotheses that share the error rate.
        exhausted: Whether every open question has used all its seeds.
    """
    return [_row(rule, evidence, found, place, family, exhausted) for place in range(len(found.questions))]


def _row(rule: Rule, evidence: Evidence, found: Standing, place: int, family: int, exhausted: bool) -> RowResult:
    question, judged = found.questions[place], found.judged
    deltas = evidence.deltas(question)
    seeds, pairs = int(judged.look[0, place]), int(judged.pairs[0, place])
    mean, deviation = float(judged.mean[0, place]), float(judged.deviation[0, place])
    failed, tried = evidence.failures(question.own, max(found.reached[place], 1)) if question.own != BASE else (0, 0)
    word: Word = WORDS.get(int(judged.word[0, place]), "undecided")
    detail, more = "", None
    numbers = [d for d in deltas if not math.isnan(d)]
    if found.failing[place]:
        word, detail = "needed", found.failing[place]
    elif len(numbers) >= 3 and not any(numbers):
        word, detail = "no effect", "metric equal in every seed: was it used?"
    elif word == "undecided" and exhausted:
        word = "no evidence"
        detail = f"only {len(numbers)} of {tried} trainings gave a number" if tried and len(numbers) < 3 else ""
    elif word == "undecided":
        more = more_seeds(rule, mean, deviation, pairs, family)
        detail = f"~{more} more seeds" if more else "more seeds than can be told" if seeds else "fewer than 3 seeds"
    elif question.kind == "pair":
        extra = "fails" if failed else ""
        detail = extra and f"{failed} of {tried} trainings failed"
    unpaired = _unpaired(evidence, question)
    return RowResult(
        name=question.name, kind=question.kind, members=question.members, word=word, detail=detail, mean=mean,
        low=float(judged.low[0, place]), high=float(judged.high[0, place]), p_value=float(judged.p_value[0, place]),
        p_single=float(judged.p_single[0, place]), p_margin=float(judged.p_margin[0, place]), seeds=seeds, pairs=pairs,
        failed=failed, deltas=tuple(None if math.isnan(d) else d for d in deltas),
        error_paired=float(np.std(numbers, ddof=1) / math.sqrt(len(numbers))) if len(numbers) > 1 else math.nan,
        error_unpaired=unpaired, wilcoxon=signed_rank_p(numbers) if len(numbers) > 2 and any(numbers) else None,
        more_seeds=more, interaction=_interaction(rule, evidence, question) if question.kind == "pair" else None,
    )  # fmt: skip


def backups(rows: Sequence[RowResult]) -> list[RowResult]:
    """Mark the pairs that are needed while neither single is.

    A part whose backup takes over looks unneeded alone; two such parts must not be dropped together.
    """
    words = {row.name: row.word for row in rows if row.kind == "single"}

    def spared(row: RowResult) -> bool:
        needed = row.kind == "pair" and row.word == "needed"
        return needed and all(words.get(name) not in (None, "needed") for name in row.members)

    return [
        replace(row, detail="backup pair: neither alone is needed" + (f"; {row.detail}" if row.detail else ""))
        if spared(row)
        else row
        for row in rows
    ]  # fmt: skip


def _interaction(rule: Rule, evidence: Evidence, question: Question) -> tuple[float, float, float] | None:
    asked = interaction(question)
    if any(not evidence.values(row) for row, _ in asked.contrast):
        return None
    deltas = evidence.deltas(asked)
    judged = rule.judge(np.array([[deltas]]), squares=asked.squares, decide=False) if len(deltas) >= 3 else None
    if judged is None or not judged.look[0, 0]:
        return None
    return float(judged.mean[0, 0]), float(judged.low[0, 0]), float(judged.high[0, 0])


def _unpaired(evidence: Evidence, question: Question) -> float:
    total = 0.0
    for row, weight in question.contrast:
        numbers = [value for value in evidence.values(row) if value is not None]
        if len(numbers) < 2:
            return math.nan
        total += weight**2 * float(np.var(numbers, ddof=1)) / len(numbers)
    return math.sqrt(total)


def _failing(evidence: Evidence, question: Question, upto: int) -> str:
    if question.kind not in ("single", "pair") or question.own == BASE:
        return ""
    failed, tried = evidence.failures(question.own, upto)
    if tried < _LEAST_TRIED or failed < tried / 2:
        return ""
    low, high = clopper_pearson(failed, tried)
    return f"training fails {failed}/{tried}, {low:.0%} to {high:.0%}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value

"""Backward: drop one component after another while the whole still does as well, and verify what is left."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.errors import StudyError
from mlsysopt.design.ablate.answers import Evidence, standing
from mlsysopt.design.ablate.deltas import BASE, Component, Row
from mlsysopt.design.ablate.designs import Question
from mlsysopt.design.ablate.result import Result
from mlsysopt.design.ablate.running import Trainer
from mlsysopt.design.ablate.streams import seeded
from mlsysopt.design.ablate.trial import TrialSpec, build
from mlsysopt.design.ablate.verdict import HARMFUL, LOOKS, NEGLIGIBLE, Rule

if TYPE_CHECKING:
    from mlsysopt.design.ablate.builder import Study

__all__ = ["prune"]

# Seeds of the verification are none that chose what is verified.
_FRESH = 10_000
_TRIES = 3


def prune(study: Study, result: Result, *, seeds: int = 4, **settings: Any) -> Result:
    """Drop the least needed components greedily while the total effect stays inside the margin.

    Each step trains the model without all that was dropped so far and one more. What is left at the
    end is compared with the base again, with seeds that had no say in the choice; when that does not
    show that the loss is below the margin, the more needed half of what was dropped comes back, and again.

    Args:
        study: The study; it needs a margin.
        result: Of its run.
        seeds: Seeds of each step.
        settings: `workers`, `budget` and so on, as for `Study.run`.

    Returns:
        The result with `pruned` filled in.

    Raises:
        StudyError: the study has no margin.
    """
    margin = study.margin
    if margin is None:
        raise StudyError("prune needs a margin: the largest loss that does not matter, ablate.study(..., margin=...)")
    by_name = {one.name: one for one in study.components()}
    order = sorted(
        (row for row in result.rows if row.kind == "single" and row.word != "needed" and row.name in by_name),
        key=lambda row: -row.mean if not math.isnan(row.mean) else math.inf,
    )
    first = int(result.setting.get("first_seed", 0))
    steps: list[dict[str, Any]] = []
    with study.trainer(**settings) as trainer:
        dropped: list[Component] = []
        for row in order:
            trial = [*dropped, by_name[row.name]]
            if not trainer.run(_specs(Row.without(trial), first, seeds)):
                break
            numbers = _numbers(study, trainer, Row.without(trial), first, seeds)
            error = float(np.std(numbers, ddof=1) / math.sqrt(len(numbers))) if len(numbers) > 1 else math.inf
            mean = float(np.mean(numbers)) if numbers else math.nan
            kept = len(numbers) == seeds and mean - error >= -margin
            steps.append({"component": row.name, "mean": mean, "dropped": kept})
            if kept:
                dropped = trial
        found = _verified(study, trainer, dropped, Rule(looks=LOOKS, margin=margin, step=result.step), first)
    return replace(result, pruned={**found, "steps": steps})


def _verified(study: Study, trainer: Trainer, dropped: list[Component], rule: Rule, first: int) -> dict[str, Any]:
    for attempt in range(_TRIES):
        if not dropped:
            break
        row, fresh = Row.without(dropped), first + _FRESH * (attempt + 1)
        question = Question(row.key, "single", ((row.key, 1.0), (BASE, -1.0)), row.members)
        sign = 1.0 if study.better == "higher" else -1.0
        evidence = Evidence(
            lambda key, place, row=row, fresh=fresh: trainer.have(
                TrialSpec(row if key == row.key else Row(()), fresh + place)
            ),
            study.metric, sign, LOOKS[-1],
        )  # fmt: skip
        found = standing(rule, evidence, [question], upto=0)
        for look in LOOKS:
            if not trainer.run(_specs(row, fresh, look)):
                break
            found = standing(rule, evidence, [question], upto=look)
            if not found.is_open(0):
                break
        word = int(found.judged.word[0, 0])
        if word in (NEGLIGIBLE, HARMFUL):
            return {
                "dropped": [one.name for one in dropped],
                "verified": True,
                "mean": float(found.judged.mean[0, 0]),
                "low": float(found.judged.low[0, 0]),
                "high": float(found.judged.high[0, 0]),
                "seeds": int(found.judged.look[0, 0]),
                "parameters": _parameters(study, row),
            }
        # The least needed were dropped first. Few tries, since each one may say yes by chance.
        dropped = dropped[: len(dropped) // 2]
    return {"dropped": [], "verified": False, "mean": None, "low": None, "high": None, "seeds": 0, "parameters": 0.0}


def _parameters(study: Study, row: Row) -> float | None:
    """Return the relative change of the number of parameters, None for models that have none to count."""
    kit, counts = study.kit(), list[int]()
    for one in (Row(()), row):
        with seeded(0):
            model, _, _ = build(kit, one, 0)
        if not hasattr(model, "parameters"):
            return None
        counts.append(sum(p.numel() for p in model.parameters()))
    return (counts[1] - counts[0]) / counts[0] if counts[0] else None


def _specs(row: Row, first: int, seeds: int) -> list[TrialSpec]:
    return [TrialSpec(one, first + place) for place in range(seeds) for one in (Row(()), row)]


def _numbers(study: Study, trainer: Trainer, row: Row, first: int, seeds: int) -> list[float]:
    sign = 1.0 if study.better == "higher" else -1.0
    found: list[float] = []
    for place in range(seeds):
        own, base = trainer.have(TrialSpec(row, first + place)), trainer.have(TrialSpec(Row(()), first + place))
        if own is not None and base is not None and own["state"] == base["state"] == "ok":
            found.append(sign * (own["metrics"][study.metric] - base["metrics"][study.metric]))
    return found

"""What a study learns about where its target works: probes after a failure, and the evidence that they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlsysopt.core.store import MeasurementRow
from mlsysopt.core.target import Config, Failure, Outcome

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from mlsysopt.core.search.evidence import Evidence
    from mlsysopt.core.search.rules import LearnedRule
    from mlsysopt.core.space import Space
    from mlsysopt.core.study.measuring import Measurer

__all__ = ["PROBING_SHARE", "Learner", "evidence_of_probes", "learned_rules"]

PROBING_SHARE = 0.25
"""Part of a budget that finding ranges and looking into failures may take together."""

_AT_START = ("rejected", "timeout")


class Learner:
    """Looks into failures by probes, as long as its part of the budget lasts.

    Args:
        measurer: Probes and records; its session must be a prober.
        most_s: Seconds that all probes of this study may take, or what returns them: how long a budget of trials
            is, is known once the default has been measured.
        spent_s: Seconds that they have taken in earlier runs.
    """

    def __init__(self, measurer: Measurer, *, most_s: float | Callable[[], float], spent_s: float = 0.0) -> None:
        self._measurer, self._most_s, self._spent_s = measurer, most_s, spent_s

    @property
    def left_s(self) -> float:
        """Seconds that further probes may take."""
        most_s = self._most_s() if callable(self._most_s) else self._most_s
        return most_s - self._spent_s - self._measurer.probing_s

    def blame(self, trial: int, config: Mapping[str, Any], failure: Failure) -> tuple[tuple[str, ...], str]:
        """Return the parameters that made a trial fail, and that as a line for people.

        A server that says what it used instead has said what it minds; a failure under load cannot be
        looked into by probes, which put none on it.
        """
        corrected = tuple(failure.extra.get("corrected", ()))
        if corrected:
            return corrected, f"the system uses other values of {', '.join(corrected)}"
        prober = self._measurer.prober
        if prober is None or failure.kind not in _AT_START or failure.extra.get("under_load"):
            return (), "it failed under load, which probes cannot show"
        count = 0

        def probe(one: Config) -> Outcome:
            nonlocal count
            if self.left_s <= 0:
                raise TimeoutError
            count += 1
            return self._measurer.probe(one, trial=trial, round=count)

        try:
            blamed = tuple(prober.diagnose(config, failure, probe))
        except TimeoutError:
            return (), f"{count} probes found no culprit before their part of the budget was spent"
        said = f"{count} probes: it is {' with '.join(blamed)}" if blamed else f"{count} probes found no culprit"
        return blamed, said


def learned_rules(
    space: Space, trials: Iterable[FrozenTrial], rows: Iterable[MeasurementRow]
) -> tuple[LearnedRule, ...]:
    """Return the rules that trials and probes of a study teach, the hard ones first.

    Args:
        space: What may be chosen.
        trials: All trials of the study.
        rows: Its measurements of role `probe`.
    """
    from mlsysopt.core.search.evidence import evidence_of
    from mlsysopt.core.search.validity import ValidityModel

    return ValidityModel(space, [*evidence_of(trials, space), *evidence_of_probes(rows)]).rules


def evidence_of_probes(rows: Iterable[MeasurementRow]) -> list[Evidence]:
    """Return what recorded probes say; those that the machine spoiled say nothing.

    Args:
        rows: Measurements of role `probe`.
    """
    from mlsysopt.core.search.evidence import Evidence

    kept = [row for row in rows if row.failure_kind not in ("infrastructure", "lost")]
    singles = {
        (row.trial, *one)
        for row in kept
        if row.metrics is not None and len(row.config) == 1
        for one in row.config.items()
    }
    found: list[Evidence] = []
    for row in kept:
        named = tuple(row.conditions.get("extra", {}).get("named", ()))
        # What fails with the rest at default, and works when a part of it is left out, is to blame.
        alone = len(row.config) == 1
        together = len(row.config) == 2 and all((row.trial, *one) in singles for one in row.config.items())
        blamed = tuple(row.config) if row.metrics is None and (alone or together) else ()
        found.append(Evidence(row.config, row.metrics is not None, row.failure_kind or "", named, True, blamed))
    return found

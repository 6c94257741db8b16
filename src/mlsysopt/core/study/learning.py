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

__all__ = ["PROBING_SHARE", "Learner", "evidence_of_probes", "learned_rules", "owed_s"]

PROBING_SHARE = 0.25
"""Part of a budget that finding ranges and looking into failures may take together."""

_AT_START = ("rejected", "timeout")


class Learner:
    """Looks into failures by probes, as long as they cost no more than failing did and their part of the budget lasts.

    How many starts will still fail, nobody knows: who spends on their causes what failures have cost so far loses
    twice as much as by failing alone at worst, whatever comes.

    Args:
        measurer: Probes and records; its session must be a prober.
        most_s: Seconds that all probes of this study may take, or what returns them: how long a budget of trials
            is, is known once the default has been measured.
        owed_s: Returns by how many seconds failures have cost more so far than the probes after them, as `owed_s`
            tells from the rows of a study.
        spent_s: Seconds that they have taken in earlier runs.

    References:
        Karlin, Manasse, Rudolph, Sleator, Competitive snoopy caching, Algorithmica 1988.
    """

    def __init__(
        self,
        measurer: Measurer,
        *,
        most_s: float | Callable[[], float],
        owed_s: Callable[[], float],
        spent_s: float = 0.0,
    ) -> None:
        self._measurer, self._most_s, self._owed_s, self._spent_s = measurer, most_s, owed_s, spent_s

    @property
    def left_s(self) -> float:
        """Seconds that further probes may take; the last one may take longer."""
        most_s = self._most_s() if callable(self._most_s) else self._most_s
        return min(most_s - self._spent_s - self._measurer.probing_s, self._owed_s())

    def blame(self, trial: int, config: Mapping[str, Any], failure: Failure) -> tuple[tuple[str, ...], str]:
        """Return the parameters that made a trial fail, and that as a line for people.

        A server that says what it used instead has said what it minds; a failure under load cannot be
        looked into by probes, which put none on it.
        """
        corrected = tuple(failure.extra.get("corrected", ()))
        if corrected:
            return corrected, f"the system uses other values of {', '.join(corrected)}"
        prober = self._measurer.prober
        if prober is None or not _can_be_probed(failure.kind, failure.extra):
            return (), "it failed under load, which probes cannot show"
        count, until_s = 0, self._measurer.probing_s + self.left_s

        def probe(one: Config) -> Outcome:
            nonlocal count
            if self._measurer.probing_s >= until_s:
                raise TimeoutError
            count += 1
            return self._measurer.probe(one, trial=trial, round=count)

        try:
            blamed = tuple(prober.diagnose(config, failure, probe))
        except TimeoutError:
            return (), f"{count} probes found no culprit before what they may cost was spent"
        said = f"{count} probes: it is {' with '.join(blamed)}" if blamed else f"{count} probes found no culprit"
        return blamed, said


def owed_s(rows: Iterable[MeasurementRow], *, trial_s: float | None = None) -> float:
    """Return by how many seconds failures that probes can look into have cost more than the probes for them.

    Args:
        rows: Measurements of a study, of every role.
        trial_s: What a failed trial costs where trials are what the budget counts; None means what it took, with
            the runs of the default beside it, from which nobody learns anything without it.
    """
    kept = list(rows)
    failed = {
        row.trial
        for row in kept
        if row.role == "trial" and _can_be_probed(row.failure_kind, row.conditions.get("extra", {}))
    }
    took_s = sum(row.wall_s for row in kept if row.role in ("trial", "canary") and row.trial in failed)
    lost_s = took_s if trial_s is None else trial_s * len(failed)
    return lost_s - sum(row.wall_s for row in kept if row.role == "probe")


def _can_be_probed(kind: str | None, extra: Mapping[str, Any]) -> bool:
    """Return whether a start alone, without load, would fail in the same way."""
    return kind in _AT_START and not extra.get("under_load") and not extra.get("corrected")


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

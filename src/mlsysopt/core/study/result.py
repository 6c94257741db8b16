"""What a study found: a verified ratio with its interval, or the plain advice to keep the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from mlsysopt.core.errors import StudyError
from mlsysopt.core.measure import Ratio

if TYPE_CHECKING:
    from mlsysopt.core.study.explanation import Explanation
    from mlsysopt.core.study.minimal import Minimal
    from mlsysopt.core.study.study import Study

__all__ = ["Candidate", "GuardCheck", "Result", "Status"]

Status = Literal["proven", "not proven", "interrupted", "unverified"]
_EXIT: dict[Status, int] = {"proven": 0, "not proven": 4, "interrupted": 130, "unverified": 0}


@dataclass(frozen=True, slots=True)
class GuardCheck:
    """One guard, checked on verified rounds."""

    guard: str
    metric: str
    value: float
    low: float
    high: float
    kept: bool

    def text(self) -> str:
        """Return one line: limit, value, interval, verdict."""
        interval = "" if self.low == self.high else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.guard}: {self.value:.3g}{interval} {'kept' if self.kept else 'BROKEN'}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration that was verified against the default.

    Attributes:
        trial: Number of the trial it comes from.
        config: Requested configuration.
        effective: What the system used of it.
        observed: Ratio that the search saw, before verification.
        ratios: Verified ratio per metric.
        guards: Every guard with its verdict.
        verdict: `proven`, `refuted`, `not proven`, `guard broken`, `clocks disagree` or a failure kind.
        reason: The verdict in words.
    """

    trial: int
    config: Mapping[str, Any]
    effective: Mapping[str, Any]
    observed: float
    ratios: Mapping[str, Ratio]
    guards: Sequence[GuardCheck]
    verdict: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "trial": self.trial,
            "config": dict(self.config),
            "effective": dict(self.effective),
            "observed": self.observed,
            "ratios": {name: ratio.to_json() for name, ratio in self.ratios.items()},
            "guards": [
                {"guard": g.guard, "metric": g.metric, "value": g.value, "low": g.low, "high": g.high, "kept": g.kept}
                for g in self.guards
            ],
            "verdict": self.verdict,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Candidate:
        """Read what `to_json` wrote."""
        return cls(
            trial=obj["trial"],
            config=obj["config"],
            effective=obj["effective"],
            observed=obj["observed"],
            ratios={name: Ratio.from_json(ratio) for name, ratio in obj["ratios"].items()},
            guards=[GuardCheck(**row) for row in obj["guards"]],
            verdict=obj["verdict"],
            reason=obj["reason"],
        )


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of a study.

    Attributes:
        status: `proven`, `not proven` (keep the default), `interrupted` or `unverified`.
        reason: The status in words.
        objectives: Metrics that were asked for.
        winner: Verified configuration, None when the default is to be kept.
        candidates: Everything that was verified, in order.
        counts: Trials by state.
        baseline: Median of each metric of the default.
        setting: Seed, sampler, budget, clock, machine, store, study name, target text.
        pareto: The front of a study with several objectives.
        rules: What was learned about which configurations work: text, origin, hard, refusals, support.
    """

    status: Status
    reason: str
    objectives: tuple[str, ...]
    winner: Candidate | None
    candidates: tuple[Candidate, ...]
    counts: Mapping[str, int]
    baseline: Mapping[str, float]
    setting: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pareto: tuple[Mapping[str, Any], ...] = ()
    rules: tuple[Mapping[str, Any], ...] = ()
    study: Study | None = field(default=None, compare=False, repr=False)

    @property
    def exit_code(self) -> int:
        """0 proven, 4 not proven, 130 interrupted."""
        return _EXIT[self.status]

    @property
    def verified(self) -> Mapping[str, Ratio]:
        """Verified ratio per metric of the winner, else of the first candidate; empty when none was run."""
        if self.winner is not None:
            return self.winner.ratios
        return self.candidates[0].ratios if self.candidates else {}

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration to use; empty means the default."""
        return self.winner.config if self.winner is not None else {}

    def text(self) -> str:
        """Return the verdict as a few lines for people."""
        lines: list[str] = []
        if self.status == "proven" and self.winner is not None:
            lines += [f"{name}: {self.winner.ratios[name]}" for name in self.objectives if name in self.winner.ratios]
            lines += [f"guard {check.text()}" for check in self.winner.guards]
        else:
            lines.append(f"{self.status}: {self.reason}")
            lines += [
                f"trial {candidate.trial}: {candidate.ratios[name]} ({candidate.verdict})"
                for candidate in self.candidates
                for name in self.objectives
                if name in candidate.ratios
            ]
        tally = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        lines.append(f"trials: {tally or 'none'}")
        lines += [f"rule: {rule['text']}   ({rule['origin']})" for rule in self.rules]
        return "\n".join(lines)

    def write(self, path: str | Path) -> Path:
        """Write the configuration to use in the form that the system itself reads.

        When nothing was proven that is the default.
        """
        return self._source().write(self, path)

    def report(self, folder: str | Path, *, command: str = "") -> Path:
        """Write the report folder and return its `index.html`."""
        return self._source().report(self, folder, command=command)

    def explain(self) -> Explanation:
        """Say which knobs moved which metric."""
        return self._source().explain(self)

    def minimal(self) -> Minimal:
        """Find, by one more verification, the smallest set of changes that keeps 90 % of the gain."""
        return self._source().minimal(self)

    def _source(self) -> Study:
        if self.study is None:
            raise StudyError("this result was read from a file; open its study to write, report or explain it")
        return self.study

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `Result.from_json` reads them back."""
        return {
            "status": self.status,
            "reason": self.reason,
            "objectives": list(self.objectives),
            "winner": self.winner.to_json() if self.winner is not None else None,
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "counts": dict(self.counts),
            "baseline": dict(self.baseline),
            "setting": dict(self.setting),
            "pareto": [dict(point) for point in self.pareto],
            "rules": [dict(rule) for rule in self.rules],
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Result:
        """Read what `to_json` wrote."""
        return cls(
            status=cast(Status, obj["status"]),
            reason=obj["reason"],
            objectives=tuple(obj["objectives"]),
            winner=Candidate.from_json(obj["winner"]) if obj["winner"] else None,
            candidates=tuple(Candidate.from_json(candidate) for candidate in obj["candidates"]),
            counts=obj["counts"],
            baseline=obj["baseline"],
            setting=obj["setting"],
            pareto=tuple(obj.get("pareto", ())),
            rules=tuple(obj.get("rules", ())),
        )

"""What a study will do, before anything trains: rows, changes, refusals, price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlsysopt.core.quantities import format_seconds
from mlsysopt.design.ablate.designs import Design
from mlsysopt.design.ablate.table import columns

__all__ = ["Plan", "PlanRow"]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What taking one component away does.

    Attributes:
        name: Of the component.
        kind: Of the component.
        change: In words: paths, option, fraction.
        parameters: Relative change of the number of parameters, None where no module goes.
        macs: Relative change of multiply-accumulates.
        adapters: What stands in, and where.
        silences: Parameters that lose their gradient beside the removed ones.
        notes: What else the proofs found.
    """

    name: str
    kind: str
    change: str
    parameters: float | None = None
    macs: float | None = None
    adapters: tuple[str, ...] = ()
    silences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be trained and what will not.

    Attributes:
        rows: One per component that can be taken away.
        design: Rows and questions.
        refusals: Components that cannot, and why.
        warnings: What a reader should know.
        looks: Seeds after which verdicts are made.
        seconds: CPU seconds of one training, None when none has been trained yet.
        modules: Paths of all modules of the model.
    """

    rows: tuple[PlanRow, ...]
    design: Design
    refusals: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    looks: tuple[int, ...]
    seconds: float | None = None
    modules: tuple[str, ...] = field(default=())

    def trainings(self) -> tuple[int, int]:
        """Return the smallest and the largest number of trainings; one more checks that they repeat."""
        rows = len(self.design.rows) + self.design.reserved
        return self.looks[0] * rows + 1, self.looks[-1] * rows + 1

    def price(self) -> str:
        """Return the price as a sentence."""
        least, most = self.trainings()
        many = f"{least}" if least == most else f"{least} to {most}"
        rows = len(self.design.rows) + self.design.reserved
        text = f"{rows} rows, {many} trainings (one of them checks that a seed repeats)"
        if self.seconds is None:
            return f"{text}; the first training will tell how long each takes"
        return f"{text}, {format_seconds(least * self.seconds)} to {format_seconds(most * self.seconds)} CPU"

    def __str__(self) -> str:
        table = columns(
            ["component", "kind", "change", "parameters", "MACs"],
            [[row.name, row.kind, row.change, _percent(row.parameters), _percent(row.macs)] for row in self.rows],
        )
        lines = [table]
        for row in self.rows:
            lines += [f"  {row.name}: {adapter}" for adapter in row.adapters]
            if row.silences:
                lines.append(f"  {row.name}: also silences {_few(row.silences)}")
            lines += [f"  {row.name}: {note}" for note in row.notes]
        pairs = [question.name for question in self.design.questions if question.kind != "single"]
        if pairs:
            lines.append(f"further questions: {_few(pairs, 12)}")
        if self.design.reserved:
            lines.append(f"{self.design.reserved} pairs among the largest effects, chosen after the singles")
        lines += [f"refused: {name}: {why}" for name, why in self.refusals]
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines.append(f"family of {self.design.family} questions at 5 % together; looks at {_numbers(self.looks)} seeds")
        lines.append(self.price())
        return "\n".join(lines)

    def listing(self) -> str:
        """Return the modules of the model, one a line."""
        return "\n".join(self.modules)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        least, most = self.trainings()
        return {
            "rows": [{name: getattr(row, name) for name in PlanRow.__slots__} for row in self.rows],
            "questions": [{"name": q.name, "kind": q.kind} for q in self.design.questions],
            "reserved": self.design.reserved,
            "family": self.design.family,
            "refusals": [{"name": name, "reason": why} for name, why in self.refusals],
            "warnings": list(self.warnings),
            "looks": list(self.looks),
            "trainings": {"least": least, "most": most},
            "cpu_s_per_training": self.seconds,
            "modules": list(self.modules),
        }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.0%}" if value else "0%"


def _few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _numbers(looks: Sequence[int]) -> str:
    return ", ".join(map(str, looks))

"""What a study found: one word per question, with everything that stands behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

__all__ = ["Result", "RowResult", "Status", "Word"]

Word = Literal["needed", "harmful", "negligible", "no evidence", "undecided", "no effect"]
Status = Literal["finished", "budget", "interrupted", "no seed effect", "base failed"]


@dataclass(frozen=True, slots=True)
class RowResult:
    """One question and its answer.

    Attributes:
        name: Of the question.
        kind: `single`, `pair`, `add` or `screen`.
        members: Components it is about.
        word: The verdict.
        detail: What follows the word: failing trainings, seeds still needed, a backup pair.
        mean: Mean difference in the metric's unit, oriented so that negative is a loss; NaN before the first look.
        low: Lower end of the repeated confidence interval.
        high: Upper end.
        p_value: Sequential p-value of "no effect", adjusted over the family.
        p_single: The same without the adjustment.
        p_margin: Sequential p-value of "outside the margin".
        seeds: Seeds at the look that counts.
        pairs: Of them, those where both sides gave a number.
        failed: Trainings of this row that gave none.
        deltas: Every difference, by seed; None where a side failed.
        error_paired: Standard error of the mean from the paired differences.
        error_unpaired: What it would be without pairing.
        wilcoxon: Signed-rank p-value of all differences, for those who prefer it; not sequential.
        more_seeds: Estimate of what an undecided row still needs.
        interaction: For a pair: mean, low and high of what it loses beyond the sum of its singles.
        parameters: Relative change of the number of parameters, None where unknown.
        macs: Relative change of multiply-accumulates.
        cpu_ratio: CPU seconds of a training against the base's.
        rss_bytes: Largest memory of a training.
        inference: Ratio of inference CPU time to the base's, with interval, as text; only for negligible rows.
        adapters: What stands in, and where.
        warnings: What the plan found worth saying.
    """

    name: str
    kind: str
    members: tuple[str, ...]
    word: Word
    detail: str = ""
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = 1.0
    p_single: float = 1.0
    p_margin: float = 1.0
    seeds: int = 0
    pairs: int = 0
    failed: int = 0
    deltas: tuple[float | None, ...] = ()
    error_paired: float = math.nan
    error_unpaired: float = math.nan
    wilcoxon: float | None = None
    more_seeds: int | None = None
    interaction: tuple[float, float, float] | None = None
    parameters: float | None = None
    macs: float | None = None
    cpu_ratio: float | None = None
    rss_bytes: int = 0
    inference: str = ""
    adapters: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The word with its detail."""
        return f"{self.word} ({self.detail})" if self.detail else self.word

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; what is not a number becomes null."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> RowResult:
        """Read what `to_json` wrote."""
        known = {one.name for one in fields(cls)}
        row: dict[str, Any] = {key: value for key, value in read.items() if key in known}
        for key in ("members", "deltas", "adapters", "warnings"):
            row[key] = tuple(row.get(key) or ())
        for key in ("mean", "low", "high", "error_paired", "error_unpaired"):
            row[key] = math.nan if row.get(key) is None else row[key]
        row["interaction"] = tuple(row["interaction"]) if row.get("interaction") else None
        return cls(**row)


@dataclass(frozen=True, slots=True)
class Result:
    """The answer of a study.

    Attributes:
        metric: What was measured.
        better: `higher` or `lower`.
        rows: One per question, in the order of the plan.
        status: How the run ended.
        base: Metric of the base by seed; None where it failed.
        margin: Largest effect that does not matter.
        step: Resolution of the metric.
        trainings: Trainings behind the table, repeats included.
        cpu_s: Their CPU seconds.
        lost: Half trainings of killed runs.
        refusals: Components that could not be taken away, and why.
        warnings: What a reader should know.
        failures: Name, seed, kind and reason of every training that gave no number.
        missing: What a budget left out, as one line.
        pruned: What `prune` found, None before.
        setting: Seeds, looks and other settings.
    """

    metric: str
    better: str
    rows: tuple[RowResult, ...]
    status: Status
    base: tuple[float | None, ...] = ()
    margin: float | None = None
    step: float = 0.0
    trainings: int = 0
    cpu_s: float = 0.0
    lost: int = 0
    refusals: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    failures: tuple[tuple[str, int, str, str], ...] = ()
    missing: str = ""
    pruned: dict[str, Any] | None = None
    setting: dict[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> RowResult:
        """Return the answer to one question.

        Raises:
            UsageError: no such question.
        """
        for one in self.rows:
            if one.name == name:
                return one
        from mlsysopt.core.errors import UsageError, near_misses

        raise UsageError(f"no row is called {name!r}; {near_misses(name, [r.name for r in self.rows], noun='row')}")

    @property
    def exit_code(self) -> int:
        """0 when every row has its word, 4 when some are left undecided, 1 and 130 as everywhere."""
        if self.status == "base failed":
            return 1
        if self.status == "interrupted":
            return 130
        open_rows = self.status == "no seed effect" or any(row.word == "undecided" for row in self.rows)
        return 4 if open_rows else 0

    def single_seed(self, place: int = 0) -> dict[str, float | None]:
        """Return the table that one seed would have given: the difference of that seed alone."""
        return {row.name: row.deltas[place] if place < len(row.deltas) else None for row in self.rows}

    def backups(self) -> tuple[RowResult, ...]:
        """Return the pairs that are needed while neither part alone is."""
        return tuple(row for row in self.rows if row.kind == "pair" and "backup" in row.detail)

    def table(self) -> str:
        """Return the table as text."""
        from mlsysopt.design.ablate import table

        return table.as_text(self)

    def report(self, folder: str | Path, *, command: str = "") -> Path:
        """Write the HTML report and return its `index.html`."""
        from mlsysopt.design.ablate.page import write_report

        return write_report(self, Path(folder), command=command)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        out = {one.name: _plain(getattr(self, one.name)) for one in fields(self) if one.name != "rows"}
        return {**out, "rows": [row.to_json() for row in self.rows], "exit_code": self.exit_code}

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Result:
        """Read what `to_json` wrote."""
        known = {one.name for one in fields(cls)}
        out: dict[str, Any] = {key: value for key, value in read.items() if key in known}
        out["rows"] = tuple(RowResult.from_json(row) for row in read["rows"])
        for key in ("base", "warnings"):
            out[key] = tuple(out.get(key) or ())
        for key in ("refusals", "failures"):
            out[key] = tuple(tuple(one) for one in out.get(key) or ())
        return cls(**out)

    def with_rows(self, rows: Sequence[RowResult]) -> Result:
        """Return the result with other rows."""
        return replace(self, rows=tuple(rows))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value

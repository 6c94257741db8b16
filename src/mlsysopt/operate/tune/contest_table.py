"""The table of a contest of tuners, and the one line that it comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import ArtefactError
from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.references import Reference
from mlsysopt.core.report.columns import aligned
from mlsysopt.core.study.loop import STARTS
from mlsysopt.operate.tune.contest_rows import RANDOM, SIGNIFICANT_SEEDS, UNUSABLE, Entry, Row, gap_below

__all__ = ["Contest", "facts", "headline", "label", "so_far"]

NEAR = 0.1
"""A gap up to which random search is said to be "within" so much of the best."""


def headline(rows: Sequence[Row], *, better: str, factor: bool) -> str:
    """Return the one line that a verified contest comes to.

    Args:
        rows: Verified ones, the best first.
        better: Direction of the metric.
        factor: Whether rows differ in `validity` too.
    """
    if all(entry.config is None for row in rows for entry in row.entries):
        return "keep the default: no tuner found anything that beats it within the guards"
    advice = "" if any(_proven(row) for row in rows) else "keep the default: no winner is proven better than it; "
    # Of several that are equally good, random search is the plainest.
    best = next((row for row in rows if row.tuner == RANDOM and row.ratio == rows[0].ratio), rows[0])
    if len(rows) > 1 and not any(entry.tried for row in rows for entry in row.entries):
        return (
            f"{advice}the time was too short to tell tuners apart: nobody got beyond the {STARTS} shared starts, "
            f"the best of which is {_times(best)}"
        )
    shown = f"{label(best, factor)}, {_times(best)}"
    randoms = [row for row in rows if row.tuner == RANDOM]
    if not randoms:
        return f"{advice}the best is {shown}; random search did not take part, so nothing says whether it was needed"
    if best.tuner == RANDOM:
        others = [row for row in rows if row.tuner != RANDOM]
        if not others:
            return f"{advice}the best is {shown}; no other tuner took part"
        if others[0].ratio == best.ratio:
            return (
                f"{advice}no tuner beats random search ({_times(best)}); {label(others[0], factor)} comes to the same"
            )
        behind, following = gap_below(others[0].ratio or 1.0, best.ratio or 1.0, better), label(others[0], factor)
        return (
            f"{advice}random search is the best ({_times(best)}); the next, {following}, is {_percent(behind)} behind"
        )
    below = gap_below(randoms[0].ratio or 1.0, best.ratio or 1.0, better)
    far = f"is within {_percent(below)} of" if below <= NEAR else f"ends {100 * below:.0f} % below"
    doubt = ""
    if best.gap is not None and randoms[0].validity == best.validity:
        assert best.gap_low is not None and best.gap_high is not None
        doubt = "; the interval of their difference holds 0" if best.gap_low <= 0.0 <= best.gap_high else ""
    return f"{advice}{label(randoms[0], factor, 'random search')} {far} the best ({shown}){doubt}"


def so_far(rows: Sequence[Row], seconds: float, *, better: str) -> str:
    """Return the last line of a contest that was stopped."""
    least = min((entry.spent_s for row in rows for entry in row.entries), default=0.0)
    sign = 1.0 if better == "higher" else -1.0
    best = max(rows, key=lambda row: sign * math.log(row.observed), default=None)
    seen = f"; best seen so far: {best.tuner}, {best.observed:.2f}x, unverified" if best is not None else ""
    return f"INCOMPLETE: everyone has used {format_seconds(least)} of {format_seconds(seconds)}{seen}"


def facts(setting: Mapping[str, Any], entries: Sequence[Entry], name: Callable[[Entry], str]) -> list[str]:
    """Return what one has to know to read the table, a line each.

    Args:
        setting: Of the contest.
        entries: Every tuner with every seed.
        name: Returns the name of an entry for people.
    """
    told: list[str] = []
    several = len(setting["tuners"]) * len(setting["validity"]) > 1
    if several and entries:
        within = "no more than" if setting["equal"] else "MORE than"
        told.append(
            f"times spent differ by {format_seconds(round(setting['spent_differ_s'], 6))}, {within} one trial "
            f"(the longest: {format_seconds(setting['longest_trial_s'])})"
        )
    if several and len(setting["seeds"]) < SIGNIFICANT_SEEDS:
        told.append(f"below {SIGNIFICANT_SEEDS} seeds nothing is called significant: intervals alone are shown")
    if {"all", "learned"} <= set(setting["validity"]):
        told.append("all and learned searched the same ranges: those of the target that was given")
    if several:
        early = [name(entry) for entry in entries if not entry.tried]
        shared = [name(entry) for entry in entries if entry.winner is not None and entry.winner.trial <= STARTS]
        if early:
            told.append(f"no time for a proposal of its own after the {STARTS} shared starts: {', '.join(early)}")
        if shared:
            told.append(f"the winner is a shared start, nothing that the tuner proposed: {', '.join(shared)}")
    for entry in entries:
        if entry.config is None:
            told.append(f"{name(entry)} found no trial that beats the default: it keeps it, 1x exactly")
        elif entry.verdict in UNUSABLE:
            reason = entry.winner.reason if entry.winner is not None else ""
            told.append(f"{name(entry)} comes to the default, its winner is of no use: {reason}")
    return told


def label(row: Row | Entry, factor: bool, name: str = "") -> str:
    """Return the name of a row for people."""
    return f"{name or row.tuner} ({row.validity})" if factor else name or row.tuner


def _proven(row: Row) -> bool:
    return any(entry.verdict == "proven" for entry in row.entries)


@dataclass(frozen=True, slots=True)
class Contest:
    """Tuners compared at equal measurement time.

    Attributes:
        rows: One a tuner, the best first.
        headline: What it comes to, in one line.
        complete: Whether every tuner used its time and the winners were verified.
        setting: Target, metric, seconds, seeds, clock, guards, machine, store, times spent.
        notes: What else one has to know to read the table.
        references: What target and tuners are based on.
    """

    rows: tuple[Row, ...]
    headline: str
    complete: bool
    setting: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    references: tuple[Reference, ...] = field(default=(), repr=False)

    @property
    def exit_code(self) -> int:
        """0 done, 4 no winner is proven, 130 incomplete."""
        if not self.complete:
            return 130
        return 0 if any(_proven(row) for row in self.rows) else 4

    @property
    def best(self) -> Row | None:
        """The row with the largest verified gain; None while nothing is verified."""
        return self.rows[0] if self.rows and self.rows[0].ratio is not None else None

    @property
    def factor(self) -> bool:
        """Whether rows differ in `validity` too."""
        return len(self.setting["validity"]) > 1

    def text(self) -> str:
        """Return the table for a terminal; its last line is the headline."""
        lines = [self._title()]
        if self.rows:
            lines.append(_columns(*self.table()))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), self.headline])

    __str__ = text

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return names and cells of the columns; those that say nothing are left out."""
        verified = self.best is not None
        header = ["tuner", "validity", f"verified {self.setting['metric']}" if verified else "seen, unverified",
                  "verdict", "gap to random", "p (Holm)", "valid", "trials", "spent s", "ask CPU-s"]  # fmt: skip
        cells = [_cells(row) for row in self.rows]
        kept = [
            i for i, name in enumerate(header)
            if (name != "validity" or self.factor) and (name not in _MAY_LACK or any(row[i] != "-" for row in cells))
        ]  # fmt: skip
        return [header[i] for i in kept], [[row[i] for i in kept] for row in cells]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `Contest.from_json` reads them back."""
        return {
            "headline": self.headline,
            "complete": self.complete,
            "exit_code": self.exit_code,
            "rows": [row.to_json() for row in self.rows],
            "setting": dict(self.setting),
            "notes": list(self.notes),
            "references": [asdict(reference) for reference in self.references],
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Contest:
        """Read what `to_json` wrote.

        Raises:
            ArtefactError: a field is missing.
        """
        try:
            return cls(
                rows=tuple(Row.from_json(row) for row in obj["rows"]),
                headline=obj["headline"],
                complete=obj["complete"],
                setting=obj["setting"],
                notes=tuple(obj["notes"]),
                references=tuple(Reference(**reference) for reference in obj["references"]),
            )
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"a contest cannot be read: {error}") from error

    def report(self, folder: str | Path, *, command: str = "") -> Path:
        """Write the report folder and return its `index.html`."""
        from mlsysopt.operate.tune.contest_report import write_report

        return write_report(self, Path(folder), command=command)

    def _title(self) -> str:
        known = self.setting
        seeds = ", ".join(map(str, known["seeds"]))
        return (
            f"{known['target']}: {known['better']} {known['metric']}, {format_seconds(known['seconds'])} of measuring "
            f"each, seed{'s' if len(known['seeds']) > 1 else ''} {seeds}{'' if self.complete else '  (INCOMPLETE)'}"
        )


_MAY_LACK = ("gap to random", "p (Holm)")


def _cells(row: Row) -> list[str]:
    return [
        row.tuner,
        row.validity,
        f"{row.observed:.2f}x" if row.ratio is None else _times(row),
        row.verdict,
        "-" if row.gap is None else _apart_text(row.gap, row.gap_low, row.gap_high),
        "-" if row.p_value is None else f"{row.p_value:.3f}",
        "-" if row.valid_share is None else f"{row.valid_share:.0%}",
        str(row.trials),
        f"{row.spent_s:.4g}",
        f"{row.ask_cpu_s:.2g}",
    ]


def _times(row: Row) -> str:
    assert row.ratio is not None and row.low is not None and row.high is not None
    if row.low == row.high:
        return f"{row.ratio:.2f}x"
    if row.low == 0.0 or math.isinf(row.high):
        return f"{row.ratio:.2f}x [too few rounds]"
    return f"{row.ratio:.2f}x [{row.low:.2f}, {row.high:.2f}]"


def _apart_text(gap: float, low: float | None, high: float | None) -> str:
    assert low is not None and high is not None
    if low == high:
        return f"{math.expm1(gap):+.1%}" if gap else "none"
    if math.isinf(low) or math.isinf(high):
        return f"{math.expm1(gap):+.1%} [open]"
    return f"{math.expm1(gap):+.1%} [{math.expm1(low):+.1%}, {math.expm1(high):+.1%}]"


def _percent(share: float) -> str:
    """Return a share for a sentence: never less than it is."""
    percent = 100.0 * share
    scale = 1 if percent >= 9.95 else 10
    return f"{math.ceil(percent * scale - 1e-9) / scale:g} %"


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    figures = [i for i, name in enumerate(header) if name in ("valid", "trials", "spent s", "ask CPU-s", "p (Holm)")]
    return "\n".join(f"  {line}" for line in aligned([header, *rows], right=figures))

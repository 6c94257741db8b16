"""How a result looks: aligned text, a forest plot, a matrix of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.core.quantities import format_bytes, format_seconds
from mlsysopt.core.report.columns import aligned
from mlsysopt.design.ablate.result import Result, RowResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["as_text", "columns", "difference", "forest", "header", "pair_matrix", "summary"]

COLOURS = {
    "needed": "#d1495b",
    "harmful": "#d98200",
    "negligible": "#1b9e77",
    "no evidence": "#808890",
    "undecided": "#3b82c4",
    "no effect": "#808890",
}


def as_text(result: Result) -> str:
    """Return the whole table for a terminal."""
    lines = [header(result), ""]
    lines.append(
        columns(
            ["component", "verdict", "difference", "interval", "seeds", "p (Holm)", "parameters", "MACs", "cpu"],
            [_cells(row) for row in result.rows],
        )
    )
    lines += ["", summary(result)]
    for row in result.rows:
        lines += [f"  {row.name}: {adapter}" for adapter in row.adapters]
        lines += [f"  {row.name}: {note}" for note in row.warnings]
    for name, why in result.refusals:
        lines.append(f"refused: {name}: {why}")
    for name, seed, kind, reason in result.failures[:8]:
        lines.append(f"failed: {name}, seed {seed}: {kind}: {reason}")
    if len(result.failures) > 8:
        lines.append(f"failed: ... {len(result.failures)} in all")
    lines += [f"warning: {warning}" for warning in result.warnings]
    return "\n".join(line.rstrip() for line in lines)


def header(result: Result) -> str:
    """Return the line above the table: the base, the margin, what a difference means."""
    values = [value for value in result.base if value is not None]
    mean = sum(values) / len(values) if values else math.nan
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan
    margin = f"margin {result.margin:g}" if result.margin is not None else "no margin: nothing can be called negligible"
    return (
        f"base {result.metric} {mean:.4g} (sd {spread:.2g} over {len(values)} seeds); {margin}\n"
        "differences are without the component minus base; negative is a loss"
    )


def summary(result: Result) -> str:
    """Return what came out, in one or two lines."""
    parts: list[str] = []
    for word in COLOURS:
        names = [row.name for row in result.rows if row.word == word]
        if names:
            parts.append(f"{word}: {', '.join(names)}")
    backups = [f"{' and '.join(row.members)} back each other up: keep one of them" for row in result.backups()]
    paired = {name for row in result.backups() for name in row.members}
    free = [_drop(row) for row in result.rows if row.word == "negligible" and row.name not in paired]
    needed = [
        row.name for row in result.rows if row.word == "needed" and row.kind == "single" and row.parameters is not None
    ]
    lines = ["; ".join(parts) or "no rows"]
    lines += backups
    lines += [text for text in free if text]
    if needed and not any("matched" in row.name for row in result.rows):
        lines.append(
            f"the part, or only its parameters? modules({needed[0]!r}, replace='matched') trains one of equal size"
        )
    if result.pruned is not None:
        lines.append(_pruned(result.pruned))
    if result.missing:
        lines.append(result.missing)
    lines.append(
        f"{result.trainings} trainings, {format_seconds(result.cpu_s)} CPU"
        + (f", {result.lost} half ones lost and run again" if result.lost else "")
        + (f"; stopped: {result.status}" if result.status != "finished" else "")
    )
    return "\n".join(lines)


def _pruned(found: dict[str, Any]) -> str:
    if not found["verified"]:
        return "pruned: nothing could be dropped with a verified loss inside the margin"
    size = f", {found['parameters']:+.0%} parameters" if found["parameters"] else ""
    return (
        f"pruned: without {', '.join(found['dropped'])}{size}; verified with {found['seeds']} fresh seeds: "
        f"{found['mean']:+.3g} [{found['low']:+.3g}, {found['high']:+.3g}]"
    )


def _drop(row: RowResult) -> str:
    if row.parameters is None or row.parameters >= 0:
        return ""
    speed = f", {row.inference}" if row.inference else ""
    return f"drop {row.name}: {row.parameters:+.0%} parameters{speed}"


def difference(row: RowResult) -> str:
    """Return the mean difference for people."""
    # Sums of decimal fractions leave 1e-17 where nothing is.
    return "-" if math.isnan(row.mean) else f"{round(row.mean, 12):+.3g}"


def _cells(row: RowResult) -> list[str]:
    interval = "-" if math.isnan(row.low) else f"[{row.low:+.3g}, {row.high:+.3g}]"
    p = "-" if row.seeds == 0 else f"{row.p_value:.3f}" if row.p_value >= 0.001 else f"{row.p_value:.0e}"
    seeds = str(row.pairs) if not row.failed else f"{row.pairs}, {row.failed} failed"
    return [
        row.name, row.text, difference(row), interval, seeds, p, _percent(row.parameters), _percent(row.macs),
        "-" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}x",
    ]  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.0%}" if value else "0%"


def memory(row: RowResult) -> str:
    """Return the peak memory for people."""
    return format_bytes(row.rss_bytes) if row.rss_bytes else "-"


def columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns; columns that say nothing are left out.

    >>> print(columns(["a", "b"], [["x", "-"], ["yy", "-"]]))
    a
    x
    yy
    """
    kept = [i for i in range(len(names)) if any(row[i] not in ("-", "") for row in rows)] or [0]
    return "\n".join(aligned([[row[i] for i in kept] for row in (names, *rows)]))


def forest(result: Result) -> Figure:
    """Draw every difference with its interval, the margin as a band."""
    from mlsysopt.core.report import axes

    rows = [row for row in result.rows if not math.isnan(row.mean)]
    figure, plot = axes(1.0 + 0.32 * max(len(rows), 1))
    if result.margin is not None:
        plot.axvspan(-result.margin, result.margin, color="#1b9e77", alpha=0.12, linewidth=0)
    places = list(range(len(rows) - 1, -1, -1))
    reach = max((abs(row.mean) for row in rows), default=1.0) or 1.0
    reach = 2.5 * max(reach, result.margin or 0.0)
    for place, row in zip(places, rows, strict=True):
        colour = COLOURS[row.word]
        for value in row.deltas:
            if value is not None:
                plot.plot([value], [place], "|", color=colour, alpha=0.45, markersize=7)
        low, high = max(row.low, -reach), min(row.high, reach)
        plot.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        plot.plot([row.mean], [place], "o", color=colour, markersize=6)
    plot.axvline(0.0, color="#000000", linewidth=0.8, linestyle=(0, (4, 3)))
    plot.set_yticks(places, [f"{row.name}: {row.word}" for row in rows])
    plot.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    plot.tick_params(axis="y", length=0)
    plot.grid(True, axis="x", color="#cccccc", linewidth=0.6)
    plot.set_axisbelow(True)
    plot.set_xlabel(f"{result.metric} without the component, minus base (negative is a loss)")
    return figure


def pair_matrix(result: Result) -> Figure | None:
    """Draw what each pair loses beyond the sum of its singles; None without pairs."""
    from mlsysopt.core.report import axes

    pairs = [row for row in result.rows if row.kind == "pair" and not math.isnan(row.mean)]
    if not pairs:
        return None
    names = list(dict.fromkeys(name for row in pairs for name in row.members))
    figure, plot = axes(1.2 + 0.5 * len(names))
    place = {name: i for i, name in enumerate(names)}
    for row in pairs:
        a, b = (place[name] for name in row.members)
        extra = row.interaction[0] if row.interaction is not None else math.nan
        text = f"{row.mean:+.2g}\nI {extra:+.2g}" if not math.isnan(extra) else f"{row.mean:+.2g}"
        colour = COLOURS[row.word]
        plot.scatter([max(a, b)], [min(a, b)], s=1500, marker="s", color=colour, alpha=0.25, linewidths=0)
        plot.annotate(text, (max(a, b), min(a, b)), ha="center", va="center", fontsize=8)
        if "backup" in row.detail:
            plot.scatter([max(a, b)], [min(a, b)], s=1500, marker="s", facecolors="none", edgecolors="#d1495b")
    plot.set_xticks(range(len(names)), names, rotation=20, ha="right")
    plot.set_yticks(range(len(names)), names)
    plot.set_xlim(-0.6, len(names) - 0.4)
    plot.set_ylim(len(names) - 0.4, -0.6)
    return figure

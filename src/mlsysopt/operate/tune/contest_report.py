"""The HTML report of a contest: table, curves, verified intervals, failures, rules, how it was measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.report import Report, Span, axes, intervals
from mlsysopt.operate.tune.contest_rows import Entry, Row
from mlsysopt.operate.tune.contest_table import Contest, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

# Okabe and Ito's colours in shades that stay readable on white and on near-black paper.
_COLOURS = ("#808890", "#3b82c4", "#d98200", "#1b9e77", "#d1495b", "#9b6bc0", "#4bb3c9", "#a88b2d")
_MARKS = {"proven": "good", "all proven": "good", "guard broken": "bad", "failed": "bad", "refuted": "bad"}


def write_report(contest: Contest, folder: Path, *, command: str = "") -> Path:
    """Write the report folder and return its `index.html`.

    Args:
        contest: What was found.
        folder: Where to write.
        command: The exact command line, empty when run from Python.
    """
    known = contest.setting
    report = Report(f"Tuners compared on {known['target']}", command=command or _call(contest))
    report.verdict(contest.headline, "good" if contest.exit_code == 0 else "warn")
    report.section("Result")
    header, cells = contest.table()
    marks: dict[int, Any] = {i: _MARKS[row.verdict] for i, row in enumerate(contest.rows) if row.verdict in _MARKS}
    if contest.rows:
        report.table(header, cells, "At equal measurement time; the winners were verified together", marks=marks)
    report.text("\n".join(f"- {note}" for note in contest.notes))
    _figures(report, contest)
    _winners(report, contest)
    _failures(report, contest)
    _protocol(report, contest)
    report.cite(*contest.references)
    return report.write(folder)


def _call(contest: Contest) -> str:
    known = contest.setting
    return (
        f"compare(target, tuners={known['tuners']}, seconds={known['seconds']:g}, seeds={len(known['seeds'])}, "
        f"validity={known['validity']}, seed={known['seeds'][0]}, name={known['study']!r})"
    )


def _figures(report: Report, contest: Contest) -> None:
    metric = contest.setting["metric"]
    if any(len(entry.curve) > 1 for row in contest.rows for entry in row.entries):
        report.section("How they got there")
        seeds = " One thin line a seed." if len(contest.setting["seeds"]) > 1 else ""
        verified = " The diamond at the end is the verified ratio of its winner." if contest.best is not None else ""
        report.figure(
            _curves(contest),
            f"Best ratio that each search has seen, against the seconds in which it has used the target. What a search "
            f"sees is lucky: only verified ratios count.{verified}{seeds}",
            alt=f"best {metric} so far of {', '.join(row.tuner for row in contest.rows)}",
        )
    spans = [_span(row, contest) for row in contest.rows if row.ratio is not None]
    drawable = [span for span in spans if span.low > 0 and math.isfinite(span.high)]
    if drawable:
        report.section("What was verified")
        report.figure(
            intervals(drawable, label=f"{metric} / default"),
            "Verified ratios with their 95 % intervals: of the rounds for one seed, over seeds for several.",
        )


def _span(row: Row, contest: Contest) -> Span:
    ratio, low, high = row.ratio or 1.0, row.low or 0.0, row.high if row.high is not None else math.inf
    gained = (ratio > 1.0) == (contest.setting["better"] == "higher")
    return Span(label(row, contest.factor), ratio, low, high, gained if low > 1.0 or high < 1.0 else None)


def _curves(contest: Contest) -> Figure:
    figure, plot = axes()
    several = len(contest.setting["seeds"]) > 1
    for row in contest.rows:
        tuner = contest.setting["tuners"].index(row.tuner)
        style: Any = "-" if row.validity == contest.setting["validity"][0] else "--"
        colour, named = _COLOURS[tuner % len(_COLOURS)], label(row, contest.factor)
        for entry in row.entries:
            spent, best = [point[0] for point in entry.curve], [point[1] for point in entry.curve]
            plot.step(
                spent, best, where="post", color=colour, linestyle=style, label=named, linewidth=0.9 if several else 1.6
            )
            named = "_"
            if contest.best is not None and spent:
                verified = entry.verified(contest.setting["metric"])[0]
                plot.plot([spent[-1]], [verified], "D", color=colour, markersize=5)
    plot.axhline(1.0, color="#000000", linewidth=0.8, linestyle=(0, (4, 3)))
    plot.set_xlabel("seconds in which the target was occupied")
    plot.set_ylabel(f"{contest.setting['metric']} / default")
    plot.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    plot.grid(True, axis="y", color="#cccccc", linewidth=0.6)
    plot.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


def _winners(report: Report, contest: Contest) -> None:
    entries = [entry for row in contest.rows for entry in row.entries]
    if not entries:
        return
    report.section("The winners")
    metric = contest.setting["metric"]
    report.table(
        ["tuner", "seed", "trial", "seen", "verified", "verdict", "guards", "changed knobs"],
        [
            [
                label(entry, contest.factor), entry.seed, entry.winner.trial if entry.winner else None,
                f"{entry.observed:.2f}x", _verified(entry, metric), entry.verdict, _guards(entry),
                _configuration(entry),
            ]
            for entry in entries
        ],
        "One a tuner and seed: what its search saw, and what was left of it when it was measured again",
        folded=len(entries) > 8,
    )  # fmt: skip


def _verified(entry: Entry, metric: str) -> str | None:
    if entry.winner is None or metric not in entry.winner.ratios:
        return None
    return str(entry.winner.ratios[metric])


def _guards(entry: Entry) -> str | None:
    return "; ".join(check.text() for check in entry.winner.guards) or None if entry.winner is not None else None


def _configuration(entry: Entry) -> str:
    if entry.config is None:
        return "none: the default"
    return ", ".join(f"{knob}={value}" for knob, value in entry.config.items())


def _failures(report: Report, contest: Contest) -> None:
    report.section("What was tried and failed")
    tallies = {i: _states(row.entries) for i, row in enumerate(contest.rows)}
    kinds = sorted({state for tally in tallies.values() for state in tally if state != "valid"})
    report.table(
        ["tuner", "valid", *kinds, "valid share after the starts"],
        [
            [label(row, contest.factor), tallies[i]["valid"], *(tallies[i][kind] for kind in kinds),
             None if row.valid_share is None else f"{row.valid_share:.0%}"]
            for i, row in enumerate(contest.rows)
        ],
        "Trials by what became of them; every second of a failure is charged to its tuner",
    )  # fmt: skip
    rules: dict[str, list[str]] = {}
    origin: dict[str, Mapping[str, Any]] = {}
    for row in contest.rows:
        for entry in row.entries:
            for rule in entry.rules:
                rules.setdefault(rule["text"], []).append(label(row, contest.factor))
                origin[rule["text"]] = rule
    if rules:
        report.table(
            ["rule", "learned from", "firm", "found by"],
            [
                [text, origin[text]["origin"], "yes" if origin[text]["hard"] else "no", ", ".join(dict.fromkeys(who))]
                for text, who in rules.items()
            ],
            "What the failures taught: add a rule to the space to keep it",
        )


def _states(entries: Sequence[Entry]) -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in entries:
        found.update(entry.counts)
    return found


def _protocol(report: Report, contest: Contest) -> None:
    known = contest.setting
    report.section("How it was measured")
    report.facts(
        {
            "target": ", ".join([known["about"] or known["target"], *_flat(known["fingerprint"])]),
            "metric": f"{known['metric']}, {known['better']} is better; {known['clock']} clock",
            "time for each": f"{format_seconds(known['seconds'])} in which the target is occupied: copy, start, "
            "warm-up, load, stop, failures and probes; the sampler's own time is a column",
            "turns": "the tuner with the least time spent goes next; a drift of the machine hits all alike",
            "times spent": f"differ by {format_seconds(round(known['spent_differ_s'], 6))}; the longest trial took "
            f"{format_seconds(known['longest_trial_s'])}: {'equal' if known['equal'] else 'NOT equal'}",
            "shared by all": "runs of the default, charged to each, and five starting points (Sobol) per seed",
            "seeds": ", ".join(map(str, known["seeds"])),
            "validity": ", ".join(known["validity"]),
            "guards": "; ".join(known["guards"]) or "none",
            "knobs": ", ".join(known["knobs"]),
            "constraints": "; ".join(known["constraints"]) or "none",
            "verification": f"default and every winner in the same interleaved rounds, looks at "
            f"{', '.join(map(str, known['looks']))}; signed-rank intervals, corrected by Holm",
            "gap to random": "one seed: round by round, so that the default cancels; several: seed by seed (Student)",
            "store": f"{known['store']}, studies {known['study']}/..." if known["store"] else "nothing was kept",
            "measured on": known["machine"],
        }
    )
    report.log(_call(contest), "The same from Python", folded=True)


def _flat(fingerprint: Mapping[str, Any]) -> list[str]:
    return [f"{key} {value}" for key, value in fingerprint.items()]

"""The report of a study: verdict, what to change, what it costs elsewhere, how it was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.report import Point, Report, Span, axes, history, intervals
from mlsysopt.core.space.shown import shown
from mlsysopt.core.store import MeasurementRow
from mlsysopt.core.study.explanation import explain
from mlsysopt.core.study.result import Candidate, Result
from mlsysopt.core.study.trials import TrialView
from mlsysopt.core.target import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mlsysopt.core.study.study import Study

__all__ = ["write_report"]


def write_report(
    result: Result,
    study: Study,
    trials: Sequence[TrialView],
    rows: Sequence[MeasurementRow],
    folder: Path,
    *,
    command: str,
) -> Path:
    """Write the report folder and return its `index.html`.

    Args:
        result: What was verified.
        study: For its target, space and sampler.
        trials: All trials.
        rows: All raw measurements.
        folder: Where to write.
        command: The exact command line, empty when run from Python.
    """
    from mlsysopt.core.search import registry

    metrics = study.target.metrics()
    objective = result.objectives[0]
    report = Report(f"Tuning {study.target.name}", command=command or "run from Python")
    report.verdict(_verdict_line(result, metrics[objective]), "good" if result.status == "proven" else "warn")
    _answer(report, result, study, metrics)
    _cost_elsewhere(report, result, metrics)
    _why(report, result, study, trials)
    _search(report, trials, metrics, objective)
    _failures(report, result, trials, rows)
    _protocol(report, result, study, rows)
    report.cite(*study.target.references, *registry.references(str(result.setting["sampler"])))
    return report.write(folder)


def _verdict_line(result: Result, metric: Metric) -> str:
    objective = result.objectives[0]
    if result.winner is not None:
        return f"{objective}: {result.winner.ratios[objective]}"
    return f"Keep the default. {result.status}: {result.reason}"


def _answer(report: Report, result: Result, study: Study, metrics: Mapping[str, Metric]) -> None:
    report.section("What to change")
    candidate = result.winner or (result.candidates[0] if result.candidates else None)
    if candidate is None:
        report.text("Nothing: no trial was better than the default within its guards.")
        return
    if result.winner is None:
        report.text("Nothing. The candidate below was verified and is *not* recommended.")
    default = study.space.default()
    rows = []
    for parameter in study.space:
        before, asked = default[parameter.name], candidate.config.get(parameter.name, default[parameter.name])
        used = candidate.effective.get(parameter.name, asked)
        if used != before or asked != before:
            rows.append(
                [
                    parameter.name,
                    shown(parameter, before),
                    shown(parameter, asked),
                    shown(parameter, used),
                    parameter.about,
                ]
            )
    report.table(
        ["knob", "default", "asked for", "in effect", "what it is"],
        rows,
        f"Trial {candidate.trial} against the default",
    )
    objective = result.objectives[0]
    if objective not in candidate.ratios:
        return
    way = "rises" if metrics[objective].better == "higher" else "falls"
    report.figure(
        _paired(candidate, objective),
        "Every verification round: the default and the candidate on fresh data with the same seed. "
        f"A line that {way} is a gain.",
        alt=f"{candidate.ratios[objective].rounds} paired rounds",
    )


def _paired(candidate: Candidate, objective: str) -> Figure:
    ratio = candidate.ratios[objective]
    figure, plot = axes(2.8)
    for number, value in enumerate(ratio.per_round, start=1):
        plot.plot([0, 1], [1.0, value], "-o", color="#3b82c4", alpha=0.75, markersize=5)
        plot.annotate(f" {number}", (1, value), fontsize=8, va="center", color="#808890")
    plot.axhline(1.0, color="#000000", linewidth=0.8, linestyle=(0, (4, 3)))
    plot.set_xticks([0, 1], ["default", f"trial {candidate.trial}"])
    plot.set_xlim(-0.25, 1.25)
    plot.set_ylabel(f"{objective} / default")
    return figure


def _cost_elsewhere(report: Report, result: Result, metrics: Mapping[str, Metric]) -> None:
    report.section("What it costs elsewhere")
    candidate = result.winner or (result.candidates[0] if result.candidates else None)
    if candidate is None or not candidate.ratios:
        report.text("Nothing was verified.")
        return
    if candidate.guards:
        report.table(
            ["guard", "verified", "interval", "verdict"],
            [
                [g.guard, g.value, f"{g.low:.3g} to {g.high:.3g}", "kept" if g.kept else "broken"]
                for g in candidate.guards
            ],
            "Guards, checked on the verified rounds",
            marks={i: "good" if g.kept else "bad" for i, g in enumerate(candidate.guards)},
        )
    spans = [_span(name, ratio, metrics[name]) for name, ratio in candidate.ratios.items() if _drawable(ratio)]
    spans.sort(key=lambda span: (span.good is not True, span.good is None, span.label))
    if spans:
        report.figure(
            intervals(spans, label="candidate / default"),
            "Every metric, verified: green is better, red is worse, grey is not separable from 1.",
        )
    report.table(
        ["metric", "unit", "default", "candidate", "ratio", "interval", "better"],
        [
            [name, metrics[name].unit, ratio.baseline_value, ratio.candidate_value, f"{ratio.value:.2f}x",
             f"{ratio.low:.2f} to {ratio.high:.2f}", metrics[name].better]
            for name, ratio in candidate.ratios.items()
        ],
        "Medians over the verified rounds",
        folded=True,
    )  # fmt: skip


def _span(name: str, ratio: Any, metric: Metric) -> Span:
    decided = ratio.low > 1 or ratio.high < 1
    gained = (ratio.value > 1) == (metric.better == "higher")
    return Span(name, ratio.value, ratio.low, ratio.high, gained if decided else None)


def _drawable(ratio: Any) -> bool:
    return all(math.isfinite(edge) and edge > 0 for edge in (ratio.low, ratio.value, ratio.high))


def _why(report: Report, result: Result, study: Study, trials: Sequence[TrialView]) -> None:
    report.section("Why")
    explanation = explain(result, trials, study.space, study.target.metrics(), seed=study.seed)
    if explanation.moved:
        report.table(
            ["metric", "ratio", "decided", "changed knobs it depends on (share of importance)"],
            [
                [row.metric, f"{row.ratio:.2f}x", "yes" if row.decided else "no",
                 ", ".join(f"{knob} ({weight:.0%})" for knob, weight in row.shares()) or "-"]
                for row in explanation.moved
            ],
        )  # fmt: skip
    for note in explanation.notes:
        report.text(note)


def _search(report: Report, trials: Sequence[TrialView], metrics: Mapping[str, Metric], objective: str) -> None:
    report.section("How it was found")
    sign = 1.0 if metrics[objective].better == "higher" else -1.0
    done = [trial for trial in trials if trial.state not in ("running", "lost")]
    points = [Point(t.number, math.exp(sign * t.gains[0]) if t.valid else None, t.state) for t in done]
    report.figure(
        history(points, label=f"{objective} / default", better=metrics[objective].better),
        "Each trial against the default beside it. The best of them is lucky: only the verified ratio counts.",
    )
    _strong_baseline(report, done, objective, sign)
    report.interactive(
        _explorer(done, objective, sign), "Every trial: pass the pointer over a point for its configuration."
    )
    report.table(
        ["trial", "state", objective, "rounds", "guards broken", "configuration"],
        [
            [
                trial.number,
                trial.state,
                f"{math.exp(sign * trial.gains[0]):.2f}x" if trial.valid else None,
                trial.rounds or None,
                ", ".join(name for name, excess in trial.constraints.items() if excess > 0) or None,
                ", ".join(f"{knob}={value}" for knob, value in trial.config.items()),
            ]
            for trial in done
        ],
        f"All {len(done)} trials",
        folded=True,
    )


def _strong_baseline(report: Report, trials: Sequence[TrialView], objective: str, sign: float) -> None:
    """Say what the plain quasi-random starts reached, beside what the sampler reached after them."""
    starts = [trial for trial in trials if 1 <= trial.number <= 5 and trial.feasible]
    later = [trial for trial in trials if trial.number > 5 and trial.feasible]
    if not starts or not later:
        return
    best_start = max(math.exp(trial.gains[0]) for trial in starts)
    best_later = max(math.exp(trial.gains[0]) for trial in later)
    word = "more than" if best_later > best_start else "no more than"
    report.text(
        f"The five quasi-random starts alone reached a gain of {best_start:.2f}x within the guards; the sampler "
        f"reached {best_later:.2f}x after them, {word} the starts (both unverified, single study)."
    )


def _explorer(trials: Sequence[TrialView], objective: str, sign: float) -> Any:
    import plotly.graph_objects as go

    groups = {
        "within guards": [t for t in trials if t.feasible],
        "breaks a guard": [t for t in trials if t.valid and not t.feasible],
    }
    figure = go.Figure()
    for (name, members), symbol in zip(groups.items(), ("circle", "x"), strict=True):
        figure.add_scatter(
            x=[t.number for t in members],
            y=[math.exp(sign * t.gains[0]) for t in members],
            mode="markers",
            name=name,
            marker={"size": 9, "symbol": symbol},
            text=["<br>".join(f"{knob} = {value}" for knob, value in t.config.items()) for t in members],
            hovertemplate="trial %{x}: %{y:.2f}x<br>%{text}<extra></extra>",
        )
    figure.add_hline(y=1.0, line_dash="dash", line_width=1)
    figure.update_layout(xaxis_title="trial", yaxis_title=f"{objective} / default", height=380)
    return figure


def _failures(report: Report, result: Result, trials: Sequence[TrialView], rows: Sequence[MeasurementRow]) -> None:
    report.section("What was tried and failed")
    failed = [trial for trial in trials if trial.state not in ("valid", "running")]
    if not failed:
        report.text("Nothing failed.")
        return
    kinds: dict[str, list[TrialView]] = {}
    for trial in failed:
        kinds.setdefault(trial.state, []).append(trial)
    report.table(
        ["kind", "trials", "for example"],
        [[kind, len(members), f"trial {members[0].number}: {members[0].reason}"] for kind, members in kinds.items()],
    )
    if result.rules:
        report.table(
            ["rule", "learned from", "firm"],
            [[rule["text"], rule["origin"], "yes" if rule["hard"] else "no"] for rule in result.rules],
            "What the failures taught: add a rule to the space to keep it, or leave it to be learned again",
        )
    tails = {row.trial: row.log_tail for row in rows if row.failure_kind and row.log_tail and row.role != "probe"}
    for trial in failed[:3]:
        if trial.number in tails:
            report.log(tails[trial.number], f"Log of trial {trial.number}")


def _protocol(report: Report, result: Result, study: Study, rows: Sequence[MeasurementRow]) -> None:
    report.section("How it was measured")
    setting = result.setting
    verified = [row for row in rows if row.role == "verify"]
    facts: dict[str, object] = {
        "target": ", ".join(f"{key} {_flat(value)}" for key, value in setting["fingerprint"].items()),
        "objective": " and ".join(result.objectives),
        "clock told to the sampler": setting["clock"],
        "sampler": setting["sampler"],
        "seed": setting["seed"],
        "guards": "; ".join(setting["guards"]) or "none",
        "constraints": "; ".join(expression.text for expression in study.space.constraints) or "none",
        "trials": ", ".join(f"{count} {state}" for state, count in result.counts.items()),
        "runs in all": f"{len(rows)}, {format_seconds(sum(row.wall_s for row in rows))}",
        "verification": f"{len(verified)} runs, interleaved, fresh data and seeds; signed-rank interval with looks",
        "pressure while verifying": _pressure(verified),
    }
    for key in ("file_system", "warning"):
        seen = sorted(
            {str(row.conditions.get("extra", {}).get(key)) for row in rows if row.conditions.get("extra", {}).get(key)}
        )
        if seen:
            facts[key.replace("_", " ")] = ", ".join(seen)
    report.facts(facts)


def _pressure(rows: Sequence[MeasurementRow]) -> str:
    seen = [row.conditions.get("pressure_avg10") for row in rows]
    known = [value for value in seen if value is not None]
    if not known:
        return "not known on this machine"
    return f"some avg10 {min(known):.1f} to {max(known):.1f} %"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

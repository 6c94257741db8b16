"""An estimate for people: a paragraph, and a report with one picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlsysopt.core.quantities import format_bytes, format_seconds
from mlsysopt.core.references import Reference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mlsysopt.core.report import Report
    from mlsysopt.core.report.report import Status
    from mlsysopt.train.estimate.answer import Estimate
    from mlsysopt.train.estimate.forecast import Forecast

__all__ = ["REFERENCES", "details", "explanation", "report", "text", "what_if"]

REFERENCES = (
    Reference(
        "paun2021",
        "inproceedings",
        "Are we there yet? Estimating Training Time for Recommendation Systems",
        "I. Paun and Y. Moshfeghi and N. Ntarmos",
        2021,
        {"booktitle": "EuroMLSys", "pages": "39--47", "doi": "10.1145/3437984.3458832"},
    ),
    Reference(
        "paun2023",
        "article",
        "White Box: On the Prediction of Collaborative Filtering Recommendation Systems' Performance",
        "I. Paun and Y. Moshfeghi and N. Ntarmos",
        2023,
        {"journal": "ACM Transactions on Internet Technology", "volume": "23", "number": "1"},
    ),
)
_STATUS: dict[str, Status] = {"fits": "good", "just train": "good", "does not fit": "bad", "undecided": "warn"}
_FACTORS = (0.5, 1, 2, 4)


def text(estimate: Estimate) -> str:
    """Return the answer in a few lines."""
    settings = ", ".join(f"{name}={value}" for name, value in estimate.params.items())
    head = f"{estimate.trainer}({settings})"
    lines: list[str] = []
    if estimate.forecast is None:
        lines.append(f"{head}: just train: about {format_seconds(estimate.about_s)}; peak {_bytes(estimate)}")
    else:
        low, high = format_seconds(estimate.low), _upto(estimate.high)
        largest = max(one.rows_share for one in estimate.samples)
        lines.append(
            f"{head}: {format_seconds(estimate.seconds)} CPU [{low}, {high}] 90 %, "
            f"about {format_seconds(estimate.wall_s)} elapsed; peak {_bytes(estimate)}"
        )
        reused = f" ({estimate.from_store} from the store)" if estimate.from_store else ""
        lines.append(
            f"  spent {format_seconds(estimate.spent_s)} CPU, loading {format_seconds(estimate.load_s)} on top, "
            f"{len(estimate.samples)} samples{reused}, largest {100 * largest:.2g} % of the rows"
        )
        lines += [f"  {note}" for note in estimate.forecast.notes()]
        lines += [f"  {rival.name}: {format_seconds(rival.seconds)}" for rival in estimate.forecast.rivals[1:]]
    lines += [f"  a sample failed: {one.kind}: {one.reason}" for one in estimate.failures]
    lines.append(f"  {estimate.verdict}: {'; '.join(estimate.reasons)}")
    return "\n".join(lines)


def details(estimate: Estimate) -> dict[str, Any]:
    """Return everything that `explain` shows, as JSON values."""
    found = estimate.about()
    if estimate.forecast is not None:
        found["forecast"] = estimate.forecast.explain()
        found["what_if"] = what_if(estimate.forecast)
    return found


def explanation(estimate: Estimate) -> str:
    """Return everything that `explain` shows, as text."""
    lines = [text(estimate)]
    forecast = estimate.forecast
    lines += ["", "memory at its peak:"]
    lines += [f"  {format_bytes(size):>10}  {what}" for what, size in _memory(estimate)]
    if forecast is None:
        return "\n".join(lines)
    lines += ["", f"seconds = {forecast.formula()}", "", "share of each term:"]
    lines += [f"  {share:6.1%}  {term}" for term, share in forecast.shares().items()]
    lines += ["", f"intervals: {forecast.calibration}; exchangeable are finished cases, not the samples of one run"]
    lines += ["", "samples (share of rows, ratings, what varied, CPU s, said by the formula, weight):"]
    for share, number, varied, seconds, told, weight in _sample_rows(forecast):
        lines.append(f"  {share:>6}  {number:>10}  {varied:<34} {seconds:>9}  {told:>9}  {weight}")
    grid = what_if(forecast)
    if grid["rows"]:
        lines += ["", f"what if ({grid['down']} down, {grid['across'] or 'nothing'} across), CPU seconds:"]
        lines.append("  " + " ".join(f"{one!s:>12}" for one in ["", *grid["columns"]]))
        for name, cells in zip(grid["rows"], grid["cells"], strict=True):
            shown = [format_seconds(cell["seconds"]) + ("*" if cell["extrapolated"] else "") for cell in cells]
            lines.append("  " + " ".join(f"{one!s:>12}" for one in [name, *shown]))
        lines.append("  * extrapolated: more than four times beyond what was sampled")
    return "\n".join(lines)


def what_if(forecast: Forecast) -> dict[str, Any]:
    """Return a grid of other hyper-parameters: epochs across, the other one down, each cell with its interval."""
    sampled = [name for name in forecast.params if len({one.params.get(name) for one in forecast.samples}) > 1]
    usual = [name for name in sampled if "epoch" in name or "iter" in name]
    across = usual[0] if usual else (sampled[1] if len(sampled) > 1 else "")
    down = next((name for name in sampled if name != across), "")
    if not down:
        down, across = across, ""
    rows = _values(forecast, down) if down else []
    columns = _values(forecast, across) if across else [None]
    cells: list[list[dict[str, Any]]] = []
    for value in rows:
        line: list[dict[str, Any]] = []
        for other in columns:
            at = forecast.at(**{down: value, **({across: other} if across else {})})
            line.append(
                {
                    "seconds": at.seconds,
                    "low": at.low,
                    "high": at.high if math.isfinite(at.high) else None,
                    "extrapolated": bool(at.extrapolated),
                }
            )
        cells.append(line)
    return {"down": down, "across": across, "rows": rows, "columns": columns if across else [], "cells": cells}


def report(estimate: Estimate, *, command: str = "mlsysopt estimate run", truth_s: float | None = None) -> Report:
    """Return the report of an estimate.

    Args:
        estimate: The answer.
        command: The line that made it.
        truth_s: CPU seconds that the training took in the end, where it has been run.
    """
    from mlsysopt.core.report import Report

    first, *_ = text(estimate).splitlines()
    page = Report(
        f"How long will {estimate.trainer} take",
        command=command,
        verdict=f"{estimate.verdict}: {first}",
        status=_STATUS[estimate.verdict],
        references=REFERENCES,
    )
    page.section("Answer").facts(
        {
            "data": f"{estimate.source or 'ratings'}, {estimate.digest[:12]}",
            "verdict": estimate.verdict,
            "because": "; ".join(estimate.reasons),
            "CPU time": f"{format_seconds(estimate.seconds)} [{format_seconds(estimate.low)}, {_upto(estimate.high)}]",
            "elapsed": f"{format_seconds(estimate.wall_s)} at {estimate.wall_per_cpu:.2f} elapsed per CPU second",
            "load average": round(estimate.load1, 2),
            "asking cost": f"{format_seconds(estimate.spent_s)} CPU, loading {format_seconds(estimate.load_s)}",
        }
    )
    forecast = estimate.forecast
    if forecast is not None:
        page.figure(_picture(estimate, forecast, truth_s), "Time against the share of rows, with its band")
        _on_forecast(page, forecast)
    page.section("Memory at its peak").table(
        ["what", "bytes", ""], [[what, int(size), format_bytes(size)] for what, size in _memory(estimate)]
    )
    page.text(f"May be used: {estimate.room.text()}.")
    if estimate.failures:
        page.section("Failed samples")
        for one in estimate.failures:
            page.log(one.log_tail or "no output", f"{one.kind}: {one.reason}")
    return page


def _on_forecast(page: Report, forecast: Forecast) -> None:
    page.section("Formula").text(f"`seconds = {forecast.formula()}`")
    shares = forecast.shares()
    page.table(
        ["term", "CPU s", "share"],
        [[term, part, f"{shares[term]:.1%}"] for term, part in forecast.contributions().items()],
        "What each term adds",
    )
    for note in forecast.notes():
        page.text(f"- {note}")
    page.text(f"Interval: {forecast.calibration}. Exchangeable are finished cases, not the samples of one run.")
    page.section("The same samples, other predictors").table(
        ["predictor", "CPU s", "of the forecast"],
        [[rival.name, rival.seconds, f"{rival.seconds / forecast.seconds:.2f}x"] for rival in forecast.rivals],
        "None is left out, none is picked afterwards",
    )
    page.section("Samples").table(
        ["rows", "ratings", "what varied", "CPU s", "by the formula", "weight"], _sample_rows(forecast)
    )
    grid = what_if(forecast)
    if grid["rows"]:
        header = [f"{grid['down']} \\ {grid['across']}" if grid["across"] else grid["down"]]
        header += [str(one) for one in grid["columns"]] or ["CPU time"]
        rows = [
            [name, *(f"{format_seconds(cell['seconds'])}{' *' if cell['extrapolated'] else ''}" for cell in cells)]
            for name, cells in zip(grid["rows"], grid["cells"], strict=True)
        ]
        page.section("What if").table(header, rows, "CPU time without a new sample; * is extrapolated")


def _picture(estimate: Estimate, forecast: Forecast, truth_s: float | None) -> Figure:
    from mlsysopt.core.report.plots import BLUE, GREEN, GREY, ORANGE, axes
    from mlsysopt.train.estimate.terms import Terms

    figure, plot = axes(3.8)
    terms = Terms(forecast.terms)

    def told(sizes: Any, params: Any) -> float:
        return max(float(terms.columns(sizes, params) @ list(forecast.coefficients)), 1e-9)

    # Each sample as it would have been with the hyper-parameters in question.
    shares = [one.rows_share for one in forecast.samples]
    scaled = [
        one.cpu_s * told(one.characteristics, forecast.params) / told(one.characteristics, one.params)
        for one in forecast.samples
    ]
    curve = sorted((one.rows_share, told(one.characteristics, forecast.params)) for one in forecast.samples)
    curve.append((1.0, forecast.seconds))
    xs, ys = [x for x, _ in curve], [y for _, y in curve]
    high = forecast.high if math.isfinite(forecast.high) else forecast.seconds * 10
    reach = math.log(1.0 / min(shares)) or 1.0
    # The band opens with the distance from what was sampled.
    opened = [1.0 - math.log(1.0 / x) / reach for x in xs]
    below = [y * (forecast.low / forecast.seconds) ** part for y, part in zip(ys, opened, strict=True)]
    above = [y * (high / forecast.seconds) ** part for y, part in zip(ys, opened, strict=True)]
    plot.fill_between(xs, below, above, color=BLUE, alpha=0.18, linewidth=0, label="90 % band")
    plot.plot(xs, ys, color=BLUE, linewidth=1.6, label="formula")
    plot.plot(shares, scaled, "o", color=ORANGE, markersize=5, label="samples, scaled to the question")
    plot.errorbar(
        [1.0],
        [forecast.seconds],
        yerr=[[forecast.seconds - forecast.low], [high - forecast.seconds]],
        fmt="D",
        color=BLUE,
        capsize=4,
        label="forecast",
    )
    for rival in forecast.rivals[1:]:
        plot.plot([1.0], [rival.seconds], "_", color=GREY, markersize=12)
    plot.plot([], [], "_", color=GREY, markersize=12, label="other predictors")
    if truth_s is not None:
        plot.plot([1.0], [truth_s], "*", color=GREEN, markersize=13, label="truth")
    if estimate.within_s is not None:
        limit = estimate.within_s / estimate.wall_per_cpu
        plot.axhline(limit, color="#000000", linewidth=0.8, linestyle=(0, (4, 3)), label="limit")
    plot.set_xscale("log")
    plot.set_yscale("log")
    plot.set_xlabel("share of the rows")
    plot.set_ylabel("CPU seconds of the training")
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return figure


def _memory(estimate: Estimate) -> list[tuple[str, float]]:
    peak = estimate.peak
    origin = "measured on samples" if peak.measured else "a guess: nothing was sampled"
    rows = [(f"the process itself ({origin})", peak.process), (f"the loaded data ({origin})", peak.loaded)]
    rows += list(peak.arrays.items())
    if peak.other:
        rows.append(("buffers that no formula names", peak.other))
    return [*rows, ("together", float(peak.bytes))]


def _sample_rows(forecast: Forecast) -> list[list[object]]:
    from mlsysopt.train.estimate.terms import Terms

    terms = Terms(forecast.terms)
    varying = [name for name in forecast.params if len({one.params.get(name) for one in forecast.samples}) > 1]
    rows: list[list[object]] = []
    for one in forecast.samples:
        told = float(terms.columns(one.characteristics, one.params) @ list(forecast.coefficients))
        varied = ", ".join(f"{name}={one.params[name]}" for name in varying) or "-"
        rows.append(
            [
                f"{100 * one.rows_share:.2g} %",
                f"{one.characteristics.R:,}",
                varied,
                f"{one.cpu_s:.4g}",
                f"{told:.4g}",
                f"{one.weight:g}",
            ]
        )
    return rows


def _values(forecast: Forecast, name: str) -> list[Any]:
    value = forecast.params[name]
    whole = isinstance(value, int)
    tried = [max(1, round(value * factor)) if whole else value * factor for factor in _FACTORS]
    return list(dict.fromkeys(tried))


def _bytes(estimate: Estimate) -> str:
    return format_bytes(estimate.peak.bytes)


def _upto(seconds: float) -> str:
    return format_seconds(seconds) if math.isfinite(seconds) else "?"

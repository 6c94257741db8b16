"""The HTML report: table, forest plot, pairs, costs, refusals, failures, how it was made."""

from __future__ import annotations

import math
from pathlib import Path

from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.references import Reference
from mlsysopt.core.report import Report
from mlsysopt.core.report.report import Status
from mlsysopt.design.ablate import table
from mlsysopt.design.ablate.result import Result

__all__ = ["REFERENCES", "write_report"]

REFERENCES = (
    Reference(
        "sheikholeslami2021", "inproceedings",
        "{AutoAblation}: Automated Parallel Ablation Studies for Deep Learning",
        "S. Sheikholeslami and M. Meister and T. Wang and A. H. Payberah and V. Vlassov and J. Dowling", 2021,
        {"booktitle": "EuroMLSys", "doi": "10.1145/3437984.3458834"},
    ),
    Reference(
        "smyth2004", "article",
        "Linear Models and Empirical {Bayes} Methods for Assessing Differential Expression in Microarray Experiments",
        "G. K. Smyth", 2004, {"journal": "Statistical Applications in Genetics and Molecular Biology"},
    ),
    Reference(
        "holm1979", "article", "A Simple Sequentially Rejective Multiple Test Procedure", "S. Holm", 1979,
        {"journal": "Scandinavian Journal of Statistics"},
    ),
    Reference(
        "schuirmann1987", "article",
        "A Comparison of the Two One-Sided Tests Procedure and the Power Approach", "D. J. Schuirmann", 1987,
        {"journal": "Journal of Pharmacokinetics and Biopharmaceutics"},
    ),
)  # fmt: skip
_MARKS: dict[str, Status] = {"needed": "bad", "harmful": "warn", "negligible": "good"}


def write_report(result: Result, folder: Path, *, command: str = "") -> Path:
    """Write the report folder and return its `index.html`.

    Args:
        result: Of a run.
        folder: Where to write.
        command: The exact command line, empty when run from Python.
    """
    report = Report("Which parts are needed", command=command or "run from Python")
    report.verdict(_verdict(result), "good" if result.exit_code == 0 else "warn")
    report.section("Verdicts")
    report.text(table.header(result).replace("\n", ". ") + ".")
    report.table(
        ["component", "verdict", "difference", "from", "to", "seeds", "p (Holm)"],
        [
            [row.name, row.text, _finite(row.mean), _finite(row.low), _finite(row.high), row.pairs,
             round(row.p_value, 4) if row.seeds else None]
            for row in result.rows
        ],
        "One row per question; intervals hold over all looks at once",
        marks={i: _MARKS[row.word] for i, row in enumerate(result.rows) if row.word in _MARKS},
    )  # fmt: skip
    if any(not math.isnan(row.mean) for row in result.rows):
        report.figure(
            table.forest(result),
            "Mean difference with its repeated confidence interval; each tick is one seed, the green band the margin.",
        )
    report.text("\n".join(f"- {line}" for line in table.summary(result).splitlines()))
    _pairs(report, result)
    _costs(report, result)
    _not_run(report, result)
    _protocol(report, result)
    report.cite(*REFERENCES)
    return report.write(folder)


def _verdict(result: Result) -> str:
    counts = {word: sum(row.word == word for row in result.rows) for word in table.COLOURS}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "no rows"
    return f"{len(result.rows)} questions: {said}. {result.trainings} trainings, {format_seconds(result.cpu_s)} CPU."


def _pairs(report: Report, result: Result) -> None:
    figure = table.pair_matrix(result)
    if figure is None:
        return
    report.section("Pairs")
    report.figure(
        figure,
        "What both together lose; I is what goes beyond the sum of the singles. A framed pair backs each other up.",
    )
    report.table(
        ["pair", "verdict", "both", "interaction", "from", "to"],
        [
            [row.name, row.text, _finite(row.mean), *(row.interaction or (None, None, None))]
            for row in result.rows if row.kind == "pair"
        ],
    )  # fmt: skip


def _costs(report: Report, result: Result) -> None:
    report.section("Costs")
    report.table(
        ["component", "parameters", "MACs", "training CPU", "peak memory", "inference"],
        [
            [row.name, _percent(row.parameters), _percent(row.macs),
             None if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}x", table.memory(row), row.inference or None]
            for row in result.rows
        ],
        "Without the component, against the base",
    )  # fmt: skip
    adapters = [[row.name, text] for row in result.rows for text in (*row.adapters, *row.warnings)]
    if adapters:
        report.table(["component", "what stands in, and what to know"], adapters)


def _not_run(report: Report, result: Result) -> None:
    report.section("Refused and failed")
    if result.refusals:
        report.table(["component", "why it cannot be taken away"], [list(one) for one in result.refusals])
    if result.failures:
        report.table(
            ["row", "seed", "kind", "reason"], [list(one) for one in result.failures],
            "Trainings that gave no number: counted, not averaged", folded=len(result.failures) > 12,
        )  # fmt: skip
    if not result.refusals and not result.failures:
        report.text("Nothing was refused, and every training gave a number.")
    for warning in result.warnings:
        report.text(f"**Warning.** {warning}")


def _protocol(report: Report, result: Result) -> None:
    report.section("How it was decided")
    looks = ", ".join(map(str, result.setting.get("looks", [])))
    report.facts(
        {
            "metric": f"{result.metric} ({result.better} is better), in steps of {result.step:.3g}",
            "margin": result.margin,
            "looks at seeds": looks,
            "family": f"{result.setting.get('family')} questions share an error rate of 5 %",
            "seeds": f"from {result.setting.get('first_seed')}, the same for every row (paired)",
            "half trainings lost": result.lost,
        }
    )
    report.table(
        ["component", "error, paired", "error, unpaired", "Wilcoxon p", "differences by seed"],
        [
            [row.name, _finite(row.error_paired), _finite(row.error_unpaired), row.wilcoxon,
             " ".join("-" if d is None else f"{d:+.3g}" for d in row.deltas)]
            for row in result.rows
        ],
        "Raw differences", folded=True,
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:+.0%}"

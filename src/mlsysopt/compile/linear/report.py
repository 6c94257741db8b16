"""The page of a plan: verdict, gain over rows, the tables, what was left out, precision, how to do it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlsysopt.compile.linear.plan import rows_text, segment_cells
from mlsysopt.core.references import Reference
from mlsysopt.core.report import Report
from mlsysopt.core.report.plots import axes

if TYPE_CHECKING:
    from mlsysopt.compile.linear.plan import Plan, Product

__all__ = ["REFERENCE", "page"]

REFERENCE = Reference(
    "dice2021almo",
    "inproceedings",
    "Optimizing Inference Performance of Transformers on CPUs",
    "D. Dice and A. Kogan",
    2021,
    {"booktitle": "EuroMLSys", "note": "arXiv:2102.06621"},
)

_HEADER = ["K x N", "products", "rows", "variant", "time", "gain", "interval", "next best", "source"]
_LAST_ROWS = 512


def page(plan: Plan, command: str) -> Report:
    """Make the page of a plan.

    Args:
        plan: What was decided.
        command: That made it.
    """
    made = Report(
        f"Matrix products of {plan.name}",
        command=command,
        verdict=plan.verdict(),
        status="good" if plan.changed else "plain",
        references=(REFERENCE,),
    )
    if any(segment.source for one in plan.products for segment in one.decision.segments):
        made.section("Gain")
        made.figure(
            _gains(plan),
            "Gain over the plain product by number of rows; the pale band is its interval, 1x means left as it was",
            alt="gain of each kind of product over its number of rows",
        )
    if plan.products:
        made.section("Decisions")
        rows: list[list[object]] = []
        for one in plan.products:
            for i, segment in enumerate(one.decision.segments):
                named = [f"{one.k} x {one.n}", f"{one.count} {one.label}".strip()] if i == 0 else ["", ""]
                rows.append([*named, rows_text(one.decision, i), *segment_cells(segment)])
        made.table(_HEADER, rows, f"{plan.threads} thread(s), {plan.residency} weights")
    if plan.uncovered:
        made.section("Not reached")
        made.table(
            ["where", "share of flops", "why"],
            [[u.label, None if u.share is None else f"{100 * u.share:.1f} %", u.reason] for u in plan.uncovered],
        )
    if plan.weights_bytes:
        made.section("Memory and precision")
        made.facts(
            {
                "weights, MiB": round(plan.weights_bytes / 2**20, 1),
                "further copies, MiB": round(plan.extra_bytes / 2**20, 1),
                "allowed, MiB": round(plan.budget_bytes / 2**20, 1),
                "precision": plan.precision.text(),
            }
        )
    if plan.precision.tried:
        made.table(
            ["setting", "lowered modules", "largest error", "p99", "median", "batches", "within the limit"],
            [
                [
                    r.name,
                    r.lowered,
                    r.errors.largest,
                    r.errors.p99,
                    r.errors.median,
                    "kept back" if r.unseen else "seen",
                    "yes" if r.passed else "no",
                ]
                for r in plan.precision.tried
            ],
            f"errors over the root mean square of the output; limit {plan.precision.limit:g}",
        )
    if plan.lines:
        made.section("Notes")
        made.text("\n".join(f"- {line}" for line in plan.lines))
    return made


def _gains(plan: Plan) -> Any:
    figure, axis = axes(3.0)
    for one in plan.products:
        xs, gain, low, high = _steps(one)
        (line,) = axis.plot(xs, gain, linewidth=1.6, label=f"{one.k} x {one.n}")
        axis.fill_between(xs, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axis.axhline(1.0, color="0.6", linewidth=0.8)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("rows")
    axis.set_ylabel("gain")
    axis.legend(frameon=False, fontsize=9)
    return figure


def _steps(one: Product) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return the ends of the segments with gain, low and high at each, so that lines become steps."""
    segments = one.decision.segments
    ends = [*(s.first for s in segments[1:]), max(_LAST_ROWS, 2 * segments[-1].first)]
    xs: list[float] = []
    ys: tuple[list[float], list[float], list[float]] = ([], [], [])
    for segment, end in zip(segments, ends, strict=True):
        xs += [segment.first, end]
        for values, value in zip(ys, (segment.gain, segment.low, segment.high), strict=True):
            values += [value, value]
    return xs, *ys

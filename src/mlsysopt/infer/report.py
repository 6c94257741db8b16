"""The page of a fit: verdict, summary, traces and ranks of what is worst, the updates, how to do it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.report import Report
from mlsysopt.core.report.plots import axes
from mlsysopt.infer.references import references

if TYPE_CHECKING:
    from mlsysopt.infer.fit import Fit

__all__ = ["report"]

MOST_ROWS = 12
PICTURED = 4


def report(fit: Fit, command: str) -> Report:
    """Make the page of a fit.

    Args:
        fit: With at least one chain.
        command: That made it.
    """
    status = "good" if fit.ok else "warn"
    page = Report(
        f"Fit of {fit.compiled.model.source.name}",
        command=command,
        verdict=fit.verdict().splitlines()[0],
        status=status,
    )
    page.section("Summary")
    said = fit.diagnosis
    rows = said.shown(MOST_ROWS)
    page.table(
        ["", "mean", "sd", "5 %", "95 %", "R-hat", "ESS bulk", "ESS tail"],
        [[r.name, r.mean, r.sd, r.low, r.high, _or(r.rhat), _or(r.ess_bulk), _or(r.ess_tail)] for r in rows],
        f"{len(rows)} of {len(said.rows)} numbers, of large arrays those that converged worst"
        if len(said.rows) > len(rows)
        else "",
    )
    page.section("Chains")
    for name, values in _pictured(fit):
        page.figure(_trace(values), f"{name}: trace of each chain", alt=f"trace of {name}")
        page.figure(
            _ranks(values),
            f"{name}: ranks of each chain among all draws; level bars are what one wants",
            alt=f"ranks of {name}",
        )
        page.figure(_density(values), f"{name}: posterior of each chain", alt=f"posterior of {name}")
    page.section("Updates")
    page.log(fit.compiled.explain(), "which update each variable got, and why nothing better", folded=False)
    page.section("How")
    settings = {name: value for name, value in fit.settings.items() if value is not None}
    page.facts(
        {
            **settings,
            "method": fit.method,
            "CPU s of sampling": round(fit.cpu_s, 2),
            "fit folder": str(fit.folder or "none"),
        }
    )
    page.log(fit.compiled.model.source.text, "the model")
    return page.cite(*references(fit.rules))


def _or(value: float) -> float | None:
    return value if value == value else None


def _pictured(fit: Fit) -> list[tuple[str, NDArray[Any]]]:
    """Return the log joint and the numbers that converged worst, (chains, draws) each."""
    found: list[tuple[str, NDArray[Any]]] = [("log joint", fit.log_joint)]
    cells: dict[str, NDArray[Any]] = {}
    for name in fit.names:
        array = fit[name]
        flat = array.reshape(*array.shape[:2], -1)
        for i in range(min(flat.shape[2], 200)):
            shape = array.shape[2:]
            index = f"[{', '.join(map(str, np.unravel_index(i, shape)))}]" if shape else ""
            cells[f"{name}{index}"] = flat[:, :, i]
    order = sorted(
        (r for r in fit.diagnosis.rows if r.name in cells and not r.constant and r.rhat == r.rhat),
        key=lambda r: -r.rhat,
    )
    return found + [(r.name, cells[r.name]) for r in order[: PICTURED - 1]]


def _trace(values: NDArray[Any]) -> Any:
    figure, axis = axes(2.4)
    step = max(1, values.shape[1] // 1000)
    for i, one in enumerate(values):
        axis.plot(np.arange(0, len(one), step), one[::step], linewidth=0.6, label=f"chain {i}")
    axis.set_xlabel("draw")
    return figure


def _ranks(values: NDArray[Any], bins: int = 20) -> Any:
    figure, axis = axes(2.4)
    ranks = np.empty(values.size)
    ranks[np.argsort(values, axis=None, kind="stable")] = np.arange(values.size)
    for i, one in enumerate(ranks.reshape(values.shape)):
        counts, edges = np.histogram(one, bins, range=(0, values.size))
        axis.step(edges[:-1], counts, where="post", label=f"chain {i}", linewidth=1.0)
    axis.axhline(values.shape[1] / bins, color="0.6", linewidth=0.8)
    axis.set_xlabel("rank")
    return figure


def _density(values: NDArray[Any], bins: int = 50) -> Any:
    figure, axis = axes(2.4)
    low, high = np.quantile(values, [0.001, 0.999])
    for i, one in enumerate(values):
        counts, edges = np.histogram(one, bins, range=(low, high if high > low else low + 1), density=True)
        axis.step(edges[:-1], counts, where="post", label=f"chain {i}", linewidth=1.0)
    axis.set_xlabel("value")
    return figure

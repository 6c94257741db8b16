"""The two figures that nearly every report needs: ratios with their intervals, and a search over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Point", "Span", "axes", "history", "intervals"]

# Okabe and Ito's colours in the shades that stay readable on white and on near-black paper.
BLUE, ORANGE, GREEN, RED, GREY = "#3b82c4", "#d98200", "#1b9e77", "#d1495b", "#808890"


@dataclass(frozen=True, slots=True)
class Span:
    """One row of `intervals`: a ratio with its interval.

    Attributes:
        good: True and False colour the row, None leaves it grey.
    """

    label: str
    value: float
    low: float
    high: float
    good: bool | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One step of `history`: its number and its ratio, None when it failed."""

    number: int
    ratio: float | None
    state: str = "valid"


def axes(height: float = 3.4, *, width: float = 7.2) -> tuple[Figure, Axes]:
    """Return an empty figure of a report's size, without any global state of matplotlib.

    Args:
        height: Inches.
        width: Inches; the default fills the text column.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtra.of("a figure of a report", "report") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    plot = figure.subplots()
    plot.spines[["top", "right"]].set_visible(False)
    plot.tick_params(labelsize=9)
    return figure, plot


def intervals(rows: Sequence[Span], *, label: str = "ratio to the default", names: str = "") -> Figure:
    """Draw ratios with their intervals, one row each, on a logarithmic axis with 1 marked.

    Args:
        rows: First row on top; 0 < low <= value <= high.
        label: What the axis shows.
        names: What the rows are.

    Raises:
        UsageError: no rows, or an interval that is not positive or not in order.
    """
    if not rows:
        raise UsageError("a figure of intervals needs at least one row")
    for row in rows:
        if not 0 < row.low <= row.value <= row.high:
            raise UsageError(
                f"interval of {row.label!r}: 0 < low <= value <= high, got {row.low}, {row.value}, {row.high}"
            )
    figure, plot = axes(0.9 + 0.34 * len(rows))
    places = range(len(rows) - 1, -1, -1)
    for place, row in zip(places, rows, strict=True):
        colour = GREY if row.good is None else GREEN if row.good else RED
        plot.plot([row.low, row.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        plot.plot([row.value], [place], "o", color=colour, markersize=6)
    plot.axvline(1.0, color="#000000", linewidth=0.8, linestyle=(0, (4, 3)))
    plot.set_yticks(list(places), [row.label for row in rows])
    plot.set_ylim(-0.6, len(rows) - 0.4)
    plot.set_ylabel(names)
    plot.tick_params(axis="y", length=0)
    _ratio_axis(plot.xaxis, [edge for row in rows for edge in (row.low, row.high)])
    plot.set_xlabel(label)
    return figure


def history(points: Sequence[Point], *, label: str = "ratio to the default", better: str = "higher") -> Figure:
    """Draw the ratio of every trial, the best so far, and where trials failed.

    Args:
        points: In the order of the search.
        label: What the axis shows.
        better: `higher` or `lower`.

    Raises:
        UsageError: `better` is neither of the two.
    """
    if better not in ("higher", "lower"):
        raise UsageError(f"better={better!r}: allowed are 'higher' and 'lower'")
    figure, plot = axes()
    from matplotlib.ticker import MaxNLocator

    valid = [(point.number, point.ratio) for point in points if point.ratio is not None and point.ratio > 0]
    pick = max if better == "higher" else min
    best: list[float] = []
    for _, ratio in valid:
        best.append(pick(best[-1], ratio) if best else ratio)
    numbers = [number for number, _ in valid]
    plot.axhline(1.0, color="#000000", linewidth=0.8, linestyle=(0, (4, 3)))
    if valid:
        plot.step(numbers, best, where="post", color=BLUE, linewidth=1.6, label="best so far, unverified")
        plot.plot(numbers, [ratio for _, ratio in valid], "o", color=ORANGE, markersize=5, label="trial")
        _ratio_axis(plot.yaxis, [ratio for _, ratio in valid])
    failed = [point for point in points if point.ratio is None]
    if failed:
        # Failures have no ratio: they stand on the lower edge of the figure, whatever its scale.
        foot = plot.get_xaxis_transform()
        plot.plot(
            [point.number for point in failed],
            [0.02] * len(failed),
            "x",
            color=RED,
            markersize=6,
            transform=foot,
            label="failed",
        )
    plot.set_xlabel("trial")
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.set_ylabel(label)
    if valid or failed:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return figure


def _ratio_text(value: float, place: int | None) -> str:
    return f"{value:g}x"


def _ratio_axis(axis: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(*values, 1.0), max(*values, 1.0)
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 50, 100, 1000)
    fine = (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2)
    chosen = fine if low >= 0.6 and high <= 2.0 else steps
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(FixedLocator([tick for tick in chosen if low / 1.1 <= tick <= high * 1.1]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_ratio_text))
    axis.grid(True, color="#cccccc", linewidth=0.6)
    axis.axes.set_axisbelow(True)

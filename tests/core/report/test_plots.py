"""The two standard figures draw what they were given, also at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.core.report import Point, Span, history, intervals


def test_intervals_keep_order_and_mark_one() -> None:
    rows = [Span("top", 1.5, 1.2, 2.0, True), Span("bottom", 0.5, 0.1, 0.9, False)]
    plot = intervals(rows).axes[0]
    assert [label.get_text() for label in plot.get_yticklabels()] == ["top", "bottom"]
    assert plot.get_yticks()[0] > plot.get_yticks()[1]
    assert plot.get_xscale() == "log"
    assert 1.0 in plot.get_xticks()


@pytest.mark.parametrize("row", [(1.0, 0.0, 2.0), (3.0, 1.0, 2.0), (math.nan, 1.0, 2.0)])
def test_intervals_out_of_order_are_refused(row: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="0 < low <= value <= high"):
        intervals([Span("x", *row)])
    with pytest.raises(UsageError, match="at least one row"):
        intervals([])


@pytest.mark.parametrize(("better", "best"), [("higher", [0.8, 1.4, 1.4]), ("lower", [0.8, 0.8, 0.5])])
def test_history_shows_best_so_far_of_valid_trials(better: str, best: list[float]) -> None:
    plot = history([Point(0, 0.8), Point(1, None), Point(2, 1.4), Point(3, 0.5)], better=better).axes[0]
    line = next(line for line in plot.lines if str(line.get_label()).startswith("best"))
    assert np.asarray(line.get_ydata()).tolist() == best
    failed = next(line for line in plot.lines if line.get_label() == "failed")
    assert np.asarray(failed.get_xdata()).tolist() == [1]


@pytest.mark.parametrize("points", [[], [Point(0, None)], [Point(0, 1.0)], [Point(0, 1e-3), Point(1, 900.0)]])
def test_history_of_little_or_extreme_can_be_drawn(points: list[Point]) -> None:
    figure = history(points)
    figure.draw_without_rendering()


def test_history_refuses_an_unknown_direction() -> None:
    with pytest.raises(UsageError, match="'sideways': allowed are 'higher' and 'lower'"):
        history([], better="sideways")

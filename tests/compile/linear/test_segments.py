"""The dynamic programme against brute force, and what the two per cent rule means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.linear_table import random_costs, same_table
from mlsysopt.compile.linear.segments import Costs, Span, decision, segments
from mlsysopt.core.errors import UsageError


@pytest.mark.parametrize("baseline", ["aten.nt", None])
def test_equals_brute_force(baseline: str | None) -> None:
    rng = np.random.default_rng(11)
    assert all(same_table(random_costs(rng), baseline) for _ in range(150))


def test_spans_follow_one_another_from_the_first_point_to_the_last() -> None:
    rng = np.random.default_rng(12)
    for _ in range(100):
        costs = random_costs(rng)
        spans = segments(costs)
        assert [one.first for one in spans] == [0, *(one.last + 1 for one in spans[:-1])]
        assert spans[-1].last == len(costs.rows) - 1


def test_baseline_stays_until_the_lower_bound_reaches_two_per_cent() -> None:
    def table(high: float) -> list[Span]:
        return segments(Costs((1,), (1.0,), {"aten.nt": [1.0], "b": [0.9]}, high={"b": [high]}))

    assert table(1 / 1.01) == [Span(0, 0, "aten.nt")]
    assert table(1 / 1.03) == [Span(0, 0, "b")]


def test_a_variant_without_an_interval_never_replaces_the_baseline() -> None:
    costs = Costs((1,), (1.0,), {"aten.nt": [1.0], "b": [0.1]}, low={"b": [0.0]}, high={"b": [math.inf]})
    assert segments(costs) == [Span(0, 0, "aten.nt")]


def test_no_point_loses_more_than_two_per_cent() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        costs = random_costs(rng)
        for span in segments(costs, baseline=None):
            for k in range(span.first, span.last + 1):
                fastest = min(times[k] for times in costs.seconds.values())
                assert costs.seconds[span.variant][k] <= 1.02 * fastest * (1 + 1e-12)


def test_a_new_block_of_rows_begins_after_128() -> None:
    costs = Costs((128, 192), (0.5, 0.5), {"panel.f32": [16.0, 24.0]}, blocks={"panel.f32": 8})
    assert [costs.at("panel.f32", rows) for rows in (64, 128, 129, 136, 137, 384)] == [
        16.0,
        16.0,
        17.0,
        17.0,
        18.0,
        48.0,
    ]
    half = Costs((1, 2), (0.5, 0.5), {"b": [1.0, math.inf]})
    assert (half.at("b", 1), half.at("b", 2)) == (1.0, math.inf)


def test_thresholds_lie_where_the_next_variant_overtakes() -> None:
    # Between 8 and 16 rows `wide` stays level while the baseline grows: they meet at 12.
    costs = Costs(
        (8, 16),
        (0.5, 0.5),
        {"aten.nt": [8.0, 16.0], "wide": [12.0, 12.1]},
        blocks={"aten.nt": 1, "wide": 64},
    )
    found = decision(costs)
    assert found.variants == ("aten.nt", "wide")
    assert found.thresholds == (13,)


def test_segments_say_gain_interval_source_and_runner_up() -> None:
    costs = Costs(
        (1, 8),
        (0.5, 0.5),
        {"aten.nt": [2.0, 4.0], "panel.f32": [1.0, 2.0], "mkl.packed": [1.5, 3.0]},
        low={"panel.f32": [0.9, 1.8]},
        high={"panel.f32": [1.1, 2.2]},
        sources={"panel.f32": ["measured", "model"]},
    )
    (only,) = decision(costs).segments
    assert (only.variant, only.runner_up, only.source) == ("panel.f32", "mkl.packed", "model")
    assert only.gain == pytest.approx(2.0)
    assert (only.low, only.high) == (pytest.approx(2 / 1.1), pytest.approx(2 / 0.9))


def test_ten_thousand_row_counts_leave_the_table_as_it_is() -> None:
    costs = Costs((1, 8, 64), (0.3, 0.4, 0.3), {"aten.nt": [1.0, 2.0, 9.0], "panel.f32": [1.2, 1.0, 9.5]})
    found = decision(costs)
    before = found.segments
    assert {found.at(rows) for rows in range(10_000)} == {"aten.nt", "panel.f32"}
    assert found.segments == before
    assert len(before) == 3


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one grid point"):
        segments(Costs((), (), {"aten.nt": []}))
    with pytest.raises(UsageError, match="2 values for 1 grid points"):
        Costs((1,), (1.0,), {"aten.nt": [1.0, 2.0]})
    with pytest.raises(UsageError, match="no variant does 1 rows; offered were b"):
        segments(Costs((1,), (1.0,), {"b": [math.inf]}), baseline=None)
    with pytest.raises(UsageError, match=r"baseline 'aten\.nt' is not among the variants: b"):
        segments(Costs((1,), (1.0,), {"b": [1.0]}))

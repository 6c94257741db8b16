"""Grids of rows: which points, and how much each counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.compile.linear.grid import MOST_ROWS, grid, parse_rows
from mlsysopt.core.errors import UsageError


def test_default_grid_is_the_documented_one() -> None:
    expected = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    assert grid().rows == expected
    assert MOST_ROWS == 512


@given(st.integers(1, 5000), st.lists(st.integers(1, 5000), max_size=4))
def test_grids_rise_from_one_to_the_largest_and_weigh_one(most: int, likely: list[int]) -> None:
    found = grid(most, likely)
    assert found.rows[0] == 1
    assert found.rows[-1] == max(most, *likely, 1)
    assert list(found.rows) == sorted(set(found.rows))
    assert set(likely) <= set(found.rows)
    assert math.isclose(sum(found.weights), 1.0)
    assert all(weight >= 0 for weight in found.weights)
    # A doubling has at most three steps in it unless rows were named.
    assert all(likely or b <= 2 * a for a, b in zip(found.rows, found.rows[1:], strict=False))


def test_likely_rows_carry_most_of_the_weight() -> None:
    found = grid(512, [8, 100])
    weight = dict(zip(found.rows, found.weights, strict=True))
    assert weight[8] + weight[100] > 0.75
    assert weight[8] > 3 * weight[16]


def test_log_uniform_weights_are_the_same_for_every_doubling() -> None:
    found = grid()
    weight = dict(zip(found.rows, found.weights, strict=True))
    assert math.isclose(weight[8] + weight[12], weight[64] + weight[96])


@pytest.mark.parametrize("text", ["", "0", "0..4", "a..b", "8,x", "5..3", "-1"])
def test_rows_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"allowed are a range such as 1\.\.512"):
        parse_rows(text)


def test_rows_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match="rows must be at least 1, got 0"):
        grid(16, [0])

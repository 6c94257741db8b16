"""Samples are valid, plain, repeatable and uniform given the constraints."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.space import Bool, Float, Int, Space
from tests.core.space.spaces import MiB, spaces


@given(st.data())
def test_samples_only_what_it_accepts(data: st.DataObject) -> None:
    space = data.draw(spaces())
    seed = data.draw(st.integers(0, 2**31))
    rows = space.sample(np.random.default_rng(seed), 20)
    assert len(rows) == 20
    for row in rows:
        assert space.violations(row) == []
        assert set(row) == set(space.active(row))
        assert all(type(value) in (bool, int, float, str, tuple) for value in row.values())
    assert space.sample(np.random.default_rng(seed), 20) == rows


@given(st.data())
def test_sobol_points_are_valid_and_repeatable(data: st.DataObject) -> None:
    space = data.draw(spaces())
    rows = space.sobol(8, 5)
    assert len(rows) == 8
    assert all(space.violations(row) == [] for row in rows)
    assert space.sobol(8, 5) == rows


def test_uniform_given_the_constraints() -> None:
    """Every valid configuration of a small space is equally likely: a chi-squared test against brute force."""
    space = Space([Int("a", 1, 6, default=1), Int("b", 1, 6), Int("c", 1, 3)], constraints=["a <= b", "a * c <= 9"])
    valid = [
        row
        for row in itertools.product(range(1, 7), range(1, 7), range(1, 4))
        if row[0] <= row[1] and row[0] * row[2] <= 9
    ]
    n = 40 * len(valid)
    rows = [tuple(row.values()) for row in space.sample(np.random.default_rng(7), n)]
    counts = np.array([rows.count(row) for row in valid])
    assert counts.sum() == n
    # Mean len(valid) - 1, standard deviation sqrt(2 * ...): five of them is one in millions.
    assert ((counts - 40) ** 2 / 40).sum() < len(valid) - 1 + 5 * np.sqrt(2 * len(valid))


def test_conditions_in_chains_hold_in_every_sample() -> None:
    space = Space(
        [Bool("a"), Int("b", 1, 9), Int("c", 1, 9), Int("d", 1, 9)],
        constraints=["c + d <= 14"],
        conditions={"d": "c > 2", "c": "b > 3", "b": "a"},
    )
    rows = space.sample(np.random.default_rng(2), 400)
    assert all(set(row) == set(space.active(row)) for row in rows)
    assert {len(row) for row in rows} == {1, 2, 3, 4}
    assert all("d" not in row or row["a"] for row in rows)


def test_nothing_is_asked_for() -> None:
    space = Space([Int("a", 1, 6)])
    assert space.sample(np.random.default_rng(0), 0) == []
    assert space.sobol(0, 0) == []


@pytest.mark.parametrize("n", [3, 200])
def test_tiny_acceptance_is_sampled_by_chains(n: int) -> None:
    """A band that one point in half a million meets; rejection alone would take minutes."""
    names = [f"x{i}" for i in range(9)]
    space = Space(
        [Float(name, 0, 1, default=0.05) for name in names], constraints=[f"{' + '.join(names)} <= 0.5 + 0.3"]
    )
    rows = space.sample(np.random.default_rng(1), n)
    assert len(rows) == n and all(space.violations(row) == [] for row in rows)
    assert len({space.canonical(row) for row in rows}) == n
    if n > 100:
        # Uniform on a simplex of height 0.8: each coordinate has mean 0.8 / 10.
        assert np.mean([list(row.values()) for row in rows]) == pytest.approx(0.08, rel=0.2)


def test_equality_is_sampled_too() -> None:
    space = Space([Int("a", 1, 2**24, default=5), Int("b", 1, 2**24, default=5)], constraints=["a == b"])
    assert all(row["a"] == row["b"] for row in space.sample(np.random.default_rng(0), 20))


def test_sobol_fills_better_than_chance_and_without_repeats() -> None:
    space = Space([Float("a", 0, 1), Float("b", 0, 1, default=0.4)], constraints=["a >= b"])
    points = space.encode_many(space.sobol(256, 1))
    # In the half square, area b-quarters are known; Sobol points hit them almost exactly.
    share = float(np.mean((points[:, 0] > 0.5) & (points[:, 1] < 0.5)))
    assert share == pytest.approx(0.5, abs=0.02)
    small = Space([Int("a", 1, 4), Bool("b")], constraints=["a <= 3 or b"])
    assert len({small.canonical(row) for row in small.sobol(7, 3)}) == 7
    assert len(small.sobol(10, 3)) == 10
    assert space.sobol(4, 1) != space.sobol(4, 2)


def test_sobol_prefix_is_balanced_under_a_tight_budget() -> None:
    space = Space(
        [Int(name, MiB, 1024 * MiB, log=True, default=MiB) for name in ("a", "b", "c", "d")],
        constraints=["a + b + c + d <= 16MiB"],
    )
    rows = space.sobol(50, 4)
    assert len({space.canonical(row) for row in rows}) == 50
    assert all(space.violations(row) == [] for row in rows)

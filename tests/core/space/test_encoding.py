"""The unit cube: what goes in comes out, uniform positions give uniform values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import SpaceError
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space
from tests.core.space.spaces import configs, spaces


@given(st.data())
def test_encode_and_decode_are_inverse(data: st.DataObject) -> None:
    space = data.draw(spaces())
    config = {**space.default(), **data.draw(configs(space))}
    u = space.encode(config)
    assert u.shape == (space.dims(),) and u.dtype == np.float64
    assert ((u >= 0.0) & (u <= 1.0)).all()
    active = space.active(config)
    again = space.decode(u)
    for name in active:
        if isinstance(space[name], Float):
            assert again[name] == pytest.approx(config[name], rel=1e-9, abs=1e-9)
        else:
            assert again[name] == config[name]
    assert space.encode(again) == pytest.approx(u, abs=1e-9)


@given(st.data())
def test_many_at_once_is_the_same_as_one_by_one(data: st.DataObject) -> None:
    space = data.draw(spaces())
    rows = data.draw(st.lists(configs(space), min_size=1, max_size=5))
    assert np.array_equal(space.encode_many(rows), np.stack([space.encode(row) for row in rows]))
    assert len(space.column_names()) == space.dims()


def test_decode_gives_the_nearest_value() -> None:
    space = Space([Int("a", 1, 4), Bool("b"), Choice("c", ("u", "v", "w")), Float("d", 0, 1, step=0.25)])
    u = np.linspace(0, 1, 201)
    at = space.encode_many([space.decode(np.full(4, one)) for one in u])
    for column in range(4):
        nearest = np.abs(at[:, column][:, None] - u[None, :]).min(axis=0)
        assert np.abs(at[:, column] - u) == pytest.approx(nearest, abs=1e-12)


def test_uniform_positions_give_uniform_values() -> None:
    space = Space(
        [Int("a", 1, 5), Int("b", 0, 8, step=4), Choice("c", ("u", "v", "w")), Bool("d"), Permutation("o", 3)]
    )
    rows = space.sample(np.random.default_rng(0), 30_000)
    for name, count in (("a", 5), ("b", 3), ("c", 3), ("d", 2), ("o", 6)):
        shares = np.unique([str(row[name]) for row in rows], return_counts=True)[1] / len(rows)
        assert len(shares) == count
        assert shares == pytest.approx(np.full(count, 1 / count), abs=0.012)


def test_log_ranges_are_uniform_in_the_logarithm() -> None:
    space = Space([Int("a", 1, 2**20, log=True), Float("b", 1e-4, 1e4, log=True)])
    rows = space.sample(np.random.default_rng(0), 20_000)
    # A whole number owns half a step on both sides, so the range begins at 0.5.
    assert np.median([row["a"] for row in rows]) == pytest.approx(np.sqrt(0.5 * 2**20), rel=0.15)
    assert np.median([row["b"] for row in rows]) == pytest.approx(1.0, rel=0.3)


def test_special_values_lie_at_the_near_end() -> None:
    space = Space([Int("a", 64, 4096, log=True, special=(0, -1, 9999))])
    at = {value: float(space.encode({"a": value})[0]) for value in (-1, 0, 64, 512, 4096, 9999)}
    assert sorted(at, key=lambda value: at[value]) == [-1, 0, 64, 512, 4096, 9999]
    rows = [row["a"] for row in space.sample(np.random.default_rng(0), 20_000)]
    for value in (-1, 0, 9999):
        assert rows.count(value) / len(rows) == pytest.approx(0.1, abs=0.01)


def test_inactive_lies_in_the_middle_and_ends_are_exact() -> None:
    space = Space([Bool("on"), Float("x", 0.1, 0.7), Int("n", 1, 2**40, log=True)], conditions={"x": "on"})
    assert space.encode({"on": False, "x": 0.7})[1] == 0.5
    high = space.decode(np.ones(3))
    assert (high["x"], high["n"]) == (0.7, 2**40)
    assert space.decode(np.array([1.0, 0.0, 0.0])) == {"on": True, "x": 0.1, "n": 1}
    assert space.decode(np.array([1.0, -3.0, 7.0])) == {"on": True, "x": 0.1, "n": 2**40}


def test_values_outside_count_as_the_nearest() -> None:
    space = Space([Int("a", 1, 9), Choice("c", ("u", "v"))])
    assert np.array_equal(space.encode({"a": 99, "c": "gone"}), space.encode({"a": 9, "c": "u"}))


def test_a_wrong_shape_is_refused() -> None:
    space = Space([Int("a", 1, 9), Permutation("o", 3)])
    assert space.column_names() == ("a", "o#0", "o#1", "o#2")
    for wrong in (np.zeros(3), np.zeros((1, 4)), np.full(4, np.nan)):
        with pytest.raises(SpaceError, match="a position has 4 numbers"):
            space.decode(wrong)

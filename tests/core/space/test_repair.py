"""Repair: always valid, idempotent, deterministic, and near; brute force is the truth on small spaces."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space
from tests.core.space.spaces import MiB, configs, spaces


@given(st.data())
def test_valid_idempotent_and_untouched_when_valid(data: st.DataObject) -> None:
    space = data.draw(spaces())
    asked = data.draw(configs(space))
    found = space.repair(asked)
    assert space.violations(found) == []
    assert set(found) == set(space.active(found))
    assert space.repair(found) == found
    assert space.repair(dict(reversed(asked.items()))) == found
    if not space.violations(asked):
        assert found == asked


@given(st.data())
def test_never_farther_than_the_default(data: st.DataObject) -> None:
    space = data.draw(spaces())
    if space.conditions:
        return
    asked = data.draw(configs(space))
    u = space.encode(asked)
    assert np.linalg.norm(space.encode(space.repair(asked)) - u) <= np.linalg.norm(space.encode({}) - u) + 1e-9


_JUNK = st.one_of(
    st.none(), st.text(max_size=3), st.floats(), st.integers(-(10**30), 10**30), st.booleans(),
    st.lists(st.integers(0, 3)), st.floats(-9, 9).map(np.float64), st.integers(-9, 9).map(np.int64),
)  # fmt: skip


@given(st.data())
def test_copes_with_any_junk(data: st.DataObject) -> None:
    space = data.draw(spaces())
    names = st.sampled_from([*space.names, "stranger"])
    found = space.repair(data.draw(st.dictionaries(names, _JUNK)))
    assert space.violations(found) == []
    assert all(type(value) in (bool, int, float, str, tuple) for value in found.values())


def _every_valid(space: Space) -> np.ndarray:
    values = [range(one.low, one.high + 1, one.step) for one in space if isinstance(one, Int)]
    every = [dict(zip(space.names, row, strict=True)) for row in itertools.product(*values)]
    return space.encode_many([config for config in every if not space.violations(config)])


@pytest.mark.parametrize(
    "rules",
    [
        ["a <= b <= c"],
        ["a < max(2, b)", "b + c <= 14"],
        ["a * max(2, b) + c <= 30"],
        ["(a + b) % 3 == 0"],
        ["a + b == 9"],
        ["not (a > 3 and b > 3) or c == 1"],
        ["abs(a - b) >= 4 or c > 7"],
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_as_near_as_brute_force_on_small_spaces(rules: list[str], log: bool) -> None:
    defaults = {"a + b == 9": (2, 7, 5), "(a + b) % 3 == 0": (1, 5, 5), "abs(a - b) >= 4 or c > 7": (1, 9, 2)}
    a, b, c = defaults.get(rules[0], (1, 4, 5))
    space = Space(
        [Int(name, 1, 9, default=value, log=log) for name, value in (("a", a), ("b", b), ("c", c))], constraints=rules
    )
    able = _every_valid(space)
    rng = np.random.default_rng(3)
    for _ in range(25):
        asked = space.decode(rng.random(3))
        u = space.encode(asked)
        far = float(np.linalg.norm(space.encode(space.repair(asked)) - u))
        # Exact but for a few ties of pairs; never far from the best.
        assert far <= float(np.linalg.norm(able - u, axis=1).min()) * 1.25 + 0.02, asked


def _storage_engine() -> Space:
    return Space(
        [
            Int("cache", MiB, 1024 * MiB, log=True, default=8 * MiB, unit="B"),
            Int("wbs", MiB, 256 * MiB, log=True, default=64 * MiB, unit="B"),
            Int("n", 1, 32, log=True, default=2),
            Int("merge", 1, 8, default=1),
            Int("trigger", 1, 64, log=True, default=4),
            Int("slow", 1, 256, log=True, default=20),
            Int("stop", 1, 256, log=True, default=36),
            Choice("codec", ("none", "lz4"), default="lz4"),
        ],
        constraints=["cache + wbs * max(2, n) <= 256MiB", "merge < max(2, n)", "trigger <= slow", "slow <= stop"],
    )


def test_nearer_than_ten_thousand_random_points() -> None:
    space = _storage_engine()
    rng = np.random.default_rng(1)
    cloud = space.encode_many(space.sample(rng, 10_000))
    ratios: list[float] = []
    for u in rng.random((60, space.dims())):
        asked = space.decode(u)
        if not space.violations(asked):
            continue
        at = space.encode(asked)
        far = float(np.linalg.norm(space.encode(space.repair(asked)) - at))
        # The cloud misses what nothing ties (the codec) by chance: leave that column out.
        ratios.append(far / float(np.linalg.norm(cloud[:, :7] - at[:7], axis=1).min()))
    assert len(ratios) > 40
    assert max(ratios) <= 1.1
    assert float(np.median(ratios)) <= 0.95


def test_untied_parameters_stay() -> None:
    space = _storage_engine()
    found = space.repair({"cache": 512 * MiB, "trigger": 60, "slow": 61, "stop": 62, "codec": "none"})
    assert (found["trigger"], found["slow"], found["stop"], found["codec"]) == (60, 61, 62, "none")
    assert found["cache"] < 512 * MiB


def test_what_does_not_move_keeps_every_digit() -> None:
    """The logarithm of a number this long does not lead back to it."""
    space = Space([Int("long", 1, 2**60, log=True), Int("n", 1, 9, default=1)], constraints=["long > 0 and n <= 3"])
    assert space.repair({"long": 123456789012345678, "n": 9}) == {"long": 123456789012345678, "n": 3}


def test_a_budget_is_used_up() -> None:
    """The nearest point of a memory budget lies on its edge."""
    space = _storage_engine()
    found = space.repair({"cache": 1024 * MiB, "wbs": 256 * MiB, "n": 4})
    used = found["cache"] + found["wbs"] * max(2, found["n"])
    assert 0.98 * 256 * MiB <= used <= 256 * MiB


def test_switches_off_rather_than_far_away() -> None:
    space = Space(
        [Bool("on", default=False), Int("bits", 1, 20, default=2), Float("x", 0, 1, default=0.1)],
        constraints=["bits * x <= 5"],
        conditions={"bits": "on"},
    )
    assert space.repair({"on": False, "bits": 20, "x": 1.0}) == {"on": False, "x": 1.0}
    found = space.repair({"on": True, "bits": 20, "x": 1.0})
    assert space.violations(found) == []


def test_drops_and_fills() -> None:
    space = Space([Bool("a"), Int("b", 1, 9), Permutation("o", 3)], conditions={"b": "a"})
    assert space.repair({}) == {"a": False, "o": (0, 1, 2)}
    assert space.repair({"a": True, "b": math.inf, "o": [2, 0, 1], "z": 1}) == {"a": True, "b": 9, "o": (2, 0, 1)}


def test_equality_over_many_bytes_falls_back_to_what_is_valid() -> None:
    space = Space([Int(name, 1, 2**30, default=2**29, log=True) for name in "ab"], constraints=["a == b"])
    found = space.repair({"a": 12345, "b": 777_777_777})
    assert found["a"] == found["b"]

"""The space: what it refuses, what it derives, and that it survives JSON and pickle."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import ExpressionError, SpaceError
from mlsysopt.core.space import Bool, Choice, Expression, Float, Int, Permutation, Space
from tests.core.space.spaces import MiB, configs, spaces


@pytest.fixture
def space() -> Space:
    return Space(
        [
            Int("cache", MiB, 1024 * MiB, log=True, default=8 * MiB, unit="B"),
            Int("buffer", MiB, 256 * MiB, log=True, default=64 * MiB, unit="B"),
            Int("count", 1, 32, log=True, default=2),
            Bool("bloom", default=True),
            Int("bits", 1, 20, default=10),
            Choice("codec", ("none", "lz4", "zstd"), default="lz4"),
            Int("level", 1, 22, default=3),
        ],
        constraints=["cache + buffer * max(2, count) <= 256MiB"],
        conditions={"bits": "bloom", "level": "codec == 'zstd'"},
    )


def test_container(space: Space) -> None:
    assert len(space) == 7
    assert [parameter.name for parameter in space] == list(space.names)
    assert "cache" in space and "cash" not in space
    with pytest.raises(SpaceError, match=r"unknown parameter 'cash'; did you mean cache\?"):
        space["cash"]


def test_active_follows_conditions_in_chains() -> None:
    chain = Space([Bool("a", default=True), Int("b", 1, 9), Int("c", 1, 9)], conditions={"c": "b > 3", "b": "a"})
    assert chain.conditional == ("b", "c")
    assert chain.active({"a": True, "b": 5}) == ("a", "b", "c")
    assert chain.active({"a": True, "b": 2}) == ("a", "b")
    assert chain.active({"a": False, "b": 5}) == ("a",)


def test_violations_name_everything_with_numbers(space: Space) -> None:
    found = space.violations(
        {"cash": 1, "count": "two", "buffer": 512 * MiB, "cache": MiB, "codec": "lz5", "level": 99}
    )
    assert [(one.kind, one.name) for one in found] == [
        ("unknown", "cash"),
        ("bounds", "buffer"),
        ("type", "count"),
        ("bounds", "codec"),
    ]
    assert "did you mean cache?" in found[0].text
    assert "536870912" in found[1].text and "268435456" in found[1].text
    broken = space.violations({"buffer": 200 * MiB})
    assert [one.kind for one in broken] == ["constraint"]
    assert broken[0].text.endswith("cache + buffer * max(2, count) = 408 MiB, allowed <= 256 MiB")
    with pytest.raises(SpaceError, match="408 MiB"):
        space.check({"buffer": 200 * MiB})


def test_many_violations_are_at_most_three_lines(space: Space) -> None:
    with pytest.raises(SpaceError) as caught:
        space.check({f"x{i}": i for i in range(9)})
    assert str(caught.value).count("\n") == 2
    assert "and 7 more" in str(caught.value)


def test_bound_violation_tells_its_origin() -> None:
    space = Space([Int("x", 1, 9, default=2)]).with_bounds("x", high=5)
    assert space.violations({"x": 7})[0].origin == "user"
    assert space.violations({"x": 0})[0].origin == "declared"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Space([]), "at least one parameter"),
        (lambda: Space([Bool("a"), Int("a", 1, 2)]), "'a' is given twice"),
        (lambda: Space([Permutation("a", 2), Float("a#1", 0, 1)]), "clashes with 'a'"),
        (lambda: Space([Int("a", 1, 9, special=(0,)), Bool("a?")]), "clashes with 'a'"),
        (lambda: Space([Bool("a")], constraints=["b"]), "unknown parameter 'b'"),
        (lambda: Space([Bool("a")], constraints=["1 < 2"]), "mentions no parameter"),
        (lambda: Space([Int("a", 1, 9)], constraints=["a + 1"]), "is a number, not a condition"),
        (lambda: Space([Int("a", 1, 9)], constraints=["a + 1 and a < 5"]), "not a condition"),
        (lambda: Space([Permutation("a", 3)], constraints=["a < 3"]), "is a permutation"),
        (lambda: Space([Choice("a", ("u", "v"))], constraints=["a < 'v'"]), "has no order"),
        (lambda: Space([Choice("a", ("u", "v"))], constraints=["a == 3"]), "text with a number"),
        (lambda: Space([Choice("a", ("u", "v"))], constraints=["a + 1 < 3"]), "cannot be calculated with"),
        (lambda: Space([Choice("a", ("lz4", "zstd"))], constraints=["a != 'lz5'"]), "did you mean lz4?"),
        (lambda: Space([Bool("a"), Bool("b")], conditions={"a": "b", "b": "a"}), "form a circle"),
        (lambda: Space([Bool("a")], conditions={"a": "a"}), "form a circle"),
        (lambda: Space([Bool("a")], conditions={"b": "a"}), "unknown parameter 'b'"),
        (
            lambda: Space([Int("a", 1, 9, default=5)], constraints=["a <= 3"]),
            "the default breaks constraint 'a <= 3': a = 5",
        ),
        (lambda: Space([Int("a", 1, 9)], constraints=["a > 10"]), "no configuration meets constraint 'a > 10': a = 5"),
    ],
)
def test_refuses(make: Any, words: str) -> None:
    with pytest.raises((SpaceError, ExpressionError)) as caught:
        make()
    assert words in str(caught.value), str(caught.value)
    assert str(caught.value).count("\n") < 3


def test_require_refuses_what_the_default_breaks(space: Space) -> None:
    with pytest.raises(SpaceError, match="buffer = 64 MiB, allowed <= 32 MiB"):
        space.require("buffer <= 32MiB")
    assert space.require("buffer <= 128MiB").constraints[-1].origin == "user"
    assert len(space.constraints) == 1
    assert space.require("buffer <= 128MiB", "buffer <= 128MiB").constraints[1:] == (
        Expression.parse("buffer <= 128MiB", origin="user"),
    )


def test_when_joins_conditions(space: Space) -> None:
    both = space.when("bits", "codec == 'zstd'")
    assert both.conditions["bits"].text == "(bloom) and (codec == 'zstd')"
    assert "bits" not in both.active({"bloom": True, "codec": "lz4"})


def test_with_bounds(space: Space) -> None:
    smaller = space.with_bounds("buffer", high="32MiB", origin="discovered")
    buffer = smaller["buffer"]
    assert isinstance(buffer, Int)
    assert (buffer.high, buffer.default, buffer.high_origin, buffer.low_origin) == (
        32 * MiB, 32 * MiB, "discovered", "declared",
    )  # fmt: skip
    wider = Space([Int("x", 8, 64, log=True, special=(0, 4), default=4)]).with_bounds("x", low=2)["x"]
    assert isinstance(wider, Int) and wider.special == (0,) and wider.default == 4
    with pytest.raises(SpaceError, match="low must be below high"):
        space.with_bounds("buffer", low="512MiB")
    with pytest.raises(SpaceError, match="no bounds"):
        space.with_bounds("codec", high=3)
    with pytest.raises(SpaceError, match="the default breaks"):
        space.with_bounds("cache", low="200MiB")


def test_with_defaults(space: Space) -> None:
    assert space.with_defaults({"buffer": 32 * MiB}).default()["buffer"] == 32 * MiB
    with pytest.raises(SpaceError, match="allowed <= 256 MiB"):
        space.with_defaults({"buffer": 200 * MiB})


def test_subspace_has_constants_in_its_constraints(space: Space) -> None:
    part = space.subspace(["count", "buffer", "bits"])
    assert part.names == ("buffer", "count", "bits")
    assert part.conditions == {}
    assert part.violations({"buffer": 124 * MiB}) == []
    assert part.violations({"buffer": 125 * MiB})
    assert space.subspace(["codec", "level"]).active({"codec": "lz4"}) == ("codec",)
    assert space.subspace(["bits"]).constraints == ()
    with pytest.raises(SpaceError, match="inactive at the default"):
        space.subspace(["level"])
    with pytest.raises(SpaceError, match="unknown parameter"):
        space.subspace(["levels"])


def test_size_counts_special_values() -> None:
    assert Space([Bool("a"), Int("b", 1, 9, special=(0,)), Permutation("c", 3)]).size() == 2 * 10 * 6
    assert Space([Bool("a"), Float("b", 0, 1)]).size() is None
    assert Space([Float("b", 0, 1, step=0.25)]).size() == 5


def test_identity_is_names_and_types(space: Space) -> None:
    assert space.with_bounds("cache", high="512MiB").require("count <= 9").identity() == space.identity()
    assert space.identity()["bits"] == "int"
    assert Space([Permutation("o", 3)]).identity() != Space([Permutation("o", 4)]).identity()


def test_canonical_is_exact_sorted_and_active_only(space: Space) -> None:
    assert json.loads(space.canonical({"codec": "lz4", "level": 9})) == {
        name: value for name, value in space.default().items() if name != "level"
    }
    floats = Space([Float("b", -1, 1), Float("a", 0, 1)])
    assert floats.canonical({"b": -0.0, "a": 1}) == '{"a":1.0,"b":0.0}'
    assert floats.canonical({"b": 0.1 + 0.2, "a": 1e-17}) == '{"a":1e-17,"b":0.30000000000000004}'
    orders = Space([Permutation("o", 3)])
    assert orders.canonical({"o": (2, 0, 1)}) == orders.canonical({"o": [2, 0, 1]}) == '{"o":[2,0,1]}'


@given(spaces())
def test_json_and_pickle_round_trips_are_exact(space: Space) -> None:
    text = json.dumps(space.to_json(), allow_nan=False)
    again = Space.from_json(json.loads(text))
    assert again == space and hash(again) == hash(space)
    assert json.dumps(again.to_json()) == text
    assert pickle.loads(pickle.dumps(space)) == space
    assert repr(again.default()) == repr(space.default())


@given(st.data())
def test_canonical_is_read_back_as_the_same_configuration(data: st.DataObject) -> None:
    space = data.draw(spaces())
    config = space.repair(data.draw(configs(space)))
    again = json.loads(space.canonical(config))
    assert space.violations(again) == []
    assert space.canonical(again) == space.canonical(config)
    assert space.repair(again) == config


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        ({}, "key 'parameters'"),
        ([], "key 'parameters'"),
        ({"version": 2, "parameters": []}, "version 2"),
        ({"parameters": [{"kind": "int", "name": "x", "low": 3, "high": 1}]}, "space.parameters[0]: parameter 'x'"),
        ({"parameters": [{"kind": "ant", "name": "x"}]}, "space.parameters[0]"),
        ({"parameters": [{"kind": "int", "name": "x", "lo": 1}]}, "'lo'"),
        ({"parameters": [7]}, "space.parameters[0]"),
    ],
)
def test_damaged_json_is_refused_with_its_path(obj: Any, words: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Space.from_json(obj)
    assert words in str(caught.value)


def test_default_stands_for_what_is_missing(space: Space) -> None:
    assert space.violations({}) == []
    assert space.canonical({}) == space.canonical(space.default())
    assert space.violations({"level": "not even read"}) == []

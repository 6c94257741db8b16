"""To ConfigSpace and back."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mlsysopt.core.errors import MissingExtra, SpaceError
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space

ConfigSpace: Any = pytest.importorskip("ConfigSpace")


def test_round_trip_of_what_both_can_say() -> None:
    space = Space(
        [
            Bool("on", default=True),
            Choice("codec", ("none", "lz4")),
            Float("rate", 1e-4, 1.0, log=True),
            Int("a", 1, 9, default=2),
            Int("b", 1, 9, default=5),
            Int("bits", 1, 20, default=10),
        ],
        constraints=["a <= b"],
        conditions={"bits": "on and codec == 'none'"},
    )
    there = space.to_configspace()
    again = Space.from_configspace(there)
    assert {one.name: one for one in again} == {one.name: one for one in space}
    assert [one.text for one in again.constraints] == ["a <= b"]
    there.seed(1)
    for given in there.sample_configuration(100):
        config = {name: value.item() if hasattr(value, "item") else value for name, value in dict(given).items()}
        assert again.violations(config) == []
        assert set(config) == set(space.active(config))


def test_reads_what_only_configspace_has() -> None:
    there = ConfigSpace.ConfigurationSpace({"a": (1, 10), "b": ["u", "v"], "k": 5})
    there.add(
        ConfigSpace.ForbiddenAndConjunction(
            ConfigSpace.ForbiddenInClause(there["a"], [3, 4]), ConfigSpace.ForbiddenEqualsClause(there["b"], "v")
        )
    )
    space = Space.from_configspace(there)
    assert space.violations({"a": 3, "b": "u"}) == []
    assert space.violations({"a": 3, "b": "v"}) and space.violations({"a": 4, "b": "v"})
    assert space.default()["k"] == 5


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Space([Permutation("o", 3)]), "no permutations"),
        (Space([Int("a", 0, 9, log=True)]), "no special values"),
        (Space([Int("a", 1, 9), Int("b", 1, 9)], constraints=["a * b <= 30"]), "cannot express the constraint"),
        (Space([Int("a", 1, 9), Bool("b")], conditions={"b": "a * 2 > 3"}), "cannot express the condition"),
        (Space([Float("a", 0, 1, step=1e-6)]), "too many"),
    ],
)
def test_refuses_what_configspace_cannot_say(space: Space, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        space.to_configspace()


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ConfigSpace", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mlsysopt\[space\]'"):
        Space([Bool("a")]).to_configspace()

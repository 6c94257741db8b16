"""Optuna sees the same space: round trips are exact, inactive parameters are absent."""

from __future__ import annotations

import json

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mlsysopt.core.errors import SpaceError
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space
from tests.core.space.spaces import configs, spaces


@given(st.data())
def test_params_round_trip_and_lie_in_their_distributions(data: st.DataObject) -> None:
    space = data.draw(spaces())
    config = space.repair(data.draw(configs(space)))
    params = space.to_params(config)
    assert space.from_params(params) == config
    assert json.loads(json.dumps(params)) == params
    distributions = space.distributions()
    assert set(params) <= set(distributions)
    for name, value in params.items():
        assert distributions[name]._contains(distributions[name].to_internal_repr(value))
    inactive = set(space.names) - set(space.active(config))
    assert not inactive & {name.split("#")[0].rstrip("?") for name in params}


@given(spaces())
def test_any_optuna_trial_decodes_to_the_grid(space: Space) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask(space.distributions())
    config = space.from_params(trial.params)
    assert all(one.kind == "constraint" for one in space.violations(config))


def test_shapes_of_the_distributions() -> None:
    space = Space(
        [
            Int("ahead", 0, 1024, log=True, default=0),
            Float("share", 0, 1, step=0.1, special=(-1.0,)),
            Bool("on"),
            Choice("codec", ("none", 3, 0.5)),
            Permutation("order", 2),
        ]
    )
    assert space.distributions() == {
        "ahead?": CategoricalDistribution(("range", "0")),
        "ahead": IntDistribution(1, 1024, log=True),
        "share?": CategoricalDistribution(("range", "-1.0")),
        "share": FloatDistribution(0, 1, step=0.1),
        "on": CategoricalDistribution((False, True)),
        "codec": CategoricalDistribution(("none", "3", "0.5")),
        "order#0": FloatDistribution(0, 1),
        "order#1": FloatDistribution(0, 1),
    }
    assert space.to_params({"codec": 3, "order": (1, 0)}) == {
        "ahead?": "0", "share?": "range", "share": 0.5, "on": False, "codec": "3", "order#0": 0.75, "order#1": 0.25,
    }  # fmt: skip
    params = {"ahead?": "range", "ahead": 7, "share?": "-1.0", "codec": "0.5", "order#0": 0.9, "order#1": 0.3}
    assert space.from_params(params) == {"ahead": 7, "share": -1.0, "on": False, "codec": 0.5, "order": (1, 0)}


def test_optunas_rounding_is_undone() -> None:
    space = Space([Float("share", 0, 1, step=0.1)])
    assert space.from_params({"share": 0.1 * 3}) == {"share": 0.3}


def test_values_enqueued_by_a_person_are_read() -> None:
    space = Space([Choice("codec", ("none", 3))])
    assert space.from_params({"codec": 3}) == {"codec": 3}
    with pytest.raises(SpaceError, match="is not one of its choices"):
        space.from_params({"codec": "lz4"})
    with pytest.raises(SpaceError, match="is not one of its choices"):
        space.to_params({"codec": "lz4"})


def test_from_distributions_is_exact_and_keeps_objects() -> None:
    mapping: dict[str, BaseDistribution] = {
        "layers": IntDistribution(1, 9, step=2),
        "rate": FloatDistribution(1e-5, 1e-1, log=True),
        "kind": CategoricalDistribution((None, True, 1.5, "adam")),
        "momentum": FloatDistribution(0, 1, step=0.25),
        "odd name#1?": IntDistribution(1, 64, log=True),
    }
    space = Space.from_distributions(mapping)
    assert space.distributions() == mapping
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        params = study.ask(mapping).params
        config = space.from_params(params)
        assert config == params
        assert config["kind"] is params["kind"]
        assert space.to_params(config) == params
        assert space.from_params(space.to_params(space.decode(space.encode(config)))).keys() == params.keys()


def test_a_single_value_becomes_a_choice_of_one() -> None:
    space = Space.from_distributions({"a": IntDistribution(3, 3), "b": FloatDistribution(0.5, 0.5)})
    assert space.default() == {"a": 3, "b": 0.5}


def test_distributions_are_a_copy() -> None:
    space = Space([Bool("a")])
    space.distributions().clear()
    assert list(space.distributions()) == ["a"]

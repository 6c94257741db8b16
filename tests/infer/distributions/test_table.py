"""The table of distributions is what the language can say."""

from __future__ import annotations

import inspect

import pytest

from mlsysopt.infer import distributions
from mlsysopt.infer.distributions import ALL, Distribution
from mlsysopt.infer.language import DISTRIBUTIONS

SIBLINGS = {"Normal": {"Normal", "NormalVariance", "NormalPrecision"}}


def test_every_word_of_the_language_is_there_and_nothing_else() -> None:
    families = {one.family or one.name for one in ALL.values()}
    assert families == set(DISTRIBUTIONS)
    assert {one.name for one in ALL.values() if one.family} == SIBLINGS["Normal"]
    assert all(name == one.name for name, one in ALL.items())
    assert {id(one) for one in vars(distributions).values() if isinstance(one, Distribution)} == set(
        map(id, ALL.values())
    )


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_called_as_in_the_language(name: str) -> None:
    one = ALL[name]
    said = [word for word in inspect.signature(DISTRIBUTIONS[one.family or name]).parameters if word != "states"]
    own = [parameter.name for parameter in one.parameters]
    if one.family == "Normal":
        assert own[0] == said[0] == "mean" and own[1] in said
    else:
        assert own == said
    first = {"x", *own}
    assert set(inspect.signature(one.log_density).parameters) == first
    if one.gradient is not None:
        assert set(inspect.signature(one.gradient).parameters) == first
    if one.draw is not None:
        assert set(inspect.signature(one.draw).parameters) == {"rng", *own, *(["out"] if one.event else [])}


def test_functions_are_at_hand_where_a_support_needs_them() -> None:
    for one in ALL.values():
        assert (one.bounds is not None) == (one.support == "interval"), one.name
        assert one.support not in ("binary", "states") or one.states is not None, one.name
        assert one.discrete == (one.support in ("binary", "states", "count", "counts")), one.name
    assert ALL["Binomial"].states is not None and ALL["Binomial"].states(7, 0.5) == 8

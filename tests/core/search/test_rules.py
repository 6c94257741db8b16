"""Rules from labelled points: each template comes back from planted data, and no success is ever refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.search import rules
from mlsysopt.core.search.evidence import Evidence
from mlsysopt.core.search.rules import LearnedRule, learn
from mlsysopt.core.search.templates import constant
from mlsysopt.core.space import Bool, Choice, Expression, Float, Int, Permutation, Space

SPACE = Space(
    [
        Int("a", 1, 100_000, log=True, default=50),
        Int("b", 1, 100_000, log=True, default=200),
        Int("c", 1, 1000, default=10, special=(-1,)),
        Float("share", 0.0, 1.0, default=0.5),
        Bool("on"),
        Choice("codec", ("lz4", "zstd", "it's")),
        Permutation("order", 3),
    ]
)
Config = Mapping[str, Any]
Works = Callable[[Config], bool]


def _holds(rule: LearnedRule, config: Config) -> bool:
    return Expression.parse(rule.text).holds({**SPACE.default(), **config})


def _planted(works: Works, names: tuple[str, ...], n: int = 200, seed: int = 3, **known: Any) -> list[Evidence]:
    points = SPACE.sample(np.random.default_rng(seed), n)
    return [
        Evidence(one, works(one), "" if works(one) else "rejected", () if works(one) else names, **known)
        for one in points
    ]


PLANTED: list[tuple[str, tuple[str, ...], Works]] = [
    ("a <= ", ("a",), lambda c: c["a"] <= 2000),
    ("a >= ", ("a",), lambda c: c["a"] >= 20),
    ("codec != 'zstd'", ("codec",), lambda c: c["codec"] != "zstd"),
    ('codec != "it\'s"', ("codec",), lambda c: c["codec"] != "it's"),
    ("on != True", ("on",), lambda c: not c["on"]),
    ("c != -1", ("c",), lambda c: c["c"] != -1),
    ("a <= b", ("a", "b"), lambda c: c["a"] <= c["b"]),
    ("a <= ", ("a", "b"), lambda c: c["a"] <= 4 * c["b"]),
    ("a + b <= ", ("a", "b"), lambda c: c["a"] + c["b"] <= 3000),
    ("a * b <= ", ("a", "b"), lambda c: c["a"] * c["b"] <= 10**6),
    ("not (on == True and codec == 'zstd')", ("on", "codec"), lambda c: not (c["on"] and c["codec"] == "zstd")),
    ("not (codec == 'zstd' and a > ", ("codec", "a"), lambda c: not (c["codec"] == "zstd" and c["a"] > 500)),
]


@pytest.mark.parametrize(("start", "names", "works"), PLANTED)
def test_each_template_is_recovered(start: str, names: tuple[str, ...], works: Works) -> None:
    known = _planted(works, names)
    found = learn(SPACE, known)
    assert found and found[0].text.startswith(start), found
    assert Expression.parse(found[0].text).names == {*names}
    # What was never seen is judged as well as what was, but for the gap around the constant.
    fresh = SPACE.sample(np.random.default_rng(99), 2000)
    assert np.mean([_holds(found[0], one) == works(one) for one in fresh]) > 0.98


def test_a_strict_relation_is_recovered_from_an_equality() -> None:
    known = [
        *_planted(lambda c: c["a"] < c["b"], ("a", "b")),
        Evidence({"a": 7, "b": 7}, False, "rejected", ("a", "b")),
    ]
    assert learn(SPACE, known)[0].text == "a < b"


@pytest.mark.parametrize("works", [PLANTED[0][2], PLANTED[2][2], PLANTED[9][2]])
def test_rules_are_found_without_any_message(works: Works) -> None:
    found = learn(SPACE, _planted(works, ()))
    fresh = SPACE.sample(np.random.default_rng(99), 1000)
    assert found and np.mean([_holds(found[0], one) == works(one) for one in fresh]) > 0.95
    assert found[0].origin.startswith("learned: what fails together, ")


def test_chance_alone_makes_no_rule() -> None:
    """Failures that depend on nothing: whatever separates a few of them is an accident."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        known = [
            Evidence(one, bool(rng.random() < 0.6), "rejected")
            for one in SPACE.sample(np.random.default_rng(seed + 100), 30)
        ]
        assert learn(SPACE, known) == ()


def test_two_points_cut_off_no_optimum() -> None:
    """Two refusals beside a handful of successes are no law, even where a message names a parameter."""
    few = [Evidence({"a": n}, True) for n in (10, 40)]
    assert learn(SPACE, [*few, *(Evidence({"a": n}, False, "rejected", ("a",)) for n in (60, 70))]) == ()
    assert learn(SPACE, [*few, Evidence({"a": 90_000}, False, "rejected", ("a",))]) == ()


def test_one_diagnosed_refusal_is_enough_for_a_soft_rule() -> None:
    (rule,) = learn(SPACE, [Evidence({"a": 5000}, False, "rejected", blamed=("a",), probe=True)])
    assert (rule.text, rule.hard, rule.refusals, rule.support) == ("a <= 500", False, 1, 1)
    assert rule.origin == "learned: probes, 1 refusal"


@pytest.mark.parametrize(("start", "names", "works"), PLANTED)
def test_a_single_success_that_breaks_a_rule_deletes_it(start: str, names: tuple[str, ...], works: Works) -> None:
    known = _planted(works, names)
    (rule, *_) = learn(SPACE, known)
    failed = [one for one in known if not one.valid]
    # The most extreme of what failed has worked after all.
    worst = max(failed, key=lambda one: (one.config["a"] * one.config["b"], one.config["a"]))
    if start.startswith("a >="):
        worst = min(failed, key=lambda one: one.config["a"])
    elif start == "a <= " and len(names) == 1:
        worst = max(failed, key=lambda one: one.config["a"])
    after = learn(SPACE, [*known, Evidence(worst.config, True)])
    assert rule.text not in [one.text for one in after]
    assert all(_holds(one, worst.config) for one in after)


def _probes(values: list[int], most: int, named: tuple[str, ...] = ()) -> list[Evidence]:
    return [
        Evidence({"a": n}, n <= most, "" if n <= most else "rejected", () if n <= most else named, probe=True)
        for n in values
    ]


def test_hard_when_the_message_names_it_and_probes_agree() -> None:
    blamed = Evidence({"a": 3000}, False, "rejected", ("a",), True, ("a",))
    (soft,) = learn(SPACE, [blamed])
    assert not soft.hard
    (hard,) = learn(SPACE, [*_probes([900], 1000), blamed])
    assert hard.hard and hard.text == "a <= 2990"
    assert hard.origin == "learned: server message, 1 refusal"


def test_hard_when_enough_probes_agree() -> None:
    blamed = Evidence({"a": 3000}, False, "rejected", (), True, ("a",))
    (soft,) = learn(SPACE, [*_probes([900, 5000], 1000), blamed])
    (hard,) = learn(SPACE, [*_probes([900, 5000, 700, 9000, 800], 1000), blamed])
    assert (soft.hard, hard.hard) == (False, True)


def test_what_runs_out_of_time_is_never_hard() -> None:
    """On a machine twice as busy it would run out of time at half the value."""
    late = [replace(one, kind="timeout") for one in _probes([5000, 2000, 9000], 1000) if not one.valid]
    rules = learn(SPACE, [*_probes([900, 700, 800], 1000), *(replace(one, blamed=("a",)) for one in late)])
    assert [(rule.text.startswith("a <= "), rule.hard) for rule in rules] == [(True, False)]
    refused = Evidence({"a": 8000}, False, "rejected", ("a",), True, ("a",))
    hard = [rule for rule in learn(SPACE, [*_probes([900, 700, 800], 1000), *late, refused]) if rule.hard]
    assert hard and all(_holds(rule, {"a": 5000}) for rule in hard)


def test_soft_when_the_message_blames_something_else() -> None:
    """A bound on a that a message explains by b moves with b: proven for the default of b only."""
    blamed = Evidence({"a": 3000}, False, "rejected", ("b",), True, ("a",))
    found = learn(SPACE, [*_probes([900, 5000, 700, 9000, 800, 1000], 1000, ("b",)), blamed])
    assert found and not any(rule.hard for rule in found)


def test_what_refusals_off_the_line_suggest_is_never_hard() -> None:
    """Named a thousand times where everything else moves as well: the hard bound stays where probes put it."""
    known = [*_probes([900, 50_000], 10_000, ("a",)), Evidence({"a": 40_000}, False, "rejected", ("a",), True, ("a",))]
    known += [Evidence({"a": 2000 + i, "b": 90_000}, False, "rejected", ("a",)) for i in range(20)]
    hard = [rule for rule in learn(SPACE, known) if rule.hard]
    assert hard and all(_holds(rule, {"a": 30_000}) for rule in hard)


def test_a_relation_of_exactly_the_named_is_preferred_to_a_bound() -> None:
    known = [Evidence({"a": 5000}, False, "rejected", ("a", "b"), True, ("a",)), Evidence({"a": 150}, True, probe=True)]
    (rule,) = learn(SPACE, known)
    assert (rule.text, rule.hard) == ("a <= b", False)
    # On the line a bound says the same; a success off it decides, and only then is the relation hard.
    (rule,) = learn(SPACE, [*known, Evidence({"a": 9000, "b": 50_000}, True)])
    assert (rule.text, rule.hard) == ("a <= b", True)


def test_starting_proves_nothing_about_load() -> None:
    under_load = [Evidence({"a": n}, False, "degraded", ("a",)) for n in range(5000, 9000, 500)]
    ran = [Evidence({"a": n}, True) for n in range(100, 900, 100)]
    started = [Evidence({"a": n}, True, probe=True) for n in (6000, 20_000)]
    (rule,) = learn(SPACE, [*under_load, *ran, *started])
    assert rule.text == "a <= 2000" and not rule.hard
    # The same starts are enough where it is starting that failed.
    at_start = [Evidence(one.config, False, "rejected", one.named) for one in under_load]
    assert learn(SPACE, [*at_start, *ran, *started]) == ()


def test_special_values_pass_bounds_of_the_range() -> None:
    found = learn(SPACE, _planted(lambda c: c["c"] == -1 or c["c"] >= 8, ("c",), n=600))
    assert found and found[0].text.startswith("c == -1 or c >= ")
    assert _holds(found[0], {"c": -1}) and not _holds(found[0], {"c": 1})


def test_names_that_expressions_cannot_say_are_left_out() -> None:
    space = Space([Int("max-size", 1, 100, default=1), Int("n", 1, 9), Choice("odd", ("a\\b", "é"))])
    known = [Evidence({"max-size": 50 + i, "odd": "é"}, False, "rejected", ("max-size", "odd")) for i in range(9)]
    known += [Evidence({"max-size": i + 1}, True) for i in range(20)]
    assert learn(space, known) == ()


def test_bytes_are_written_as_people_write_them() -> None:
    space = Space([Int("cache", 2**20, 2**40, default=2**27, log=True, unit="B")])
    (rule,) = learn(space, [Evidence({"cache": 2**35}, False, "rejected", blamed=("cache",))])
    assert rule.text == "cache <= 2GiB"


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("space", [SPACE, Space([Bool("only")]), Space([Permutation("order", 4)])])
def test_one_class_alone_or_constant_columns_do_no_harm(space: Space, valid: bool) -> None:
    assert learn(space, []) == ()
    known = [Evidence(one, valid, "timeout") for one in space.sample(np.random.default_rng(0), 12)]
    for rule in learn(space, known):
        space.require(rule.text)
    # The default itself has failed: nothing can be said that would keep it.
    assert learn(space, [Evidence({}, False, "rejected", space.names[:2], blamed=space.names[:1])] * 5) == ()


@st.composite
def _evidence(draw: st.DrawFn) -> list[Evidence]:
    found: list[Evidence] = []
    names = st.lists(st.sampled_from([*SPACE.names, "gone"]), max_size=3, unique=True).map(tuple)
    for one in SPACE.sample(np.random.default_rng(draw(st.integers(0, 10_000))), draw(st.integers(1, 40))):
        kept = {name: value for name, value in one.items() if draw(st.integers(0, 2))}
        valid = draw(st.booleans()) if draw(st.booleans()) else one["a"] * one["b"] < 10**6
        kind = "" if valid else draw(st.sampled_from(["rejected", "timeout", "crashed", "degraded", "new kind"]))
        named, blamed = (draw(names), draw(names)) if not valid else ((), ())
        found.append(Evidence(kept, valid, kind, named, draw(st.booleans()), blamed))
    return found


@settings(max_examples=80, deadline=None)
@given(known=_evidence())
def test_no_rule_refuses_what_worked_and_every_rule_is_one_of_the_space(known: list[Evidence]) -> None:
    for rule in learn(SPACE, known):
        SPACE.require(rule.text)
        assert len(Expression.parse(rule.text).names) <= 2
        assert rule.refusals >= 1 and rule.support >= 1
        broken = [one for one in known if not _holds(rule, one.config)]
        assert not any(one.valid and not one.probe for one in broken)
        # Only a rule about load may refuse what merely started.
        if any(one.valid for one in broken):
            assert not rule.hard and any(not one.valid and not one.at_start for one in broken)
        assert any(not one.valid for one in broken)


@settings(max_examples=300, deadline=None)
@given(
    pair=st.tuples(st.integers(-(10**6), 10**9), st.integers(-(10**6), 10**9)).filter(lambda pair: pair[0] != pair[1]),
    flags=st.tuples(*[st.booleans()] * 4),
)
def test_a_constant_lies_between(pair: tuple[int, int], flags: tuple[bool, bool, bool, bool]) -> None:
    valid, refused = pair
    log, whole, binary, permissive = flags
    found = constant(valid, refused, log=log, whole=whole, binary=binary, permissive=permissive)
    assert valid <= found < refused or refused < found <= valid
    assert found.is_integer() or not whole


@pytest.mark.parametrize(
    ("given", "settings", "expected"),
    [
        ((100, 10_000), {"log": True}, 1000),
        ((300, 900), {}, 600),
        ((17, 19), {"whole": True}, 18),
        ((900, 700), {}, 800),
        ((0.011, 0.013), {"log": True}, 0.012),
        ((2**30, 2**34), {"log": True, "binary": True}, 2**32),
        ((100, 1_572_864), {"permissive": True}, 1_570_000),
        ((80, 31), {"permissive": True, "whole": True}, 32),
        ((-5, -50), {}, -30),
    ],
)
def test_constants_are_what_people_write(
    given: tuple[float, float], settings: dict[str, bool], expected: float
) -> None:
    assert constant(*given, **settings) == expected


def test_long_lists_of_names_accuse_nobody() -> None:
    space = Space([Int(f"k{i}", 1, 100, default=50) for i in range(12)])
    points = space.sample(np.random.default_rng(1), 60)
    known = [Evidence(one, one["k0"] <= 60, "rejected", () if one["k0"] <= 60 else space.names) for one in points]
    (rule,) = learn(space, known)
    assert Expression.parse(rule.text).names == {"k0"}
    assert len(space.names) > rules.MOST_NAMES

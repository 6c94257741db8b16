"""Culprits of a refused configuration: minimal, found with few probes, and never the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.search.evidence import Evidence
from mlsysopt.core.search.rules import learn
from mlsysopt.core.space import Bool, Choice, Int, Space
from mlsysopt.core.target import Failure, Measurement, Outcome
from mlsysopt.operate.tune.diagnose import diagnose

STARTED = Measurement({}, {}, 0.0, 0.0, 0.0)
NAMES = [f"k{i}" for i in range(10)]
SPACE = Space([Int(name, 1, 10**6, log=True, default=10) for name in NAMES])
HIGH = dict.fromkeys(NAMES, 10**5)


class Probe:
    """Counts what it is asked; fails where `wrong` says so."""

    def __init__(self, wrong: Callable[[Mapping[str, Any]], bool | Failure], space: Space = SPACE) -> None:
        self.wrong, self.space = wrong, space
        self.asked: list[dict[str, Any]] = []

    def __call__(self, config: Mapping[str, Any]) -> Outcome:
        self.asked.append(dict(config))
        found = self.wrong({**self.space.default(), **config})
        return found if isinstance(found, Failure) else Failure("rejected", "no") if found else STARTED


def refusal(*named: str, kind: Any = "rejected") -> Failure:
    return Failure(kind, "no", extra={"named": list(named)} if named else {})


def conflict(names: set[str]) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: all(config[name] > 1000 for name in names)


@given(st.data())
def test_a_minimal_failing_set_is_found(data: st.DataObject) -> None:
    changed = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True))
    names = set(data.draw(st.lists(st.sampled_from(changed), min_size=1, max_size=3, unique=True)))
    probe = Probe(conflict(names))
    found = diagnose(SPACE, {name: HIGH[name] for name in changed}, refusal(), probe, most=60)
    assert set(found.blamed) == names
    assert len(probe.asked) <= 60 and len(found.evidence) == len(probe.asked)
    for one in found.evidence:
        assert one.probe and one.valid is not conflict(names)({**SPACE.default(), **one.config})
        assert one.valid or set(one.blamed) == names


@given(
    st.integers(1, 40),
    st.sets(st.sampled_from(NAMES), min_size=1, max_size=4),
    st.lists(st.sampled_from([None, "infrastructure", "timeout"]), max_size=40),
)
def test_never_more_probes_than_allowed_and_never_a_wrong_accusation(
    most: int, names: set[str], noise: list[str | None]
) -> None:
    kinds = iter(noise)

    def wrong(config: Mapping[str, Any]) -> bool | Failure:
        kind: Any = next(kinds, None)
        return Failure(kind, "something else") if kind else conflict(names)(config)

    probe = Probe(wrong)
    found = diagnose(SPACE, HIGH, refusal(), probe, most=most)
    assert len(probe.asked) <= most
    assert not found.blamed or names <= set(found.blamed)


def test_the_same_probes_give_the_same_answer() -> None:
    runs = [diagnose(SPACE, HIGH, refusal("k3"), Probe(conflict({"k2", "k7"}))) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].blamed == ("k2", "k7")


def test_the_named_one_comes_first_and_one_culprit_takes_few_probes() -> None:
    probe = Probe(lambda config: config["k4"] > 5000)
    found = diagnose(SPACE, HIGH, refusal("k4"), probe)
    assert probe.asked[0] == {"k4": 10**5}
    assert found.blamed == ("k4",) and len(probe.asked) == 5
    assert found.text == "k4 = 100000 (5 probes)"


def test_a_hint_that_names_the_wrong_ones_is_no_proof() -> None:
    probe = Probe(lambda config: config["k9"] > 5000)
    found = diagnose(SPACE, {**HIGH, "k9": 10**6}, refusal("k0", "k1"), probe)
    assert found.blamed == ("k9",)
    assert found.text.endswith("; the message named k0, k1)")
    assert {name for config in probe.asked[:2] for name in config} == {"k0", "k1"}


def test_those_far_from_the_default_come_before_the_near_ones() -> None:
    probe = Probe(lambda config: False)
    diagnose(SPACE, {"k0": 12, "k1": 10**6, "k2": 1000}, refusal(), probe)
    assert [list(config) for config in probe.asked[:3]] == [["k1"], ["k2"], ["k0"]]


def test_the_line_is_bisected_towards_where_it_starts_to_fail() -> None:
    probe = Probe(lambda config: config["k1"] > 3000)
    found = diagnose(SPACE, {"k1": 10**6}, refusal(), probe)
    values = {one.config["k1"]: one.valid for one in found.evidence}
    good = max(value for value, ok in values.items() if ok)
    bad = min(value for value, ok in values.items() if not ok)
    assert good <= 3000 < bad and bad / good < (10**5) ** (1 / 16) * 1.1
    assert len(values) == 5


def test_a_choice_has_no_line_and_is_blamed_all_the_same() -> None:
    space = Space(
        [
            Choice("mode", ("safe", "fast", "turbo"), default="safe"),
            Bool("huge"),
            Int("n", 1, 1000, log=True, default=1),
        ]
    )
    probe = Probe(lambda config: config["mode"] == "turbo" and config["n"] > 30, space)
    found = diagnose(space, {"mode": "turbo", "huge": True, "n": 1000}, refusal(), probe)
    assert found.blamed == ("mode", "n")
    assert all(one.config["mode"] == "turbo" for one in found.evidence[-4:])
    alone = Probe(lambda config: config["mode"] == "turbo", space)
    assert diagnose(space, {"mode": "turbo", "n": 5}, refusal("mode"), alone).blamed == ("mode",)
    assert len(alone.asked) == 1


def test_what_does_not_fail_again_blames_nobody() -> None:
    probe = Probe(lambda config: False)
    found = diagnose(SPACE, HIGH, refusal("k1"), probe)
    assert found.blamed == () and "found no culprit" in found.text
    assert len(probe.asked) == 9


def test_nothing_differs_from_the_default() -> None:
    probe = Probe(lambda config: True)
    assert diagnose(SPACE, {"k1": 10}, refusal("k1"), probe).text == "nothing differs from the default"
    assert probe.asked == []


def test_another_kind_of_failure_is_recorded_and_not_followed() -> None:
    def wrong(config: Mapping[str, Any]) -> bool | Failure:
        return refusal("k1", kind="degraded") if config["k1"] > 1000 else config["k2"] > 1000

    found = diagnose(SPACE, {"k1": 10**6, "k2": 10**5}, refusal(), Probe(wrong))
    assert found.blamed == ("k2",)
    assert found.evidence[0] == Evidence({"k1": 10**6}, False, "degraded", ("k1",), True, ("k1",))


@pytest.mark.parametrize("kind", ["infrastructure", "lost"])
def test_what_the_machine_spoils_is_tried_once_more_and_proves_nothing(kind: Any) -> None:
    def spoiling(moments: set[int]) -> Probe:
        def wrong(config: Mapping[str, Any]) -> bool | Failure:
            return Failure(kind, "disk full") if len(probe.asked) in moments else config["k1"] > 1000

        probe = Probe(wrong)
        return probe

    once = spoiling({1, 3})
    found = diagnose(SPACE, {"k1": 10**6, "k2": 10**5}, refusal(), once)
    assert found.blamed == ("k1",)
    assert len(found.evidence) == len(once.asked) - 2
    for_good = spoiling(set(range(1, 100)))
    found = diagnose(SPACE, HIGH, refusal(), for_good)
    assert found.blamed == () and found.evidence == () and len(for_good.asked) == 2
    later = spoiling(set(range(3, 100)))
    found = diagnose(SPACE, {"k1": 10**6}, refusal(), later)
    assert found.blamed == ("k1",) and len(found.evidence) == 2


def test_time_is_up_in_the_middle() -> None:
    inner = Probe(conflict({"k1", "k6"}))

    def probe(config: Mapping[str, Any]) -> Outcome:
        if len(inner.asked) == 12:
            raise TimeoutError
        return inner(config)

    found = diagnose(SPACE, HIGH, refusal(), probe)
    assert len(found.evidence) == 12
    assert not found.blamed or {"k1", "k6"} <= set(found.blamed)


def test_rules_can_be_learned_from_what_it_leaves() -> None:
    space = Space(
        [
            Int("reserved", 1, 10**5, log=True, default=3),
            Int("slots", 1, 10**5, log=True, default=100),
            Int("other", 1, 100, default=5),
        ]
    )
    probe = Probe(lambda config: config["reserved"] >= config["slots"], space)
    found = diagnose(space, {"reserved": 5000, "slots": 400, "other": 70}, refusal("reserved", "slots"), probe)
    assert found.blamed == ("reserved",)
    rules = learn(
        space,
        [
            Evidence(
                {"reserved": 5000, "slots": 400, "other": 70},
                False,
                "rejected",
                ("reserved", "slots"),
                blamed=found.blamed,
            ),
            *found.evidence,
        ],
    )
    assert rules and all("reserved" in rule.text for rule in rules)

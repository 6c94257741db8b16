"""What trials say about validity, and what they must not be taken to say."""

from __future__ import annotations

import json
import math
from typing import Any

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from mlsysopt.core.search import evidence
from mlsysopt.core.search.evidence import Evidence, evidence_of, inside
from mlsysopt.core.search.history import UNBLAMED
from mlsysopt.core.space import Bool, Choice, Int, Permutation, Space
from mlsysopt.core.study import rating

SPACE = Space([Int("n", 1, 99, default=10), Bool("on"), Permutation("order", 3)])


def _trial(state: str | None, config: Any = None, **attrs: Any) -> FrozenTrial:
    written = {"config": config if isinstance(config, str) else json.dumps(config)} if config is not None else {}
    given = {"state": state} if state is not None else {}
    return create_trial(value=1.0, user_attrs={**given, **written, **attrs})


def _plain(n: int, state: TrialState = TrialState.COMPLETE, value: float | None = 1.0, **constraints: float) -> Any:
    study = optuna.create_study()
    study.enqueue_trial({"n": n})
    trial = study.ask({"n": IntDistribution(1, 99)})
    for name, amount in constraints.items():
        trial.set_constraint(name, amount)
    study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)
    (only,) = study.trials
    return only


def test_the_name_of_the_constraint_is_the_studys() -> None:
    assert evidence.VALID == rating.VALID


@pytest.mark.parametrize("kind", ["rejected", "crashed", "timeout", "degraded"])
def test_a_failure_keeps_its_kind_and_who_was_named(kind: str) -> None:
    trial = _trial(kind, {"n": 50}, named=["on", "unknown", "on", 7], blamed=["n"])
    assert evidence_of([trial], SPACE) == [Evidence({"n": 50}, False, kind, ("on",), False, ("n",))]


def test_a_valid_trial_is_what_was_requested_not_what_took_effect() -> None:
    trial = _trial("valid", {"n": 50, "order": [2, 0, 1]}, effective={"n": 20}, named=["n"])
    assert evidence_of([trial], SPACE) == [Evidence({"n": 50, "order": (2, 0, 1)}, True)]


@pytest.mark.parametrize("state", [*sorted(UNBLAMED), "refused"])
def test_what_says_nothing_about_the_configuration_gives_nothing(state: str) -> None:
    assert evidence_of([_trial(state, {"n": 50})], SPACE) == []


def test_running_waiting_and_pruned_trials_give_nothing() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"n": 3})
    study.ask(SPACE.distributions())
    study.enqueue_trial({"n": 4})
    study.add_trial(create_trial(state=TrialState.PRUNED, params={"n": 5}, distributions={"n": IntDistribution(1, 99)}))
    assert len(study.trials) == 3
    assert evidence_of(study.trials, SPACE) == []


def test_plain_studies_say_it_by_a_constraint_or_by_failing() -> None:
    assert evidence_of([_plain(7)], SPACE)[0].valid
    assert evidence_of([_plain(7, valid=-1.0, p99=3.0)], SPACE)[0].valid
    (broken,) = evidence_of([_plain(7, valid=1.0)], SPACE)
    assert (broken.config["n"], broken.valid, broken.kind) == (7, False, "degraded")
    (failed,) = evidence_of([_plain(8, TrialState.FAIL)], SPACE)
    assert (failed.config["n"], failed.valid, failed.kind) == (8, False, "crashed")


def test_a_value_that_is_no_number_is_a_failure() -> None:
    trial = _plain(7)
    trial.values = [math.nan]
    assert not evidence_of([trial], SPACE)[0].valid


@pytest.mark.parametrize("written", ["no json", "[1, 2]", "3"])
def test_a_config_that_cannot_be_read_is_taken_from_the_parameters(written: str) -> None:
    trial = _plain(9)
    trial.user_attrs["config"] = written
    assert evidence_of([trial], SPACE)[0].config["n"] == 9
    # Nothing is left to go by: it must not pass for the default.
    assert evidence_of([_trial("crashed", written)], SPACE) == []


def test_choices_of_another_time_do_not_stop_the_reading() -> None:
    space = Space([Choice("codec", ("lz4", "zstd")), Int("n", 1, 99)])
    distributions = {"codec": optuna.distributions.CategoricalDistribution(("lz4", "snappy"))}
    trial = create_trial(value=1.0, params={"codec": "snappy"}, distributions=distributions)
    assert evidence_of([trial], space) == []


def test_a_space_that_has_changed_keeps_what_still_concerns_it() -> None:
    past = [
        Evidence({"n": 50, "gone": 3}, True),
        Evidence({"n": 200}, True),
        Evidence({"n": 200}, False, "rejected"),
        # Perhaps what is gone was to blame.
        Evidence({"n": 50, "gone": 3}, False, "rejected"),
        Evidence({"n": 60}, False, "rejected"),
    ]
    assert inside(past, SPACE) == [Evidence({"n": 50}, True), Evidence({"n": 99}, True), past[-1]]


def test_trials_come_in_their_order() -> None:
    first, second = _plain(1), _plain(2)
    second.number = 1
    assert [one.config["n"] for one in evidence_of([second, first], SPACE)] == [1, 2]


@pytest.mark.parametrize(
    ("one", "starting"),
    [
        (Evidence({}, False, "rejected"), True),
        (Evidence({}, False, "timeout"), True),
        (Evidence({}, False, "crashed"), False),
        (Evidence({}, False, "degraded"), False),
        # Whatever a probe died of, it was before any load.
        (Evidence({}, False, "crashed", probe=True), True),
        (Evidence({}, True, probe=True), False),
    ],
)
def test_failures_at_start_are_told_from_failures_under_load(one: Evidence, starting: bool) -> None:
    assert one.at_start is starting

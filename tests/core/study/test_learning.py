"""Studies that learn where their target works: probes after failures, judgements, and trials in turns."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import PluginError, SpaceError, StudyError
from mlsysopt.core.search import validity
from mlsysopt.core.store import MeasurementRow, Store
from mlsysopt.core.study import Event, Result, Study
from mlsysopt.core.study.budget import Budget
from mlsysopt.core.study.learning import PROBING_SHARE, Learner, evidence_of_probes, owed_s
from mlsysopt.core.study.measuring import Measurer
from mlsysopt.core.study.turns import Turns
from mlsysopt.core.target import Config, Failure, Limits, Measurement, Outcome, Prober
from mlsysopt.testing.planted import Planted, PlantedSession

LARGEST = 16


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine's timing slot may be held by somebody's study; nothing is timed here.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # Rules decide here, not the forest.
    monkeypatch.setattr(validity, "TREES", 8)


@dataclass(frozen=True)
class Touchy(Planted):
    """Blocks above 16 KiB are refused, and probes can tell."""

    learns_validity: bool = True
    probe_s: float = 0.01
    opened: list[TouchySession] = field(default_factory=list["TouchySession"], compare=False)

    @contextmanager
    def session(self, limits: Limits, *, purpose: str = "search") -> Generator[TouchySession]:  # type: ignore[override]
        self.opened.append(TouchySession(self))
        yield self.opened[-1]


class TouchySession:
    """A run seems to take a second."""

    def __init__(self, target: Touchy) -> None:
        self.target = target
        self.inner = PlantedSession(target)

    def _refusal(self, config: Config) -> Failure | None:
        block = config.get("block", 4)
        if block <= LARGEST:
            return None
        return Failure("rejected", f"block of {block} KiB", extra={"named": ["block", "buffer"]})

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        refused = self._refusal(config)
        if refused is not None:
            return replace(refused, wall_s=0.1)
        return replace(self.inner.measure(config, seed=seed), wall_s=1.0)

    def probe(self, config: Config, *, timeout_s: float | None = None) -> Outcome:
        refused = self._refusal(config)
        if refused is not None:
            return replace(refused, wall_s=self.target.probe_s)
        return Measurement({}, dict(config), 0.0, self.target.probe_s, time.time())

    def diagnose(self, config: Config, failure: Failure, probe: Callable[[Config], Outcome]) -> Sequence[str]:
        return [name for name, value in config.items() if isinstance(probe({name: value}), Failure)]


def study(target: Planted | None = None, **given: Any) -> Study:
    return Study(target or Touchy(), **{"maximize": "throughput", "sampler": "random", "seed": 3, **given})


def rows_of(one: Study, role: str | None = None) -> list[MeasurementRow]:
    store = one.open_store()
    try:
        return store.measurements(one.name, role=role)  # type: ignore[arg-type]
    finally:
        if one._where is not None:
            store.close()


def refused(one: Study, *, after: int = 0) -> list[int]:
    return [trial.number for trial in one.trials() if trial.state == "rejected" and trial.number >= after]


# --- one failure -------------------------------------------------------------------------------------

FAILED = {"block": 32, "buffer": 9, "codec": "none"}
REJECTED = Failure("rejected", "block of 32 KiB")


def measurer_of(target: Planted, session: Any = None) -> tuple[Store, Measurer]:
    store = Store.open(None)
    measurer = Measurer(
        store=store, study="one", target=target, session=session or TouchySession(target),  # type: ignore[arg-type]
        worker=0, machine=store.machine_key, exclusive=nullcontext,
    )  # fmt: skip
    store.study("one", identity={"objectives": ["x"]}, directions=["maximize"])
    return store, measurer


def plenty() -> float:
    return 60.0


def test_probes_find_the_culprit_and_are_recorded_and_charged() -> None:
    store, measurer = measurer_of(Touchy())
    assert isinstance(measurer.prober, Prober)
    learner = Learner(measurer, most_s=1.0, owed_s=plenty, spent_s=0.25)
    assert learner.left_s == 0.75
    assert learner.blame(7, FAILED, REJECTED) == (("block",), "3 probes: it is block")
    rows = store.measurements("one", role="probe")
    assert [(row.trial, row.round, row.side, dict(row.config)) for row in rows] == [
        (7, 1, "probe", {"block": 32}), (7, 2, "probe", {"buffer": 9}), (7, 3, "probe", {"codec": "none"}),
    ]  # fmt: skip
    assert [(row.failure_kind, row.metrics) for row in rows] == [("rejected", None), (None, {}), (None, {})]
    assert measurer.probing_s == measurer.occupied_s == pytest.approx(0.03)
    assert learner.left_s == pytest.approx(0.72)


def test_probes_stop_when_their_part_is_spent() -> None:
    store, measurer = measurer_of(Touchy())
    learner = Learner(measurer, most_s=0.015, owed_s=plenty)
    blamed, said = learner.blame(7, dict(reversed(FAILED.items())), REJECTED)
    assert (blamed, said) == ((), "2 probes found no culprit before what they may cost was spent")
    assert learner.left_s < 0
    assert learner.blame(8, FAILED, REJECTED) == (
        (), "0 probes found no culprit before what they may cost was spent"
    )  # fmt: skip
    assert len(store.measurements("one", role="probe")) == 2


def test_probes_cost_no_more_than_failures_did() -> None:
    """Seven hundredths of a second of failures: with two hundredths a probe, three and the one that goes beyond."""
    store, measurer = measurer_of(Touchy(probe_s=0.02))
    rows: Callable[[], list[MeasurementRow]] = lambda: store.measurements("one")  # noqa: E731
    learner = Learner(measurer, most_s=60.0, owed_s=lambda: owed_s(rows()))
    assert learner.left_s == 0.0 and learner.blame(1, FAILED, REJECTED)[0] == ()
    assert rows() == []
    for number, wall_s in ((2, 0.03), (3, 0.04)):
        _record(measurer, number, replace(REJECTED, wall_s=wall_s))
        learner.blame(number, FAILED, REJECTED)
    assert [row.trial for row in rows() if row.role == "probe"] == [2, 2, 3, 3]
    assert learner.left_s == pytest.approx(0.07 - 0.08)
    # Whoever goes on later follows from the same rows.
    later = Learner(measurer_of(Touchy())[1], most_s=60.0, owed_s=lambda: owed_s(rows()), spent_s=0.08)
    assert later.left_s == learner.left_s


def _record(measurer: Measurer, trial: int, outcome: Outcome) -> None:
    measurer._record(outcome, FAILED, 1, trial=trial, role="trial", round=0, side="trial")


def test_failures_cost_what_their_trials_took_or_trials_themselves() -> None:
    store, measurer = measurer_of(Touchy())
    default = Measurement({"throughput": 1.0}, {}, 0.0, 1.0, 0.0)
    for number, outcome in enumerate(
        [
            replace(REJECTED, wall_s=0.25), Failure("timeout", "slow", wall_s=4.0), replace(default, wall_s=32.0),
            Failure("crashed", "x", wall_s=64.0), Failure("infrastructure", "x", wall_s=128.0),
            Failure("timeout", "x", wall_s=256.0, extra={"under_load": True}),
            Failure("rejected", "x", wall_s=512.0, extra={"corrected": {"block": 16}}),
        ]
    ):  # fmt: skip
        measurer._record(default, {}, 1, trial=number, role="canary", round=0, side="default")
        _record(measurer, number, outcome)
    # Two that a start alone shows, each with a second of the default beside it.
    assert owed_s(store.measurements("one")) == 0.25 + 4.0 + 2 * 1.0
    assert owed_s(store.measurements("one"), trial_s=3.0) == 6.0
    measurer.probe({"block": 32}, trial=0, round=1)
    assert owed_s(store.measurements("one"), trial_s=3.0) == 6.0 - 0.01


def test_a_challenger_that_fails_in_a_later_round_has_cost_all_of_them() -> None:
    store, measurer = measurer_of(Touchy())
    default = Measurement({"throughput": 1.0}, {}, 0.0, 1.0, 0.0)
    for number, outcome in enumerate([default, replace(REJECTED, wall_s=0.5)]):
        measurer._record(default, {}, 1, trial=4, role="canary", round=number, side="default")
        measurer._record(outcome, FAILED, 1, trial=4, role="trial", round=number, side="trial")
    assert owed_s(store.measurements("one")) == 3.5


def test_no_culprit_is_no_blame() -> None:
    _, measurer = measurer_of(Touchy())
    learner = Learner(measurer, most_s=1.0, owed_s=plenty)
    assert learner.blame(7, {"buffer": 9}, REJECTED) == ((), "1 probes found no culprit")


@pytest.mark.parametrize(
    ("failure", "blamed", "said"),
    [
        (Failure("degraded", "x", extra={"corrected": {"block": 16}}), ("block",),
         "the system uses other values of block"),
        (Failure("crashed", "x"), (), "it failed under load, which probes cannot show"),
        (Failure("degraded", "x"), (), "it failed under load, which probes cannot show"),
        (Failure("timeout", "x", extra={"under_load": True}), (), "it failed under load, which probes cannot show"),
        (Failure("timeout", "x"), ("block",), "3 probes: it is block"),
    ],
)  # fmt: skip
def test_what_probes_cannot_show_is_not_probed(failure: Failure, blamed: tuple[str, ...], said: str) -> None:
    store, measurer = measurer_of(Touchy())
    assert Learner(measurer, most_s=1.0, owed_s=plenty).blame(7, FAILED, failure) == (blamed, said)
    assert bool(store.measurements("one", role="probe")) == said.startswith("3 probes")


def test_a_session_that_cannot_probe_blames_nobody() -> None:
    _, measurer = measurer_of(Planted(), PlantedSession(Planted()))
    assert measurer.prober is None
    assert Learner(measurer, most_s=1.0, owed_s=plenty).blame(7, FAILED, REJECTED)[0] == ()


def test_a_probe_that_raises_is_named_with_file_and_line() -> None:
    class Raises(TouchySession):
        def probe(self, config: Config, *, timeout_s: float | None = None) -> Outcome:
            raise ZeroDivisionError("oops")

    _, measurer = measurer_of(Touchy(), Raises(Touchy()))
    with pytest.raises(PluginError, match=r"'planted' raised in Session.probe .*oops.*test_learning.py:\d+"):
        Learner(measurer, most_s=1.0, owed_s=plenty).blame(7, FAILED, REJECTED)


def test_what_the_machine_spoiled_is_no_evidence() -> None:
    outcomes = [
        Failure("infrastructure", "no space left"), Failure("rejected", "bad", extra={"named": ["block"]}),
        Failure("lost", "gone"), Failure("timeout", "slow"), Measurement({}, {}, 0.0, 0.1, 0.0),
    ]  # fmt: skip

    class Scripted(TouchySession):
        def probe(self, config: Config, *, timeout_s: float | None = None) -> Outcome:
            return outcomes[config["block"]]

    store, measurer = measurer_of(Touchy(), Scripted(Touchy()))
    for number in range(len(outcomes)):
        measurer.probe({"block": number}, trial=1, round=number)
    found = evidence_of_probes(store.measurements("one", role="probe"))
    assert [(one.config["block"], one.valid, one.kind, one.named) for one in found] == [
        (1, False, "rejected", ("block",)), (3, False, "timeout", ()), (4, True, "", ()),
    ]  # fmt: skip
    assert all(one.probe for one in found)


# --- whole studies -----------------------------------------------------------------------------------


def test_a_study_that_may_probe_proposes_nothing_refused_late() -> None:
    learned, blind = study(seed=6), study(seed=6, validity="none")
    result = learned.run(24, verify=False)
    blind.run(24, verify=False)
    assert len(refused(blind, after=8)) >= 4
    assert refused(learned, after=8) == []
    assert {row.role for row in rows_of(blind)} == {"baseline", "trial", "canary"}
    probes = rows_of(learned, "probe")
    # Every failure of a start was looked into: one probe for each knob.
    failed = {trial.number for trial in learned.trials() if trial.state in ("rejected", "timeout")}
    assert {row.trial for row in probes} == failed and len(probes) == 5 * len(failed)
    texts = [rule["text"] for rule in result.rules]
    assert any(text.startswith("block <") for text in texts), texts
    assert f"rule: {texts[0]}   ({result.rules[0]['origin']})" in result.text()


def test_blame_and_named_knobs_are_kept_with_the_trial() -> None:
    one = study()
    one.run(12, verify=False)
    with one.open_store() as store:
        stored = store.study(one.name, identity=one.identity(), directions=["maximize"], load_only=True).get_trials()
    failed = [trial for trial in stored if trial.user_attrs["state"] == "rejected"]
    assert failed
    for trial in failed:
        assert (trial.user_attrs["blamed"], trial.user_attrs["named"]) == (["block"], ["block", "buffer"])
    assert all("blamed" not in trial.user_attrs for trial in stored if trial not in failed)


def test_looking_into_a_failure_is_told() -> None:
    told: list[Event] = []
    study(on_event=told.append).run(12, verify=False)
    notes = [event.text for event in told if event.kind == "note"]
    assert any(text.endswith("rejected: looking for what made it fail") for text in notes)
    assert any(text.endswith("5 probes: it is block") for text in notes)


def test_probes_take_a_quarter_of_a_budget_of_trials_at_most() -> None:
    """Of 20 trials and their canaries, a second each, ten seconds; ranges took nine. The first failure owes two."""
    assert PROBING_SHARE == 0.25
    one = study(Touchy(probe_s=0.5), charged_s=9.0)
    one.run(20, verify=False)
    assert sum(row.wall_s for row in rows_of(one, "probe")) == 10.0 - 9.0


@pytest.mark.parametrize("budget", ["60s", 20])
def test_probes_of_a_study_cost_no_more_than_its_failures_even_after_a_stop(budget: Any, tmp_path: Path) -> None:
    """Failures cost what their trials took, or as many trials of the budget."""

    def stop(event: Event) -> None:
        if event.kind == "asked" and event.data["trial"] == 8:
            raise KeyboardInterrupt

    given = {"store": tmp_path / "tune.db", "target": Touchy(probe_s=0.4)}
    first = study(**given, on_event=stop)
    with turning(first, budget) as turns, pytest.raises(KeyboardInterrupt):
        turns.prepare()
        while turns.step():
            pass
    assert refused(first) and rows_of(first, "probe")
    again = study(**given)
    with turning(again, budget) as turns:
        turns.prepare()
        while turns.step():
            pass
    spent_s = lost_s = 0.0
    for row in rows_of(again):
        if row.role == "probe":
            assert spent_s < lost_s
            spent_s += row.wall_s
        elif row.role == "trial" and row.failure_kind in ("rejected", "timeout"):
            # Its own time and a second of its canary; or a trial of the budget.
            lost_s += row.wall_s + 1.0 if budget == "60s" else 2.0
    assert 0.0 < spent_s < lost_s + 0.4


def test_a_search_for_ranges_before_it_is_charged() -> None:
    one = study(charged_s=0.25 * 20 * 2 * 1.0)
    one.run(20, verify=False)
    assert refused(one) and rows_of(one, "probe") == []
    with turning(study(charged_s=12.0), "60s") as turns:
        assert turns.spent_s == 12.0


def test_a_resumed_study_keeps_its_probes_and_does_not_begin_their_part_again(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "asked" and event.data["trial"] == 10:
            raise KeyboardInterrupt

    given = {"store": tmp_path / "tune.db", "target": Touchy(probe_s=2.0)}
    first = study(**given, on_event=stop)
    first.run(20, verify=False)
    before = rows_of(first, "probe")
    assert before
    again = study(**given)
    result = again.run(20, verify=False)
    after = rows_of(again, "probe")
    assert [row.config for row in after[: len(before)]] == [row.config for row in before]
    assert sum(row.wall_s for row in after) < 0.25 * 20 * 2 + 2.0
    # What was learned before the stop still holds.
    assert any(rule["text"].startswith("block <") for rule in result.rules)


def test_what_cannot_be_probed_is_not() -> None:
    one = study(Planted())
    result = one.run(15, verify=False)
    assert result.rules == () and rows_of(one, "probe") == []
    # Asked for, it learns from trials alone.
    one = study(Planted(), validity="learned")
    one.run(15, verify=False)
    assert rows_of(one, "probe") == []


def test_rules_survive_the_json_of_a_result() -> None:
    result = study().run(20, verify=False)
    again = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert result.rules and again.rules == result.rules
    assert set(result.rules[0]) >= {"text", "origin", "hard", "refusals", "support"}
    assert again.text() == result.text()
    older = {key: value for key, value in result.to_json().items() if key != "rules"}
    assert Result.from_json(older).rules == ()


def test_the_budget_is_written_where_samplers_look() -> None:
    import optuna

    plain = optuna.create_study()
    Budget.parse("2min").announce(plain)
    assert plain.user_attrs == {"budget_s": 120.0}
    Budget.parse(30).announce(plain)
    assert plain.user_attrs["budget_trials"] == 30


# --- judging given configurations --------------------------------------------------------------------

GOOD, BAD = {"block": 16, "buffer": 128}, {"block": 1}


def sides(one: Study) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for row in rows_of(one, "verify"):
        found.setdefault(row.seed, []).append(row.side)
    return found


def test_given_configurations_are_judged_in_the_same_rounds() -> None:
    target = Touchy()
    one = study(target, guard={"write_us": "off"})
    good, bad = one.judge([GOOD, BAD])
    assert [(good.trial, good.verdict), (bad.trial, bad.verdict)] == [(0, "proven"), (1, "refuted")]
    truth = target.truth(GOOD)["throughput"] / target.truth({})["throughput"]
    told = good.ratios["throughput"]
    assert told.low <= truth <= told.high and good.config == GOOD
    assert list(sides(one).values()) and all(
        sorted(taken) == ["default", "trial 0", "trial 1"] for taken in sides(one).values()
    )
    # No trial was run, and no verdict of the study itself is there.
    assert one.trials() == []


def test_one_configuration_alone_and_one_that_does_not_run() -> None:
    (alone,) = study().judge([GOOD])
    assert alone.verdict == "proven"
    good, failed = study().judge([GOOD, {"block": 64}])
    assert good.verdict == "proven"
    assert (failed.verdict, failed.reason) == ("failed", "it did not run: rejected: block of 64 KiB")


def test_a_judgement_uses_the_session_that_is_open() -> None:
    target = Touchy()
    with target.session(Limits()) as session:
        study(target).judge([GOOD], session=session, rounds=6)
    assert target.opened == [session]


def test_what_cannot_be_judged_is_refused_before_anything_runs() -> None:
    one = study()
    with pytest.raises(SpaceError, match="block"):
        one.judge([GOOD, {"block": 1000}])
    with pytest.raises(StudyError, match="at least 6"):
        one.judge([GOOD], rounds=5)
    assert rows_of(one) == []


def test_a_judgement_that_was_stopped_goes_on_with_its_rounds(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "verify" and event.data["rounds"] == 4:
            raise KeyboardInterrupt

    stopped = study(store=tmp_path / "tune.db", on_event=stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.judge([GOOD, BAD], rounds=6)
    before = sides(stopped)
    again = study(store=tmp_path / "tune.db")
    found = again.judge([GOOD, BAD], rounds=6)
    after = sides(again)
    assert list(after)[:4] == list(before)[:4] and all(len(after[seed]) == 3 for seed in list(before)[:4])
    undisturbed = study()
    assert undisturbed.judge([GOOD, BAD], rounds=6) == found
    # Another question is another judgement.
    again.judge([BAD], rounds=6)
    assert len(sides(again)) == len(after) + 6


# --- a trial at a time -------------------------------------------------------------------------------


@contextmanager
def turning(one: Study, budget: Any, session: Any = None) -> Generator[Turns]:
    with one.turns(budget, session=session or TouchySession(one.target)) as turns:  # type: ignore[arg-type]
        yield turns


def told_of(one: Study) -> list[tuple[Mapping[str, Any], tuple[float, ...], str]]:
    return [(trial.config, trial.gains, trial.state) for trial in one.trials()]


@pytest.mark.parametrize(("sampler", "learning"), [("random", "auto"), ("tpe", "none"), ("qmc", "auto")])
def test_step_by_step_is_trial_for_trial_what_a_run_is(sampler: str, learning: Any) -> None:
    whole, stepped = (study(sampler=sampler, validity=learning) for _ in range(2))
    whole.run(15, verify=False)
    with turning(stepped, 15) as turns:
        turns.prepare()
        while turns.step():
            pass
        assert not turns.step()
        assert [view.config for view in turns.trials()] == [view.config for view in stepped.trials()]
        best = turns.candidates()
    assert told_of(stepped) == told_of(whole)
    assert best[0].gains[0] == max(view.gains[0] for view in stepped.trials() if view.feasible)


def test_only_the_time_in_which_the_target_is_occupied_counts() -> None:
    one = study(Touchy(probe_s=0.5))
    with turning(one, "30s") as turns:
        assert turns.spent_s == 0.0
        turns.prepare()
        assert turns.spent_s == 3.0
        while turns.step():
            pass
        rows = rows_of(one)
        assert turns.spent_s == pytest.approx(sum(row.wall_s for row in rows))
        assert {"baseline", "trial", "canary", "probe"} == {row.role for row in rows}
        # Another trial and its canary would not fit; nothing is set aside for a verification.
        assert 28.0 < turns.spent_s <= 30.0 + 2.0
        assert turns.ask_cpu_s > 0


def test_it_goes_on_with_the_time_that_it_has_left(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    with turning(study(store=path), "30s") as turns:
        turns.prepare()
        for _ in range(4):
            assert turns.step()
        spent_s, asked_s = turns.spent_s, turns.ask_cpu_s
    one = study(store=path)
    with turning(one, "30s") as turns:
        assert turns.spent_s == pytest.approx(spent_s) and turns.ask_cpu_s == pytest.approx(asked_s)
        turns.prepare()
        assert turns.spent_s == pytest.approx(spent_s)
        while turns.step():
            pass
        assert turns.ask_cpu_s > asked_s
    assert sum(row.wall_s for row in rows_of(one)) <= 30.0 + 2.0


def test_studies_that_share_a_session_share_its_default(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    target = Touchy()
    first, second = study(target, store=path, name="a"), study(target, store=path, name="b", sampler="tpe")
    with target.session(Limits()) as session, turning(first, 10, session) as a, turning(second, 10, session) as b:
        a.prepare()
        b.adopt(a.baseline())
        b.adopt(a.baseline())
        b.prepare()
        assert [(row.study, row.metrics) for row in b.baseline()] == [("b", row.metrics) for row in a.baseline()]
        # Each is charged for it, whoever measured it.
        assert a.spent_s == b.spent_s == 3.0
        going = [a, b]
        while going:
            turn = min(going, key=lambda one: one.spent_s)
            if not turn.step():
                going.remove(turn)
        spent = a.spent_s, b.spent_s
    assert target.opened == [session]
    assert [trial.config for trial in first.trials()[:6]] == [trial.config for trial in second.trials()[:6]]
    for one, spent_s in zip((first, second), spent, strict=True):
        assert sum(trial.state != "lost" for trial in one.trials()) == 10
        with turning(one, 10) as turns:
            assert turns.spent_s == pytest.approx(spent_s)

"""Ranges found by start-only probes: near the truth, never beyond it, and unmoved by a machine that misbehaves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import InfrastructureError, UsageError
from mlsysopt.core.space import Float, Int
from mlsysopt.core.store import Store
from mlsysopt.core.study.events import Event
from mlsysopt.core.target import Failure, Outcome
from mlsysopt.operate.tune import discovery as module
from mlsysopt.operate.tune.discovery import discover, known
from mlsysopt.operate.tune.server import Knob
from mlsysopt.operate.tune.server_target import server_target
from tests.operate.tune.fake_ranges import STARTED, FakeTarget, Kept, fake_target, refused, within
from tests.operate.tune.planted_server import Planted

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def store() -> Any:
    with Store.open(None) as opened:
        yield opened


def in_memory(target: FakeTarget, **named: Any) -> Any:
    kept: Any = Kept()
    return discover(target, store=kept, budget=HOUR, **named)


def knob(
    name: str = "size", default: Any = 100, low: float | None = 1, high: float | None = 10**6, **more: Any
) -> Knob:
    return Knob(name=name, kind=more.pop("kind", "int"), default=default, low=low, high=high, **more)


def ends(discovery: Any, name: str = "size") -> tuple[float, float]:
    parameter = discovery.target.space()[name]
    return parameter.low, parameter.high


# --- the search ----------------------------------------------------------------------------------


@given(
    default=st.integers(1, 10**5),
    below=st.floats(1.0, 1e5),
    above=st.floats(1.0, 1e5),
    kind=st.sampled_from(["rejected", "timeout", "crashed"]),
    scale=st.sampled_from([1, 8192]),
)
def test_a_range_ends_within_a_factor_of_two_of_what_fails(
    default: int, below: float, above: float, kind: Any, scale: int
) -> None:
    truth = (max(1, round(default / below)), min(round(default * above), 10**8))
    one = knob(default=default, low=1, high=10**8, scale=scale, unit="B" if scale > 1 else "")
    target = fake_target([one], within({"size": (truth[0] * scale, truth[1] * scale)}, kind=kind), memory_bytes=2**60)
    found = in_memory(target)
    low, high = ends(found)
    assert low <= default * scale <= high
    assert found.target.space()["size"].default == default * scale
    if truth[0] < truth[1]:
        assert truth[0] * scale <= low or high == low  # never beyond the truth
        assert high <= truth[1] * scale or low == default * scale
    # Values that fail first: one below the truth and one above it.
    assert (truth[1] + 1) * scale <= 2 * high
    assert low <= 2 * max(truth[0] - 1, 1) * scale
    assert found.complete and found.probes <= 60


@given(default=st.floats(1e-6, 1e6), below=st.floats(1.0, 1e4), above=st.floats(1.0, 1e4))
def test_a_range_of_numbers_too(default: float, below: float, above: float) -> None:
    one = knob(kind="float", default=default, low=0.0, high=1e12)
    truth = default / below, default * above
    found = in_memory(fake_target([one], within({"size": truth})))
    low, high = ends(found)
    assert low <= default <= high
    if min(above, below) > 1.6:
        assert truth[0] <= low <= 2 * truth[0] and truth[1] / 2 <= high <= truth[1]


@given(default=st.integers(10, 40), low=st.integers(10, 40), high=st.integers(10, 40))
def test_a_range_without_ratios_is_found_to_a_sixteenth(default: int, low: int, high: int) -> None:
    truth = min(default, low), max(default, high)
    found = in_memory(fake_target([knob(default=default, low=10, high=40)], within({"size": truth})))
    if truth[0] < truth[1]:
        assert truth[0] <= ends(found)[0] <= truth[0] + 3 and truth[1] - 3 <= ends(found)[1] <= truth[1]


def test_values_grow_by_squares_and_stop_at_what_the_listing_says() -> None:
    target = fake_target([knob(default=100, low=100, high=200_000)], within({}))
    found = in_memory(target)
    assert target.probes.values[:4] == [400, 1600, 25_600, 200_000]
    assert ends(found) == (100, 200_000)
    assert found.found[0].high.origin == "metadata" and found.found[0].low.origin == "metadata"
    assert found.target.space()["size"].high_origin == "discovered"


def test_a_range_that_nobody_bounds_ends_at_a_span_of_two_to_the_twentieth() -> None:
    found = in_memory(fake_target([knob(default=4096, low=None, high=None)], within({})))
    assert ends(found) == (1, 2**32)
    assert found.found[0].high.origin == "span"
    found = in_memory(fake_target([knob(default=10, low=1, high=10**12)], within({})))
    assert ends(found) == (1, 10 * 2**20)


def test_sizes_stop_at_the_memory_budget() -> None:
    one = knob(default=1024, low=16, high=2**40, scale=8192, unit="B")
    target = fake_target([one], within({}), memory_bytes=10**9)
    found = in_memory(target)
    assert max(target.probes.values) == ends(found)[1] == 10**9 // 8192 * 8192
    assert found.found[0].high.origin == "memory budget"


def test_a_default_beyond_the_memory_budget_is_where_the_range_ends() -> None:
    one = knob(default=2**20, low=16, high=2**40, scale=8192, unit="B")
    found = in_memory(fake_target([one], within({}), memory_bytes=10**9))
    assert ends(found)[1] == 2**33


@pytest.mark.parametrize("said", [
    '{value} is outside the valid range for parameter "size" (8 .. 777)',
    "size: argument must be between 8 and 777 inclusive",
    '{value} kB is outside the valid range for parameter "size" (8 kB .. 777 kB)',
])  # fmt: skip
def test_bounds_that_a_message_states_end_a_side_at_once(said: str) -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        return STARTED if 8 <= value <= 777 else refused("size", value, said=said.format(value=value))

    target = fake_target([knob()], answer)
    found = in_memory(target)
    assert ends(found) == (8, 777)
    assert found.found[0].high.origin == found.found[0].low.origin == "server message"
    assert len(target.probes.values) <= 12


def test_stated_bounds_are_in_the_units_of_the_server() -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        text = f'{value // 8192} is outside the valid range for parameter "size" (16 .. 5000)'
        return STARTED if 16 <= value // 8192 <= 5000 else refused("size", value, said=text)

    found = in_memory(fake_target([knob(default=1024, low=1, high=2**40, scale=8192, unit="B")], answer))
    assert ends(found) == (16 * 8192, 5000 * 8192)


def test_a_bound_that_is_stated_for_another_knob_is_not_ours() -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        said = f"{value} needs other between 1 and 200"
        return STARTED if value <= 5000 else Failure("rejected", said, extra={"named": ["other"]})

    found = in_memory(fake_target([knob()], answer))
    assert 2500 < ends(found)[1] <= 5000


def test_a_stated_bound_that_does_not_start_is_not_believed() -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        return STARTED if value <= 150 else refused("size", value, said=f"size = {value}: outside (1 .. 350)")

    found = in_memory(fake_target([knob()], answer))
    assert 100 <= ends(found)[1] <= 150


def test_a_silent_correction_is_a_bound() -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        used = min(max(value // 8192, 4), 500)
        if used == value // 8192:
            return STARTED
        extra = {"named": ["size"], "corrected": {"size": used}}
        return Failure("degraded", f"size: asked {value // 8192}, the server uses {used}", extra=extra)

    target = fake_target([knob(default=10, high=10**6, scale=8192, unit="B")], answer)
    found = in_memory(target)
    assert ends(found) == (4 * 8192, 500 * 8192)
    assert found.found[0].high.origin == "server message" and "uses 500" in found.found[0].high.message


def test_a_special_default_starts_from_the_middle() -> None:
    one = knob(default=-1, low=-1, high=2**18, scale=8192, unit="B")
    target = fake_target([one], within({"size": (4 * 8192, 2**28)}))
    found = in_memory(target)
    assert target.probes.values[0] == 512 * 8192
    assert target.space()["size"].special == (-1, 0)
    low, high = ends(found)
    assert 4 * 8192 <= low <= 6 * 8192 and 2**28 / 1.5 <= high <= 2**28


def test_a_special_value_is_tried_once_and_ruled_out_where_it_is_refused() -> None:
    one = knob(default=-1, low=-1, high=1000)
    found = in_memory(fake_target([one], within({"size": (1, 500)})))
    assert [text.text for text in found.target.space().constraints] == ["size != 0"]
    assert found.found[0].refused[0][0] == 0


def test_a_range_of_which_nothing_starts_stays_as_it_is() -> None:
    target = fake_target([knob(default=-1, low=-1, high=1000)], within({"size": (-1, 0)}))
    found = in_memory(target)
    assert ends(found) == (1, 1000) and found.complete
    assert "no value of its range was seen to start" in found.notes[0]


def test_only_the_default_starts() -> None:
    found = in_memory(fake_target([knob()], within({"size": (100, 100)})))
    low, high = ends(found)
    assert low < high <= 150 and low <= 100


def test_what_is_no_interval_is_left_to_the_learned_rules() -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        return refused("size", value) if 300 <= value <= 600 else STARTED

    found = in_memory(fake_target([knob(default=100, low=50)], answer))
    assert ends(found) == (50, 10**6)
    assert found.target.space()["size"].high_origin == "metadata"
    assert "not an interval" in found.notes[0] and "beyond it does" in found.notes[0]
    assert "not an interval" in found.text()


def test_a_hole_inside_is_seen_too() -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        return refused("size", value) if 5000 <= value <= 8000 else STARTED

    found = in_memory(fake_target([knob(default=100, high=30_000)], answer))
    assert "between them does not" in found.notes[0]


def test_one_bad_moment_does_not_make_a_bound() -> None:
    late = iter([True])

    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        if value == 400 and next(late, False):
            return refused("size", value, kind="timeout", named=False)
        return within({"size": (1, 20_000)})(config)

    found = in_memory(fake_target([knob(default=100)], answer))
    assert 10_000 < ends(found)[1] <= 20_000


@given(st.lists(st.integers(1, 25), max_size=6))
def test_starts_that_were_slow_for_a_moment_do_not_make_a_bound(slow: list[int]) -> None:
    count = itertools.count(1)

    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        if value > 20_000 or next(count) in slow:
            return refused("size", value, kind="timeout", named=False)
        return STARTED

    found = in_memory(fake_target([knob(default=100, low=100)], answer))
    # The same value and the one beside it, some probes later: that is believed.
    if all(abs(a - b) > 10 for a, b in itertools.combinations(set(slow), 2)):
        assert 10_000 < ends(found)[1] <= 20_000


def test_choices_and_switches_are_tried_one_by_one() -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        wrong = [name for name, value in config.items() if value in ("turbo", True)]
        return refused(wrong[0], config[wrong[0]]) if wrong else STARTED

    mode = Knob(name="mode", kind="choice", default="safe", choices=("safe", "fast", "turbo"))
    switches = [Knob(name=name, kind="bool", default=default) for name, default in (("huge", False), ("sync", True))]
    target = fake_target([mode, *switches], answer)
    found = in_memory(target)
    space = found.target.space()
    assert [rule.text for rule in space.constraints] == ["mode != 'turbo'", "not huge"]
    assert all(rule.origin == "discovered" for rule in space.constraints)
    assert len(target.probes.values) == 4
    rng = np.random.default_rng(0)
    assert {(one["mode"], one["huge"]) for one in space.sample(rng, 50)} == {("safe", False), ("fast", False)}
    assert "mode: turbo is refused" in found.text() and "huge: on is refused" in found.text()


# --- a machine that misbehaves -------------------------------------------------------------------


TRUTHS = {"a": (3, 5000), "b": (100, 100_000), "c": (1, 130)}


def three(**named: Any) -> FakeTarget:
    return fake_target([knob(name) for name in TRUTHS], within(TRUTHS), **named)


CLEAN = in_memory(three()).target.space()


@given(
    first=st.integers(1, 70),
    length=st.integers(2, 3),
    kind=st.sampled_from(["rejected", "timeout", "infrastructure", "degraded"]),
)
def test_starts_that_fail_for_a_while_change_no_bound(first: int, length: int, kind: Any) -> None:
    fault = Failure(kind, "FATAL:  pre-existing block is still in use")
    target = three(broken=range(first, first + length), fault=fault)
    found = in_memory(target)
    assert found.target.space() == CLEAN
    assert found.complete
    # Where the fault met nothing but sanity probes, what came before them is void all the same, or was all kept.
    if first < 20:
        assert found.voided >= 1 and "void" in found.text()


def test_the_fault_would_change_bounds_if_nobody_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Run, "_check", lambda run: run._keep())
    assert in_memory(three(broken=range(8, 12))).target.space() != CLEAN


def test_starts_that_keep_failing_end_the_run_and_keep_what_was_certain(store: Store) -> None:
    target = three(broken=range(15, 10_000))
    with pytest.raises(InfrastructureError, match="no longer starts: something is in the way"):
        discover(target, store=store, budget=HOUR)
    before = len(store.samples(module.ROOM))
    assert 5 <= before < 15
    target.probes.broken = range(0)
    target.probes.asked.clear()
    assert discover(target, store=store, budget=HOUR).target.space() == CLEAN
    assert len(store.samples(module.ROOM)) == before + len(target.probes.values)


def test_the_default_is_started_after_every_killed_start_and_every_tenth_probe() -> None:
    target = fake_target([knob()], within({"size": (1, 10_000)}, kind="timeout"))
    in_memory(target)
    asked = target.probes.asked
    killed = [i for i, config in enumerate(asked) if config and config["size"] > 10_000]
    assert killed and all(asked[i + 1] == {} for i in killed)
    calm = fake_target([knob(name) for name in "abcd"], within({}))
    in_memory(calm)
    runs = [
        len(list(group)) for sane, group in itertools.groupby(calm.probes.asked, key=lambda one: not one) if not sane
    ]
    assert max(runs) == 10


def test_what_the_machine_refuses_every_time_counts_as_refused() -> None:
    def answer(config: Mapping[str, Any]) -> Outcome:
        (value,) = config.values()
        return STARTED if value <= 5000 else Failure("infrastructure", "no space left on device")

    found = in_memory(fake_target([knob(default=100)], answer))
    assert 2500 < ends(found)[1] <= 5000 and found.voided > 0


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [0, 1, 4, 8, 12, 20, 30])
def test_when_time_is_up_every_range_is_what_was_seen_to_start(probes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    target = three()
    clock = SimpleNamespace(monotonic=lambda: float(len(target.probes.asked)), time=lambda: 0.0, sleep=lambda _: None)
    monkeypatch.setattr(module, "time", clock)
    with Store.open(None) as opened:
        found = discover(target, store=opened, budget=float(probes))
    assert not found.complete and "not complete" in found.text()
    assert len(target.probes.asked) <= probes + 2
    for name, (low, high) in TRUTHS.items():
        one = found.target.space()[name]
        bound = next(bound for bound in found.found if bound.name == name)
        assert isinstance(one, Int) and one.low <= 100 <= one.high
        assert low <= one.low or bound.low.state == "untried"
        assert one.high <= max(high, 150) or bound.high.state == "untried"
    if probes:
        assert any("time was up" in note for note in found.notes)
    else:
        assert target.probes.opened == 0 and found.target.space() == target.space()


def test_every_knob_has_its_coarse_answer_before_one_is_refined() -> None:
    target = three()
    in_memory(target)
    refined = next(
        i for i, value in enumerate(target.probes.values) if value not in (400, 1600, 25_600, 25, 6, 1, 10**6)
    )
    assert {name for config in target.probes.asked[:refined] for name in config} == set(TRUTHS)


# --- what is kept --------------------------------------------------------------------------------


def test_what_a_store_knows_is_not_probed_again(store: Store) -> None:
    target = three()
    first = discover(target, store=store, budget=HOUR)
    probed = len(target.probes.asked)
    second = discover(target, store=store, budget=HOUR)
    assert len(target.probes.asked) == probed and second.probes == 0 and target.probes.opened == 1
    assert second.target.space() == first.target.space() == known(target, store).space()
    assert second.found == first.found
    discover(target, store=store, budget=HOUR, again=True)
    assert len(target.probes.asked) == 2 * probed


def test_a_store_keeps_bounds_with_their_origin(store: Store) -> None:
    target = fake_target(
        [knob(), Knob(name="huge", kind="bool", default=False)], within({"size": (1, 500), "huge": (0, 0)})
    )
    for _ in range(2):
        discover(target, store=store, budget=HOUR)
    rows = store.bounds(f"{target.range_key()} size")
    assert sorted((row.low, row.high, row.origin) for row in rows if row.low) == [(1.0, None, "metadata")]
    (high,) = [row for row in rows if row.high]
    assert high.origin == "refused" and high.evidence["message"].endswith("is refused")
    (rule,) = store.rules(f"{target.range_key()} huge")
    assert rule.expression == "not huge"


def test_another_machine_and_another_memory_are_probed_anew(store: Store) -> None:
    target = three()
    discover(target, store=store, budget=HOUR)
    assert discover(three(memory_bytes=2**30), store=store, budget=HOUR).probes > 0
    store._machine = "another"
    assert known(target, store).space() == target.space()
    assert discover(target, store=store, budget=HOUR).probes > 0


def test_a_run_that_was_cut_short_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    target = three()
    with monkeypatch.context() as patch:
        clock = SimpleNamespace(
            monotonic=lambda: float(len(target.probes.asked)), time=lambda: 0.0, sleep=lambda _: None
        )
        patch.setattr(module, "time", clock)
        discover(target, store=store, budget=25.0)
    first = list(target.probes.values)
    assert discover(target, store=store, budget=HOUR).target.space() == CLEAN
    rest = target.probes.values[len(first) :]
    assert not {*zip(first, rest, strict=False)} & {(value, value) for value in first}
    assert len(rest) < len(CLEAN.names) * 20


def test_a_narrower_range_of_the_user_is_kept(store: Store) -> None:
    target = fake_target([knob()], within({"size": (1, 5000)}))
    discover(target, store=store, budget=HOUR)
    mine = target.with_space(target.space().with_bounds("size", 50, 200))
    one = discover(mine, store=store, budget=HOUR).target.space()["size"]
    assert isinstance(one, Int) and (one.low, one.high) == (50, 200)


def test_a_path_is_opened_and_closed(tmp_path: Path) -> None:
    target = three()
    discover(target, store=tmp_path / "ranges.db", budget=HOUR)
    assert known(target, tmp_path / "ranges.db").space() == CLEAN


def test_without_a_store_the_users_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    target = three()
    discover(target, budget=HOUR)
    assert (tmp_path / "mlsysopt" / "ranges.db").is_file()
    assert known(target).space() == CLEAN


# --- what is told --------------------------------------------------------------------------------


def test_every_finished_side_is_told_once(store: Store) -> None:
    told: list[Event] = []
    target = three()
    discover(target, store=store, budget=HOUR, on_event=told.append)
    assert sorted((one.data["knob"], one.data["side"]) for one in told) == sorted(
        itertools.product(TRUTHS, ("high", "low"))
    )
    assert all(one.kind == "note" for one in told)
    discover(target, store=store, budget=HOUR, on_event=told.append)
    assert len(told) == 2 * len(TRUTHS)


def test_the_table_says_where_each_range_ends_and_why() -> None:
    one = knob("buffers", default=1024, low=16, high=2**30, scale=8192, unit="B")
    text = in_memory(fake_target([one], within({"buffers": (0, 2**30)}))).text()
    head, row, *_, last = text.splitlines()
    assert head.split() == ["knob", "low", "high", "probes", "low", "ends", "by", "high", "ends", "by"]
    assert row.startswith("buffers  128 KiB") and "metadata" in row and "refused: buffers = " in row
    assert "probes in" in last


def test_it_is_json_too() -> None:
    import json

    found = in_memory(three())
    told = json.loads(json.dumps(found.to_json()))
    assert [one["name"] for one in told["knobs"]] == list(TRUTHS)
    assert told["knobs"][0]["high"]["origin"] == "refused" and told["complete"] is True


def test_an_unknown_knob_is_refused_with_its_neighbour(store: Store) -> None:
    with pytest.raises(UsageError, match="did you mean size"):
        discover(fake_target([knob()], within({})), knobs=["sise"], store=store)


def test_only_the_knobs_that_are_asked_for(store: Store) -> None:
    target = three()
    found = discover(target, knobs=["c"], store=store, budget=HOUR)
    assert {name for config in target.probes.asked for name in config} == {"c"}
    assert found.target.space()["a"] == target.space()["a"]


# --- a server that runs --------------------------------------------------------------------------


def test_the_planted_server(tmp_path: Path, store: Store) -> None:
    names = ["workers", "cache", "mode", "ticks", "ratio", "low_mark"]
    target = server_target(Planted(), knobs=names, memory="8GiB", directory=tmp_path, constraints=False)
    found = discover(target, store=store, budget="60s")
    space = found.target.space()
    by_name: dict[str, Any] = {one.name: one for one in space}
    assert found.complete and found.voided == 0
    assert (by_name["workers"].low, by_name["workers"].high) == (1, 64)
    assert 2**28 / 1.5 <= by_name["cache"].high <= 2**28
    assert (by_name["ticks"].low, by_name["ticks"].high) == (1, 500)
    assert isinstance(by_name["ratio"], Float) and 0.5 <= by_name["ratio"].high <= 1.0
    assert 600 <= by_name["low_mark"].high < 1000
    assert [rule.text for rule in space.constraints if rule.origin == "discovered"] == ["mode != 'turbo'"]
    assert list(tmp_path.iterdir()) == []

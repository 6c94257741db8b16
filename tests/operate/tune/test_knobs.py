"""From a live server's list to a space: bounds, special values, units, groups and fences.

`python tests/golden/tune/regenerate_postgres.py` records the rows of pg_settings and the space of `essentials` anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import MlsysoptError, SpaceError, UsageError
from mlsysopt.core.space import Bool, Choice, Float, Int, Space
from mlsysopt.operate.tune.knobs import SPAN, Catalogue, parameter_of
from mlsysopt.operate.tune.server import Knob
from mlsysopt.operate.tune.servers.postgres import server as postgres
from tests.golden.tune import regenerate_postgres as recorded
from tests.operate.tune.planted_server import Planted

PG_REAL_MAX = 1.79769e308


def knob(
    kind: Literal["int", "float", "bool", "choice"], default: Any, low: Any = None, high: Any = None, **more: Any
) -> Knob:
    return Knob(**{"name": "knob", "kind": kind, "default": default, "low": low, "high": high, **more})


def shape(parameter: Any) -> tuple[Any, ...]:
    """Return what decides which values are tried."""
    if isinstance(parameter, Int | Float):
        return parameter.low, parameter.high, parameter.default, parameter.log, parameter.special
    return (parameter.choices, parameter.default) if isinstance(parameter, Choice) else (parameter.default,)


@pytest.mark.parametrize(
    ("listed", "kind", "wanted"),
    [
        (knob("int", 16384, 16, 2**30, scale=8192), Int, (2**17, 2**43, 2**27, True, ())),
        (knob("int", -1, -1, 262143, scale=8192), Int, (8192, 262143 * 8192, -1, True, (-1, 0))),
        (knob("int", 0, 0, 2147483647, scale=1024), Int, (1024, 2147483647 * 1024, 0, True, (0,))),
        (knob("int", 100, 1, 262143), Int, (1, 262143, 100, True, ())),
        (knob("int", 3, 0, 262143), Int, (1, 262143, 3, True, (0,))),
        (knob("int", 10, 5, 20), Int, (5, 20, 10, False, ())),
        (knob("int", 64, 32, 128, scale=1024), Int, (32768, 131072, 65536, False, ())),
        (knob("int", 1, -15, 3), Int, (1, 3, 1, False, (-1, 0))),
        (knob("int", 0, -1, 3), Int, (1, 3, 0, False, (-1, 0))),
        (knob("int", -5, -10, 3), Int, (1, 3, -5, False, (-5, -1, 0))),
        (knob("float", 1.0, 0.0, PG_REAL_MAX), Float, (1 / SPAN, SPAN, 1.0, True, (0.0,))),
        (knob("float", 0.0025, 0.0, PG_REAL_MAX), Float, (1 / SPAN, SPAN, 0.0025, True, (0.0,))),
        (knob("float", 1e-9, 0.0, PG_REAL_MAX), Float, (1e-9, SPAN, 1e-9, True, (0.0,))),
        (knob("float", 0.9, 0.0, 1.0), Float, (0.0, 1.0, 0.9, False, ())),
        (knob("float", 2.0, 1.0, 1000.0), Float, (1.0, 1000.0, 2.0, True, ())),
        (knob("float", 2.0, 1.5, 2.0), Float, (1.5, 2.0, 2.0, False, ())),
        (knob("float", -1.0, -1.0, 100.0), Float, (1 / SPAN, 100.0, -1.0, True, (-1.0, 0.0))),
        (knob("float", -1.0, 0.5, 1.0), Float, (0.5, 1.0, -1.0, False, (-1.0,))),
        (knob("bool", True), Bool, (True,)),
        (knob("choice", "on", choices=("off", "on", "auto")), Choice, (("off", "on", "auto"), "on")),
    ],
)
def test_every_shape_of_a_row_becomes_a_range(listed: Knob, kind: type, wanted: tuple[Any, ...]) -> None:
    parameter = parameter_of(listed)
    assert isinstance(parameter, kind)
    assert shape(parameter) == wanted
    assert parameter.fault(parameter.default) is None


@pytest.mark.parametrize(
    ("listed", "wanted"),
    [
        (knob("int", 0, 0, 1), (0, 1)),
        (knob("int", -1, -1, 1), (-1, 0, 1)),
        (knob("int", 5, 5, 5), (5,)),
        (knob("int", 0, 0, 0), (0,)),
        (knob("int", 0, 0, 0, scale=1024), (0,)),
        (knob("int", -1, -1, 0, scale=1024), (-1, 0)),
        (knob("int", 4, 4, 4, scale=1024), (4096,)),
        (knob("float", 0.0, 0.0, 0.0), (0.0,)),
        (knob("float", 1.5, 1.5, 1.5), (1.5,)),
        (knob("float", -1.0, -1.0, 0.0), (-1.0, 0.0)),
    ],
)
def test_a_range_of_a_few_values_is_a_choice(listed: Knob, wanted: tuple[Any, ...]) -> None:
    parameter = parameter_of(replace(listed, change="live"))
    assert isinstance(parameter, Choice)
    assert parameter.choices == wanted
    assert not parameter.needs_restart and parameter_of(listed).needs_restart


@pytest.mark.parametrize("default", [0, -1, 1, 7, 4096])
@pytest.mark.parametrize("scale", [1, 1024])
def test_where_nobody_says_the_bounds_it_goes_far_from_the_default(default: int, scale: int) -> None:
    parameter = parameter_of(knob("int", default, scale=scale))
    assert isinstance(parameter, Int)
    middle = max(default, 1) * scale
    assert parameter.low == max(scale, middle // 2**20) and parameter.high == middle * 2**20
    assert parameter.low_origin == parameter.high_origin == "declared"
    # What "nothing" and "automatic" would do is not known, unless it is the default.
    assert parameter.special == ((default,) if default <= 0 else ())


def test_a_bound_says_where_it_comes_from() -> None:
    parameter = parameter_of(knob("int", 4, 1, None, origin="metadata"))
    assert isinstance(parameter, Int)
    assert (parameter.low_origin, parameter.high_origin) == ("metadata", "declared")
    listed = parameter_of(knob("float", 4.0, 1.0, 100.0, origin="declared", unit="ms", about="a wait", change="live"))
    assert isinstance(listed, Float)
    assert (listed.low_origin, listed.unit, listed.about, listed.needs_restart) == ("declared", "ms", "a wait", False)


@st.composite
def knobs(draw: st.DrawFn) -> Knob:
    scale = draw(st.sampled_from([1, 512, 1024, 8192, 2**20]))
    low = draw(st.none() | st.integers(-2, 2**20))
    default = draw(st.integers(low if low is not None else -1, 2**30))
    high = draw(st.none() | st.integers(default, 2**40))
    return knob("int", default, low, high, scale=scale)


@given(knobs(), st.data())
def test_values_survive_the_way_to_the_server_and_back(listed: Knob, data: st.DataObject) -> None:
    parameter = parameter_of(listed)
    known = Catalogue("any", {"knob": listed}, {}, {})
    space = Space([parameter])
    (config,) = space.sobol(1, data.draw(st.integers(0, 1000)))
    value = config["knob"]
    native = known.to_native(config)["knob"]
    assert isinstance(native, int) and isinstance(value, int)
    back = known.from_native("knob", native)
    assert isinstance(back, int)
    assert abs(back - value) <= listed.scale / 2
    # Less than a unit is not nothing, and what the server allows is what it is asked for.
    assert (native > 0) == (value > 0)
    assert value <= 0 or listed.low is None or native >= listed.low
    assert listed.high is None or native <= listed.high
    assert known.from_native("knob", listed.default) == parameter.default


@given(st.integers(1, 2**62))
def test_large_numbers_lose_no_digit(value: int) -> None:
    known = Catalogue("any", {"knob": knob("int", 1, 1, 2**62)}, {}, {})
    assert known.from_native("knob", known.to_native({"knob": value})["knob"]) == value


def test_what_is_no_number_stays_as_it_is() -> None:
    known = Catalogue("any", {"b": knob("bool", True), "c": knob("choice", "x", choices=("x",))}, {}, {})
    assert known.to_native({"b": True, "c": "x", "stranger": 3}) == {"b": True, "c": "x"}
    assert known.from_native("b", True) is True and known.from_native("c", "x") == "x"
    assert Catalogue("any", {"f": knob("float", 2.0, scale=1024)}, {}, {}).to_native({"f": 4096.0}) == {"f": 4.0}


# --- what the server uses instead --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "asked", "used", "corrected"),
    [
        (knob("int", 4, 1, 100), 50, 50, False),
        (knob("int", 4, 1, 100), 50, 49, True),
        (knob("int", 4, 1, 2**20, scale=8192), 3 * 8192 + 100, 3, False),
        (knob("int", 4, 1, 2**20, scale=8192), 3 * 8192, 4, True),
        (knob("int", -1, -1, 2**20, scale=8192), -1, 512, False),
        (knob("int", 0, 0, 100), 0, 16, False),
        (knob("float", 4.0, 0.0, 100.0), 1.23456789, 1.23457, False),
        (knob("float", 4.0, 0.0, 100.0), 1.23456789, 1.24, True),
        (knob("float", 4.0, -1.0, 100.0), -1.0, 2.0, False),
        (knob("bool", True), False, True, True),
        (knob("choice", "a", choices=("a", "b")), "b", "a", True),
        (knob("choice", "a", choices=("a", "b")), "b", "b", False),
    ],
)
def test_a_correction_is_a_difference_that_was_not_asked_for(
    listed: Knob, asked: Any, used: Any, corrected: bool
) -> None:
    known = Catalogue("any", {"knob": listed}, {}, {})
    found = known.corrected({"knob": asked}, {"knob": used, "other": 1})
    assert found == ({"knob": (known.to_native({"knob": asked})["knob"], used)} if corrected else {})


def test_what_the_server_does_not_tell_was_not_corrected() -> None:
    known = Catalogue("any", {"knob": knob("int", 4, 1, 100)}, {}, {})
    assert known.corrected({"knob": 9}, {}) == {}


# --- which knobs -------------------------------------------------------------------------------------

KNOBS = [
    knob("int", 4, 1, 100, name="workers", group="core"),
    knob("int", 16, 1, 2**20, scale=4096, name="cache", group="core"),
    knob("bool", True, name="sync", group="core"),
    knob("bool", True, name="sync_meta", group="core"),
    knob("int", 9, 9, 9, name="page", group="core", change="fixed"),
    knob("int", 5, 1, 50, name="ticks", group="time"),
    knob("int", 5, 1, 50, name="oddity"),
]


def catalogue(presets: dict[str, Sequence[str]] | None = None) -> Catalogue:
    return Catalogue(
        "server", {one.name: one for one in KNOBS}, {"core": "", "time": ""},
        {"durability": ["sync*"], "time": ["tick?"], "empty": []}, presets or {},
    )  # fmt: skip


def names(chosen: list[Knob]) -> list[str]:
    return [one.name for one in chosen]


def test_groups_names_and_both() -> None:
    known = catalogue()
    assert names(known.chosen(None)) == names(known.chosen("core")) == ["workers", "cache"]
    assert names(known.chosen("oddity,core, workers")) == ["oddity", "workers", "cache"]
    assert names(known.chosen(["cache", "oddity"])) == ["cache", "oddity"]


def test_the_first_preset_is_what_is_tuned_when_nobody_says() -> None:
    known = catalogue({"few": ["cache", "of another version"], "all": ["workers", "cache", "oddity"]})
    assert names(known.chosen(None)) == ["cache"]
    assert names(known.chosen("all")) == ["workers", "cache", "oddity"]
    assert names(known.chosen("few,workers")) == ["cache", "workers"]


def test_a_fence_is_lifted_by_name_only() -> None:
    known = catalogue()
    assert names(known.chosen("core", unfence=["durability"])) == ["workers", "cache", "sync", "sync_meta"]
    assert names(known.chosen("sync", unfence=["durability"])) == ["sync"]
    assert (known.fence("sync_meta"), known.fence("ticks"), known.fence("workers")) == ("durability", "time", None)


@pytest.mark.parametrize(
    ("asked", "unfence", "message"),
    [
        ("sync", (), "knob 'sync' of server is fenced (durability): tuning it trades safety or meaning for speed; "
                     "--unfence durability lifts the fence"),
        ("sync", ("time",), "--unfence durability lifts the fence"),
        ("wrokers", (), "server has no knob or group 'wrokers'; did you mean workers?"),
        ("cor", (), "did you mean core?"),
        ("page", (), "knob 'page' of server cannot be set: it is fixed when the server is built"),
        ("time", (), "server has no free knob in time: ask for other groups, or by name"),
        ("workers", ("durabilty",), "no fence 'durabilty' here: did you mean durability?"),
        (" , ", (), "no knobs were named: give groups or names, separated by commas"),
        ([], (), "no knobs were named"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_said_with_the_way_out(asked: Any, unfence: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        catalogue().chosen(asked, unfence=unfence)
    assert message in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_fenced_knob_in_a_preset_is_not_smuggled_in() -> None:
    with pytest.raises(UsageError, match="fenced"):
        catalogue({"fast": ["workers", "sync"]}).chosen(None)


# --- constraints -------------------------------------------------------------------------------------


def test_constraints_hold_with_the_defaults_of_what_is_not_tuned() -> None:
    known = catalogue()
    space = known.space(known.chosen("workers"), ["workers * cache <= 1MiB", "ticks < 10", "oddity >= 1"])
    (rule,) = space.constraints
    assert rule.origin == "declared"
    # 16 pages of 4 KiB: up to 16 workers.
    assert space.violations({"workers": 16}) == []
    assert [one.name for one in space.violations({"workers": 17})] == [rule.text]
    assert known.space(known.chosen("workers"), ["ticks < 10"]).constraints == ()


def test_what_is_set_for_all_runs_counts_instead_of_the_default() -> None:
    known = catalogue()
    space = known.space(known.chosen("workers"), ["workers * cache <= 1MiB"], fixed={"cache": 32})
    assert space.violations({"workers": 8}) == [] and space.violations({"workers": 9}) != []


def test_negative_and_worded_defaults_can_be_filled_in() -> None:
    listed = [
        knob("int", -1, -1, 9, name="auto"),
        knob("choice", "safe", choices=("safe", "fast"), name="mode"),
        *KNOBS,
    ]
    known = Catalogue("server", {one.name: one for one in listed}, {"core": ""}, {})
    space = known.space(known.chosen("workers"), ["workers - auto <= 20", "mode == 'safe' or workers <= 2"])
    assert space.violations({"workers": 19}) == [] and space.violations({"workers": 20}) != []


def test_constraints_that_cannot_be_meant_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    known = catalogue()
    with pytest.raises(SpaceError, match=r"'workers < nobody' of server: it has no knob 'nobody'"):
        known.space(known.chosen("workers"), ["workers < nobody"])
    for broken in ("workers >= 5", "workers > 100"):
        caplog.clear()
        space = known.space(known.chosen("workers"), [broken, "workers <= 20"])
        assert [one.text for one in space.constraints] == ["workers <= 20"]
        assert "left out, as the default breaks it: workers = 4" in caplog.text


# --- what the real list becomes ----------------------------------------------------------------------


def test_every_row_of_postgres_becomes_a_parameter_that_accepts_its_default() -> None:
    listed = recorded.knobs()
    assert len(listed) > 250
    for one in listed:
        parameter = parameter_of(one)
        assert parameter.fault(parameter.default) is None, one
    known = Catalogue.of(postgres, listed)
    for one in listed:
        back = known.to_native({one.name: known.from_native(one.name, one.default)})[one.name]
        assert back == one.default or math.isclose(float(back), float(one.default)), one


def test_the_essentials_of_postgres_are_as_recorded() -> None:
    assert recorded.text_of(recorded.essentials()) == recorded.SPACE.read_text()


def test_groups_of_postgres_hold_no_fenced_knob_and_every_preset_exists() -> None:
    known = Catalogue.of(postgres, recorded.knobs())
    everything = known.chosen(list(known.groups))
    assert len(everything) > 80
    assert all(known.fence(one.name) is None and one.change != "fixed" for one in everything)
    assert {name for preset in known.presets.values() for name in preset} <= set(names(everything))
    for fenced in ("fsync", "full_page_writes", "synchronous_commit", "statement_timeout", "port", "ssl"):
        with pytest.raises(UsageError, match="fenced"):
            known.chosen(fenced)
    with pytest.raises(UsageError, match="cannot be set"):
        known.chosen("block_size")
    for group in known.groups:
        assert known.chosen(group), group


def test_a_fence_of_postgres_is_lifted_for_its_own_group_only() -> None:
    known = Catalogue.of(postgres, recorded.knobs())
    with pytest.raises(MlsysoptError, match="--unfence meaning"):
        known.chosen("fsync,statement_timeout", unfence=["durability"])


def test_a_catalogue_of_a_server_file_takes_its_words() -> None:
    server = Planted()
    known = Catalogue.of(server, KNOBS)
    assert (known.server, known.groups, known.presets) == ("planted", server.groups, server.presets)

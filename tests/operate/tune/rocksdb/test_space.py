"""The space of knobs: presets, bounds, memory, fences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.errors import SpaceError, UsageError
from mlsysopt.operate.tune.rocksdb.flags import Flag, parse_help
from mlsysopt.operate.tune.rocksdb.space import (
    FENCES,
    KNOBS,
    PAPER10,
    WIDE,
    base_values,
    build_space,
    memory_budget,
    memory_bytes,
)

GOLDEN = Path(__file__).parents[3] / "golden" / "rocksdb"
FLAGS = parse_help((GOLDEN / "help.txt").read_text())
MiB = 1024**2
BUDGET = 256 * MiB


def build(knobs: Any = "paper10", budget: int = BUDGET, flags: dict[str, Flag] | None = FLAGS, **named: Any) -> Any:
    return build_space(flags, knobs, budget, "db_bench 7.8.3", **named)


def test_the_presets() -> None:
    assert build().names == PAPER10 and len(PAPER10) == 10
    assert set(build("wide").names) == set(WIDE) and len(WIDE) == 24
    assert WIDE[:10] == PAPER10


def test_defaults_are_the_programs_own() -> None:
    default = build("wide").default()
    for name, value in default.items():
        assert value == {"bloom_bits": 0}.get(name, FLAGS[name].default), name
    # Without max_background_jobs in the space, "as it says" has a number.
    paper = build().default()
    assert (paper["max_background_compactions"], paper["max_background_flushes"]) == (1, 1)


def test_every_knobs_default_keeps_every_rule() -> None:
    for knobs in ("paper10", "wide"):
        space = build(knobs)
        assert space.violations(space.default()) == []


def test_sampled_configurations_keep_the_rules() -> None:
    space = build("paper10")
    base = base_values(FLAGS, {})
    for config in space.sample(np.random.default_rng(1), 200):
        assert (
            config["level0_file_num_compaction_trigger"]
            <= config["level0_slowdown_writes_trigger"]
            <= config["level0_stop_writes_trigger"]
        )
        assert config["min_write_buffer_number_to_merge"] < max(2, config["max_write_buffer_number"])
        assert memory_bytes(config, base) <= BUDGET
        assert all(isinstance(value, int) for value in config.values())


def test_one_memtable_counts_as_two() -> None:
    base = base_values(FLAGS, {})
    assert memory_bytes({"max_write_buffer_number": 1}, base) == memory_bytes({"max_write_buffer_number": 2}, base)
    space = build("write_buffer_size,max_write_buffer_number")
    assert space.violations({"write_buffer_size": 125 * MiB, "max_write_buffer_number": 1})
    assert not space.violations({"write_buffer_size": 124 * MiB, "max_write_buffer_number": 1})


def test_a_cache_counts_and_cannot_exceed_the_budget() -> None:
    space = build("cache_size")
    assert space["cache_size"].high == BUDGET
    assert space.violations({"cache_size": 129 * MiB}) and not space.violations({"cache_size": 128 * MiB})
    rows = build("row_cache_size=1MiB..1GiB", settings={"row_cache_size": 2 * MiB})
    assert rows.violations({"row_cache_size": 121 * MiB}) and not rows.violations({"row_cache_size": 120 * MiB})


def test_rules_hold_against_values_that_are_not_tuned() -> None:
    space = build("level0_slowdown_writes_trigger")
    assert space.violations({"level0_slowdown_writes_trigger": 3})
    assert space.violations({"level0_slowdown_writes_trigger": 37})
    assert not space.violations({"level0_slowdown_writes_trigger": 36})
    assert build("block_size").constraints == ()


def test_the_budget() -> None:
    base = base_values(FLAGS, {})
    assert memory_budget(None, base) == 204 * MiB
    assert memory_budget("256MiB", base) == BUDGET
    assert memory_budget(136 * MiB, base) == 136 * MiB
    with pytest.raises(UsageError, match=r"= 136 MiB\nsmallest workable budget: 136 MiB"):
        memory_budget(136 * MiB - 1, base)
    bigger = base_values(FLAGS, {"cache_size": 64 * MiB, "row_cache_size": 8 * MiB})
    with pytest.raises(UsageError, match=r"cache_size 64 MiB \+ row_cache_size 8 MiB .* = 200 MiB"):
        memory_budget("199MiB", bigger)


def test_any_flag_is_a_knob_with_bounds_around_its_default() -> None:
    space = build("block_restart_interval,advise_random_on_open,delayed_write_rate")
    assert (space["block_restart_interval"].low, space["block_restart_interval"].high) == (1, 256)
    assert space["block_restart_interval"].log and space["block_restart_interval"].default == 16
    assert space["advise_random_on_open"].default is True
    assert space["delayed_write_rate"].low == 8 * MiB // 16
    assert space["delayed_write_rate"].about.startswith("Limited bytes allowed to DB")


def test_bounds_and_choices_by_the_user() -> None:
    space = build(
        "block_size=8KiB..64KiB,compression_type=none|lz4,bloom_bits=4..12",
        settings={"block_size": 8192, "bloom_bits": 10},
    )
    assert (space["block_size"].low, space["block_size"].high, space["block_size"].low_origin) == (8192, 65536, "user")
    assert set(space["compression_type"].choices) == {"none", "lz4", "snappy"}
    assert space["bloom_bits"].default == 10
    assert build({"block_size": (1024, 8192)})["block_size"].high == 8192
    assert build(["paper10", "cache_size"]).names == (*PAPER10, "cache_size")


def test_only_codecs_that_the_binary_accepts() -> None:
    space = build("compression_type", codecs=("none", "snappy", "zstd"))
    assert space["compression_type"].choices == ("none", "snappy", "zstd")


def test_thread_limits_may_follow_max_background_jobs() -> None:
    wide = build("wide")
    assert wide["max_background_compactions"].special == (-1,) and wide.default()["max_background_flushes"] == -1
    assert build()["max_background_compactions"].special == ()


def test_a_setting_becomes_the_default() -> None:
    space = build("paper10", settings={"max_background_compactions": 4, "block_size": 1024 * 1024})
    assert space.default()["max_background_compactions"] == 4
    assert space["block_size"].high == 1024 * 1024


def test_names_that_the_binary_lacks_are_dropped_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    older = {name: flag for name, flag in FLAGS.items() if name not in ("subcompactions", "compaction_pri")}
    space = build("wide", flags=older)
    assert len(space) == 22
    assert "db_bench 7.8.3 has no subcompactions, compaction_pri: left out" in caplog.text
    with pytest.raises(UsageError, match="no flag 'subcompactions'"):
        build("subcompactions", flags=older)


def test_an_engine_without_a_help_text() -> None:
    space = build("wide", flags=None, available=["block_size", "write_buffer_size"])
    assert space.names == ("write_buffer_size", "block_size")
    assert build("paper10", flags=None).default()["write_buffer_size"] == KNOBS["write_buffer_size"].default
    with pytest.raises(UsageError, match="did you mean block_size"):
        build("block_sise", flags=None)


@pytest.mark.parametrize("name", sorted(FENCES["durability"] & set(FLAGS)))
def test_what_survives_a_crash_is_fenced(name: str) -> None:
    with pytest.raises(UsageError, match="fenced: it trades durability for speed"):
        build(f"{name}=0..1")


def test_a_fence_can_be_opened() -> None:
    assert build("disable_wal", unfence=["durability"]).names == ("disable_wal",)
    assert not FENCES["durability"] & set(WIDE)


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ("block_sise", UsageError, "no flag 'block_sise' in db_bench 7.8.3; did you mean block_size?"),
        ("wode", UsageError, "no flag 'wode' in db_bench 7.8.3; did you mean wide?"),
        ("", UsageError, "no knobs given; presets: paper10, wide"),
        ("num", UsageError, "belongs to the trial or the workload"),
        ("db", UsageError, "belongs to the trial or the workload"),
        ("simcache_size", UsageError, "belongs to the trial or the workload"),
        ("block_size=64KiB..4KiB", SpaceError, "parameter 'block_size': low must be below high, got low=65536"),
        ("block_size=4KiB..many", UsageError, "flag block_size: given 'many', allowed an integer"),
        ("block_size=4KiB", UsageError, "bounds are written name=LOW..HIGH"),
        ("advise_random_on_open=0..1", UsageError, "has no range: given 0..1"),
        (
            "memtablerep",
            UsageError,
            "holds text, so its values are needed: memtablerep=a|b (its default is 'skip_list')",
        ),
        ("bloom_locality", UsageError, "its default is 0, so bounds are needed"),
        ("compression_type=none|fast", UsageError, "compression_type"),
    ],
)
def test_a_wrong_knob_is_a_usage_error(knobs: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        build(knobs, codecs=("none", "snappy", "lz4", "zstd"))
    assert message in str(caught.value)

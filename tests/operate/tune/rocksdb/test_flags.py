"""The help text of db_bench as data."""

from pathlib import Path

import pytest

from mlsysopt.core.errors import TargetError, UsageError
from mlsysopt.operate.tune.rocksdb.flags import Flag, parse_help

GOLDEN = Path(__file__).parents[3] / "golden" / "rocksdb"


@pytest.fixture(scope="module")
def flags() -> dict[str, Flag]:
    return parse_help((GOLDEN / "help.txt").read_text())


def test_every_entry_of_the_help_becomes_a_flag(flags: dict[str, Flag]) -> None:
    entries = [line for line in (GOLDEN / "help.txt").read_text().splitlines() if line.startswith("    -")]
    assert set(flags) == {line.split()[0].lstrip("-") for line in entries}
    assert len(flags) == len(entries) == 430
    # Its name is so long that the text begins on the next line.
    assert flags["compressed_secondary_cache_compress_format_version"].type == "uint32"


@pytest.mark.parametrize(
    ("name", "type_", "default"),
    [
        ("write_buffer_size", "int64", 67108864),
        ("max_background_compactions", "int32", -1),
        ("max_bytes_for_level_multiplier", "double", 10.0),
        ("compression_type", "string", "snappy"),
        ("cache_type", "string", "lru_cache"),
        ("paranoid_checks", "bool", True),
        ("max_bytes_for_level_base", "uint64", 268435456),
        ("db", "string", ""),
    ],
)
def test_types_and_defaults(flags: dict[str, Flag], name: str, type_: str, default: object) -> None:
    assert (flags[name].type, flags[name].default) == (type_, default)
    assert flags[name].file == "./tools/db_bench_tool.cc"


def test_text_is_joined_over_lines_and_parentheses(flags: dict[str, Flag]) -> None:
    assert flags["block_size"].text == "Number of bytes in a block."
    assert flags["max_bytes_for_level_multiplier"].text == "A multiplier to compute max bytes for level-N (N >= 2)"
    assert flags["options_file"].text.endswith("--num_multi_db")
    assert "readrandomwriterandom" in flags["benchmarks"].text
    assert flags["help"].text.startswith("show help on all flags") and flags["help"].default is False


def test_text_that_is_no_help_is_refused() -> None:
    with pytest.raises(TargetError, match="lists no flags"):
        parse_help("usage: something else")
    with pytest.raises(TargetError, match="cannot be read: -num"):
        parse_help("  Flags from a.cc:\n    -num (Keys) type: complex default: 1\n")


def test_values_are_read_by_type(flags: dict[str, Flag]) -> None:
    assert flags["write_buffer_size"].read("64MiB") == 64 * 1024**2
    assert flags["num"].read("300000") == 300_000
    assert flags["value_k"].read("0.25") == 0.25
    assert flags["sync"].read("true") is True and flags["sync"].read(0) is False
    assert flags["compression_type"].read("lz4") == "lz4"


@pytest.mark.parametrize(
    ("name", "given", "allowed"),
    [
        ("block_size", "large", "an integer"),
        ("block_size", 0.5, "an integer"),
        ("max_bytes_for_level_base", -1, "an integer >= 0"),
        ("sync", "perhaps", "true or false"),
        ("value_k", "x", "a number"),
        ("num", True, "an integer"),
    ],
)
def test_a_wrong_value_names_flag_given_and_allowed(
    flags: dict[str, Flag], name: str, given: object, allowed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        flags[name].read(given)
    assert str(caught.value).startswith(f"flag {name}: given {given!r}, allowed {allowed}")

"""OPTIONS files of RocksDB, and what a configuration amounts to in them."""

from pathlib import Path

import pytest

from mlsysopt.core.errors import ArtefactError
from mlsysopt.operate.tune.rocksdb.options import (
    CF,
    DB,
    TABLE,
    OptionsFile,
    diff,
    effective,
    newest_options,
    warnings_of,
)

GOLDEN = Path(__file__).parents[3] / "golden" / "rocksdb"


@pytest.fixture
def corrected() -> OptionsFile:
    return OptionsFile.read(GOLDEN / "OPTIONS-corrected")


def test_a_file_survives_writing_and_reading(corrected: OptionsFile) -> None:
    text = corrected.text(header="made by a test\nwith two lines")
    assert text.startswith("# made by a test\n# with two lines\n")
    assert OptionsFile.parse(text) == corrected


def test_corrected_values_are_the_effective_ones(corrected: OptionsFile) -> None:
    requested = {
        "level0_file_num_compaction_trigger": 8, "level0_slowdown_writes_trigger": 2, "level0_stop_writes_trigger": 1,
        "min_write_buffer_number_to_merge": 6, "max_write_buffer_number": 3,
    }  # fmt: skip
    assert effective(corrected, requested) == {
        "level0_file_num_compaction_trigger": 8, "level0_slowdown_writes_trigger": 8, "level0_stop_writes_trigger": 8,
        "min_write_buffer_number_to_merge": 2, "max_write_buffer_number": 3,
    }  # fmt: skip


def test_corrections_are_found_in_the_log() -> None:
    found = warnings_of((GOLDEN / "LOG-corrected").read_text())
    assert found[0].startswith("This condition must be satisfied: level0_stop_writes_trigger(1)")
    assert found[1].startswith("Adjust the value to level0_stop_writes_trigger(8)")


def test_values_that_have_another_name_or_place(corrected: OptionsFile) -> None:
    log_text = (GOLDEN / "LOG-corrected").read_text()
    found = effective(
        corrected,
        {"bloom_bits": 10, "cache_size": 1, "compression_type": "lz4", "compaction_pri": 0, "subcompactions": 4,
         "max_bytes_for_level_multiplier": 7, "memtable_bloom_size_ratio": 0.5, "read_random_exp_range": 3.0},
        log_text=log_text,
    )  # fmt: skip
    assert found == {
        "bloom_bits": 10, "cache_size": 32 * 1024**2, "compression_type": "snappy", "compaction_pri": 3,
        "subcompactions": 1, "max_bytes_for_level_multiplier": 10, "memtable_bloom_size_ratio": 0.0,
        # Neither file knows it: what was asked for counts.
        "read_random_exp_range": 3.0,
    }  # fmt: skip
    assert type(found["max_bytes_for_level_multiplier"]) is int and type(found["memtable_bloom_size_ratio"]) is float


@pytest.mark.parametrize(
    ("jobs", "compactions", "flushes", "expected"),
    [(2, -1, -1, (1, 1)), (8, -1, -1, (6, 2)), (1, -1, -1, (1, 1)), (8, 4, -1, (4, 1)), (8, -1, 3, (1, 3))],
)
def test_background_limits_follow_rocksdbs_rule(
    corrected: OptionsFile, jobs: int, compactions: int, flushes: int, expected: tuple[int, int]
) -> None:
    options = corrected.with_values(
        DB,
        max_background_jobs=str(jobs),
        max_background_compactions=str(compactions),
        max_background_flushes=str(flushes),
    )
    found = effective(options, {}, names=["max_background_compactions", "max_background_flushes"])
    assert found == {"max_background_compactions": expected[0], "max_background_flushes": expected[1]}


def test_differences_name_section_and_option(corrected: OptionsFile) -> None:
    other = corrected.with_values(TABLE, block_size="8192").with_values(CF, write_buffer_size="1")
    assert diff(corrected, other) == {
        f"{CF}/write_buffer_size": ("67108864", "1"),
        f"{TABLE}/block_size": ("4096", "8192"),
    }
    assert diff(corrected, corrected) == {}
    assert diff(corrected, OptionsFile({DB: {}}))[f"{CF}/num_levels"] == ("7", None)


def test_the_newest_file_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    assert newest_options(tmp_path) is None
    for name in ("OPTIONS-000007", "OPTIONS-000102", "OPTIONS-000021", "OPTIONS-000300.dbtmp"):
        (tmp_path / name).touch()
    assert newest_options(tmp_path) == tmp_path / "OPTIONS-000102"


def test_something_else_is_refused_with_its_line() -> None:
    with pytest.raises(ArtefactError, match="line 2: expected"):
        OptionsFile.parse("[DBOptions]\nnonsense\n")
    with pytest.raises(ArtefactError, match="no \\[DBOptions\\] section"):
        OptionsFile.parse("[Version]\n  rocksdb_version=1\n")

"""Options files with knobs in them: what is written is what RocksDB's names and words mean."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.core.space import Bool, Choice, Float, Int
from mlsysopt.core.target import Value
from mlsysopt.operate.tune.rocksdb.embedded_options import flags_of, with_knobs
from mlsysopt.operate.tune.rocksdb.options import DB, OptionsFile, diff, effective
from mlsysopt.operate.tune.rocksdb.space import KNOBS

GOLDEN = Path(__file__).parents[3] / "golden" / "rocksdb" / "OPTIONS-corrected"
OPTIONS = OptionsFile.read(GOLDEN)
# -1 of the two background limits is a code word that `effective` resolves.
WRITTEN = [name for name in KNOBS if name != "cache_size"]


@st.composite
def knob_values(draw: st.DrawFn) -> tuple[str, Value]:
    name = draw(st.sampled_from(WRITTEN))
    knob = KNOBS[name]
    if isinstance(knob, Bool):
        return name, draw(st.booleans())
    if isinstance(knob, Choice):
        return name, draw(st.sampled_from(knob.choices))
    if isinstance(knob, Int):
        return name, draw(st.integers(knob.low, knob.high))
    assert isinstance(knob, Float)
    return name, draw(st.floats(knob.low, knob.high))


@settings(max_examples=100, deadline=None)
@given(st.lists(knob_values(), max_size=6))
def test_what_is_written_is_what_is_read(pairs: list[tuple[str, Value]]) -> None:
    knobs = dict(pairs)
    written = OptionsFile.parse(with_knobs(OPTIONS, knobs).text())
    found = effective(written, knobs)
    if {"max_background_compactions", "max_background_flushes"} & set(knobs):
        # One of the two alone leaves the other at -1, which counts as 1.
        assert written.sections[DB]["max_background_flushes"] == str(knobs.get("max_background_flushes", -1))
    assert found == knobs
    assert len(diff(OPTIONS, written)) <= len(knobs)


def test_every_knob_is_offered_with_the_defaults_of_the_file() -> None:
    flags = flags_of(OPTIONS, 1234)
    assert set(KNOBS) <= set(flags)
    assert flags["cache_size"].default == 1234
    assert flags["write_buffer_size"].read("2MiB") == 2 * 1024**2
    assert flags["bloom_bits"].default == 10 and flags["compression_type"].default == "snappy"
    assert flags["compaction_style"].kind == "str"
    assert not {"create_if_missing", "comparator", "compression", "filter_policy", "table_factory"} & set(flags)


def test_a_filter_of_zero_bits_is_none() -> None:
    with_filter = with_knobs(OPTIONS, {"bloom_bits": 10})
    assert with_filter.find("filter_policy") == "bloomfilter:10:false"
    assert with_knobs(with_filter, {"bloom_bits": 0}).find("filter_policy") == "nullptr"


def test_other_options_and_words_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="no option 'block_sise'"):
        with_knobs(OPTIONS, {"block_sise": 4096})
    with pytest.raises(UsageError, match="compression_type: given 'xpress', allowed none, snappy"):
        with_knobs(OPTIONS, {"compression_type": "xpress"})

"""Workloads: what they run, and which latencies they report."""

import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS, Workload, workload


def test_the_presets() -> None:
    assert list(WORKLOADS) == ["mixgraph", "mixgraph-hot", "ycsb-a", "ycsb-b", "ycsb-c"]
    mixgraph = workload("mixgraph")
    assert (mixgraph.flags["num"], mixgraph.flags["reads"], mixgraph.flags["key_size"]) == (120_000, 30_000, 48)
    assert mixgraph.operations == ("get", "seek", "write")
    assert mixgraph.references[0].year == 2020
    assert [workload(f"ycsb-{x}").operations for x in "abc"] == [("get", "write"), ("get", "write"), ("get",)]


def test_mixgraph_keeps_its_flags() -> None:
    """Recorded tables and bars name this preset; whatever it lacks, another one gets."""
    assert workload("mixgraph").flags == {
        "key_size": 48, "value_size": 1000, "num": 120_000, "reads": 30_000,
        "mix_get_ratio": 0.806, "mix_put_ratio": 0.16, "mix_seek_ratio": 0.034, "sine_mix_rate": 0,
        "keyrange_dist_a": 14.18, "keyrange_dist_b": -2.917, "keyrange_dist_c": 0.0164, "keyrange_dist_d": -0.08082,
        "keyrange_num": 30, "value_k": 0.2615, "value_sigma": 25.45, "iter_k": 2.517, "iter_sigma": 14.236,
    }  # fmt: skip
    assert "uniform keys" in workload("mixgraph").about


def test_the_hot_preset_adds_only_the_law_of_keys() -> None:
    plain, hot = workload("mixgraph"), workload("mixgraph-hot")
    assert hot.flags == {**plain.flags, "key_dist_a": 0.002312, "key_dist_b": 0.3467}
    assert (hot.load, hot.run, hot.operations) == (plain.load, plain.run, plain.operations)


def test_a_share_of_the_work_scales_every_count_that_is_known() -> None:
    one = Workload(["fillseq"], ["readrandom"], {"num": 1000, "reads": 30, "writes": 7, "key_size": 48})
    assert one.scaled(0.1) == {"num": 100, "reads": 3, "writes": 1, "key_size": 48}
    assert one.scaled(0.001)["reads"] == 1 and one.scaled(1.0) == one.flags
    # Keys that only db_bench's default counts are scaled too; operations below 0 follow the keys.
    assert Workload(["fillseq"], ["readrandom"], {"reads": -1}).scaled(0.5) == {"reads": -1, "num": 500_000}
    assert Workload(["fillseq"], ["readrandom"]).scaled(1.0) == {}


def test_every_preset_leaves_its_load_flushed() -> None:
    for preset in WORKLOADS.values():
        assert preset.load[-2:] == ("flush", "waitforcompaction")


def test_an_unknown_preset_lists_the_nearest_first() -> None:
    with pytest.raises(UsageError, match=r"no workload 'mixgrap'; did you mean mixgraph.*Presets: mixgraph, "):
        workload("mixgrap")


def test_a_share_of_zero_reports_no_latency() -> None:
    assert workload("mixgraph").with_flags({"mix_seek_ratio": 0.0}).operations == ("get", "write")
    assert workload("ycsb-b").with_flags({"readwritepercent": 100}).operations == ("get",)


def test_a_custom_workload() -> None:
    made = Workload(load=["fillseq", "flush"], run=["readrandom", "seekrandom"], flags={"num": 10})
    assert made.operations == ("get", "seek") and made.name == "custom"
    assert made.timed("load") == ("fillseq",)
    assert Workload(["fillseq"], ["somethingnew"], operations=("get",)).with_flags({"num": 3}).operations == ("get",)


@pytest.mark.parametrize(
    ("load", "run", "message"),
    [
        ("fillrandom", ["readrandom"], "load must be a list"),
        (["flush"], ["readrandom"], "load has no benchmark that works"),
        (["fillrandom"], ["stats"], "run has no benchmark that works"),
        (["fillrandom"], ["somethingnew"], "which latencies does 'somethingnew' report"),
    ],
)
def test_a_workload_that_cannot_be_measured_is_refused(load: list[str], run: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Workload(load, run)

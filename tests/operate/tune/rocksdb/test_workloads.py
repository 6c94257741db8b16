"""Workloads: what they run, and which latencies they report."""

import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS, Workload, workload


def test_the_presets() -> None:
    assert list(WORKLOADS) == ["mixgraph", "ycsb-a", "ycsb-b", "ycsb-c"]
    mixgraph = workload("mixgraph")
    assert (mixgraph.flags["num"], mixgraph.flags["reads"], mixgraph.flags["key_size"]) == (120_000, 30_000, 48)
    assert mixgraph.operations == ("get", "seek", "write")
    assert mixgraph.references[0].year == 2020
    assert [workload(f"ycsb-{x}").operations for x in "abc"] == [("get", "write"), ("get", "write"), ("get",)]


def test_every_preset_leaves_its_load_flushed() -> None:
    for preset in WORKLOADS.values():
        assert preset.load[-2:] == ("flush", "waitforcompaction")


def test_an_unknown_preset_lists_the_nearest_first() -> None:
    with pytest.raises(UsageError, match=r"no workload 'mixgrap'; did you mean mixgraph\? Presets: mixgraph, ycsb-a"):
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

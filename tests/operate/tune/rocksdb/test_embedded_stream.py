"""Streams of the embedded engine: which operations, and which bytes."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.operate.tune.rocksdb.embedded_replay import Replay
from mlsysopt.operate.tune.rocksdb.embedded_stream import (
    FLAGS,
    check_workload,
    load_keys,
    run_stream,
    text_of_values,
    text_starts,
    to_keys,
)
from mlsysopt.operate.tune.rocksdb.mixgraph import GET, PUT, SEEK
from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS, Workload

DEFAULTS = {name: flag.default for name, flag in FLAGS.items()}


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.integers(0, 2**62), min_size=2, max_size=20), size=st.integers(8, 60))
def test_keys_sort_like_their_numbers(numbers: list[int], size: int) -> None:
    keys = to_keys(np.array(numbers), size)
    assert all(len(key) == size for key in keys)
    assert sorted(range(len(keys)), key=keys.__getitem__) == sorted(range(len(keys)), key=numbers.__getitem__)


def test_short_keys_keep_the_last_digits() -> None:
    assert to_keys(np.array([0x010203, 7]), 2) == [b"\x02\x03", b"\x00\x07"]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_values_compress_as_far_as_asked(ratio: float) -> None:
    text = text_of_values(1000, ratio, rng())
    assert len(text) >= 1 << 20
    # Printable characters carry 6.6 of 8 bits.
    assert len(zlib.compress(text)) / len(text) == pytest.approx(ratio * np.log2(95) / 8, abs=0.06)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=300), st.integers(5001, 20_000))
def test_every_value_lies_inside_the_text(amounts: list[int], size: int) -> None:
    starts = text_starts(np.array(amounts, dtype=np.int64), size)
    assert len(starts) == len(amounts)
    assert all(0 <= start <= start + amount <= size for start, amount in zip(starts, amounts, strict=True))


def test_loads_fill_the_key_space_in_their_way() -> None:
    flags = {"num": 5000}
    assert load_keys(["fillseq", "flush"], flags, rng()).tolist() == list(range(5000))
    assert sorted(load_keys(["filluniquerandom"], flags, rng()).tolist()) == list(range(5000))
    drawn = load_keys(["fillrandom", "flush", "waitforcompaction"], flags, rng())
    assert len(drawn) == 5000 and len(set(drawn.tolist())) / 5000 == pytest.approx(1 - np.exp(-1), abs=0.02)


def test_of_a_hundred_operations_the_gets_come_first() -> None:
    stream = run_stream(["readrandomwriterandom"], {"num": 100, "reads": 250, "readwritepercent": 95}, rng())
    assert stream.kinds[:100].tolist() == [GET] * 95 + [PUT] * 5
    assert np.array_equal(stream.kinds[:100], stream.kinds[100:200])
    assert set(stream.amounts[stream.kinds == PUT].tolist()) == {100}


def test_benchmarks_follow_one_another_and_steps_do_nothing() -> None:
    flags = {"num": 50, "reads": -1, "seek_nexts": 7}
    stream = run_stream(["readrandom", "stats", "seekrandom", "overwrite"], flags, rng())
    assert stream.kinds.tolist() == [GET] * 50 + [SEEK] * 50 + [PUT] * 50
    assert set(stream.amounts[50:100].tolist()) == {7}


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_every_preset_can_be_run(name: str) -> None:
    check_workload(WORKLOADS[name])
    stream = run_stream(WORKLOADS[name].run, {**WORKLOADS[name].flags, "reads": 1000}, rng())
    kinds = {"get": GET, "write": PUT, "seek": SEEK}
    assert set(stream.kinds.tolist()) == {kinds[kind] for kind in WORKLOADS[name].operations or ()}


@pytest.mark.parametrize(
    ("workload", "told"),
    [
        (Workload(["fillbatch", "flush"], ["readrandom"]), "no load benchmark 'fillbatch'"),
        (
            Workload(["fillseq", "flush"], ["readwhilewriting"]),
            "'readwhilewriting'.*--engine db_bench",
        ),
        (Workload(["fillseq"], ["readrandom", "flush"]), "no run benchmark 'flush'"),
        (Workload(["fillseq"], ["readrandom"], {"sine_mix_rate": True}), "sine_mix_rate"),
        (Workload(["fillseq"], ["readrandom"], {"num": 0}), "num: given 0, allowed 1 and above"),
    ],
)
def test_what_only_db_bench_can_is_refused(workload: Workload, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_workload(workload)


def test_a_replay_calls_what_the_stream_says() -> None:
    flags = {**DEFAULTS, **WORKLOADS["mixgraph"].flags, "num": 1000, "reads": 800}
    replay = Replay(["mixgraph"], flags, np.random.default_rng(3), rng())
    stream = run_stream(["mixgraph"], flags, np.random.default_rng(3))
    calls: list[tuple[int, bytes, int]] = []
    steps: list[bytes] = []

    def scan(backwards: bool, key: bytes):
        assert not backwards
        calls.append((SEEK, key, 0))
        while True:
            steps.append(key)
            yield key

    spent = replay.on(
        lambda key: calls.append((GET, key, 0)), lambda key, value: calls.append((PUT, key, len(value))), scan
    )
    sizes = np.where(stream.kinds == PUT, stream.amounts, 0).tolist()
    assert calls == list(zip(stream.kinds.tolist(), to_keys(stream.keys, 48), sizes, strict=True))
    assert len(steps) == stream.amounts[stream.kinds == SEEK].sum()
    assert spent.shape == (800,) and (spent > 0).all()
    found = replay.latencies(spent)
    assert set(found) == {"get", "write", "seek"}
    means = sum((stream.kinds == kind).sum() * found[name]["mean"] for name, kind in
                (("get", GET), ("write", PUT), ("seek", SEEK)))  # fmt: skip
    assert means == pytest.approx(spent.sum() / 1e3)
    assert found["get"]["p50"] <= found["get"]["p95"] <= found["get"]["p99"]


def test_the_idle_share_weighs_each_kind_by_its_count() -> None:
    flags = {**DEFAULTS, "num": 100, "reads": 200, "readwritepercent": 50}
    replay = Replay(["readrandomwriterandom"], flags, rng(), rng())
    assert replay.idle_share({"get": 2.0, "write": 4.0}, 0.006) == pytest.approx(0.1)
    assert replay.idle_share({"get": 2.0, "write": 4.0}, 1e-9) == 1.0

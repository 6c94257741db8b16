"""The replay machinery on a table whose truth is known."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import optuna
import pytest

from bench import tune_rocksdb_table
from bench.replayed import STARTS, Replay, Table, Trace, study
from mlsysopt.core.search import registry
from tests.bench.planted_table import KNOWLEDGE, planted_metrics, planted_table


@pytest.fixture(scope="module")
def replay() -> Replay:
    return Replay(Table.of_json("planted", planted_table(120), objective="throughput_cpu"))


def test_ratios_are_to_the_canary_before(replay: Replay) -> None:
    table = replay.table
    default = planted_metrics(table.space.default())
    true = [math.log(planted_metrics(config)["write_amp"] / default["write_amp"]) for config in table.configs]
    np.testing.assert_allclose(table.z["write_amp"][replay.ran], np.array(true)[replay.ran], atol=0.05)
    assert table.trials.sum() == 120
    assert all(table.configs[i] == table.space.default() for i in np.flatnonzero(~table.trials))
    assert 0.5 * 2 * 0.07**2 < table.noise["get_us"] < 8 * 0.07**2
    assert table.guards == {
        "p99_get_us": (1.0, math.log(1.1)),
        "write_amp": (1.0, math.log(1.1)),
        "load_ops_cpu": (-1.0, math.log(0.9)),
        "disk_bytes": (1.0, math.log(1.2)),
    }


def test_a_canary_of_another_machine_says_nothing() -> None:
    """A recording that went on at a machine twice as fast gives the same ratios and the same noise."""
    one = planted_table(120)
    roles = one["columns"]["role"]
    canaries = [i for i, role in enumerate(roles) if role == "canary"]
    moved = canaries[len(canaries) // 2]
    other = {**one, "columns": {**one["columns"], "machine": ["a"] * moved + ["b"] * (len(roles) - moved)}}
    other["metrics"] = {
        name: [value if value is None or i < moved else 2 * value for i, value in enumerate(values)]
        for name, values in one["metrics"].items()
    }
    left, right = (Table.of_json("planted", obj, objective="throughput_cpu") for obj in (one, other))
    assert len(right.configs) == len(left.configs) - 1 and right.trials.sum() == 120
    assert right.noise["get_us"] == pytest.approx(left.noise["get_us"], rel=0.2)
    kept = [i for i in range(len(left.configs)) if i != moved - canaries[0] - 1]
    np.testing.assert_allclose(right.z["get_us"], left.z["get_us"][kept], atol=1e-12)


def test_forests_rank_what_they_have_not_seen(replay: Replay) -> None:
    quality = replay.quality()
    assert quality["throughput_cpu"] > 0.8
    assert quality["write_amp"] > 0.8


def test_noise_keeps_metrics_correlated(replay: Replay) -> None:
    config = replay.table.space.default()
    drawn = [replay.run(config, np.random.default_rng(i)) for i in range(200)]
    rows = [row for row in drawn if isinstance(row, dict)]
    speed = np.array([row["throughput_cpu"] for row in rows])
    get = np.array([row["get_us"] for row in rows])
    assert np.corrcoef(speed, get)[0, 1] < -0.3
    truth, _ = replay.truth(np.asarray(replay.table.space.encode_many([config])))
    assert speed.mean() == pytest.approx(truth[0], abs=4 * speed.std() / math.sqrt(len(rows)))


def test_all_samplers_share_starts_and_noise(replay: Replay) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    traces = [
        study(replay, lambda s, n, name=name: registry.sampler(name, space=s, seed=n), seed=3, trials=9)
        for name in ("random", "structured")
    ]
    np.testing.assert_array_equal(traces[0].gains[: STARTS + 1], traces[1].gains[: STARTS + 1])
    assert len(traces[0].gains) == 9 and len(traces[0].cpu_s) == 3
    again = study(replay, lambda s, n: registry.sampler("structured", space=s, seed=n), seed=3, trials=9)
    np.testing.assert_array_equal(again.gains, traces[1].gains)


def test_regret_counts_feasible_trials_after_the_starts() -> None:
    trace = Trace(np.array([0.0, -1.0, -math.inf, -1.0, -1.0, -1.0, -math.inf, 0.3, 0.2]), np.zeros(3))
    np.testing.assert_allclose(trace.regret(0.5), [0.5] * 7 + [0.2] * 2)
    assert trace.area(0.5) == pytest.approx((0.5 + 0.2 + 0.2) / 3)
    assert trace.reached(0.25) == 2
    assert trace.reached(0.4) is None


def test_a_sampler_that_knows_the_best_point_has_no_regret(replay: Replay) -> None:
    """A mutant: were the regret of another point, this would not be near zero."""
    space = replay.table.space
    pool = space.sobol(2048, 1)
    truth, able = replay.truth(np.asarray(space.encode_many(pool)))
    best = pool[int(np.argmax(np.where(able, truth, -np.inf)))]

    class Oracle(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study, trial):  # type: ignore[no-untyped-def]
            return space.distributions()

        def sample_relative(self, study, trial, search_space):  # type: ignore[no-untyped-def]
            return space.to_params(best)

    trace = study(replay, lambda s, n: Oracle(), seed=0, trials=8)
    assert trace.regret(float(truth[able].max()))[-1] == pytest.approx(0.0, abs=1e-9)


def test_permuted_knowledge_is_a_renaming() -> None:
    knobs = replay_knobs()
    other = tune_rocksdb_table.permuted(KNOWLEDGE, knobs, seed=1)
    assert {len(v) for v in other.values()} == {len(v) for v in KNOWLEDGE.values()}
    assert other != KNOWLEDGE
    shared = set(KNOWLEDGE["get_us"]) & set(KNOWLEDGE["seek_us"])
    assert len(set(other["get_us"]) & set(other["seek_us"])) == len(shared)


def replay_knobs() -> list[str]:
    return list(planted_table(8)["config"])


def test_paired_ratio_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.5, 1.5, 20)
    value, low, high = tune_rocksdb_table.ratio(0.8 * theirs, theirs)
    assert value == pytest.approx(0.8) and low == pytest.approx(0.8) and high == pytest.approx(0.8)


def test_missing_tables_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune_rocksdb_table.main(["replay", "--folder", str(tmp_path)]) == 3
    assert "rocksdb-mixgraph.json.gz" in capsys.readouterr().err


def test_kept_traces_are_used_only_where_they_fit(tmp_path: Path) -> None:
    path = tmp_path / "rocksdb-x.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"a": 1}).encode()))
    traces = [Trace(np.array([0.0, -math.inf, 0.2]), np.array([0.5]))]
    tune_rocksdb_table.keep(tmp_path, {"rocksdb-x": path}, {"rocksdb-x": {"gp": traces}})
    got = tune_rocksdb_table.kept(tmp_path, "rocksdb-x", path, "gp", 1)
    assert got is not None
    np.testing.assert_array_equal(got[0].gains, traces[0].gains)
    assert tune_rocksdb_table.kept(tmp_path, "rocksdb-x", path, "gp", 2) is None
    path.write_bytes(gzip.compress(json.dumps({"a": 2}).encode()))
    assert tune_rocksdb_table.kept(tmp_path, "rocksdb-x", path, "gp", 1) is None

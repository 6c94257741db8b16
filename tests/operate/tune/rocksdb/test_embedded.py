"""The embedded engine on the real RocksDB inside rocksdict: small databases, real faults."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mlsysopt.core.errors import InfrastructureError, MissingExtra, TargetError, UsageError
from mlsysopt.core.processes import descendants
from mlsysopt.core.target import Failure, Limits, Measurement, Outcome, Target
from mlsysopt.operate import tune
from mlsysopt.operate.tune.rocksdb import database_target, embedded_child, embedded_driver, storage
from mlsysopt.operate.tune.rocksdb import embedded as module
from mlsysopt.operate.tune.rocksdb.embedded import Embedded, embedded
from mlsysopt.operate.tune.rocksdb.embedded_child import Answer, Job, Phase
from mlsysopt.operate.tune.rocksdb.embedded_stream import run_stream
from mlsysopt.operate.tune.rocksdb.options import OptionsFile, effective, newest_options
from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS, Workload
from mlsysopt.testing.targets import TargetContract

pytest.importorskip("rocksdict", reason="the embedded engine needs rocksdict (extra 'tune')")

MiB = 1024**2
SMALL = {"num": 4000, "reads": 1500}
WIDE = {
    "block_size": 12288, "write_buffer_size": 2 * MiB, "max_write_buffer_number": 3, "cache_size": 16 * MiB,
    "compression_type": "lz4", "bloom_bits": 10, "compaction_pri": 1, "subcompactions": 2, "max_background_jobs": 4,
    "max_background_compactions": 3, "max_background_flushes": 2, "memtable_bloom_size_ratio": 0.125,
    "compaction_readahead_size": 0, "level_compaction_dynamic_level_bytes": False,
}  # fmt: skip


def small(tmp_path: Path, given: Any = "mixgraph", **named: Any) -> Embedded:
    return embedded(given, directory=tmp_path / "databases", settings={**SMALL, **named.pop("settings", {})}, **named)


def measure(target: Embedded, config: dict[str, Any] | None = None, **named: Any) -> Outcome:
    """Measure on the target's directory; nothing may be left there afterwards."""
    with target.session(named.pop("limits", Limits(timeout_s=60)), purpose="verify") as session:
        outcome = session.measure(config or {}, seed=named.pop("seed", 7), **named)
    assert not list(target.directory.glob("*"))
    return outcome


def measured(*args: Any, **named: Any) -> Measurement:
    outcome = measure(*args, **named)
    assert isinstance(outcome, Measurement), outcome
    return outcome


def failed(*args: Any, **named: Any) -> Failure:
    outcome = measure(*args, **named)
    assert isinstance(outcome, Failure), outcome
    return outcome


class TestContract(TargetContract):
    wrong_config: ClassVar[dict[str, Any] | None] = {
        "level0_file_num_compaction_trigger": 64,
        "level0_slowdown_writes_trigger": 2,
    }

    def make_target(self) -> Target:
        return embedded(settings=SMALL)


def test_the_counters_of_rocksdb_are_those_of_the_stream(tmp_path: Path) -> None:
    flags = {**WORKLOADS["mixgraph"].flags, **SMALL}
    job = Job("trial", str(tmp_path), {}, flags, ("fillrandom", "flush"), ("mixgraph",), 5)
    answer = embedded_driver.ask(job, Limits(timeout_s=60))
    assert not isinstance(answer, Failure)
    found = Answer.from_json(answer)
    stream = run_stream(["mixgraph"], flags, np.random.default_rng(np.random.SeedSequence(5).spawn(3)[1]))
    gets, puts, seeks = (int((stream.kinds == kind).sum()) for kind in (0, 1, 2))
    counters = found.run.counters
    assert counters["rocksdb.number.keys.read"] == gets
    assert counters["rocksdb.number.keys.written"] == puts
    assert counters["rocksdb.number.db.seek"] == seeks
    # A scan ends at the last key; none goes on for longer than asked.
    assert 0 < counters["rocksdb.number.db.next"] <= stream.amounts[stream.kinds == 2].sum()
    # 12 bytes of batch header and 4 of record: keys and values are stored as they are.
    assert found.load.counters["rocksdb.bytes.written"] == 4000 * (48 + 1000 + 16)
    assert found.load.operations == 4000 and found.run.operations == 1500
    assert 0 < found.run.busy_s <= found.run.wall_s
    assert 0 < found.idle_share < 1 and set(found.idle_us) == {"get", "write", "seek"}


def test_the_default_sets_no_option(tmp_path: Path) -> None:
    target = small(tmp_path, knobs="wide")
    outcome = measured(target)
    assert set(outcome.metrics) == {name for name, metric in target.metrics().items() if metric.kind != "static"}
    default = target.space().default()
    assert default["max_background_compactions"] == -1 and outcome.effective_config["max_background_compactions"] == 1
    # The cache too: this binding gives a database that is opened again one of its own, a quarter as large.
    same = set(default) - {"max_background_compactions", "max_background_flushes"}
    assert {name: outcome.effective_config[name] for name in same} == {name: default[name] for name in same}
    assert default["cache_size"] == 32 * MiB


def test_tuned_options_are_what_the_database_uses(tmp_path: Path) -> None:
    target = small(tmp_path, knobs="wide", memory="512MiB")
    outcome = measured(target, WIDE)
    assert outcome.effective_config == {**target.space().default(), **WIDE}
    assert outcome.metrics["l0_files"] >= 0 and outcome.extra["corrections"] == []


def test_corrections_of_rocksdb_are_found(tmp_path: Path) -> None:
    target = small(tmp_path, knobs=["level0_file_num_compaction_trigger", "level0_stop_writes_trigger"],
                   settings={"level0_slowdown_writes_trigger": 4, "level0_stop_writes_trigger": 4,
                             "min_write_buffer_number_to_merge": 6})  # fmt: skip
    target = target.with_space(type(target.space())(target.space().parameters))
    outcome = measured(target, {"level0_file_num_compaction_trigger": 8, "level0_stop_writes_trigger": 2})
    assert outcome.effective_config == {"level0_file_num_compaction_trigger": 8, "level0_stop_writes_trigger": 8}
    assert outcome.extra["corrections"][0].startswith("This condition must be satisfied")


def test_a_trial_tells_where_and_what_python_costs(tmp_path: Path) -> None:
    outcome = measured(small(tmp_path, "ycsb-b"))
    assert outcome.extra["filesystem"] == outcome.extra["filesystems"]["verify"] != ""
    assert 0 < outcome.extra["python_share"] <= 1 and set(outcome.extra["python_us"]) == {"get", "write"}
    assert re.fullmatch(r"Python takes up to \d+ % of the timed run .* shows as 1\.\d\dx", outcome.extra["notes"][0])
    assert 0 < outcome.extra["open_cpu_share"] < 1
    assert outcome.cpu_s == pytest.approx(sum(outcome.extra["cpu_s"].values()))


def test_metrics_are_made_of_both_phases_counters() -> None:
    load = Phase(1000, 0.5, 0.9, 0.25, {"rocksdb.flush.write.bytes": 600, "rocksdb.compact.write.bytes": 900,
                                        "rocksdb.bytes.written": 1000, "rocksdb.stall.micros": 5})  # fmt: skip
    run = Phase(100, 0.2, 0.3, 0.1, {"rocksdb.compact.write.bytes": 50, "rocksdb.bytes.written": 240,
                                     "rocksdb.stall.micros": 7, "rocksdb.block.cache.miss": 30,
                                     "rocksdb.block.cache.hit": 90})  # fmt: skip
    latencies = {"get": {"mean": 4.0, "p50": 3.0, "p95": 6.0, "p99": 9.0}}
    answer = Answer(load, Phase(0, 0.0, 0.1, 0.01), run, latencies, {"get": 0.3}, 0.1, 4)
    assert embedded_driver.measured(answer) == pytest.approx({
        "throughput": 500, "throughput_cpu": 1000, "load_ops": 2000, "load_ops_cpu": 4000, "get_us": 4, "p50_get_us": 3,
        "p95_get_us": 6, "p99_get_us": 9, "stall_us": 12, "write_amp": 1550 / 1240, "block_misses_per_op": 0.3,
        "cache_hit": 0.75, "l0_files": 4,
    })  # fmt: skip


def test_smaller_memtables_and_more_compactions_write_more(tmp_path: Path) -> None:
    target = small(tmp_path, knobs=["write_buffer_size", "level0_file_num_compaction_trigger", "compression_type"],
                   settings={"compression_type": "none"})  # fmt: skip
    once = measured(target).metrics
    often = measured(target, {"write_buffer_size": MiB, "level0_file_num_compaction_trigger": 2}).metrics
    assert once["write_amp"] == pytest.approx(0.64, abs=0.1), "one flush of the 63 % that are not overwritten"
    assert often["write_amp"] > 1.3 * once["write_amp"]


def test_a_load_ends_when_the_database_is_quiet() -> None:
    looks = iter(["1", "0", "0", "0", "0", "0", "0", "2", *["0"] * 12])

    class Database:
        def property_value(self, name: str) -> str:
            return next(looks)

    embedded_child._settle(Database())  # type: ignore[arg-type]
    assert list(looks) == [], "three quiet looks in a row, at four properties each"


def test_a_fidelity_scales_keys_and_operations_together(tmp_path: Path) -> None:
    full, half = (measured(small(tmp_path), fidelity=share).metrics["disk_bytes"] for share in (1.0, 0.5))
    assert half / full == pytest.approx(0.5, rel=0.1)


def test_the_seed_decides_the_work(tmp_path: Path) -> None:
    target = small(tmp_path)
    sizes = [measured(target, seed=seed).metrics["disk_bytes"] for seed in (3, 3, 4)]
    # The file's own numbers differ by a few bytes.
    assert abs(sizes[0] - sizes[1]) < 2000 < abs(sizes[0] - sizes[2])


def test_options_that_rocksdb_refuses_are_rejected(tmp_path: Path) -> None:
    failure = failed(small(tmp_path, settings={"use_direct_reads": "true", "allow_mmap_reads": "true"}))
    assert failure.kind == "rejected" and "RocksDB refuses, in the start: " in failure.reason


def test_a_folder_that_cannot_be_made_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(prefix: str, *, base: Path) -> Any:
        raise InfrastructureError(f"cannot make a folder in {base}: No space left on device")

    target = small(tmp_path)
    monkeypatch.setattr(database_target, "temporary_folder", full)
    failure = failed(target)
    assert failure.kind == "infrastructure" and failure.reason.endswith("No space left on device")
    assert failure.extra["filesystem"] == failure.extra["filesystems"]["verify"]


def test_hot_keys_are_answered_by_the_cache(tmp_path: Path) -> None:
    # The cache holds a seventh of the data.
    settings = {"num": 15_000, "reads": 6_000, "cache_size": 2 * MiB, "block_size": 4096}
    plain, hot = (
        measured(small(tmp_path, name, settings=settings)).metrics["cache_hit"] for name in ("mixgraph", "mixgraph-hot")
    )
    assert hot > plain + 0.2


def test_a_configuration_outside_the_space_is_rejected_unrun(tmp_path: Path) -> None:
    failure = failed(small(tmp_path), {"level0_file_num_compaction_trigger": 64, "level0_slowdown_writes_trigger": 2})
    assert failure.kind == "rejected" and "level0_slowdown_writes_trigger" in failure.reason and failure.cpu_s == 0


def test_a_trial_over_its_time_out(tmp_path: Path) -> None:
    failure = failed(small(tmp_path, settings={"num": 1_000_000}), timeout_s=0.5)
    assert failure.kind == "timeout" and "over its time-out of 0.5 s, in the " in failure.reason


def test_a_killed_child_is_a_crash(tmp_path: Path) -> None:
    target = small(tmp_path, settings={"num": 1_000_000})
    outcomes: list[Outcome] = []
    trial = threading.Thread(target=lambda: outcomes.append(measure(target)))
    trial.start()
    deadline = time.monotonic() + 60
    while not list(target.directory.glob("*/db/CURRENT")):
        assert time.monotonic() < deadline, "the load did not start"
        time.sleep(0.01)
    for pid in descendants(os.getpid()):
        if "embedded_child" in Path("/proc", str(pid), "cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    trial.join(60)
    assert isinstance(outcomes[0], Failure) and outcomes[0].kind == "crashed"
    assert outcomes[0].reason.startswith("the embedded engine was killed by signal 9 in the ")
    assert "RocksDB version: 9" in outcomes[0].log_tail or "db_impl" in outcomes[0].log_tail


def test_a_file_over_its_limit_ends_the_trial(tmp_path: Path) -> None:
    failure = failed(small(tmp_path), limits=Limits(timeout_s=60, file_bytes=1_000_000))
    assert failure.kind in ("crashed", "infrastructure") and "File too large" in failure.reason


def test_a_directory_that_is_too_small_names_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = small(tmp_path)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000})())
    failure = failed(target)
    assert failure.kind == "infrastructure" and "1000000 bytes" in failure.reason and "needed" in failure.reason


def test_a_full_disk_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import json, sys; print(json.dumps({'error': 'IO error: No space left on device: x'})); sys.exit(1)"
    monkeypatch.setattr(embedded_driver, "_COMMAND", (sys.executable, "-c", script))
    failure = failed(small(tmp_path))
    assert failure.kind == "infrastructure" and re.search(r"in the start \(\d+ bytes free", failure.reason)


def test_a_child_without_an_answer_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = small(tmp_path)
    script = "import sys; sys.stderr.write('phase run\\nterminate called\\n'); sys.exit(3)"
    monkeypatch.setattr(embedded_driver, "_COMMAND", (sys.executable, "-c", script))
    failure = failed(target)
    assert failure.kind == "crashed" and failure.reason.endswith("left the run with exit status 3: terminate called")
    assert failure.log_tail == "terminate called"


@pytest.mark.parametrize("seed", [0, -1, 2**31])
def test_a_seed_out_of_range_is_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UsageError, match="seed must lie in"):
        small(tmp_path).session(Limits()).__enter__().measure({}, seed=seed)


def test_the_export_opens_a_database_with_the_same_options(tmp_path: Path) -> None:
    import rocksdict

    target = small(tmp_path, knobs="wide", memory="512MiB")
    folder = tmp_path / "exported"
    folder.mkdir()
    target.export(WIDE, folder / "OPTIONS-000001")
    assert f"Cache({16 * MiB})" in (folder / "OPTIONS-000001").read_text()
    options, families = rocksdict.Options.load_latest(str(folder), cache=rocksdict.Cache(16 * MiB))
    options.create_if_missing(True)
    rocksdict.Rdict(str(tmp_path / "theirs"), options, families).close()
    written = newest_options(tmp_path / "theirs")
    assert written is not None
    log_text = (tmp_path / "theirs" / "LOG").read_text()
    assert effective(OptionsFile.read(written), WIDE, log_text=log_text) == WIDE


def test_an_export_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    target = small(tmp_path, settings={"use_direct_reads": "true", "allow_mmap_reads": "true"})
    with pytest.raises(TargetError, match="RocksDB does not open with this configuration"):
        target.export({}, tmp_path / "o.ini")


def test_memory_is_known_without_running(tmp_path: Path) -> None:
    target = small(tmp_path)
    assert target.static({}) == {"memory_bytes": (32 + 2 * 64) * MiB}
    assert target.static({"write_buffer_size": MiB, "max_write_buffer_number": 1}) == {"memory_bytes": 34 * MiB}
    assert target.budget_bytes == 240 * MiB


def test_the_fingerprint_keeps_engines_workloads_and_settings_apart(tmp_path: Path) -> None:
    one = small(tmp_path).fingerprint()
    assert one["engine"] == "embedded" and re.match(r"\d+\.\d+\.\d+", one["version"]) and one["rocksdict"]
    for other in (
        small(tmp_path, "ycsb-b"),
        small(tmp_path, memory="512MiB"),
        small(tmp_path, settings={"num": 9}),
        small(tmp_path, settings={"block_size": "16KiB"}),
    ):
        assert other.fingerprint() != one
    assert json.loads(json.dumps(one)) == one


def test_settings_hold_for_default_and_candidates(tmp_path: Path) -> None:
    target = small(tmp_path, knobs=["block_size", "bloom_bits"], settings={"block_size": "16KiB", "num_levels": 4})
    assert target.space()["block_size"].default == 16384
    assert target.options({}) == {"cache_size": 32 * MiB, "block_size": 16384, "num_levels": 4}
    assert measured(target).effective_config["block_size"] == 16384
    assert target.options({"block_size": 4096})["block_size"] == 4096


def test_a_target_is_plain_data(tmp_path: Path) -> None:
    target = small(tmp_path)
    assert isinstance(target, Target)
    assert pickle.loads(pickle.dumps(target)).fingerprint() == target.fingerprint()
    assert target.subgoals["seek_us"][0] == "block_size"
    assert "p99_write_us" not in small(tmp_path, "ycsb-c").guards


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"knobs": "block_sise"}, r"no flag 'block_sise' in rocksdict \S+ \(RocksDB \S+\); did you mean block_size"),
        ({"knobs": "wal_recovery_mode=kPointInTimeRecovery|kAbsoluteConsistency"}, "is fenced.*--unfence durability"),
        ({"knobs": "use_fsync"}, "is fenced"),
        ({"settings": {"nun": 3}}, "no flag 'nun' in rocksdict .*; did you mean num"),
        ({"settings": {"block_size": "much"}}, "flag block_size: given 'much'"),
        ({"threads": 2}, "one thread, got threads=2; use --engine db_bench"),
        ({"memory": "100MiB"}, "smallest workable budget: 160 MiB"),
        ({"given": "mixgraf"}, "did you mean mixgraph"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(named: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        embedded(**named)


def test_a_workload_of_ones_own(tmp_path: Path) -> None:
    own = Workload(["fillseq", "flush"], ["seekrandom"], {"num": 2000, "reads": 300, "seek_nexts": 10}, "scans")
    target = embedded(own, directory=tmp_path / "databases", knobs="block_size")
    assert set(measured(target).metrics) >= {"seek_us", "p99_seek_us"} and "get_us" not in target.metrics()


def test_without_the_wheel_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        tune.rocksdb(engine="embedded")
    assert str(caught.value) == "the embedded RocksDB engine needs the 'tune' extra: pip install 'mlsysopt[tune]'"


def test_the_child_starts_light() -> None:
    code = "import sys, mlsysopt.operate.tune.rocksdb.embedded_child; print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(tune.__file__).parents[3])}
    loaded = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert not {"optuna", "torch", "sklearn", "scipy", "pydantic", "rich", "sqlalchemy"} & set(loaded.split())

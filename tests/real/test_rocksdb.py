"""The RocksDB target against the installed db_bench, with small databases."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.target import Failure, Limits, Measurement
from mlsysopt.operate.tune.rocksdb.flags import accepted_codecs, find_db_bench, help_of
from mlsysopt.operate.tune.rocksdb.options import OptionsFile, diff, effective, newest_options
from mlsysopt.operate.tune.rocksdb.phases import Trial, run_trial
from mlsysopt.operate.tune.rocksdb.target import DbBench, db_bench
from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS, Workload

pytestmark = pytest.mark.skipif(shutil.which("db_bench") is None, reason="db_bench is not installed (rocksdb-tools)")
MIX = WORKLOADS["mixgraph"]
# waitforcompaction sleeps five seconds, which a small load does not need.
QUICK = Workload(("fillrandom", "flush"), MIX.run, {**MIX.flags, "num": 4000, "reads": 2000}, "quick")
WIDE: dict[str, Any] = {
    "block_size": 12288, "write_buffer_size": 100_000_000, "max_write_buffer_number": 3,
    "min_write_buffer_number_to_merge": 2, "max_background_compactions": 3, "max_background_flushes": 2,
    "max_bytes_for_level_multiplier": 7, "level0_file_num_compaction_trigger": 8,
    "level0_slowdown_writes_trigger": 30, "level0_stop_writes_trigger": 40, "cache_size": 32 * 1024**2,
    "compression_type": "zstd", "bloom_bits": 7, "cache_index_and_filter_blocks": True,
    "pin_l0_filter_and_index_blocks_in_cache": True, "max_bytes_for_level_base": 100_000_000,
    "target_file_size_base": 30_000_000, "max_background_jobs": 4, "compaction_readahead_size": 100_000,
    "level_compaction_dynamic_level_bytes": True, "optimize_filters_for_hits": True, "subcompactions": 3,
    "compaction_pri": 1, "memtable_bloom_size_ratio": 0.125,
}  # fmt: skip


def quick(tmp_path: Path, workload: Workload = QUICK, **named: Any) -> DbBench:
    return db_bench(workload, directory=tmp_path / "databases", **named)


def measure(target: DbBench, config: dict[str, Any], **named: Any) -> Measurement | Failure:
    with target.session(Limits(timeout_s=60), purpose="verify") as session:
        outcome = session.measure(config, seed=3, **named)
    assert not list(target.directory.iterdir())
    return outcome


def test_the_default_and_a_wide_configuration(tmp_path: Path) -> None:
    target = quick(tmp_path, knobs="wide", memory="512MiB")
    default, wide = measure(target, {}), measure(target, WIDE)
    assert isinstance(default, Measurement) and isinstance(wide, Measurement)
    assert set(default.metrics) == set(target.metrics()) - {"memory_bytes"} == set(wide.metrics)
    own = {**target.space().default(), "max_background_compactions": 1, "max_background_flushes": 1}
    assert default.effective_config == own
    assert wide.effective_config == WIDE
    assert default.metrics["load_ops"] > 0 and default.metrics["disk_bytes"] > 1_000_000


@pytest.mark.parametrize("name", ["mixgraph", "ycsb-b"])
def test_a_preset_runs_to_the_end(tmp_path: Path, name: str) -> None:
    target = db_bench(name, directory=tmp_path / "databases")
    outcome = measure(target, {}, fidelity=0.05)
    assert isinstance(outcome, Measurement)
    # What is left of the opening cost must be small beside the run, or CPU ratios are not the workload's.
    assert outcome.extra["cpu_s"]["open"] < 0.1 and outcome.extra["notes"] is not None
    assert outcome.metrics["throughput"] > 0 and outcome.metrics["l0_files"] >= 1


def test_values_that_rocksdb_corrects_are_read_back(tmp_path: Path) -> None:
    # Our rules forbid these; without rules RocksDB corrects them and only its LOG tells.
    from mlsysopt.core.space import Int, Space

    names = ("level0_file_num_compaction_trigger", "level0_slowdown_writes_trigger", "level0_stop_writes_trigger")
    free = Space(
        [
            Int(name, 1, 64, default=4)
            for name in (*names, "min_write_buffer_number_to_merge", "max_write_buffer_number")
        ]
    )
    config = dict(zip(names, (8, 2, 1), strict=True))
    outcome = measure(
        quick(tmp_path).with_space(free),
        {**config, "min_write_buffer_number_to_merge": 6, "max_write_buffer_number": 3},
    )
    assert isinstance(outcome, Measurement)
    assert [outcome.effective_config[name] for name in names] == [8, 8, 8]
    assert outcome.effective_config["min_write_buffer_number_to_merge"] == 2
    assert any("level0_stop_writes_trigger(1)" in line for line in outcome.extra["corrections"])


def test_an_unflushed_log_is_detected_and_not_counted(tmp_path: Path) -> None:
    careless = Workload(("fillrandom",), QUICK.run, QUICK.flags, "careless")
    outcome = measure(quick(tmp_path, careless), {})
    assert isinstance(outcome, Failure) and outcome.kind == "degraded"
    assert "write-ahead log that no flush wrote out" in outcome.reason
    assert isinstance(measure(quick(tmp_path), {}), Measurement)


def test_an_export_gives_the_same_effective_options(tmp_path: Path) -> None:
    target = quick(tmp_path, knobs="wide", memory="512MiB")
    path = tmp_path / "rocksdb-options.ini"
    target.export(WIDE, path)
    database = tmp_path / "fresh"
    cache = next(word for word in path.read_text().split() if word.startswith("--cache_size=")).rstrip(").")
    command = [
        "db_bench",
        "--benchmarks=fillrandom,flush",
        "--num=1000",
        f"--db={database}",
        f"--options_file={path}",
        cache,
    ]
    subprocess.run(command, capture_output=True, check=True)
    made = newest_options(database)
    assert made is not None
    written, loaded = OptionsFile.read(path), OptionsFile.read(made)
    log_text = (database / "LOG").read_text()
    assert effective(loaded, WIDE, log_text=log_text) == WIDE == effective(written, WIDE)
    # Everything else is the same too, but for the benchmark's own listener.
    assert set(diff(written, loaded)) <= {"DBOptions/listeners"}


def test_the_exported_flags_are_a_flag_file(tmp_path: Path) -> None:
    target = quick(tmp_path)
    path = tmp_path / "o.ini"
    config = {**target.space().default(), "block_size": 12288, "write_buffer_size": 32 * 1024**2}
    target.export(config, path)
    database = tmp_path / "fresh"
    subprocess.run(
        ["db_bench", f"--flagfile={path}.flags", "--benchmarks=fillrandom,flush", "--num=1000", f"--db={database}"],
        capture_output=True,
        check=True,
    )
    made = newest_options(database)
    assert made is not None and effective(OptionsFile.read(made), config) == config


def test_a_command_line_that_db_bench_refuses_is_rejected(tmp_path: Path) -> None:
    nonsense = Workload(("fillrandom", "flush"), ("nosuchbenchmark",), {"num": 1000}, "nonsense", operations=("get",))
    outcome = measure(quick(tmp_path, nonsense), {})
    assert isinstance(outcome, Failure) and outcome.kind == "rejected"
    assert "unknown benchmark 'nosuchbenchmark'" in outcome.reason


@pytest.mark.parametrize("trigger", [2, 4])
def test_a_load_ends_when_nothing_is_left_to_compact(tmp_path: Path, trigger: int) -> None:
    """As db_bench's own waitforcompaction has it, which sleeps five seconds before it looks."""
    knobs = {"write_buffer_size": 4 * 2**20, "level0_file_num_compaction_trigger": trigger}
    flags = {**MIX.flags, "num": 60_000, "reads": 1000}
    written: dict[str, float] = {}
    for name, after in (("held", ()), ("slept", ("levelstats",))):
        work = Workload(("fillrandom", "flush", "waitforcompaction", *after), MIX.run, flags, name)
        done = run_trial(str(find_db_bench()), work, knobs, tmp_path / name, seed=3, limits=Limits(timeout_s=60))
        assert isinstance(done, Trial)
        logs = sorted((tmp_path / name).glob("LOG*"))
        assert len(logs) == 3
        # LOG is that of the run, the older one that of the load; what opening would start is in between.
        assert "compaction_started" in logs[1].read_text(errors="replace")
        assert "compaction_started" not in logs[2].read_text(errors="replace")
        assert (done.load.wall_s > 5.0) == (name == "slept")
        written[name] = done.load.output.counter("rocksdb.compact.write.bytes")
    assert written["held"] == pytest.approx(written["slept"], rel=0.35)


def test_a_time_out_kills_the_child(tmp_path: Path) -> None:
    slow = Workload(("fillrandom", "flush", "waitforcompaction", "levelstats"), QUICK.run, QUICK.flags, "slow")
    started = time.monotonic()
    outcome = measure(quick(tmp_path, slow), {}, timeout_s=1.0)
    assert isinstance(outcome, Failure) and outcome.kind == "timeout"
    assert time.monotonic() - started < 4.5


def test_a_database_that_fills_the_disk_is_the_machines_fault(tmp_path: Path) -> None:
    target = quick(tmp_path)
    with target.session(Limits(timeout_s=60, file_bytes=200_000), purpose="verify") as session:
        outcome = session.measure({}, seed=3)
    assert isinstance(outcome, Failure) and outcome.kind in ("crashed", "rejected", "infrastructure")
    assert not list(target.directory.iterdir())


def test_the_binary_describes_itself() -> None:
    program = find_db_bench()
    binary = help_of(program)
    assert binary.version and "write_buffer_size" in binary.flags
    codecs = accepted_codecs(program)
    assert "none" in codecs and "xpress" not in codecs


DRIVER = """
import sys
from pathlib import Path
from mlsysopt.core.target import Limits
from mlsysopt.operate.tune.rocksdb.target import db_bench
target = db_bench(directory=Path(sys.argv[1]))
with target.session(Limits(), purpose="verify") as session:
    print("started", flush=True)
    session.measure({}, seed=3)
"""


def test_interrupting_the_driver_leaves_no_child_and_no_folder(tmp_path: Path) -> None:
    databases = tmp_path / "databases"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(databases)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert driver.stdout is not None and driver.stdout.readline() == "started\n"
    deadline = time.monotonic() + 20
    while not list(databases.glob("*/db/CURRENT")):
        assert time.monotonic() < deadline, "the load did not start"
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGINT)
    driver.wait(20)
    driver.stdout.close()
    assert not list(databases.iterdir())
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and str(databases) in _command_line(pid)]


def _command_line(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text()
    except OSError:
        return ""

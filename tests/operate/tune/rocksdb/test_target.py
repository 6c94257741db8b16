"""The target against a stand-in for db_bench: what is passed, what is read, how each fault is named."""

import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlsysopt.core.errors import InfrastructureError, MissingProgram, TargetError, UsageError
from mlsysopt.core.target import Failure, Limits, Measurement, Outcome, Target
from mlsysopt.operate import tune
from mlsysopt.operate.tune.rocksdb import database_target, phases, storage
from mlsysopt.operate.tune.rocksdb.database_target import knowledge
from mlsysopt.operate.tune.rocksdb.options import OptionsFile
from mlsysopt.operate.tune.rocksdb.target import DbBench, db_bench
from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS, Workload
from mlsysopt.testing.targets import TargetContract

KNOB_FLAGS = ("block_size", "write_buffer_size", "max_background_compactions", "level0_stop_writes_trigger")


@pytest.fixture
def target(fake: Any, tmp_path: Path) -> DbBench:
    return db_bench(program=fake.program, directory=tmp_path / "databases")


def measure(target: DbBench, config: dict[str, Any] | None = None, **named: Any) -> Outcome:
    """Measure on the target's directory; nothing may be left there afterwards."""
    with target.session(Limits(timeout_s=named.pop("limit", 30)), purpose="verify") as session:
        outcome = session.measure(config or {}, seed=named.pop("seed", 7), **named)
    assert not [path for path in target.directory.rglob("*") if path.is_file()]
    assert not list(target.directory.glob("mlsysopt-rocksdb-*"))
    return outcome


def measured(*args: Any, **named: Any) -> Measurement:
    outcome = measure(*args, **named)
    assert isinstance(outcome, Measurement), outcome
    return outcome


def failed(*args: Any, **named: Any) -> Failure:
    outcome = measure(*args, **named)
    assert isinstance(outcome, Failure), outcome
    return outcome


def test_the_default_passes_no_knob(target: DbBench, fake: Any) -> None:
    outcome = measured(target)
    assert set(outcome.metrics) == set(target.metrics()) - {"memory_bytes"}
    assert len(fake.calls()) == 3
    for call in fake.calls():
        assert not [flag for flag in call if flag.startswith(tuple(f"--{name}=" for name in target.space().names))]


def test_three_children_share_seed_and_workload(target: DbBench, fake: Any) -> None:
    measured(target, {"block_size": 8192}, seed=11)
    load, opened, run = fake.calls()
    assert load[0] == "--benchmarks=fillrandom,levelstats,flush,stats,stats,stats,stats,stats,stats"
    assert opened[0] == "--benchmarks=levelstats" and run[0] == "--benchmarks=mixgraph,stats"
    for call in (load, opened, run):
        assert {"--seed=11", "--statistics=true", "--histogram=true", "--num=120000", "--block_size=8192"} <= set(call)
    assert "--use_existing_db=true" not in load
    assert "--use_existing_db=true" in opened and "--use_existing_db=true" in run


def test_missing_parameters_take_the_defaults_of_the_space(target: DbBench, fake: Any) -> None:
    measured(target, {"block_size": 8192})
    sent = dict(flag.lstrip("-").split("=", 1) for flag in fake.calls()[0])
    assert sent["max_background_compactions"] == "1" and sent["write_buffer_size"] == "67108864"


def test_effective_values_come_from_the_database(target: DbBench) -> None:
    outcome = measured(target, {"level0_slowdown_writes_trigger": 30, "level0_stop_writes_trigger": 40})
    assert outcome.effective_config["level0_stop_writes_trigger"] == 8
    assert outcome.effective_config["min_write_buffer_number_to_merge"] == 2
    assert set(outcome.effective_config) == set(target.space().names)
    assert outcome.extra["corrections"][0].startswith("This condition must be satisfied")
    assert outcome.extra["notes"] == ["Assertions are enabled; benchmarks unnecessarily slow"]


def test_both_file_systems_are_told(target: DbBench) -> None:
    outcome = measured(target)
    assert outcome.extra["filesystem"] == outcome.extra["filesystems"]["verify"] != ""
    assert set(outcome.extra["filesystems"]) == {"search", "verify"}
    assert outcome.extra["open_cpu_share"] > 0


def test_a_fidelity_scales_keys_and_operations_together(target: DbBench, fake: Any) -> None:
    measured(target, fidelity=0.25)
    for call in fake.calls():
        assert {"--num=30000", "--reads=7500"} <= set(call)


def test_a_fidelity_scales_the_keys_of_a_workload_that_names_none(fake: Any, tmp_path: Path) -> None:
    own = Workload(["fillrandom", "flush"], ["mixgraph"], {"reads": 100, "mix_put_ratio": 0.1, "mix_seek_ratio": 0.1})
    measured(db_bench(own, program=fake.program, directory=tmp_path / "d"), fidelity=0.5)
    assert {"--num=500000", "--reads=50"} <= set(fake.calls()[0])


def test_the_hot_preset_reaches_db_bench(fake: Any, tmp_path: Path) -> None:
    measured(db_bench("mixgraph-hot", program=fake.program, directory=tmp_path / "d"))
    for call in fake.calls():
        assert {"--key_dist_a=0.002312", "--key_dist_b=0.3467", "--keyrange_num=30"} <= set(call)


def test_threads_are_for_the_run_alone(fake: Any, tmp_path: Path) -> None:
    measured(db_bench(program=fake.program, directory=tmp_path / "d", threads=3))
    assert [("--threads=3" in call) for call in fake.calls()] == [False, False, True]


def test_settings_hold_for_default_and_candidates(fake: Any, tmp_path: Path) -> None:
    target = db_bench(program=fake.program, directory=tmp_path / "d", settings={"num": "300000", "block_size": "16KiB"})
    assert target.space()["block_size"].default == 16384
    measured(target)
    assert {"--num=300000", "--block_size=16384"} <= set(fake.calls()[0])


@pytest.mark.parametrize("seed", [0, -1, 2**31])
def test_a_seed_that_means_the_clock_is_refused(target: DbBench, seed: int) -> None:
    with pytest.raises(UsageError, match="seed must lie in"):
        measure(target, seed=seed)


def test_memory_is_known_without_running(target: DbBench, fake: Any) -> None:
    default = (8 + 2 * 64) * 1024**2
    assert target.static({}) == {"memory_bytes": default}
    assert target.static({"max_write_buffer_number": 1}) == {"memory_bytes": default}
    assert target.budget_bytes == default * 3 // 2
    assert not (fake.folder / "calls").read_text().count("--benchmarks")


@pytest.mark.parametrize(
    ("mode", "phase", "kind", "reason"),
    [
        ("fail", "load", "rejected", "left the load with exit status 1"),
        ("fail", "run", "rejected", "Invalid argument: nonsense"),
        ("killed", "load", "crashed", "killed by signal 9 in the load"),
        ("killed", "run", "crashed", "killed by signal 9 in the run"),
        ("silent", "run", "crashed", "no result line for 'mixgraph'"),
        ("silent", "open", "crashed", "no 'Level Files Size"),
        ("full", "load", "infrastructure", r"No space left on device in the load \(\d+ bytes free"),
        ("unflushed", "", "degraded", "500 B of write-ahead log that no flush wrote out"),
    ],
)
def test_each_fault_is_named(target: DbBench, fake: Any, mode: str, phase: str, kind: str, reason: str) -> None:
    fake.behave(mode, phase)
    failure = failed(target)
    assert failure.kind == kind
    assert re.search(reason, failure.reason), failure.reason


def test_an_exit_after_the_start_is_a_crash(target: DbBench, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "START_S", 0.0)
    fake.behave("fail", "load")
    failure = failed(target)
    assert failure.kind == "crashed" and failure.log_tail == "some output\nInvalid argument: nonsense"


def test_a_trial_over_its_time_out(target: DbBench, fake: Any) -> None:
    fake.behave("hang", "run")
    failure = failed(target, timeout_s=1.0)
    assert failure.kind == "timeout" and failure.reason == "over its time-out of 1 s, in the run"
    assert 1.0 <= failure.wall_s < 10


def test_a_database_without_options_is_a_crash(target: DbBench, fake: Any) -> None:
    script = fake.program.read_text().replace('"/OPTIONS-000007"', '"/OPTION"')
    fake.program.write_text(script)
    assert failed(target).reason == "the load left no database"


def test_a_directory_that_is_too_small_names_both_numbers(target: DbBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000})())
    failure = failed(target)
    assert failure.kind == "infrastructure"
    assert "1000000 bytes" in failure.reason and "needed" in failure.reason and "--directory" in failure.reason


def test_a_directory_that_is_none(fake: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = db_bench(program=fake.program, directory=tmp_path / "file" / "below")
    with target.session(Limits(), purpose="verify") as session:
        failure = session.measure({}, seed=1)
    assert isinstance(failure, Failure) and failure.kind == "infrastructure"
    assert "cannot be used: Not a directory" in failure.reason


def test_a_folder_that_cannot_be_made_is_a_failure(target: DbBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(prefix: str, *, base: Path) -> Any:
        raise InfrastructureError(f"cannot make a folder in {base}: No space left on device")

    monkeypatch.setattr(database_target, "temporary_folder", full)
    failure = failed(target)
    assert failure.kind == "infrastructure" and failure.reason.endswith("No space left on device")
    assert failure.wall_s > 0 and failure.extra["filesystem"] == failure.extra["filesystems"]["verify"]


def test_a_disk_that_fails_during_the_trial_is_a_failure(target: DbBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(database: Path) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "used_bytes", broken)
    failure = failed(target)
    assert failure.kind == "infrastructure" and failure.reason == f"{target.directory}: Input/output error"


def test_a_configuration_outside_the_space_is_rejected_unrun(target: DbBench, fake: Any) -> None:
    failure = failed(target, {"level0_file_num_compaction_trigger": 64, "level0_slowdown_writes_trigger": 2})
    assert failure.kind == "rejected" and "level0_slowdown_writes_trigger" in failure.reason
    assert not fake.calls()


def test_search_runs_in_memory_only_when_it_fits(
    target: DbBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "filesystem_of", lambda path: "tmpfs" if path == storage.MEMORY_DISK else "ext4")
    monkeypatch.setattr(storage, "MEMORY_DISK", tmp_path)
    needed = storage.bytes_needed(target.workload.flags, target.budget_bytes)
    monkeypatch.setattr(storage, "_available_memory", lambda: 10 * needed)
    assert storage.choose("search", target.directory, needed, target.budget_bytes) == tmp_path
    assert storage.choose("verify", target.directory, needed, target.budget_bytes) == target.directory
    monkeypatch.setattr(storage, "_available_memory", lambda: needed)
    assert storage.choose("search", target.directory, needed, target.budget_bytes) == target.directory


def test_a_target_is_plain_data(target: DbBench) -> None:
    assert isinstance(target, Target)
    copy = pickle.loads(pickle.dumps(target))
    assert copy.fingerprint() == target.fingerprint() and copy.space() == target.space()
    assert target.with_space(target.space().subspace(["block_size"])).space().names == ("block_size",)


def test_the_fingerprint_keeps_workload_budget_and_version_apart(fake: Any) -> None:
    one = db_bench(program=fake.program).fingerprint()
    assert one["engine"] == "db_bench" and one["version"] == "7.8.3"
    for other in (
        db_bench("ycsb-b", program=fake.program),
        db_bench(program=fake.program, memory="512MiB"),
        db_bench(program=fake.program, settings={"num": 1000}),
        db_bench(program=fake.program, threads=2),
    ):
        assert other.fingerprint() != one


def test_the_fingerprint_of_mixgraph_is_that_of_the_recorded_tables(fake: Any) -> None:
    found = db_bench(program=fake.program, memory="256MiB").fingerprint()
    assert list(found) == ["target", "engine", "version", "workload", "load", "run", "flags", "memory_bytes", "threads"]
    assert found["workload"] == "mixgraph" and found["run"] == ["mixgraph"] and found["threads"] == 1
    assert found["load"] == ["fillrandom", "flush", "waitforcompaction"] and found["memory_bytes"] == 256 * 1024**2
    assert found["flags"] == {**WORKLOADS["mixgraph"].flags, "sine_mix_rate": False}
    assert "key_dist_a" not in found["flags"] and db_bench("mixgraph-hot", program=fake.program).fingerprint() != found


def test_guards_and_subgoals_follow_the_workload(fake: Any) -> None:
    mixgraph, reads = db_bench(program=fake.program), db_bench("ycsb-c", knobs="wide", program=fake.program)
    assert mixgraph.guards == {
        "p99_get_us": "<= 1.1x", "p99_write_us": "<= 1.1x", "load_ops_cpu": ">= 0.9x", "write_amp": "<= 1.1x",
        "disk_bytes": "<= 1.2x", "memory_bytes": f"<= {mixgraph.budget_bytes}",
    }  # fmt: skip
    assert "p99_write_us" not in reads.guards
    assert mixgraph.subgoals["seek_us"][0] == "block_size" and "seek_us" not in reads.subgoals
    assert "cache_size" in reads.subgoals["get_us"] and "cache_size" not in mixgraph.subgoals["get_us"]
    for names in knowledge().values():
        assert set(names) <= set(reads.space().names)


def test_throughput_has_a_twin_on_the_other_clock(target: DbBench) -> None:
    metrics = target.metrics()
    assert (metrics["throughput"].twin, metrics["throughput_cpu"].twin) == ("throughput_cpu", "throughput")
    assert metrics["memory_bytes"].kind == "static"
    assert all(not metrics[name].may_be_zero for name in ("throughput", "p99_get_us", "write_amp", "disk_bytes"))


def test_export_writes_what_rocksdb_uses(target: DbBench, tmp_path: Path) -> None:
    path = tmp_path / "rocksdb-options.ini"
    target.export({"block_size": 12288}, path)
    written = OptionsFile.read(path)
    assert written.find("level0_stop_writes_trigger") == "8"
    assert "--cache_size=8388608" in path.read_text().split("[Version]")[0]
    lines = (tmp_path / "rocksdb-options.ini.flags").read_text().splitlines()
    assert "--block_size=12288" in lines and len(lines) == len(target.space())


def test_export_of_what_rocksdb_refuses(target: DbBench, fake: Any, tmp_path: Path) -> None:
    fake.behave("fail", "load")
    with pytest.raises(TargetError, match="RocksDB does not run with this configuration"):
        target.export({}, tmp_path / "x.ini")
    assert not (tmp_path / "x.ini").exists()


def test_without_db_bench_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingProgram, match=r"db_bench not found: .*apt-get install rocksdb-tools.*--engine embedded"):
        tune.rocksdb(engine="db_bench")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"knobs": "block_sise"}, "no flag 'block_sise' in db_bench 7.8.3; did you mean block_size?"),
        ({"knobs": "papr10"}, "did you mean paper10?"),
        ({"workload": "ycsb_b"}, "no workload 'ycsb_b'; did you mean ycsb-"),
        ({"engine": "embeded"}, "no engine 'embeded'; did you mean embedded?"),
        ({"settings": {"nun": 3}}, "no flag 'nun' in db_bench 7.8.3"),
        ({"settings": {"num": "many"}}, "flag num: given 'many', allowed an integer"),
        ({"settings": {"seed": 4}}, "flag 'seed' is set by every trial itself"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"memory": "64MiB"}, "smallest workable budget: 136 MiB"),
    ],
)
def test_a_wrong_name_or_value_is_a_usage_error(fake: Any, named: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        tune.rocksdb(**{"program": fake.program, **named})
    assert message in str(caught.value)


def test_a_budget_below_the_default_shows_the_arithmetic(fake: Any) -> None:
    with pytest.raises(UsageError) as caught:
        db_bench(program=fake.program, memory="100MiB")
    assert str(caught.value) == (
        "memory 100 MiB is below what the default needs: "
        "cache_size 8 MiB + write_buffer_size 64 MiB * max(2, max_write_buffer_number 2) = 136 MiB\n"
        "smallest workable budget: 136 MiB (--memory 142606336)"
    )


def test_a_workload_without_a_flush_is_detected(fake: Any, tmp_path: Path) -> None:
    fake.behave("unflushed")
    careless = Workload(["fillrandom"], ["mixgraph"], {"num": 1000, "reads": 10, "mix_put_ratio": 0.1,
                                                       "mix_seek_ratio": 0.1})  # fmt: skip
    failure = failed(db_bench(careless, program=fake.program, directory=tmp_path / "d"))
    assert failure.kind == "degraded" and "end the workload's load with 'flush'" in failure.reason
    assert len(fake.calls()) == 1


def test_the_package_is_callable_and_holds_its_names() -> None:
    assert callable(tune.rocksdb) and tune.rocksdb.Workload is Workload


class TestDbBenchContract(TargetContract):
    """The shipped contract, against the stand-in."""

    wrong_config: ClassVar[dict[str, Any]] = {"level0_slowdown_writes_trigger": 1}

    @pytest.fixture(autouse=True)
    def stand_in(self, fake: Any, tmp_path: Path) -> None:
        self.program, self.directory = fake.program, tmp_path / "databases"

    def make_target(self) -> Target:
        return db_bench(program=self.program, directory=self.directory)

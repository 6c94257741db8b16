"""Sessions of a server target, on a server whose truth is planted: metrics, failures, probes, folders, leftovers."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from mlsysopt.core.errors import InfrastructureError, MissingProgram, SpaceError, TargetError, UsageError
from mlsysopt.core.processes import descendants, free_port, sweep_orphans
from mlsysopt.core.processes.ledger import current_ledger
from mlsysopt.core.target import Failure, Limits, Measurement, Outcome, Prober, Target, Value
from mlsysopt.operate.tune import server_target as target_module
from mlsysopt.operate.tune import session as session_module
from mlsysopt.operate.tune.server import Address, ClientFailed, ClientTimeout, Load, Loaded, Place, Workload
from mlsysopt.operate.tune.server_target import ServerTarget, server_target
from mlsysopt.operate.tune.session import ServerSession
from tests.operate.tune.planted_server import Planted

PAGE, MIB = 4096, 2**20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def nothing_is_left(data: Path) -> Iterator[None]:
    """After every session, whatever happened in it: no process, no folder."""
    before = set(descendants(os.getpid()))
    yield
    assert set(descendants(os.getpid())) <= before
    assert marked_processes() == []
    assert not data.is_dir() or [path for path in data.iterdir() if path.name.startswith("mlsysopt-")] == []
    assert sweep_orphans() == []


def marked_processes() -> list[int]:
    """Return every process that carries the mark of this one, also those that have left its tree."""
    found: list[int] = []
    mark = current_ledger().token.encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


@contextmanager
def opened(data: Path, server: Planted | None = None, **given: Any) -> Iterator[ServerSession]:
    made = server_target(server or Planted(), directory=data, **{"knobs": "core,traps", "memory": "1GiB", **given})
    with made.session(Limits()) as session:
        yield session


def failure(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


def starts(folder: Path) -> int:
    """Return how often a server has been started on a data folder and its ancestors."""
    return len((folder / "planted.data").read_text().splitlines())


# --- what is measured --------------------------------------------------------------------------------


def test_a_trial_reports_every_metric_that_the_target_declares(data: Path) -> None:
    with opened(data) as session:
        target = session.target
        outcome = session.measure({}, seed=1)
        assert isinstance(outcome, Measurement)
        assert set(outcome.metrics) == set(target.metrics())
        assert outcome.metrics["tps"] == pytest.approx(1000.0)
        # The twin counts CPU seconds of the server alone: 20 operations in 0.02 s of it.
        assert outcome.metrics["tps_cpu"] == outcome.extra["operations"] / outcome.extra["server_cpu_s"]
        assert 0.02 <= outcome.extra["server_cpu_s"] < 0.2
        # Counters are told as what happened under the load, for one operation.
        assert outcome.metrics["reads"] == pytest.approx(64 / 1024)
        assert outcome.metrics["flushes"] == pytest.approx(1 / 1000)
        assert 2 * MIB < outcome.metrics["memory_bytes"] < 200 * MIB
        assert outcome.effective_config == target.space().default()
        assert outcome.wall_s > 0.05 and outcome.cpu_s > 0.02 and outcome.log_tail == "LOG:  ready"
        assert isinstance(session, Prober) and isinstance(target, Target) and target.learns_validity


def test_the_twin_and_the_guards_are_declared(data: Path) -> None:
    target = server_target(Planted(), directory=data, memory="1GiB")
    metrics = target.metrics()
    assert (metrics["tps"].twin, metrics["tps"].clock) == ("tps_cpu", "wall")
    assert (metrics["tps_cpu"].twin, metrics["tps_cpu"].clock, metrics["tps_cpu"].unit) == ("tps", "cpu", "tx/CPU-s")
    assert target.guards == {"memory_bytes": f"<= {2**30}", "p99_ms": "<= 1.1x"}
    assert target.objective == "tps" and target.references[0].key == "schmied2021"


def test_effective_values_are_the_servers_own_in_the_units_of_the_space(data: Path) -> None:
    config = {"cache": 2000 * PAGE + 100, "workers": 8, "mode": "fast", "ratio": 0.123456789, "lossy": False}
    with opened(data) as session:
        outcome = session.measure(config, seed=1)
        assert isinstance(outcome, Measurement)
        # A server holds whole pages.
        assert outcome.effective_config == {**session.target.space().default(), **config, "cache": 2000 * PAGE}
        assert outcome.metrics["tps"] > 1000.0
        assert outcome.metrics["reads"] == pytest.approx(64 / 2000)


def test_memory_is_that_of_the_servers_processes_under_load(data: Path) -> None:
    with opened(data, Planted(busy_s=0.6)) as session:
        small, large = (session.measure({"scratch": n * MIB}, seed=1) for n in (1, 200))
    assert isinstance(small, Measurement) and isinstance(large, Measurement)
    grown = large.metrics["memory_bytes"] - small.metrics["memory_bytes"]
    assert 150 * MIB < grown < 250 * MIB


def test_what_is_set_for_all_runs_holds_for_the_default_too(data: Path) -> None:
    with opened(data, knobs="workers", settings={"cache": "8MiB", "sync": "off"}) as session:
        outcome = session.measure({}, seed=1)
        assert isinstance(outcome, Measurement)
        assert outcome.metrics["reads"] == pytest.approx(64 / 2048)
        assert outcome.effective_config == {"workers": 4}


@dataclass(frozen=True)
class Watched(Planted):
    """Notes down each load, and may fail in it."""

    loads: list[Load] = field(default_factory=list[Load], compare=False)
    error: Any = None
    hook: str = "load"

    def service(self, place: Place, config: Mapping[str, Value]) -> Any:
        return Planted().service(place, config)

    @property
    def workloads(self) -> Mapping[str, Workload]:
        return {"mixed": replace(super().workloads["mixed"], warmup_s=0.5, seconds=2.0, clients=3)}

    def _load(self, address: Address, load: Load) -> Loaded:
        self.loads.append(load)
        if self.error is not None and self.hook == "load":
            raise self.error
        return super()._load(address, load)

    def effective(self, address: Address) -> dict[str, Value]:
        if self.error is not None and self.hook == "effective":
            raise self.error
        return super().effective(address)

    def check(self, address: Address, loaded: Loaded) -> str | None:
        if self.error is not None and self.hook == "check":
            raise self.error
        return super().check(address, loaded)


def test_warm_up_fidelity_seed_and_clients_reach_the_load(data: Path) -> None:
    server = Watched()
    with opened(data, server) as session:
        assert session.measure({}, seed=7, fidelity=0.25, timeout_s=40).ok
        warm, real = server.loads
        assert (warm.seconds, real.seconds, real.seed, real.clients) == (0.5, 0.5, 7, 3)
        assert warm.seed != real.seed and 30 < real.timeout_s <= 40
        # Whatever the generator wrote is gone.
        assert not real.folder.exists()
    with opened(data, server, seconds=0.2, clients=1) as session:
        assert session.measure({}, seed=8).ok
        assert [(load.seconds, load.clients) for load in server.loads[2:]] == [(0.2, 1), (0.2, 1)]


# --- how it fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind", "reason", "named"),
    [
        ({"workers": 65}, "rejected", 'FATAL:  65 is outside the valid range for parameter "workers" (1 .. 64)',
         ["workers"]),
        ({"low_mark": 5, "high_mark": 5}, "rejected", "planted: low_mark must be less than high_mark",
         ["low_mark", "high_mark"]),
        ({"mode": "turbo"}, "rejected", "FATAL:  mode 'turbo' is not supported on this platform", ["mode"]),
        # A hint names the wrong ones: a first guess, no proof.
        ({"cache": 65_537 * PAGE}, "rejected",
         "FATAL:  could not map 268439552 bytes: Cannot allocate memory", ["workers", "low_mark"]),
        ({"depth": 201}, "crashed", "PANIC:  stack exhausted", None),
        ({"lossy": True}, "degraded", "2 of 20 writes are gone", None),
        ({"ticks": 501}, "degraded", "ticks: asked 501, the server uses 500", ["ticks"]),
    ],
    ids=["refused", "two of them", "choice", "wrong hint", "crashed", "check", "corrected"],
)  # fmt: skip
def test_a_failure_has_its_kind_its_reason_and_what_it_names(
    data: Path, config: dict[str, Any], kind: str, reason: str, named: list[str] | None
) -> None:
    with opened(data) as session:
        failed = failure(session.measure(config, seed=1))
        assert (failed.kind, failed.extra.get("named")) == (kind, named)
        if "writes are gone" not in reason:
            assert failed.reason == reason
            assert kind != "rejected" or reason in failed.log_tail
        else:
            assert failed.reason.endswith("writes are gone")
        assert failed.wall_s > 0 and failed.blames_config
        # The next one runs on a folder that the failure has not touched.
        assert session.measure({}, seed=2).ok


def test_a_correction_says_what_is_used_instead(data: Path) -> None:
    with opened(data) as session:
        failed = failure(session.measure({"ticks": 501, "workers": 8}, seed=1))
    assert failed.extra == {"named": ["ticks"], "corrected": {"ticks": 500}}


def test_a_start_that_hangs_is_a_timeout_relative_to_the_defaults_start(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_LEAST_START_S", 0.2)
    with opened(data, knobs="patience") as session:
        failed = failure(session.measure({"patience": 301}, seed=1))
        allowed = max(0.2, 8 * session.data.start_s)
    assert failed.kind == "timeout" and "under_load" not in failed.extra
    assert failed.reason.startswith(f"{Path(sys.executable).name} is not ready after {allowed:g} s")
    assert "recovery is in progress" in failed.log_tail
    assert allowed <= failed.wall_s < allowed + 2


def test_a_start_takes_no_longer_than_the_whole_run_may(data: Path) -> None:
    with opened(data, knobs="patience") as session:
        failed = failure(session.measure({"patience": 301}, seed=1, timeout_s=0.3))
    assert failed.kind == "timeout" and failed.wall_s < 1.5


def test_failed_operations_are_counted_with_the_first_error(data: Path) -> None:
    with opened(data, Planted(fails=3)) as session:
        failed = failure(session.measure({}, seed=1))
    assert (failed.kind, failed.reason) == ("degraded", "3 failed operations, the first: planted: it failed")


def test_a_server_over_its_memory_limit_is_ended(data: Path) -> None:
    with opened(data, Planted(busy_s=20.0), memory="100MiB") as session:
        failed = failure(session.measure({"scratch": 400 * MIB}, seed=1))
    assert (failed.kind, failed.reason) == ("degraded", "over its memory limit of 100 MiB")
    assert failed.wall_s < 15


@pytest.mark.parametrize(
    ("error", "hook", "kind", "extra"),
    [
        (ClientTimeout("pgbench did not end in 3 s"), "load", "timeout", {"under_load": True}),
        (ClientFailed("pgbench: connection refused by workers"), "load", "degraded", {"named": ["workers"]}),
        (ClientFailed("remaining connection slots are reserved"), "effective", "degraded", {}),
        (ClientFailed("the sums cannot be asked for"), "check", "degraded", {}),
        (ClientFailed("could not write: No space left on device"), "load", "infrastructure", {}),
    ],
)
def test_a_client_that_fails_is_a_failure_of_the_trial(
    data: Path, error: ClientFailed, hook: str, kind: str, extra: dict[str, Any]
) -> None:
    with opened(data, Watched()) as session:
        session.data.filled()
        hooked = replace(session.target, server=Watched(error=error, hook=hook))
        session.target = replace(hooked, workload=hooked.server.workloads["mixed"])
        failed = failure(session.measure({}, seed=1))
        assert (failed.kind, failed.reason, failed.extra) == (kind, str(error), extra)


# --- the machine's faults ----------------------------------------------------------------------------


def test_a_full_disk_is_the_machines_fault_with_free_against_needed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(data) as session:
        assert session.measure({}, seed=1).ok
        assert failure(session.measure({"workers": 65}, seed=1)).kind == "rejected"
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
            failed = failure(session.measure({}, seed=2))
        assert failed.kind == "infrastructure" and not failed.blames_config
        assert failed.reason.startswith(f"{session.folder} is too small: 10 B free, ")
        assert failed.reason.endswith("needed for a copy of the data; give another --directory")
        assert session.measure({}, seed=3).ok


def test_a_copy_that_fails_is_the_machines_fault_and_is_put_right_later(data: Path) -> None:
    with opened(data) as session:
        assert session.measure({"workers": 8}, seed=1).ok
        assert failure(session.measure({"workers": 65}, seed=1)).kind == "rejected"
        golden = session.data.filled()
        shutil.move(golden, golden.with_name("moved"))
        failed = failure(session.measure({}, seed=2))
        assert failed.kind == "infrastructure" and "No such file or directory" in failed.reason
        shutil.move(golden.with_name("moved"), golden)
        assert session.measure({}, seed=3).ok


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("FATAL:  could not write lock file: No space left on device", "infrastructure"),
        ("FATAL:  pre-existing shared memory block is still in use", "infrastructure"),
        ("FATAL:  workers are too many", "rejected"),
    ],
)
def test_the_log_tells_the_machine_from_the_configuration(
    data: Path, tmp_path: Path, words: str, kind: str, probe: bool
) -> None:
    fault = tmp_path / "fault"
    with opened(data, Planted(fault=str(fault))) as session:
        assert session.measure({}, seed=1).ok
        fault.write_text(words)
        failed = failure(session.probe({"workers": 8}) if probe else session.measure({"workers": 8}, seed=2))
        assert (failed.kind, failed.reason) == (kind, words)
        fault.unlink()
        assert session.measure({}, seed=3).ok and session.probe({"workers": 8}).ok


def test_a_server_file_may_know_more_lines_that_blame_the_machine(data: Path, tmp_path: Path) -> None:
    class Knows(Planted):
        infrastructure: ClassVar = (r"battery .* empty",)

    fault = tmp_path / "fault"
    with opened(data, Knows(fault=str(fault))) as session:
        session.data.filled()
        fault.write_text("FATAL: battery of the disk is empty")
        assert failure(session.measure({}, seed=1)).kind == "infrastructure"


def test_a_default_that_does_not_start_stops_everything(data: Path, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    server = Planted(fault=str(fault))
    target = server_target(server, directory=data, memory="1GiB")
    fault.write_text("FATAL:  out of order")
    with pytest.raises(TargetError, match=r"the default of planted does not start: [\s\S]*FATAL:  out of order"):
        server_target(server, directory=data, memory="1GiB")
    with target.session(Limits()) as session:
        for run in (lambda: session.measure({}, seed=1), lambda: session.probe({})):
            with pytest.raises(TargetError, match="the default of planted does not start"):
                run()


def test_an_empty_server_that_cannot_be_made_is_a_target_that_does_not_start(data: Path) -> None:
    class Bare(Planted):
        made: ClassVar[list[Place]] = []

        def prepare(self, place: Place) -> None:
            self.made.append(place)
            if len(self.made) > 1:
                raise ClientFailed("initdb: no locale")
            super().prepare(place)

    with opened(data, Bare()) as session, pytest.raises(TargetError, match="does not start: initdb: no locale"):
        session.measure({}, seed=1)


def test_a_fill_that_fails_is_said(data: Path) -> None:
    class Empty(Planted):
        def _fill(self, address: Address) -> None:
            raise ClientFailed("psql: syntax error")

    with opened(data, Empty(), workload="writes") as session, pytest.raises(TargetError) as error:
        session.measure({}, seed=1)
    assert str(error.value) == "planted could not be filled for the workload: psql: syntax error"


# --- probes ------------------------------------------------------------------------------------------


def test_a_probe_starts_reads_back_and_stops_without_load(data: Path) -> None:
    with opened(data) as session:
        outcome = session.probe({"workers": 8, "cache": 2000 * PAGE})
        assert isinstance(outcome, Measurement)
        assert outcome.metrics == {} and outcome.wall_s > 0
        assert outcome.effective_config == {**session.target.space().default(), "workers": 8, "cache": 2000 * PAGE}
        # What a load touches is not there.
        assert not (session.folder / "probe" / "used").exists()
        # Under load this one dies; a probe cannot know.
        assert session.probe({"depth": 201}).ok
        assert session.probe({}).ok


def test_the_folder_of_probes_is_used_again_until_one_fails(data: Path) -> None:
    with opened(data) as session:
        folder = session.folder / "probe"
        assert session.probe({"workers": 8}).ok
        first = starts(folder)
        assert session.probe({"workers": 9}).ok and starts(folder) == first + 1
        assert failure(session.probe({"workers": 65})).kind == "rejected"
        assert session.probe({"workers": 8}).ok and starts(folder) == first


def test_a_probe_that_hangs_is_a_timeout_and_the_next_one_works(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_LEAST_START_S", 0.2)
    with opened(data) as session:
        assert failure(session.probe({"patience": 100_000})).kind == "timeout"
        assert session.probe({"patience": 300}).ok
        assert failure(session.probe({"patience": 301}, timeout_s=0.2)).kind == "timeout"


def test_what_a_running_server_takes_is_tried_in_one(data: Path) -> None:
    with opened(data) as session:
        outcome = session.probe({"ticks": 300, "ratio": 0.25})
        assert isinstance(outcome, Measurement)
        assert outcome.metrics == {} and outcome.effective_config == {"ticks": 300, "ratio": 0.25}
        live = session._live
        assert live is not None and live[0].running
        pid = live[0].pid
        refused = failure(session.probe({"ratio": 1.5}))
        assert (refused.kind, refused.reason, refused.extra) == (
            "rejected", "FATAL:  ratio: 1.5 is not a share", {"named": ["ratio"]}
        )  # fmt: skip
        corrected = failure(session.probe({"ticks": 501}))
        assert (corrected.kind, corrected.extra["corrected"]) == ("degraded", {"ticks": 500})
        assert session._live is not None and session._live[0].pid == pid
        # One that needs a restart, the default, and a trial have the machine to themselves.
        assert session.probe({"ticks": 300, "workers": 8}).ok
        assert session._live is None and pid not in marked_processes()
        assert session.probe({"ticks": 20}).ok and session._live is not None
        assert session.measure({"ticks": 20}, seed=1).ok
        assert session._live is None


def test_a_server_without_that_way_is_started_for_every_probe(data: Path) -> None:
    class Deaf(Planted):
        set_live = None  # type: ignore[assignment]

    with opened(data, Deaf()) as session:
        assert session.probe({"ticks": 300}).ok and session._live is None
        assert failure(session.probe({"ratio": 1.5})).kind == "rejected"


def test_a_live_server_that_dies_is_replaced(data: Path) -> None:
    with opened(data) as session:
        assert session.probe({"ticks": 300}).ok
        assert session._live is not None
        session._live[0].stop()
        assert session.probe({"ticks": 20}).ok


def test_a_live_server_that_no_longer_starts_blames_no_configuration(data: Path, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    with opened(data, Planted(fault=str(fault))) as session:
        assert session.probe({"workers": 8}).ok
        fault.write_text("FATAL:  out of order")
        failed = failure(session.probe({"ticks": 300}))
        assert failed.kind == "infrastructure" and "the default no longer starts" in failed.reason
        fault.unlink()
        assert session.probe({"ticks": 300}).ok


# --- folders and processes ---------------------------------------------------------------------------


def test_a_load_that_reads_runs_on_the_folder_again_until_one_fails(data: Path) -> None:
    with opened(data) as session:
        folder = session.folder / "trial"
        assert session.measure({}, seed=1).ok
        first = starts(folder)
        assert session.measure({"workers": 8}, seed=1).ok and starts(folder) == first + 1
        assert failure(session.measure({"depth": 201}, seed=1)).kind == "crashed"
        assert session.measure({}, seed=1).ok and starts(folder) == first


def test_a_load_that_writes_gets_a_fresh_copy_of_the_filled_data_every_time(data: Path) -> None:
    with opened(data, workload="writes") as session:
        folder, golden = session.folder / "trial", session.data.filled()
        before = {path.name for path in golden.iterdir()}
        assert before == {"planted.data", "filled"}
        counts = []
        for seed in range(3):
            assert session.measure({"workers": 8}, seed=seed).ok
            counts.append(starts(folder))
            assert (folder / "used").exists()
        assert len(set(counts)) == 1
        assert {path.name for path in golden.iterdir()} == before


def test_children_that_leave_the_group_are_ended_with_the_server(data: Path) -> None:
    with opened(data) as session:
        assert session.measure({"strays": 3}, seed=1).ok
        assert marked_processes() == []
        assert session.probe({"strays": 2}).ok
        assert marked_processes() == []
        # Also where the server never comes up.
        assert not session.probe({"strays": 2, "patience": 301}, timeout_s=1.0).ok
        assert marked_processes() == []


def test_an_exception_in_the_middle_leaves_nothing(data: Path) -> None:
    with pytest.raises(KeyboardInterrupt), opened(data, Watched(error=KeyboardInterrupt())) as session:
        session.measure({}, seed=1)
    with pytest.raises(RuntimeError), opened(data) as session:
        assert session.probe({"ticks": 300}).ok
        raise RuntimeError


def test_only_the_session_is_removed_from_the_users_directory(data: Path) -> None:
    data.mkdir()
    (data / "notes").write_text("mine")
    with opened(data) as session:
        assert session.folder.parent == data and session.measure({}, seed=1).ok
    assert [path.name for path in data.iterdir()] == ["notes"]


# --- what it is made of ------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_data_directory_that_is_not_ours_is_never_touched(data: Path) -> None:
    class Marked(Planted):
        marker = "planted.data"

    data.mkdir()
    (data / "planted.data").write_text("9.6\n")
    before = tree(data)
    with pytest.raises(UsageError) as error:
        server_target(Marked(), directory=data)
    ours = ".".join(str(number) for number in sys.version_info[:3])
    assert str(error.value) == (
        f"{data} is a data directory of planted 9.6 (the installed one is {ours}), and not ours: "
        "nothing in it was started or changed; give an empty directory"
    )
    assert error.value.exit_code == 2 and tree(data) == before


def test_a_fixed_port_that_is_taken_names_the_holder(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        target = server_target(Planted(), directory=data, port=port)
        with pytest.raises(InfrastructureError) as error, target.session(Limits()):
            pass
    assert str(error.value).startswith(f"port {port} for planted is held by process {os.getpid()} (")
    assert str(error.value).endswith("): stop it, or leave --port out")
    assert error.value.exit_code == 1


def test_a_fixed_port_is_used_for_every_start(data: Path) -> None:
    port = free_port()
    with opened(data, port=port) as session:
        assert session.measure({}, seed=1).ok and session.probe({"ticks": 300}).ok
        assert session._live is not None and session._live[1].port == port


def test_a_load_that_writes_refuses_a_tmpfs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(target_module, "filesystem_of", lambda path: asked.append(path) or "tmpfs")
    with pytest.raises(UsageError) as error:
        server_target(Planted(), workload="writes", directory=data)
    assert asked == [data] and not data.exists()
    assert str(error.value).startswith(f"workload 'writes' writes, and {data} is a tmpfs, where fsync costs nothing")
    assert server_target(Planted(), workload="writes", directory=data, allow_tmpfs=True).workload.writes
    assert not server_target(Planted(), workload="mixed", directory=data).workload.writes


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> ServerTarget:
    return server_target(Planted(), directory=tmp_path_factory.mktemp("listed"), knobs="core,traps", memory="1GiB")


@pytest.mark.parametrize(
    ("name", "text", "native"),
    [
        ("cache", "8MiB", 2048), ("cache", 8 * MIB, 2048), ("cache", "65536", 16), ("scratch", "1MiB", 1024),
        ("workers", "1k", 1000), ("workers", 7, 7), ("ratio", "0.25", 0.25), ("ratio", "1e6", 1e6),
        ("mode", "fast", "fast"), ("sync", "off", False), ("sync", "TRUE", True), ("lossy", "1", True),
        ("patience", "2s", 2000), ("patience", "50ms", 50), ("patience", "50", 50), ("patience", 0, 0),
    ],
)  # fmt: skip
def test_settings_are_read_into_the_servers_units(listed: ServerTarget, name: str, text: Any, native: Value) -> None:
    assert target_module._settings(listed.catalogue, {name: text}) == {name: native}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("chache", "8MiB", "planted has no knob 'chache'; did you mean cache?"),
        ("page", "1", "knob 'page' of planted cannot be set: it is fixed when the server is built"),
        ("sync", "maybe", "sync=maybe: on or off is needed"),
        ("mode", "fats", "mode=fats: did you mean fast?"),
        ("cache", "8XB", "cache=8XB: "),
        ("cache", "lots", "cache=lots: "),
        ("cache", "64", "cache=64: planted takes 64 KiB to 4 TiB"),
        ("cache", "8TiB", "cache=8TiB: planted takes 64 KiB to 4 TiB"),
        ("scratch", "1", "scratch=1: planted takes 1 KiB to 1 TiB"),
        ("patience", "1h", "patience=1h: planted takes 0 to 100000 ms"),
        ("workers", 0, "workers=0: planted takes 1 to 1e+06"),
    ],
)
def test_settings_that_cannot_be_meant(listed: ServerTarget, name: str, text: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        target_module._settings(listed.catalogue, {name: text})
    assert str(error.value).startswith(message) and error.value.exit_code == 2


def test_what_is_set_for_every_run_is_not_tuned(data: Path) -> None:
    target = server_target(Planted(), directory=data, memory="1GiB", settings={"workers": 8})
    assert "workers" not in target.space() and target.fixed == {"workers": 8}
    with pytest.raises(UsageError, match="nothing is left to tune: cache of planted is set for every run"):
        server_target(Planted(), directory=data, knobs="cache", settings={"cache": "8MiB"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workload": "miexd"}, "planted has no workload 'miexd'; did you mean mixed?"),
        ({"seconds": 0}, "seconds must be positive, got 0"),
        ({"clients": 0}, "clients must be at least 1, got 0"),
        ({"memory": "1MiB"}, "memory 1MiB: a server needs at least 32 MiB"),
        ({"knobs": "sync"}, "knob 'sync' of planted is fenced (durability)"),
        ({"unfence": ["everything"]}, "no fence 'everything' here"),
        ({"settings": {"nothing": "1"}}, "planted has no knob 'nothing'"),
    ],
)
def test_what_cannot_be_made(data: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        server_target(Planted(), directory=data, **given)
    assert message in str(error.value)


def test_a_program_that_is_not_installed_is_named_with_its_package(data: Path) -> None:
    class Absent(Planted):
        programs: ClassVar = {"planted-of-nobody": "planted-server"}

    with pytest.raises(MissingProgram, match=r"planted-of-nobody not found: .*apt-get install planted-server") as error:
        server_target(Absent(), directory=data)
    assert error.value.exit_code == 3 and not data.exists()


def test_constraints_of_the_file_hold_the_budget_and_may_be_left_out(data: Path) -> None:
    target = server_target(Planted(), directory=data, memory="64MiB")
    (broken,) = target.space().violations({"cache": 65 * MIB})
    assert broken.text == "constraint 'cache <= 67108864': cache = 65 MiB, allowed <= 64 MiB"
    assert server_target(Planted(), directory=data, memory="64MiB", constraints=False).space().constraints == ()


def test_a_users_constraint_that_the_default_breaks_is_refused_with_its_numbers(listed: ServerTarget) -> None:
    with pytest.raises(SpaceError, match=r"the default breaks .*workers \* cache <= 8MiB.*16 MiB"):
        listed.space().require("workers * cache <= 8MiB")
    narrow = listed.with_space(listed.space().require("workers * cache <= 64MiB"))
    assert narrow.space() != listed.space() and narrow.fingerprint() == listed.fingerprint()


def test_a_space_of_other_knobs_is_refused(listed: ServerTarget) -> None:
    from mlsysopt.core.space import Int, Space

    with pytest.raises(UsageError, match=r"planted has no knob 'worker'; did you mean workers\?"):
        listed.with_space(Space([Int("worker", 1, 4)]))


def test_the_key_of_ranges_tells_what_ranges_depend_on(listed: ServerTarget) -> None:
    def with_default(name: str, value: Value) -> ServerTarget:
        knobs = {**listed.catalogue.knobs, name: replace(listed.catalogue.knobs[name], default=value)}
        return replace(listed, catalogue=replace(listed.catalogue, knobs=knobs))

    key = listed.range_key()
    assert key.startswith("planted ") and " in 1 GiB (" in key
    others = (
        replace(listed, version="0.1"), replace(listed, memory_bytes=2**31), replace(listed, fixed={"workers": 8}),
        with_default("workers", 5),
    )  # fmt: skip
    assert len({key, *(other.range_key() for other in others)}) == 5
    # What is fenced or fixed is not the user's: the port of a scratch instance is another one each time.
    assert with_default("sync", False).range_key() == with_default("page", 1).range_key() == key


def test_names_are_found_as_whole_words(listed: ServerTarget) -> None:
    assert listed.names_in("HINT: lower workers, or low_mark") == ["workers", "low_mark"]
    assert listed.names_in("coworkers and workers_total, low_marks, cache-line") == []


def test_export_writes_what_differs_in_the_servers_own_form(listed: ServerTarget, tmp_path: Path) -> None:
    path = tmp_path / "tuned.conf"
    head = f"# planted {listed.version}, tuned for the workload 'mixed'"
    listed.export({"cache": 8 * MIB + 5, "workers": 4, "lossy": True, "ratio": 0.5}, path)
    assert path.read_text().splitlines() == [head, "cache = 2048", "lossy = on"]
    listed.export({}, path)
    assert path.read_text().splitlines() == [head, "# no setting differs from the default"]
    replace(listed, fixed={"sync": True, "mode": "safe"}).export({"workers": 8}, path)
    assert path.read_text().splitlines() == [head, "sync = on", "mode = safe", "workers = 8"]
    with pytest.raises(InfrastructureError, match=r"cannot write .*nowhere"):
        listed.export({}, tmp_path / "nowhere" / "tuned.conf")

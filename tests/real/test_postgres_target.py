"""PostgreSQL as a target: measured, probed, refused, and killed in every phase without leaving anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.core.processes import sweep_orphans
from mlsysopt.core.processes.segments import segments_of
from mlsysopt.core.processes.strays import carriers
from mlsysopt.core.target import Failure, Limits, Measurement, Outcome
from mlsysopt.operate.tune.disks import filesystem_of
from mlsysopt.operate.tune.server import Address, Load, Loaded
from mlsysopt.operate.tune.server_target import ServerTarget, server_target
from mlsysopt.operate.tune.servers.postgres import server as postgres
from mlsysopt.operate.tune.session import ServerSession
from tests.real.postgres import program

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(program("pgbench") is None, reason="PostgreSQL (pgbench) is not installed"),
]

MIB = 2**20
KNOBS = "essentials,max_connections,superuser_reserved_connections,seq_page_cost"

# A driver that says where it is, just before it goes there.
DRIVER = """
import os, sys, threading, time
from dataclasses import replace
from pathlib import Path
from mlsysopt.core.processes import Service, descendants
from mlsysopt.core.processes.ledger import current_ledger
from mlsysopt.core.target import Limits
from mlsysopt.operate.tune.server_target import server_target
from mlsysopt.operate.tune.servers.postgres import server
from mlsysopt.operate.tune.data_folders import DataFolders

directory, phase = sys.argv[1:]
copy, start = DataFolders.copy, Service.start

def say(*words):
    print(*words, flush=True)

def copied(self, source, name):
    say("copy", name)
    return copy(self, source, name)

def started(self, *given, **named):
    say("start")
    start(self, *given, **named)
    say("pid", self.pid)
    return self

def watch():
    names = []
    while "pgbench" not in names:
        names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in descendants(os.getpid())
                 if Path(f"/proc/{pid}/comm").exists()]
        time.sleep(0.01)
    say("load")

target = server_target(server, workload="select", seconds=30, memory="1GiB", directory=directory)
with target.session(Limits()) as session:
    session.data.filled()
    say("token", current_ledger().token)
    DataFolders.copy, Service.start = copied, started
    threading.Thread(target=watch, daemon=True).start()
    if phase == "probe":
        session.probe({"shared_buffers": 2**26})
        session.probe({"work_mem": 2**20})
    else:
        session.measure({}, seed=1)
"""


@contextmanager
def reachable() -> Iterator[Path]:
    """Make a folder on the disk, and see that nothing is left in it."""
    # Root runs the server as somebody who must be able to enter.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="test-postgres-"))
    folder.chmod(0o755)
    if filesystem_of(folder) == "tmpfs":
        pytest.skip("/var/tmp is a tmpfs, where fsync costs nothing")
    yield folder
    assert list(folder.iterdir()) == []
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with reachable() as folder:
        yield folder


@pytest.fixture
def alone() -> Iterator[Path]:
    """A folder in which no session of another test is open."""
    with reachable() as folder:
        yield folder


@pytest.fixture(scope="module")
def target(directory: Path) -> ServerTarget:
    return server_target(
        postgres, workload="select", seconds=1, clients=2, knobs=KNOBS, memory="1GiB", directory=directory
    )


@pytest.fixture(scope="module")
def mixed(target: ServerTarget) -> ServerTarget:
    load = replace(postgres.workloads["mixed"], seconds=1.0, warmup_s=0.2, clients=2)
    return replace(target, workload_name="mixed", workload=load)


@pytest.fixture(scope="module")
def session(target: ServerTarget) -> Iterator[ServerSession]:
    with target.session(Limits()) as opened:
        yield opened


def failure(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


# --- trials ------------------------------------------------------------------------------------------


def test_reads_are_measured_and_the_folder_is_used_again(session: ServerSession) -> None:
    config = {"shared_buffers": 256 * MIB, "random_page_cost": 1.1, "jit": False, "wal_buffers": -1}
    default, changed = session.measure({}, seed=1), session.measure(config, seed=1)
    assert isinstance(default, Measurement) and isinstance(changed, Measurement)
    for outcome in (default, changed):
        assert set(outcome.metrics) == set(session.target.metrics())
        assert outcome.metrics["tps"] > 100 and outcome.metrics["tps_cpu"] > 100
        assert 0 < outcome.metrics["p50_ms"] <= outcome.metrics["p95_ms"] <= outcome.metrics["p99_ms"]
        # What the backends used counts, although they have ended by then.
        assert outcome.extra["server_cpu_s"] > 0.1
        assert 10 * MIB < outcome.metrics["memory_bytes"] < 1024 * MIB
    used = changed.effective_config
    assert used["shared_buffers"] == 256 * MIB and used["random_page_cost"] == 1.1 and used["jit"] is False
    # "Automatic" is what the server makes of it, no correction.
    assert used["wal_buffers"] == 8 * MIB
    assert default.effective_config["shared_buffers"] == 128 * MIB


def test_updates_joins_and_sorts_are_measured_and_balances_agree(mixed: ServerTarget) -> None:
    with mixed.session(Limits()) as opened:
        outcomes = [opened.measure(config, seed=2) for config in ({}, {"work_mem": 32 * MIB})]
        for outcome in outcomes:
            assert isinstance(outcome, Measurement), outcome
            assert outcome.metrics["tps"] > 10 and outcome.metrics["wal_bytes"] > 0
        # A balance that is changed behind the history's back.
        run = mixed.workload.run

        def breach(address: Address, load: Load) -> Loaded:
            loaded = run(address, load)
            statement = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 7"
            address.run("psql", "-h", address.host, "-p", address.port, "-U", "postgres", "-c", statement, "postgres")
            return loaded

        opened.target = replace(mixed, workload=replace(mixed.workload, run=breach))
        broken = failure(opened.measure({}, seed=3))
        assert broken.kind == "degraded" and broken.reason.startswith("the balances sum to ")
        # The next trial starts from the data as they were filled in.
        opened.target = mixed
        assert opened.measure({}, seed=4).ok


# --- probes and refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind", "named"),
    [
        # Said without the word FATAL.
        ({"max_connections": 10, "superuser_reserved_connections": 10}, "rejected",
         ["max_connections", "superuser_reserved_connections"]),
        ({"shared_buffers": 2**43}, "rejected", ["shared_buffers"]),
        ({"seq_page_cost": -1.0}, "rejected", ["seq_page_cost"]),
    ],
    ids=["reserved", "memory", "live"],
)  # fmt: skip
def test_what_does_not_start_says_what_it_minds(
    session: ServerSession, config: dict[str, Any], kind: str, named: list[str]
) -> None:
    failed = failure(session.probe(config))
    assert failed.kind == kind, failed
    assert set(named) <= set(failed.extra["named"])
    assert session.probe({"max_connections": 50}).ok


def test_live_knobs_are_tried_in_a_running_server(session: ServerSession) -> None:
    assert session.probe({"work_mem": 8 * MIB, "random_page_cost": 1.1}).ok
    live = session._live
    assert live is not None
    refused = failure(session.probe({"work_mem": 1024}))
    assert refused.kind == "rejected" and refused.extra["named"] == ["work_mem"]
    assert refused.reason.startswith("1 kB is outside the valid range")
    assert session._live == live and session.probe({"work_mem": 16 * MIB}).ok
    # Values of one probe are not there for the next one.
    assert postgres.effective(live[1])["work_mem"] == 4096


def test_durability_is_fenced_and_the_fence_is_lifted_by_name(directory: Path) -> None:
    given: dict[str, Any] = {"workload": "select", "memory": "512MiB", "directory": directory}
    with pytest.raises(UsageError, match=r"knob .fsync. of postgres is fenced \(durability\): .*--unfence durability"):
        server_target(postgres, knobs="fsync", **given)
    lifted = server_target(postgres, knobs="fsync", unfence=["durability"], **given)
    assert lifted.space().names == ("fsync",)
    with pytest.raises(UsageError, match="knob 'block_size' of postgres cannot be set"):
        server_target(postgres, knobs="block_size", **given)


def test_a_cluster_of_somebody_else_is_never_touched(directory: Path) -> None:
    theirs = directory / "theirs"
    theirs.mkdir()
    (theirs / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(UsageError, match=r"data directory of postgres 9\.6 \(the installed one is \d+\.\d+\), and not"):
        server_target(postgres, workload="select", directory=theirs)
    assert [path.name for path in theirs.iterdir()] == ["PG_VERSION"]
    shutil.rmtree(theirs)


def test_two_instances_have_the_same_ranges(target: ServerTarget, directory: Path) -> None:
    again = server_target(postgres, workload="mixed", knobs="wal", memory="1GiB", directory=directory)
    assert again.range_key() == target.range_key()


# --- kill -9 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "marker"), [("copy", "copy trial"), ("start", "start"), ("load", "load"), ("probe", "copy live")]
)
def test_a_killed_driver_leaves_nothing_after_the_next_sweep(alone: Path, phase: str, marker: str) -> None:
    shared = set(os.listdir("/dev/shm"))
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER, str(alone), phase], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            said.append(line.strip())
            if line.strip().startswith(marker) and any(one.startswith("token") for one in said):
                break
        else:
            pytest.fail(f"it never said {marker!r}: {said}")
        driver.kill()
    token = next(line.split()[1] for line in said if line.startswith("token"))
    swept = sweep_orphans()
    assert any(line.startswith("folder ") and "mlsysopt-postgres-" in line for line in swept)
    assert carriers(token) == []
    assert list(alone.iterdir()) == []
    # Whoever was up when the driver died: PostgreSQL's memory would outlive it.
    pids = [int(line.split()[1]) for line in said if line.startswith("pid")]
    assert segments_of(pids) == []
    assert {name for name in set(os.listdir("/dev/shm")) - shared if "PostgreSQL" in name} == set()
    assert sweep_orphans() == []

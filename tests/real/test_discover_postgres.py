"""Ranges of the installed PostgreSQL: found in less than a minute of CPU time, and nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.measure.clocks import Stopwatch
from mlsysopt.core.processes.ledger import current_ledger
from mlsysopt.core.processes.strays import carriers
from mlsysopt.core.store import Store
from mlsysopt.core.target import Failure, Limits
from mlsysopt.operate.tune.discovery import discover, known
from mlsysopt.operate.tune.server_files import server
from mlsysopt.operate.tune.server_target import server_target
from tests.real.postgres import program

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(program("postgres") is None, reason="PostgreSQL is not installed (postgresql)"),
]
EIGHT = (
    "shared_buffers", "work_mem", "max_connections", "superuser_reserved_connections", "max_wal_senders",
    "wal_buffers", "min_wal_size", "max_locks_per_transaction",
)  # fmt: skip


def abandoned_segments() -> set[str]:
    rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {row.split()[1] for row in rows if not Path("/proc", row.split()[4]).exists()}


def test_the_eight_knobs() -> None:
    before = abandoned_segments()
    target = server_target(server("postgres"), knobs=EIGHT, memory="10GiB", constraints=False)
    with Store.open(None) as store:
        with Stopwatch() as watch:
            found = discover(target, store=store, budget="240s")
        assert known(target, store).space() == found.target.space()
    # Wall seconds are the bench's to judge; here others may use the machine.
    assert watch.cpu_s < 60
    assert found.complete, found.text()
    ranges: dict[str, Any] = {one.name: one for one in found.found}
    assert ranges["shared_buffers"].high.value == ranges["work_mem"].high.value == 10 * 2**30
    assert ranges["superuser_reserved_connections"].high.value in range(67, 100)
    assert ranges["max_connections"].low.value in (4, 5)
    assert 1000 <= ranges["max_connections"].high.value <= 200_000
    assert ranges["wal_buffers"].low.value == 4 * 8192
    assert ranges["wal_buffers"].low.origin == "server message"
    assert 32 * 2**20 <= ranges["min_wal_size"].low.value <= 48 * 2**20
    assert ranges["max_locks_per_transaction"].high.value < 10**7
    assert carriers(current_ledger().token) == []
    assert abandoned_segments() <= before
    assert found.target.space().default() == target.space().default()


def test_a_diagnosis_finds_who_it_is_behind_a_misleading_hint() -> None:
    # The hint of this refusal names shared_buffers and max_connections.
    target = server_target(server("postgres"), knobs=EIGHT, memory="10GiB", constraints=False)
    config = {
        "shared_buffers": 2**26,
        "max_connections": 150,
        "max_locks_per_transaction": 2_000_000_000,
        "work_mem": 2**21,
    }
    with target.session(Limits()) as session:
        failure = session.probe(config)
        assert isinstance(failure, Failure) and failure.kind == "rejected"
        assert "max_locks_per_transaction" not in failure.extra["named"]
        assert session.diagnose(config, failure, session.probe) == ("max_locks_per_transaction",)

"""Loads of a PostgreSQL server through pgbench: its own, and scripts of ours with weights."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np

from mlsysopt.core.target import Metric
from mlsysopt.operate.tune.server import Address, Load, Loaded, Workload

__all__ = ["WORKLOADS"]

_SCALE = 10
_USER = "postgres"
_TEXTS = files("mlsysopt.operate.tune.servers") / "workloads"


def _at(address: Address) -> tuple[object, ...]:
    return "-h", address.host, "-p", address.port, "-U", _USER


def _scripts(*weighted: str) -> list[str]:
    return [word for one in weighted for word in ("-f", str(_TEXTS / one))]


def _bench(which: list[str], rate: float) -> Callable[[Address, Load], Loaded]:
    """Return a run of pgbench, which counts whole seconds.

    Args:
        which: Its scripts.
        rate: Transactions of one client in a second; a shorter run gets a number of them instead of a time.
    """

    def run(address: Address, load: Load) -> Loaded:
        long = load.seconds >= 1
        length = ["-T", round(load.seconds)] if long else ["-t", max(1, round(load.seconds * rate))]
        output = address.run(
            "pgbench", *_at(address), "-n", "-M", "prepared", *which, "-c", load.clients, "-j", 1, *length,
            f"--random-seed={load.seed}", "-s", _SCALE, "-l", f"--log-prefix={load.folder}/run", "postgres",
            timeout_s=load.timeout_s,
        )  # fmt: skip
        return _parsed(output, load.folder)

    return run


def _parsed(output: str, folder: Path) -> Loaded:
    """Read the summary of pgbench, and each transaction's latency (third column, us) from its logs."""
    lines = (line.replace("tps = ", "tps: ").partition(": ") for line in output.splitlines())
    found = {name.strip(): rest for name, sign, rest in lines if sign}
    logs = [log for log in folder.glob("run*") if log.stat().st_size]
    waits = np.concatenate([np.loadtxt(log, usecols=2, ndmin=1) for log in logs] or [np.zeros(1)]) / 1000
    for log in folder.glob("run*"):
        log.unlink()
    p50, p95, p99 = (float(value) for value in np.percentile(waits, [50, 95, 99]))
    failed = int(found.get("number of failed transactions", "0").split()[0])
    done = int(found["number of transactions actually processed"].split("/")[0])
    metrics = {"tps": float(found["tps"].split()[0]), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
    return Loaded(metrics, done, failed, "pgbench only counts failed transactions" if failed else "")


def _accounts(address: Address) -> None:
    address.run("pgbench", *_at(address), "-i", "-q", "-s", _SCALE, "postgres")


def _accounts_and_orders(address: Address) -> None:
    _accounts(address)
    statements = (_TEXTS / "orders.sql").read_text()
    address.run("psql", *_at(address), "-q", "-v", "ON_ERROR_STOP=1", "postgres", stdin=statements)


def _workload(
    about: str, which: list[str], rate: float, setup: Callable[[Address], None] = _accounts, *, writes: bool = True
) -> Workload:
    latencies = {
        f"{p}_ms": Metric("ms", "lower", clock="wall", about=f"{p} latency of a transaction")
        for p in ("p50", "p95", "p99")
    }
    return Workload(
        about=about, run=_bench(which, rate), setup=setup, writes=writes, objective="tps", guards={"p99_ms": "<= 1.1x"},
        metrics={"tps": Metric("tx/s", "higher", about="transactions per second"), **latencies},
    )  # fmt: skip


WORKLOADS = {
    "mixed": _workload(
        "point reads, updates, joins and sorts, 40 : 8 : 2 : 1",
        _scripts("point.sql@40", "update.sql@8", "join.sql@2", "sort.sql@1"), 100, _accounts_and_orders,
    ),
    "tpcb": _workload("pgbench's own transactions, like TPC-B", ["-b", "tpcb-like"], 100),
    "select": _workload("pgbench's point reads", ["-b", "select-only"], 2500, writes=False),
}  # fmt: skip
"""Workload name -> workload; the balances of accounts and the rows of history agree after each."""

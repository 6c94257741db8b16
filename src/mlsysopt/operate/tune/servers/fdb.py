"""What a FoundationDB cluster says of itself, the list of its knobs, and what loads it."""

from __future__ import annotations

import json
import os
import shlex
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import UsageError
from mlsysopt.core.processes import program, run_child
from mlsysopt.core.target import Limits, Metric
from mlsysopt.operate.tune.server import Address, ClientFailed, ClientTimeout, Load, Loaded, Workload

__all__ = ["cli", "is_available", "listed", "status", "workloads"]

# Of 7.1, from its documentation in the sources; another version may have other names and other defaults.
_KNOBS: Mapping[str, Mapping[str, Any]] = {
    "page_cache_4k": {"type": "int", "default": 2**31, "low": 2**20, "group": "storage"},
    "storage_commit_bytes": {"type": "int", "default": 10_000_000, "low": 1, "group": "storage"},
    "storage_commit_interval": {"type": "float", "default": 0.5, "low": 1e-4, "group": "storage"},
    "update_storage_byte_limit": {"type": "int", "default": 1_000_000, "low": 1, "group": "log"},
    "max_queue_commit_bytes": {"type": "int", "default": 15_000_000, "low": 1, "group": "log"},
    "commit_transaction_batch_interval_min": {"type": "float", "default": 0.001, "low": 1e-6, "group": "proxy"},
    "commit_transaction_batch_interval_max": {"type": "float", "default": 0.02, "low": 1e-6, "group": "proxy"},
    "commit_transaction_batch_count_max": {"type": "int", "default": 32768, "low": 1, "high": 32768, "group": "proxy"},
    "start_transaction_batch_interval_max": {"type": "float", "default": 0.01, "low": 1e-6, "group": "proxy"},
}
_MAKO = "mako --cluster {cluster} --rows 100000 --mode"
_FILL_S = 600.0
_CLI_S = 10
_PROBES = {"commit_ms": "commit_seconds", "read_ms": "read_seconds"}


def listed() -> Mapping[str, Mapping[str, Any]]:
    """Return the list of knobs: the user's own, or a few of 7.1.

    Raises:
        UsageError: the file cannot be read, or an entry lacks its type or default.
    """
    where = os.environ.get("MLSYSOPT_FDB_KNOBS")
    if where is None:
        return _KNOBS
    try:
        text = Path(where).read_text()
        found: dict[str, dict[str, Any]] = json.loads(text) if where.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"MLSYSOPT_FDB_KNOBS={where}: {error}") from None
    for name, told in found.items():
        if told.get("type") not in ("int", "float", "bool") or "default" not in told:
            raise UsageError(f"MLSYSOPT_FDB_KNOBS={where}: {name} needs a type (int, float, bool) and a default")
    return found


def _cluster_file(address: Address) -> Path:
    path = address.folder / "fdb.cluster"
    path.write_text(f"mlsysopt:scratch@{address.host}:{address.port}\n")
    return path


def cli(address: Address, command: str) -> str:
    """Run a command of fdbcli and return what it prints."""
    return address.run("fdbcli", "-C", _cluster_file(address), "--timeout", _CLI_S, "--exec", command)


def status(address: Address) -> dict[str, Any]:
    """Return the cluster's status as its documented schema has it."""
    text = cli(address, "status json")
    try:
        return json.loads(text[text.index("{") :])
    except ValueError:
        raise ClientFailed(f"fdbcli: the status is no JSON: {text.strip()[:80]!r}") from None


def is_available(found: Mapping[str, Any]) -> bool:
    """Whether the database of a status takes transactions."""
    return bool(found.get("client", {}).get("database_status", {}).get("available", False))


def _committed(found: Mapping[str, Any]) -> float:
    return float(found["cluster"]["workload"]["transactions"]["committed"]["counter"])


def _run(address: Address, command: str, **words: object) -> None:
    argv = shlex.split(command.format(cluster=_cluster_file(address), **words))
    argv[0] = str(
        program(argv[0], hint="name a load generator of yours: MLSYSOPT_FDB_LOAD='command {cluster} {seconds}'")
    )
    done = run_child(argv, limits=Limits(timeout_s=float(str(words["timeout_s"]))))
    if done.timed_out:
        raise ClientTimeout(f"{argv[0]} did not end in {words['timeout_s']} s")
    if done.returncode != 0:
        raise ClientFailed(f"{argv[0]}: {(done.stderr.strip() or done.stdout.strip())[-300:]}")


def _loader(command: str) -> Callable[[Address, Load], Loaded]:
    def run(address: Address, load: Load) -> Loaded:
        before, began = status(address), time.monotonic()
        _run(address, command, seconds=max(1, round(load.seconds)), clients=load.clients, seed=load.seed,
             timeout_s=load.timeout_s)  # fmt: skip
        spent_s, after = time.monotonic() - began, status(address)
        done = _committed(after) - _committed(before)
        probed: Mapping[str, float] = after["cluster"].get("latency_probe", {})
        probes = {name: 1000.0 * probed[theirs] for name, theirs in _PROBES.items() if theirs in probed}
        return Loaded({"tps": done / spent_s, **probes}, done)

    return run


def workloads() -> Mapping[str, Workload]:
    """Return the one workload: what the environment names, or mako."""
    load, fill = os.environ.get("MLSYSOPT_FDB_LOAD"), os.environ.get("MLSYSOPT_FDB_FILL")
    if load is None:
        load, fill = f"{_MAKO} run --transaction g8u2 --threads {{clients}} --seconds {{seconds}}", f"{_MAKO} build"
    probes = {name: Metric("ms", "lower", clock="wall", about=f"latency_probe.{theirs} of the cluster")
              for name, theirs in _PROBES.items()}  # fmt: skip

    def setup(address: Address) -> None:
        if fill is not None:
            _run(address, fill, timeout_s=_FILL_S, seconds=1, clients=1, seed=1)

    return {"load": Workload(
        about=f"{shlex.split(load)[0]}; never run against a live cluster by this project", run=_loader(load),
        setup=setup, seconds=30.0, warmup_s=5.0, writes=True, objective="tps",
        metrics={"tps": Metric("tx/s", "higher", about="committed transactions per second"), **probes},
    )}  # fmt: skip

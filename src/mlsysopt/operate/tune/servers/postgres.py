"""PostgreSQL: knobs from `pg_settings`, loaded by pgbench, durability fenced."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, LiteralString

from mlsysopt.core.processes import Service, run_child
from mlsysopt.core.target import Limits, Value
from mlsysopt.operate.tune.server import Address, Change, ClientFailed, Knob, Loaded, Place, Refused
from mlsysopt.operate.tune.servers.pgbench import WORKLOADS

# What a client is not told, it would read from the environment of whoever runs us.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PGOPTIONS": None, "PGSERVICE": None, "PGDATABASE": None}
_OWN = {"listen_addresses": "127.0.0.1", "port": "{port}", "unix_socket_directories": "", "log_line_prefix": "",
        "log_destination": "stderr", "logging_collector": "off", "dynamic_shared_memory_type": "mmap"}  # fmt: skip
_BYTES = {"B": 1, "kB": 2**10, "8kB": 2**13, "MB": 2**20, "GB": 2**30}
_GROUPS = {
    "Resource Usage / Memory": "memory", "Write-Ahead Log / Settings": "wal", "Write-Ahead Log / Checkpoints": "wal",
    "Query Tuning / Planner Cost Constants": "planner", "Query Tuning / Planner Method Configuration": "planner",
    "Query Tuning / Other Planner Options": "planner", "Query Tuning / Genetic Query Optimizer": "planner",
    "Resource Usage / Asynchronous Behavior": "parallel", "Resource Usage / Background Writer": "background",
    "Autovacuum": "autovacuum", "Resource Usage / Cost-Based Vacuum Delay": "autovacuum",
    "Connections and Authentication / Connection Settings": "connections", "Lock Management": "connections",
    "Replication / Sending Servers": "connections",
}  # fmt: skip
_CHANGES: dict[str, Change] = {"internal": "fixed", "postmaster": "restart", "sighup": "reload", "backend": "reload"}
_KNOBS = """SELECT name, vartype, boot_val, reset_val, min_val, max_val, enumvals, unit, context, category, short_desc
            FROM pg_settings WHERE vartype <> 'string'"""
_VALUES = "SELECT name, vartype, setting FROM pg_settings WHERE vartype <> 'string'"
_COUNTERS = """SELECT d.blks_read, b.checkpoints_timed + b.checkpoints_req, d.temp_bytes, w.wal_bytes
               FROM pg_stat_database d, pg_stat_wal w, pg_stat_bgwriter b WHERE d.datname = 'postgres'"""
_SUMS = """SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts),
                  (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"""


class Postgres:
    """The server file of PostgreSQL 14 and later."""

    name = "postgres"
    programs: ClassVar = dict.fromkeys(("postgres", "initdb", "pgbench", "psql"), "postgresql")
    folders = ("/usr/lib/postgresql/*/bin",)
    account = ("postgres", "nobody")
    marker = "PG_VERSION"
    groups: ClassVar = {
        "memory": "buffers and working memory", "wal": "write-ahead log and checkpoints",
        "planner": "what plans are thought to cost", "parallel": "workers and read-ahead",
        "background": "background writer", "autovacuum": "clean-up", "connections": "connections, locks, senders",
    }  # fmt: skip
    presets: ClassVar = {
        "essentials": [
            "shared_buffers", "work_mem", "effective_cache_size", "random_page_cost", "effective_io_concurrency",
            "max_parallel_workers_per_gather", "hash_mem_multiplier", "jit", "wal_buffers", "wal_compression",
            "max_wal_size", "checkpoint_completion_target", "commit_delay", "bgwriter_delay",
        ],
    }  # fmt: skip
    fences: ClassVar = {
        "durability": ["fsync", "full_page_writes", "synchronous_commit", "wal_level", "wal_sync_method", "ignore_*",
                       "data_sync_retry", "wal_log_hints", "zero_damaged_pages"],
        "meaning": ["*_timeout", "default_transaction_*", "transaction_*", "row_security", "transform_null_equals",
                    "array_nulls", "standard_conforming_strings", "max_stack_depth", "restart_after_crash"],
        "security": ["ssl*", "password_*", "*authentication*", "db_user_namespace", "krb_*"],
        "network": ["port", "listen_addresses", "tcp_*", "unix_socket_*", "bonjour*"],
        "platform": ["*shared_memory_type", "huge_page_size", "debug_*", "trace_*", "log_*", "recovery_*", "allow_*"],
    }  # fmt: skip
    constraints = ("shared_buffers + max_connections * work_mem <= memory", "min_wal_size <= max_wal_size",
                   "superuser_reserved_connections + max_wal_senders < max_connections")  # fmt: skip
    counted: ClassVar = {"blocks_read": "blocks read from outside the buffers", "checkpoints": "checkpoints",
                         "temp_bytes": "bytes of temporary files", "wal_bytes": "bytes of log"}  # fmt: skip
    workloads = WORKLOADS

    def prepare(self, place: Place) -> None:
        done = run_child(
            [place.programs["initdb"], "-D", place.folder, "-U", "postgres", "-A", "trust", "-N", "--locale=C.UTF-8"],
            user=place.user, limits=Limits(timeout_s=120), env=_ENVIRONMENT,
        )  # fmt: skip
        if done.returncode != 0:
            raise ClientFailed(f"initdb: {(done.stderr.strip() or done.stdout.strip())[-300:]}")

    def service(self, place: Place, config: Mapping[str, Value]) -> Service:
        settings = [word for name, value in {**config, **_OWN}.items() for word in ("-c", f"{name}={_text(value)}")]
        return place.service(["postgres", "-D", place.folder, *settings], env=_ENVIRONMENT, stop_signal=signal.SIGINT,
                             ready="database system is ready to accept connections")  # fmt: skip

    def knobs(self, address: Address) -> list[Knob]:
        return [_knob(*row) for row in _rows(address, _KNOBS)]

    def effective(self, address: Address) -> dict[str, Value]:
        return {name: _value(kind, text) for name, kind, text in _rows(address, _VALUES)}

    def set_live(self, address: Address, config: Mapping[str, Value]) -> None:
        import psycopg

        with psycopg.connect(_where(address), autocommit=True) as connection:
            for name, value in config.items():
                try:
                    connection.execute("SELECT set_config(%s, %s, false)", [name, _text(value)])
                except psycopg.Error as error:
                    raise Refused(str(error).splitlines()[0]) from error

    def counters(self, address: Address) -> dict[str, float]:
        return dict(zip(self.counted, map(float, _rows(address, _COUNTERS)[0]), strict=True))

    def check(self, address: Address, loaded: Loaded) -> str | None:
        """Every update of a balance wrote one row of history, whatever the settings."""
        balances, deltas = _rows(address, _SUMS)[0]
        return None if balances == deltas else f"the balances sum to {balances}, the history to {deltas}"

    def export(self, config: Mapping[str, Value]) -> list[str]:
        return [f"{name} = {_text(value)}" for name, value in config.items()]


def _where(address: Address) -> str:
    return f"host={address.host} port={address.port} user=postgres dbname=postgres connect_timeout=5"


def _rows(address: Address, query: LiteralString) -> list[Any]:
    import psycopg

    try:
        with psycopg.connect(_where(address), autocommit=True) as connection:
            return connection.execute(query).fetchall()
    except psycopg.Error as error:
        raise ClientFailed(str(error).splitlines()[0]) from error


def _knob(name: str, kind: str, boot: str, reset: str, low: str | None, high: str | None, choices: Sequence[str] | None,
          unit: str | None, context: str, category: str, about: str) -> Knob:  # fmt: skip
    kinds: Any = {"integer": "int", "real": "float", "bool": "bool", "enum": "choice"}
    return Knob(
        # Where the compiled default is "automatic", what the server chose for itself is no default.
        name=name, kind=kinds[kind], default=_value(kind, boot if boot == "-1" else reset), about=about,
        low=float(low) if low else None, high=float(high) if high else None, choices=tuple(choices or ()),
        scale=_BYTES.get(unit or "", 1), unit="B" if unit in _BYTES else unit or "",
        group=_GROUPS.get(category, ""), memory=name == "wal_buffers" or category.endswith("/ Memory"),
        change=_CHANGES.get(context.removeprefix("superuser-"), "live"),
    )  # fmt: skip


def _value(kind: str, text: str) -> Value:
    return {"integer": int, "real": float, "bool": lambda word: word == "on"}.get(kind, str)(text)


def _text(value: Value) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


server = Postgres()

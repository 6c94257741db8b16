"""Redis: types and bounds from its own refusals of absurd values, loaded by redis-benchmark, persistence on.

Redis lists its settings without types, so a scratch instance is asked for nonsense: what it says tells what it wants.
Knobs are spelt with `_` here, since `io-threads` would be a subtraction in a rule; files and messages have Redis's `-`.
Every start, the default's too, has `appendonly yes` and `appendfsync everysec`; all else is what is compiled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import ClassVar

from mlsysopt.core.processes import Service
from mlsysopt.core.target import Value
from mlsysopt.operate.tune.server import Address, Knob, Loaded, Place, Refused
from mlsysopt.operate.tune.servers.redisbench import FILLED_KEYS, WORKLOADS
from mlsysopt.operate.tune.servers.redisreplies import connected, knob, ours, refusal, text_of, theirs, value_of

_PERSISTENT: Mapping[str, Value] = {"appendonly": True, "appendfsync": "everysec"}
_OWN = {"bind": "127.0.0.1", "port": "{port}", "protected-mode": "no", "daemonize": "no", "logfile": ""}
_GROUPS = {
    "layout": "*-listpack-* set-max-intset-entries hll-sparse-max-bytes list-compress-depth stream-node-max-*",
    "background": "hz dynamic-hz activerehashing active-* activedefrag jemalloc-bg-thread lazyfree-*",
    "io": "io-threads io-threads-do-reads client-query-buffer-limit", "aof": "auto-aof-rewrite-* aof-use-rdb-preamble",
    "tracking": "latency-tracking latency-monitor-threshold slowlog-*",
}  # fmt: skip


class Redis:
    """The server file of Redis 7 and later."""

    name = "redis"
    programs: ClassVar = {"redis-server": "redis-server", "redis-benchmark": "redis-tools"}
    groups: ClassVar = {
        "layout": "how small collections are packed", "background": "work between commands", "io": "threads, buffers",
        "aof": "rewrites of the append-only file", "tracking": "what it records about itself",
    }  # fmt: skip
    presets: ClassVar = {
        "essentials": [
            "hash_max_listpack_entries", "hash_max_listpack_value", "zset_max_listpack_entries",
            "zset_max_listpack_value", "list_max_listpack_size", "list_compress_depth", "set_max_intset_entries", "hz",
            "dynamic_hz", "activerehashing", "active_expire_effort", "io_threads", "io_threads_do_reads",
            "auto_aof_rewrite_percentage", "auto_aof_rewrite_min_size",
        ],
    }  # fmt: skip
    fences: ClassVar = {
        "durability": ["append*", "save", "*fsync*", "rdb*", "stop_writes_*", "aof_load_*", "shutdown_*"],
        "eviction": ["maxmemory*"],
        "meaning": ["timeout", "*_timeout", "lua_time_limit", "busy_*", "notify_*", "databases", "proto_*",
                    "client_output_*"],
        "security": ["requirepass", "protected_mode", "acl*", "enable_*", "tls_*", "rename*", "*auth", "sanitize_*"],
        "network": ["port", "bind*", "unixsocket*", "tcp_*", "*announce*", "cluster*", "repl*", "slave*", "min_*"],
        "paths": ["dir", "*file*", "*dirname", "dbfilename"],
        "developer": ["*debug*", "oom*", "crash*", "log*", "syslog*", "supervised", "daemonize", "set_proc_title"],
    }  # fmt: skip
    constraints = ("active_defrag_cycle_min <= active_defrag_cycle_max",)
    counted: ClassVar = {"aof_bytes": "bytes of append-only file", "aof_rewrites": "rewrites of it",
                         "net_output_bytes": "bytes sent", "expired_keys": "expired keys"}  # fmt: skip

    workloads = WORKLOADS

    def prepare(self, place: Place) -> None:
        place.folder.mkdir(parents=True)

    def service(self, place: Place, config: Mapping[str, Value]) -> Service:
        settings = {**_PERSISTENT, **config, **_OWN, "dir": str(place.folder)}
        words = [word for name, value in settings.items() for word in (f"--{theirs(name)}", text_of(value))]
        return place.service(["redis-server", *words], ready="Ready to accept connections")

    def knobs(self, address: Address) -> list[Knob]:
        with connected(address) as client:
            # What is empty is a text, and some texts are better not touched: a password, a certificate.
            values = {name: value for name, value in client.config_get("*").items() if value}
            found = (knob(address, client, name, value) for name, value in values.items())
            return [replace(one, group=_group(theirs(one.name))) for one in found if one is not None]

    def effective(self, address: Address) -> dict[str, Value]:
        with connected(address) as client:
            return {ours(name): value_of(name, text) for name, text in client.config_get("*").items()}

    def set_live(self, address: Address, config: Mapping[str, Value]) -> dict[str, Value]:
        """Set values, read back what the server made of them, and put the old ones back."""
        with connected(address) as client:
            old = {name: client.config_get(name)[name] for name in map(theirs, config)}
            try:
                for name, value in config.items():
                    told = refusal(client, theirs(name), text_of(value))
                    if told:
                        raise Refused(told)
                return {ours(name): value_of(name, client.config_get(name)[name]) for name in old}
            finally:
                for name, value in reversed(old.items()):
                    refusal(client, name, value)

    def counters(self, address: Address) -> dict[str, float]:
        with connected(address) as client:
            info = client.info("everything")
        return {name: float(info.get(theirs, 0)) for name, theirs in (
            ("aof_bytes", "aof_current_size"), ("aof_rewrites", "aof_rewrites"),
            ("net_output_bytes", "total_net_output_bytes"), ("expired_keys", "expired_keys"))}  # fmt: skip

    def check(self, address: Address, loaded: Loaded) -> str | None:
        """What was filled in is still there."""
        with connected(address) as client:
            keys = client.dbsize()
        return None if keys >= FILLED_KEYS else f"only {keys} keys of {FILLED_KEYS} are left"

    def export(self, config: Mapping[str, Value]) -> list[str]:
        return [f"{theirs(name)} {text_of(value)}" for name, value in config.items()]


def _group(name: str) -> str:
    groups = (group for group, patterns in _GROUPS.items() if any(fnmatchcase(name, one) for one in patterns.split()))
    return next(groups, "")


server = Redis()

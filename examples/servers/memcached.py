"""Tune memcached: `mlsysopt tune run ./memcached.py`. The worked example of docs/how-to/add-a-server.md.

memcached cannot list what can be set. The table below says it, its `--help` explains it, and a running server says
what it really uses: `stats settings`.
"""

from __future__ import annotations

import random
import re
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from statistics import quantiles
from typing import Any, ClassVar

from mlsysopt.core.processes import Service
from mlsysopt.core.target import Metric, Value
from mlsysopt.operate.tune.server import Address, ClientFailed, Knob, Load, Loaded, Place, Workload

# knob: (option, name in `stats settings`, kind, low, high, bytes per unit, group)
KNOBS: dict[str, tuple[Any, ...]] = {
    "memory_limit": ("-m", "maxbytes", "int", 1, 2**20, 2**20, "memory"),
    "slab_min_size": ("-n", "chunk_size", "int", 1, 2**20, 1, "memory"),
    "hashpower": ("-o", "hashpower_init", "int", 0, 64, 1, "memory"),
    "hash_algorithm": ("-o", "hash_algorithm", "choice", None, None, 1, "memory"),
    "threads": ("-t", "num_threads", "int", 1, 4096, 1, "threads"),
    "max_reqs_per_event": ("-R", "reqs_per_event", "int", 1, 10**6, 1, "threads"),
    "lru_maintainer": ("-o", "lru_maintainer_thread", "bool", None, None, 1, "lru"),
    "lru_crawler": ("-o", "lru_crawler", "bool", None, None, 1, "lru"),
    "hot_lru_pct": ("-o", "hot_lru_pct", "int", 1, 100, 1, "lru"),
    "warm_lru_pct": ("-o", "warm_lru_pct", "int", 1, 100, 1, "lru"),
    "conn_limit": ("-c", "maxconns", "int", 1, 10**6, 1, ""),
}
ITEMS, BYTES, BATCH = 40_000, 1_000, 50


def load_with_reads(address: Address, load: Load) -> Loaded:
    """Read batches of items over all connections in turn; the first run, the warm-up, also writes all of them."""
    rng, value, waits = random.Random(load.seed), b"x" * BYTES, list[float]()
    before, where = _stats(address), (address.host, address.port)
    try:
        with ExitStack() as stack:
            peers = [stack.enter_context(socket.create_connection(where, timeout=20)) for _ in range(load.clients)]
            for item in range(ITEMS if int(before["total_items"]) < ITEMS else 0):
                peers[0].sendall(b"set key%d 0 0 %d noreply\r\n%s\r\n" % (item, BYTES, value))
            ends = time.monotonic() + load.seconds
            while time.monotonic() < ends:
                began = time.perf_counter()
                for peer in peers:
                    keys = b" ".join(b"key%d" % rng.randrange(ITEMS) for _ in range(BATCH))
                    write = b"set key%d 0 0 %d noreply\r\n%s\r\n" % (rng.randrange(ITEMS), BYTES, value)
                    peer.sendall(b"%sget %s\r\n" % (write, keys))
                for peer in peers:
                    _answer(peer)
                    waits.append(time.perf_counter() - began)
    except OSError as error:
        raise ClientFailed(f"memcached: {error}") from error
    hits = int(_stats(address)["get_hits"]) - int(before["get_hits"])
    return Loaded({"hits": hits / load.seconds, "p99_ms": 1000 * quantiles(waits, n=100)[98]}, hits)


class Memcached:
    """The server file of memcached 1.6."""

    name = "memcached"
    programs: ClassVar = {"memcached": "memcached"}  # program -> the Debian package that brings it
    account = ("memcache", "nobody")  # it refuses to run as root
    groups: ClassVar = {"memory": "memory and hash table", "threads": "worker threads", "lru": "what is thrown away"}
    fences: ClassVar = {"meaning": ["conn_limit"]}
    constraints = ("memory_limit <= memory",)
    counted: ClassVar = {"evictions": "items thrown away", "get_misses": "items not found"}
    workloads: ClassVar = {
        "reads": Workload(
            about=f"{ITEMS} items of {BYTES} bytes, {BATCH} reads for every write",
            run=load_with_reads, objective="hits", guards={"p99_ms": "<= 1.1x"},
            metrics={"hits": Metric("hits/s", "higher", about="items found per second"),
                     "p99_ms": Metric("ms", "lower", clock="wall", about=f"99 % latency of {BATCH} reads in one go")},
        )
    }  # fmt: skip

    def prepare(self, place: Place) -> None:
        place.folder.mkdir()  # memcached keeps nothing on disk

    def service(self, place: Place, config: Mapping[str, Value]) -> Service:
        own = ["memcached", "-l", "127.0.0.1", "-p", "{port}", "-U", "0"]
        options = [word for line in self.export(config) for word in line.split()]
        return place.service([*own, *options], stop_signal=signal.SIGKILL)  # there is nothing to save

    def knobs(self, address: Address) -> list[Knob]:
        manual, used = address.run("memcached", "--help"), self.effective(address)
        return [
            Knob(name=name, kind=kind, default=used[name], low=low, high=high, scale=scale, group=group,
                 unit="B" if scale > 1 else "", origin="declared", **_told(manual, name))
            for name, (_, _, kind, low, high, scale, group) in KNOBS.items()
        ]  # fmt: skip

    def effective(self, address: Address) -> dict[str, Value]:
        settings = _stats(address, "settings")
        return {name: _value(kind, settings[said], scale) for name, (_, said, kind, _, _, scale, _) in KNOBS.items()}

    def counters(self, address: Address) -> dict[str, float]:
        return {name: float(text) for name, text in _stats(address).items() if name in self.counted}

    def export(self, config: Mapping[str, Value]) -> list[str]:
        given = {name: value for name, value in config.items() if (name, value) != ("hashpower", 0)}  # 0 is "not given"
        return [f"{KNOBS[name][0]} {_text(name, value)}" for name, value in given.items()]


def _answer(peer: socket.socket) -> bytes:
    answer = bytearray()
    for part in iter(lambda: peer.recv(2**20), b""):
        answer += part
        if answer.endswith(b"END\r\n"):
            return bytes(answer)
    raise OSError("it closed the connection")


def _stats(address: Address, what: str = "") -> dict[str, str]:
    try:
        with socket.create_connection((address.host, address.port), timeout=20) as peer:
            peer.sendall(f"stats {what}".strip().encode() + b"\r\n")
            lines = _answer(peer).decode().splitlines()[:-1]
    except OSError as error:
        raise ClientFailed(f"memcached: {error}") from error
    return {name: text for _, name, text in (line.split(" ", 2) for line in lines)}


def _told(manual: str, name: str) -> dict[str, Any]:
    """Find a knob in the help text: what it is, and what it can be."""
    about = re.search(rf"(?:--|- )(?:no_)?{name.replace('_', '[-_]')}(?:[:=]\S*)?\s+(.+)", manual)
    choices = re.search(rf"{name}:.*\n.*options: (.*)", manual)
    return {"about": about[1] if about else "", "choices": tuple(choices[1].split(", ")) if choices else ()}


def _value(kind: str, text: str, scale: int) -> Value:
    return int(text) // scale if kind == "int" else text == "yes" if kind == "bool" else text


def _text(name: str, value: Value) -> str:
    if KNOBS[name][0] != "-o":
        return str(value)
    return ("" if value else "no_") + name if isinstance(value, bool) else f"{name}={value}"


server = Memcached()

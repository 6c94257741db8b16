"""Loads of a Redis server through redis-benchmark: one command after the other, a fixed number of each."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from mlsysopt.core.target import Metric
from mlsysopt.operate.tune.server import Address, ClientFailed, Load, Loaded, Workload
from mlsysopt.operate.tune.servers.redisreplies import connected

__all__ = ["FILLED_KEYS", "WORKLOADS"]

# Commands per second of a slow core: only sets how many there are. All runs do the same work.
_RATE = 80_000
_PIPELINE = 16
_ANY = "__rand_int__"
_WIDTH = 12
_REWRITE_S = 60.0

_STRINGS, _HASHES, _BOARDS, _LISTS = 200_000, 400, 120, 400
_LENGTH = 100
FILLED_KEYS = _STRINGS + _HASHES + _BOARDS + _LISTS
"""Keys that every workload finds."""

# Share of the operations, range of the random numbers, command. Hashes and sorted sets are a little smaller than what
# Redis packs by default: there, memory is bought with time.
_Command = tuple[int, int, str]
_BASIC: Sequence[_Command] = (
    (4, _STRINGS, f"get key:{_ANY}"), (2, _STRINGS, f"set key:{_ANY} {'x' * 64}"), (1, _STRINGS, f"incr n:{_ANY}"),
)  # fmt: skip
_MIXED: Sequence[_Command] = (
    *_BASIC, (4, _HASHES, f"hget user:{_ANY} f:{_ANY}"), (3, _HASHES, f"hset user:{_ANY} f:{_ANY} v:{_ANY}"),
    (1, _BOARDS, f"zscore board:{_ANY} m:{_ANY}"), (1, _BOARDS, f"zadd board:{_ANY} {_ANY} m:{_ANY}"),
    (1, _LISTS, f"lrange list:{_ANY} 0 49"), (1, _LISTS, f"lpush list:{_ANY} v:{_ANY}"),
)  # fmt: skip


def _bench(commands: Sequence[_Command]) -> Callable[[Address, Load], Loaded]:
    def run(address: Address, load: Load) -> Loaded:
        with connected(address) as client:
            before = client.info("errorstats")
            loaded = _loaded(address, load, commands)
            after = client.info("errorstats")
        # The benchmark itself does not tell answers from errors.
        new = {name: told["count"] - before.get(name, {"count": 0})["count"] for name, told in after.items()}
        errors = {name.removeprefix("errorstat_"): number for name, number in new.items() if number}
        return replace(loaded, errors=sum(errors.values()), first_error=next(iter(errors), ""))

    return run


def _loaded(address: Address, load: Load, commands: Sequence[_Command]) -> Loaded:
    deadline = time.monotonic() + load.timeout_s
    total = sum(share for share, _, _ in commands)
    done, busy_s, waited = 0, 0.0, {"p50": 0.0, "p99": 0.0}
    for share, keys, command in commands:
        number = max(100, round(_RATE * load.seconds * share / total))
        output = address.run(
            "redis-benchmark", "-h", address.host, "-p", address.port, "-c", load.clients, "-P", _PIPELINE, "--csv",
            "--precision", 3, "-n", number, "-r", keys, *command.split(),
            timeout_s=max(1.0, deadline - time.monotonic()),
        )  # fmt: skip
        row = _row(output)
        done, busy_s = done + number, busy_s + number / row["rps"]
        waited = {p: waited[p] + number * row[f"{p}_latency_ms"] for p in waited}
    return Loaded({"ops": done / busy_s, **{f"{p}_ms": sums / done for p, sums in waited.items()}}, done)


def _row(output: str) -> dict[str, float]:
    rows = list(csv.DictReader(output.splitlines()))
    if len(rows) != 1 or not rows[0].get("rps"):
        raise ClientFailed(f"redis-benchmark: {output.strip()[-200:] or 'it printed nothing'}")
    return {name: float(text) for name, text in rows[0].items() if name != "test"}


def _fill(address: Address) -> None:
    """Fill all keys that the loads ask for, and fold the append-only file, so that every start loads the same."""

    def of(prefix: str, number: int) -> str:
        return f"{prefix}:{number:0{_WIDTH}}"

    with connected(address) as client:
        for first in range(0, _STRINGS, 10_000):
            client.mset({of("key", at): "x" * 64 for at in range(first, first + 10_000)})
        with client.pipeline(transaction=False) as pipe:
            for at in range(_HASHES):
                pipe.hset(of("user", at), mapping={of("f", field): of("v", field) for field in range(_HASHES)})
            for at in range(_BOARDS):
                pipe.zadd(of("board", at), {of("m", member): member for member in range(_BOARDS)})
            for at in range(_LISTS):
                pipe.rpush(of("list", at), *(of("v", value) for value in range(_LENGTH)))
            pipe.execute()
        client.bgrewriteaof()
        deadline = time.monotonic() + _REWRITE_S
        while client.info("persistence")["aof_rewrite_in_progress"]:
            if time.monotonic() > deadline:
                raise ClientFailed(f"the append-only file was not rewritten in {_REWRITE_S:.0f} s")
            time.sleep(0.05)


def _workload(about: str, commands: Sequence[_Command]) -> Workload:
    latency = {f"{p}_ms": Metric("ms", "lower", clock="wall", about=f"{p} latency of a pipeline of {_PIPELINE}, mean "
                                 "of the commands") for p in ("p50", "p99")}  # fmt: skip
    return Workload(
        about=about, run=_bench(commands), setup=_fill, writes=True, objective="ops", guards={"p99_ms": "<= 1.1x"},
        metrics={"ops": Metric("ops/s", "higher", about="commands per second, all together"), **latency},
    )  # fmt: skip


WORKLOADS = {
    "mixed": _workload("strings, hashes, sorted sets and lists; append-only file synced every second", _MIXED),
    "basic": _workload("GET, SET and INCR; append-only file synced every second", _BASIC),
}
"""Workload name -> workload. Which keys are asked for differs from run to run: redis-benchmark takes no seed."""

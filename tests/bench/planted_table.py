"""A recorded table whose truth is known: ten knobs, four costs that see few of them, guards that bite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlsysopt.core.space import Int, Space

KNOWLEDGE = {
    "get_us": ["block", "buffer", "trigger"],
    "seek_us": ["block", "buffer"],
    "write_amp": ["buffer", "trigger", "multiplier", "buffers"],
    "load_ops_cpu": ["buffer", "compactions", "block"],
}


def planted_space() -> Space:
    return Space(
        [
            Int("buffer", 1, 256, default=64, log=True),
            Int("buffers", 1, 32, default=2, log=True),
            Int("merge", 1, 8, default=1),
            Int("compactions", 1, 32, default=1, log=True),
            Int("flushes", 1, 10, default=1),
            Int("multiplier", 5, 15, default=10),
            Int("block", 512, 524288, default=4096, log=True),
            Int("trigger", 1, 64, default=4, log=True),
            Int("slowdown", 1, 256, default=20, log=True),
            Int("stop", 1, 256, default=36, log=True),
        ],
        constraints=["trigger <= slowdown", "slowdown <= stop", "buffer * max(2, buffers) <= 320"],
    )


def planted_metrics(config: dict[str, Any]) -> dict[str, float]:
    """Return every metric without noise: wide ranges, a bad tail, and a guard that most gains break."""
    block = math.log2(config["block"]) - 12.0
    buffer = math.log2(config["buffer"]) - 6.0
    trigger = math.log2(config["trigger"]) - 2.0
    get = 13.0 * math.exp(0.09 * max(0.0, block - 1.5) ** 2 + 0.12 * abs(block - 1.5) + 0.1 * max(0.0, trigger))
    seek = 300.0 * math.exp(0.12 * (block - 4.0) ** 2 / (1.0 + 0.3 * abs(block - 4.0)) - 0.05 * buffer)
    write = 14.0 * math.exp(0.12 * abs(buffer + 3.0) + 0.05 * (config["merge"] - 1))
    sorted_runs = max(0.0, round(-buffer * 0.8 + 0.3 * (2.0 - config["merge"] / 2.0) - 0.3 * max(0.0, trigger)))
    amp = 2.0 * (1.0 + 0.55 * sorted_runs) * math.exp(0.02 * abs(config["multiplier"] - 11))
    load = 3e5 * math.exp(-0.12 * sorted_runs - 0.02 * math.log2(config["compactions"]) - 0.02 * max(0.0, -block) ** 2)
    # What no sub-goal sees: two knobs that fight each other.
    odd = 0.05 * math.log2(config["flushes"] + 1) * math.log2(config["buffers"] + 1)
    time = 0.806 * get + 0.16 * write + 0.034 * seek
    speed = 1e6 / time * math.exp(-0.5 * odd)
    return {
        "throughput_cpu": speed,
        "throughput": 0.97 * speed,
        "get_us": get,
        "seek_us": seek,
        "write_us": write,
        "p99_get_us": 3.0 * get * math.exp(0.1 * max(0.0, block - 2.0) ** 2),
        "write_amp": amp,
        "load_ops_cpu": load,
        "disk_bytes": 1e8 * (1.0 + 0.03 * max(0.0, trigger)),
        "stall_us": max(0.0, 30.0 - 10.0 * math.log2(config["stop"])),
    }


def planted_table(rows: int = 300, *, noise: float = 0.07, seed: int = 0) -> dict[str, Any]:
    """Return a table in the format of `bench.tune_rocksdb_record`; half of it lies where tuners go."""
    space = planted_space()
    rng = np.random.default_rng(seed)
    wide = space.sobol(rows // 2, seed)
    # Tuners look around the best points of the first half.
    best = sorted(wide, key=lambda c: -planted_metrics(c)["throughput_cpu"] / planted_metrics(c)["write_amp"])[:20]
    near = [
        space.repair(space.decode(space.encode(best[i % len(best)]) + 0.1 * rng.standard_normal(len(space))))
        for i in range(rows - len(wide))
    ]
    configs = [config for pair in zip(wide, near, strict=True) for config in pair]
    record: dict[str, list[Any]] = {name: [] for name in ("role", "number", "source", "failure")}
    config_columns: dict[str, list[Any]] = {name: [] for name in space.names}
    metric_columns: dict[str, list[Any]] = {name: [] for name in planted_metrics(space.default())}

    def add(role: str, number: int, config: dict[str, Any], failure: dict[str, str] | None) -> None:
        for name, value in zip(record, (role, number, "sobol", failure), strict=True):
            record[name].append(value)
        full = {**space.default(), **config}
        for name, column in config_columns.items():
            column.append(config.get(name))
        shared = noise * rng.standard_normal()
        for name, value in planted_metrics(full).items():
            # Clocks are noisy, and together so; bytes are counted.
            counted = name in ("write_amp", "disk_bytes")
            common = -shared if name.startswith("through") else shared
            drawn = value * math.exp(
                0.002 * rng.standard_normal() if counted else noise * rng.standard_normal() + common
            )
            metric_columns[name].append(None if failure else drawn)

    for number, config in enumerate(configs):
        if number % 4 == 0:
            add("canary", number // 4, {}, None)
        fails = config["block"] > 200_000 and config["buffer"] < 4
        add("trial", number, config, {"kind": "timeout", "reason": "planted"} if fails else None)
    return {
        "space": space.to_json(),
        "guards": {
            "p99_get_us": "<= 1.1x",
            "write_amp": "<= 1.1x",
            "load_ops_cpu": ">= 0.9x",
            "disk_bytes": "<= 1.2x",
            "memory_bytes": "<= 268435456",
        },
        "subgoals": KNOWLEDGE,
        "columns": record,
        "config": config_columns,
        "effective": config_columns,
        "metrics": metric_columns,
    }

"""A target and a sampler that another distribution brings to mlsysopt.

`mlsysopt tune run crc --sampler halving --budget 10` finds the chunk size at which a checksum over
one buffer runs fastest in this interpreter.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from mlsysopt.core.references import Reference
from mlsysopt.core.space import Int, Space
from mlsysopt.core.target import Config, Limits, Measurement, Metric, Outcome, Purpose

BUFFER = bytes(range(256)) * 1024


@dataclass(frozen=True)
class Crc:
    """CRC-32 over 256 KiB in chunks."""

    chunk: Space = field(default_factory=lambda: Space([Int("chunk_bytes", 16, 65536, default=64, log=True)]))
    name: str = "crc"
    references: list[Reference] = field(default_factory=list)
    guards: dict[str, str] = field(default_factory=dict)
    objective: str = "time_s"

    def fingerprint(self) -> dict[str, Any]:
        return {"engine": "zlib", "version": zlib.ZLIB_VERSION}

    def space(self) -> Space:
        return self.chunk

    def with_space(self, space: Space) -> Crc:
        return replace(self, chunk=space)

    def metrics(self) -> dict[str, Metric]:
        return {"time_s": Metric("s", "lower", clock="cpu", about="CPU seconds of one pass")}

    def static(self, config: Config) -> dict[str, float]:
        return {}

    @contextmanager
    def session(self, limits: Limits, *, purpose: Purpose = "search") -> Generator[Crc]:
        yield self

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        chunk: Any = {**self.chunk.default(), **config}["chunk_bytes"]
        began, started = time.time(), time.process_time()
        value = 0
        for at in range(0, len(BUFFER), chunk):
            value = zlib.crc32(BUFFER[at : at + chunk], value)
        spent = time.process_time() - started
        return Measurement({"time_s": spent}, dict(config), cpu_s=spent, wall_s=time.time() - began, started_at=began)

    def export(self, config: Config, path: Path) -> None:
        path.write_text(f"chunk_bytes = {({**self.chunk.default(), **config})['chunk_bytes']}\n")


def crc() -> Crc:
    """Return the target."""
    return Crc()


def halving(*, space: Space, seed: int, knowledge: object = None) -> optuna.samplers.BaseSampler:
    """Return a sampler; any Optuna sampler will do."""
    return optuna.samplers.RandomSampler(seed=seed)

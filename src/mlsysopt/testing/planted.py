"""A target whose truth is known: what a study finds can be compared with what was planted.

Operations have two costs, each driven by its own knobs, as in a storage engine; a corner of the
space does not start, another one hangs. Nothing is measured: the "cost" is a formula with seeded
log-normal noise, so a trial takes microseconds.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysopt.core.references import Reference
from mlsysopt.core.space import Choice, Float, Int, Space
from mlsysopt.core.target import Config, Failure, Limits, Measurement, Metric, Outcome, Purpose

__all__ = ["Planted"]


def _space() -> Space:
    return Space(
        [
            Int("block", 1, 64, default=4, log=True, unit="KiB"),
            Int("buffer", 1, 256, default=64, log=True, unit="MiB"),
            Int("buffers", 1, 8, default=2),
            Float("ratio", 0.0, 1.0, default=0.5),
            Choice("codec", ("none", "fast", "dense"), default="fast"),
        ],
        constraints=["buffer * buffers <= 512"],
    )


@dataclass(frozen=True)
class Planted:
    """A target with a planted optimum.

    Args:
        noise: Standard deviation of the log of every measured metric.
        gain: Whether any knob matters; False plants "nothing helps".
        broken_default: Whether the default itself crashes.
        pause_s: Seconds that each measurement really takes.

    The truth, without noise, is `Planted.truth(config)`.
    """

    noise: float = 0.02
    gain: bool = True
    broken_default: bool = False
    pause_s: float = 0.0
    name: str = "planted"
    references: list[Reference] = field(default_factory=list[Reference])
    guards: dict[str, str] = field(default_factory=lambda: {"write_us": "<= 1.5x"})
    objective: str = "throughput"
    subgoals: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"get_us": ("block", "codec"), "write_us": ("buffer", "buffers")}
    )
    _space: Space = field(default_factory=_space)

    def fingerprint(self) -> dict[str, Any]:
        return {"engine": "formula", "version": 1, "gain": self.gain}

    def space(self) -> Space:
        return self._space

    def with_space(self, space: Space) -> Planted:
        return replace(self, _space=space)

    def metrics(self) -> dict[str, Metric]:
        return {
            "throughput": Metric("1/s", "higher", about="operations per second"),
            "get_us": Metric("us", "lower", about="mean time of a read"),
            "write_us": Metric("us", "lower", about="mean time of a write"),
            "stalls": Metric("", "lower", may_be_zero=True, about="stalled writes"),
            "memory_bytes": Metric("B", "lower", kind="static", about="buffers in memory"),
        }

    def static(self, config: Config) -> dict[str, float]:
        full = self._full(config)
        return {"memory_bytes": float(full["buffer"] * full["buffers"] * 2**20)}

    def _full(self, config: Config) -> dict[str, Any]:
        return {**self._space.default(), **config}

    def truth(self, config: Config) -> dict[str, float]:
        """Return every metric without noise."""
        full = self._full(config)
        block, buffer, buffers = full["block"], full["buffer"], full["buffers"]
        if not self.gain:
            block, buffer, buffers = 4, 64, 2
        codec = {"none": 1.0, "fast": 0.9, "dense": 1.4}[full["codec"]] if self.gain else 0.9
        get = codec * (6.0 + 4.0 * (math.log2(block) - 4.0) ** 2)
        write = 4.0 + 60.0 / math.sqrt(buffer * buffers)
        return {
            "get_us": get,
            "write_us": write,
            "throughput": 1e6 / (0.8 * get + 0.2 * write),
            "stalls": float(max(0, 40 - buffer)),
        }

    @contextmanager
    def session(self, limits: Limits, *, purpose: Purpose = "search") -> Generator[PlantedSession]:
        yield PlantedSession(self)

    def export(self, config: Config, path: Path) -> None:
        path.write_text(json.dumps({**self._space.default(), **config}, indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True, slots=True)
class PlantedSession:
    """Measures a `Planted` target."""

    target: Planted

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        if self.target.pause_s:
            time.sleep(self.target.pause_s)
        if self.target.broken_default and not config:
            return Failure("crashed", "the planted default crashes", "planted: abort")
        full: dict[str, Any] = {**self.target.space().default(), **config}
        if full["block"] == 64 and full["buffers"] > 6:
            return Failure("rejected", "block 64 does not start with more than 6 buffers", "planted: invalid argument")
        if full["buffer"] == 1 and full["codec"] == "dense":
            return Failure("timeout", f"no answer within {timeout_s or 0:.0f} s", "planted: stalled")
        # Two configurations with one seed have noise of their own, as two runs of a machine have.
        entropy = zlib.crc32(json.dumps(dict(config), sort_keys=True, default=str).encode())
        draw = np.random.default_rng([seed, entropy])
        values = {
            name: value * math.exp(self.target.noise * float(draw.standard_normal()))
            for name, value in self.target.truth(config).items()
        }
        return Measurement(values, dict(config), cpu_s=1e-4, wall_s=1e-4, started_at=time.time())

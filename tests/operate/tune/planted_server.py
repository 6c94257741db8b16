"""A server whose truth is known, for tests: it starts in about 0.1 s, refuses, clamps, hangs and dies as planted.

    from tests.operate.tune.planted_server import PLANTED, Planted
    target = server_target(Planted(), knobs="core", directory=tmp_path)   # in Python; allow_tmpfs is not needed
    mlsysopt tune show tests/operate/tune/planted_server.py               # by path: PLANTED is its path

| knob | listed as | the truth |
| --- | --- | --- |
| workers (int, 4) | 1 .. 1,000,000 | 1 .. 64; the refusal names the knob and states the bounds |
| cache (int, pages of 4 KiB, 1024) | 16 .. 2^30 pages | 65,536 pages = 256 MiB; its refusal names two *other* knobs |
| low_mark (100), high_mark (1000) | 1 .. 100,000 | low_mark < high_mark; the refusal names both, without "FATAL" |
| mode (choice, safe) | safe, fast, turbo | turbo is refused by name |
| ticks (int, 10, live) | 1 .. 1,000,000 | silently clamped to 500 |
| ratio (float, 0.5, live) | 0 .. 10^9 | 0 .. 1, refused with the name |
| patience (int, 0) | 0 .. 100,000 | hangs at start above 300 |
| depth (int, 16) | 1 .. 100,000 | dies under load above 200, without a name |
| lossy (bool, off) | | when on, `check` finds that a tenth of what was written is gone |
| scratch (int, kB, 64) | 1 .. 2^30 kB | so much memory is really used under load |
| strays (int, 0) | 0 .. 3 | starts so many children that leave the process group and sleep |
| sync (bool, on) | | fenced ("durability"); off makes everything twice as fast |
| page (fixed) | | cannot be set |

Groups: `core` (workers .. ratio), `traps` (patience .. strays). Presets: `essentials` (tuned when nobody says; the five
of core that matter), `easy` (workers, cache). All other settings are keyword arguments of `Planted`, or, for the path
on a command line, a JSON object in the variable MLSYSOPT_PLANTED:

- shape: "hill" (default: best at cache = 16,384 pages, workers = 8, mode = fast, wide marks: `Planted.best`, 1.78x),
  "flat" (nothing helps), "corner" (faster towards what is refused).
- noise: standard deviation of the log of the rate; repeats for a seed and configuration.
- busy_s: CPU seconds that one load uses.   start_s: seconds that each start takes on top.
- silent: refusals say only "could not be started", and name nothing.
- fault: path of a file; while it exists every start fails and says what is in it ("no space left on device").
- listed: names of the knobs that it lists.   fails: operations that fail in each load.

`planted_speed(values)` is the truth, 1 at the default, without noise; `TRUTH` has the accepted ranges, own units.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, ClassVar

from mlsysopt.core.processes import Service
from mlsysopt.core.target import Metric, Value
from mlsysopt.operate.tune.server import Address, ClientFailed, Knob, Load, Loaded, Place, Refused, Workload

PLANTED = Path(__file__).absolute()
_PROGRAM = PLANTED.with_name("planted_program.py")
_spec = spec_from_file_location("mlsysopt_planted_program", _PROGRAM)
assert _spec is not None and _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)

TRUTH: Mapping[str, tuple[float, float]] = _module.TRUTH
"""Knob -> accepted range, in the server's own units, where that is less than its list says."""
DEFAULTS: Mapping[str, Value] = {name: knob[1] for name, knob in _module.KNOBS.items()}


def planted_speed(values: Mapping[str, Value], shape: str = "hill") -> float:
    """Return how fast the load really is, 1 at the default; values in the server's own units."""
    return float(_module.speed({**DEFAULTS, **values}, shape) / _module.speed(dict(DEFAULTS), shape))


@dataclass(frozen=True)
class Planted:
    """The planted server; see the top of this file."""

    shape: str = "hill"
    noise: float = 0.0
    busy_s: float = 0.02
    start_s: float = 0.0
    silent: bool = False
    fault: str = ""
    listed: tuple[str, ...] = tuple(DEFAULTS)
    fails: int = 0

    name: ClassVar = "planted"
    programs: ClassVar = {sys.executable: "python3"}
    groups: ClassVar = {"core": "what matters", "traps": "what does harm"}
    presets: ClassVar = {"essentials": ["workers", "cache", "low_mark", "high_mark", "mode"],
                         "easy": ["workers", "cache"]}  # fmt: skip
    fences: ClassVar = {"durability": ["sync"]}
    constraints: ClassVar = ("cache <= memory",)
    counted: ClassVar = {"reads": "pages read", "flushes": "flushes"}
    best: ClassVar[Mapping[str, Value]] = {"cache": 16_384, "workers": 8, "mode": "fast", "low_mark": 12}

    @property
    def workloads(self) -> Mapping[str, Workload]:
        metrics = {"tps": Metric("tx/s", "higher", clock="wall"), "p99_ms": Metric("ms", "lower", clock="wall")}
        common: dict[str, Any] = {"run": self._load, "metrics": metrics, "objective": "tps", "seconds": 0.02,
                                  "warmup_s": 0.0, "guards": {"p99_ms": "<= 1.1x"}}  # fmt: skip
        return {
            "mixed": Workload(about="a formula", **common),
            "writes": Workload(about="a formula that changes the data", writes=True, setup=self._fill, **common),
        }

    def prepare(self, place: Place) -> None:
        place.folder.mkdir(parents=True)

    def service(self, place: Place, config: Mapping[str, Value]) -> Service:
        options = asdict(self)
        words = [f"{name}={_text(value)}" for name, value in config.items()]
        argv = [*self.programs, "-I", "-S", _PROGRAM, json.dumps(options), "{port}", place.folder, *words]
        return place.service(argv)

    def knobs(self, address: Address) -> list[Knob]:
        names = ("name", "kind", "default", "low", "high", "choices", "scale", "unit", "group", "change")
        listed = [dict(zip(names, row, strict=True)) for row in _ask(address, "LIST")]
        return [Knob(**{**row, "choices": tuple(row["choices"])}) for row in listed]

    def effective(self, address: Address) -> dict[str, Value]:
        return _ask(address, "VALUES")

    def set_live(self, address: Address, config: Mapping[str, Value]) -> dict[str, Value]:
        told = {name: _ask(address, f"SET {name} {_text(value)}") for name, value in config.items()}
        for one in told.values():
            if one["error"] is not None:
                raise Refused(one["error"])
        return {name: one["used"] for name, one in told.items()}

    def counters(self, address: Address) -> dict[str, float]:
        return _ask(address, "COUNTERS")

    def check(self, address: Address, loaded: Loaded) -> str | None:
        written, kept = _ask(address, "CHECK")
        return f"{written - kept} of {written} writes are gone" if kept < written else None

    def export(self, config: Mapping[str, Value]) -> list[str]:
        return [f"{name} = {_text(value)}" for name, value in config.items()]

    def _load(self, address: Address, load: Load) -> Loaded:
        found = _ask(address, f"LOAD {load.seed}")
        (address.folder / "used").touch()
        metrics = {name: found[name] for name in ("tps", "p99_ms")}
        return Loaded(metrics, found["operations"], self.fails, "planted: it failed" if self.fails else "")

    def _fill(self, address: Address) -> None:
        (address.folder / "filled").touch()


def _ask(address: Address, line: str) -> Any:
    try:
        with socket.create_connection((address.host, address.port), timeout=20) as peer, peer.makefile("rw") as lines:
            lines.write(line + "\n")
            lines.flush()
            answer = lines.readline()
    except OSError as error:
        raise ClientFailed(f"planted: {error}") from error
    if not answer:
        raise ClientFailed("planted: server closed the connection unexpectedly")
    return json.loads(answer)


def _text(value: Value) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


server = Planted(**json.loads(os.environ.get("MLSYSOPT_PLANTED", "{}")))

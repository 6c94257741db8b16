"""A server target whose probes are a function: which value of which knob starts, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlsysopt.core.target import Failure, Measurement, Metric, Outcome
from mlsysopt.operate.tune.knobs import Catalogue
from mlsysopt.operate.tune.server import Knob, Loaded, Workload
from mlsysopt.operate.tune.server_target import ServerTarget

STARTED = Measurement({}, {}, 0.0, 0.0, 0.0)


def refused(name: str, value: object, *, kind: Any = "rejected", said: str = "", named: bool = True) -> Failure:
    return Failure(kind, said or f"{name} = {value} is refused", extra={"named": [name]} if named else {})


class FakeServer:
    name = "fake"
    programs: Mapping[str, str] = {}
    groups: Mapping[str, str] = {}
    fences: Mapping[str, Any] = {}
    constraints = ()


@dataclass
class Probes:
    """A session: counts what is asked of it, and fails altogether for a while.

    Attributes:
        answer: Configuration (never empty) -> outcome.
        broken: Which starts, counted from 1, fail whatever they are.
        fault: How they fail.
    """

    answer: Callable[[Mapping[str, Any]], Outcome]
    broken: range = range(0)
    fault: Failure = field(default_factory=lambda: Failure("rejected", "something is in the way"))
    asked: list[dict[str, Any]] = field(default_factory=list)
    opened: int = 0

    def probe(self, config: Mapping[str, Any], *, timeout_s: float | None = None) -> Outcome:
        self.asked.append(dict(config))
        if len(self.asked) in self.broken:
            return self.fault
        return self.answer(config) if config else STARTED

    @property
    def values(self) -> list[Any]:
        """What was asked of knobs, without the sanity probes."""
        return [value for config in self.asked for value in config.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeTarget(ServerTarget):
    probes: Probes

    @contextmanager
    def session(self, limits: Any, *, purpose: Any = "search") -> Generator[Any]:
        self.probes.opened += 1
        yield self.probes


def fake_target(
    knobs: list[Knob], answer: Callable[[Mapping[str, Any]], Outcome], *, memory_bytes: int = 2**40, **probes: Any
) -> FakeTarget:
    server: Any = FakeServer()
    catalogue = Catalogue.of(server, knobs)
    load = Workload(about="none", run=lambda *_: Loaded({}, 1.0), metrics={"n": Metric("", "higher")}, objective="n")
    return FakeTarget(
        server=server, version="1.0", catalogue=catalogue, knobs=catalogue.space(knobs), workload_name="none",
        workload=load, programs={}, memory_bytes=memory_bytes, directory=Path(), user=None,
        probes=Probes(answer, **probes),
    )  # fmt: skip


class Kept:
    """What `discover` needs of a store, without a database."""

    machine_key = "here"

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, SimpleNamespace]] = []

    def samples(self, room: str, key: str) -> list[SimpleNamespace]:
        return [row for of_room, of_key, row in self.rows if (of_room, of_key) == (room, key)]

    def add_sample(self, room: str, key: str, row: dict[str, Any]) -> None:
        self.rows.append((room, key, SimpleNamespace(row=row, machine=self.machine_key)))

    def add_bound(self, key: str, name: str, **_: Any) -> None: ...

    def add_rule(self, key: str, text: str, **_: Any) -> None: ...


def within(truth: Mapping[str, tuple[float, float]], **how: Any) -> Callable[[Mapping[str, Any]], Outcome]:
    """Return the answer of a server that takes every knob between two values."""

    def answer(config: Mapping[str, Any]) -> Outcome:
        for name, value in config.items():
            if name in truth and not truth[name][0] <= value <= truth[name][1]:
                return refused(name, value, **how)
        return STARTED

    return answer

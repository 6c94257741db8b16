"""The planted server keeps the contract of server files, and what it says of itself is true."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pytest

from mlsysopt.core.target import Failure, Limits, Measurement, Value
from mlsysopt.operate.tune.server_target import ServerTarget, server_target
from mlsysopt.testing.servers import ServerContract
from mlsysopt.testing.targets import TargetContract
from tests.operate.tune.planted_server import PLANTED, Planted, planted_speed


class TestPlantedServer(ServerContract):
    server = Planted()
    changed: ClassVar = {"workers": 8, "cache": 2**24, "mode": "fast", "ticks": 20}
    absurd: ClassVar = {"workers": 1000}
    refusal = "workers"
    most_lines = 250  # with the table of its truth


class TestPlantedServerByPath(ServerContract):
    path = str(PLANTED)
    changed: ClassVar = {"ratio": 0.25}
    absurd: ClassVar = {"ratio": 2.0}
    refusal = "not a share"
    most_lines = 250


class TestPlantedTarget(TargetContract):
    wrong_config: ClassVar = {"workers": 1000}

    def make_target(self) -> ServerTarget:
        return server_target(Planted())


@pytest.mark.parametrize(
    ("config", "kind", "says"),
    [
        ({"workers": 65}, "rejected", "1 .. 64"),
        ({"cache": 2**29}, "rejected", "could not map"),
        ({"low_mark": 1000}, "rejected", "less than"),
        ({"mode": "turbo"}, "rejected", "turbo"),
        ({"ticks": 600, "workers": 5}, "degraded", "the server uses 500"),
        ({"patience": 301}, "timeout", "not ready"),
        ({"depth": 201}, "crashed", "stack"),
        ({"scratch": 2**36}, "crashed", "MemoryError"),
        ({"scratch": 2**30}, "degraded", "over its memory limit of 64 MiB"),
        ({"lossy": True}, "degraded", "are gone"),
    ],
)
def test_what_is_planted_happens(config: dict[str, Value], kind: str, says: str) -> None:
    with server_target(Planted(), knobs="core,traps", memory="64MiB").session(Limits()) as session:
        outcome = session.measure(config, seed=1)
        assert isinstance(outcome, Failure)
        assert (outcome.kind, says in outcome.reason) == (kind, True), outcome


def test_live_corrections_are_told_too() -> None:
    with server_target(Planted(), knobs="ticks").session(Limits()) as session:
        outcome = session.probe({"ticks": 600})
    assert isinstance(outcome, Failure)
    assert outcome.extra["corrected"] == {"ticks": 500}


def test_the_rate_is_the_formula() -> None:
    best: dict[str, Value] = {**Planted.best, "cache": 2**26}
    with server_target(Planted()).session(Limits()) as session:
        default, other = session.measure({}, seed=1), session.measure(best, seed=1)
    assert isinstance(default, Measurement) and isinstance(other, Measurement)
    assert math.isclose(other.metrics["tps"] / default.metrics["tps"], planted_speed(Planted.best))
    assert planted_speed(Planted.best) > 1.7


def test_a_planted_fault_is_the_machines_and_passes(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    with server_target(Planted(fault=str(fault))).session(Limits()) as session:
        assert isinstance(session.measure({}, seed=1), Measurement)
        fault.write_text("PANIC:  could not write: No space left on device")
        outcome = session.measure({}, seed=2)
        assert isinstance(outcome, Failure) and outcome.kind == "infrastructure"
        fault.unlink()
        assert isinstance(session.measure({}, seed=3), Measurement)

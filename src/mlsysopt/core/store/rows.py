"""What the store keeps beside trials, as frozen values of plain Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlsysopt.core.target import Value

__all__ = [
    "Bound",
    "MachineRow",
    "MeasurementRow",
    "Role",
    "Rule",
    "Sample",
    "StudyInfo",
    "config_from_json",
    "from_json",
    "plain_text",
    "to_json",
]

Role = Literal["baseline", "trial", "canary", "verify", "probe"]


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """One study of a store.

    Attributes:
        name: Name in the store.
        target: Name of what was tuned, "" for a study of another program.
        trials: Trials of any state.
        created_at: Seconds since the epoch, None when unknown.
        identity: What a run must share to go on with it.
    """

    name: str
    target: str
    trials: int
    created_at: float | None
    identity: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MeasurementRow:
    """One run of one configuration, whatever came of it.

    Attributes:
        study: Name of the study.
        trial: Trial number, -1 where no trial is meant.
        role: Why it was measured.
        round: Repeat of this role.
        side: `default` or a candidate's name.
        config: Configuration that was asked for; empty for the system's own default.
        effective: What the system really used.
        metrics: None when the run failed.
        failure_kind: None when it did not.
        seed: Seed of the run.
        started_at: Seconds since the epoch.
        conditions: Load, pressure, steal and faults of the machine (JSON values).
        machine: Key of the machine.
        worker: Number of the process in the study.
    """

    study: str
    trial: int
    role: Role
    round: int
    side: str
    config: dict[str, Value]
    effective: dict[str, Value]
    metrics: dict[str, float] | None
    failure_kind: str | None
    reason: str | None
    log_tail: str
    seed: int
    cpu_s: float
    wall_s: float
    started_at: float
    conditions: dict[str, Any]
    machine: str
    worker: int


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit of one parameter, with what supports it; None leaves that side as it is."""

    key: str
    name: str
    low: float | None
    high: float | None
    origin: str
    evidence: dict[str, Any]
    machine: str
    at: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A constraint between parameters, with what supports it."""

    key: str
    expression: str
    origin: str
    evidence: dict[str, Any]
    machine: str
    at: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of what an estimator or profile of some room keeps."""

    room: str
    key: str
    row: dict[str, Any]
    machine: str
    at: float


@dataclass(frozen=True, slots=True)
class MachineRow:
    """One machine that has written to the store."""

    key: str
    first_seen: float
    about: dict[str, Any]


def to_json(value: Any) -> str:
    """Return compact JSON of plain values; numpy scalars and arrays become plain ones.

    >>> to_json({"a": (1, 2.5), "b": None})
    '{"a":[1,2.5],"b":null}'
    """
    return json.dumps(value, separators=(",", ":"), default=_plain)


def from_json(text: str) -> Any:
    return json.loads(text)


def config_from_json(text: str) -> dict[str, Value]:
    """Read a configuration; JSON lists are permutations and become tuples again."""
    read: Mapping[str, Any] = json.loads(text)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}


def plain_text(text: str) -> str:
    """Return text that every database takes: PostgreSQL refuses NUL, both refuse lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value: {value!r}")

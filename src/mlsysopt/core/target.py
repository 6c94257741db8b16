"""What may be measured: targets, their sessions, and the two things a measurement can be.

A `Target` is something with knobs. Its `Session` lives across trials (data directory, warm
servers) and turns one configuration into a `Measurement` or a `Failure`; a failure is data,
never an exception. An exception that leaves `Session.measure` is a defect of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from mlsysopt.core.references import Reference

if TYPE_CHECKING:
    from mlsysopt.core.space import Space

__all__ = [
    "Config",
    "Failure",
    "FailureKind",
    "Limits",
    "Measurement",
    "Metric",
    "Outcome",
    "Prober",
    "Purpose",
    "Session",
    "Target",
    "Value",
]

Value = bool | int | float | str | tuple[int, ...]
"""What a parameter may hold: plain Python, never a numpy scalar."""

Config = Mapping[str, Value]

FailureKind = Literal["rejected", "crashed", "timeout", "degraded", "infrastructure", "lost"]
Purpose = Literal["search", "verify"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that a target reports.

    Attributes:
        unit: Unit of the value, "" for a plain number.
        better: Which direction is an improvement.
        kind: "static" is computed without running, "deterministic" repeats exactly,
            "stochastic" needs repeats.
        clock: "wall" or "cpu" when the value depends on that clock, else None.
        twin: Metric that tells the same on the other clock; both must agree in a verdict.
        may_be_zero: Whether zero is a normal value; ratios of such counters are taken of 1 + value.
        about: One line for people.
    """

    unit: str
    better: Literal["higher", "lower"]
    kind: Literal["static", "deterministic", "stochastic"] = "stochastic"
    clock: Literal["wall", "cpu"] | None = None
    twin: str | None = None
    may_be_zero: bool = False
    about: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child of a session may use; None means no limit."""

    memory_bytes: int | None = None
    timeout_s: float | None = None
    files: int | None = None
    cpu_s: float | None = None
    file_bytes: int | None = None

    def with_timeout(self, timeout_s: float | None) -> Limits:
        """Return the same limits with another time-out."""
        return replace(self, timeout_s=timeout_s)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One successful run of a configuration.

    Attributes:
        metrics: Metric name -> value, in the units that `Target.metrics` declares.
        effective_config: What the system really used; a system may correct a request.
        cpu_s: User + system seconds of the whole process tree.
        wall_s: Elapsed seconds, set-up included.
        started_at: Seconds since the epoch.
        log_tail: Last lines of the system's log.
        extra: Anything else worth keeping (JSON values).
    """

    ok: ClassVar[Literal[True]] = True
    metrics: Mapping[str, float]
    effective_config: Config
    cpu_s: float
    wall_s: float
    started_at: float
    log_tail: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """One run that gave no valid result, and why.

    Kinds: `rejected` did not start; `crashed`; `timeout`; `degraded` ran, but broke a hard limit;
    `infrastructure` the machine's fault (port busy, disk full): retried once, never blamed on the
    configuration; `lost` its owner died.
    """

    ok: ClassVar[Literal[False]] = False
    kind: FailureKind
    reason: str
    log_tail: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def blames_config(self) -> bool:
        """Whether a sampler should learn from it."""
        return self.kind not in ("infrastructure", "lost")


Outcome = Measurement | Failure


@runtime_checkable
class Session(Protocol):
    """Measures configurations one after another."""

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        """Run one configuration once.

        Args:
            config: A valid configuration; missing parameters take their defaults, and an *empty*
                configuration is the system's own default, with no knob set at all.
            seed: Seed of this run; 1 <= seed < 2**31.
            fidelity: Share of the full work, 0 < fidelity <= 1.
            timeout_s: Time-out of this run; None means the session's own.
        """
        ...


@runtime_checkable
class Prober(Session, Protocol):
    """A session that can also try, without any load, whether a configuration works at all.

    A target whose sessions are probers says so by `learns_validity = True`.
    """

    def probe(self, config: Config, *, timeout_s: float | None = None) -> Outcome:
        """Try one configuration; a measurement without metrics means that it starts."""
        ...

    def diagnose(self, config: Config, failure: Failure, probe: Callable[[Config], Outcome]) -> Sequence[str]:
        """Find out by probes which parameters made a configuration fail; empty when that cannot be said.

        Args:
            config: What failed.
            failure: How it failed.
            probe: `probe` of this session, recorded; raises `TimeoutError` when no more may be spent.
        """
        ...


@runtime_checkable
class Target(Protocol):
    """Something with knobs that can be measured. Frozen: `with_space` returns a new one."""

    @property
    def name(self) -> str:
        """What the command line and the store call it."""
        ...

    @property
    def references(self) -> Sequence[Reference]:
        """Works that it stands on, printed by `mlsysopt cite`."""
        ...

    @property
    def guards(self) -> Mapping[str, str]:
        """Default guards: metric -> `<= 1.1x` (of the default) or an absolute `<= 256MiB`."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Engine, version, workload, budget: results of another one may not share a study."""
        ...

    def space(self) -> Space: ...

    def with_space(self, space: Space) -> Target: ...

    def metrics(self) -> dict[str, Metric]: ...

    def static(self, config: Config) -> dict[str, float]:
        """Compute the static metrics of a configuration without running it."""
        ...

    def session(self, limits: Limits, *, purpose: Purpose = "search") -> AbstractContextManager[Session]:
        """Open a session; leaving it stops every process and removes every temporary file."""
        ...

    def export(self, config: Config, path: Path) -> None:
        """Write a configuration in the form that the system itself reads."""
        ...

"""One place that measures, retries, records and times out, for every role of a measurement."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from mlsysopt.core.errors import InfrastructureError, MlsysoptError, PluginError, TargetError
from mlsysopt.core.measure import conditions
from mlsysopt.core.store import MeasurementRow, Store
from mlsysopt.core.target import Config, Failure, Measurement, Metric, Outcome, Prober, Session, Target

__all__ = ["Measurer", "Role"]

Role = Literal["baseline", "trial", "canary", "verify", "probe"]

MINIMUM_TIMEOUT_S = 10.0
TIMEOUT_FACTOR = 8.0


class Measurer:
    """Measures configurations for one study in one process.

    Every outcome becomes a row of the store before anybody looks at it. The machine's own faults
    are retried once; a second one in a row stops the study, since the next trial would meet it too.

    Args:
        store: Where rows go.
        study: Name of the study.
        target: What is measured.
        session: Open session of that target.
        worker: Number of this process in the study.
        machine: Key of this machine in the store.
        exclusive: Slot that timing-sensitive work holds on this machine.

    Attributes:
        occupied_s: Seconds in which the target was in use: every attempt, failed ones and probes too.
        probing_s: Those of them that went into probes.
    """

    def __init__(
        self,
        *,
        store: Store,
        study: str,
        target: Target,
        session: Session,
        worker: int,
        machine: str,
        exclusive: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._store, self._study, self._target, self._session = store, study, target, session
        self._worker, self._machine = worker, machine
        self._metrics: dict[str, Metric] = target.metrics()
        self._exclusive = exclusive
        self._default_wall_s = 0.0
        self.occupied_s = self.probing_s = 0.0

    @property
    def prober(self) -> Prober | None:
        """The session, if it can probe."""
        return self._session if isinstance(self._session, Prober) else None

    @property
    def place(self) -> str:
        """Where the session keeps its files: folder and device, "" for one that has no `folder`.

        The same folder may be on another disk tomorrow: the device belongs to it.
        """
        folder = getattr(self._session, "place", None) or getattr(self._session, "folder", None)
        if folder is None:
            return ""
        path = Path(folder).absolute()
        there = next((one for one in (path, *path.parents) if one.exists()), Path("/"))
        return f"{path} on device {there.stat().st_dev}"

    def exclusive(self) -> AbstractContextManager[Any]:
        """Hold this machine's timing slot over several measurements that belong together."""
        return self._exclusive()

    @property
    def timeout_s(self) -> float:
        """Seconds one run may take: 8 times the latest default's, at least 10."""
        if self._default_wall_s == 0.0:
            return math.inf
        return max(MINIMUM_TIMEOUT_S, TIMEOUT_FACTOR * self._default_wall_s)

    def take(self, config: Config, *, trial: int, role: Role, round: int, side: str, seed: int) -> Outcome:
        """Measure one configuration once and record it.

        Args:
            config: Empty for the system's own default.
            trial: Trial number; -1 where no trial is meant.
            role: Why it is measured.
            round: Repeat of this role.
            side: `default` or a candidate's name.
            seed: Seed of the run.

        Raises:
            InfrastructureError: the machine failed twice in a row.
            PluginError: the target raised or broke its protocol.
        """
        for attempt in (1, 2):
            outcome = self._once("measure", lambda: self._session.measure(config, seed=seed, timeout_s=self._limit()))
            self.occupied_s += outcome.wall_s
            self._record(outcome, config, seed, trial=trial, role=role, round=round, side=side)
            if isinstance(outcome, Measurement) or outcome.kind != "infrastructure":
                break
            if attempt == 2:
                raise InfrastructureError(f"{self._target.name} could not be measured, twice: {outcome.reason}")
        if isinstance(outcome, Measurement) and not config:
            self._default_wall_s = outcome.wall_s
        return outcome

    def probe(self, config: Config, *, trial: int, round: int) -> Outcome:
        """Probe one configuration and record it.

        Args:
            trial: Trial whose failure is looked into.
            round: Number of the probe.

        Raises:
            PluginError: the target raised or broke its protocol.
        """
        prober = self.prober
        assert prober is not None
        outcome = self._once("probe", lambda: prober.probe(config))
        self.occupied_s += outcome.wall_s
        self.probing_s += outcome.wall_s
        self._record(outcome, config, 1, trial=trial, role="probe", round=round, side="probe")
        return outcome

    def again(self, row: MeasurementRow) -> Outcome:
        """Return the outcome of a row of the store as if it had been measured now; nothing runs or is recorded."""
        if row.metrics is None:
            kind: Any = row.failure_kind
            return Failure(kind, row.reason or "", row.log_tail, row.wall_s, row.cpu_s)
        if not row.config:
            self._default_wall_s = row.wall_s
        return Measurement(row.metrics, row.effective, row.cpu_s, row.wall_s, row.started_at, row.log_tail)

    def _limit(self) -> float | None:
        return None if math.isinf(self.timeout_s) else self.timeout_s

    def _once(self, hook: str, run: Callable[[], Outcome]) -> Outcome:
        try:
            outcome = run()
        except MlsysoptError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise PluginError(
                f"target {self._target.name!r} raised in Session.{hook} instead of returning a Failure: "
                f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
            ) from error
        return self._checked(hook, outcome)

    def _checked(self, hook: str, outcome: Any) -> Outcome:
        if isinstance(outcome, Failure):
            return outcome
        if not isinstance(outcome, Measurement):
            raise TargetError(
                f"target {self._target.name!r} returned {type(outcome).__name__} from Session.{hook}; "
                "a Measurement or a Failure is needed"
            )
        unknown = sorted(set(outcome.metrics) - set(self._metrics))
        if unknown:
            raise TargetError(
                f"target {self._target.name!r} reported {', '.join(unknown)}, which its metrics() do not declare"
            )
        broken = {name: value for name, value in outcome.metrics.items() if not math.isfinite(value)}
        if broken:
            named = ", ".join(f"{name} = {value}" for name, value in broken.items())
            return Failure("degraded", f"not a number: {named}", outcome.log_tail, outcome.wall_s, outcome.cpu_s)
        return outcome

    def _record(
        self, outcome: Outcome, config: Config, seed: int, *, trial: int, role: Role, round: int, side: str
    ) -> None:
        ok = isinstance(outcome, Measurement)
        effective: Mapping[str, Any] = outcome.effective_config if isinstance(outcome, Measurement) else {}
        now = conditions()
        self._store.record(
            MeasurementRow(
                study=self._study,
                trial=trial,
                role=role,
                round=round,
                side=side,
                config=dict(config),
                effective=dict(effective),
                metrics=dict(outcome.metrics) if isinstance(outcome, Measurement) else None,
                failure_kind=None if ok else outcome.kind,
                reason=None if ok else outcome.reason,
                log_tail=outcome.log_tail,
                seed=seed,
                cpu_s=outcome.cpu_s,
                wall_s=outcome.wall_s,
                started_at=outcome.started_at if isinstance(outcome, Measurement) else time.time() - outcome.wall_s,
                conditions={
                    "load1": now.load1,
                    "pressure_avg10": now.pressure_avg10,
                    "steal_share": now.steal_share,
                    "major_faults": now.major_faults,
                    **({"extra": dict(outcome.extra)} if outcome.extra else {}),
                },
                machine=self._machine,
                worker=self._worker,
            )
        )

"""The loop that gives trainings to an executor and keeps what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from mlsysopt.core.executors import Executor
from mlsysopt.core.executors.tasks import outcome
from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.target import Failure
from mlsysopt.design.ablate.deltas import BASE
from mlsysopt.design.ablate.records import Records, content_key
from mlsysopt.design.ablate.trial import TrialSpec

__all__ = ["BaseFailed", "Spending", "Trainer"]

Listener = Callable[[str], None]


class BaseFailed(Exception):
    """The whole model does not train: nothing can be compared with it."""


@dataclass(slots=True)
class Spending:
    """What may still be spent: a number of trainings, seconds, or anything."""

    trainings: int | None = None
    seconds: float | None = None
    started: float = field(default_factory=time.monotonic)
    used: int = 0

    def over(self) -> bool:
        """Whether nothing more may start."""
        if self.trainings is not None and self.used >= self.trainings:
            return True
        return self.seconds is not None and time.monotonic() - self.started >= self.seconds


@dataclass(slots=True)
class Trainer:
    """Runs trainings that are not in the store yet, on free workers, without barriers between them.

    Attributes:
        executor: Where they run.
        fn: Called there with a `TrialSpec`.
        records: Where they are kept.
        fingerprint: Of code and data.
        spending: What may be spent.
        at_once: Trainings handed over at a time.
        timeout_s: Longest training.
        memory_bytes: Largest memory of one.
        tell: Called with one line per training.
        owns_executor: Whether an interrupted run may end it.
    """

    executor: Executor
    fn: Callable[[TrialSpec], dict[str, Any]]
    records: Records
    fingerprint: str
    spending: Spending
    at_once: int
    timeout_s: float | None = None
    memory_bytes: int | None = None
    tell: Listener = field(default=lambda line: None)
    owns_executor: bool = True
    base_failures: int = 0
    durations: dict[str, float] = field(default_factory=dict)

    def key(self, spec: TrialSpec) -> str:
        """Return the content key of a training."""
        return content_key(spec.row, spec.seed, self.fingerprint + (" again" if spec.again else ""))

    def have(self, spec: TrialSpec) -> dict[str, Any] | None:
        """Return a training that is there already."""
        return self.records.get(self.key(spec))

    def run(self, specs: Sequence[TrialSpec]) -> bool:
        """Train what is missing, seed by seed and longest first; return whether all of it is there now.

        Raises:
            BaseFailed: the first training of the base was rejected, or three failed.
        """
        missing = {self.key(spec): spec for spec in specs if self.have(spec) is None}
        waiting = sorted(missing.items(), key=lambda item: (item[1].seed, -self._expected(item[1])))
        running: dict[Future[Any], tuple[str, TrialSpec, bool]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once and not self.spending.over():
                    key, spec = waiting.pop(0)
                    self._start(running, key, spec, again=False)
                    self._collect(running, [future for future in running if future.done()])
                if not running:
                    break
                left = None
                if self.spending.seconds is not None and not self.spending.over():
                    left = max(0.05, self.spending.started + self.spending.seconds - time.monotonic())
                done, _ = wait(running, timeout=left, return_when=FIRST_COMPLETED)
                self._collect(running, done)
                if self.spending.over():
                    for future in [future for future in running if future.cancel()]:
                        running.pop(future)
                        self.spending.used -= 1
                    waiting.clear()
        except BaseException:
            for future in running:
                future.cancel()
            raise
        return all(self.have(spec) is not None for spec in specs)

    def _start(
        self, running: dict[Future[Any], tuple[str, TrialSpec, bool]], key: str, spec: TrialSpec, *, again: bool
    ) -> None:
        limits: dict[str, Any] = {}
        if self.timeout_s is not None:
            limits["timeout_s"] = self.timeout_s
        if self.memory_bytes is not None:
            limits["memory_bytes"] = self.memory_bytes
        if not again:
            self.records.begin(key, spec.row.key, spec.seed)
            self.spending.used += 1
        running[self.executor.submit(self.fn, spec, **limits)] = (key, spec, again)

    def _collect(self, running: dict[Future[Any], tuple[str, TrialSpec, bool]], done: Any) -> None:
        for future in list(done):
            key, spec, again = running.pop(future)
            found = outcome(future)
            if isinstance(found, Failure) and found.kind in ("infrastructure", "lost") and not again:
                self._start(running, key, spec, again=True)
                continue
            self._keep(key, spec, found)

    def _keep(self, key: str, spec: TrialSpec, found: dict[str, Any] | Failure) -> None:
        if isinstance(found, Failure):
            found = {
                "row": spec.row.key, "seed": spec.seed, "state": found.kind, "reason": found.reason,
                "tail": found.log_tail, "wall_s": found.wall_s, "cpu_s": found.cpu_s, "overhead_s": 0.0, "rss_bytes": 0,
            }  # fmt: skip
        self.records.finish(key, found)
        self.durations[spec.row.key] = found["wall_s"]
        if found["state"] == "ok":
            said = ", ".join(f"{name} {value:.5g}" for name, value in list(found["metrics"].items())[:2])
        else:
            said = f"{found['state']}: {found.get('reason', '')}"
        self.tell(f"{spec.row.key}, seed {spec.seed}: {said} ({format_seconds(found['wall_s'])})")
        if spec.row.key == BASE and not spec.again and found["state"] not in ("ok", "infrastructure", "lost"):
            self.base_failures += 1
            if found["state"] == "rejected" and self.base_failures == 1:
                raise BaseFailed(f"the base model's first training gave no result: {found['reason']}")
            if self.base_failures >= 3:
                raise BaseFailed(f"the base model failed to train 3 times: {found['reason']}\n{found.get('tail', '')}")

    def _expected(self, spec: TrialSpec) -> float:
        return self.durations.get(spec.row.key, self.durations.get(BASE, 0.0))

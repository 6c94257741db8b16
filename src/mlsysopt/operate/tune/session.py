"""One open server target: data folders, trials under load, and probes that only start the server."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import InfrastructureError, ProcessError
from mlsysopt.core.measure.clocks import Stopwatch, tree_cpu
from mlsysopt.core.processes import NotReadyInTime, Service, temporary_folder, tree_pss_bytes
from mlsysopt.core.quantities import format_bytes
from mlsysopt.core.target import Config, Failure, Limits, Measurement, Outcome, Value
from mlsysopt.operate.tune.data_folders import DataFolders
from mlsysopt.operate.tune.server import Address, ClientFailed, ClientTimeout, Load, Place, Refused

if TYPE_CHECKING:
    from mlsysopt.operate.tune.server_target import ServerTarget

__all__ = ["ServerSession"]

# A start may take this many times the default's, so that a busy machine is not called invalid.
_START_FACTOR, _LEAST_START_S = 8.0, 1.0
_FIRST_START_S = 60.0
# And a load so many times the slowest of the default's.
_LOAD_FACTOR, _LEAST_LOAD_S = 3.0, 5.0
_TAIL_LINES = 20
# Clients see a closed connection before the process that closed it has ended.
_DYING_S, _LOOK_S = 0.5, 0.01

# What the machine did, whatever the configuration was.
_MACHINE = re.compile(
    r"no space left on device|disk quota exceeded|address already in use|could not bind|cannot assign requested"
    r"|pre-existing shared memory|too many open files in system|input/output error",
    re.IGNORECASE,
)

# Words of the line in a log that says why, in the servers that we know.
_TELLING = re.compile(r"fatal|error|panic|can't|cannot|invalid|unrecogni[sz]ed", re.IGNORECASE)


class ServerSession:
    """Measures configurations of one server, one after another; made by `ServerTarget.session`.

    Args:
        target: What is measured.
        limits: What the server may use.
        folder: Where the data folders are.

    Attributes:
        folder: Where the data folders are.
        data: The data folders.
    """

    def __init__(self, target: ServerTarget, limits: Limits, folder: Path) -> None:
        self.target, self.folder = target, folder
        self.data = DataFolders(target, limits, folder)
        self._limits = limits
        self._load_s = 0.0
        self._used: Path | None = None
        self._probed: Path | None = None
        self._live: tuple[Service, Address] | None = None

    @property
    def place(self) -> Path:
        """The folder that the user chose: what is measured there may be compared, whatever the session's own is."""
        return self.target.directory

    # --- trials ----------------------------------------------------------------------------------

    def measure(self, config: Config, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Outcome:
        """Start the server on a fresh copy of the data, load it, and say what it did."""
        self.data.filled()
        self._stop_live()
        return self._timed(lambda: self._trial(config, seed, fidelity, timeout_s))

    def _trial(self, config: Config, seed: int, fidelity: float, timeout_s: float | None) -> Outcome:
        deadline = time.monotonic() + (timeout_s if timeout_s is not None else self.target.timeout_s)
        place = self.data.place(self._used or self.data.trial())
        with self._started(place, config, deadline) as (service, failure):
            if service is None:
                assert failure is not None
                return failure
            # Until it is known to be unchanged, the folder counts as used up.
            self._used = None
            try:
                outcome = self._load(service, self.data.address(place, service), config, seed, fidelity, deadline)
            except ClientTimeout as error:
                return self._failed(service, "timeout", str(error), under_load=True)
            except ClientFailed as error:
                return self._died(service) or self._failed(service, "degraded", str(error))
        if isinstance(outcome, Measurement) and not self.target.workload.writes:
            self._used = place.folder
        return outcome

    def _load(
        self, service: Service, address: Address, config: Config, seed: int, fidelity: float, deadline: float
    ) -> Outcome:
        """Load a server that runs, and check what it did."""
        workload = self.target.workload
        used, corrected = self._read_back(address, config)
        if corrected is not None:
            return corrected
        with temporary_folder(f"{self.target.name}-load-") as folder:
            seconds = workload.seconds * fidelity

            def load(seconds: float, seed: int) -> Load:
                most_s = max(1.0, deadline - time.monotonic())
                if self._load_s and config:
                    # One endless statement must not use up what a dozen other trials could have had.
                    most_s = min(most_s, max(_LEAST_LOAD_S, _LOAD_FACTOR * self._load_s * fidelity))
                return Load(seconds, seed, workload.clients, folder, most_s)

            if workload.warmup_s > 0:
                workload.run(address, load(workload.warmup_s, seed % 1000 + 1))
            before = self._counters(address)
            cpu_s = tree_cpu(service.pid)
            began = time.monotonic()
            with _Memory(service.pid, seconds) as memory:
                loaded = workload.run(address, load(seconds, seed))
            if not config and fidelity == 1.0:
                self._load_s = max(self._load_s, time.monotonic() - began)
            cpu_s = tree_cpu(service.pid) - cpu_s
            after = self._counters(address)
        if loaded.errors:
            reason = f"{loaded.errors} failed operations, the first: {loaded.first_error}"
            return self._died(service) or self._failed(service, "degraded", reason)
        if loaded.operations <= 0:
            return self._failed(service, "degraded", "not one operation was finished")
        check = getattr(self.target.server, "check", None)
        wrong: str | None = check(address, loaded) if check is not None else None
        if wrong is not None:
            return self._failed(service, "degraded", wrong)
        metrics = {**loaded.metrics, self.target.twin: loaded.operations / max(cpu_s, 1e-3)}
        metrics |= {name: (after[name] - before[name]) / loaded.operations for name in after if name in before}
        metrics["memory_bytes"] = float(max(memory.peak, 1))
        tail = service.log_tail(_TAIL_LINES)
        return Measurement(metrics, used, 0.0, 0.0, 0.0, tail, {"operations": loaded.operations, "server_cpu_s": cpu_s})

    @contextmanager
    def _started(
        self, place: Place, config: Config, deadline: float
    ) -> Generator[tuple[Service | None, Failure | None]]:
        """Start the server with a configuration; yields it, or why it does not run."""
        settings = {**self.target.fixed, **self.target.catalogue.to_native(config)}
        service = self.target.server.service(place, settings)
        most = max(_LEAST_START_S, _START_FACTOR * self.data.start_s) if self.data.start_s else _FIRST_START_S
        failure: Failure | None = None
        try:
            service.start(timeout_s=max(0.1, min(most, deadline - time.monotonic())))
        except NotReadyInTime as error:
            failure = self._failed(service, "timeout", _first_line(str(error)))
        except ProcessError as error:
            failure = self._failed(service, "rejected", self._said(service) or _first_line(str(error)))
        if failure is not None:
            self._used = None
            yield None, failure
            return
        try:
            yield service, None
        finally:
            service.stop()

    def _read_back(self, address: Address, config: Config) -> tuple[dict[str, Value], Failure | None]:
        """Return what the server really uses of what was asked for, and a failure where that differs."""
        catalogue = self.target.catalogue
        native = self.target.server.effective(address)
        used = {name: catalogue.from_native(name, native[name]) for name in self.target.knobs.names if name in native}
        return used, self._corrected(config, native)

    def _corrected(self, config: Config, native: Mapping[str, Value]) -> Failure | None:
        corrected = self.target.catalogue.corrected(config, native)
        if not corrected:
            return None
        told = "; ".join(f"{name}: asked {asked}, the server uses {got}" for name, (asked, got) in corrected.items())
        extra = {"named": sorted(corrected), "corrected": {name: got for name, (_, got) in corrected.items()}}
        return Failure("degraded", told, extra=extra)

    def _counters(self, address: Address) -> Mapping[str, float]:
        counters: Callable[[Address], Mapping[str, float]] | None = getattr(self.target.server, "counters", None)
        return counters(address) if counters is not None else {}

    # --- probes ----------------------------------------------------------------------------------

    def probe(self, config: Config, *, timeout_s: float | None = None) -> Outcome:
        """Only start the server, read its values back, and stop it.

        A knob that a running server takes is set in one, where there is such a way. A configuration that
        the server corrects by itself is `degraded`, with what it uses in `extra["corrected"]`.
        """
        self.data.empty()
        return self._timed(lambda: self._probe(config, timeout_s))

    def _probe(self, config: Config, timeout_s: float | None) -> Outcome:
        set_live = getattr(self.target.server, "set_live", None)
        if config and set_live is not None and self._all_live(config):
            return self._probe_live(config, set_live)
        self._stop_live()
        if self._probed is None:
            self._probed = self.data.probe()
        place = self.data.place(self._probed)
        # A server that was killed, or did not start, may leave its folder in any state.
        self._probed = None
        deadline = time.monotonic() + (timeout_s if timeout_s is not None else self.target.timeout_s)
        with self._started(place, config, deadline) as (service, failure):
            if service is None:
                assert failure is not None
                if not config:
                    # Whatever keeps the default from starting may lie in the folder.
                    self.data.clear("probe")
                return failure
            try:
                used, corrected = self._read_back(self.data.address(place, service), config)
            except ClientFailed as error:
                return self._died(service) or self._failed(service, "degraded", str(error))
        self._probed = place.folder
        return corrected or Measurement({}, used, 0.0, 0.0, 0.0)

    def diagnose(self, config: Config, failure: Failure, probe: Callable[[Config], Outcome]) -> Sequence[str]:
        """Find out by probes which knobs made a configuration fail."""
        from mlsysopt.operate.tune.diagnose import diagnose

        return diagnose(self.target.knobs, config, failure, probe).blamed

    def _all_live(self, config: Config) -> bool:
        knobs = self.target.catalogue.knobs
        return all(name in knobs and knobs[name].change == "live" for name in config)

    def _probe_live(self, config: Config, set_live: Callable[[Address, Mapping[str, Value]], Any]) -> Outcome:
        if self._live is None or not self._live[0].running:
            self._stop_live()
            place = self.data.place(self.data.copy(self.data.empty(), "live"))
            try:
                service = self.target.server.service(place, self.target.fixed).start(_FIRST_START_S)
            except ProcessError as error:
                # The default did start before: no configuration is to blame.
                return Failure("infrastructure", f"the default no longer starts: {error}")
            self._live = service, self.data.address(place, service)
        service, address = self._live
        try:
            used = set_live(address, self.target.catalogue.to_native(config))
        except Refused as error:
            return self._failed(service, "rejected", str(error), text=str(error))
        except ClientFailed as error:
            died = self._died(service)
            self._stop_live()
            return died or Failure("degraded", str(error))
        return self._corrected(config, used or {}) or Measurement({}, dict(config), 0.0, 0.0, 0.0)

    def _stop_live(self) -> None:
        if self._live is not None:
            service, self._live = self._live[0], None
            service.stop()

    # --- what went wrong -------------------------------------------------------------------------

    def _timed(self, run: Callable[[], Outcome]) -> Outcome:
        """Run something and say what it cost."""
        at = time.time()
        with Stopwatch() as watch:
            outcome = self._guarded(run)
        if isinstance(outcome, Measurement):
            return replace(outcome, cpu_s=watch.cpu_s, wall_s=watch.wall_s, started_at=at)
        return replace(outcome, cpu_s=watch.cpu_s, wall_s=watch.wall_s)

    def _guarded(self, run: Callable[[], Outcome]) -> Outcome:
        try:
            return run()
        except (InfrastructureError, OSError) as error:
            self._used = self._probed = None
            self.data.clear("probe")
            return Failure("infrastructure", str(error))

    def _failed(
        self, service: Service, kind: Any, reason: str, *, text: str | None = None, under_load: bool = False
    ) -> Failure:
        """Return a failure with the end of the log, the knobs that it names, and the machine to blame if it is.

        Args:
            text: What to look through instead of reason and log.
            under_load: Whether the server had started.
        """
        tail = service.log_tail(_TAIL_LINES)
        said = f"{reason}\n{tail}" if text is None else text
        if service.killed_for_memory:
            kind, reason = "degraded", f"over its memory limit of {format_bytes(self._limits.memory_bytes or 0)}"
        elif self._blames_machine(said):
            kind = "infrastructure"
        named = self.target.names_in(said)
        extra = {**({"named": named} if named else {}), **({"under_load": True} if under_load else {})}
        return Failure(kind, reason, tail, extra=extra)

    def _blames_machine(self, text: str) -> bool:
        own = getattr(self.target.server, "infrastructure", ())
        return _MACHINE.search(text) is not None or any(re.search(pattern, text) for pattern in own)

    def _died(self, service: Service) -> Failure | None:
        """Return the failure of a server that no longer runs; None while it does."""
        deadline = time.monotonic() + _DYING_S
        while service.running:
            if time.monotonic() > deadline:
                return None
            time.sleep(_LOOK_S)
        return self._failed(service, "crashed", self._said(service) or f"{service.name} died under the load")

    def _said(self, service: Service) -> str:
        """Return the line of the log that says why."""
        lines = [line.strip() for line in service.log_tail(_TAIL_LINES).splitlines() if line.strip()]
        # A headline ("*** FATAL CONFIG FILE ERROR ***") says that there is a reason, not which.
        lines = [line for line in lines if not line.startswith("***")] or lines
        telling = [line for line in lines if _TELLING.search(line)]
        return (telling or lines or [""])[-1 if not telling else 0]

    def close(self) -> None:
        """Stop what still runs."""
        self._stop_live()


class _Memory:
    """Looks at the proportional set size of a process tree while a block runs."""

    def __init__(self, pid: int, seconds: float) -> None:
        self.peak = 0
        self._pid, self._pause_s = pid, max(0.2, seconds / 4)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory-of-server", daemon=True)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, tree_pss_bytes(self._pid))

    def _look(self) -> None:
        while not self._over.wait(self._pause_s):
            self.peak = max(self.peak, tree_pss_bytes(self._pid))


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""

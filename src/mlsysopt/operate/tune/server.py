"""The words of a tunable server: what one file of a server says, and what it is given.

A server file holds what only that server knows: which programs it has, how it is started with a
configuration, how its knobs are listed and read back, and what loads it. Limits, ports, copies of the
data, time-outs, probing, failure kinds and clean-up are the same for all and live in `ServerTarget`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from mlsysopt.core.errors import MlsysoptError
from mlsysopt.core.processes import Service, run_child
from mlsysopt.core.processes.service import Ready
from mlsysopt.core.target import Limits, Metric, Value

__all__ = [
    "Address",
    "Change",
    "ClientFailed",
    "ClientTimeout",
    "Knob",
    "Load",
    "Loaded",
    "Place",
    "Refused",
    "Server",
    "Workload",
    "program_load",
]

Change = Literal["live", "reload", "restart", "fixed"]
"""How a knob is changed: in a running server, by reading files again, by a restart, not at all."""

_CLIENT_S = 120.0
# A start that takes too long is not worth an orderly end: its data folder is thrown away.
_UNREADY_S = 0.2


class ClientFailed(MlsysoptError):
    """A client program or connection reported an error; the reason is its first error line."""


class ClientTimeout(ClientFailed):
    """A client did not end in time."""


class Refused(MlsysoptError):
    """A running server refused a value; the text is what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One setting as the live server describes it, in the server's own units.

    Attributes:
        kind: Type of its value.
        default: What the server uses when nobody sets it.
        low: Smallest value; None where the server does not say.
        high: Largest value; None where the server does not say.
        scale: Bytes per unit for sizes (8192 for a setting in pages of 8 KiB), else 1: a space is in bytes.
        unit: For people: "B" for sizes, "ms", ...
        memory: Whether a size is memory that the server takes, so that the memory budget bounds it; False for
            what goes to disk and for what is only an estimate.
        choices: Of a choice.
        group: Which of the server's groups it belongs to, "" for none: such a knob is tuned only by name.
        change: How it takes effect.
        origin: Who says the bounds: "metadata", or "declared" where they come from a list or a manual page.
        about: One line for people.
    """

    name: str
    kind: Literal["int", "float", "bool", "choice"]
    default: Value
    low: float | None = None
    high: float | None = None
    scale: int = 1
    unit: str = ""
    memory: bool = True
    choices: tuple[str, ...] = ()
    group: str = ""
    change: Change = "restart"
    origin: Literal["metadata", "declared"] = "metadata"
    about: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a running server answers, and the programs that come with it.

    Attributes:
        folder: Its data.
        programs: Name -> path of every program of the server.
        user: Who the server runs as; None means this user.
    """

    host: str
    port: int
    folder: Path
    programs: Mapping[str, Path]
    user: str | None = None

    def run(self, program: str, *arguments: object, timeout_s: float = _CLIENT_S, stdin: str | None = None) -> str:
        """Run a client program of the server to its end and return its standard output.

        Raises:
            ClientFailed: with the first line of its errors.
            ClientTimeout: it was ended at the time-out.
        """
        argv = [self.programs[program], *(str(argument) for argument in arguments)]
        done = run_child(argv, limits=Limits(timeout_s=timeout_s), stdin=stdin)
        if done.timed_out:
            raise ClientTimeout(f"{program} did not end in {timeout_s:.0f} s")
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            telling = next((line for line in lines if "error" in line.lower() or "fatal" in line.lower()), None)
            raise ClientFailed(f"{program}: {(telling or (lines or [f'status {done.returncode}'])[-1]).strip()}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is to run: what `Server.service` needs to start it.

    Attributes:
        folder: Its data folder, a copy of its own.
        programs: Name -> path of every program of the server.
        port: Fixed port, or 0 for a free one.
        user: Run as this user; None means this user.
        limits: What it may use.
    """

    folder: Path
    programs: Mapping[str, Path]
    port: int = 0
    user: str | None = None
    limits: Limits = field(default_factory=Limits)

    def service(
        self,
        argv: Sequence[str | Path],
        *,
        ready: Ready = 0,
        env: Mapping[str, str | None] | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> Service:
        """Return the service of a command line; `{port}` in it is the port that it must listen on.

        Args:
            argv: The program by the name in `programs`, or a path, and its arguments.
            ready: When it is up: 0 means that it accepts connections; a text means that line in its log.
            env: Variables on top of this process's own.
            stop_signal: What asks it to stop quickly and in order.
        """
        first, *rest = argv
        return Service(
            [self.programs.get(str(first), first), *rest],
            ready=self.port if ready == 0 else ready, port=self.port, env=env, user=self.user, limits=self.limits,
            name=Path(first).name, stop_signal=stop_signal, grace_s=10.0, unready_grace_s=_UNREADY_S,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """How a workload is to be run this time.

    Attributes:
        seconds: How long.
        seed: Of everything random in it.
        clients: Connections at the same time.
        folder: For whatever the generator writes; removed afterwards.
        timeout_s: When the generator is ended.
    """

    seconds: float
    seed: int
    clients: int
    folder: Path
    timeout_s: float = _CLIENT_S


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a run of the load found.

    Attributes:
        metrics: Metric -> value, those that the workload declares.
        operations: How many operations were finished.
        errors: How many failed; any makes the trial `degraded`.
        first_error: What the first of them said.
    """

    metrics: Mapping[str, float]
    operations: float
    errors: int = 0
    first_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What loads a server.

    Attributes:
        about: One line for people.
        run: Runs the load and returns what it found; may raise `ClientFailed`.
        metrics: What it reports. The objective gets a twin per CPU second of the server by itself.
        objective: The metric to improve.
        setup: Fills the empty server, once per study.
        seconds: Length of one run.
        warmup_s: Length of the run before it that nobody looks at.
        clients: Connections at the same time.
        writes: Whether it changes the data: every trial then starts from a fresh copy on a real disk.
        guards: Metric -> limit, on by default.
        version: Goes into the fingerprint: results of another version may not be compared.
    """

    about: str
    run: Callable[[Address, Load], Loaded]
    metrics: Mapping[str, Metric]
    objective: str
    setup: Callable[[Address], None] | None = None
    seconds: float = 3.0
    warmup_s: float = 1.0
    clients: int = 4
    writes: bool = False
    guards: Mapping[str, str] = field(default_factory=dict[str, str])
    version: int = 1


def program_load(argv: Sequence[object], parse: Callable[[str, Path], Loaded]) -> Callable[[Address, Load], Loaded]:
    """Return a load that runs a client program.

    Args:
        argv: Program by its name in `Server.programs`, and arguments in which `{host}`, `{port}`, `{seconds}`,
            `{seed}`, `{clients}` and `{folder}` are replaced.
        parse: Makes what was found from standard output and the folder that the program could write to.
    """
    program, *arguments = (str(word) for word in argv)

    def run(address: Address, load: Load) -> Loaded:
        words = {
            "host": address.host, "port": address.port, "seconds": max(1, round(load.seconds)),
            "seed": load.seed, "clients": load.clients, "folder": load.folder,
        }  # fmt: skip
        filled = [argument.format(**words) for argument in arguments]
        return parse(address.run(program, *filled, timeout_s=load.timeout_s), load.folder)

    return run


@runtime_checkable
class Server(Protocol):
    """What one server file defines. Values are in the server's own units.

    Attributes:
        name: What the command line calls it.
        programs: Program -> Debian package that brings it; the first is the server itself.
        groups: Group -> what it is about; knobs of these are tuned when nothing else is asked for.
        fences: Group -> patterns of knobs that are not tuned unless that fence is lifted by name.
        constraints: Expressions that every configuration must meet; `memory` stands for the memory budget.
        workloads: Name -> workload; the first is the default.

    Optional attributes and hooks: `presets` (name -> knobs; the first is tuned when nobody says), `folders`
    (where programs are outside PATH), `hint` (where to get what no package brings), `account` (users to run as
    when root), `marker` (file that shows a data folder of this server), `version_flag`, `infrastructure`
    (patterns of log lines that blame the machine),
    `counted` (counter -> what it counts) with `counters(address)`, `set_live(address, config)` (raises
    `Refused`; may return the values really used), `check(address, loaded) -> str | None`, `export(config) -> lines`.
    """

    name: str
    programs: Mapping[str, str]
    groups: Mapping[str, str]
    fences: Mapping[str, Sequence[str]]
    constraints: Sequence[str]
    workloads: Mapping[str, Workload]

    def prepare(self, place: Place) -> None:
        """Make the data folder of an empty server at `place.folder`; it does not run yet."""
        ...

    def service(self, place: Place, config: Mapping[str, Value]) -> Service:
        """Return the server with these settings, not started; without settings it is the plain default."""
        ...

    def knobs(self, address: Address) -> Sequence[Knob]:
        """List the settings of the live server."""
        ...

    def effective(self, address: Address) -> Mapping[str, Value]:
        """Return the values that the live server uses."""
        ...

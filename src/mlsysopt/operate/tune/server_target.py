"""Any server with knobs as a target: the space comes from the live server, the rest from its file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pwd
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

from mlsysopt.core.errors import InfrastructureError, ProcessError, QuantityError, TargetError, UsageError, near_misses
from mlsysopt.core.places import state_dir
from mlsysopt.core.processes import available_bytes, program, run_child, temporary_folder
from mlsysopt.core.processes.ports import answers
from mlsysopt.core.quantities import format_bytes, parse_quantity
from mlsysopt.core.references import Reference
from mlsysopt.core.space import Space
from mlsysopt.core.target import Config, Limits, Metric, Purpose, Value
from mlsysopt.operate.tune.disks import filesystem_of
from mlsysopt.operate.tune.hooks import Hooked
from mlsysopt.operate.tune.knobs import Catalogue
from mlsysopt.operate.tune.server import Address, ClientFailed, Knob, Place, Server, Workload
from mlsysopt.operate.tune.session import ServerSession

__all__ = ["SCHMIED2021", "ServerTarget", "server_target"]

SCHMIED2021 = Reference(
    "schmied2021",
    "inproceedings",
    "Towards a General Framework for {ML}-based Self-tuning Databases",
    'T. Schmied and D. Didona and A. D{\\"o}ring and T. Parnell and N. Ioannou',
    2021,
    {"booktitle": "EuroMLSys", "doi": "10.1145/3437984.3458830"},
)

# A wait may be given with a unit of its own, whatever the server counts in.
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
# Half of what is free, at most: the machine also runs the load and this program.
_MEMORY_SHARE, _MOST_MEMORY = 0.5, 2 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTarget:
    """One server, one workload, the knobs that are tuned; made by `server_target`.

    Attributes:
        server: The server file.
        version: What the server says of itself.
        catalogue: Everything that the live server listed.
        knobs: What may be chosen.
        workload_name: Name of the workload.
        workload: What loads it.
        programs: Where its programs are.
        memory_bytes: What the server may use.
        directory: Where data folders are made.
        user: Who the server runs as; None means this user.
        port: Fixed port; 0 means a free one.
        fixed: Settings of the default and of every candidate alike, in the server's own units.
        source: Path of a server file that is not installed, "" for an installed one.
    """

    server: Server
    version: str
    catalogue: Catalogue
    knobs: Space
    workload_name: str
    workload: Workload
    programs: Mapping[str, Path]
    memory_bytes: int
    directory: Path
    user: str | None
    port: int = 0
    fixed: Mapping[str, Value] = field(default_factory=dict[str, Value])
    source: str = ""

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def about(self) -> str:
        """Return the workload in one line."""
        return f"workload {self.workload_name}: {self.workload.about}"

    @property
    def references(self) -> Sequence[Reference]:
        return [SCHMIED2021]

    @property
    def objective(self) -> str:
        """The metric to improve when nobody names one."""
        return self.workload.objective

    @property
    def twin(self) -> str:
        """The objective per CPU second of the server."""
        return f"{self.workload.objective}_cpu"

    @property
    def guards(self) -> Mapping[str, str]:
        return {"memory_bytes": f"<= {self.memory_bytes}", **self.workload.guards}

    @property
    def timeout_s(self) -> float:
        """Seconds after which a run has certainly hung, where nobody says less."""
        return 60.0 + 10.0 * (self.workload.seconds + self.workload.warmup_s)

    @property
    def learns_validity(self) -> bool:
        """What does not start can be learned: sessions have `probe`."""
        return True

    def fingerprint(self) -> dict[str, Any]:
        """Return what must agree before two results may be compared."""
        return {
            "version": self.version,
            "workload": self.workload_name,
            "workload_version": self.workload.version,
            "seconds": self.workload.seconds,
            "clients": self.workload.clients,
            "memory_bytes": self.memory_bytes,
            "fixed": dict(sorted(self.fixed.items())),
        }

    def range_key(self) -> str:
        """Return the key of discovered ranges: server, version, memory, and what all other settings are."""
        # What is fenced or fixed tells where this instance runs: its port is another one every time.
        defaults = {
            name: str(knob.default)
            for name, knob in self.catalogue.knobs.items()
            if knob.change != "fixed" and self.catalogue.fence(name) is None
        }
        digest = hashlib.sha256(json.dumps([defaults, dict(self.fixed)], sort_keys=True, default=str).encode())
        return f"{self.name} {self.version} in {format_bytes(self.memory_bytes)} ({digest.hexdigest()[:12]})"

    def space(self) -> Space:
        return self.knobs

    def with_space(self, space: Space) -> Self:
        unknown = [name for name in space.names if name not in self.catalogue.knobs]
        if unknown:
            near = near_misses(unknown[0], self.catalogue.knobs, noun="knob")
            raise UsageError(f"{self.name} has no knob {unknown[0]!r}; {near}")
        return replace(self, knobs=space)

    def metrics(self) -> dict[str, Metric]:
        own = dict(self.workload.metrics)
        goal = own[self.objective]
        own[self.objective] = replace(goal, clock="wall", twin=self.twin)
        own[self.twin] = Metric(f"{goal.unit.removesuffix('/s')}/CPU-s", goal.better, clock="cpu", twin=self.objective,
                                about="operations per CPU second of the server")  # fmt: skip
        own["memory_bytes"] = Metric("B", "lower", about="memory of the server's processes under load")
        counted: Mapping[str, str] = getattr(self.server, "counted", {})
        for name, what in counted.items():
            own[name] = Metric("", "lower", may_be_zero=True, about=f"{what} per operation")
        return own

    def static(self, config: Config) -> dict[str, float]:
        return {}

    def names_in(self, text: str) -> list[str]:
        """Return the knobs of the space that a text names, in the order of the space."""
        spelt = {name: re.escape(name).replace("_", "[_-]") for name in self.knobs.names}
        return [name for name, pattern in spelt.items() if re.search(rf"(?<![\w-]){pattern}(?![\w-])", text)]

    @contextmanager
    def session(self, limits: Limits, *, purpose: Purpose = "search") -> Generator[ServerSession]:
        """Open a session: folders of its own below `directory`, removed at the end with all that runs.

        Raises:
            InfrastructureError: a fixed port that somebody holds, a folder that cannot be made.
        """
        if self.port and answers(self.port):
            raise InfrastructureError(
                f"port {self.port} for {self.name} is held by {_holder(self.port)}: stop it, or leave --port out"
            )
        bounded = replace(limits, memory_bytes=limits.memory_bytes or self.memory_bytes)
        with temporary_folder(f"mlsysopt-{self.name}-", base=self.directory, user=self.user) as folder:
            session = ServerSession(self, bounded, folder)
            try:
                yield session
            finally:
                session.close()

    def export(self, config: Config, path: Path) -> None:
        """Write the settings in the form of the server's own include file.

        Raises:
            InfrastructureError: there is no room or no right to write.
        """
        native = {**self.fixed, **self.catalogue.to_native(config)}
        changed = {
            name: value for name, value in native.items()
            if name in self.fixed or str(value) != str(self.catalogue.knobs[name].default)
        }  # fmt: skip
        own = getattr(self.server, "export", None)
        lines = own(changed) if own is not None else [f"{name} = {value}" for name, value in changed.items()]
        header = [
            f"# {self.name} {self.version}, tuned for the workload {self.workload_name!r}",
            *([] if lines else ["# no setting differs from the default"]),
        ]
        try:
            path.write_text("\n".join([*header, *lines]) + "\n")
        except OSError as error:
            raise InfrastructureError(f"cannot write {path}: {error.strerror or error}") from error


def server_target(
    server: Server,
    *,
    workload: str | None = None,
    knobs: str | Sequence[str] | None = None,
    memory: str | int | None = None,
    directory: str | Path | None = None,
    port: int = 0,
    settings: Mapping[str, Any] | None = None,
    unfence: Sequence[str] = (),
    seconds: float | None = None,
    clients: int | None = None,
    constraints: bool = True,
    allow_tmpfs: bool = False,
    source: str = "",
) -> ServerTarget:
    """Make a target of a server: a scratch instance is started once and asked for its knobs.

    Args:
        server: The server file.
        workload: One of its workloads; None means the first.
        knobs: Groups and names; None means every group of the server.
        memory: What the server may use; None means half of what is free, at most 2 GiB.
        directory: Where data folders are made; None means the user's state folder, or `/var/tmp` where the
            server must run as another user.
        port: Fixed port; 0 means a free one.
        settings: Settings that hold for the default and every candidate alike (`--set`).
        unfence: Fences that are lifted.
        seconds: Length of one run of the load; None means the workload's.
        clients: Connections of the load; None means the workload's.
        constraints: Whether the server file's own constraints hold.
        allow_tmpfs: Let a workload that writes run in memory, where fsync is free.
        source: Path of a server file that is not installed.

    Raises:
        MissingProgram: a program of the server is not installed.
        UsageError: an unknown name, a fenced knob, a directory that is not ours to use.
        TargetError: the default of the server does not start.
    """
    hooked = Hooked(server, source or server.name)
    programs = {
        name: program(name, also=getattr(server, "folders", ()), package=package, hint=getattr(server, "hint", ""))
        for name, package in server.programs.items()
    }
    chosen_name = workload or next(iter(server.workloads))
    if chosen_name not in server.workloads:
        near = near_misses(chosen_name, server.workloads, noun="workload")
        raise UsageError(f"{server.name} has no workload {chosen_name!r}; {near}")
    load = hooked.workload(chosen_name)
    if seconds is not None:
        if seconds <= 0:
            raise UsageError(f"seconds must be positive, got {seconds}")
        load = replace(load, seconds=float(seconds), warmup_s=min(load.warmup_s, float(seconds)))
    if clients is not None:
        load = replace(load, clients=_at_least_one("clients", clients))
    user = _account(server)
    where = Path(directory) if directory is not None else _default_directory(server, user)
    version = _version(programs[next(iter(server.programs))], server)
    _check_directory(where, server, version)
    if load.writes and not allow_tmpfs and filesystem_of(where) == "tmpfs":
        raise UsageError(
            f"workload {chosen_name!r} writes, and {where} is a tmpfs, where fsync costs nothing: give a --directory "
            "on a disk, or allow_tmpfs=True if that is what you run on"
        )
    budget = _memory(memory)
    catalogue = _listed(cast(Server, hooked), programs, where, user, budget)
    fixed = _settings(catalogue, settings or {})
    # What every run has alike is not tuned.
    chosen = [knob for knob in catalogue.chosen(knobs, unfence=unfence) if knob.name not in fixed]
    if not chosen:
        raise UsageError(f"nothing is left to tune: {', '.join(fixed)} of {server.name} is set for every run")
    texts = [re.sub(r"\bmemory\b", str(budget), text) for text in server.constraints] if constraints else []
    return ServerTarget(
        server=cast(Server, hooked), version=version, catalogue=catalogue,
        knobs=catalogue.space(chosen, texts, fixed=fixed),
        workload_name=chosen_name, workload=load, programs=programs, memory_bytes=budget, directory=where,
        user=user, port=port, fixed=fixed, source=source,
    )  # fmt: skip


def _listed(
    server: Server, programs: Mapping[str, Path], directory: Path, user: str | None, memory_bytes: int
) -> Catalogue:
    """Start a scratch instance and ask it for its knobs."""
    with temporary_folder(f"mlsysopt-{server.name}-", base=directory, user=user) as folder:
        place = Place(folder / "scratch", programs, 0, user, Limits(memory_bytes=memory_bytes))
        try:
            server.prepare(place)
            with server.service(place, {}) as service:
                listed = server.knobs(Address(*service.address, place.folder, programs, user))
        except (ProcessError, ClientFailed) as error:
            raise TargetError(f"the default of {server.name} does not start: {error}") from error
    return Catalogue.of(server, listed)


def _settings(catalogue: Catalogue, given: Mapping[str, Any]) -> dict[str, Value]:
    """Read `--set` values into the server's own units.

    Raises:
        UsageError: an unknown knob, or a value that it cannot have.
    """
    found: dict[str, Value] = {}
    for name, text in given.items():
        knob = catalogue.knobs.get(name)
        if knob is None:
            near = near_misses(name, catalogue.knobs, noun="knob")
            raise UsageError(f"{catalogue.server} has no knob {name!r}; {near}")
        if knob.change == "fixed":
            raise UsageError(f"knob {name!r} of {catalogue.server} cannot be set: it is fixed when the server is built")
        if knob.kind == "bool":
            words = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
            if str(text).lower() not in words:
                raise UsageError(f"{name}={text}: on or off is needed")
            found[name] = words[str(text).lower()]
        elif knob.kind == "choice":
            if str(text) not in knob.choices:
                raise UsageError(f"{name}={text}: {near_misses(str(text), knob.choices, noun='value')}")
            found[name] = str(text)
        else:
            found[name] = _number_of(knob, text, catalogue.server)
    return found


def _number_of(knob: Knob, text: Any, server: str) -> Value:
    try:
        number = float(parse_quantity(text))
    except QuantityError as error:
        raise UsageError(f"{knob.name}={text}: {error}") from None
    if knob.unit in _SECONDS and str(text).strip()[-1:].isalpha():
        number /= _SECONDS[knob.unit]
    native = number / knob.scale if number > 0 else number
    low, high = (-math.inf if knob.low is None else knob.low), (math.inf if knob.high is None else knob.high)
    # Less than a page is not none at all, which mostly means something else.
    nothing = knob.kind == "int" and 0 < native < 0.5
    if (nothing or not low <= native <= high) and native != knob.default:
        ends = [format_bytes(end * knob.scale) if knob.unit == "B" else f"{end:g}" for end in (low, high)]
        raise UsageError(
            f"{knob.name}={text}: {server} takes {' to '.join(ends)} {knob.unit.replace('B', '')}".rstrip()
        )
    return round(native) if knob.kind == "int" else native


def _account(server: Server) -> str | None:
    """Return the unprivileged user that a server must run as, None where this user will do."""
    wanted: Sequence[str] = getattr(server, "account", ())
    if os.geteuid() != 0 or not wanted:
        return None
    for name in wanted:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise UsageError(f"{server.name} refuses to run as root, and none of the users {', '.join(wanted)} exists here")


def _default_directory(server: Server, user: str | None) -> Path:
    return state_dir() / server.name if user is None else Path("/var/tmp")


def _check_directory(directory: Path, server: Server, version: str) -> None:
    marker: str | None = getattr(server, "marker", None)
    if marker is None or not (directory / marker).is_file():
        return
    found = (directory / marker).read_text(errors="replace").strip()[:40]
    raise UsageError(
        f"{directory} is a data directory of {server.name} {found} (the installed one is {version}), and not ours: "
        "nothing in it was started or changed; give an empty directory"
    )


def _version(path: Path, server: Server) -> str:
    flag = getattr(server, "version_flag", "--version")
    done = run_child([path, flag], limits=Limits(timeout_s=20))
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    if found is None:
        raise TargetError(f"{path} {flag} tells no version: {(done.stdout + done.stderr).strip()[:80]!r}")
    return found.group()


def _memory(given: str | int | None) -> int:
    if given is None:
        free = available_bytes()
        return _MOST_MEMORY if free is None else min(_MOST_MEMORY, math.floor(_MEMORY_SHARE * free))
    amount = int(parse_quantity(given, kind="bytes"))
    if amount < 32 * 2**20:
        raise UsageError(f"memory {given}: a server needs at least 32 MiB")
    return amount


def _at_least_one(what: str, given: int) -> int:
    if given < 1:
        raise UsageError(f"{what} must be at least 1, got {given}")
    return given


def _holder(port: int) -> str:
    """Return who listens on a port, for messages."""
    import psutil

    try:
        for one in psutil.net_connections(kind="tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                return f"process {one.pid} ({psutil.Process(one.pid).name()})"
    except psutil.Error:
        pass
    return "another process"

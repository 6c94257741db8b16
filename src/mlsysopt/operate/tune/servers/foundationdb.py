"""FoundationDB on one process, against its documented interfaces; never run against a live cluster by this project.

No command lists the knobs of FoundationDB (apple/foundationdb #554), and they carry no contract (#2402): names and
defaults come from a file that MLSYSOPT_FDB_KNOBS names, TOML or JSON, or from a short list of 7.1 below. A wrong name
or value is only a warning, and the default runs (#7187, #8194): here that warning is a refusal.

    [storage_commit_interval]                     # MLSYSOPT_FDB_KNOBS, one table for each knob
    type = "float"                                # int, float or bool
    default = 0.5
    low = 0.01                                    # left out: searched from the default outwards
    group = "storage"                             # left out: tuned only when it is named

The packages have no load generator. MLSYSOPT_FDB_LOAD is the command that loads the cluster, MLSYSOPT_FDB_FILL the one
that fills it; `{cluster}`, `{seconds}`, `{clients}` and `{seed}` are replaced. Without them it is mako, which comes
with the sources. What is measured is the cluster's own counter of committed transactions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from mlsysopt.core.errors import ProcessError
from mlsysopt.core.processes import Service
from mlsysopt.core.target import Value
from mlsysopt.operate.tune.server import Address, ClientFailed, Knob, Place, Workload
from mlsysopt.operate.tune.servers import fdb

_IGNORED = re.compile(r"(WARNING: (Unrecognized knob|Invalid value)|ERROR: Failed to set knob).*")
_CREATION_S = 60.0


class FoundationDB:
    """The server file of FoundationDB 6.3 and later."""

    name = "foundationdb"
    programs: ClassVar = dict.fromkeys(("fdbserver", "fdbcli"), "")  # Debian has no package of it
    hint = "get server and clients from github.com/apple/foundationdb/releases"
    folders = ("/usr/sbin", "/usr/local/sbin", "/usr/local/libexec")
    groups: ClassVar = {"storage": "storage servers and their cache", "log": "transaction logs", "proxy": "batches"}
    fences: ClassVar = {
        "durability": ["*fsync*", "*disable_sync*", "*quorum*", "*replica*"],
        "meaning": ["*versions*", "*_transaction_life_*", "*timeout*", "*causal*", "*size_limit*"],
        "security": ["*encrypt*", "*tls*", "*auth*", "allow_*"],
        "developer": ["buggif*", "sim_*", "*trace*", "*logging*", "*sample_rate*"],
    }  # fmt: skip
    constraints = ()

    @property
    def workloads(self) -> Mapping[str, Workload]:
        return fdb.workloads()

    def prepare(self, place: Place) -> None:
        place.folder.mkdir(parents=True)
        (place.folder / "fdb.cluster.template").write_text("mlsysopt:scratch@127.0.0.1:$port\n")
        with self._service(place, {}, ready=0) as service:
            address = Address(*service.address, place.folder, place.programs, place.user)
            fdb.cli(address, "configure new single ssd")
            deadline = time.monotonic() + _CREATION_S
            while not fdb.is_available(fdb.status(address)):
                if time.monotonic() > deadline:
                    raise ClientFailed(f"fdbcli: the new database is not available after {_CREATION_S:.0f} s")
                time.sleep(0.1)

    def service(self, place: Place, config: Mapping[str, Value]) -> Service:
        def up(service: Service) -> bool:
            address = Address(*service.address, place.folder, place.programs, place.user)
            try:
                available = fdb.is_available(fdb.status(address))
            except ClientFailed:
                available = False
            # Looked at last: the warnings stand in the log before the cluster can be available.
            ignored = _IGNORED.search(service.log_tail(200))
            if ignored is not None:
                raise ProcessError(f"{ignored.group()}: FoundationDB would run with its default")
            return available

        return self._service(place, config, ready=up)

    def _service(self, place: Place, config: Mapping[str, Value], *, ready: Any) -> Service:
        argv = [place.programs["fdbserver"], "-p", "127.0.0.1:{port}", "-C", "{folder}/fdb.cluster", "-L", "{folder}",
                "-d", place.folder, *self.export(config)]  # fmt: skip
        return Service(argv, ready=ready, port=place.port, user=place.user, limits=place.limits, name="fdbserver",
                       grace_s=10.0, files={place.folder / "fdb.cluster.template": {}})  # fmt: skip

    def knobs(self, address: Address) -> list[Knob]:
        return [
            Knob(name=name, kind=told["type"], default=told["default"], low=told.get("low"), high=told.get("high"),
                 group=told.get("group", ""), origin="declared", about=told.get("about", ""))
            for name, told in fdb.listed().items()
        ]  # fmt: skip

    def effective(self, address: Address) -> dict[str, Value]:
        """Return the defaults, and what the processes say that they were started with."""
        used: dict[str, Value] = {name: told["default"] for name, told in fdb.listed().items()}
        for process in fdb.status(address)["cluster"]["processes"].values():
            for name, text in re.findall(r"--knob_(\w+)[= ](\S+)", process.get("command_line", "")):
                if name in used:
                    used[name] = text == "true" if isinstance(used[name], bool) else type(used[name])(text)
        return used

    def export(self, config: Mapping[str, Value]) -> list[str]:
        return [f"--knob_{name}={str(value).lower()}" for name, value in config.items()]


server = FoundationDB()

"""The data folders of one session: an empty server, a filled one, and copies of them to run on."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlsysopt.core.errors import InfrastructureError, ProcessError, TargetError
from mlsysopt.core.processes import Service, run_child
from mlsysopt.core.quantities import format_bytes
from mlsysopt.core.target import Limits
from mlsysopt.operate.tune.copies import restore
from mlsysopt.operate.tune.server import Address, ClientFailed, Place

if TYPE_CHECKING:
    from mlsysopt.operate.tune.server_target import ServerTarget

__all__ = ["DataFolders"]

_TIMED = 2
"""Starts that are timed: time-outs are multiples of the slower one."""
_ROOM = 1.5
"""Bytes that must be free for a trial, in copies of the data."""


class DataFolders:
    """Made when they are first needed; nothing runs on the empty and the filled one once they are ready.

    Args:
        target: Whose data it is.
        limits: What the server may use.
        root: Where they lie.
    """

    def __init__(self, target: ServerTarget, limits: Limits, root: Path) -> None:
        self._target, self._limits, self.root = target, limits, root
        self._start_s = 0.0
        self._bare: Path | None = None
        self._golden: Path | None = None
        self._golden_bytes = 0

    @property
    def start_s(self) -> float:
        """Seconds that the default takes to start, from the first time on."""
        self.empty()
        return self._start_s

    def empty(self) -> Path:
        """Return the data folder of an empty server; the default is started on it once, to time it."""
        if self._bare is None:
            place = self.place(self.clear("empty"))
            try:
                self._target.server.prepare(place)
                with self._target.server.service(place, self._target.fixed) as service:
                    # The first start of a folder does more than every later one.
                    self._target.server.effective(self.address(place, service))
                for _ in range(_TIMED):
                    began = time.monotonic()
                    with self._target.server.service(place, self._target.fixed):
                        self._start_s = max(self._start_s, time.monotonic() - began)
            except (ProcessError, ClientFailed) as error:
                raise TargetError(f"the default of {self._target.name} does not start: {error}") from error
            self._bare = place.folder
        return self._bare

    def filled(self) -> Path:
        """Return the data folder that every trial starts from: filled, stopped, never used itself."""
        if self._golden is None:
            empty, setup = self.empty(), self._target.workload.setup
            if setup is None:
                self._golden = empty
            else:
                place = self.place(self.copy(empty, "golden"))
                try:
                    with self._target.server.service(place, self._target.fixed) as service:
                        setup(self.address(place, service))
                    began = time.monotonic()
                    with self._target.server.service(place, self._target.fixed):
                        # Some servers read all their data before they are ready.
                        self._start_s = max(self._start_s, time.monotonic() - began)
                except (ProcessError, ClientFailed) as error:
                    raise TargetError(f"{self._target.name} could not be filled for the workload: {error}") from error
                self._golden = place.folder
            self._golden_bytes = sum(path.stat().st_size for path in self._golden.rglob("*") if path.is_file())
        return self._golden

    def clear(self, name: str) -> Path:
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def copy(self, source: Path, name: str) -> Path:
        """Copy a data folder: by reference where the file system can, with owners and modes."""
        folder = self.clear(name)
        done = run_child(["cp", "-a", "--reflink=auto", source, folder], limits=Limits(timeout_s=600))
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise InfrastructureError(
                f"the data could not be copied: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
            )
        return folder

    def probe(self) -> Path:
        """Return a copy of the empty folder to start on."""
        return self._restored(self.empty(), "probe")

    def _restored(self, source: Path, name: str) -> Path:
        """Return a copy of a folder: the last one, with what has changed in it put right."""
        folder = self.root / name
        if not folder.is_dir():
            return self.copy(source, name)
        restore(source, folder)
        return folder

    def place(self, folder: Path) -> Place:
        return Place(folder, self._target.programs, self._target.port, self._target.user, self._limits)

    def address(self, place: Place, service: Service) -> Address:
        return Address(*service.address, place.folder, place.programs, place.user)

    def trial(self) -> Path:
        """Return a copy of the filled folder to run on, with nothing left of earlier runs.

        Raises:
            InfrastructureError: there is no room for it.
        """
        golden = self.filled()
        free = shutil.disk_usage(self.root).free
        if free < _ROOM * self._golden_bytes:
            raise InfrastructureError(
                f"{self.root} is too small: {format_bytes(free)} free, "
                f"{format_bytes(_ROOM * self._golden_bytes)} needed for a copy of the data; give another --directory"
            )
        return self._restored(golden, "trial")

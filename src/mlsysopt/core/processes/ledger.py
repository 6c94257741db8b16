"""What this process has started and made, on disk, so that the next start can clean up after a kill -9.

Each process has one small file of its own and replaces it as a whole: there is nothing to lock
between processes. Every child also carries the ledger's token in its environment, which finds
grandchildren, and children that were started but not yet written down.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsysopt.core.places import artefact_header, state_dir
from mlsysopt.core.processes.identity import this_process
from mlsysopt.core.processes.strays import end_all
from mlsysopt.core.processes.trees import remove_tree

__all__ = ["FORMAT", "VERSION", "Entry", "Ledger", "current_ledger", "ledger_folder"]

log = logging.getLogger("mlsysopt.processes")

FORMAT, VERSION = "ledger", 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a ledger; closed when what it names is gone."""

    ledger: Ledger
    key: int

    def close(self) -> None:
        """Strike the line out; twice is once."""
        self.ledger.remove(self.key)


class Ledger:
    """The file of one owner process.

    Attributes:
        owner: The process.
        token: Random word that every child of this process carries in its environment.
        path: The file.
    """

    def __init__(self, folder: Path) -> None:
        self.owner = this_process()
        self.token = secrets.token_hex(12)
        self.path = folder / f"{self.owner.stem}.json"
        self._lines: dict[int, dict[str, Any]] = {}
        self._next = 0
        self._written = self._warned = self._spawned = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Write the file if it is not there yet: the token must be on disk before a child carries it."""
        with self._lock:
            self._spawned = True
            if not self._written:
                self._write()

    def add_child(self, pid: int, ticks: int, name: str) -> Entry:
        """Write down a running child."""
        return self._add({"kind": "child", "pid": pid, "ticks": ticks, "name": name})

    def add_folder(self, path: Path, uid: int) -> Entry:
        """Write down a folder that is about to be made, and whose it will be."""
        return self._add({"kind": "folder", "path": str(path), "uid": uid})

    def remove(self, key: int) -> None:
        """Strike out one line."""
        with self._lock:
            if self._lines.pop(key, None) is not None:
                self._write()

    def close(self) -> None:
        """End what is still running, remove what is still there, and the file."""
        if os.getpid() != self.owner.pid:
            return
        with self._lock:
            lines, self._lines = list(self._lines.values()), {}
        children = [(line["pid"], line["ticks"]) for line in lines if line["kind"] == "child"]
        # Without any child there is no reason to look through the process list.
        if self._spawned:
            end_all(children, self.token)
        for line in lines:
            if line["kind"] == "folder":
                remove_tree(Path(line["path"]))
        with suppress(OSError):
            self.path.unlink()

    def _add(self, line: dict[str, Any]) -> Entry:
        with self._lock:
            key, self._next = self._next, self._next + 1
            self._lines[key] = line
            self._write()
        return Entry(self, key)

    def _write(self) -> None:
        content = {
            **artefact_header(FORMAT, VERSION),
            "owner": self.owner.to_json(),
            "token": self.token,
            "lines": list(self._lines.values()),
        }
        draft = self.path.with_suffix(".tmp")
        try:
            try:
                draft.write_text(json.dumps(content))
            except FileNotFoundError:
                draft.parent.mkdir(parents=True, exist_ok=True)
                draft.write_text(json.dumps(content))
            os.replace(draft, self.path)
            self._written = True
        except OSError as error:
            # Children still die with this process; only its folders would stay behind a kill -9.
            if not self._warned:
                log.warning("cannot write the ledger %s: %s", self.path, error.strerror or error)
            self._warned = True
            with suppress(OSError):
                draft.unlink()


_ledgers: dict[tuple[int, Path], Ledger] = {}
_guard = threading.Lock()


def ledger_folder() -> Path:
    """Return where the ledgers of this user lie."""
    return state_dir() / "ledger"


def current_ledger() -> Ledger:
    """Return this process's ledger; a forked process gets one of its own."""
    key = (os.getpid(), ledger_folder())
    with _guard:
        if key not in _ledgers:
            _ledgers[key] = Ledger(key[1])
            atexit.register(_ledgers[key].close)
        return _ledgers[key]


def _after_fork() -> None:
    # A thread of the parent may have held the lock; the child has no such thread.
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)

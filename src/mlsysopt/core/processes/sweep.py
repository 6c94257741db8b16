"""Cleaning up after runs that were killed: only what their ledgers name, and only when they are dead."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import ArtefactError
from mlsysopt.core.places import read_header
from mlsysopt.core.processes.identity import Owner, this_process
from mlsysopt.core.processes.ledger import FORMAT, VERSION, ledger_folder
from mlsysopt.core.processes.segments import remove_segments, started_at
from mlsysopt.core.processes.strays import end_all
from mlsysopt.core.processes.trees import remove_tree

__all__ = ["sweep_orphans"]

log = logging.getLogger("mlsysopt.processes")

# How the name of every folder of `temporary_folder` ends.
_OURS = re.compile(r"[0-9a-f]{12}$")


def sweep_orphans() -> list[str]:
    """End the processes and remove the folders that dead runs of this user left behind.

    A ledger is touched only when its owner is certainly dead. A process is ended only when number
    and start time match its line, or when it carries that ledger's token. After a restart of the
    machine only folders are left to remove. Ledgers of other machines and containers stay.

    Returns:
        What was swept, one line each; empty when there was nothing.
    """
    here = this_process()
    swept: list[str] = []
    folder = ledger_folder()
    drafts = sorted(folder.glob("*.tmp")) if folder.is_dir() else []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        with _alone(path) as mine:
            if mine:
                swept += _sweep(path, here)
    for draft in drafts:
        # A whole file stands beside the draft for as long as its owner lives.
        if not draft.with_suffix(".json").exists():
            with suppress(OSError):
                draft.unlink()
    return swept


def _sweep(path: Path, here: Owner) -> list[str]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        read_header(content, FORMAT, VERSION)
        owner, token = Owner.from_json(content["owner"]), str(content["token"])
        lines: list[dict[str, Any]] = list(content["lines"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, ArtefactError) as error:
        # Written by a newer package, or cut off by a crash of the machine: not ours to judge.
        log.info("left the ledger %s alone: %s", path, error)
        return []
    if not here.is_dead(owner):
        return []
    swept: list[str] = []
    if here.sees(owner):
        known = [(int(line["pid"]), int(line["ticks"])) for line in lines if line.get("kind") == "child"]
        swept += [f"process {stray.pid} ({stray.name})" for stray in end_all(known, token)]
        if known:
            since = min(started_at(ticks) for _, ticks in known)
            gone = remove_segments([pid for pid, _ in known], since=since)
            swept += [f"shared memory segment {one.id} of process {one.maker}" for one in gone]
    swept += [
        f"folder {line['path']}" for line in lines if line.get("kind") == "folder" and _remove(Path(line["path"]), line)
    ]
    with suppress(OSError):
        path.unlink()
    for what in swept:
        log.info("swept what process %d left behind: %s", owner.pid, what)
    return swept


def _remove(folder: Path, line: dict[str, Any]) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    # Never follow a link, never remove what somebody else has put there since or what we do not name so.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.getuid(), line.get("uid")):
        return False
    return _OURS.search(folder.name) is not None and remove_tree(folder)


@contextmanager
def _alone(path: Path) -> Generator[bool]:
    """Yield whether this process, among several that sweep at once, has the file to itself."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)

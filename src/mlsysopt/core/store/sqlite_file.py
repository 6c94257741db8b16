"""A store in a SQLite file: whose file it is, how it is created, connected to and copied.

Nothing is written before it is known that the file is ours, an Optuna store, or empty. The first
look opens the file as immutable: without locks, and without the side files that even a reader of
a write-ahead-log database leaves behind. A plain `open` of the file is never used: closing it would
drop the locks that another connection of this process holds on it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from mlsysopt.core.errors import StoreError, StoreUnavailable
from mlsysopt.core.store import schema

__all__ = ["BUSY_S", "OPEN_S", "State", "connect", "connect_read_only", "copy_aside", "create", "inspect"]

BUSY_S = 60.0
"""Longest wait for another process's write; every write of ours takes milliseconds."""
OPEN_S = 5.0
"""Longest wait when a store is opened, where a person sits before it."""

State = Literal["missing", "empty", "ours", "optuna"]

_SHARED_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "gpfs", "ceph", "afs"}
"""A write-ahead log needs memory that all readers share, which other machines do not."""


def inspect(path: Path, *, create: bool, read_only: bool) -> tuple[State, int | None]:
    """Say what a file holds, and the version of our tables in it; write nothing.

    Raises:
        StoreError: a directory, not a database, another program's database, or absent while it
            may not be created.
        StoreUnavailable: it cannot be read or, unless `read_only`, not be written.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise StoreUnavailable(f"store {path} cannot be read: {error.strerror}") from None
    if found is None:
        return _absent(path, create=create and not read_only), None
    if path.is_dir():
        raise StoreError(f"store {path} is a directory; name a file in it, for example {path / 'tune.db'}")
    if not path.is_file():
        raise StoreError(f"store {path} is not a regular file; name another one")
    if not read_only:
        _check_writable(path)
    if found.st_size == 0:
        return "empty", None
    tables = _tables(path)
    owner = schema.whose(tables)
    if owner == "foreign":
        shown = ", ".join(sorted(tables)[:4]) + (", ..." if len(tables) > 4 else "")
        raise StoreError(f"store {path} is another program's database (tables {shown}); name another file")
    if owner == "nobody":
        return "empty", None
    return owner, _version(path) if owner == "ours" else None


def _absent(path: Path, *, create: bool) -> State:
    if not create:
        raise StoreError(f"store {path} does not exist; check the path, or start a study there first")
    if not path.parent.is_dir():
        raise StoreError(f"store {path}: there is no directory {path.parent}; create it first: mkdir -p {path.parent}")
    if not _may_write(path.parent):
        raise StoreUnavailable(f"store {path} cannot be created: directory {path.parent} is read-only")
    return "missing"


def _check_writable(path: Path) -> None:
    if not _may_write(path):
        raise StoreUnavailable(f"store {path} cannot be written: the file is read-only")
    if not _may_write(path.parent):
        raise StoreUnavailable(f"store {path} cannot be written: directory {path.parent} is read-only")


def _may_write(path: Path) -> bool:
    wanted = os.W_OK | os.X_OK if path.is_dir() else os.R_OK | os.W_OK
    return os.access(path, wanted, effective_ids=os.access in os.supports_effective_ids)


def _tables(path: Path) -> set[str]:
    with closing(connect_read_only(path)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return {name for (name,) in rows}


def _version(path: Path) -> int | None:
    with closing(connect_read_only(path)) as connection:
        return connection.execute("SELECT max(version) FROM mlsysopt_schema").fetchone()[0]


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Connect for reading; a file that nobody has open is read without touching anything.

    Raises:
        StoreUnavailable: another program keeps it locked.
    """
    absolute = quote(str(path.absolute()))
    logged = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    mode = "mode=ro" if logged else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{absolute}?{mode}", uri=True, timeout=OPEN_S, check_same_thread=False)


def connect(path: Path, *, exclusive: bool = False) -> sqlite3.Connection:
    """Connect for writing, with a write-ahead log where the file system can carry one."""
    connection = sqlite3.connect(path, timeout=OPEN_S, check_same_thread=False)
    try:
        if exclusive:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        log = "DELETE" if file_system(path) in _SHARED_FILE_SYSTEMS else "WAL"
        (mode,) = connection.execute(f"PRAGMA journal_mode = {log}").fetchone()
        if mode == "wal":
            # Survives a killed process; only a power cut may lose the last transactions, never more.
            connection.execute("PRAGMA synchronous = NORMAL")
        if exclusive:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(path: Path, script: Iterable[str]) -> None:
    """Fill an empty database in one transaction; whoever comes second finds it filled.

    Args:
        script: SQL statements, without BEGIN and COMMIT.
    """
    with closing(connect(path)) as connection:
        connection.isolation_level = None
        connection.execute("BEGIN EXCLUSIVE")
        try:
            if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                for statement in script:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise


def copy_aside(path: Path, version: int) -> Path:
    """Copy a store before its schema moves on; return `tune.db.bak-v1`, numbered when taken."""
    target = path.with_name(f"{path.name}.bak-v{version}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.bak-v{version}.{number}")
    with closing(connect_read_only(path)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return target


def file_system(path: Path) -> str:
    """Return the type of the file system that holds a path, "" where the system does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    where = str(path.absolute().parent.resolve())
    best, kind = "", ""
    for line in lines:
        fields = line.split()
        point = fields[4].encode().decode("unicode_escape")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[fields.index("-") + 1]
    return kind

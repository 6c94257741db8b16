"""One open database: an engine, a lock, and transactions whose errors are ours."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from mlsysopt.core.errors import StoreError
from mlsysopt.core.store import schema, sqlite_file
from mlsysopt.core.store.address import Address
from mlsysopt.core.store.faults import guarded

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

__all__ = ["Database"]

_INIT_LOCK = 0x6D6C7379_736F7074
"""Number of the PostgreSQL advisory lock under which tables are created: "mlsysopt"."""


class Database:
    """An open database with Optuna's tables and ours.

    SQLite gets one connection for all threads, under one lock: threads of a process then never wait
    for each other's write locks, and its change counter speaks of other processes only.
    """

    def __init__(self, address: Address, engine: sa.Engine, rdb: RDBStorage | None, *, read_only: bool = False) -> None:
        self.address = address
        self.engine = engine
        self.read_only = read_only
        self.lock = threading.RLock()
        self._rdb = rdb
        self._pid = os.getpid()
        # A store that was forgotten, not closed, must not leave its connections to the collector.
        self._dispose = weakref.finalize(self, engine.dispose)

    @classmethod
    def open(cls, address: Address, *, create: bool = True, read_only: bool = False, exclusive: bool = False) -> Self:
        """Open a database, create what is missing, move an older schema forward.

        Raises:
            StoreError: it does not fit (not a database, another program's, newer).
            StoreUnavailable: it cannot be used now (locked, read-only, out of reach).
        """
        with guarded(address):
            if address.kind == "memory":
                engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args=_SHARED)
                with engine.begin() as connection:
                    schema.create(connection)
                return cls(address, engine, None)
            if address.path is not None:
                return cls._open_file(address, address.path, create, read_only, exclusive)
            return cls._open_server(address, read_only)

    @classmethod
    def _open_file(cls, address: Address, path: Path, create: bool, read_only: bool, exclusive: bool) -> Self:
        state, version = sqlite_file.inspect(path, create=create, read_only=read_only)
        _check_version(address, version)
        if read_only and state != "ours":
            raise StoreError(f"store {path} holds no study of this program; name another file")
        if state in ("missing", "empty"):
            sqlite_file.create(path, _fresh_script())
        connecting = (
            partial(sqlite_file.connect_read_only, path)
            if read_only
            else partial(sqlite_file.connect, path, exclusive=exclusive)
        )
        rdb = _rdb("sqlite://", {"creator": connecting, "poolclass": sa.StaticPool}, address)
        database = cls(address, rdb.engine, rdb, read_only=read_only)
        if not read_only:
            database._move_forward(path)
        return database

    @classmethod
    def _open_server(cls, address: Address, read_only: bool) -> Self:
        assert address.url is not None
        # One time zone for all, since a heartbeat is written without one; a silent server must not
        # hold a worker for ever.
        settings = "-c timezone=UTC" + (" -c default_transaction_read_only=on" if read_only else "")
        given = address.url.query.get("options")
        options = f"{given} {settings}" if isinstance(given, str) else settings
        arguments: dict[str, Any] = {"connect_timeout": 10, "options": options}
        engine_arguments = {"pool_pre_ping": True, "connect_args": arguments}
        url = address.url.difference_update_query(["options"]).render_as_string(hide_password=False)
        if read_only:
            engine = sa.create_engine(url, **engine_arguments)
            with engine.connect() as connection:
                owner = schema.whose(sa.inspect(connection).get_table_names())
                if owner == "ours":
                    _check_version(address, schema.stored_version(connection))
            engine.dispose()
            if owner != "ours":
                raise StoreError(f"store {address.shown} holds no study of this program; name another database")
            rdb = _rdb(url, engine_arguments, address)
            return cls(address, rdb.engine, rdb, read_only=True)
        engine = sa.create_engine(url, **engine_arguments)
        try:
            with engine.connect() as holder:
                holder.execute(sa.select(sa.func.pg_advisory_lock(_INIT_LOCK)))
                tables = sa.inspect(holder).get_table_names()
                if schema.whose(tables) == "foreign":
                    shown = ", ".join(sorted(tables)[:4]) + (", ..." if len(tables) > 4 else "")
                    raise StoreError(
                        f"store {address.shown} is another program's database (tables {shown})\n"
                        "name an empty one: createdb NAME"
                    )
                if schema.schema.name in tables:
                    _check_version(address, schema.stored_version(holder))
                rdb = _rdb(url, engine_arguments, address, tables=schema.whose(tables) != "nobody")
                database = cls(address, rdb.engine, rdb)
                database._move_forward(None)
        finally:
            engine.dispose()
        return database

    def _move_forward(self, path: Path | None) -> None:
        with self.write() as connection:
            tables = sa.inspect(connection).get_table_names()
            if schema.schema.name not in tables:
                schema.create(connection)
            version = schema.stored_version(connection)
        assert version is not None
        if version >= schema.VERSION:
            return
        if path is not None:
            sqlite_file.copy_aside(path, version)
        with self.write() as connection:
            # Asked again inside the transaction: another process may have moved it meanwhile.
            version = schema.stored_version(connection) or schema.VERSION
            for step in range(version, schema.VERSION):
                schema.MIGRATIONS[step](connection)
            connection.execute(schema.schema.update().values(version=schema.VERSION))

    @property
    def rdb(self) -> RDBStorage:
        """Optuna's own storage on the same engine."""
        assert self._rdb is not None, "a store in memory keeps its trials in Optuna's memory storage"
        return self._rdb

    @contextmanager
    def guard(self) -> Generator[None]:
        """Hold the lock; errors of the database become ours."""
        if os.getpid() != self._pid:
            raise StoreError(
                f"store {self.address.shown} was opened before this process was forked; open it again in the child"
            )
        with self.lock, guarded(self.address):
            yield

    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        """Give one transaction that may write."""
        with self.guard(), self.engine.begin() as connection:
            if self.read_only:
                raise StoreError(f"store {self.address.shown} was opened for reading only")
            if connection.dialect.name == "sqlite":
                # A transaction that reads first may be refused when it comes to write.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """Give a connection for reading."""
        with self.guard(), self.engine.connect() as connection:
            yield connection

    def version(self) -> int | None:
        """Return a number that changes when another process has written; None when there is none."""
        if self.engine.dialect.name != "sqlite":
            return None
        with self.read() as connection:
            return connection.exec_driver_sql("PRAGMA data_version").scalar()

    def close(self) -> None:
        """Close every connection."""
        with self.lock:
            if self._rdb is not None:
                self._rdb.remove_session()
            self._dispose()


_SHARED = {"check_same_thread": False}


def _rdb(url: str, engine_arguments: dict[str, Any], address: Address, *, tables: bool = True) -> RDBStorage:
    from optuna.storages import RDBStorage

    # Optuna fills {SCHEMA_VERSION} into URLs; a brace in a password is not meant.
    plain = url.replace("{", "{{").replace("}", "}}")
    try:
        return RDBStorage(plain, engine_kwargs=engine_arguments, skip_table_creation=tables)
    except RuntimeError as error:
        raise StoreError(f"store {address.shown} was made by another version of Optuna: {error}") from None


@cache
def _fresh_script() -> tuple[str, ...]:
    """Return the statements that make an empty database a store, from one made in memory."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    rdb = _rdb("sqlite://", {"poolclass": sa.StaticPool, "creator": lambda: memory}, Address.parse(None), tables=False)
    with rdb.engine.begin() as connection:
        schema.create(connection)
    rdb.remove_session()
    script = tuple(line for line in memory.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;"))
    rdb.engine.dispose()
    return script


def _check_version(address: Address, version: int | None) -> None:
    if version is not None and version > schema.VERSION:
        raise StoreError(
            f"store {address.shown} has schema {version}; this version of mlsysopt reads up to {schema.VERSION}: "
            "pip install -U mlsysopt"
        )

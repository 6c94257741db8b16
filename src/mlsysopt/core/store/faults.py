"""What a database says when it fails, in one line of ours and without its password."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from mlsysopt.core.errors import MlsysoptError, StoreError, StoreUnavailable
from mlsysopt.core.store.address import Address

__all__ = ["guarded", "translate"]


@contextmanager
def guarded(address: Address) -> Generator[None]:
    """Turn errors of the database into `StoreError` and `StoreUnavailable`.

    The original is cut off (`from None`): drivers quote statements and connection strings.
    """
    try:
        yield
    except Exception as error:
        ours = translate(error, address)
        if ours is None:
            raise
        raise ours from None


def translate(error: BaseException, address: Address) -> MlsysoptError | None:
    """Return what a database error means for the user, None for an error of another kind."""
    from optuna.exceptions import StorageInternalError

    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, sqlite3.Error):
        return _sqlite(error, address.shown)
    if isinstance(error, SQLAlchemyError) or type(error).__module__.partition(".")[0] == "psycopg":
        return _server(error, address)
    return None


def _sqlite(error: sqlite3.Error, shown: str) -> MlsysoptError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreUnavailable(
            f"store {shown} is locked by another program: let it finish or close it, then try again"
        )
    if "readonly" in text or "read-only" in text or "unable to open" in text:
        return StoreUnavailable(f"store {shown} cannot be written: file or directory is read-only ({text})")
    if "full" in text:
        return StoreUnavailable(f"store {shown} cannot be written: the disk is full; make room and run again")
    if "not a database" in text:
        return StoreError(f"store {shown} is not a SQLite database; name another file")
    if "malformed" in text or "no such" in text:
        return StoreError(f"store {shown} is damaged ({text}): restore a copy or name another file")
    return StoreUnavailable(f"store {shown} cannot be used: {text}")


def _server(error: BaseException, address: Address) -> MlsysoptError:
    lines = [line.strip() for line in address.without_password(str(error)).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if isinstance(error, NoSuchModuleError | ArgumentError):
        return StoreError(f"store {address.shown}: {said}")
    return StoreUnavailable(f"store {address.shown} cannot be used: {said[:300]}")

"""Where a store lives: a SQLite file, a PostgreSQL database, or memory. Passwords are never shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from mlsysopt.core.errors import MissingExtra, StoreError, near_misses

__all__ = ["Address"]

_SCHEMES = {"sqlite": "sqlite", "postgresql": "postgresql", "postgres": "postgresql"}


@dataclass(frozen=True, slots=True)
class Address:
    """One place for a store.

    Attributes:
        kind: Which database.
        shown: URL for people, the password replaced by `***`.
        path: File of a SQLite store.
        url: URL for the driver, password included; not part of the representation.
    """

    kind: Literal["memory", "sqlite", "postgresql"]
    shown: str
    path: Path | None = None
    url: sa.URL | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, given: str | Path | None) -> Address:
        """Read a path, a URL, or None for memory.

        Raises:
            StoreError: an unknown kind of URL, or one that cannot be read.
            MissingExtra: PostgreSQL without its driver.

        >>> Address.parse("postgresql://me:secret@db/tune").shown
        'postgresql://me:***@db/tune'
        >>> Address.parse("runs/tune.db").shown
        'runs/tune.db'
        """
        if given is None or given in ("sqlite://", "sqlite:///:memory:", ":memory:"):
            return cls("memory", "memory")
        text = str(given)
        scheme, separator, rest = text.partition("://")
        if isinstance(given, Path) or not separator:
            return cls._file(text)
        kind = _SCHEMES.get(scheme.partition("+")[0])
        if kind == "sqlite":
            return cls._file(rest.removeprefix("/"))
        if kind == "postgresql":
            return cls._server(text)
        raise StoreError(
            f"store {hidden(text)}: no database is called {scheme!r}; {near_misses(scheme, _SCHEMES, noun='kind')}\n"
            "give a path (a SQLite file) or postgresql://USER@HOST/DATABASE"
        )

    @classmethod
    def _file(cls, text: str) -> Address:
        if not text.strip():
            raise StoreError("store '': a path is needed, for example tune.db")
        path = Path(text).expanduser()
        return cls("sqlite", str(path), path)

    @classmethod
    def _server(cls, text: str) -> Address:
        try:
            url = sa.make_url(text).set(drivername="postgresql+psycopg")
        except (ArgumentError, ValueError):
            # The parser's own message quotes pieces of the URL, and with them the password.
            raise StoreError(
                f"store {hidden(text)}: not a URL; give postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
                "with @ : / in the password written as %40 %3A %2F"
            ) from None
        if not url.database:
            raise StoreError(f"store {hidden(text)}: names no database; give postgresql://USER@HOST/DATABASE")
        try:
            import psycopg  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise MissingExtra.of("a PostgreSQL store", "tune") from None
        shown = url.set(drivername="postgresql").render_as_string(hide_password=True)
        return cls("postgresql", hidden(shown), None, url)

    def without_password(self, text: str) -> str:
        """Return a driver's message with the password taken out."""
        password = self.url.password if self.url is not None else None
        return text.replace(str(password), "***") if password else text


def hidden(url: str) -> str:
    """Hide the password of a URL, also of one that cannot be parsed, and in its query.

    >>> hidden("postgresql://me:p@ss:w/rd@host/db?password=x&a=1")
    'postgresql://me:***@host/db?password=***&a=1'
    """
    url = re.sub(r"://([^:/@?]*):.*@", r"://\1:***@", url)
    return re.sub(r"(?i)\b(password|passfile|sslpassword)=[^&\s]*", r"\1=***", url)

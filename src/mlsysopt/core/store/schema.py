"""Our tables, in the same database as Optuna's, and how they move forward.

A migration from version n to n + 1 is a function of a connection, in `MIGRATIONS[n]`. Versions
only grow; a store of a newer version is refused, an older SQLite file is copied before it is touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

import sqlalchemy as sa

__all__ = ["MIGRATIONS", "VERSION", "create", "metadata", "stored_version", "whose"]

VERSION = 1
MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {}

metadata = sa.MetaData()

_big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite numbers rows by itself only in a column that is declared INTEGER."""

schema = sa.Table(
    "mlsysopt_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("created_at", sa.Double, nullable=False),
)
machine = sa.Table(
    "mlsysopt_machine",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("first_seen", sa.Double, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
)
worker = sa.Table(
    "mlsysopt_worker",
    metadata,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("worker", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("machine", sa.Text, nullable=False),
)
lease = sa.Table(
    "mlsysopt_lease",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("boot", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("ticks", sa.BigInteger, nullable=False),
)
measurement = sa.Table(
    "mlsysopt_measurement",
    metadata,
    sa.Column("id", _big, primary_key=True),
    sa.Column("study", sa.Text, nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("side", sa.Text, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("effective", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text),
    sa.Column("failure_kind", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("log_tail", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("cpu_s", sa.Double, nullable=False),
    sa.Column("wall_s", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("conditions", sa.Text, nullable=False),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("worker", sa.Integer, nullable=False),
    # Not unique: a run that the machine spoiled is repeated under the same key, and both are kept.
    sa.Index("mlsysopt_measurement_of", "study", "trial", "role", "round"),
)
bound = sa.Table(
    "mlsysopt_bound",
    metadata,
    sa.Column("id", _big, primary_key=True),
    sa.Column("key", sa.Text, nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("low", sa.Double),
    sa.Column("high", sa.Double),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)
rule = sa.Table(
    "mlsysopt_rule",
    metadata,
    sa.Column("id", _big, primary_key=True),
    sa.Column("key", sa.Text, nullable=False, index=True),
    sa.Column("expression", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)
sample = sa.Table(
    "mlsysopt_sample",
    metadata,
    sa.Column("id", _big, primary_key=True),
    sa.Column("room", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("row", sa.Text, nullable=False),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index("mlsysopt_sample_of", "room", "key"),
)
cache = sa.Table(
    "mlsysopt_cache",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

_OPTUNA = {"studies", "trials", "trial_params", "version_info"}


def whose(tables: Iterable[str]) -> Literal["nobody", "ours", "optuna", "foreign"]:
    """Say which program made a database, by the names of its tables.

    >>> whose([]), whose(["mlsysopt_schema", "studies"]), whose(["orders", "customers"])
    ('nobody', 'ours', 'foreign')
    """
    names = set(tables)
    if not names:
        return "nobody"
    if schema.name in names:
        return "ours"
    return "optuna" if names >= _OPTUNA else "foreign"


def create(connection: sa.Connection) -> None:
    """Create our tables where they are missing, and say which version they are."""
    metadata.create_all(connection)
    if stored_version(connection) is None:
        connection.execute(schema.insert().values(version=VERSION, created_at=time.time()))


def stored_version(connection: sa.Connection) -> int | None:
    """Return the version of our tables, None when they say none."""
    return connection.execute(sa.select(sa.func.max(schema.c.version))).scalar()

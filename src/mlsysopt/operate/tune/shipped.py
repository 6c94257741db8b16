"""Server targets from Python: one function for each server that is shipped, one for a file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlsysopt.operate.tune import server_files
from mlsysopt.operate.tune.server_target import ServerTarget, server_target

__all__ = ["foundationdb", "postgres", "redis", "server_of"]


def server_of(what: str | Path, **settings: Any) -> ServerTarget:
    """Make the target of a server.

    Args:
        what: Registered name, or path of a server file.
        settings: As for `server_target`: workload, knobs, memory, directory, port, settings, unfence, ...

    Raises:
        MissingProgram: a program of the server is not installed.
        UsageError: an unknown name or setting.

    >>> server_of("postgres", knobs="memory").objective  # doctest: +SKIP
    'tps'
    """
    name = str(what)
    return server_target(server_files.server(name), source=server_files.source(name), **settings)


def postgres(**settings: Any) -> ServerTarget:
    """Make the target of the installed PostgreSQL: a private cluster, loaded by pgbench, durability fenced."""
    return server_of("postgres", **settings)


def redis(**settings: Any) -> ServerTarget:
    """Make the target of the installed Redis: a private instance with its log on, loaded by redis-benchmark."""
    return server_of("redis", **settings)


def foundationdb(**settings: Any) -> ServerTarget:
    """Make the target of an installed FoundationDB; never run against a live cluster by this project."""
    return server_of("foundationdb", **settings)

"""A private PostgreSQL cluster: temporary folder, free loopback port, stopped by its process id."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSWORD = "s3cret@word"  # as people choose them: with a character that URLs reserve
START_S = 60.0


def program(name: str) -> Path | None:
    """Find a server program in PATH, or where Debian keeps it; None when it is not installed."""
    found = shutil.which(name)
    if found:
        return Path(found)
    versions = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]), reverse=True
    )
    return versions[0] if versions else None


@dataclass(frozen=True)
class Cluster:
    """A running server."""

    port: int
    pid: int
    folder: Path

    def url(self, database: str = "postgres", *, password: str = PASSWORD) -> str:
        from urllib.parse import quote

        return f"postgresql://tuner:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Create a database and return its URL."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"'.encode())
        return self.url(database)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a cluster and stop it. PostgreSQL refuses root, so root becomes `postgres` or `nobody`."""
    initdb, server = program("initdb"), program("postgres")
    assert initdb is not None and server is not None, "PostgreSQL is not installed"
    as_user: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="mlsysopt-pg-"))
    try:
        if os.geteuid() == 0:
            user = next(name for name in ("postgres", "nobody") if _exists(name))
            record = pwd.getpwnam(user)
            os.chown(folder, record.pw_uid, record.pw_gid)
            as_user = {"user": record.pw_uid, "group": record.pw_gid, "extra_groups": []}
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data = folder / "data"
        common: dict[str, Any] = {**as_user, "cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}}
        subprocess.run(
            [str(initdb), "-D", str(data), "-U", "tuner", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, timeout=START_S, **common,
        )  # fmt: skip
        port = _free_port()
        settings = [
            "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", "unix_socket_directories=",
            "-c", "fsync=off", "-c", "max_connections=40", "-c", "shared_buffers=16MB",
        ]  # fmt: skip
        log = folder / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen([str(server), "-D", str(data), *settings], stdout=sink, stderr=sink, **common)
        try:
            _await_ready(process, log, port)
            yield Cluster(port, process.pid, folder)
        finally:
            process.send_signal(signal.SIGINT)  # "fast": disconnect everybody and stop
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_ready(process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    import psycopg

    for _ in range(int(START_S / 0.05)):
        if process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended at once:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user="tuner", password=PASSWORD, dbname="postgres", connect_timeout=2
            ).close()
            return
        except psycopg.OperationalError:
            # Asked again: the server has no other word for "ready" that does not need a client.
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    raise RuntimeError(f"PostgreSQL was not ready in {START_S:.0f} s:\n{log.read_text(errors='replace')[-2000:]}")


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

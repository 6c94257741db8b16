"""A stand-in for FoundationDB's programs: `fdb_standin.py fdbserver|fdbcli|load ARGUMENTS`.

It knows the options that our server file uses, says what the sources say about wrong knobs (a warning, and the default
runs), and answers `status json` in the documented form (tests/golden/tune/fdb-status.json). `install(folder)` writes
`fdbserver` and `fdbcli` as programs. It says nothing about how a real cluster behaves.
"""

from __future__ import annotations

import itertools
import json
import socket
import sys
from pathlib import Path
from typing import Any

STATUS = Path(__file__).parents[2] / "golden" / "tune" / "fdb-status.json"
VERSION = (
    "FoundationDB 7.1 (v7.1.38)\nsource version 0000000000000000000000000000000000000000\nprotocol fdb00b071010000\n"
)
KNOBS: dict[str, Any] = {
    "page_cache_4k": int, "storage_commit_bytes": int, "storage_commit_interval": float,
    "update_storage_byte_limit": int, "max_queue_commit_bytes": int, "commit_transaction_batch_interval_min": float,
    "commit_transaction_batch_interval_max": float, "commit_transaction_batch_count_max": int,
    "start_transaction_batch_interval_max": float,
}  # fmt: skip


def install(folder: Path) -> None:
    """Write the programs into a folder that belongs on PATH."""
    for name in ("fdbserver", "fdbcli"):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {Path(__file__).absolute()} {name} "$@"\n')
        path.chmod(0o755)


def _said(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def fdbserver(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        sys.stdout.write(VERSION)
        return
    options = dict(itertools.pairwise(arguments))
    knobs = dict(word.removeprefix("--knob_").split("=", 1) for word in arguments if word.startswith("--knob_"))
    used: dict[str, Any] = {}
    for name, text in knobs.items():
        if name not in KNOBS:
            _said(f"WARNING: Unrecognized knob option '{name}'")
            continue
        try:
            used[name] = KNOBS[name](text)
        except ValueError:
            _said(f"WARNING: Invalid value '{text}' for knob option '{name}'")
    if used.get("page_cache_4k", 2**31) > 2**36:
        _said("ERROR: Out of memory")
        sys.exit(1)
    host, port = options["-p"].split(":")
    assert Path(options["-C"]).read_text().strip() == f"mlsysopt:scratch@{host}:{port}"
    created = Path(options["-d"]) / "created"
    status = json.loads(STATUS.read_text())
    process = next(iter(status["cluster"]["processes"].values()))
    process["command_line"] = " ".join(["fdbserver", *arguments])
    committed = status["cluster"]["workload"]["transactions"]["committed"]
    with socket.create_server((host, int(port))) as listening:
        _said("FDBD joined cluster.")
        while True:
            with listening.accept()[0] as peer, peer.makefile("rw") as lines:
                command = lines.readline().strip()
                if command.startswith("configure new"):
                    created.touch()
                    lines.write("Database created\n")
                elif command.startswith("load"):
                    committed["counter"] += int(1000 / used.get("storage_commit_interval", 0.5))
                elif command == "status json":
                    there = created.exists()
                    status["client"]["database_status"]["available"] = status["cluster"]["database_available"] = there
                    lines.write(json.dumps(status) + "\n")


def ask(cluster: str, command: str) -> str:
    host, port = Path(cluster).read_text().strip().rpartition("@")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer, peer.makefile("rw") as lines:
        lines.write(command + "\n")
        lines.flush()
        peer.shutdown(socket.SHUT_WR)
        return lines.read()


def fdbcli(arguments: list[str]) -> None:
    options = dict(itertools.pairwise(arguments))
    try:
        sys.stdout.write(ask(options["-C"], options["--exec"]))
    except OSError:
        _said("ERROR: Timed out trying to contact the cluster (1004)")
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1] == "fdbserver":
        fdbserver(sys.argv[2:])
    elif sys.argv[1] == "fdbcli":
        fdbcli(sys.argv[2:])
    elif sys.argv[1] == "load":
        ask(sys.argv[2], "load")

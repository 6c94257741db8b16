"""Where a trial's database lives: which file system, how much room it has, how much is needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlsysopt.core.places import state_dir
from mlsysopt.core.quantities import format_bytes
from mlsysopt.core.target import Failure, Purpose
from mlsysopt.operate.tune.disks import filesystem_of
from mlsysopt.operate.tune.rocksdb.workloads import DEFAULT_KEYS

__all__ = ["bytes_needed", "choose", "default_directory", "room_for", "used_bytes"]

MEMORY_DISK = Path("/dev/shm")


def default_directory() -> Path:
    """Return the folder for databases on the file system of the user's state."""
    return state_dir() / "rocksdb"


def bytes_needed(flags: Mapping[str, Any], memtables_bytes: int, *, loads: int = 1, fidelity: float = 1.0) -> int:
    """Return the bytes that one trial may need on disk at its peak, nothing compressed.

    The data twice (a compaction writes its output before it removes its input), the log of what the
    memtables hold, and everything that the run may write.
    """
    entry = int(flags.get("key_size", 16)) + int(flags.get("value_size", 100))
    keys = int(flags.get("num", DEFAULT_KEYS))
    reads = int(flags.get("reads", keys))
    data = int(keys * fidelity) * entry * loads
    return 2 * data + min(data, memtables_bytes) + int((reads if reads > 0 else keys) * fidelity) * entry


def room_for(folder: Path, needed: int) -> Failure | None:
    """Return the failure to report when a folder cannot take that many bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Failure("infrastructure", f"directory {folder} cannot be used: {error.strerror or error}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Failure("infrastructure", f"directory {folder} is not writable")
    if free < needed:
        return Failure(
            "infrastructure",
            f"directory {folder} is too small for the load: {format_bytes(free)} free ({free} bytes), "
            f"{format_bytes(needed)} needed ({needed} bytes); give another --directory or a smaller --set num=...",
        )
    return None


def choose(purpose: Purpose, directory: Path, needed: int, memory_bytes: int) -> Path:
    """Return where a session keeps its databases.

    A search runs in memory when the database *and* the process fit there, since a file in a tmpfs is
    memory that the machine then lacks; a verification always runs on the user's directory.
    """
    if purpose == "verify" or not MEMORY_DISK.is_dir() or filesystem_of(MEMORY_DISK) != "tmpfs":
        return directory
    available = _available_memory()
    fits = available is not None and needed + 2 * memory_bytes < available
    return MEMORY_DISK if fits and room_for(MEMORY_DISK, needed) is None else directory


def used_bytes(database: Path) -> int:
    """Return the bytes of a closed database without its information logs."""
    return sum(
        path.stat().st_size for path in database.rglob("*") if path.is_file() and not path.name.startswith("LOG")
    )


def _available_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None

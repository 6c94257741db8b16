"""What lies under a folder: which file system, and whether writing to it costs what it costs on a disk."""

from __future__ import annotations

from pathlib import Path

__all__ = ["filesystem_of"]


def filesystem_of(path: Path) -> str:
    """Return the type of the file system that holds a path, "" when it is not known."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        rows = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, found = -1, ""
    real = path.resolve()
    for row in rows:
        before, _, after = row.partition(" - ")
        mount = Path(before.split()[4].replace("\\040", " "))
        # Later rows are mounted over earlier ones at the same place.
        if (real == mount or mount in real.parents) and len(mount.parts) >= best:
            best, found = len(mount.parts), after.split()[0]
    return found

"""Bringing a copy of a data folder back to what it was copied from, by copying only what has changed since."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

__all__ = ["restore"]


def restore(source: Path, copy: Path) -> None:
    """Make a folder the same as its source again.

    A file counts as unchanged when its size and time of change are those of the source: `cp -a` and this
    function keep the time, and whoever writes to a file moves it. Owners and modes are kept.

    Args:
        source: A folder that nobody writes to.
        copy: A copy that a server has run on.

    Raises:
        OSError: there is no room, or no right.
    """
    with os.scandir(source) as entries:
        wanted = {entry.name: entry for entry in entries}
    with os.scandir(copy) as entries:
        there = {entry.name: entry for entry in entries}
    for name, entry in there.items():
        if name not in wanted or not _same_kind(entry, wanted[name]):
            _remove(Path(entry.path), entry)
    for name, entry in wanted.items():
        path = copy / name
        if entry.is_dir(follow_symlinks=False):
            if not path.exists():
                path.mkdir()
                _take_over(entry, path)
            restore(Path(entry.path), path)
        elif not path.is_symlink() and not path.exists():
            shutil.copy2(entry.path, path, follow_symlinks=False)
            _take_over(entry, path)


def _same_kind(here: os.DirEntry[str], wanted: os.DirEntry[str]) -> bool:
    """Whether an entry can stay: a folder for a folder, an unchanged file for a file."""
    mine, other = here.stat(follow_symlinks=False), wanted.stat(follow_symlinks=False)
    if stat.S_IFMT(mine.st_mode) != stat.S_IFMT(other.st_mode):
        return False
    if stat.S_ISDIR(mine.st_mode):
        return True
    return stat.S_ISREG(mine.st_mode) and (mine.st_size, mine.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _remove(path: Path, entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(path)
    else:
        path.unlink()


def _take_over(entry: os.DirEntry[str], path: Path) -> None:
    """Give a new entry the owner and the mode of its source."""
    of = entry.stat(follow_symlinks=False)
    if os.geteuid() == 0:
        os.chown(path, of.st_uid, of.st_gid, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(stat.S_IMODE(of.st_mode))

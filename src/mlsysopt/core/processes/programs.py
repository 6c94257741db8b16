"""Programs outside Python: where they are, and the line that installs them."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from mlsysopt.core.errors import MissingProgram

__all__ = ["apt_line", "program"]


def program(name: str, *, also: Iterable[str] = (), package: str | None = None, hint: str = "") -> Path:
    """Return where a program is: on PATH, else in one of the folders `also`.

    Args:
        name: Name of the program, or a path.
        also: Folders outside PATH, as patterns (`/usr/lib/postgresql/*/bin`); the newest version wins.
        package: Debian package that brings it.
        hint: Another way out, ends the message: `or --engine embedded`.

    Raises:
        MissingProgram: it is nowhere; the message has the line that installs it.

    >>> program("sh").name
    'sh'
    """
    found = shutil.which(name)
    if found is not None:
        return Path(found).absolute()
    for pattern in also:
        for folder in sorted(glob.glob(os.path.expanduser(pattern)), key=_by_version, reverse=True):
            found = shutil.which(os.path.join(folder, name))
            if found is not None:
                return Path(found)
    ways = ", ".join(part for part in (apt_line(package) if package else "", hint) if part)
    raise MissingProgram(f"{name} not found{': ' + ways if ways else ' on PATH'}")


def apt_line(*packages: str) -> str:
    """Return the command that installs Debian packages, as this user has to type it."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install {' '.join(packages)}"


def _by_version(path: str) -> list[tuple[int, int | str]]:
    # "9" before "16": numbers compare as numbers.
    return [(1, int(part)) if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]

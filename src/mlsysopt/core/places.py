"""Where files go: state, cache and data folders, and the header that every artefact starts with."""

from __future__ import annotations

import logging
import os
import platform
import stat
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mlsysopt._version import __version__
from mlsysopt.core.errors import ArtefactError

__all__ = ["artefact_header", "cache_dir", "data_dir", "read_header", "replace_file", "state_dir"]

log = logging.getLogger("mlsysopt.places")

_HEADER = "artefact"


def state_dir() -> Path:
    """Return the folder for what must outlive a run: ledgers, databases, default stores.

    `$XDG_STATE_HOME/mlsysopt`, else `~/.local/state/mlsysopt`. Without a HOME, or where it cannot
    be written, the folder lies among the temporary files and one line in the log says so.
    """
    return _folder("state", "XDG_STATE_HOME", ".local/state")


def cache_dir() -> Path:
    """Return the folder for what can be made again (`$XDG_CACHE_HOME`); like `state_dir` otherwise."""
    return _folder("cache", "XDG_CACHE_HOME", ".cache")


def data_dir() -> Path:
    """Return the folder for what the user keeps (`$XDG_DATA_HOME`); like `state_dir` otherwise."""
    return _folder("data", "XDG_DATA_HOME", ".local/share")


def artefact_header(format: str, version: int, *, machine: str | None = None) -> dict[str, Any]:
    """Return the first entry of a file that we write, to be merged with its content.

    Args:
        format: Name of the format.
        version: Version of the format, from 1.
        machine: Key of the machine that the content belongs to; None names only the kind of machine.

    >>> list(artefact_header("profile", 1)["artefact"])
    ['format', 'version', 'package', 'machine']
    """
    where = machine if machine is not None else f"{platform.system()} {platform.machine()}"
    return {_HEADER: {"format": format, "version": version, "package": __version__, "machine": where}}


def replace_file(path: Path, content: bytes) -> Path:
    """Write a file in one step and for good: whoever reads it sees the old one or the new one, never a part.

    What a killed process was about to put into place lies beside it under a name that begins with a dot.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def read_header(content: object, format: str, newest: int) -> int:
    """Check the header of a file that was read, and return the version of its format.

    Raises:
        ArtefactError: no header, another format, or a version that this package does not know.

    >>> read_header({**artefact_header("profile", 1), "rows": []}, "profile", newest=2)
    1
    """
    header = content.get(_HEADER) if isinstance(content, Mapping) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(header, Mapping):
        raise ArtefactError(f"this is no {format} file: it has no {_HEADER!r} entry")
    fields: dict[str, Any] = {str(key): value for key, value in header.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    found, version = fields.get("format"), fields.get("version")
    if found != format:
        raise ArtefactError(f"this is a {found!r} file, expected {format!r}")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtefactError(f"the {format} file has the version {version!r}, expected a whole number from 1")
    if version > newest:
        raise ArtefactError(
            f"the {format} file has version {version}, written by mlsysopt {fields.get('package')}; "
            f"mlsysopt {__version__} reads up to version {newest}: upgrade it"
        )
    return version


def _folder(kind: str, variable: str, below_home: str) -> Path:
    base = os.environ.get(variable, "")
    # The XDG specification says that a relative path is to be ignored.
    if not os.path.isabs(base):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return _temporary(kind, f"neither {variable} nor HOME is set")
        base = os.path.join(home, below_home)
    folder = Path(base, "mlsysopt")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _temporary(kind, f"{folder}: {error.strerror or error}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return _temporary(kind, f"{folder} is not writable")
    return folder


@cache
def _temporary(kind: str, why: str) -> Path:
    """Return a folder among the temporary files that the next run of this user finds again."""
    root = Path(tempfile.gettempdir(), f"mlsysopt-{os.getuid()}")
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        found = root.lstat()
        # The name can be guessed: a folder or a link that somebody else put there is not ours.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise PermissionError(f"{root} belongs to somebody else")
        folder = root / kind
        folder.mkdir(exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix=f"mlsysopt-{kind}-"))
    log.warning("%s: using the temporary folder %s for %s", why, folder, kind)
    return folder

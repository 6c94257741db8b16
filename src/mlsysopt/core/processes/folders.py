"""Temporary folders that are removed also after a kill -9: by the next sweep."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mlsysopt.core.errors import InfrastructureError
from mlsysopt.core.processes.ledger import current_ledger
from mlsysopt.core.processes.trees import remove_tree
from mlsysopt.core.processes.users import account

__all__ = ["temporary_folder"]


@contextmanager
def temporary_folder(
    prefix: str = "mlsysopt-", *, base: Path | None = None, user: str | None = None
) -> Generator[Path]:
    """Make a folder for the length of a `with` block.

    Args:
        prefix: How its name begins.
        base: Where it is made; made itself when missing, and kept. None means the temporary files.
        user: Who owns it; None means this user.

    Raises:
        InfrastructureError: it cannot be made.

    >>> with temporary_folder("doc-") as folder:
    ...     made = folder.is_dir()
    >>> made, folder.exists()
    (True, False)
    """
    who = account(user)
    root = Path(base if base is not None else tempfile.gettempdir()).absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = root / f"{prefix}{secrets.token_hex(6)}"
        # Written down first: a kill between the two leaves a line without a folder, never the reverse.
        entry = current_ledger().add_folder(folder, who.uid if who else os.geteuid())
    except OSError as error:
        raise InfrastructureError(f"cannot make a folder in {root}: {error.strerror or error}") from error
    try:
        try:
            folder.mkdir(mode=0o700)
            if who is not None:
                os.chown(folder, who.uid, who.gid)
        except OSError as error:
            raise InfrastructureError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        yield folder
    finally:
        # What could not be removed stays in the ledger for the next sweep.
        if remove_tree(folder):
            entry.close()

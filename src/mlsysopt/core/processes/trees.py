"""Removing a whole folder, also one whose parts were closed to everybody."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

__all__ = ["remove_tree"]


def remove_tree(folder: Path) -> bool:
    """Remove a folder with all that is in it, following no link; return whether it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return True
    # A program may take the rights to its own folders away, which stops everybody but root.
    for parent, names, _ in os.walk(folder):
        for name in names:
            with suppress(OSError):
                if not os.path.islink(path := os.path.join(parent, name)):
                    os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()

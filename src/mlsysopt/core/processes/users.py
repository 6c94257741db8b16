"""Running a child as another user: servers that refuse root, and folders that they must reach."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from mlsysopt.core.errors import InfrastructureError, UsageError, near_misses

__all__ = ["Account", "account", "check_reachable"]


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine with all its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    def environment(self) -> dict[str, str]:
        """Return the variables that would otherwise speak of the driver's user."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


def account(user: str | None) -> Account | None:
    """Look a user up; None when a child of this process runs as that user anyway.

    Raises:
        UsageError: no such user.
        InfrastructureError: only root may start children as somebody else.
    """
    if user is None:
        return None
    try:
        row = pwd.getpwnam(user)
    except KeyError:
        known = [entry.pw_name for entry in pwd.getpwall()]
        raise UsageError(f"no user {user!r} on this machine: {near_misses(user, known, noun='user')}") from None
    if row.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise InfrastructureError(f"only root may start a child as the user {user!r}: run as root, or as {user!r}")
    groups = tuple(os.getgrouplist(user, row.pw_gid))
    return Account(user, row.pw_uid, row.pw_gid, groups, row.pw_dir)


def check_reachable(folder: Path, who: Account) -> None:
    """Refuse a working folder that the user cannot enter; the server would only say "permission denied".

    Raises:
        InfrastructureError: names the first folder on the way that is closed.
    """
    resolved = folder.resolve()
    for step in [*reversed(resolved.parents), resolved]:
        found = step.stat()
        if found.st_uid == who.uid:
            allowed = found.st_mode & stat.S_IXUSR
        elif found.st_gid in who.groups:
            allowed = found.st_mode & stat.S_IXGRP
        else:
            allowed = found.st_mode & stat.S_IXOTH
        if not allowed:
            raise InfrastructureError(
                f"the user {who.name!r} cannot enter {step}, which leads to {folder}: "
                f"give it a folder of temporary_folder(..., user={who.name!r})"
            )

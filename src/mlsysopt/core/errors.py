"""One root for every error, each with the exit code that the command line gives it.

A message says what was given, what is allowed and what to do, in at most three lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "ArtefactError",
    "DatasetError",
    "ExpressionError",
    "InfrastructureError",
    "MeasureError",
    "MissingExtra",
    "MissingProgram",
    "MlsysoptError",
    "PluginError",
    "ProcessError",
    "QuantityError",
    "SpaceError",
    "StoreError",
    "StoreUnavailable",
    "StudyError",
    "TargetError",
    "UsageError",
    "near_misses",
]


class MlsysoptError(Exception):
    """Root of all errors of this package."""

    exit_code: ClassVar[int] = 1


class UsageError(MlsysoptError, ValueError):
    """What was asked for cannot be meant: a name, value or combination that is not allowed."""

    exit_code = 2


class QuantityError(UsageError):
    """A quantity such as `2GiB` or `45s` that cannot be read."""


class ExpressionError(UsageError):
    """An arithmetic constraint that cannot be read or is not allowed."""


class SpaceError(UsageError):
    """A search space that contradicts itself, or a configuration outside it."""


class StudyError(UsageError):
    """A study that cannot be run as asked for."""


class DatasetError(MlsysoptError):
    """A data set that is unknown, absent or damaged."""


class ArtefactError(UsageError):
    """A file of ours that cannot be read: of another format, newer, or damaged."""


class StoreError(UsageError):
    """A store that does not fit: another target, a newer schema, not a database."""


class StoreUnavailable(MlsysoptError):
    """A store that is right but cannot be used now: locked, read-only, out of reach."""


class TargetError(MlsysoptError):
    """A target that broke its protocol, or whose default configuration does not run."""


class MeasureError(MlsysoptError):
    """A comparison that could not be carried out."""


class ProcessError(MlsysoptError):
    """A child process that did not start or did not become ready."""


class InfrastructureError(MlsysoptError):
    """The machine failed, not the configuration: disk full, port taken, no permission."""


class PluginError(MlsysoptError):
    """A third-party part that raises or breaks its protocol."""


class MissingExtra(MlsysoptError, ImportError):
    """An optional dependency that is not installed."""

    exit_code = 3

    @classmethod
    def of(cls, what: str, extra: str) -> MissingExtra:
        """Name the exact line that installs it.

        >>> str(MissingExtra.of("tuning PostgreSQL", "tune"))
        "tuning PostgreSQL needs the 'tune' extra: pip install 'mlsysopt[tune]'"
        """
        return cls(f"{what} needs the {extra!r} extra: pip install 'mlsysopt[{extra}]'")


class MissingProgram(MlsysoptError, FileNotFoundError):
    """A program outside Python that is not installed."""

    exit_code = 3


def near_misses(given: str, allowed: Iterable[str], *, noun: str = "name", width: int = 6) -> str:
    """Return the clause that ends a message about an unknown name.

    The nearest names come first; without a near one, the first `width` names are listed.

    >>> near_misses("block_sise", ["cache_size", "block_size"])
    'did you mean block_size?'
    >>> near_misses("zz", ["a", "b"], noun="sampler")
    'known samplers: a, b'
    """
    names = sorted(set(allowed))
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    if close:
        best = [name for name in close if _similar(given, name) > _similar(given, close[0]) - 0.08]
        return f"did you mean {' or '.join(best)}?"
    if not names:
        return f"there are no {noun}s"
    shown = ", ".join(names[:width])
    more = f", ... ({len(names)} in all)" if len(names) > width else ""
    return f"known {noun}s: {shown}{more}"


def _similar(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()

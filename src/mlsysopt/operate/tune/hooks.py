"""Calls into a server file, with whoever wrote it in mind: what it raises or returns wrong is said with its line."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import MlsysoptError, UsageError
from mlsysopt.core.processes import Service
from mlsysopt.operate.tune.server import Knob, Loaded, Server, Workload

__all__ = ["Hooked", "ServerFileError", "check_server"]


class ServerFileError(UsageError):
    """A server file breaks the protocol: which hook, where, and what it must do."""


_ATTRIBUTES: Mapping[str, tuple[type, str]] = {
    "name": (str, "a word"),
    "programs": (Mapping, "a mapping: program -> Debian package"),
    "groups": (Mapping, "a mapping: group -> what it is about"),
    "fences": (Mapping, "a mapping: fence -> patterns of knobs"),
    "constraints": (Sequence, "a list of expressions"),
    "workloads": (Mapping, "a mapping: name -> Workload"),
}
_HOOKS = {
    "prepare": "nothing",
    "service": "a Service (place.service([...]))",
    "knobs": "a list of Knob",
    "effective": "a mapping: knob -> value",
}
_RETURNS: Mapping[str, Callable[[Any], bool]] = {
    "run": lambda found: isinstance(found, Loaded),
    "service": lambda found: isinstance(found, Service),
    "knobs": lambda found: isinstance(found, Sequence) and bool(found) and all(isinstance(one, Knob) for one in found),
    "effective": lambda found: isinstance(found, Mapping),
    "counters": lambda found: isinstance(found, Mapping),
    "check": lambda found: found is None or isinstance(found, str),
    "export": lambda found: isinstance(found, Sequence) and not isinstance(found, str),
}
_WANTED = {
    **_HOOKS,
    "run": "a Loaded",
    "counters": "a mapping: counter -> number",
    "check": "None, or what is wrong",
    "export": "a list of lines",
}


def check_server(server: object, where: str) -> Server:
    """Refuse what is no server.

    Args:
        server: What a file or entry point gave.
        where: The file or name, for messages.

    Raises:
        ServerFileError: what is missing or has the wrong type.
    """
    where = _with_line(where, server)
    for name, (kind, words) in _ATTRIBUTES.items():
        found = _attribute(server, name, where)
        if not isinstance(found, kind) or (kind is not str and isinstance(found, str)):
            raise ServerFileError(f"{where}: the server needs {name!r}, {words}; got {found!r:.80}")
    for name, words in _HOOKS.items():
        if not callable(_attribute(server, name, where)):
            raise ServerFileError(f"{where}: the server needs the hook {name}(), which returns {words}")
    workloads: Mapping[str, Any] = server.workloads  # pyright: ignore[reportAttributeAccessIssue]
    for name, one in workloads.items():
        if not isinstance(one, Workload):
            raise ServerFileError(f"{where}: workload {name!r} must be a Workload, got {type(one).__name__}")
        if one.objective not in one.metrics:
            raise ServerFileError(f"{where}: workload {name!r} has no metric {one.objective!r}, its objective")
    if not workloads:
        raise ServerFileError(f"{where}: the server needs at least one workload")
    return server  # pyright: ignore[reportReturnType]


class Hooked:
    """A server whose hooks are called carefully; attributes are the server's own.

    Args:
        server: What the file defines.
        where: The file or name, for messages.
    """

    def __init__(self, server: object, where: str) -> None:
        self._server, self._where = check_server(server, where), where

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self._server, name)
        if not (inspect.ismethod(found) or inspect.isfunction(found)):
            return found
        return lambda *given, **named: self._call(name, found, given, named)

    def workload(self, name: str) -> Workload:
        """Return a workload whose load and setup are called as carefully."""
        one: Workload = self._server.workloads[name]
        setup = one.setup
        return replace(
            one,
            run=partial(self._called, "run", one.run),
            setup=partial(self._called, "setup", setup) if setup is not None else None,
        )

    def _called(self, name: str, hook: Callable[..., Any], *given: Any) -> Any:
        return self._call(name, hook, given, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return Hooked, (self._server, self._where)

    def _call(self, name: str, hook: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        try:
            found = hook(*given, **named)
        except MlsysoptError:
            raise
        except Exception as error:
            frame = _frame_of(error, type(self._server), hook)
            raise ServerFileError(
                f"{self._where}: the hook {name}() raised {type(error).__name__}: {error} ({frame}); "
                f"it must return {_WANTED.get(name, 'nothing')}, or raise ClientFailed"
            ) from error
        if name in _RETURNS and not _RETURNS[name](found):
            raise ServerFileError(
                f"{self._where}: the hook {name}() must return {_WANTED[name]}, got {found!r:.80} ({_line_of(hook)})"
            )
        return found


def _attribute(server: object, name: str, where: str) -> Any:
    try:
        return getattr(server, name, None)
    except Exception as error:
        # A property is code of the file as well.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ServerFileError(
            f"{where}: {name!r} raised {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
        ) from error


def _with_line(where: str, server: object) -> str:
    """Return a file with the line of the class that defines a server, where that can be told."""
    try:
        return f"{where}:{inspect.getsourcelines(type(server))[1]}"
    except (OSError, TypeError):
        return where


def _frame_of(error: BaseException, *parts: object) -> str:
    """Return file and line of the innermost frame in the file of the first of these parts that has one."""
    frames = traceback.extract_tb(error.__traceback__)
    for part in parts:
        own = _file_of(part)
        inside = [frame for frame in frames if own is not None and Path(frame.filename) == Path(own)]
        if inside:
            return f"{inside[-1].filename}:{inside[-1].lineno}"
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def _file_of(part: Any) -> str | None:
    try:
        return inspect.getsourcefile(part)
    except TypeError:
        return None


def _line_of(hook: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(hook), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(hook)

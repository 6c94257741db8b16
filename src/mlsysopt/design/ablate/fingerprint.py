"""What two runs must share to share results: data, versions, and the source of everything the user wrote."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np

from mlsysopt.core.errors import StoreError

__all__ = ["Fingerprint", "check_same", "data_digest", "fingerprint", "user_files"]

_VERSIONED = ("torch", "numpy", "scikit-learn", "pandas")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identity of what is studied.

    Attributes:
        files: Digest of each of the user's source files, by path.
        data: Digest of the data.
        versions: Of the packages that a training may depend on.
    """

    files: Mapping[str, str]
    data: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the parts as JSON values."""
        return {"files": dict(self.files), "data": self.data, "versions": dict(self.versions)}

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> Fingerprint:
        """Read what `to_json` wrote."""
        return cls(read["files"], read["data"], read["versions"])

    def digest(self) -> str:
        """Return one digest of all of it; where the files lie does not count."""
        parts = [*sorted(self.files.values()), self.data, *(f"{k} {v}" for k, v in sorted(self.versions.items()))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fingerprint(functions: Iterable[Callable[..., Any]], data: Any) -> Fingerprint:
    """Fingerprint a study.

    Args:
        functions: The user's functions; their modules and whatever of the user's these import count.
        data: What the training function is given.
    """
    given = list(functions)
    files = {str(path): _digest(path.read_bytes()) for path in user_files(given)}
    for function in given:
        if _file_of(function) is None:
            # Typed at a prompt: the code itself has to do.
            files[f"<{getattr(function, '__qualname__', type(function).__name__)}>"] = _digest(_code_of(function))
    versions: dict[str, str] = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in _VERSIONED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return Fingerprint(files, data_digest(data), versions)


def check_same(stored: Fingerprint, now: Fingerprint, store: str) -> None:
    """Refuse to mix results of different code or data.

    Raises:
        StoreError: listing what changed.
    """
    if stored.digest() == now.digest():
        return
    changed: list[str] = []
    for path in sorted({*stored.files, *now.files}):
        before, after = stored.files.get(path), now.files.get(path)
        if before != after:
            how = "gone" if after is None else "new" if before is None else "changed"
            changed.append(f"{os.path.relpath(path)} ({how})")
    if stored.data != now.data:
        changed.append("the data")
    changed += [
        f"{name} {stored.versions.get(name, 'absent')} -> {now.versions.get(name, 'absent')}"
        for name in sorted({*stored.versions, *now.versions})
        if stored.versions.get(name) != now.versions.get(name)
    ]
    raise StoreError(
        f"store {store} holds trainings of other code or data: {', '.join(changed)}\n"
        "take the change back, or begin anew with --new-store (the old file is kept beside it)"
    )


def user_files(functions: Iterable[Callable[..., Any]]) -> list[Path]:
    """Return the user's source files behind some functions, those imported from there included, sorted.

    An import inside a function counts as well. What is installed does not: its version does.
    """
    found: set[Path] = set()
    waiting = [path for function in functions if (path := _file_of(function)) is not None]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += _imported(path)
    return sorted(found)


def data_digest(data: Any) -> str:
    """Return a digest of arrays, tables, tensors and whatever holds them.

    >>> data_digest({"x": np.arange(3)}) == data_digest({"x": np.arange(3)})
    True
    """
    digest = hashlib.sha256()
    _feed(digest, data)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        _feed(digest, np.asarray(value.detach().cpu()))
        return
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data.cast("B") if value.size else b"")
    elif isinstance(value, Mapping):
        for key in value:
            digest.update(repr(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, tuple | list):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for one in value:
            _feed(digest, one)
    elif value is None or isinstance(value, str | bytes | int | float | bool):
        digest.update(f"{type(value).__name__} {value!r}".encode())
    elif _is_frame(value):
        import pandas.util

        hashed: Any = pandas.util
        digest.update(repr(list(getattr(value, "columns", ()))).encode())
        digest.update(np.asarray(hashed.hash_pandas_object(value)).tobytes())
    else:
        try:
            digest.update(cloudpickle.dumps(value))
        except Exception:
            # What cannot be packed cannot be sent either; in one process its type is all there is to go by.
            digest.update(f"{type(value).__module__}.{type(value).__qualname__}".encode())


def _is_frame(value: Any) -> bool:
    return hasattr(value, "iloc")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _code_of(function: Callable[..., Any]) -> bytes:
    try:
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return repr((code.co_code, code.co_consts)).encode() if code is not None else repr(type(function)).encode()


def _file_of(function: Any) -> Path | None:
    target = inspect.unwrap(function) if callable(function) else function
    target = getattr(target, "func", target)
    try:
        name = inspect.getsourcefile(target if inspect.isroutine(target) or isinstance(target, type) else type(target))
    except TypeError:
        return None
    return _own(name)


def _own(name: str | None) -> Path | None:
    """Return a path when it is a source file of the user's, None when it is installed, built in or no file."""
    if not name or not name.endswith(".py"):
        return None
    path = Path(name).resolve()
    if not path.is_file() or any(path.is_relative_to(place) for place in _installed()):
        return None
    return path


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    import mlsysopt

    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {*site.getsitepackages(), site.getusersitepackages(), str(Path(mlsysopt.__file__).parent)}
    return tuple(Path(place).resolve() for place in places if place)


def _imported(path: Path) -> list[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = ("." * node.level) + (node.module or "")
            names |= {stem, *(f"{stem}{'' if stem.endswith('.') else '.'}{alias.name}" for alias in node.names)}
    return [found for name in sorted(names) if (found := _resolve(name, path)) is not None]


def _resolve(name: str, importer: Path) -> Path | None:
    level = len(name) - len(name.lstrip("."))
    if level:
        folder = importer.parents[level - 1]
        return _in_folder(folder, name[level:])
    loaded = sys.modules.get(name)
    if isinstance(loaded, ModuleType):
        return _own(getattr(loaded, "__file__", None))
    if "." not in name:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is not None:
            return _own(spec.origin)
    return _in_folder(importer.parent, name)


def _in_folder(folder: Path, dotted: str) -> Path | None:
    base = folder.joinpath(*dotted.split(".")) if dotted else folder
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if (found := _own(str(candidate))) is not None:
            return found
    return None

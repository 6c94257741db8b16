"""Generated files on disk: one per model, its name the hash of its text and of what compiles it."""

from __future__ import annotations

import hashlib
import logging
import platform
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlsysopt.core.places import cache_dir, replace_file
from mlsysopt.core.plugins import module_at
from mlsysopt.infer.emit.module import IMPORT, INNER, JIT

__all__ = ["Loaded", "door", "interpreted", "jitted", "key_of"]

_LOG = logging.getLogger(__name__)
_SAID: set[str] = set()
_LOADING = threading.Lock()

Loaded = dict[str, Callable[..., Any]]


def key_of(text: str) -> str:
    """Return the name of a generated file: text, versions of what compiles it, and the processor's features."""
    said = [
        text,
        *(f"{one} {version(one)}" for one in ("numba", "llvmlite", "numpy")),
        platform.python_version(),
        _cpu(),
    ]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def jitted(text: str) -> Loaded:
    """Return the functions of a generated file as numba compiles them; kept on disk across processes."""
    name = f"mlsysopt_infer_{key_of(text)}"
    # A module is known by its name before it has run: a second thread must not take it half loaded.
    with _LOADING:
        if name not in sys.modules:
            module_at(_written(text, name), name)
    return vars(sys.modules[name])


@cache
def interpreted(text: str) -> Loaded:
    """Return the functions of a generated file as plain Python."""
    plain = text.replace(IMPORT, "").replace(f"{JIT}\n", "").replace(f"{INNER}\n", "")
    found: dict[str, Any] = {"__name__": f"mlsysopt_infer_{hashlib.sha256(text.encode()).hexdigest()[:16]}_plain"}
    exec(compile(plain, "<generated for a model>", "exec"), found)
    return found


def door(functions: Loaded, name: str, arguments: Sequence[str]) -> Callable[..., Any]:
    """Return what Python may call in place of a function that has no door of its own: calling that would crash."""
    function = functions[name]
    if not hasattr(function, "py_func"):
        return function
    key = f"{name}__door"
    if key not in functions:
        import numba

        said = ", ".join(arguments)
        made: dict[str, Any] = {name: function}
        exec(f"def {key}({said}):\n    return {name}({said})\n", made)
        functions[key] = numba.njit(nogil=True)(made[key])  # pyright: ignore[reportUnknownMemberType]
    return functions[key]


def _written(text: str, name: str) -> Path:
    """Return the path of a file with this text; where the cache cannot be written, a temporary one, said once."""
    folder = cache_dir() / "infer"
    path = folder / f"{name}.py"
    try:
        if path.exists() and path.read_text() == text:
            return path
        folder.mkdir(parents=True, exist_ok=True)
        return replace_file(path, text.encode())
    except OSError as error:
        if str(folder) not in _SAID:
            _SAID.add(str(folder))
            _LOG.warning(
                "the cache %s cannot be written (%s); compiled code is kept for this process only", folder, error
            )
        path = Path(_temporary()) / f"{name}.py"
        path.write_text(text)
        return path


@cache
def _temporary() -> str:
    import atexit
    import shutil

    folder = tempfile.mkdtemp(prefix="mlsysopt-infer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _cpu() -> str:
    from llvmlite import binding

    return f"{binding.get_host_cpu_name()} {sorted(k for k, on in binding.get_host_cpu_features().items() if on)}"

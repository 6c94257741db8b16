"""Server files: shipped, installed by somebody else, or a path that the user names."""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from mlsysopt.core import plugins
from mlsysopt.core.errors import MlsysoptError, UsageError
from mlsysopt.operate.tune.hooks import ServerFileError, check_server
from mlsysopt.operate.tune.server import Server

__all__ = ["is_path", "names", "server", "source"]


def names() -> list[str]:
    """Return the names of all installed servers."""
    return plugins.names("mlsysopt.servers")


def is_path(what: str) -> bool:
    """Whether a word of the command line is a server file and not a name."""
    return what.endswith(".py") or "/" in what


def source(what: str) -> str:
    """Return the whole path of a server file, "" for the name of an installed one."""
    return str(Path(what).absolute()) if is_path(what) else ""


def server(what: str) -> Server:
    """Return a server by its registered name or by the path of its file, which defines `server`.

    Raises:
        UsageError: no such name or file.
        ServerFileError: the file does not import, or what it defines is no server.
        PluginError: an installed one that does not import.
    """
    if not is_path(what):
        return check_server(plugins.load("mlsysopt.servers", what, noun="server")(), what)
    path = Path(what).absolute()
    if not path.is_file():
        raise UsageError(f"no server file {what}: give the path of a Python file, or one of {', '.join(names())}")
    found = getattr(_imported(path, what), "server", None)
    if found is None:
        raise ServerFileError(f"{what} defines no `server`: end it with `server = YourServer()`")
    return check_server(found, what)


def _imported(path: Path, what: str) -> ModuleType:
    import cloudpickle

    # One name for one path: asked for twice, it is one module.
    name = f"mlsysopt_server_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    try:
        module = plugins.module_at(path, name)
    except MlsysoptError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
        line = frames[-1].lineno if frames else getattr(error, "lineno", "?")
        raise ServerFileError(f"{what}:{line}: it does not import: {type(error).__name__}: {error}") from error
    # A worker could not import it: no path leads there by name.
    cloudpickle.register_pickle_by_value(module)
    return module

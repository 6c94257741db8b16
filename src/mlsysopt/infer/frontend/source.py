"""Where a model's text comes from, and errors that point into it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import UsageError

__all__ = ["ModelError", "Source", "read"]


class ModelError(UsageError):
    """A model that is not in the language, or that cannot be inferred: `file:line: what; remedy`."""


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one model.

    Attributes:
        name: Of the function.
        file: Its path, as messages show it.
        tree: Of the function; line numbers are the file's.
        text: The function's own source.
    """

    name: str
    file: str
    tree: ast.FunctionDef
    text: str

    def error(self, where: ast.AST | int, what: str) -> ModelError:
        """Make the error for a node or a line."""
        line = where if isinstance(where, int) else getattr(where, "lineno", self.tree.lineno)
        return ModelError(f"{Path(self.file).name}:{line}: {what}")

    def lines(self) -> dict[int, str]:
        """Return the source's lines by their number in the file."""
        first = min([self.tree.lineno, *(one.lineno for one in self.tree.decorator_list)])
        return {first + i: line.strip() for i, line in enumerate(self.text.splitlines())}


def read(function: Callable[..., Any], source: str | None = None) -> Source:
    """Read the source of a function.

    Args:
        function: What the user wrote.
        source: Its text, where Python cannot find it.

    Raises:
        ModelError: there is no source, or it is not one plain function.
    """
    name, file, first = function.__name__, function.__code__.co_filename, function.__code__.co_firstlineno
    if name == "<lambda>":
        raise ModelError(f"{Path(file).name}:{first}: a lambda cannot be a model; write it as `def` in a file")
    if source is None:
        try:
            source = inspect.getsource(function)
        except (OSError, TypeError) as error:
            raise ModelError(
                f"{name}: its source is not available ({error}); put the model in a file, or pass `source=`"
            ) from None
    else:
        file, first = f"<source of {name}>", 1
    text = textwrap.dedent(source)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ModelError(f"{Path(file).name}:{first + (error.lineno or 1) - 1}: {error.msg}") from None
    found = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == name]
    if not found:
        raise ModelError(f"{Path(file).name}:{first}: there is no `def {name}` here; a model is one plain function")
    ast.increment_lineno(tree, first - 1)
    return Source(name, file, found[0], text)

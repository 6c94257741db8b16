"""Runtime functions as text: a generated file holds everything that it calls, and so its name can be its hash."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["Functions"]


class Functions:
    """Collects the functions that a generated file needs, each before those that call it."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._constants: dict[str, str] = {}

    def use(self, function: Callable[..., Any]) -> str:
        """Take a function and all that it uses; return its name.

        Raises:
            ValueError: two functions of one name.
        """
        name = function.__name__
        text, needed, constants = _taken(function)
        if name in self._found:
            if self._found[name] != text:
                raise ValueError(f"two runtime functions are called {name}")
            return name
        for one in needed:
            self.use(one)
        self._constants.update(constants)
        self._found[name] = text
        return name

    def text(self, decorator: str) -> str:
        """Return constants and functions as source, each function under a decorator."""
        constants = "".join(f"{name} = {value}\n" for name, value in self._constants.items())
        return constants + "".join(f"\n\n{decorator}\n{text}" for text in self._found.values())


@cache
def _taken(function: Callable[..., Any]) -> tuple[str, tuple[Callable[..., Any], ...], dict[str, str]]:
    """Return a function's text without docstring and annotations, the functions it uses and its constants."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    if isinstance(tree.body[0], ast.Expr) and isinstance(tree.body[0].value, ast.Constant):
        tree.body = tree.body[1:]
    tree.returns = None
    for one in tree.args.args:
        one.annotation = None
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(node, field, [_bare(one) for one in value])  # pyright: ignore[reportUnknownArgumentType]
    module = inspect.getmodule(function)
    needed: list[Callable[..., Any]] = []
    constants: dict[str, str] = {}
    for name in sorted({one.id for one in ast.walk(tree) if isinstance(one, ast.Name)}):
        value = getattr(module, name, None)
        if inspect.isfunction(value) and value is not function:
            needed.append(value)
        elif name.lstrip("_").isupper() and isinstance(value, int | float | tuple):
            constants[name] = repr(value)  # pyright: ignore[reportUnknownArgumentType]
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n", tuple(needed), constants


def _bare(node: Any) -> Any:
    """Turn `x: float = 1.0` into `x = 1.0`: annotations are for readers of the original."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return ast.Assign([node.target], node.value)
    return node

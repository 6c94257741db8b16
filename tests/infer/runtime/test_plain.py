"""Runtime functions are copied as text into generated files and compiled there: they keep to a small part of Python."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mlsysopt.infer.runtime import densities, draws, numerics, turning

MODULES = [Path(module.__file__ or "") for module in (numerics, densities, draws, turning)]
MATH = {"exp", "expm1", "floor", "inf", "isnan", "log", "log1p", "nan", "sqrt"}
"""What gives the same bits compiled and not."""
NUMPY = {"empty"}
BUILTINS = {"abs", "float", "int", "max", "min", "range"}
RANDOM = {"binomial", "poisson", "random", "standard_exponential", "standard_gamma", "standard_normal"}
FORBIDDEN = (
    ast.AsyncFunctionDef, ast.Await, ast.Dict, ast.DictComp, ast.GeneratorExp, ast.Global, ast.JoinedStr, ast.Lambda,
    ast.List, ast.ListComp, ast.MatMult, ast.Nonlocal, ast.Pow, ast.Raise, ast.Set, ast.SetComp, ast.Starred, ast.Try,
    ast.With, ast.Yield, ast.keyword,
)  # fmt: skip


def functions_of(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_functions_are_plain(path: Path) -> None:
    tree = ast.parse(path.read_text())
    own = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    own |= {one.name for one in functions_of(path)}
    for function in functions_of(path):
        where = f"{path.stem}.{function.name}"
        assert not function.decorator_list and not function.args.defaults and not function.args.kwonlyargs, where
        assert ast.get_docstring(function), where
        for node in ast.walk(function):
            assert not isinstance(node, FORBIDDEN), f"{where}: {ast.unparse(node)}"
            assert node is function or not isinstance(node, ast.FunctionDef), where
            match node:
                case ast.Attribute(value=ast.Name(id="math"), attr=name):
                    assert name in MATH, f"{where}: math.{name}"
                case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr=name)):
                    assert name in NUMPY, f"{where}: np.{name}"
                case ast.Call(func=ast.Attribute(value=ast.Name(id="rng"), attr=name)):
                    assert name in RANDOM, f"{where}: rng.{name}"
                case ast.Call(func=ast.Name(id=name)):
                    assert name in BUILTINS | own, f"{where}: {name}"
                case _:
                    pass


def test_no_two_functions_or_constants_share_a_name() -> None:
    seen: dict[str, str] = {}
    for path in sorted(MODULES[0].parent.glob("*.py")):
        names = [one.name for one in functions_of(path)]
        names += [
            target.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id.isupper()
        ]
        for name in names:
            assert name not in seen, f"{name} stands in {seen[name]} and {path.stem}"
            seen[name] = path.stem

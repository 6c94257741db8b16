"""The source of a model, rewritten so that it runs as ordinary Python whose draws are hooks.

File and line stay those of the model: breakpoints in it are met and tracebacks show it.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from mlsysopt.core.errors import UsageError

__all__ = ["Rewritten", "hook_name", "rewrite"]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A model that can be executed.

    Attributes:
        module: Defines the function when it is executed.
        file: Name of its file without folders, for messages.
        line: Of its `def`.
        targets: Names that it assigns.
    """

    module: CodeType
    file: str
    line: int
    targets: frozenset[str]


def hook_name(hook: str) -> str:
    """The name under which rewritten source calls a hook.

    The hooks: `bind(value, name)` for `name = value`; `put(value, base, name, index)` for `name[index] = value`;
    `read(base, index, text)` for an indexing; `observe(distribution, base, name, index, text)`; `loop(items, place)`
    around what a `for` runs over; `slice`.
    """
    return f"_interpret_{hook}"


def rewrite(function: Callable[..., Any], source: str | None, observers: frozenset[str]) -> Rewritten:
    """Rewrite a model.

    Args:
        function: As its `def` left it.
        source: Text that contains the `def`, None to look it up.
        observers: What calls of `observe` look like there: `observe`, `infer.observe`, ...

    Raises:
        UsageError: there is no source, or it assigns to something other than a name or a cell.
    """
    code = function.__code__
    return _rewrite(code, code.co_filename, source, observers)


# The file belongs to the key: code of two files with the same lines is equal.
@functools.lru_cache(maxsize=256)
def _rewrite(code: CodeType, path: str, source: str | None, observers: frozenset[str]) -> Rewritten:
    definition = _definition(code, source)
    file = Path(path).name
    taken = definition.args
    parameters = {one.arg for one in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)}
    rewriter = _Rewriter(file, parameters, observers)
    for one in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs):
        one.annotation = None
    taken.defaults, taken.kw_defaults = [], [None for _ in taken.kwonlyargs]
    definition.decorator_list, definition.returns = [], None
    definition.body = rewriter.statements(definition.body)
    module = ast.fix_missing_locations(ast.Module(body=[definition], type_ignores=[]))
    compiled = compile(module, path, "exec", dont_inherit=True)
    return Rewritten(compiled, file, definition.lineno, frozenset(rewriter.targets))


def _definition(code: CodeType, source: str | None) -> ast.FunctionDef:
    name = code.co_name
    remedies = "put the model in a file as a def, or pass source= with its text"
    if source is None:
        try:
            source = inspect.getsource(code)
        except (OSError, TypeError):
            raise UsageError(f"{name}: its source is not available; {remedies}") from None
    try:
        tree = _parse(source)
    except SyntaxError as error:
        raise UsageError(f"{name}: its source cannot be read, {error}; {remedies}") from None
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    if not found:
        raise UsageError(f"{name}: there is no def of that name in its source; {remedies}")
    here = [node for node in found if _first_line(node) == code.co_firstlineno]
    chosen = (here or found)[-1]
    return ast.increment_lineno(chosen, code.co_firstlineno - _first_line(chosen))


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except IndentationError:
        # A def inside of something keeps its columns, which tracebacks underline.
        return ast.parse("if True:\n" + source)


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(one.lineno for one in node.decorator_list)])


class _Rewriter(ast.NodeTransformer):
    """Replaces assignments, indexing, observations and loops by hooks, each where it stood."""

    def __init__(self, file: str, parameters: set[str], observers: frozenset[str]) -> None:
        self.targets: set[str] = set()
        self._file = file
        self._parameters = parameters
        self._observers = observers

    def statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        return [self.visit(statement) for statement in body]

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        if len(node.targets) != 1:
            raise self._error(node, "two names share one assignment", "write one line for each")
        return self._assignment(node, node.targets[0], node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return self._assignment(node, node.target, node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        name = ast.unparse(node.target)
        raise self._error(
            node, f"{name} is assigned twice", "every cell is assigned once; sum up with reduce(add, terms[0:n])"
        )

    def visit_For(self, node: ast.For) -> ast.stmt:
        place = ast.Constant(f"{node.lineno}:{node.col_offset}")
        node.iter = self._hook("loop", node.iter, self.visit(node.iter), place)
        node.body = self.statements(node.body)
        node.orelse = self.statements(node.orelse)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        call = node.value
        if isinstance(call, ast.Call) and ast.unparse(call.func) in self._observers:
            observed = self._observation(call)
            value = self._observed_value(call)
            if isinstance(value, ast.Name) and value.id in self._parameters:
                # An input that does not exist yet is a number from here on.
                return ast.copy_location(ast.Assign([ast.Name(value.id, ast.Store())], observed), node)
            return ast.copy_location(ast.Expr(observed), node)
        node.value = self.visit(call)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        text = ast.unparse(node)
        if not isinstance(node.ctx, ast.Load):
            raise self._error(node, f"{text} stands where only a name can", "write one assignment a line")
        index = self._positions(node, node)
        return self._hook("read", node, self.visit(node.value), index, ast.Constant(text))

    def _assignment(self, node: ast.stmt, target: ast.expr, value: ast.expr) -> ast.stmt:
        made = self.visit(value)
        if isinstance(target, ast.Name):
            self.targets.add(target.id)
            bound = self._hook("bind", node, made, ast.Constant(target.id))
            return ast.copy_location(ast.Assign([target], bound), node)
        base, links = _chain(target)
        if not isinstance(base, ast.Name) or not links:
            raise self._error(
                node, f"{ast.unparse(target)} cannot be assigned", "assign a name, or a cell such as z[t]"
            )
        self.targets.add(base.id)
        load = ast.copy_location(ast.Name(base.id, ast.Load()), target)
        index = self._positions(target, *links)
        return ast.copy_location(ast.Expr(self._hook("put", node, made, load, ast.Constant(base.id), index)), node)

    def _observation(self, call: ast.Call) -> ast.expr:
        value, law = self._observed_value(call), self._argument(call, 1, "distribution")
        if value is None or law is None or len(call.args) + len(call.keywords) != 2:
            raise self._error(call, "observe takes a value and a distribution", "write observe(y[t], Normal(mean, sd))")
        base, links = _chain(value)
        text = ast.Constant(ast.unparse(value))
        if isinstance(base, ast.Name) and base.id in self._parameters and not _has_range(links):
            name, index = base.id, self._positions(value, *links)
            return self._hook("observe", call, self.visit(law), base, ast.Constant(name), index, text)
        nothing = ast.Tuple([], ast.Load())
        return self._hook("observe", call, self.visit(law), self.visit(value), ast.Constant(""), nothing, text)

    def _observed_value(self, call: ast.Call) -> ast.expr | None:
        return self._argument(call, 0, "value")

    def _argument(self, call: ast.Call, place: int, name: str) -> ast.expr | None:
        if place < len(call.args):
            return call.args[place]
        return next((one.value for one in call.keywords if one.arg == name), None)

    def _positions(self, at: ast.AST, *links: ast.Subscript) -> ast.expr:
        positions: list[ast.expr] = []
        for link in links:
            inner = link.slice
            for one in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
                positions.append(self._slice(one) if isinstance(one, ast.Slice) else self.visit(one))
        return ast.copy_location(ast.Tuple(positions, ast.Load()), at)

    def _slice(self, node: ast.Slice) -> ast.expr:
        ends = [ast.Constant(None) if end is None else self.visit(end) for end in (node.lower, node.upper, node.step)]
        return self._hook("slice", node, *ends)

    def _hook(self, name: str, at: ast.AST, *args: ast.expr) -> ast.expr:
        called = ast.copy_location(ast.Name(hook_name(name), ast.Load()), at)
        return ast.fix_missing_locations(ast.copy_location(ast.Call(called, list(args), []), at))

    def _error(self, node: ast.AST, what: str, remedy: str) -> UsageError:
        return UsageError(f"{self._file}:{getattr(node, 'lineno', 0)}: {what}; {remedy}")


def _chain(node: ast.expr) -> tuple[ast.expr, list[ast.Subscript]]:
    """Take `m[k][j]` apart into what is indexed and the indexings, outermost last."""
    links: list[ast.Subscript] = []
    while isinstance(node, ast.Subscript):
        links.insert(0, node)
        node = node.value
    return node, links


def _has_range(links: Sequence[ast.Subscript]) -> bool:
    return any(isinstance(part, ast.Slice) for link in links for part in ast.walk(link.slice))

"""From a model's source to its sites: one pass over the statements, deterministic ones inlined as it goes."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from mlsysopt.infer.distributions import ALL
from mlsysopt.infer.frontend.expressions import DrawCall, Expressions
from mlsysopt.infer.frontend.observing import observe
from mlsysopt.infer.frontend.scope import Computed, Definition, Scope
from mlsysopt.infer.frontend.sites import Sites, event_size
from mlsysopt.infer.frontend.source import Source
from mlsysopt.infer.ir import (
    Block,
    Computation,
    Const,
    Expr,
    For,
    Get,
    Guard,
    If,
    Index,
    Kind,
    Program,
    Size,
    Statement,
    Variable,
    call,
)

__all__ = ["lower"]

_KINDS: dict[str, Kind] = {"int": "int", "float": "float", "bool": "bool"}


def lower(source: Source, inputs: Mapping[str, Variable], *, missing: Sequence[str] = ()) -> Program:
    """Read a model.

    Args:
        source: Its text.
        inputs: What is given: name -> kind, rank and raggedness, as `Variable`s.
        missing: Inputs some of whose cells are not given and so are drawn; `<name>__missing` is an input that says
            which.

    Raises:
        ModelError: it is not in the language; `file:line: what; remedy`.
    """
    return _Lowering(source, inputs, missing).program()


class _Lowering:
    def __init__(self, source: Source, inputs: Mapping[str, Variable], missing: Sequence[str]) -> None:
        self.source, self.missing = source, set(missing)
        self.scope = Scope(inputs)
        self.of = Expressions(source, self.scope)
        self.sites = Sites(source, self.scope)
        self.scope.loops, self.scope.guards = self.sites.loops, self.sites.guards

    def program(self) -> Program:
        body = self._block(self.source.tree.body, top=True)
        if not self.sites.found:
            raise self.source.error(self.source.tree, f"{self.source.name} draws and observes nothing")
        for name, (_, _, _, line) in self.scope.declared.items():
            raise self.source.error(line, f"{name} is declared and none of its cells is assigned; remove it or draw it")
        self.sites.check()
        return Program(
            self.source.name,
            self.source.file,
            self.scope.variables,
            tuple(self.sites.found),
            body,
            self.source.lines(),
            tuple(self.scope.computations),
        )

    # Statements.

    def _block(self, nodes: Sequence[ast.stmt], top: bool = False) -> Block:
        found: list[Statement] = []
        for i, node in enumerate(nodes):
            if top and not i and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            found += self._statement(node)
        return tuple(found)

    def _statement(self, node: ast.stmt) -> Sequence[Statement]:
        match node:
            case ast.Assign(targets=[ast.Name() | ast.Subscript() as target], value=value):
                return self._assign(node, target, value)
            case ast.AnnAssign(target=ast.Name() | ast.Subscript() as target, value=ast.expr() as value):
                return self._assign(node, target, value)
            case ast.Expr(value=ast.Call(func=func) as value):
                name = func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""
                if name == "observe":
                    return observe(self.of, self.sites, value, self.missing)
                if name == "factor":
                    return self._factor(value)
                if self.of.draw(value) is not None:
                    raise self.source.error(node, "a draw without a name; assign it, or `observe(value, ...)`")
                raise self.source.error(node, f"the language has no statement {ast.unparse(node)}")
            case ast.For(
                target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"), args=args, keywords=[]), orelse=[]
            ):
                return self._for(node, name, args)
            case ast.For():
                raise self.source.error(
                    node,
                    f"loops have the form `for i in range(lo, hi[, step])`, got {ast.unparse(node).splitlines()[0]}",
                )
            case ast.If(test=test):
                return self._if(node, test)
            case ast.Pass():
                return ()
            case ast.While():
                raise self.source.error(
                    node, "the language has no `while`; the number of draws is known from the inputs: use `for`"
                )
            case ast.AugAssign():
                raise self.source.error(
                    node, f"{ast.unparse(node)} changes a value; use reduce(op, a[lo:hi]) or a new name"
                )
            case ast.Assign(targets=[ast.Tuple(), *_]) | ast.Assign(targets=[_, _, *_]):
                raise self.source.error(node, "one name is assigned at a time")
            case ast.Return():
                raise self.source.error(node, "a model returns nothing; every variable of it can be read from the fit")
            case ast.Import() | ast.ImportFrom():
                raise self.source.error(node, "imports stand above the model")
            case _:
                raise self.source.error(node, f"the language has no {type(node).__name__.lower()} statement")

    def _for(self, node: ast.For, name: str, args: Sequence[ast.expr]) -> Sequence[Statement]:
        if not 1 <= len(args) <= 3:
            raise self.source.error(node, "range() takes one to three numbers")
        step = 1
        if len(args) == 3:
            value = self.of.number(args[2])
            if not isinstance(value, Const) or not isinstance(value.value, int) or value.value == 0:
                raise self.source.error(node, "the step of a loop is a plain whole number other than 0")
            step = value.value
        low = self.of.whole(args[0]) if len(args) > 1 else Const(0)
        high = self.of.whole(args[1] if len(args) > 1 else args[0])
        for bound in (low, high):
            self.sites.given_only(node, bound, "a loop's bound")
        if name in self.scope.names():
            raise self.source.error(node, f"{name} has a meaning already; give the loop's index a name of its own")
        loop = self.sites.loop(name, low, high, node.lineno, step)
        outside = dict(self.scope.values)
        self.scope.values[name] = Index(loop.index)
        self.sites.loops.append(loop)
        body = self._block(node.body)
        self.sites.loops.pop()
        # What a loop assigns to a plain name has no single value behind it.
        for one in [one for one in self.scope.values if one not in outside]:
            del self.scope.values[one]
        return (For(loop, body),)

    def _if(self, node: ast.If, test: ast.expr) -> Sequence[Statement]:
        condition = self.of.number(test)
        before = dict(self.scope.values)
        guard = Guard(condition, node.lineno)
        blocks: list[Block] = []
        values: list[dict[str, Expr]] = []
        for one, body in ((condition, node.body), (call("not", condition), node.orelse)):
            self.scope.values = dict(before)
            self.sites.guards.append(Guard(one, node.lineno))
            blocks.append(self._block(body))
            self.sites.guards.pop()
            values.append({name: value for name, value in self.scope.values.items() if name not in before})
        self.scope.values = before
        yes, no = values
        for name in {*yes} ^ {*no}:
            self.scope.partly[name] = node.lineno
        for name in [name for name in yes if name in no]:
            self.scope.values[name] = call("select", condition, yes[name], no[name])
        return (If(guard, *blocks),)

    # Assignments.

    def _assign(self, node: ast.stmt, target: ast.Name | ast.Subscript, value: ast.expr) -> Sequence[Statement]:
        name = target.id if isinstance(target, ast.Name) else _base(target)
        if name is None:
            raise self.source.error(
                node, f"{ast.unparse(target)} cannot be assigned; assign a name or a cell of an array"
            )
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name | ast.Attribute):
            called = value.func.id if isinstance(value.func, ast.Name) else value.func.attr
            if called == "array":
                return self._declare(node, target, value)
        if name in self.scope.variables and self.scope.variables[name].input:
            raise self.source.error(
                node,
                f"{name} is an input and cannot be assigned; `observe({ast.unparse(target)}, ...)` conditions on it",
            )
        drawn = self.of.draw(value)
        if isinstance(target, ast.Name):
            self._fresh_name(node, name)
            if drawn is not None:
                return self._draw_name(node, name, drawn)
            reference = self.of.array(value)
            if reference is not None and len(reference[1]) < len(self.scope.shape_of(reference[0]) or ()):
                raise self.source.error(
                    node, f"{name} would be a second name of {reference[0]}; use {ast.unparse(value)} itself"
                )
            self.scope.values[name] = self.of.number(value)
            self.scope.lines[name] = node.lineno
            return ()
        return self._cell(node, name, target, value, drawn)

    def _fresh_name(self, node: ast.stmt, name: str) -> None:
        if name in self.scope.values and isinstance(self.scope.values[name], Index):
            raise self.source.error(node, f"{name} is a loop's index; give the value a name of its own")
        if name in self.scope.names():
            first = self.scope.lines.get(name) or self.scope.variables[name].line
            raise self.source.error(
                node, f"{name} is assigned twice (first at line {first}); give the second one a name of its own"
            )

    def _declare(self, node: ast.stmt, target: ast.Name | ast.Subscript, value: ast.Call) -> Sequence[Statement]:
        if not isinstance(target, ast.Name):
            raise self.source.error(node, "array(...) is assigned to a plain name")
        self._fresh_name(node, target.id)
        kind = value.args[0].id if value.args and isinstance(value.args[0], ast.Name) else ""
        if kind not in _KINDS:
            raise self.source.error(node, "array(type, n[, m]) needs int, float or bool as its type")
        like = [one.value for one in value.keywords if one.arg == "like"]
        if like:
            found = self.of.array(like[0])
            given = self.scope.variables.get(found[0]) if found is not None else None
            if given is None or not given.input or (found is not None and found[1]):
                raise self.source.error(node, f"like= takes an input array, got {ast.unparse(like[0])}")
            shape = tuple(Size(given.name, axis) for axis in range(given.rank))
            self.scope.declared[target.id] = _KINDS[kind], shape, given.name if given.ragged else "", node.lineno
            return ()
        sizes = tuple(self.of.index(one) for one in value.args[1:])
        if not 1 <= len(sizes) <= 2 or value.keywords:
            raise self.source.error(node, "array(type, n[, m]) has one or two dimensions, or `like=` a ragged input")
        for size in sizes:
            self.sites.given_only(node, size, f"the size of {target.id}")
        if self.sites.loops:
            raise self.source.error(
                node, f"{target.id} is declared inside a loop; declare it above, with a dimension for the loop"
            )
        self.scope.declared[target.id] = _KINDS[kind], sizes, "", node.lineno
        return ()

    def _draw_name(self, node: ast.stmt, name: str, drawn: DrawCall) -> Sequence[Statement]:
        if self.sites.loops or self.sites.guards:
            where = "loop" if self.sites.loops else "branch"
            raise self.source.error(
                node, f"{name} would be drawn anew in a {where}; declare `{name} = array(...)` above and draw its cells"
            )
        if drawn.rows is None:
            distribution, args = self.of.distribution(drawn)
            shape = (event_size(args),) if distribution.event else ()
            kind = _kind(distribution.name, distribution.discrete)
            self.scope.variables[name] = Variable(name, kind, shape, node.lineno, event=distribution.event)
            return [self.sites.add(node, name, (), distribution, args)]
        size = self.of.index(drawn.rows)
        self.sites.given_only(node, size, f"the size of {name}")
        loop = self.sites.loop(f"{name}_row", Const(0), size, node.lineno)
        row = Index(loop.index)
        distribution, args = self.of.distribution(drawn, row)
        shape = (size, event_size(args)) if distribution.event else (size,)
        kind = _kind(distribution.name, distribution.discrete)
        if drawn.ordered and (distribution.event or distribution.discrete):
            raise self.source.error(
                node,
                f".ordered() needs numbers, and {distribution.name} draws "
                f"{'vectors' if distribution.event else 'whole numbers'}",
            )
        self.scope.variables[name] = Variable(
            name, kind, shape, node.lineno, event=distribution.event, ordered=drawn.ordered
        )
        self.sites.loops.append(loop)
        site = self.sites.add(node, name, (row,), distribution, args, ordered=drawn.ordered)
        self.sites.loops.pop()
        return [For(loop, (site,))]

    def _cell(
        self, node: ast.stmt, name: str, target: ast.Subscript, value: ast.expr, drawn: DrawCall | None
    ) -> Sequence[Statement]:
        shape = self.scope.shape_of(name)
        if shape is None:
            raise self.source.error(node, f"{name} is not declared; write `{name} = array(float, n)` above it")
        at = self._indices(target)
        for one in at:
            self.sites.given_only(node, one, f"the index of {name}")
        if drawn is None:
            self._no_recurrence(node, name, at, value)
            return self._computed(node, name, at, self.of.number(value))
        if name in self.scope.computed:
            first = self.scope.computed[name].line
            raise self.source.error(
                node, f"{name} has computed cells (line {first}) and drawn ones; keep the two in arrays of their own"
            )
        for guard in self.sites.guards:
            self.sites.given_only(
                node,
                guard.condition,
                f"whether {name} is drawn",
                "; put the choice into its arguments: `a if c else b`",
            )
        if drawn.rows is not None:
            raise self.source.error(node, f".rows() draws a whole array: `{name} = ...rows(n)`; here a cell is drawn")
        kind, whole, like, line = self.scope.declared.get(name) or (self.scope.variables[name].kind, shape, "", 0)
        if name in self.scope.declared and self.sites.loops:
            # In a loop a cell may be drawn from an earlier one of the same line; binding sees that it is earlier.
            event = ALL[drawn.name.partition(".")[0]].event
            del self.scope.declared[name]
            self.scope.variables[name] = Variable(name, kind, whole, line, ragged=bool(like), like=like, event=event)
        distribution, args = self.of.distribution(drawn)
        if len(at) != len(whole) - distribution.event:
            what = "a row" if distribution.event else "a number"
            raise self.source.error(node, f"{distribution.name} draws {what}, and {ast.unparse(target)} is none")
        if distribution.discrete and kind == "float":
            raise self.source.error(
                node, f"{name} is declared float and {distribution.name} draws whole numbers; declare array(int, ...)"
            )
        if not distribution.discrete and kind != "float":
            raise self.source.error(
                node,
                f"{name} is declared {kind} and {distribution.name} draws numbers with a fraction; "
                "declare array(float, ...)",
            )
        if name in self.scope.declared:
            del self.scope.declared[name]
            self.scope.variables[name] = Variable(
                name, kind, whole, line, ragged=bool(like), like=like, event=distribution.event
            )
        return [self.sites.add(node, name, at, distribution, args)]

    def _computed(self, node: ast.stmt, name: str, at: tuple[Expr, ...], value: Expr) -> Sequence[Statement]:
        if name in self.scope.variables:
            first = self.scope.variables[name].line
            raise self.source.error(
                node, f"{name} has drawn cells (line {first}) and computed ones; keep the two in arrays of their own"
            )
        if name in self.scope.declared:
            kind, shape, _, line = self.scope.declared.pop(name)
            self.scope.computed[name] = Computed(name, kind, shape, line)
        computed = self.scope.computed[name]
        if len(at) != len(computed.shape):
            raise self.source.error(node, f"{name} has {len(computed.shape)} dimensions, got {len(at)} indices")
        if any(one.at == at and one.guards == tuple(self.sites.guards) for one in computed.definitions):
            raise self.source.error(node, f"{Get(name, at)} is assigned twice; give the second one a name of its own")
        loops, guards = tuple(self.sites.loops), tuple(self.sites.guards)
        computed.definitions.append(Definition(at, value, loops, guards, node.lineno))
        self.scope.computations.append(Computation(node.lineno, Get(name, at), computed.shape, loops, guards))
        return ()

    def _no_recurrence(self, node: ast.stmt, name: str, at: tuple[Expr, ...], value: ast.expr) -> None:
        """Refuse cells computed in a loop from cells that the same line computes."""
        for one in ast.walk(value) if self.sites.loops and name in self.scope.computed else ():
            found = self.of.array(one) if isinstance(one, ast.Subscript) else None
            if found is None or found[0] != name or len(found[1]) < len(at):
                continue
            if not any(
                isinstance(a, Const) and isinstance(b, Const) and a != b for a, b in zip(at, found[1], strict=True)
            ):
                raise self.source.error(
                    node, f"{Get(name, at)} is computed from {ast.unparse(one)}, a recurrence; draw the cells, or "
                    "write them in closed form with reduce(op, a[lo:hi])"
                )  # fmt: skip

    def _indices(self, target: ast.Subscript) -> tuple[Expr, ...]:
        outer = self._indices(target.value) if isinstance(target.value, ast.Subscript) else ()
        parts = target.slice.elts if isinstance(target.slice, ast.Tuple) else [target.slice]
        for part in parts:
            if isinstance(part, ast.Slice):
                raise self.source.error(
                    target, f"{ast.unparse(target)}: a slice cannot be assigned; assign cells in a loop"
                )
        return (*outer, *(self.of.index(part) for part in parts))

    def _factor(self, node: ast.Call) -> Sequence[Statement]:
        if len(node.args) != 1 or node.keywords:
            raise self.source.error(node, "factor(log_weight) takes one number")
        return [self.sites.weigh(node, self.of.number(node.args[0]))]


def _base(target: ast.expr) -> str | None:
    while isinstance(target, ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


def _kind(name: str, discrete: bool) -> Kind:
    return "bool" if name in ("Bernoulli", "BernoulliLogit") else "int" if discrete else "float"

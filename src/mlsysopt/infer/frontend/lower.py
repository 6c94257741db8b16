"""From a model's source to its sites: one pass over the statements, deterministic ones inlined as it goes."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlsysopt.infer.distributions import ALL
from mlsysopt.infer.frontend.expressions import DrawCall, Expressions
from mlsysopt.infer.frontend.scope import Computed, Definition, Scope, uses
from mlsysopt.infer.frontend.source import Source
from mlsysopt.infer.ir import (
    Block,
    Call,
    Computation,
    Const,
    Expr,
    For,
    Get,
    Guard,
    If,
    Index,
    Kind,
    Loop,
    Program,
    Site,
    Size,
    Statement,
    Variable,
    Vector,
    call,
    walk,
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
        self.sites: list[Site] = []
        self.loops: list[Loop] = []
        self.guards: list[Guard] = []
        self.scope.loops, self.scope.guards = self.loops, self.guards
        self.count = 0
        self.drawn: dict[str, int] = {}

    def program(self) -> Program:
        body = self._block(self.source.tree.body, top=True)
        if not self.sites:
            raise self.source.error(self.source.tree, f"{self.source.name} draws and observes nothing")
        for name, (_, _, _, line) in self.scope.declared.items():
            raise self.source.error(line, f"{name} is declared and none of its cells is assigned; remove it or draw it")
        self._check_overlaps()
        return Program(
            self.source.name, self.source.file, self.scope.variables, tuple(self.sites), body, self.source.lines(),
            tuple(self.scope.computations),
        )  # fmt: skip

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
                    return self._observe(value)
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
            self._given_only(node, bound, "a loop's bound")
        if name in self.scope.names():
            raise self.source.error(node, f"{name} has a meaning already; give the loop's index a name of its own")
        loop = self._loop(name, low, high, node.lineno, step)
        outside = dict(self.scope.values)
        self.scope.values[name] = Index(loop.index)
        self.loops.append(loop)
        body = self._block(node.body)
        self.loops.pop()
        # What a loop assigns to a plain name has no single value behind it.
        for one in [one for one in self.scope.values if one not in outside]:
            del self.scope.values[one]
        return (For(loop, body),)

    def _loop(self, name: str, low: Expr, high: Expr, line: int, step: int = 1) -> Loop:
        self.count += 1
        return Loop(self.scope.fresh(name), low, high, step, line, self.count)

    def _if(self, node: ast.If, test: ast.expr) -> Sequence[Statement]:
        condition = self.of.number(test)
        before = dict(self.scope.values)
        guard = Guard(condition, node.lineno)
        blocks: list[Block] = []
        values: list[dict[str, Expr]] = []
        for one, body in ((condition, node.body), (call("not", condition), node.orelse)):
            self.scope.values = dict(before)
            self.guards.append(Guard(one, node.lineno))
            blocks.append(self._block(body))
            self.guards.pop()
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
            self._given_only(node, size, f"the size of {target.id}")
        if self.loops:
            raise self.source.error(
                node, f"{target.id} is declared inside a loop; declare it above, with a dimension for the loop"
            )
        self.scope.declared[target.id] = _KINDS[kind], sizes, "", node.lineno
        return ()

    def _draw_name(self, node: ast.stmt, name: str, drawn: DrawCall) -> Sequence[Statement]:
        if self.loops or self.guards:
            where = "loop" if self.loops else "branch"
            raise self.source.error(
                node, f"{name} would be drawn anew in a {where}; declare `{name} = array(...)` above and draw its cells"
            )
        if drawn.rows is None:
            distribution, args = self.of.distribution(drawn)
            shape = (_event_size(args),) if distribution.event else ()
            kind = _kind(distribution.name, distribution.discrete)
            self.scope.variables[name] = Variable(name, kind, shape, node.lineno, event=distribution.event)
            return [self._site(node, name, (), distribution, args)]
        size = self.of.index(drawn.rows)
        self._given_only(node, size, f"the size of {name}")
        loop = self._loop(f"{name}_row", Const(0), size, node.lineno)
        row = Index(loop.index)
        distribution, args = self.of.distribution(drawn, row)
        shape = (size, _event_size(args)) if distribution.event else (size,)
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
        self.loops.append(loop)
        site = self._site(node, name, (row,), distribution, args, ordered=drawn.ordered)
        self.loops.pop()
        return [For(loop, (site,))]

    def _cell(
        self, node: ast.stmt, name: str, target: ast.Subscript, value: ast.expr, drawn: DrawCall | None
    ) -> Sequence[Statement]:
        shape = self.scope.shape_of(name)
        if shape is None:
            raise self.source.error(node, f"{name} is not declared; write `{name} = array(float, n)` above it")
        at = self._indices(target)
        for one in at:
            self._given_only(node, one, f"the index of {name}")
        if drawn is None:
            self._no_recurrence(node, name, at, value)
            return self._computed(node, name, at, self.of.number(value))
        if name in self.scope.computed:
            first = self.scope.computed[name].line
            raise self.source.error(
                node, f"{name} has computed cells (line {first}) and drawn ones; keep the two in arrays of their own"
            )
        for guard in self.guards:
            self._given_only(
                node,
                guard.condition,
                f"whether {name} is drawn",
                "; put the choice into its arguments: `a if c else b`",
            )
        if drawn.rows is not None:
            raise self.source.error(node, f".rows() draws a whole array: `{name} = ...rows(n)`; here a cell is drawn")
        kind, whole, like, line = self.scope.declared.get(name) or (self.scope.variables[name].kind, shape, "", 0)
        if name in self.scope.declared and self.loops:
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
        return [self._site(node, name, at, distribution, args)]

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
        if any(one.at == at and one.guards == tuple(self.guards) for one in computed.definitions):
            raise self.source.error(node, f"{Get(name, at)} is assigned twice; give the second one a name of its own")
        loops, guards = tuple(self.loops), tuple(self.guards)
        computed.definitions.append(Definition(at, value, loops, guards, node.lineno))
        self.scope.computations.append(Computation(node.lineno, Get(name, at), computed.shape, loops, guards))
        return ()

    def _no_recurrence(self, node: ast.stmt, name: str, at: tuple[Expr, ...], value: ast.expr) -> None:
        """Refuse cells computed in a loop from cells that the same line computes."""
        for one in ast.walk(value) if self.loops and name in self.scope.computed else ():
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

    # Sites.

    def _observe(self, node: ast.Call) -> Sequence[Statement]:
        if len(node.args) != 2 or node.keywords:
            raise self.source.error(node, "observe(value, distribution) takes two arguments")
        value, given = node.args
        drawn = self.of.draw(given)
        if drawn is None:
            raise self.source.error(node, f"observe() needs a distribution, got {ast.unparse(given)}")
        if drawn.ordered:
            raise self.source.error(node, "what is observed is not ordered by the model; leave .ordered() out")
        if drawn.rows is not None:
            found = self.of.array(value)
            if found is None:
                raise self.source.error(node, f"observe() of rows needs an array, got {ast.unparse(value)}")
            size = self.of.index(drawn.rows)
            self._given_only(node, size, "the number of rows")
            loop = self._loop(f"{found[0]}_row", Const(0), size, node.lineno)
            row = Index(loop.index)
            self.loops.append(loop)
            sites = self._observed(node, value, drawn, (*found[1], row), row)
            self.loops.pop()
            return [For(loop, tuple(sites))]
        found = self.of.array(value)
        return self._observed(node, value, drawn, found[1] if found is not None else (), None)

    def _observed(
        self, node: ast.Call, value: ast.expr, drawn: DrawCall, at: tuple[Expr, ...], row: Expr | None
    ) -> Sequence[Statement]:
        distribution, args = self.of.distribution(drawn, row)
        found = self.of.array(value)
        name, what = "", None
        if found is not None:
            name = found[0]
            rank = len(self.scope.shape_of(name) or ())
            if len(at) + distribution.event != rank:
                kind = "a row" if distribution.event else "a number"
                raise self.source.error(node, f"{distribution.name} is over {kind}, and {ast.unparse(value)} is none")
        if distribution.event:
            if found is None:
                raise self.source.error(node, f"{distribution.name} is over a row, and {ast.unparse(value)} is none")
            index = self.scope.fresh("j")
            what = Vector(index, self.of.size(name, len(at), at), self.of.get(name, (*at, Index(index)), node))
        elif found is not None:
            what = self.of.get(name, at, node)
        else:
            what = self.of.number(value)
            if isinstance(what, Get):
                name, at = what.variable, what.at
        if name in self.scope.computed:
            name, at = "", ()
        for one in uses(what):
            variable = self.scope.variables[one]
            if not variable.input:
                raise self.source.error(
                    node,
                    f"{ast.unparse(value)} is not given: {one} is drawn at line {variable.line}; "
                    "only inputs are observed",
                )
        if name in self.missing:
            return self._partly(node, name, at, distribution, args, what)
        return [self._site(node, name, at, distribution, args, what, observed=True)]

    def _partly(
        self, node: ast.AST, name: str, at: tuple[Expr, ...], distribution, args, what: Expr
    ) -> Sequence[Statement]:  # type: ignore[no-untyped-def]
        """Return two sites under a mask: cells that are given are observed, the others are drawn."""
        if distribution.event:
            raise self.source.error(
                node, f"missing cells of {name} cannot be drawn: {distribution.name} is over whole rows"
            )
        mask = Get(f"{name}__missing", at)
        condition = call("==", mask, Const(0))
        line = getattr(node, "lineno", 0)
        self.scope.variables[name] = replace(self.scope.variables[name], line=line)
        both: list[Block] = []
        for one, observed in ((condition, True), (call("not", condition), False)):
            self.guards.append(Guard(one, line))
            both.append((self._site(node, name, at, distribution, args, what, observed=observed),))
            self.guards.pop()
        return [If(Guard(condition, line), *both)]

    def _factor(self, node: ast.Call) -> Sequence[Statement]:
        if len(node.args) != 1 or node.keywords:
            raise self.source.error(node, "factor(log_weight) takes one number")
        value = self.of.number(node.args[0])
        site = Site(len(self.sites), node.lineno, "", (), value, None, (), tuple(self.loops), tuple(self.guards), True)
        self.sites.append(site)
        return [site]

    def _site(
        self, node, name, at, distribution, args, what: Expr | None = None, *, observed=False, ordered=False
    ) -> Site:  # type: ignore[no-untyped-def]
        if what is None:
            if distribution.event:
                index = self.scope.fresh("j")
                what = Vector(index, _event_size(args), Get(name, (*at, Index(index))))
            else:
                what = Get(name, at)
        site = Site(
            len(self.sites), node.lineno, name, at, what, distribution, args, tuple(self.loops), tuple(self.guards),
            observed, ordered,
        )  # fmt: skip
        self.sites.append(site)
        return site

    # Checks.

    def _given_only(
        self, node: ast.AST, expression: Expr, what: str, remedy: str = "; it has to follow from the inputs"
    ) -> None:
        for name in uses(expression):
            if not self.scope.variables[name].input:
                line = self.scope.variables[name].line
                raise self.source.error(node, f"{what} depends on {name}, which is drawn at line {line}{remedy}")

    def _check_overlaps(self) -> None:
        """Refuse cells that two lines draw, as far as it can be seen without data; binding sees the rest."""
        for name, variable in self.scope.variables.items():
            sites = [site for site in self.sites if site.variable == name and (not site.observed or variable.input)]
            for i, one in enumerate(sites):
                for other in sites[:i]:
                    if variable.input and one.observed != other.observed:
                        continue
                    same = _pattern(one) == _pattern(other) and one.guards == other.guards
                    if not same:
                        continue
                    what = "observed" if one.observed else "assigned"
                    where = Get(name, one.at)
                    raise self.source.error(
                        one.line,
                        f"{where} is {what} twice (first at line {other.line}); use one line, or cells of their own",
                    )
                if not variable.input and not variable.ordered:
                    self._check_loops(one, where=Get(name, one.at))

    def _check_loops(self, site: Site, where: Get) -> None:
        used = {one.name for part in site.at for one in walk(part) if isinstance(one, Index)}
        for loop in site.loops:
            if loop.index not in used and not any(
                loop.index in _names(inner) for inner in site.loops if inner.index in used
            ):
                raise self.source.error(
                    site.line,
                    f"{where} is assigned once for every {Index(loop.index)} of the loop at line {loop.line}; "
                    f"give it a dimension for {Index(loop.index)}, or move it out of the loop"
                )  # fmt: skip


def _names(loop: Loop) -> set[str]:
    return {one.name for part in (loop.low, loop.high) for one in walk(part) if isinstance(one, Index)}


def _pattern(site: Site) -> tuple[object, ...]:
    """Return what a site's cells look like, whatever its indices are called."""
    names = {loop.index: i for i, loop in enumerate(site.loops)}
    bounds = {loop.index: (loop.low, loop.high, loop.step) for loop in site.loops}

    def shown(expression: Expr) -> object:
        if isinstance(expression, Index) and expression.name in names:
            return bounds[expression.name]
        if isinstance(expression, Call):
            return expression.function, tuple(shown(one) for one in expression.args)
        return expression

    return tuple(shown(one) for one in site.at)


def _base(target: ast.expr) -> str | None:
    while isinstance(target, ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


def _event_size(args: Sequence[Expr]) -> Expr:
    return next(one.size for one in args if isinstance(one, Vector))


def _kind(name: str, discrete: bool) -> Kind:
    return "bool" if name in ("Bernoulli", "BernoulliLogit") else "int" if discrete else "float"

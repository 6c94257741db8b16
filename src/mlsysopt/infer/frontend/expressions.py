"""From Python's expressions to ours."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlsysopt.core.errors import near_misses
from mlsysopt.infer.distributions import ALL
from mlsysopt.infer.distributions.spec import Distribution
from mlsysopt.infer.frontend.scope import Scope, kind_of, uses
from mlsysopt.infer.frontend.source import Source
from mlsysopt.infer.ir import Call, Computation, Const, Expr, Get, Guard, Index, Reduce, Size, Vector, call, walk
from mlsysopt.infer.language import DISTRIBUTIONS

__all__ = ["FUNCTIONS", "DrawCall", "Expressions"]

FUNCTIONS = {"abs": 1, "exp": 1, "log": 1, "sqrt": 1, "log1p": 1, "expm1": 1, "sigmoid": 1}
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_REDUCTIONS = ("add", "mul", "min", "max", "and", "or")
_MODULES = ("math", "np", "numpy", "operator", "infer", "mo")
_INSTEAD: dict[type[ast.expr], str] = {
    ast.ListComp: "a comprehension; declare `array(...)` and fill it in a loop",
    ast.GeneratorExp: "a generator; use `reduce(op, a[lo:hi])`",
    ast.SetComp: "a comprehension; declare `array(...)` and fill it in a loop",
    ast.DictComp: "a comprehension; declare `array(...)` and fill it in a loop",
    ast.Lambda: "a lambda; write its expression where it is used",
    ast.List: "a list; pass it to the model as an input array",
    ast.Tuple: "a tuple; pass it to the model as an input array",
    ast.Dict: "a dict; pass its values to the model as inputs",
    ast.Await: "`await`",
    ast.NamedExpr: "`:=`; assign it on a line of its own",
    ast.JoinedStr: "text",
}


class DrawCall:
    """A call of a distribution with its `.rows` and `.ordered`.

    Attributes:
        name: As in the language.
        bound: Argument name -> node; what was left out is missing.
        rows: Node of how many, or None.
        ordered: Whether it ascends.
        node: For messages.
    """

    def __init__(
        self, name: str, bound: Mapping[str, ast.expr], rows: ast.expr | None, ordered: bool, node: ast.Call
    ) -> None:
        self.name, self.bound, self.rows, self.ordered, self.node = name, bound, rows, ordered, node


class Expressions:
    """Turns nodes into expressions under a scope."""

    def __init__(self, source: Source, scope: Scope) -> None:
        self.source, self.scope = source, scope

    def number(self, node: ast.expr) -> Expr:
        """Return the expression of a number.

        Raises:
            ModelError: it is not in the language, or it is an array.
        """
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return Const(value)
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.Subscript():
                return self._cell(node)
            case ast.Attribute(value=ast.Name(id=module), attr=attr) if module in _MODULES and attr in (
                "pi",
                "inf",
                "e",
            ):
                return Const({"pi": 3.141592653589793, "inf": float("inf"), "e": 2.718281828459045}[attr])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return call(_BINARY[type(op)], self.number(left), self.number(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return call("neg", self.number(operand))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.number(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return call("not", self.number(operand))
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._compare(node, left, ops, others)
            case ast.BoolOp(op=op, values=values):
                word = "and" if isinstance(op, ast.And) else "or"
                found = self.number(values[0])
                for one in values[1:]:
                    found = call(word, found, self._under(found if word == "and" else call("not", found), one))
                return found
            case ast.IfExp(test=test, body=body, orelse=other):
                condition = self.number(test)
                return call(
                    "select", condition, self._under(condition, body), self._under(call("not", condition), other)
                )
            case ast.Call():
                return self._call(node)
            case _:
                what = _INSTEAD.get(type(node), f"`{ast.unparse(node)}`")
                raise self.source.error(node, f"the language has no {what}".replace("no a ", "no "))

    def array(self, node: ast.expr) -> tuple[str, tuple[Expr, ...]] | None:
        """Return name and leading indices where a node stands for an array or a row of one, else None."""
        match node:
            case ast.Name(id=name):
                shape = self.scope.shape_of(name)
                return (name, ()) if shape else None
            case ast.Subscript(value=value, slice=index):
                base = self.array(value)
                if base is None:
                    return None
                parts = index.elts if isinstance(index, ast.Tuple) else [index]
                if any(isinstance(part, ast.Slice) for part in parts):
                    return None
                at = (*base[1], *(self.index(part) for part in parts))
                rank = len(self.scope.shape_of(base[0]) or ())
                if len(at) > rank:
                    raise self.source.error(
                        node, f"{base[0]} has {rank} dimension{'s' * (rank != 1)}, got {len(at)} indices"
                    )
                return base[0], at
            case _:
                return None

    def whole(self, node: ast.expr) -> Expr:
        """Return a number that has to be whole: a bound, a size or an index."""
        found = self.number(node)
        if kind_of(found, self.scope.variables) == "float":
            raise self.source.error(
                node, f"{ast.unparse(node)} is a float and cannot be an index; use an int or a label"
            )
        return found

    def index(self, node: ast.expr) -> Expr:
        """Return an index, which has to be a whole number from 0."""
        found = self.whole(node)
        if isinstance(found, Const) and found.value < 0:
            raise self.source.error(
                node, f"index {found.value} is negative; count from the front: len(...) - {-found.value}"
            )
        return found

    def get(self, name: str, at: tuple[Expr, ...], node: ast.AST) -> Expr:
        """Return one cell of a variable or of a computed array."""
        if name in self.scope.computed:
            found = self.scope.computed[name].read(at)
            if found is None:
                raise self.source.error(
                    node, f"{Get(name, at)} is computed in a form that cannot be read back here (a recurrence, or "
                    "an index that is not `i` or `i + c`); draw it, or write its expression where it is used"
                )  # fmt: skip
            self._read(node, name, at)
            return found
        if name in self.scope.declared:
            raise self.source.error(node, f"{name} is used before any of its cells is assigned")
        return Get(name, at)

    def _read(self, node: ast.AST, name: str, at: tuple[Expr, ...]) -> None:
        """Note that a computed cell is read, for binding to see that it is assigned."""
        scope = self.scope
        indices = {loop.index for loop in scope.loops}
        if all(one.name in indices for part in at for one in walk(part) if isinstance(one, Index)):
            computed = scope.computed[name]
            scope.computations.append(
                Computation(
                    getattr(node, "lineno", 0), Get(name, at), computed.shape, tuple(scope.loops), tuple(scope.guards),
                    computed.defined(at),
                )
            )  # fmt: skip

    def _under(self, condition: Expr, node: ast.expr) -> Expr:
        """Return a number that is needed only where a condition holds."""
        self.scope.guards.append(Guard(condition, node.lineno))
        found = self.number(node)
        self.scope.guards.pop()
        return found

    def size(self, name: str, axis: int, at: tuple[Expr, ...] = ()) -> Expr:
        """Return a length of an array."""
        variable = self.scope.variables.get(name)
        if variable is not None and variable.input:
            return Size(name, axis, at if variable.ragged and axis == 1 else ())
        if variable is not None and variable.like and axis == 1:
            return Size(variable.like, 1, at)
        if name in self.scope.declared and self.scope.declared[name][2] and axis == 1:
            return Size(self.scope.declared[name][2], 1, at)
        return (self.scope.shape_of(name) or ())[axis]

    def vector(self, node: ast.expr, depth: int = 1, row: Expr | None = None) -> Vector | None:
        """Return what an array node with `depth` dimensions holds; with `row`, one dimension more is indexed by it."""
        found = self.array(node)
        if found is None:
            return None
        name, at = found
        rank = len(self.scope.shape_of(name) or ()) - len(at)
        if row is not None and rank == depth + 1:
            at, rank = (*at, row), rank - 1
        if rank != depth:
            return None
        indices = [self.scope.fresh(letter) for letter in "jk"[:depth]]
        body: Expr = self.get(name, (*at, *(Index(one) for one in indices)), node)
        for i in range(depth - 1, -1, -1):
            before = (*at, *(Index(one) for one in indices[:i]))
            body = Vector(indices[i], self.size(name, len(at) + i, before), body)
        assert isinstance(body, Vector)
        return body

    # Distributions.

    def draw(self, node: ast.expr) -> DrawCall | None:
        """Return the call of a distribution that a node is, else None."""
        rows: ast.expr | None = None
        ordered = False
        while (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("rows", "ordered")
        ):
            inner = node.func.value
            if not _is_draw(inner):
                return None
            if node.func.attr == "rows":
                if rows is not None or len(node.args) != 1 or node.keywords:
                    raise self.source.error(node, ".rows(n) takes one number, once")
                rows = node.args[0]
            else:
                ordered = True
            node = inner
        if not isinstance(node, ast.Call):
            return None
        name, uniform = _distribution(node.func), False
        if isinstance(node.func, ast.Attribute) and node.func.attr == "uniform":
            name, uniform = _distribution(node.func.value), True
        if name is None:
            return None
        if ordered and rows is None:
            raise self.source.error(node, f"{name}.ordered() orders copies: write {name}(...).rows(n).ordered()")
        function: Callable[..., Any] = getattr(DISTRIBUTIONS[name], "uniform") if uniform else DISTRIBUTIONS[name]  # noqa: B009
        try:
            bound = inspect.signature(function).bind(*node.args, **{one.arg or "": one.value for one in node.keywords})
        except TypeError as error:
            signature = str(inspect.signature(function)).partition(" ->")[0]
            raise self.source.error(node, f"{name}: {error}; it takes {_plain(signature)}") from None
        return DrawCall(f"{name}.uniform" if uniform else name, bound.arguments, rows, ordered, node)

    def distribution(self, given: DrawCall, row: Expr | None = None) -> tuple[Distribution, tuple[Expr, ...]]:
        """Return the distribution of a call and its arguments in order; `row` is the index of `.rows`."""
        name, bound, node = given.name, dict(given.bound), given.node
        match name:
            case "Normal":
                said = [one for one in ("sd", "var", "precision") if one in bound]
                if len(said) != 1:
                    raise self.source.error(
                        node, f"Normal takes exactly one of sd (the second argument), var= and precision=, got "
                        f"{' and '.join(said) or 'none'}"
                    )  # fmt: skip
                mean, spread = self._argument(bound["mean"], row), self._argument(bound[said[0]], row)
                return _normal(said[0], mean, spread)
            case "TruncatedNormal":
                low = self._argument(bound["low"], row) if "low" in bound else Const(float("-inf"))
                high = self._argument(bound["high"], row) if "high" in bound else Const(float("inf"))
                return ALL[name], (self._argument(bound["mean"], row), self._argument(bound["sd"], row), low, high)
            case "Categorical.uniform":
                size = self.number(bound["states"])
                return ALL["Categorical"], (Vector(self.scope.fresh("k"), size, call("/", Const(1.0), size)),)
            case "Dirichlet" if "states" in bound:
                return ALL[name], (
                    Vector(self.scope.fresh("k"), self.number(bound["states"]), self._argument(bound["alpha"], row)),
                )
            case _:
                one = ALL[name]
                args: list[Expr] = []
                for parameter, value in zip(one.parameters, bound.values(), strict=True):
                    if not parameter.rank:
                        args.append(self._argument(value, row))
                        continue
                    found = self.vector(value, parameter.rank, row)
                    if found is None:
                        kind = {1: "a row or a 1-D array", 2: "a 2-D array"}[parameter.rank]
                        raise self.source.error(
                            node, f"{name}: {parameter.name} has to be {kind}, got {ast.unparse(value)}"
                        )
                    args.append(found)
                return one, tuple(args)

    def _argument(self, node: ast.expr, row: Expr | None) -> Expr:
        """Return a number; with `row`, an array gives every row its own."""
        found = self.array(node) if row is not None else None
        if found is not None and len(self.scope.shape_of(found[0]) or ()) == len(found[1]) + 1 and row is not None:
            return self.get(found[0], (*found[1], row), node)
        return self.number(node)

    # Parts of expressions.

    def _name(self, node: ast.expr, name: str) -> Expr:
        scope = self.scope
        if name in scope.values:
            return scope.values[name]
        if scope.shape_of(name):
            raise self.source.error(
                node, f"{name} is an array and stands where a number is needed; index it, or use dot(...)"
            )
        if name in scope.variables:
            return Get(name)
        if name in scope.partly:
            raise self.source.error(
                node, f"{name} is assigned in one branch only (line {scope.partly[name]}); assign it in every branch"
            )
        raise self.source.error(node, f"{name} is used before it is assigned; {near_misses(name, scope.names())}")

    def _cell(self, node: ast.Subscript) -> Expr:
        if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            found, axis = self.array(node.value.value), node.slice
            if found is None or not isinstance(axis, ast.Constant) or not isinstance(axis.value, int):
                raise self.source.error(node, "`.shape[k]` needs an array and a plain number k")
            rank = len(self.scope.shape_of(found[0]) or ())
            if not 0 <= axis.value < rank - len(found[1]):
                raise self.source.error(
                    node, f"{found[0]} has {rank} dimension{'s' * (rank != 1)}, got shape[{axis.value}]"
                )
            return self.size(found[0], axis.value + len(found[1]), found[1])
        found = self.array(node)
        if found is None:
            named = node.value.id if isinstance(node.value, ast.Name) else ast.unparse(node.value)
            if isinstance(node.slice, ast.Slice):
                raise self.source.error(node, f"a slice of {named} stands only in reduce(op, a[lo:hi])")
            if named not in self.scope.names():
                raise self.source.error(
                    node, f"{named} is used before it is assigned; {near_misses(named, self.scope.names())}"
                )
            raise self.source.error(node, f"{named} is not an array")
        name, at = found
        rank = len(self.scope.shape_of(name) or ())
        if len(at) < rank:
            raise self.source.error(node, f"{ast.unparse(node)} is a row and stands where a number is needed; index it")
        return self.get(name, at, node)

    def _compare(self, node: ast.expr, left: ast.expr, ops: Sequence[ast.cmpop], others: Sequence[ast.expr]) -> Expr:
        found: Expr | None = None
        for op, right in zip(ops, others, strict=True):
            if type(op) not in _COMPARE:
                raise self.source.error(node, "the language compares with < <= > >= == != only")
            one = call(_COMPARE[type(op)], self.number(left), self.number(right))
            found, left = one if found is None else call("and", found, one), right
        assert found is not None
        return found

    def _call(self, node: ast.Call) -> Expr:
        name = _function(node.func)
        if name is None or node.keywords:
            raise self.source.error(node, f"the language has no call {ast.unparse(node)}; {self._known()}")
        if _is_draw(node):
            raise self.source.error(
                node, f"{name} stands in an expression; give it a name first: `x = {ast.unparse(node)}`"
            )
        match name:
            case "len" if len(node.args) == 1:
                found = self.array(node.args[0])
                if found is None:
                    raise self.source.error(node, f"len() needs an array, got {ast.unparse(node.args[0])}")
                return self.size(found[0], len(found[1]), found[1])
            case "dot" if len(node.args) == 2:
                return self._dot(node)
            case "reduce" if len(node.args) == 2:
                return self._reduce(node)
            case "min" | "max" if len(node.args) >= 2:
                value = self.number(node.args[0])
                for one in node.args[1:]:
                    value = call(name, value, self.number(one))
                return value
            case "float" | "int" if len(node.args) == 1:
                inner = self.number(node.args[0])
                if name == "int" and kind_of(inner, self.scope.variables) == "float":
                    raise self.source.error(node, "int() of a float would round it silently; use `//` on whole numbers")
                return inner if name == "int" else call("*", Const(1.0), inner) if inner == Const(0) else inner
            case _ if name in FUNCTIONS and len(node.args) == FUNCTIONS[name]:
                return call(name, *(self.number(one) for one in node.args))
            case _ if name in FUNCTIONS or name in ("len", "dot", "reduce", "min", "max"):
                raise self.source.error(node, f"{name}() got {len(node.args)} arguments")
            case "observe" | "factor" | "array":
                raise self.source.error(node, f"{name}(...) is a statement of its own")
            case _:
                raise self.source.error(
                    node,
                    f"the language has no function {name}; {near_misses(name, self._functions(), noun='function')}",
                )

    def _dot(self, node: ast.Call) -> Expr:
        vectors = [self.vector(one) for one in node.args]
        for found, one in zip(vectors, node.args, strict=True):
            if found is None:
                raise self.source.error(node, f"dot() needs two rows or 1-D arrays, got {ast.unparse(one)}")
        a, b = vectors
        assert a is not None and b is not None
        index = self.scope.fresh("k")
        body = call("*", a.at(Index(index)), b.at(Index(index)))
        size = a.size if not uses(a.size) and isinstance(a.size, Size | Const) else b.size
        return Reduce("add", index, Const(0), size, body)

    def _reduce(self, node: ast.Call) -> Expr:
        op, values = node.args
        name = op.value if isinstance(op, ast.Constant) else _function(op)
        if name not in _REDUCTIONS:
            raise self.source.error(node, f"reduce() folds by {', '.join(_REDUCTIONS)}, got {ast.unparse(op)}")
        low: Expr = Const(0)
        high: Expr | None = None
        if isinstance(values, ast.Subscript) and isinstance(values.slice, ast.Slice):
            cut = values.slice
            if cut.step is not None:
                raise self.source.error(node, "reduce() takes a[lo:hi], without a step")
            low = self.index(cut.lower) if cut.lower is not None else low
            high = self.index(cut.upper) if cut.upper is not None else None
            values = values.value
        found = self.vector(values)
        if found is None:
            raise self.source.error(node, f"reduce() needs a row or a slice of one, got {ast.unparse(values)}")
        index = self.scope.fresh("k")
        return Reduce(str(name), index, low, found.size if high is None else high, found.at(Index(index)))

    def _functions(self) -> list[str]:
        return [*FUNCTIONS, "len", "min", "max", "dot", "reduce", *DISTRIBUTIONS]

    def _known(self) -> str:
        return f"it has {', '.join([*FUNCTIONS, 'len', 'min', 'max', 'dot', 'reduce'])}"


def _normal(said: str, mean: Expr, spread: Expr) -> tuple[Distribution, tuple[Expr, ...]]:
    """Return the parametrisation in which what is under a root stands bare: rules look for it there."""
    match said, spread:
        case "sd", Call("sqrt", (x,)):
            return _normal("var", mean, x)
        case "sd", Call("/", (Const(value=1 | 1.0), Call("sqrt", (x,)))) | Call(
            "sqrt", (Call("/", (Const(value=1), x)),)
        ):
            return _normal("precision", mean, x)
        case "var", Call("/", (Const(value=1 | 1.0), x)):
            return _normal("precision", mean, x)
        case "precision", Call("/", (Const(value=1 | 1.0), x)):
            return _normal("var", mean, x)
        case _:
            name = {"sd": "Normal", "var": "NormalVariance", "precision": "NormalPrecision"}[said]
            return ALL[name], (mean, spread)


def _function(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _MODULES:
        return node.attr
    return None


def _distribution(node: ast.expr) -> str | None:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    return name if name in DISTRIBUTIONS else None


def _is_draw(node: ast.expr) -> bool:
    while isinstance(node, ast.Call):
        if _distribution(node.func) is not None:
            return True
        if not isinstance(node.func, ast.Attribute):
            return False
        if node.func.attr == "uniform":
            return _distribution(node.func.value) is not None
        if node.func.attr not in ("rows", "ordered"):
            return False
        node = node.func.value
    return False


def _plain(signature: str) -> str:
    for word in (": 'Number'", ": 'Vector'", ": 'Number | None'", ": 'Number | Vector'", "self, ", ": 'Any'"):
        signature = signature.replace(word, "")
    return signature

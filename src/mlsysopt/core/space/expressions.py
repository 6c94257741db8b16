"""Arithmetic constraints and conditions, read by a whitelist; nothing is evaluated as Python.

All arithmetic is in doubles, for one configuration as for a million: what a vectorised sampler
accepts is what `holds` accepts, and no power can become a huge integer.
"""

from __future__ import annotations

import ast
import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

import numpy as np

from mlsysopt.core.errors import ExpressionError, near_misses
from mlsysopt.core.quantities import format_bytes, format_seconds, quantities_in
from mlsysopt.core.space.parameters import Origin

__all__ = ["Array", "Expression"]

Array = np.ndarray[Any, np.dtype[Any]]

_LONGEST = 2000
_DEEPEST = 60
_LARGEST_POWER = 64

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_COMPARE: dict[type[ast.cmpop], tuple[str, str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", ">", np.less),
    ast.LtE: ("<=", ">=", np.less_equal),
    ast.Gt: (">", "<", np.greater),
    ast.GtE: (">=", "<=", np.greater_equal),
    ast.Eq: ("==", "==", np.equal),
    ast.NotEq: ("!=", "!=", np.not_equal),
}
_CALLS: dict[str, Callable[..., Any]] = {"min": np.minimum, "max": np.maximum, "abs": np.abs}
_ALLOWED = "names, numbers, text, + - * / // % **, comparisons, and, or, not, min, max, abs"
# What people call the piece of Python that is refused.
_WORDS: dict[type[ast.AST], str] = {
    ast.Attribute: "attribute access",
    ast.Subscript: "a subscript",
    ast.Lambda: "a lambda",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.NamedExpr: "an assignment",
    ast.IfExp: "a conditional expression",
    ast.JoinedStr: "a formatted string",
    ast.Starred: "a starred argument",
}


@dataclass(frozen=True, slots=True)
class _Span:
    """A quantity: where its plain number stands in the source, and where it stood in the text."""

    start: int
    end: int
    first: int
    last: int
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """A constraint or condition over parameters; made by `Expression.parse`.

    Attributes:
        text: What was written, quantities included.
        origin: Who said it.
        names: The parameters it mentions.
        tree: Its checked syntax tree; read it, never change it.

    >>> rule = Expression.parse("size * count <= 256MiB")
    >>> sorted(rule.names), rule.holds({"size": 2**20, "count": 300})
    (['count', 'size'], False)
    >>> rule.explain({"size": 2**20, "count": 300})
    'size * count = 300 MiB, allowed <= 256 MiB'
    """

    text: str
    origin: Origin
    names: frozenset[str]
    tree: ast.expr = field(repr=False)
    _spans: tuple[_Span, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str, *, origin: Origin = "declared") -> Expression:
        """Read an expression.

        Raises:
            ExpressionError: position, what was found and what is allowed.
            QuantityError: a number with a unit that does not exist.
        """
        if not isinstance(text, str) or not text.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ExpressionError(f"expression {text!r}: it is empty; allowed are {_ALLOWED}")
        text = " ".join(text.split("\n")).strip()
        if len(text) > _LONGEST:
            raise ExpressionError(
                f"expression {text[:40]!r}...: {len(text)} characters, at most {_LONGEST} are allowed"
            )
        if "\\" in text or not text.isprintable():
            raise ExpressionError(f"expression {text!r}: backslashes and control characters are not allowed")
        if "#" in re.sub(r"'[^']*'|\"[^\"]*\"", "", text):
            raise ExpressionError(f"expression {text!r}: comments are not allowed; allowed are {_ALLOWED}")
        source, spans = _plain(text)
        reader = _Reader(text, source, spans)
        tree = reader.read()
        return cls(text, origin, frozenset(reader.names), tree, spans)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and (self.text, self.origin) == (other.text, other.origin)

    def __hash__(self) -> int:
        return hash((self.text, self.origin))

    def __reduce__(self) -> tuple[Any, ...]:
        return _parse, (self.text, self.origin)

    def __str__(self) -> str:
        return self.text

    def evaluate(self, columns: Mapping[str, Array]) -> Array:
        """Evaluate for many configurations at once.

        Args:
            columns: Name -> values, all of one shape (n,); text as an object array.

        Returns:
            Booleans for a condition, doubles for arithmetic, shape (n,); division by zero gives
            inf or nan, and a comparison with nan is false.
        """
        with np.errstate(all="ignore"):
            return np.asarray(_value(self.tree, columns))

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Return whether one configuration meets it.

        Raises:
            ExpressionError: a parameter that it mentions is missing.
        """
        return bool(_truth(self.evaluate(self._columns(config))).all())

    def explain(self, config: Mapping[str, Any], *, unit: str = "") -> str:
        """Say what a configuration makes of it, with the numbers.

        Args:
            config: Name -> value.
            unit: Unit of the compared values where the expression itself names none: "B" or "s".
        """
        columns = self._columns(config)
        with np.errstate(all="ignore"):
            pair = _failing(self.tree, columns)
            if pair is None:
                values = ", ".join(f"{name} = {_plain_value(config[name])}" for name in sorted(self.names))
                state = "true" if self.holds(config) else "false"
                return f"{self.text} is {state} with {values}" if values else f"{self.text} is {state}"
            left, operator, right = pair
            word, mirrored, _ = _COMPARE[type(operator)]
            if isinstance(left, ast.Constant):
                left, right, word = right, left, mirrored
            kinds = [span.kind for span in self._spans if left.col_offset <= span.start < (right.end_col_offset or 0)]
            kinds += [span.kind for span in self._spans if right.col_offset <= span.start < (left.end_col_offset or 0)]
            kind = kinds[0] if kinds else {"B": "bytes", "s": "seconds"}.get(unit, "")
            given, allowed = _scalar(_value(left, columns)), _scalar(_value(right, columns))
        shown, limit = _pretty(given, kind), _pretty(allowed, kind)
        if shown == limit and given != allowed:
            shown, limit = _pretty(given, ""), _pretty(allowed, "")
        side = limit if isinstance(right, ast.Constant) else f"{self._written(right)} = {limit}"
        return f"{self._written(left)} = {shown}, allowed {word} {side}"

    def check_types(self, choices: Mapping[str, tuple[Any, ...]]) -> None:
        """Check that text is only compared with text, and only with values that may occur.

        Args:
            choices: Parameters that may hold text -> all their values.

        Raises:
            ExpressionError: what is compared with what; or a plain number where a condition is needed.
        """
        kind = _TypeCheck(self, choices).kind(self.tree)
        if kind == "number" and not isinstance(self.tree, ast.Name):
            raise ExpressionError(
                f"expression {self.text!r} is a number, not a condition; compare it, as in {self.text} <= 10"
            )

    def substitute(self, values: Mapping[str, Any]) -> Expression:
        """Return the expression with constants in place of some of its names."""
        if not self.names & values.keys():
            return self
        tree = _Substitute(values).visit(copy.deepcopy(self.tree))
        return Expression.parse(ast.unparse(ast.fix_missing_locations(tree)), origin=self.origin)

    def _columns(self, config: Mapping[str, Any]) -> dict[str, Array]:
        missing = sorted(self.names - config.keys())
        if missing:
            raise ExpressionError(f"expression {self.text!r} needs a value for {', '.join(missing)}")
        return {name: _column(config[name]) for name in self.names}

    def _written(self, node: ast.expr) -> str:
        place = _Places(self._spans)
        text = self.text[place(node.col_offset) : place(node.end_col_offset or 0)]
        return text if text.count("(") == text.count(")") else ast.unparse(node)


def _parse(text: str, origin: Origin) -> Expression:
    return Expression.parse(text, origin=origin)


def _plain(text: str) -> tuple[str, tuple[_Span, ...]]:
    """Return the text with plain numbers in place of quantities, and where they stand."""
    pieces: list[str] = []
    spans: list[_Span] = []
    done = length = 0
    for first, last, number, kind in quantities_in(text):
        pieces += [text[done:first], number]
        length += first - done
        spans.append(_Span(length, length + len(number), first, last, kind))
        length += len(number)
        done = last
    return "".join([*pieces, text[done:]]), tuple(spans)


@dataclass(frozen=True, slots=True)
class _Places:
    """Positions in the text as it was written, from positions in the source without quantities."""

    spans: tuple[_Span, ...]

    def __call__(self, position: int) -> int:
        shift = 0
        for span in self.spans:
            if position <= span.start:
                break
            if position < span.end:
                return span.first
            shift = span.last - span.end
        return position + shift


class _Reader:
    """Turns source into a checked syntax tree and collects its names."""

    def __init__(self, text: str, source: str, spans: tuple[_Span, ...]) -> None:
        self.text, self.source, self.names = text, source, set[str]()
        self._place = _Places(spans)

    def read(self) -> ast.expr:
        if not self.source.isascii():
            # Positions of the parser count bytes, and names that look alike would be folded together.
            position = next(i for i, letter in enumerate(self.source) if not letter.isascii())
            self._refuse(f"the letter {self.source[position]!r}", position)
        try:
            tree = ast.parse(self.source, mode="eval").body
        except SyntaxError as error:
            position = min(error.offset - 1 if error.offset else len(self.source), len(self.source))
            raise ExpressionError(
                f"expression {self.text!r}: {error.msg} at position {self._place(position)}; allowed are {_ALLOWED}"
            ) from None
        except (MemoryError, RecursionError, ValueError, OverflowError):
            raise ExpressionError(f"expression {self.text[:40]!r}...: it is nested too deeply") from None
        self._check(tree, 0)
        return tree

    def _refuse(self, what: str, position: int) -> None:
        raise ExpressionError(
            f"expression {self.text!r}: {what} at position {self._place(position)} is not allowed;\nallowed are {_ALLOWED}"
        )

    def _check(self, node: ast.expr, depth: int) -> None:
        if depth > _DEEPEST:
            raise ExpressionError(f"expression {self.text[:40]!r}...: it is nested too deeply")
        children: list[ast.expr] = []
        match node:
            case ast.Constant():
                self._check_constant(node)
            case ast.Name():
                self.names.add(node.id)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
                children = [operand]
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
                if isinstance(operator, ast.Pow):
                    self._check_power(right)
                children = [left, right]
            case ast.BoolOp(values=values):
                children = values
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
                children = [left, *others]
            case ast.Call():
                children = self._check_call(node)
            case _:
                what = _WORDS.get(type(node))
                self._refuse(what or f"{ast.unparse(node)[:40]!r}", node.col_offset)
        for child in children:
            self._check(child, depth + 1)

    def _check_constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool | str):
            return
        if isinstance(value, int | float):
            try:
                finite = math.isfinite(float(value))
            except OverflowError:
                finite = False
            if finite:
                return
            self._refuse("a number beyond 1e308", node.col_offset)
        self._refuse(f"{value!r}", node.col_offset)

    def _check_power(self, exponent: ast.expr) -> None:
        number = exponent.operand if isinstance(exponent, ast.UnaryOp) else exponent
        if isinstance(number, ast.Name):
            return
        small = isinstance(number, ast.Constant) and isinstance(number.value, int | float)
        if not small or abs(number.value) > _LARGEST_POWER:  # pyright: ignore
            self._refuse(f"a power that is neither a name nor a number up to {_LARGEST_POWER}", exponent.col_offset)

    def _check_call(self, node: ast.Call) -> list[ast.expr]:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name not in _CALLS:
            self._refuse(f"a call of {ast.unparse(node.func)[:40]!r}", node.col_offset)
        if node.keywords:
            self._refuse("a keyword argument", node.keywords[0].value.col_offset)
        wrong = len(node.args) != 1 if name == "abs" else len(node.args) < 2
        if wrong:
            self._refuse(f"{name} of {len(node.args)} arguments", node.col_offset)
        return node.args


def _value(node: ast.expr, columns: Mapping[str, Array]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value if isinstance(value, str) else float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            column = columns[name]
            return column if column.dtype == object else column.astype(np.float64)
        case ast.UnaryOp(op=operator, operand=operand):
            value = _value(operand, columns)
            if isinstance(operator, ast.Not):
                return np.logical_not(_truth(value))
            return np.negative(value) if isinstance(operator, ast.USub) else value
        case ast.BinOp(left=left, op=operator, right=right):
            return _BINARY[type(operator)](_value(left, columns), _value(right, columns))
        case ast.BoolOp(op=operator, values=values):
            join = np.logical_and if isinstance(operator, ast.And) else np.logical_or
            return reduce(join, [_truth(_value(value, columns)) for value in values])
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_value(side, columns) for side in (left, *others)]
            found = [_compare(op, a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False)]
            return reduce(np.logical_and, found)
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_value(arg, columns) for arg in args]
            return reduce(_CALLS[name], values) if len(values) > 1 else _CALLS[name](*values)
        case _:
            raise AssertionError("the reader lets nothing else through")


def _compare(operator: ast.cmpop, a: Any, b: Any) -> Any:
    a, b = np.asarray(a), np.asarray(b)
    textual = [side.dtype.kind in "OU" for side in (a, b)]
    if any(textual):
        # Comparing a number with text is simply "not equal", whatever numpy thinks of the types.
        a, b = a.astype(object), b.astype(object)
    try:
        return _COMPARE[type(operator)][2](a, b).astype(bool)
    except TypeError:
        raise ExpressionError("text can only be compared by == and !=, not by order") from None


def _truth(value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind in "OU":
        return np.frompyfunc(bool, 1, 1)(array).astype(bool)
    return array.astype(bool)


def _column(value: Any) -> Array:
    if isinstance(value, bool | int | float | np.generic) and not isinstance(value, np.str_):
        return np.array([float(value)])  # type: ignore[arg-type]
    column = np.empty(1, dtype=object)
    column[0] = value
    return column


def _failing(node: ast.expr, columns: Mapping[str, Array]) -> tuple[ast.expr, ast.cmpop, ast.expr] | None:
    """Return the comparison that decides: the first that fails, else the last."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            if not _truth(_value(value, columns)).all():
                return _failing(value, columns)
        return _failing(node.values[-1], columns)
    if not isinstance(node, ast.Compare):
        return None
    sides = [node.left, *node.comparators]
    pairs = list(zip(sides, node.ops, sides[1:], strict=False))
    for a, operator, b in pairs:
        if not _compare(operator, _value(a, columns), _value(b, columns)).all():
            return a, operator, b
    return pairs[-1]


def _scalar(value: Any) -> float | str:
    item: Any = np.asarray(value, dtype=object).reshape(-1)[0]
    return item if isinstance(item, str) else float(item)


def _pretty(value: float | str, kind: str) -> str:
    if isinstance(value, str):
        return repr(value)
    if kind == "bytes":
        return format_bytes(value)
    if kind == "seconds":
        return format_seconds(value)
    return _plain_value(value)


def _plain_value(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_Type = Literal["number", "text", "mixed", "truth"]


@dataclass(frozen=True, slots=True)
class _TypeCheck:
    expression: Expression
    choices: Mapping[str, tuple[Any, ...]]

    def kind(self, node: ast.expr) -> _Type:
        match node:
            case ast.Constant(value=value):
                return "text" if isinstance(value, str) else "truth" if isinstance(value, bool) else "number"
            case ast.Name(id=name):
                if name not in self.choices:
                    return "number"
                return "text" if all(isinstance(choice, str) for choice in self.choices[name]) else "mixed"
            case ast.UnaryOp(op=operator, operand=operand):
                if isinstance(operator, ast.Not):
                    self.kind(operand)
                    return "truth"
                self._number(operand)
            case ast.BinOp(left=left, right=right):
                self._number(left)
                self._number(right)
            case ast.BoolOp(values=values):
                for value in values:
                    if self.kind(value) == "number" and not isinstance(value, ast.Name):
                        self._refuse(value, "is a number, not a condition; compare it")
                return "truth"
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [left, *others]
                for a, operator, b in zip(sides, ops, others, strict=False):
                    self._pair(a, operator, b)
                return "truth"
            case ast.Call(args=args):
                for argument in args:
                    self._number(argument)
            case _:
                raise AssertionError("the reader lets nothing else through")
        return "number"

    def _number(self, node: ast.expr) -> None:
        if self.kind(node) in ("text", "mixed"):
            self._refuse(node, "is text and cannot be calculated with")

    def _pair(self, a: ast.expr, operator: ast.cmpop, b: ast.expr) -> None:
        kinds = {self.kind(a), self.kind(b)}
        if not kinds & {"text", "mixed"}:
            return
        if not isinstance(operator, ast.Eq | ast.NotEq):
            self._refuse(a, "is text and has no order; compare by == or !=")
        if "text" in kinds and kinds & {"number", "truth"}:
            self._refuse(a, "compares text with a number")
        for name, other in ((a, b), (b, a)):
            if isinstance(name, ast.Name) and isinstance(other, ast.Constant) and name.id in self.choices:
                allowed = self.choices[name.id]
                if other.value not in allowed:
                    near = near_misses(str(other.value), [str(choice) for choice in allowed], noun="choice")
                    self._refuse(other, f"is no choice of {name.id}: {near}")

    def _refuse(self, node: ast.expr, why: str) -> None:
        raise ExpressionError(f"expression {self.expression.text!r}: {ast.unparse(node)} {why}")


class _Substitute(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def visit_Call(self, node: ast.Call) -> ast.Call:
        # The name of a function is no parameter, even when a parameter has the same name.
        node.args = [self.visit(argument) for argument in node.args]
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self.values:
            return node
        value = self.values[node.id]
        if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
            return ast.UnaryOp(ast.USub(), ast.Constant(-value))
        return ast.Constant(value)

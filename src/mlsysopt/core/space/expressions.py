"""Arithmetic constraints and conditions.

All arithmetic is in doubles, for one configuration as for a million: what a vectorised sampler
accepts is what `holds` accepts, and no power can become a huge integer.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlsysopt.core.errors import ExpressionError
from mlsysopt.core.quantities import format_bytes, format_seconds
from mlsysopt.core.space.evaluation import COMPARE, Array, column, deciding, truth, value_of
from mlsysopt.core.space.grammar import ALLOWED, Places, Reader, Span, plain_source
from mlsysopt.core.space.parameters import Origin
from mlsysopt.core.space.text_types import TypeCheck

__all__ = ["Array", "Expression"]

_LONGEST = 2000


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
    _spans: tuple[Span, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str, *, origin: Origin = "declared") -> Expression:
        """Read an expression.

        Raises:
            ExpressionError: position, what was found and what is allowed.
            QuantityError: a number with a unit that does not exist.
        """
        if not isinstance(text, str) or not text.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ExpressionError(f"expression {text!r}: it is empty; allowed are {ALLOWED}")
        text = " ".join(text.split("\n")).strip()
        if len(text) > _LONGEST:
            raise ExpressionError(
                f"expression {text[:40]!r}...: {len(text)} characters, at most {_LONGEST} are allowed"
            )
        if "\\" in text or not text.isprintable():
            raise ExpressionError(f"expression {text!r}: backslashes and control characters are not allowed")
        if "#" in re.sub(r"'[^']*'|\"[^\"]*\"", "", text):
            raise ExpressionError(f"expression {text!r}: comments are not allowed; allowed are {ALLOWED}")
        source, spans = plain_source(text)
        reader = Reader(text, source, spans)
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
            return np.asarray(value_of(self.tree, columns))

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Return whether one configuration meets it.

        Raises:
            ExpressionError: a parameter that it mentions is missing.
        """
        return bool(truth(self.evaluate(self._columns(config))).all())

    def explain(self, config: Mapping[str, Any], *, unit: str = "") -> str:
        """Say what a configuration makes of it, with the numbers.

        Args:
            config: Name -> value.
            unit: Unit of the compared values where the expression itself names none: "B" or "s".
        """
        columns = self._columns(config)
        with np.errstate(all="ignore"):
            pair = deciding(self.tree, columns)
            if pair is None:
                values = ", ".join(f"{name} = {_plain_value(config[name])}" for name in sorted(self.names))
                state = "true" if self.holds(config) else "false"
                return f"{self.text} is {state} with {values}" if values else f"{self.text} is {state}"
            left, operator, right = pair
            word, mirrored, _ = COMPARE[type(operator)]
            if isinstance(left, ast.Constant):
                left, right, word = right, left, mirrored
            kinds = [span.kind for span in self._spans if left.col_offset <= span.start < (right.end_col_offset or 0)]
            kinds += [span.kind for span in self._spans if right.col_offset <= span.start < (left.end_col_offset or 0)]
            kind = kinds[0] if kinds else {"B": "bytes", "s": "seconds"}.get(unit, "")
            given, allowed = _scalar(value_of(left, columns)), _scalar(value_of(right, columns))
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
        kind = TypeCheck(self.text, choices).kind(self.tree)
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
        return {name: column(config[name]) for name in self.names}

    def _written(self, node: ast.expr) -> str:
        place = Places(self._spans)
        text = self.text[place(node.col_offset) : place(node.end_col_offset or 0)]
        return text if text.count("(") == text.count(")") else ast.unparse(node)


def _parse(text: str, origin: Origin) -> Expression:
    return Expression.parse(text, origin=origin)


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

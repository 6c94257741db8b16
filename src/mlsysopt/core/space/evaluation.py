"""Arithmetic on checked syntax trees, in doubles, for one configuration as for a million."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from mlsysopt.core.errors import ExpressionError

__all__ = ["BINARY", "CALLS", "COMPARE", "Array", "column", "compared", "deciding", "truth", "value_of"]

Array = np.ndarray[Any, np.dtype[Any]]

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
COMPARE: dict[type[ast.cmpop], tuple[str, str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", ">", np.less),
    ast.LtE: ("<=", ">=", np.less_equal),
    ast.Gt: (">", "<", np.greater),
    ast.GtE: (">=", "<=", np.greater_equal),
    ast.Eq: ("==", "==", np.equal),
    ast.NotEq: ("!=", "!=", np.not_equal),
}
CALLS: dict[str, Callable[..., Any]] = {"min": np.minimum, "max": np.maximum, "abs": np.abs}


def value_of(node: ast.expr, columns: Mapping[str, Array]) -> Any:
    """Return the value of a checked tree for all rows at once: doubles, booleans, or text."""
    match node:
        case ast.Constant(value=value):
            return value if isinstance(value, str) else float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            column = columns[name]
            return column if column.dtype == object else column.astype(np.float64)
        case ast.UnaryOp(op=operator, operand=operand):
            value = value_of(operand, columns)
            if isinstance(operator, ast.Not):
                return np.logical_not(truth(value))
            return np.negative(value) if isinstance(operator, ast.USub) else value
        case ast.BinOp(left=left, op=operator, right=right):
            return BINARY[type(operator)](value_of(left, columns), value_of(right, columns))
        case ast.BoolOp(op=operator, values=values):
            join = np.logical_and if isinstance(operator, ast.And) else np.logical_or
            return reduce(join, [truth(value_of(value, columns)) for value in values])
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [value_of(side, columns) for side in (left, *others)]
            found = [compared(op, a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False)]
            return reduce(np.logical_and, found)
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [value_of(arg, columns) for arg in args]
            return reduce(CALLS[name], values) if len(values) > 1 else CALLS[name](*values)
        case _:
            raise AssertionError("the reader lets nothing else through")


def compared(operator: ast.cmpop, a: Any, b: Any) -> Array:
    """Compare two sides row by row; a number never equals text.

    Raises:
        ExpressionError: an order between texts.
    """
    a, b = np.asarray(a), np.asarray(b)
    textual = [side.dtype.kind in "OU" for side in (a, b)]
    if any(textual):
        # Comparing a number with text is simply "not equal", whatever numpy thinks of the types.
        a, b = a.astype(object), b.astype(object)
    try:
        return COMPARE[type(operator)][2](a, b).astype(bool)
    except TypeError:
        raise ExpressionError("text can only be compared by == and !=, not by order") from None


def truth(value: Any) -> Array:
    """Return values as booleans: zero and empty text are false."""
    array = np.asarray(value)
    if array.dtype.kind in "OU":
        return np.vectorize(bool, otypes=[bool])(array)
    return array.astype(bool)


def column(value: Any) -> Array:
    """Return one value as a column of one row."""
    if isinstance(value, bool | int | float | np.generic) and not isinstance(value, np.str_):
        return np.array([float(value)])  # type: ignore[arg-type]
    row = np.empty(1, dtype=object)
    row[0] = value
    return row


def deciding(node: ast.expr, columns: Mapping[str, Array]) -> tuple[ast.expr, ast.cmpop, ast.expr] | None:
    """Return the comparison that decides: the first that fails, else the last."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            if not truth(value_of(value, columns)).all():
                return deciding(value, columns)
        return deciding(node.values[-1], columns)
    if not isinstance(node, ast.Compare):
        return None
    sides = [node.left, *node.comparators]
    pairs = list(zip(sides, node.ops, sides[1:], strict=False))
    for a, operator, b in pairs:
        if not compared(operator, value_of(a, columns), value_of(b, columns)).all():
            return a, operator, b
    return pairs[-1]

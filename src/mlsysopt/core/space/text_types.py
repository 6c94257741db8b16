"""Text is compared with text, by == and != only, and with values that may occur."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlsysopt.core.errors import ExpressionError, near_misses

__all__ = ["TypeCheck"]

Type = Literal["number", "text", "mixed", "truth"]


@dataclass(frozen=True, slots=True)
class TypeCheck:
    """Finds the type of every part.

    Attributes:
        text: The whole expression, for messages.
        choices: Parameters that may hold text -> all their values.
    """

    text: str
    choices: Mapping[str, tuple[Any, ...]]

    def kind(self, node: ast.expr) -> Type:
        """Return the type of a node.

        Raises:
            ExpressionError: what is compared or calculated with what.
        """
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
        raise ExpressionError(f"expression {self.text!r}: {ast.unparse(node)} {why}")

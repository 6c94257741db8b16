"""What an expression may be made of: a whitelist over Python's own syntax tree.

Text is parsed, never evaluated as Python; every node is looked at before anything is computed.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass

from mlsysopt.core.errors import ExpressionError
from mlsysopt.core.quantities import quantities_in
from mlsysopt.core.space.evaluation import BINARY, CALLS, COMPARE

__all__ = ["ALLOWED", "Places", "Reader", "Span", "plain_source"]

ALLOWED = "names, numbers, text, + - * / // % **, comparisons, and, or, not, min, max, abs"

_DEEPEST = 60
_LARGEST_POWER = 64
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
class Span:
    """A quantity: where its plain number stands in the source, and where it stood in the text."""

    start: int
    end: int
    first: int
    last: int
    kind: str


def plain_source(text: str) -> tuple[str, tuple[Span, ...]]:
    """Return the text with plain numbers in place of quantities, and where they stand."""
    pieces: list[str] = []
    spans: list[Span] = []
    done = length = 0
    for first, last, number, kind in quantities_in(text):
        pieces += [text[done:first], number]
        length += first - done
        spans.append(Span(length, length + len(number), first, last, kind))
        length += len(number)
        done = last
    return "".join([*pieces, text[done:]]), tuple(spans)


@dataclass(frozen=True, slots=True)
class Places:
    """Positions in the text as it was written, from positions in the source without quantities."""

    spans: tuple[Span, ...]

    def __call__(self, position: int) -> int:
        shift = 0
        for span in self.spans:
            if position <= span.start:
                break
            if position < span.end:
                return span.first
            shift = span.last - span.end
        return position + shift


class Reader:
    """Turns source into a checked syntax tree and collects its names."""

    def __init__(self, text: str, source: str, spans: tuple[Span, ...]) -> None:
        self.text, self.source, self.names = text, source, set[str]()
        self._place = Places(spans)

    def read(self) -> ast.expr:
        """Return the tree once every node of it is known to be allowed.

        Raises:
            ExpressionError: position in the text as written, what was found and what is allowed.
        """
        if not self.source.isascii():
            # Positions of the parser count bytes, and names that look alike would be folded together.
            position = next(i for i, letter in enumerate(self.source) if not letter.isascii())
            self._refuse(f"the letter {self.source[position]!r}", position)
        try:
            tree = ast.parse(self.source, mode="eval").body
        except SyntaxError as error:
            position = min(error.offset - 1 if error.offset else len(self.source), len(self.source))
            raise ExpressionError(
                f"expression {self.text!r}: {error.msg} at position {self._place(position)}; allowed are {ALLOWED}"
            ) from None
        except (MemoryError, RecursionError, ValueError, OverflowError):
            raise ExpressionError(f"expression {self.text[:40]!r}...: it is nested too deeply") from None
        self._check(tree, 0)
        return tree

    def _refuse(self, what: str, position: int) -> None:
        raise ExpressionError(
            f"expression {self.text!r}: {what} at position {self._place(position)} is not allowed;\n"
            f"allowed are {ALLOWED}"
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
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in BINARY:
                if isinstance(operator, ast.Pow):
                    self._check_power(right)
                children = [left, right]
            case ast.BoolOp(values=values):
                children = values
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARE for op in ops):
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
        if name not in CALLS:
            self._refuse(f"a call of {ast.unparse(node.func)[:40]!r}", node.col_offset)
        if node.keywords:
            self._refuse("a keyword argument", node.keywords[0].value.col_offset)
        wrong = len(node.args) != 1 if name == "abs" else len(node.args) < 2
        if wrong:
            self._refuse(f"{name} of {len(node.args)} arguments", node.col_offset)
        return node.args

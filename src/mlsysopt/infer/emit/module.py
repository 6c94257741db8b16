"""One generated file: runtime functions, one function per update, and the entry points that run them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mlsysopt.infer.emit.functions import Functions
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.frontend.scope import kind_of
from mlsysopt.infer.ir import Expr, Kind, Program

__all__ = ["IMPORT", "INNER", "JIT", "Module", "Tuned"]

IMPORT = "from mlsysopt.infer.emit.jit import inner, jit\n"

JIT, INNER = "@jit", "@inner"
"""Decorators of what Python calls, and of what only generated code calls."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Numbers that an update adapts while a chain warms up, and that stand still afterwards.

    Attributes:
        name: Of the array, `t_...`.
        like: Variable with a number for each of its cells; "" for `size` numbers.
        size: How many, where it is like no variable; may be an expression of the inputs.
        start: What each of them is at first.
    """

    name: str
    like: str = ""
    size: int | Expr = 1
    start: float = 1.0


class Module:
    """A file being written.

    Args:
        program: What it is about.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.functions = Functions()
        self.written: dict[str, Writer] = {}
        self.tuned: dict[str, Tuned] = {}

    def kind(self, expression: Expr) -> Kind:
        """Return what kind of number an expression is."""
        return kind_of(expression, self.program.variables)

    @contextmanager
    def function(self, name: str, parameters: Sequence[str] = (), *, inner: bool = False) -> Generator[Writer]:
        """Write a function; the arrays that it touches follow its parameters."""
        if name in self.written:
            raise ValueError(f"{name} is written twice")
        writer = Writer(self, name, parameters, inner=inner or name.startswith("update_"))
        yield writer
        self.written[name] = writer

    def tune(self, one: Tuned, writer: Writer) -> str:
        """Add numbers that a function adapts; return the array's name."""
        self.tuned[one.name] = one
        return writer.array(one.name)

    def call(self, name: str, inside: Writer, *arguments: str) -> str:
        """Return the text of a call of a written function from another one, which takes over its arrays."""
        given = [inside.array(one) for one in self.written[name].arrays]
        return f"{name}({', '.join([*arguments, *given])})"

    def text(self) -> str:
        """Return the whole file."""
        head = (
            f'"""Generated for the model {self.program.name}; its name is the hash of this text. Do not edit."""\n\n'
            f"import math\n\nimport numpy as np\n\n{IMPORT}\n"
        )
        called = "".join(f"\n\n{one.text(INNER if one.inner else JIT)}" for one in self.written.values())
        return head + self.functions.text(INNER) + called

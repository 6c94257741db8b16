"""Writing one function of a generated file: lines, loops, and expressions as Python text.

Inputs and latents are arrays `v_<name>`; a number is an array of one. A ragged array is flat, `v_<name>` with its rows'
starts in `at_<name>`. Which arrays a function touches becomes its signature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlsysopt.infer.ir import (
    Call,
    Const,
    Expr,
    Get,
    Guard,
    Index,
    Loop,
    Reduce,
    Site,
    Size,
    Variable,
    Vector,
    walk,
)
from mlsysopt.infer.runtime import basics

if TYPE_CHECKING:
    from mlsysopt.infer.emit.module import Module

__all__ = ["Writer"]

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": basics.exp_or_inf,
    "log": basics.log_or_inf,
    "sqrt": basics.sqrt_or_nan,
    "log1p": basics.log1p_or_inf,
    "expm1": basics.expm1_or_inf,
    "sigmoid": basics.logistic,
    "/": basics.ratio,
    "//": basics.floor_div,
    "%": basics.modulo,
    "**": basics.power,
}
_STARTS = {"add": "0.0", "mul": "1.0", "min": "math.inf", "max": "-math.inf", "and": "True", "or": "False"}


class Writer:
    """One function being written.

    Args:
        module: The file that it goes into.
        name: Of the function.
        parameters: In front of the arrays, such as "rng".
        inner: Whether only generated code calls it, so that it needs no door for Python.
    """

    def __init__(self, module: Module, name: str, parameters: Sequence[str] = (), *, inner: bool = False) -> None:
        self.module, self.name, self.parameters, self.inner = module, name, tuple(parameters), inner
        self.arrays: dict[str, None] = {}
        self._lines: list[str] = []
        self._depth = 1
        self._count: dict[str, int] = {}
        self._indices = {index for site in module.program.sites for index in site.indices}

    # Text.

    def line(self, text: str) -> None:
        """Write one line."""
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        """Write a head that ends with a colon; what follows stands below it."""
        self.line(head)
        self._depth += 1
        before = len(self._lines)
        yield
        if len(self._lines) == before:
            self.line("pass")
        self._depth -= 1

    def fresh(self, prefix: str = "t") -> str:
        """Return a name that this function does not have yet, and that no loop of the model has."""
        while True:
            self._count[prefix] = self._count.get(prefix, 0) + 1
            name = f"{prefix}{self._count[prefix]}"
            if name not in self._indices:
                return name

    def let(self, text: str, prefix: str = "t") -> str:
        """Write an assignment to a new name; return the name. A name or number is returned as it is."""
        if text.isidentifier() or text.replace(".", "", 1).isdigit():
            return text
        name = self.fresh(prefix)
        self.line(f"{name} = {text}")
        return name

    def array(self, name: str) -> str:
        """Return the name of an array, and take it into the signature."""
        self.arrays[name] = None
        return name

    def use(self, function: Callable[..., Any]) -> str:
        """Return the name of a runtime function, and take it into the file."""
        return self.module.functions.use(function)

    def text(self, decorator: str) -> str:
        """Return the whole function."""
        body = "\n".join(self._lines) or "    pass"
        return f"{decorator}\ndef {self.name}({', '.join([*self.parameters, *self.arrays])}):\n{body}\n"

    # Loops.

    @contextmanager
    def loops(self, loops: Sequence[Loop], guards: Sequence[Guard] = ()) -> Generator[None]:
        """Write loops, outermost first, and the guards inside of them."""
        depth = self._depth
        for loop in loops:
            low, high = self.value(loop.low), self.value(loop.high)
            step = "" if loop.step == 1 else f", {loop.step}"
            self.line(
                f"for {loop.index} in range({low}, {high}{step}):"
                if low != "0" or step
                else f"for {loop.index} in range({high}):"
            )
            self._depth += 1
        for guard in guards:
            self.line(f"if {self.value(guard.condition)}:")
            self._depth += 1
        before = len(self._lines)
        yield
        if len(self._lines) == before and self._depth > depth:
            self.line("pass")
        self._depth = depth

    @contextmanager
    def site(self, site: Site) -> Generator[None]:
        """Write the loops and guards of a site."""
        with self.loops(site.loops, site.guards):
            yield

    # Variables.

    def variable(self, name: str) -> Variable:
        """Return a variable of the program."""
        return self.module.program.variables[name]

    def cell(self, name: str, at: Sequence[Expr | str], prefix: str = "v_") -> str:
        """Return `v_name[...]` of a cell; with another prefix, of an array of the same shape, such as statistics.

        A cell with fewer indices than dimensions is a view of the rest.
        """
        one = self.variable(name)
        array = self.array(f"{prefix}{name}") if prefix == "v_" else f"{prefix}{name}"
        index = [part if isinstance(part, str) else self.value(part) for part in at]
        if one.ragged:
            starts = self.array(f"at_{one.like or name}")
            if len(index) == 1:
                row = self.let(index[0])
                return f"{array}[{starts}[{row}]:{starts}[{row} + 1]]"
            return f"{array}[{starts}[{index[0]}] + {index[1]}]"
        if not one.rank:
            return f"{array}[0]"
        return f"{array}[{', '.join(index)}]" if index else array

    def shape(self, name: str, axes: int | None = None) -> str:
        """Return the shape of a variable's array as text, of its first `axes` dimensions only where given."""
        one = self.variable(name)
        if one.ragged:
            return f"({self.array(f'v_{name}')}.shape[0],)"
        rank = one.rank if axes is None else axes
        if not one.rank or not rank:
            return "(1,)"
        parts = [f"{self.array(f'v_{name}')}.shape[{i}]" for i in range(rank)]
        return f"({', '.join(parts)}{',' if rank == 1 else ''})"

    # Expressions.

    def value(self, expression: Expr) -> str:
        """Return the text of a number; loops that it needs are written in front."""
        match expression:
            case Const(value):
                return _constant(value)
            case Index(name):
                return name
            case Get(variable, at):
                return self.cell(variable, at)
            case Size(variable, axis, at):
                return self._size(variable, axis, at)
            case Reduce():
                return self._reduce(expression)
            case Vector():
                return self.vector(expression)
            case Call("select", (condition, yes, no)):
                return self._select(condition, yes, no)
            case Call("and" | "or" as word, (a, b)):
                if _is_written(b):
                    return self._select(a, b, Const(False)) if word == "and" else self._select(a, Const(True), b)
                return f"({self.value(a)} {word} {self.value(b)})"
            case Call("not", (a,)):
                return f"(not {self.value(a)})"
            case Call("neg", (a,)):
                return f"(-{self.value(a)})"
            case Call("abs" | "min" | "max" as name, args):
                return f"{name}({', '.join(map(self.value, args))})"
            case Call("**", (a, Const(value=2))):
                name = self.let(self.value(a))
                return f"({name} * {name})"
            case Call("/", (a, Const(value=value))) if value:
                return f"({self.value(a)} / {_constant(value)})"
            case Call(name, args) if name in _FUNCTIONS:
                return f"{self.use(_FUNCTIONS[name])}({', '.join(map(self.value, args))})"
            case Call(op, (a, b)):
                return f"({self.value(a)} {op} {self.value(b)})"
            case _:
                raise ValueError(f"{expression} cannot be written")

    def vector(self, expression: Expr) -> str:
        """Return the text of an array that holds a vector or a matrix: a view where it is a row."""
        assert isinstance(expression, Vector)
        row = expression.row() if not isinstance(expression.body, Vector) else None
        if row is not None:
            variable = self.variable(row.variable)
            # A prefix of a longer row is no row.
            if len(row.at) == variable.rank - 1:
                return self.cell(row.variable, row.at)
        name = self.fresh("row")
        size = self.let(self.value(expression.size))
        if isinstance(expression.body, Vector):
            width = self.let(self.value(expression.body.size))
            self.line(f"{name} = np.empty(({size}, {width}))")
            with (
                self.block(f"for {expression.index} in range({size}):"),
                self.block(f"for {expression.body.index} in range({width}):"),
            ):
                self.line(f"{name}[{expression.index}, {expression.body.index}] = {self.value(expression.body.body)}")
            return name
        self.line(f"{name} = np.empty({size})")
        with self.block(f"for {expression.index} in range({size}):"):
            self.line(f"{name}[{expression.index}] = {self.value(expression.body)}")
        return name

    def _size(self, variable: str, axis: int, at: tuple[Expr, ...]) -> str:
        one = self.variable(variable)
        if one.ragged:
            starts = self.array(f"at_{variable}")
            if axis == 0:
                return f"({starts}.shape[0] - 1)"
            row = self.let(self.value(at[0]))
            return f"({starts}[{row} + 1] - {starts}[{row}])"
        return f"{self.array(f'v_{variable}')}.shape[{axis}]"

    def _reduce(self, one: Reduce) -> str:
        name = self.fresh("r")
        whole = self.module.kind(one) == "int"
        start = _STARTS[one.op]
        if whole and one.op in ("add", "mul"):
            start = start.partition(".")[0]
        low, high = self.value(one.low), self.value(one.high)
        self.line(f"{name} = {start}")
        with self.block(f"for {one.index} in range({low}, {high}):"):
            body = self.value(one.body)
            match one.op:
                case "add":
                    self.line(f"{name} += {body}")
                case "mul":
                    self.line(f"{name} *= {body}")
                case "min" | "max":
                    self.line(f"{name} = {one.op}({name}, {body})")
                case _:
                    self.line(f"{name} = {name} {one.op} bool({body})")
        return name

    def _select(self, condition: Expr, yes: Expr, no: Expr) -> str:
        if not _is_written(yes) and not _is_written(no):
            return f"({self.value(yes)} if {self.value(condition)} else {self.value(no)})"
        name = self.fresh("s")
        with self.block(f"if {self.value(condition)}:"):
            self.line(f"{name} = {self.value(yes)}")
        with self.block("else:"):
            self.line(f"{name} = {self.value(no)}")
        return name

    # Distributions.

    def arguments(self, site: Site) -> list[str]:
        """Return the arguments of a site's distribution as text."""
        return [self.vector(one) if isinstance(one, Vector) else self.value(one) for one in site.args]

    def log_density(self, site: Site) -> str:
        """Return the log density of a site's value at the present loop indices; of `factor`, its weight."""
        if site.distribution is None:
            return self.value(site.value)
        if site.distribution.name == "Categorical":
            return f"{self.use(basics.log_or_inf)}({self.linear_density(site)})"
        value = self.vector(site.value) if isinstance(site.value, Vector) else self.value(site.value)
        return f"{self.use(site.distribution.log_density)}({', '.join([value, *self.arguments(site)])})"

    def linear_density(self, site: Site) -> str | None:
        """Return the probability of a site's value where it costs no logarithm, else None."""
        if site.distribution is None:
            return None
        if site.distribution.name == "Categorical":
            (p,) = site.args
            assert isinstance(p, Vector)
            return self.value(p.at(site.value))
        if site.distribution.name == "Bernoulli":
            p = self.let(self.value(site.args[0]))
            return f"({p} if {self.value(site.value)} == 1 else 1.0 - {p})"
        return None

    def draw(self, site: Site, into: str | None = None) -> None:
        """Write a draw from a site's distribution into its cell, or into a name."""
        one = site.distribution
        assert one is not None and one.draw is not None
        if one.event:
            target = into or self.vector(site.value)
            self.line(f"{self.use(one.draw)}({', '.join(['rng', target, *self.arguments(site)])})")
            return
        arguments = self.arguments(site)
        target = into or self.value(site.value)
        self.line(f"{target} = {self.use(one.draw)}({', '.join(['rng', *arguments])})")


def _is_written(expression: Expr) -> bool:
    """Whether an expression needs lines of its own, which must not run where it is not asked for."""
    return any(
        isinstance(one, Reduce)
        or (isinstance(one, Call) and one.function == "**")
        or (isinstance(one, Call) and one.function in ("and", "or") and _is_written(one.args[1]))
        or (isinstance(one, Size) and bool(one.at))
        for one in walk(expression)
    )


def _constant(value: int | float | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "(-math.inf)"
    return repr(value) if value >= 0 else f"({value!r})"

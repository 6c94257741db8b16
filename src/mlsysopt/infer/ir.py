"""The loop-nest form of a model: expressions, sites and variables. The unrolled graph is never built.

A *site* is one line of the model that draws, observes or weighs, with the loops and guards around it. Deterministic
assignments are gone: what reads them holds their expression. Loops stay loops at any size of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from mlsysopt.infer.distributions.spec import Distribution

__all__ = [
    "Block",
    "Call",
    "Computation",
    "Const",
    "Expr",
    "For",
    "Get",
    "Guard",
    "If",
    "Index",
    "Loop",
    "Program",
    "Reduce",
    "Site",
    "Size",
    "Statement",
    "Variable",
    "Vector",
    "call",
    "children",
    "substitute",
    "walk",
]

Kind = Literal["int", "float", "bool"]


@dataclass(frozen=True, slots=True)
class Const:
    """A number of the source."""

    value: int | float | bool

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class Index:
    """The index of a loop, of a reduction or of a vector; names are unique in a program."""

    name: str

    def __str__(self) -> str:
        return self.name.partition("__")[0]


@dataclass(frozen=True, slots=True)
class Get:
    """One number of a variable: `at` has an index for every dimension."""

    variable: str
    at: tuple[Expr, ...] = ()

    def __str__(self) -> str:
        return self.variable + (f"[{', '.join(map(str, self.at))}]" if self.at else "")


@dataclass(frozen=True, slots=True)
class Size:
    """Length of a variable along one dimension; of one row (`at`) along the second of a ragged one."""

    variable: str
    axis: int = 0
    at: tuple[Expr, ...] = ()

    def __str__(self) -> str:
        return (
            f"len({Get(self.variable, self.at)})" if not self.axis or self.at else f"{self.variable}.shape[{self.axis}]"
        )


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on numbers: `+ - * / // % **`, `neg`, comparisons, `and or not`, `select`, or a function's name.

    `select` takes a condition and two values, of which only the one that is needed is evaluated.
    """

    function: str
    args: tuple[Expr, ...]

    def __str__(self) -> str:
        a = [f"({one})" if isinstance(one, Call) and one.function in _INFIX else str(one) for one in self.args]
        if self.function in _INFIX and len(a) == 2:
            return f"{a[0]} {self.function} {a[1]}"
        if self.function == "neg":
            return f"-{a[0]}"
        if self.function == "not":
            return f"not {a[0]}"
        if self.function == "select":
            return f"({a[1]} if {a[0]} else {a[2]})"
        return f"{self.function}({', '.join(map(str, self.args))})"


@dataclass(frozen=True, slots=True)
class Reduce:
    """`body` folded over `index` from `low` to below `high`, by "add", "mul", "min", "max", "and" or "or"."""

    op: str
    index: str
    low: Expr
    high: Expr
    body: Expr

    def __str__(self) -> str:
        return f"reduce({self.op}, {self.body} for {Index(self.index)} in {self.low}..{self.high})"


@dataclass(frozen=True, slots=True)
class Vector:
    """`size` numbers: `body` for each value of `index`. Only an argument of a distribution; a matrix nests two."""

    index: str
    size: Expr
    body: Expr | Vector

    def at(self, *index: Expr) -> Expr:
        """Return one number of it."""
        body = substitute(self.body, {Index(self.index): index[0]})
        return body.at(*index[1:]) if isinstance(body, Vector) else body

    def row(self) -> Get | None:
        """Return the variable's row that it is, as a `Get` without its last index; None where it is computed."""
        body = self.body
        if isinstance(body, Get) and body.at and body.at[-1] == Index(self.index):
            whole = Get(body.variable, body.at[:-1])
            if not any(one == Index(self.index) for part in whole.at for one in walk(part)):
                return whole
        return None

    def __str__(self) -> str:
        row = self.row()
        return str(row) if row is not None else f"[{self.body} for {Index(self.index)} in {self.size}]"


Expr: TypeAlias = Const | Index | Get | Size | Call | Reduce | Vector

_INFIX = {"+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or"}


def children(expression: Expr) -> tuple[Expr, ...]:
    """Return the expressions directly below one."""
    match expression:
        case Get(_, at) | Size(_, _, at):
            return at
        case Call(_, args):
            return args
        case Reduce(_, _, low, high, body):
            return low, high, body
        case Vector(_, size, body):
            return size, body
        case _:
            return ()


def walk(expression: Expr) -> Iterator[Expr]:
    """Yield an expression and all below it."""
    yield expression
    for child in children(expression):
        yield from walk(child)


def rebuild(expression: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Return an expression whose direct parts went through `change`; numbers are folded."""
    match expression:
        case Get(variable, at):
            return Get(variable, tuple(change(one) for one in at))
        case Size(variable, axis, at):
            return Size(variable, axis, tuple(change(one) for one in at))
        case Call(function, args):
            return call(function, *(change(one) for one in args))
        case Reduce(op, index, low, high, body):
            return Reduce(op, index, change(low), change(high), change(body))
        case Vector(index, size, body):
            new = change(body)
            return Vector(index, change(size), new)
        case _:
            return expression


def substitute(expression: Expr, new: Mapping[Expr, Expr]) -> Expr:
    """Return an expression with some of its parts replaced, outermost first."""
    if expression in new:
        return new[expression]
    return rebuild(expression, lambda one: substitute(one, new))


ZERO, ONE = Const(0), Const(1)


def call(function: str, *args: Expr) -> Expr:
    """Make a `Call`, simplified where that changes no bit that matters: x + 0, x * 1, -(-x), sqrt(x) * sqrt(x)."""
    match function, args:
        case "+", (Const(value=0), x) | (x, Const(value=0)):
            return x
        case "-", (x, Const(value=0)):
            return x
        case "-", (Const(value=0), x):
            return call("neg", x)
        case "*", (Const(value=1), x) | (x, Const(value=1)):
            return x
        case "*", (Const(value=0) as zero, _) | (_, Const(value=0) as zero):
            return zero
        case "*", (Call("sqrt", (x,)), Call("sqrt", (y,))) if x == y:
            return x
        case "/", (x, Const(value=1)):
            return x
        case "/", (Const(value=1), Call("/", (Const(value=1), x))):
            return x
        case "neg", (Call("neg", (x,)),):
            return x
        case "neg", (Const(value=value),):
            return Const(-value)
        case (("+" | "-" | "*"), (Const(value=a), Const(value=b))):
            return Const(a + b if function == "+" else a - b if function == "-" else a * b)
        case "select", (_, x, y) if x == y:
            return x
        case _:
            return Call(function, args)


@dataclass(frozen=True, slots=True)
class Loop:
    """`for index in range(low, high, step)`; bounds hold inputs and outer indices only.

    Two sites share a loop only if they stand in the same `for` of the source: `number` tells.
    """

    index: str
    low: Expr
    high: Expr
    step: int
    line: int
    number: int

    def __str__(self) -> str:
        return f"{Index(self.index)} in {self.low}..{self.high}" + (f" by {self.step}" if self.step != 1 else "")


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition around a site, and whether the site stands in its `else`."""

    condition: Expr
    line: int

    def __str__(self) -> str:
        return str(self.condition)


@dataclass(frozen=True, slots=True)
class Site:
    """One line that draws, observes or weighs.

    Attributes:
        number: Place in the program.
        line: Line of the source.
        variable: What is drawn or observed; of `factor`, and of an observed expression, "".
        at: Its index, without the dimension that a vector-valued draw fills.
        value: The number drawn or observed, or what `factor` adds; of a vector the `Vector` of its numbers.
        distribution: None for `factor`.
        args: In the order of the distribution's parameters; a vector is a `Vector`.
        loops: Outermost first.
        guards: All of them hold where the site is reached.
        observed: Whether its value is given.
        ordered: Whether neighbours along the last loop must ascend.
    """

    number: int
    line: int
    variable: str
    at: tuple[Expr, ...]
    value: Expr
    distribution: Distribution | None
    args: tuple[Expr, ...]
    loops: tuple[Loop, ...] = ()
    guards: tuple[Guard, ...] = ()
    observed: bool = False
    ordered: bool = False

    @property
    def indices(self) -> tuple[str, ...]:
        """Names of its loops' indices, outermost first."""
        return tuple(loop.index for loop in self.loops)

    def expressions(self) -> Iterator[Expr]:
        """Yield everything that it reads: value, arguments, guards and loop bounds."""
        yield self.value
        yield from self.args
        for guard in self.guards:
            yield guard.condition
        for loop in self.loops:
            yield loop.low
            yield loop.high

    def replaced(self, new: Mapping[Expr, Expr]) -> Site:
        """Return it with parts of its expressions replaced; loops keep their indices."""
        value = substitute(self.value, new)
        return replace(
            self,
            at=tuple(substitute(one, new) for one in self.at),
            value=value,
            args=tuple(substitute(one, new) for one in self.args),
            loops=tuple(
                replace(one, low=substitute(one.low, new), high=substitute(one.high, new)) for one in self.loops
            ),
            guards=tuple(replace(one, condition=substitute(one.condition, new)) for one in self.guards),
        )

    def __str__(self) -> str:
        name = self.distribution.name if self.distribution is not None else "factor"
        said = f"{name}({', '.join(map(str, self.args))})" if self.distribution is not None else f"factor({self.value})"
        head = f"observe {self.value} ~ " if self.observed else f"{Get(self.variable, self.at)} ~ "
        head = head if self.distribution is not None else ""
        where = "".join(f" for {loop}" for loop in self.loops) + "".join(f" if {guard}" for guard in self.guards)
        return f"{self.line}: {head}{said}{' ordered' if self.ordered else ''}{where}"


@dataclass(frozen=True, slots=True)
class Variable:
    """An input, or what the model draws.

    Attributes:
        name: As in the source.
        kind: "int", "float" or "bool" (0 or 1).
        shape: Length of each dimension, in inputs; of an input, its own `Size`.
        line: Where it is declared or first drawn.
        input: Whether it is given.
        ragged: Whether its second dimension has rows of their own lengths.
        like: Of a ragged latent, the input whose rows it has.
        event: How many of its last dimensions one draw fills: 0 or 1.
        ordered: Whether its numbers ascend along its first dimension.
    """

    name: str
    kind: Kind
    shape: tuple[Expr, ...] = ()
    line: int = 0
    input: bool = False
    ragged: bool = False
    like: str = ""
    event: int = 0
    ordered: bool = False

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


@dataclass(frozen=True, slots=True)
class For:
    """A loop of the source, for executing forward."""

    loop: Loop
    body: Block


@dataclass(frozen=True, slots=True)
class If:
    """A branch of the source."""

    guard: Guard
    body: Block
    other: Block


Statement: TypeAlias = For | If | Site
Block: TypeAlias = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Computation:
    """Where a cell that is an expression is assigned or read; binding checks that it is assigned once, and first.

    Attributes:
        line: Of the source.
        cell: Which; its array is no variable.
        shape: Of the array.
        loops: Around it, outermost first.
        guards: Under which it is reached.
        defined: Of a read, when the cell has been assigned by then; None for an assignment.
    """

    line: int
    cell: Get
    shape: tuple[Expr, ...]
    loops: tuple[Loop, ...]
    guards: tuple[Guard, ...]
    defined: Expr | None = None


@dataclass(frozen=True)
class Program:
    """One model.

    Attributes:
        name: Of the function.
        file: Where it stands.
        variables: Inputs in the order of the signature, then latents in the order of their first line.
        sites: In program order.
        body: The same sites in their loops and branches as they stand in the source.
        lines: Source lines by number, for messages.
        computations: Of cells that are expressions.
    """

    name: str
    file: str
    variables: Mapping[str, Variable]
    sites: tuple[Site, ...]
    body: Block
    lines: Mapping[int, str] = field(default_factory=dict)
    computations: tuple[Computation, ...] = ()

    def sites_of(self, variable: str) -> tuple[Site, ...]:
        """Return the sites that draw a variable."""
        return tuple(site for site in self.sites if site.variable == variable and not site.observed)

    @property
    def latents(self) -> tuple[Variable, ...]:
        """What is drawn and not given, in program order."""
        drawn = {site.variable for site in self.sites if not site.observed}
        return tuple(one for one in self.variables.values() if one.name in drawn)

    def text(self) -> str:
        """Return the sites as text, one a line."""
        return "\n".join(map(str, self.sites))

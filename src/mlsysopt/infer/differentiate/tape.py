"""Reverse-mode differentiation of expressions: values are written forwards, and then what runs backwards over them.

Single assignment keeps it local: what an iteration of a loop computes is used in that iteration only, so a value and
its slope are plain numbers, and only cells of latents have arrays of slopes, `g_<name>`. A reduction is a loop forwards
and one backwards that computes its body again. What is free of latents has no slope.
"""

from __future__ import annotations

from collections.abc import Callable

from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Call, Const, Expr, Get, Index, Reduce, children, walk
from mlsysopt.infer.runtime import basics, smooth

__all__ = ["DIFFERENTIABLE", "REDUCTIONS", "Shared", "Tape"]

DIFFERENTIABLE = frozenset(
    {"+", "-", "*", "/", "**", "neg", "abs", "min", "max", "exp", "log", "sqrt", "log1p", "expm1", "sigmoid", "select"}
)
REDUCTIONS = frozenset({"add", "min", "max"})


class Shared:
    """What does not change in any loop: numbers, and expressions of nothing else, each computed once.

    Args:
        f: The function.
        latents: What has a slope; their cells have been written.
    """

    def __init__(self, f: Writer, latents: frozenset[str]) -> None:
        self.f, self.latents = f, latents
        self.values: dict[Expr, str] = {}
        self.sums: dict[str, str] = {}
        self._steps: list[tuple[str, Callable[[str], None]]] = []

    def has_slope(self, expression: Expr) -> bool:
        """Whether an expression depends on a latent."""
        return bool(reads(expression) & self.latents)

    def take(self, expression: Expr) -> None:
        """Compute the largest parts of an expression that no loop changes; to be called outside of loops."""
        if expression in self.values:
            return
        if _is_still(expression):
            self.value(expression)
            return
        for one in children(expression):
            self.take(one)

    def value(self, expression: Expr) -> str:
        """Return the name of a part's value."""
        f = self.f
        if isinstance(expression, Const):
            return f.value(expression)
        if expression in self.values:
            return self.values[expression]
        if not self.has_slope(expression):
            name = f.let(f.value(expression), "c_")
        elif isinstance(expression, Get):
            name = f.let(f.value(expression), "s_")
            self._sum(name)
        else:
            assert isinstance(expression, Call)
            names = [self.value(one) for one in expression.args]
            name = f.let(_applied(f, expression, names), "s_")
            self._sum(name)
            wanted = [self.has_slope(one) for one in expression.args]
            self._steps.append((name, lambda d: self._back(expression, names, name, d, wanted)))
        self.values[expression] = name
        return name

    def slope(self, get: Get) -> str:
        """Return the name of the slope by a number."""
        return self.sums[self.value(get)]

    def finish(self) -> None:
        """Write the way back to the numbers; one whose slope is zero may not even have a value."""
        for name, step in reversed(self._steps):
            total = self.sums[name]
            with self.f.block(f"if {total} != 0.0:"):
                step(total)

    def _sum(self, name: str) -> None:
        self.sums[name] = self.f.fresh("d_")
        self.f.line(f"{self.sums[name]} = 0.0")

    def _back(self, expression: Call, names: list[str], name: str, d: str, wanted: list[bool]) -> None:
        for i, text in _slopes(self.f, expression, names, name, d, wanted):
            self.f.line(f"{self.sums[names[i]]} += {text}")


class Tape:
    """Values of one straight piece of code, and the way back over them.

    Args:
        shared: What loops do not change.
        outer: The piece around it, whose values without a slope it may use.
        still: Whether it uses computed parts of `shared`, whose way back is still to come; numbers it always uses.
    """

    def __init__(self, shared: Shared, outer: Tape | None = None, *, still: bool = True) -> None:
        self.f, self.shared, self.outer, self.still = shared.f, shared, outer, still
        self._values: dict[Expr, str] = {}
        self._slopes: dict[str, list[str]] = {}
        self._steps: list[tuple[str, Callable[[str], None]]] = []

    def value(self, expression: Expr) -> str:
        """Return the name of a value, computed here unless it is known."""
        if isinstance(expression, Const | Index):
            return self.f.value(expression)
        known = self._known(expression)
        if known is not None:
            return known
        if self.shared.has_slope(expression):
            name = self._computed(expression)
        else:
            name = self.f.let(self.f.value(expression), "c_")
        self._values[expression] = name
        return name

    def add(self, expression: Expr, text: str) -> None:
        """Add to the slope by an expression; by one that depends on no latent, nothing happens."""
        if self.shared.has_slope(expression):
            self._add(self.value(expression), text)

    def back(self) -> None:
        """Write the way back of everything that slopes were added to."""
        for name, step in reversed(self._steps):
            parts = self._slopes.pop(name, None)
            if parts:
                step(self.f.let(" + ".join(parts), "d_"))

    def _add(self, name: str, text: str) -> None:
        total = self.shared.sums.get(name)
        if total is not None:
            self.f.line(f"{total} += {text}")
        else:
            self._slopes.setdefault(name, []).append(text)

    def _known(self, expression: Expr) -> str | None:
        if expression in self.shared.values and (self.still or isinstance(expression, Get)):
            return self.shared.values[expression]
        if expression in self._values:
            return self._values[expression]
        tape = self.outer
        while tape is not None and not self.shared.has_slope(expression):
            if expression in tape._values:
                return tape._values[expression]
            tape = tape.outer
        return None

    def _computed(self, expression: Expr) -> str:
        match expression:
            case Get():
                return self._cell(expression)
            case Call("select"):
                return self._select(expression)
            case Call():
                return self._call(expression)
            case Reduce("add"):
                return self._sum(expression)
            case Reduce("min" | "max"):
                return self._extreme(expression)
            case _:
                raise ValueError(f"{expression} has no derivative")

    def _cell(self, get: Get) -> str:
        f = self.f
        at = [self.value(one) for one in get.at]
        name = f.let(f.cell(get.variable, at), "v_")
        slope = f.cell(get.variable, at, "g_")
        f.array(f"g_{get.variable}")
        self._steps.append((name, lambda d: f.line(f"{slope} += {d}")))
        return name

    def _call(self, expression: Call) -> str:
        names = [self.value(one) for one in expression.args]
        name = self.f.let(_applied(self.f, expression, names), "v_")
        wanted = [self.shared.has_slope(one) for one in expression.args]

        def step(d: str) -> None:
            for i, text in _slopes(self.f, expression, names, name, d, wanted):
                self._add(names[i], text)

        self._steps.append((name, step))
        return name

    def _select(self, expression: Call) -> str:
        """Write a choice; each side is computed, and walked back, only where it is taken."""
        f = self.f
        condition, *sides = expression.args
        heads = [f"if {self.value(condition)}:", "else:"]
        name = f.fresh("v_")
        for head, side in zip(heads, sides, strict=True):
            with f.block(head):
                f.line(f"{name} = {Tape(self.shared, self, still=self.still).value(side)}")

        def step(d: str) -> None:
            for head, side in zip(heads, sides, strict=True):
                with f.block(head):
                    inner = Tape(self.shared, self, still=self.still)
                    inner.add(side, d)
                    inner.back()

        self._steps.append((name, step))
        return name

    def _sum(self, one: Reduce) -> str:
        f, name = self.f, self.f.fresh("v_")
        head = f"for {one.index} in range({self.value(one.low)}, {self.value(one.high)}):"
        f.line(f"{name} = 0.0")
        with f.block(head):
            f.line(f"{name} += {Tape(self.shared, self, still=self.still).value(one.body)}")

        def step(d: str) -> None:
            with f.block(head):
                inner = Tape(self.shared, self, still=self.still)
                inner.add(one.body, d)
                inner.back()

        self._steps.append((name, step))
        return name

    def _extreme(self, one: Reduce) -> str:
        """Write the least or greatest, and where it is; the way back goes there only."""
        f, name, place = self.f, self.f.fresh("v_"), self.f.fresh("k_")
        low, high = self.value(one.low), self.value(one.high)
        f.line(f"{name} = {'math.inf' if one.op == 'min' else '-math.inf'}")
        f.line(f"{place} = {low}")
        with f.block(f"for {one.index} in range({low}, {high}):"):
            body = Tape(self.shared, self, still=self.still).value(one.body)
            with f.block(f"if {body} {'<' if one.op == 'min' else '>'} {name}:"):
                f.line(f"{name} = {body}")
                f.line(f"{place} = {one.index}")

        def step(d: str) -> None:
            with f.block(f"for {one.index} in range({place}, min({place} + 1, {high})):"):
                inner = Tape(self.shared, self, still=self.still)
                inner.add(one.body, d)
                inner.back()

        self._steps.append((name, step))
        return name


def _is_still(expression: Expr) -> bool:
    """Whether an expression is made of numbers of the model only, none of them in an array."""
    return not isinstance(expression, Const) and all(
        isinstance(one, Call | Const) or (isinstance(one, Get) and not one.at) for one in walk(expression)
    )


def _applied(f: Writer, expression: Call, names: list[str]) -> str:
    """Return the text of an operation on values with names."""
    args = (one if isinstance(one, Const) else Index(name) for one, name in zip(expression.args, names, strict=True))
    return f.value(Call(expression.function, tuple(args)))


def _slopes(
    f: Writer, expression: Call, names: list[str], value: str, d: str, wanted: list[bool]
) -> list[tuple[int, str]]:
    """Return what each argument's slope gains where the slope by the value is `d`: (argument, text)."""
    a, b = names[0], names[-1]
    found: list[tuple[int, str]] = []
    match expression.function:
        case "+":
            found = [(0, d), (1, d)]
        case "-":
            found = [(0, d), (1, f"-{d}")]
        case "*":
            found = [(0, f"{d} * {b}"), (1, f"{d} * {a}")]
        case "/":
            part = f.let(_over(f, d, expression.args[1], b), "d_")
            found = [(0, part), (1, f"-{part} * {value}")]
        case "neg":
            found = [(0, f"-{d}")]
        case "**" if expression.args[1] == Const(2):
            found = [(0, f"2.0 * {d} * {a}")]
        case "**":
            found = [
                (0, f"{d} * {b} * {f.use(basics.power)}({a}, {b} - 1)"),
                (1, f"{d} * {f.use(smooth.power_slope)}({a}, {value})"),
            ]
        case "abs":
            found = [(0, f"({d} if {a} >= 0.0 else -{d})")]
        case "min" | "max" as word:
            first = f"{a} {'<=' if word == 'min' else '>='} {b}"
            found = [(0, f"({d} if {first} else 0.0)"), (1, f"(0.0 if {first} else {d})")]
        case "select":
            found = [(1, f"({d} if {a} else 0.0)"), (2, f"(0.0 if {a} else {d})")]
        case "exp":
            found = [(0, f"{d} * {value}")]
        case "expm1":
            found = [(0, f"{d} * ({value} + 1.0)")]
        case "log":
            found = [(0, f"{f.use(basics.ratio)}({d}, {a})")]
        case "log1p":
            found = [(0, f"{f.use(basics.ratio)}({d}, 1.0 + {a})")]
        case "sqrt":
            found = [(0, f"{f.use(basics.ratio)}(0.5 * {d}, {value})")]
        case "sigmoid":
            found = [(0, f"{d} * {value} * (1.0 - {value})")]
        case _:
            raise ValueError(f"{expression} has no derivative")
    return [(i, text) for i, text in found if wanted[i]]


def _over(f: Writer, d: str, divisor: Expr, name: str) -> str:
    if isinstance(divisor, Const) and divisor.value:
        return f"{d} / {name}"
    return f"{f.use(basics.ratio)}({d}, {name})"

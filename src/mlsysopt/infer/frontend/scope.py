"""What names mean while a model is read: variables, loop indices, and values that are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlsysopt.infer.ir import (
    Call,
    Computation,
    Const,
    Expr,
    Get,
    Guard,
    Index,
    Kind,
    Loop,
    Reduce,
    Size,
    Variable,
    Vector,
    call,
    substitute,
    walk,
)

__all__ = ["Computed", "Definition", "Scope", "kind_of", "uses"]

_COMPARISONS = {"<", "<=", ">", ">=", "==", "!=", "and", "or", "not"}


@dataclass(frozen=True, slots=True)
class Definition:
    """One assignment to cells of a computed array."""

    at: tuple[Expr, ...]
    value: Expr
    loops: tuple[Loop, ...]
    guards: tuple[Guard, ...]
    line: int


@dataclass
class Computed:
    """An array whose cells are expressions."""

    name: str
    kind: Kind
    shape: tuple[Expr, ...]
    line: int
    definitions: list[Definition] = field(default_factory=list)

    def read(self, at: tuple[Expr, ...]) -> Expr | None:
        """Return the expression of one cell; None where no definition reaches it in a form that can be solved."""
        found: Expr | None = None
        for one in reversed(self.definitions):
            solved = _solve(one, at)
            if solved is None:
                return None
            new, conditions = solved
            value = substitute(one.value, new)
            guards = [substitute(guard.condition, new) for guard in one.guards]
            if found is None:
                found = value
                continue
            for condition in reversed([*conditions, *guards]):
                found = call("select", condition, value, found)
        return found

    def defined(self, at: tuple[Expr, ...]) -> Expr:
        """Return when a cell, one that `read` finds, has a definition."""
        found: Expr = Const(False)
        for one in self.definitions:
            solved = _solve(one, at)
            assert solved is not None
            new, conditions = solved
            every: Expr = Const(True)
            for condition in [*conditions, *(substitute(guard.condition, new) for guard in one.guards)]:
                every = call("and", every, condition)
            found = call("or", found, every)
        return found


def _solve(one: Definition, at: tuple[Expr, ...]) -> tuple[dict[Expr, Expr], list[Expr]] | None:
    """Return what the loop indices of a definition are where it reaches a cell, and when it does."""
    new: dict[Expr, Expr] = {}
    conditions: list[Expr] = []
    bounds = {loop.index: loop for loop in one.loops}
    for pattern, wanted in zip(one.at, at, strict=True):
        match pattern:
            case Index(name):
                shift: Expr = Const(0)
            case Call("+", (Index(name), Const() as shift)) | Call("+", (Const() as shift, Index(name))):
                pass
            case Call("-", (Index(name), Const(value=value))):
                shift = Const(-value)
            case _:
                if any(isinstance(part, Index) for part in walk(pattern)):
                    return None
                conditions.append(call("==", wanted, pattern))
                continue
        index = call("-", wanted, shift)
        if Index(name) in new or name not in bounds or bounds[name].step != 1:
            return None
        new[Index(name)] = index
        conditions += [call(">=", index, bounds[name].low), call("<", index, bounds[name].high)]
    if len(new) < len(one.loops):
        return None
    return new, conditions


class Scope:
    """Names of one model."""

    def __init__(self, variables: Mapping[str, Variable]) -> None:
        self.variables: dict[str, Variable] = dict(variables)
        self.values: dict[str, Expr] = {}
        self.computed: dict[str, Computed] = {}
        self.declared: dict[str, tuple[Kind, tuple[Expr, ...], str, int]] = {}
        self.lines: dict[str, int] = {}
        self.partly: dict[str, int] = {}
        self.loops: list[Loop] = []
        self.guards: list[Guard] = []
        self.computations: list[Computation] = []
        self._used: dict[str, int] = {}

    def fresh(self, name: str) -> str:
        """Return a name for an index that nothing else has."""
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 and name not in self.variables else f"{name}__{count}"

    def names(self) -> set[str]:
        """Return every name that stands for something."""
        return {*self.variables, *self.values, *self.computed, *self.declared}

    def shape_of(self, name: str) -> tuple[Expr, ...] | None:
        """Return the dimensions of an array; None for a number or an unknown name."""
        if name in self.variables:
            return self.variables[name].shape
        if name in self.computed:
            return self.computed[name].shape
        return self.declared[name][1] if name in self.declared else None


def uses(expression: Expr) -> set[str]:
    """Return the names of the variables whose values an expression reads (not their sizes)."""
    return {one.variable for one in walk(expression) if isinstance(one, Get)}


def kind_of(expression: Expr, variables: Mapping[str, Variable]) -> Kind:
    """Return what kind of number an expression is."""
    match expression:
        case Const(value):
            return "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
        case Index() | Size():
            return "int"
        case Get(variable):
            return variables[variable].kind
        case Reduce(_, _, _, _, body) | Vector(_, _, body):
            return kind_of(body, variables)
        case Call(function, args):
            if function in _COMPARISONS:
                return "bool"
            if function in ("+", "-", "*", "//", "%", "neg", "abs", "min", "max"):
                return _joined(kind_of(one, variables) for one in args)
            if function == "select":
                return _joined(kind_of(one, variables) for one in args[1:])
            if function == "**" and isinstance(args[1], Const) and kind_of(args[0], variables) == "int":
                return "int" if isinstance(args[1].value, int) and args[1].value >= 0 else "float"
            return "float"


def _joined(kinds: Iterable[Kind]) -> Kind:
    found = set(kinds)
    return "float" if "float" in found else "bool" if found == {"bool"} else "int"

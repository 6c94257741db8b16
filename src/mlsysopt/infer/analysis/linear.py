"""Expressions that are linear in some variables: `constant + sum of coefficient * cell`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.ir import Call, Const, Expr, Get, Reduce, call

__all__ = ["Linear", "Term", "linear"]

ZERO = Const(0)


@dataclass(frozen=True, slots=True)
class Term:
    """A coefficient times a cell, summed over the indices of reductions.

    Attributes:
        get: The cell; its index reads none of the variables.
        coefficient: Free of the variables.
        over: Reductions whose sum it is part of, outermost first; their bodies are not meant.
    """

    get: Get
    coefficient: Expr
    over: tuple[Reduce, ...] = ()


@dataclass(frozen=True, slots=True)
class Linear:
    """`constant` plus the sum of the terms."""

    constant: Expr
    terms: tuple[Term, ...]


def linear(expression: Expr, variables: Collection[str]) -> Linear | None:
    """Return an expression as a linear one of the cells of some variables, None where it is not.

    >>> x, a = Get("x"), Get("a")
    >>> found = linear(call("+", call("*", a, x), Const(3)), {"x"})
    >>> str(found.constant), [(str(one.coefficient), str(one.get)) for one in found.terms]
    ('3', [('a', 'x')])
    """
    if not reads(expression) & set(variables):
        return Linear(expression, ())
    match expression:
        case Get(variable, at):
            if variable not in variables or any(reads(one) & set(variables) for one in at):
                return None
            return Linear(ZERO, (Term(expression, Const(1)),))
        case Call("+" | "-" as sign, (x, y)):
            a, b = linear(x, variables), linear(y, variables)
            if a is None or b is None:
                return None
            if sign == "-":
                b = _times(b, Const(-1))
            return Linear(call(sign, a.constant, _absolute(b.constant, sign)), (*a.terms, *b.terms))
        case Call("neg", (x,)):
            a = linear(x, variables)
            return None if a is None else _times(a, Const(-1))
        case Call("*", (x, y)):
            for one, other in ((x, y), (y, x)):
                if not reads(one) & set(variables):
                    a = linear(other, variables)
                    return None if a is None else _times(a, one)
            return None
        case Call("/", (x, y)) if not reads(y) & set(variables):
            a = linear(x, variables)
            if a is None:
                return None
            return Linear(
                call("/", a.constant, y) if a.constant != ZERO else ZERO,
                tuple(replace(one, coefficient=call("/", one.coefficient, y)) for one in a.terms),
            )
        case Call("select", (condition, x, y)) if not reads(condition) & set(variables):
            a, b = linear(x, variables), linear(y, variables)
            if a is None or b is None:
                return None
            terms = [replace(one, coefficient=call("select", condition, one.coefficient, ZERO)) for one in a.terms]
            terms += [replace(one, coefficient=call("select", condition, ZERO, one.coefficient)) for one in b.terms]
            return Linear(call("select", condition, a.constant, b.constant), tuple(terms))
        case Reduce("add", _, low, high, body) if not (reads(low) | reads(high)) & set(variables):
            a = linear(body, variables)
            if a is None:
                return None
            constant = ZERO if a.constant == ZERO else replace(expression, body=a.constant)
            return Linear(constant, tuple(replace(one, over=(expression, *one.over)) for one in a.terms))
        case _:
            return None


def _times(a: Linear, factor: Expr) -> Linear:
    return Linear(
        call("*", factor, a.constant),
        tuple(replace(one, coefficient=call("*", factor, one.coefficient)) for one in a.terms),
    )


def _absolute(constant: Expr, sign: str) -> Expr:
    """Undo the sign that the constant of a subtracted side already carries: `a - (-1 * c)` reads as `a - c`."""
    if sign == "+":
        return constant
    match constant:
        case Const(value=value):
            return Const(-value)
        case Call("*", (Const(value=-1), inner)):
            return inner
        case _:
            return call("neg", constant)

"""Where a variable occurs: in an argument, an index, a guard, a bound; and under which reductions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mlsysopt.infer.ir import Call, Const, Expr, Get, Index, Loop, Reduce, Site, Size, Vector, walk

__all__ = ["Mention", "free_of", "mentions", "reads", "shift_of"]

Place = Literal["value", "argument", "index", "guard", "bound"]


@dataclass(frozen=True, slots=True)
class Mention:
    """One occurrence of a variable in a site.

    Attributes:
        site: Which.
        get: The cell that is read.
        place: "index" where it stands inside another read's index, whatever surrounds that.
        argument: Which argument, of a mention in one.
        under: Reductions and vectors around it, outermost first.
    """

    site: Site
    get: Get
    place: Place
    argument: int = -1
    under: tuple[Reduce | Vector, ...] = ()

    @property
    def line(self) -> int:
        """The site's line."""
        return self.site.line


def mentions(site: Site, variable: str) -> tuple[Mention, ...]:
    """Return every occurrence of a variable in a site, other than as what the site itself draws or observes."""
    found: list[Mention] = []
    if site.distribution is None or site.observed:
        found += _inside(site, site.value, variable, "value", -1)
    for i, one in enumerate(site.args):
        found += _inside(site, one, variable, "argument", i)
    for at in site.at:
        found += _inside(site, at, variable, "index", -1)
    for guard in site.guards:
        found += _inside(site, guard.condition, variable, "guard", -1)
    for loop in site.loops:
        for bound in (loop.low, loop.high):
            found += _inside(site, bound, variable, "bound", -1)
    return tuple(found)


def _inside(
    site: Site, expression: Expr, variable: str, place: Place, argument: int, under: tuple[Reduce | Vector, ...] = ()
) -> Iterator[Mention]:
    match expression:
        case Get(name, at):
            if name == variable:
                yield Mention(site, expression, place, argument, under)
            for one in at:
                # A row that is read as a whole reads its own index once.
                around = tuple(outer for outer in under if Index(outer.index) in walk(one))
                yield from _inside(site, one, variable, "guard" if place == "guard" else "index", argument, around)
        case Call(_, args):
            for one in args:
                yield from _inside(site, one, variable, place, argument, under)
        case Reduce(_, _, low, high, body):
            for one in (low, high):
                yield from _inside(site, one, variable, "index", argument, under)
            yield from _inside(site, body, variable, place, argument, (*under, expression))
        case Vector(_, size, body):
            yield from _inside(site, size, variable, "index", argument, under)
            yield from _inside(site, body, variable, place, argument, (*under, expression))
        case Const() | Index() | Size():
            return


def reads(expression: Expr) -> set[str]:
    """Return the names of the variables that an expression reads."""
    return {one.variable for one in walk(expression) if isinstance(one, Get)}


def free_of(expression: Expr, variable: str) -> bool:
    """Whether an expression does not read a variable."""
    return variable not in reads(expression)


def shift_of(index: Expr, loops: tuple[Loop, ...]) -> tuple[str, int] | None:
    """Return (loop index, c) of an index `i + c` over one of the loops; None for any other form.

    >>> from mlsysopt.infer.ir import call
    >>> shift_of(call("-", Index("t"), Const(1)), (Loop("t", Const(1), Const(9), 1, 0, 1),))
    ('t', -1)
    """
    names = {loop.index for loop in loops}
    match index:
        case Index(name) if name in names:
            return name, 0
        case Call("+", (Index(name), Const(value=int() as c))) | Call("+", (Const(value=int() as c), Index(name))) if (
            name in names
        ):
            return name, int(c)
        case Call("-", (Index(name), Const(value=int() as c))) if name in names:
            return name, -int(c)
        case _:
            return None

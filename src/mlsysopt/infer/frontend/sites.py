"""The sites of a model as they are found, under the loops and branches that are open."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from mlsysopt.infer.distributions.spec import Distribution
from mlsysopt.infer.frontend.scope import Scope, uses
from mlsysopt.infer.frontend.source import Source
from mlsysopt.infer.ir import Call, Expr, Get, Guard, Index, Loop, Site, Vector, walk

__all__ = ["Sites", "event_size"]


class Sites:
    """Sites in program order.

    Attributes:
        found: So far.
        loops: Open ones, outermost first.
        guards: Of open branches.
    """

    def __init__(self, source: Source, scope: Scope) -> None:
        self.source, self.scope = source, scope
        self.found: list[Site] = []
        self.loops: list[Loop] = []
        self.guards: list[Guard] = []
        self._count = 0

    def loop(self, name: str, low: Expr, high: Expr, line: int, step: int = 1) -> Loop:
        """Make a loop with an index of its own; it is not open yet."""
        self._count += 1
        return Loop(self.scope.fresh(name), low, high, step, line, self._count)

    def add(
        self,
        node: ast.stmt | ast.expr,
        name: str,
        at: tuple[Expr, ...],
        distribution: Distribution,
        args: tuple[Expr, ...],
        value: Expr | None = None,
        *,
        observed: bool = False,
        ordered: bool = False,
    ) -> Site:
        """Add a draw or an observation; without a value, of the cell itself."""
        if value is None:
            value = Get(name, at)
            if distribution.event:
                index = self.scope.fresh("j")
                value = Vector(index, event_size(args), Get(name, (*at, Index(index))))
        site = Site(
            len(self.found),
            node.lineno,
            name,
            at,
            value,
            distribution,
            args,
            tuple(self.loops),
            tuple(self.guards),
            observed,
            ordered,
        )
        self.found.append(site)
        return site

    def weigh(self, node: ast.expr, weight: Expr) -> Site:
        """Add a `factor`."""
        site = Site(len(self.found), node.lineno, "", (), weight, None, (), tuple(self.loops), tuple(self.guards), True)
        self.found.append(site)
        return site

    def given_only(
        self, node: ast.AST, expression: Expr, what: str, remedy: str = "; it has to follow from the inputs"
    ) -> None:
        """Refuse an expression that reads something drawn."""
        for name in uses(expression):
            if not self.scope.variables[name].input:
                line = self.scope.variables[name].line
                raise self.source.error(node, f"{what} depends on {name}, which is drawn at line {line}{remedy}")

    def check(self) -> None:
        """Refuse cells that two lines draw, as far as it can be seen without data; binding sees the rest."""
        for name, variable in self.scope.variables.items():
            sites = [site for site in self.found if site.variable == name and (not site.observed or variable.input)]
            for i, one in enumerate(sites):
                for other in sites[:i]:
                    if variable.input and one.observed != other.observed:
                        continue
                    same = _pattern(one) == _pattern(other) and one.guards == other.guards
                    if not same:
                        continue
                    what = "observed" if one.observed else "assigned"
                    where = Get(name, one.at)
                    raise self.source.error(
                        one.line,
                        f"{where} is {what} twice (first at line {other.line}); use one line, or cells of their own",
                    )
                if not variable.input and not variable.ordered:
                    self._check_loops(one, where=Get(name, one.at))

    def _check_loops(self, site: Site, where: Get) -> None:
        used = {one.name for part in site.at for one in walk(part) if isinstance(one, Index)}
        for loop in site.loops:
            if loop.index not in used and not any(
                loop.index in _names(inner) for inner in site.loops if inner.index in used
            ):
                raise self.source.error(
                    site.line,
                    f"{where} is assigned once for every {Index(loop.index)} of the loop at line {loop.line}; "
                    f"give it a dimension for {Index(loop.index)}, or move it out of the loop"
                )  # fmt: skip


def _names(loop: Loop) -> set[str]:
    return {one.name for part in (loop.low, loop.high) for one in walk(part) if isinstance(one, Index)}


def _pattern(site: Site) -> tuple[object, ...]:
    """Return what a site's cells look like, whatever its indices are called."""
    names = {loop.index: i for i, loop in enumerate(site.loops)}
    bounds = {loop.index: (loop.low, loop.high, loop.step) for loop in site.loops}

    def shown(expression: Expr) -> object:
        if isinstance(expression, Index) and expression.name in names:
            return bounds[expression.name]
        if isinstance(expression, Call):
            return expression.function, tuple(shown(one) for one in expression.args)
        return expression

    return tuple(shown(one) for one in site.at)


def event_size(args: Sequence[Expr]) -> Expr:
    """Return the length of the vector that a distribution with these arguments is over."""
    return next(one.size for one in args if isinstance(one, Vector))

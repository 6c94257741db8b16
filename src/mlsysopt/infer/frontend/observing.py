"""`observe(value, distribution)`: what is given, whole rows of it, and arrays of which some cells are missing."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from dataclasses import replace

from mlsysopt.infer.distributions.spec import Distribution
from mlsysopt.infer.frontend.expressions import DrawCall, Expressions
from mlsysopt.infer.frontend.scope import uses
from mlsysopt.infer.frontend.sites import Sites
from mlsysopt.infer.ir import Block, Const, Expr, For, Get, Guard, If, Index, Statement, Vector, call

__all__ = ["observe"]


def observe(of: Expressions, sites: Sites, node: ast.Call, missing: Collection[str]) -> Sequence[Statement]:
    """Return the statements of one `observe(...)`.

    Args:
        of: Reads expressions.
        sites: Takes the sites.
        node: The call.
        missing: Inputs of which some cells are drawn.
    """
    return _Observing(of, sites, missing).statement(node)


class _Observing:
    def __init__(self, of: Expressions, sites: Sites, missing: Collection[str]) -> None:
        self.of, self.sites, self.missing = of, sites, missing

    def statement(self, node: ast.Call) -> Sequence[Statement]:
        """Return the sites of one `observe(...)`."""
        if len(node.args) != 2 or node.keywords:
            raise self.of.source.error(node, "observe(value, distribution) takes two arguments")
        value, given = node.args
        drawn = self.of.draw(given)
        if drawn is None:
            raise self.of.source.error(node, f"observe() needs a distribution, got {ast.unparse(given)}")
        if drawn.ordered:
            raise self.of.source.error(node, "what is observed is not ordered by the model; leave .ordered() out")
        if drawn.rows is not None:
            found = self.of.array(value)
            if found is None:
                raise self.of.source.error(node, f"observe() of rows needs an array, got {ast.unparse(value)}")
            size = self.of.index(drawn.rows)
            self.sites.given_only(node, size, "the number of rows")
            loop = self.sites.loop(f"{found[0]}_row", Const(0), size, node.lineno)
            row = Index(loop.index)
            self.sites.loops.append(loop)
            sites = self._observed(node, value, drawn, (*found[1], row), row)
            self.sites.loops.pop()
            return [For(loop, tuple(sites))]
        found = self.of.array(value)
        return self._observed(node, value, drawn, found[1] if found is not None else (), None)

    def _observed(
        self, node: ast.Call, value: ast.expr, drawn: DrawCall, at: tuple[Expr, ...], row: Expr | None
    ) -> Sequence[Statement]:
        distribution, args = self.of.distribution(drawn, row)
        found = self.of.array(value)
        name, what = "", None
        if found is not None:
            name = found[0]
            rank = len(self.of.scope.shape_of(name) or ())
            if len(at) + distribution.event != rank:
                kind = "a row" if distribution.event else "a number"
                raise self.of.source.error(
                    node, f"{distribution.name} is over {kind}, and {ast.unparse(value)} is none"
                )
        if distribution.event:
            if found is None:
                raise self.of.source.error(node, f"{distribution.name} is over a row, and {ast.unparse(value)} is none")
            index = self.of.scope.fresh("j")
            what = Vector(index, self.of.size(name, len(at), at), self.of.get(name, (*at, Index(index)), node))
        elif found is not None:
            what = self.of.get(name, at, node)
        else:
            what = self.of.number(value)
            if isinstance(what, Get):
                name, at = what.variable, what.at
        if name in self.of.scope.computed:
            name, at = "", ()
        for one in uses(what):
            variable = self.of.scope.variables[one]
            if not variable.input:
                raise self.of.source.error(
                    node,
                    f"{ast.unparse(value)} is not given: {one} is drawn at line {variable.line}; "
                    "only inputs are observed",
                )
        if name in self.missing:
            return self._partly(node, name, at, distribution, args, what)
        return [self.sites.add(node, name, at, distribution, args, what, observed=True)]

    def _partly(
        self,
        node: ast.Call,
        name: str,
        at: tuple[Expr, ...],
        distribution: Distribution,
        args: tuple[Expr, ...],
        what: Expr,
    ) -> Sequence[Statement]:
        """Return two sites under a mask: cells that are given are observed, the others are drawn."""
        if distribution.event:
            raise self.of.source.error(
                node, f"missing cells of {name} cannot be drawn: {distribution.name} is over whole rows"
            )
        mask = Get(f"{name}__missing", at)
        condition = call("==", mask, Const(0))
        line = node.lineno
        self.of.scope.variables[name] = replace(self.of.scope.variables[name], line=line)
        both: list[Block] = []
        for one, observed in ((condition, True), (call("not", condition), False)):
            self.sites.guards.append(Guard(one, line))
            both.append((self.sites.add(node, name, at, distribution, args, what, observed=observed),))
            self.sites.guards.pop()
        return [If(Guard(condition, line), *both)]

"""Joint Gaussian blocks: what shares a mean is drawn together, intercept and slope, group levels and their centre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mlsysopt.infer.analysis.blanket import Analysis, visits
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.ir import Const, Expr, Index, call
from mlsysopt.infer.rules.arrow import write_arrow
from mlsysopt.infer.rules.linear_gaussian import NORMALS, Equation, equations, grown, shifted, unfit
from mlsysopt.infer.rules.plates import Layout, plates
from mlsysopt.infer.rules.protocol import Refusal, Update

__all__ = ["LARGEST", "Gaussian"]

LARGEST = 256
"""Numbers that are drawn together by one Cholesky factor; above that its cube costs more than the mixing is worth."""
MOST = 4096
"""Coefficients of one sum, which cannot be taken apart, that are drawn together all the same."""


class Gaussian:
    """Rule 3: variables with Gaussian priors whose means are linear in all of them together, given everything else.

    The precision of the block is summed over its sites and factored. Cells of arrays that are only read at one and the
    same index are small groups, independent given the rest (`alpha[g[n]] + beta * x[n]`): they are eliminated first.
    """

    name: ClassVar[str] = "gaussian"

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Accept a variable with the block that it is part of."""
        why = self._refusal(variable, analysis)
        if why is not None:
            return why
        block, forbidden = self._block(variable, analysis)
        found = equations(block, analysis)
        if isinstance(found, Refusal):
            return found
        if len(block) == 1 and self._is_conjugate(variable, analysis):
            if forbidden:
                other, line = next(iter(forbidden.items()))
                return Refusal(f"a mean is not linear in {variable} and {other} together", line)
            return Refusal("its cells are independent: conjugate does it", analysis.blanket(variable).mentions[0].line)
        layout = Layout(block, plates(block, found, analysis), analysis)
        dimension = layout.dimension()
        if isinstance(dimension, Const) and dimension.value > LARGEST:
            line = analysis.blanket(variable).own[0].line
            return Refusal(f"its block has {dimension} numbers, and {LARGEST} are drawn together", line)
        cost: Expr = call("*", dimension, call("*", dimension, dimension))
        for one in block:
            cost = call("+", cost, analysis.size(one))
        for one in found:
            cost = call("+", cost, call("*", Const(len(one.terms)), visits(one.site)))
        members = (variable, *(one for one in block if one != variable))
        about = _about(layout, dimension)
        return Update(self.name, members, about, cost, lambda module, name: _write(module, name, layout))

    def _block(self, variable: str, analysis: Analysis) -> tuple[tuple[str, ...], dict[str, int]]:
        """Return the block of a variable in program order; no variable is in two blocks, whichever is asked for."""
        free = [one.name for one in analysis.program.latents if self._refusal(one.name, analysis) is None]
        while True:
            block, forbidden = grown(free[0], analysis, free[1:], _chained)
            if variable in block:
                return tuple(one.name for one in analysis.program.latents if one.name in block), forbidden
            free = [one for one in free if one not in block]

    def _refusal(self, variable: str, analysis: Analysis) -> Refusal | None:
        why = unfit(variable, analysis)
        if why is not None:
            return why
        blanket = analysis.blanket(variable)
        if blanket.self_references:
            return Refusal("a cell is read in the prior of another cell", blanket.self_references[0].line)
        return None

    def _is_conjugate(self, variable: str, analysis: Analysis) -> bool:
        blanket = analysis.blanket(variable)
        names = {site.distribution.name for site in (*blanket.own, *blanket.sites) if site.distribution is not None}
        return blanket.cells_are_independent and names <= {*NORMALS, "LogNormal"}


def _chained(found: Sequence[Equation]) -> int:
    """Return the line of a site that reads neighbours along a loop, 0 where none does: such arrays are long."""
    for one in found:
        shifts: dict[Expr, int] = {}
        for term in one.terms:
            for base, c in map(shifted, term.get.at):
                if isinstance(base, Index) and base.name in one.site.indices and shifts.setdefault(base, c) != c:
                    return one.site.line
    return 0


def _write(module: Module, name: str, layout: Layout) -> None:
    """Write the joint update, and one part by part for data that make it too large."""
    analysis, parts = layout.analysis, list[str]()
    long = () if isinstance(layout.dimension(), Const) else layout.shared
    apart = [one for one in long if plates((one,), _said((one,), analysis), analysis)]
    rest = tuple(one for one in layout.block if one not in apart)
    for i, block in enumerate([rest, *((one,) for one in apart)] if apart else []):
        if block:
            found = _said(block, analysis)
            parts.append(f"{name}_{i}")
            write_arrow(module, parts[-1], Layout(block, plates(block, found, analysis), analysis), found, most=MOST)
    most = LARGEST if parts else MOST
    write_arrow(module, name, layout, _said(layout.block, analysis), parts, most=most)


def _said(block: Sequence[str], analysis: Analysis) -> tuple[Equation, ...]:
    found = equations(block, analysis)
    assert not isinstance(found, Refusal)
    return found


def _about(layout: Layout, dimension: Expr) -> str:
    groups, shared = ", ".join(layout.plates), ", ".join(layout.shared)
    if not shared:
        return f"joint Gaussian block, {groups} cell by cell"
    if not groups:
        return f"joint Gaussian block, {shared}: dense, {dimension} numbers"
    return f"joint Gaussian block, {groups} cell by cell given {shared}: dense, {dimension} numbers"

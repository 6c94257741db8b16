"""Variables on which no observation depends: they are drawn from their prior after the sweep."""

from __future__ import annotations

from typing import ClassVar

from mlsysopt.infer.analysis.blanket import Analysis, visits
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.ir import Const, Expr, call
from mlsysopt.infer.rules.protocol import Refusal, Update

__all__ = ["Forward"]


class Forward:
    """Rule 1. All such variables are drawn together, in program order, by `forward` of the file."""

    name: ClassVar[str] = "forward"

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Accept a variable that nothing observed depends on."""
        if variable not in analysis.forward_only:
            mention = next(iter(analysis.blanket(variable).mentions), None)
            return Refusal("something observed depends on it", mention.line if mention is not None else 0)
        for site in analysis.program.sites_of(variable):
            if site.distribution is not None and site.distribution.improper:
                return Refusal(
                    f"{site.distribution.name} cannot be drawn from, and nothing observed depends on it", site.line
                )
        cost: Expr = Const(0)
        for site in analysis.program.sites_of(variable):
            cost = call("+", cost, visits(site))
        return Update(self.name, (variable,), "drawn forward, nothing observed depends on it", cost, _nothing)


def _nothing(module: Module, name: str) -> None:
    """Write a function that leaves everything as it is: `forward` draws all of them at once."""
    with module.function(name, ("rng",)) as f:
        f.line("return 0")

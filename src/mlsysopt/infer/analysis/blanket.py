"""Who reads what: the consumers of each variable, and which variables no observation depends on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from mlsysopt.infer.analysis.mentions import Mention, mentions, reads
from mlsysopt.infer.ir import Call, Const, Expr, Index, Program, Reduce, Site, Variable, call, substitute

__all__ = ["Analysis", "Blanket", "fixed", "visits"]


@dataclass(frozen=True)
class Blanket:
    """What the conditional of one variable is made of.

    Attributes:
        variable: Which.
        own: Sites that draw it.
        consumers: Sites that read it and lead to an observation, with how they do; a site that draws another
            cell of the same variable is one of them.
    """

    variable: Variable
    own: tuple[Site, ...]
    consumers: Mapping[int, tuple[Mention, ...]]
    program: Program

    @property
    def sites(self) -> tuple[Site, ...]:
        """The consumers in program order."""
        return tuple(self.program.sites[number] for number in self.consumers)

    @property
    def mentions(self) -> tuple[Mention, ...]:
        """Every occurrence of it in its consumers."""
        return tuple(one for found in self.consumers.values() for one in found)

    @property
    def self_references(self) -> tuple[Mention, ...]:
        """Occurrences in the prior of its own cells."""
        return tuple(one for one in self.mentions if one.site.variable == self.variable.name and not one.site.observed)

    @property
    def cells_are_independent(self) -> bool:
        """Whether no two cells share a consumer, so that all can be updated from one pass over the data."""
        return (
            not self.variable.ordered
            and not self.self_references
            and all(len(found) == 1 and not found[0].under for found in self.consumers.values())
        )


class Analysis:
    """One program, with what is observed and what is fixed, looked at once.

    Args:
        program: With fixed variables already turned into inputs, see `fixed`.
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    @cached_property
    def latents_read(self) -> tuple[set[str], ...]:
        """For each site, the latents that it reads."""
        latent = {one.name for one in self.program.latents}
        found: list[set[str]] = []
        for site in self.program.sites:
            said = {name for one in site.expressions() for name in reads(one)}
            if not site.observed and site.distribution is not None:
                own = {name for one in (*site.args, *(g.condition for g in site.guards)) for name in reads(one)}
                said = own | {name for at in site.at for name in reads(at)}
            elif site.variable:
                # A cell that is observed is given, even where other cells of its array are drawn.
                said = {name for one in (*site.args, *(g.condition for g in site.guards)) for name in reads(one)}
            found.append(said & latent)
        return tuple(found)

    @cached_property
    def forward_only(self) -> frozenset[str]:
        """Latents on which no observation and no factor depends: they are drawn from their prior."""
        needed: set[str] = set()
        for site, said in zip(self.program.sites, self.latents_read, strict=True):
            if site.observed:
                needed |= said
        grown = True
        while grown:
            grown = False
            for site, said in zip(self.program.sites, self.latents_read, strict=True):
                if not site.observed and site.variable in needed and not said <= needed:
                    needed |= said
                    grown = True
        return frozenset(one.name for one in self.program.latents if one.name not in needed)

    def blanket(self, variable: str) -> Blanket:
        """Return the sites that a variable's conditional is made of."""
        program = self.program
        consumers = {
            site.number: found
            for site in program.sites
            if (site.observed or site.variable not in self.forward_only) and (found := self._mentions(site, variable))
        }
        return Blanket(program.variables[variable], program.sites_of(variable), consumers, program)

    def _mentions(self, site: Site, variable: str) -> tuple[Mention, ...]:
        found = mentions(site, variable)
        if site.observed and site.variable == variable:
            return tuple(one for one in found if one.place != "value")
        return found

    def size(self, variable: str) -> Expr:
        """Return how many numbers a variable has, as an expression of the inputs."""
        found: Expr = Const(1)
        one = self.program.variables[variable]
        if one.ragged:
            return Call("cells", ())
        for size in one.shape:
            found = call("*", found, size)
        return found


def visits(site: Site) -> Expr:
    """Return how often the body of a site is reached, guards aside, as an expression of the inputs."""
    found: Expr = Const(1)
    for loop in reversed(site.loops):
        length = call("-", loop.high, loop.low)
        if _uses(found, loop.index):
            found = Reduce("add", loop.index, loop.low, loop.high, found)
        else:
            found = call("*", length, found)
    return found


def _uses(expression: Expr, index: str) -> bool:
    return substitute(expression, {Index(index): Const(0)}) != expression


def fixed(program: Program, names: Collection[str]) -> Program:
    """Return a program in which some variables are given: their sites count as observations."""
    variables = {name: replace(one, input=True) if name in names else one for name, one in program.variables.items()}
    sites = tuple(
        replace(site, observed=True) if site.variable in names and not site.observed else site for site in program.sites
    )
    by_number = {site.number: site for site in sites}

    def renewed(block):  # type: ignore[no-untyped-def]
        found = []
        for one in block:
            if isinstance(one, Site):
                found.append(by_number[one.number])
            elif hasattr(one, "loop"):
                found.append(replace(one, body=renewed(one.body)))
            else:
                found.append(replace(one, body=renewed(one.body), other=renewed(one.other)))
        return tuple(found)

    return replace(program, variables=variables, sites=sites, body=renewed(program.body))

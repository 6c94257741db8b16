"""Finite variables, one cell after another: every value is tried, and one is drawn by its weight.

Cells that share a consumer see each other's present values. A consumer that reads one cell only is walked from the cell
where its loops can be inverted, else once into a table of all cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mlsysopt.infer.analysis.blanket import Analysis, Blanket
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Index, Program, Site, call
from mlsysopt.infer.rules.finite import LIMIT, Consumer, consumers, is_cheap, states_of, uniform, uses, work
from mlsysopt.infer.rules.protocol import Refusal, Update
from mlsysopt.infer.rules.weights import Weights, count, density, flat, needs_log, pick, settled

__all__ = ["Enumerate"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one variable is enumerated.

    Attributes:
        states: Number of values of each own site.
        common: The same number for all cells and sweeps, if there is one.
        gathered: Consumers walked from each cell.
        scattered: Consumers walked once.
    """

    blanket: Blanket
    states: tuple[Expr, ...]
    common: Expr | None
    gathered: tuple[Consumer, ...]
    scattered: tuple[Consumer, ...]


class Enumerate:
    """Rule 5. p(v = k | rest) is proportional to p(k | parents) times the density of all that reads v, at v = k."""

    name: ClassVar[str] = "enumerate"

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Accept a variable with at most `LIMIT` values; index, guard and argument are all fine."""
        blanket = analysis.blanket(variable)
        states: list[Expr] = []
        for site in blanket.own:
            size = states_of(site)
            if isinstance(size, Refusal):
                return size
            states.append(size)
        for mention in blanket.mentions:
            if mention.place == "bound":
                return Refusal("it is read in a bound", mention.line)
        common = states[0] if len(set(states)) == 1 and uniform(states[0], analysis.program) else None
        gathered: list[Consumer] = []
        scattered: list[Consumer] = []
        cells = analysis.size(variable)
        cost = cells
        rescans = False
        for one in consumers(blanket):
            cheap = is_cheap(one, blanket)
            tabled = not cheap and one.single and common is not None
            (scattered if tabled else gathered).append(one)
            rescans = rescans or not (cheap or tabled)
            cost = call("+", cost, work(one, cells, cheap or tabled))
        cost = call("*", cost, _cost(states, analysis.program))
        plan = _Plan(blanket, tuple(states), common, tuple(gathered), tuple(scattered))
        how = ", every consumer is walked again for each cell" if rescans else ""
        values = f"{common} values" if common is not None else "its values"
        about = f"enumeration of {values}{how}"
        return Update(self.name, (variable,), about, cost, lambda module, name: _write(module, name, plan), finite=True)


def _cost(states: list[Expr], program: Program) -> Expr:
    """Return how many values a cell has at most, as an expression of the inputs."""
    known = [one for one in states if uniform(one, program)]
    if len(known) < len(states):
        return Const(LIMIT)
    found = known[0]
    for one in known[1:]:
        found = found if one == found else call("max", found, one)
    return found


def _write(module: Module, name: str, plan: _Plan) -> None:
    variable = plan.blanket.variable.name
    with module.function(name, ("rng",)) as f:
        logs = any(needs_log(site) for site in plan.blanket.own)
        weights = Weights(f, variable, plan.gathered, plan.scattered, logs=logs)
        weight = f.fresh("weight_")
        states = count(f, plan.common) if plan.common is not None else "1"
        for array in (weight, weights.logs):
            if array:
                f.line(f"{array} = np.empty({states})")
        weights.tabulate(states, alike=plan.common is not None)
        for site, size in zip(plan.blanket.own, plan.states, strict=True):
            with f.site(site):
                if plan.common is None:
                    states = count(f, size)
                    with f.block(f"if {states} > {weight}.shape[0]:"):
                        for array in (weight, weights.logs):
                            if array:
                                f.line(f"{array} = np.empty({states})")
                _cell(f, site, states, weight, weights)
        f.line("return 0")


def _cell(f: Writer, site: Site, states: str, weight: str, weights: Weights) -> None:
    """Write the draw of one cell at the present loop indices."""
    drawn = f.fresh("value_")
    settled_site = settled(f, replace(site, value=Index(drawn)), lambda part: uses(part, {drawn}))

    def prior(k: str) -> tuple[str | None, str | None]:
        return density(f, replace(settled_site, value=Index(k)))

    total = weights.weigh(site.at, site.loops, states, f"{weight}[", prior, summed=True)
    with f.block(f"if not {total} > 0.0:"):
        f.line(f"return 1 + {flat(f, site.variable, site.at)}")
    f.line(f"{f.cell(site.variable, site.at)} = {pick(f, weight, states, total)}")

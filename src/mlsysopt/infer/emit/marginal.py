"""Finite variables summed out exactly: independent cells one by one, chains by the forward algorithm.

Messages are logarithms, one row a cell in one table. Consumers add to the cell that they read; a cell of a chain takes
in the row of the cell before it. What no later cell takes in is summed and added to the total.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mlsysopt.infer.analysis.mentions import Mention, free_of, mentions, shift_of
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Expr, Get, Index, Program, Site
from mlsysopt.infer.rules.finite import states_of, uniform, uses
from mlsysopt.infer.rules.protocol import Refusal
from mlsysopt.infer.rules.weights import flat
from mlsysopt.infer.runtime.marginal import log_sum

__all__ = ["Sum", "summable", "write_sum"]


@dataclass(frozen=True, slots=True)
class Sum:
    """A variable that can be summed out.

    Attributes:
        variable: Name.
        states: How many values each cell has.
        starts: Sites that draw cells from what is not the variable.
        step: Site that draws a cell from the one before it, and how it reads that one; None for independent cells.
        consumers: Sites that read one cell, and how.
    """

    variable: str
    states: Expr
    starts: tuple[Site, ...]
    step: tuple[Site, Get] | None
    consumers: tuple[tuple[Site, Get], ...]

    @property
    def sites(self) -> frozenset[int]:
        """Numbers of the sites whose densities it holds."""
        found = {site.number for site in self.starts} | {site.number for site, _ in self.consumers}
        return frozenset(found | ({self.step[0].number} if self.step is not None else set()))


def summable(
    program: Program,
    variable: str,
    relevant: Collection[int],
    counted: Collection[int],
    number: Callable[[Expr], float],
) -> Sum | Refusal:
    """Return how a variable is summed out, or why it cannot be.

    Args:
        program: What is given stands as observed.
        variable: A latent.
        relevant: Numbers of the sites that matter; reads by others are passed over.
        counted: Those of them whose density is wanted, and that no other sum holds.
        number: Evaluates an expression of the inputs.
    """
    own = program.sites_of(variable)
    states = states_of(own[0])
    if isinstance(states, Refusal):
        return states
    for site in own:
        others = states_of(site)
        if isinstance(others, Refusal):
            return others
        if not uniform(others, program) or number(others) != number(states):
            return Refusal("its cells differ in how many values they have", site.line)
    starts: list[Site] = []
    steps: list[tuple[Site, Get]] = []
    found: list[tuple[Site, Get]] = []
    for site in program.sites:
        if site.number not in relevant:
            continue
        mine = site.variable == variable and not site.observed
        said = mentions(site, variable)
        if not said:
            if mine:
                starts.append(site)
            continue
        get = _cell(said, variable)
        if get is None:
            return Refusal("several of its cells are read in one iteration there", site.line)
        if mine:
            if not _before(get, site):
                return Refusal("a cell is drawn from one that is not the one before it", site.line)
            steps.append((site, get))
        elif site.number in counted:
            found.append((site, get))
        else:
            return Refusal(
                f"{site.variable or 'a factor'} depends on it and is not given, or is summed out already", site.line
            )
    if len(steps) > 1:
        return Refusal("two lines draw a cell from the one before it", steps[1][0].line)
    return Sum(variable, states, tuple(starts), steps[0] if steps else None, tuple(found))


def _cell(said: tuple[Mention, ...], variable: str) -> Get | None:
    """Return the one cell that an iteration reads."""
    gets = {one.get for one in said}
    if len(gets) > 1:
        return None
    inner = {part.index for one in said for part in one.under}
    get = gets.pop()
    return None if any(uses(part, inner) or not free_of(part, variable) for part in get.at) else get


def _before(get: Get, site: Site) -> bool:
    """Whether a cell is the neighbour below along one loop that ascends by one."""
    steps = {loop.index: loop.step for loop in site.loops}
    apart = [(a, b) for a, b in zip(get.at, site.at, strict=True) if a != b]
    if len(apart) != 1:
        return False
    before, here = (shift_of(one, site.loops) for one in apart[0])
    return (
        before is not None
        and here is not None
        and before[0] == here[0]
        and before[1] == here[1] - 1
        and steps[here[0]] == 1
    )


def write_sum(module: Module, name: str, one: Sum) -> None:
    """Write `name(...) -> log of the sum` over all values of a variable of the densities that it holds."""
    with module.function(name) as f:
        array = f.array(f"v_{one.variable}")
        states = f.let(f.value(one.states), "states_")
        f.line(f"logs = np.zeros(({array}.size, {states}))")
        for site, get in one.consumers:
            _added(f, one.variable, states, site, get)
        for site in one.starts:
            assert isinstance(site.value, Get)
            _added(f, one.variable, states, site, site.value)
        f.line(f"passed = np.zeros({array}.size, dtype=np.bool_)")
        if one.step is not None:
            _stepped(f, one.variable, states, *one.step)
        f.line("total = 0.0")
        for site in (*one.starts, *((one.step[0],) if one.step is not None else ())):
            with f.site(site):
                cell = f.let(flat(f, one.variable, site.at), "cell_")
                with f.block(f"if not passed[{cell}]:"):
                    f.line(f"total += {f.use(log_sum)}(logs[{cell}])")
        f.line("return total")


def _added(f: Writer, variable: str, states: str, site: Site, get: Get) -> None:
    """Write what a site adds to the cell that it draws or reads."""
    k = f.fresh("k_")
    new = site.replaced({get: Index(k)})
    outside = [guard for guard in site.guards if free_of(guard.condition, variable)]
    inside = [after for before, after in zip(site.guards, new.guards, strict=True) if before not in outside]
    with f.loops(site.loops, outside):
        cell = f.let(flat(f, variable, get.at), "cell_")
        with f.block(f"for {k} in range({states}):"), f.loops((), inside):
            f.line(f"logs[{cell}, {k}] += {f.log_density(new)}")


def _stepped(f: Writer, variable: str, states: str, site: Site, before: Get) -> None:
    """Write how each cell of a chain takes in the one before it."""
    j, k = f.fresh("j_"), f.fresh("k_")
    new = site.replaced({before: Index(j), site.value: Index(k)})
    f.line(f"paths = np.zeros({states})")
    with f.loops(site.loops, site.guards):
        there, here = f.let(flat(f, variable, before.at), "cell_"), f.let(flat(f, variable, site.at), "cell_")
        f.line(f"passed[{there}] = True")
        with f.block(f"for {k} in range({states}):"):
            with f.block(f"for {j} in range({states}):"):
                f.line(f"paths[{j}] = logs[{there}, {j}] + {f.log_density(new)}")
            f.line(f"logs[{here}, {k}] += {f.use(log_sum)}(paths)")

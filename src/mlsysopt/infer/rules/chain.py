"""Finite chains: all cells of a row at once, by a filter forward and a draw backward.

With f[t, k] the product of all that reads cell t at value k, and P[t, j, k] the transition times all that reads cells
t - 1 and t together: a[t, k] = f[t, k] sum_j a[t - 1, j] P[t, j, k]. An a[t] is normalised where its sum leaves a
range far inside of a double's: a division at every step would stand in the way of the next one, and only ratios count.
The last cell is drawn from its a; then each cell from a[t, j] P[t + 1, j, k], with k what its neighbour has become. A
row costs T K^2.

Both passes are bound by how long a step waits for the one before, not by their arithmetic. Where P is the same at all
times, a row is therefore filtered from both of its ends at once: forward as above up to its middle, and backward from
the last cell on by b[t, j] = f[t, j] sum_k P[j, k] b[t + 1, k]. The cell in the middle is drawn from what both say of
it, and the draws go outward from there, to the left from a and to the right from P[j, k] b[t, k].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from mlsysopt.infer.analysis.blanket import Analysis, Blanket, visits
from mlsysopt.infer.analysis.mentions import shift_of
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Get, Index, Loop, Site, call, substitute
from mlsysopt.infer.rules.finite import (
    Consumer,
    consumers,
    is_cheap,
    same,
    shifted,
    split,
    states_of,
    uniform,
    uses,
    walks,
)
from mlsysopt.infer.rules.protocol import Refusal, Update
from mlsysopt.infer.rules.rows import Row, row_of
from mlsysopt.infer.rules.weights import Density, Weights, count, density, flat, multiply, needs_log, pick, settled

__all__ = ["Chain"]

LEAST_SUM, MOST_SUM = 2.0**-100, 2.0**100
"""Between them a filtered row stays as it is."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A consumer of two neighbours, walked from the later one."""

    consumer: Consumer
    late: Get
    early: Get


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a chain's block is written.

    Attributes:
        states: Number of values of each own site, by its number.
        gathered: Consumers walked from each cell.
        scattered: Consumers walked once, into a table.
        pairs: Consumers of neighbours.
    """

    blanket: Blanket
    row: Row
    states: dict[int, Expr]
    gathered: tuple[Consumer, ...]
    scattered: tuple[Consumer, ...]
    pairs: tuple[_Pair, ...]

    @property
    def most(self) -> Expr:
        """The number of values of a cell, the largest one where sites differ."""
        first, *others = dict.fromkeys(self.states.values())
        for one in others:
            first = call("max", first, one)
        return first


class Chain:
    """Rule 2. Finite states, each cell reads the one before it; every other parent is held where it is."""

    name: ClassVar[str] = "chain"

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Accept rows of cells of which each reads the one before, and consumers of one cell or of two neighbours."""
        blanket = analysis.blanket(variable)
        states: dict[int, Expr] = {}
        for site in blanket.own:
            size = states_of(site)
            if isinstance(size, Refusal):
                return size
            states[site.number] = size
        row = row_of(blanket)
        if isinstance(row, Refusal):
            return row
        if blanket.variable.input:
            return Refusal("some of its cells are given", blanket.own[0].line)
        for site in blanket.own:
            if not uniform(states[site.number], analysis.program):
                return Refusal("the number of its values is not the same for all cells", site.line)
        plan = _plan(blanket, row, states)
        if isinstance(plan, Refusal):
            return plan
        k = plan.most
        cost = call(
            "*", visits(next(site for site in blanket.own if site.number == row.steps[0].number)), call("*", k, k)
        )
        for one in (*plan.gathered, *plan.scattered):
            cost = call("+", cost, call("*", visits(one.site), k))
        for pair in plan.pairs:
            cost = call("+", cost, call("*", visits(pair.consumer.site), call("*", k, k)))
        about = "exact block, first-order chain"
        return Update(self.name, (variable,), about, cost, lambda module, name: _write(module, name, plan), finite=True)


def _plan(blanket: Blanket, row: Row, states: dict[int, Expr]) -> _Plan | Refusal:
    """Sort the consumers by how many cells they read."""
    gathered: list[Consumer] = []
    scattered: list[Consumer] = []
    pairs: list[_Pair] = []
    moving = {site.number for site, before in zip(row.steps, row.before, strict=True) if before is not None}
    for one in consumers(blanket):
        if one.site.number in moving:
            continue
        line = one.site.line
        if one.site.distribution is None:
            return Refusal("it is read by factor(...)", line)
        if any(mention.place == "bound" for mention in blanket.consumers[one.site.number]):
            return Refusal("it is read in a bound", line)
        if any(len(way) < blanket.variable.rank for way in one.ways):
            return Refusal("several of its cells are read in one sum there", line)
        if one.single:
            (gathered if is_cheap(one, blanket) else scattered).append(one)
            continue
        pair = _pair(one, row)
        if pair is None:
            return Refusal(
                f"{' and '.join(map(str, one.gets))} are read together there, and are not always neighbours", line
            )
        if len(moving) < len(row.steps):
            return Refusal("neighbours are read together there, and chains start anew inside of the loop", line)
        pairs.append(pair)
    return _Plan(blanket, row, states, tuple(gathered), tuple(scattered), tuple(pairs))


def _pair(one: Consumer, row: Row) -> _Pair | None:
    """Return a consumer of two neighbours whose iterations are exactly the row's steps; None for any other."""
    if len(one.gets) != 2:
        return None
    a, b = one.gets
    if any(not same(x, y) for axis, (x, y) in enumerate(zip(a.at, b.at, strict=True)) if axis != row.axis):
        return None
    x, y = shift_of(a.at[row.axis], one.site.loops), shift_of(b.at[row.axis], one.site.loops)
    if x is None or y is None or x[0] != y[0] or abs(x[1] - y[1]) != 1:
        return None
    late, early = (a, b) if x[1] > y[1] else (b, a)
    seen = replace(one, gets=(late,), ways=(tuple(enumerate(late.at)),), get=late)
    (walk,) = walks(seen, row.cell(), row.loops, lambda name: f"{name}__left")
    if any(not isinstance(step, Loop) for step in walk.steps):
        return None
    own = {loop.index: loop for loop in row.loops}
    found: set[str] = set()
    for loop in one.site.loops:
        base, c = split(walk.new[Index(loop.index)])
        if not isinstance(base, Index) or base.name not in own:
            if isinstance(base, Index) and base.name.endswith("__left"):
                continue
            return None
        found.add(base.name)
        low, high = substitute(loop.low, walk.new), substitute(loop.high, walk.new)
        if not same(low, shifted(own[base.name].low, c)) or not same(high, shifted(own[base.name].high, c)):
            return None
    return _Pair(seen, late, early) if found == set(own) else None


def _write(module: Module, name: str, plan: _Plan) -> None:
    with module.function(name, ("rng",)) as f:
        _Block(f, plan).write()
        f.line("return 0")


class _Block:
    """One function being written."""

    def __init__(self, f: Writer, plan: _Plan) -> None:
        self.f, self.plan, self.row = f, plan, plan.row
        self.variable = plan.blanket.variable.name
        self.weights = Weights(f, self.variable, plan.gathered, plan.scattered)
        self.states = count(f, plan.most)
        self.filtered, self.moves, self.weight = f.fresh("filtered_"), f.fresh("moves_"), f.fresh("weight_")
        self.logs = f.fresh("logs_") if any(needs_log(pair.consumer.site) for pair in plan.pairs) else ""
        self.rows, self.total, self.t = f.fresh("rows_"), f.fresh("total_"), plan.row.time.index
        moving = [(site, get) for site, get in zip(self.row.steps, self.row.before, strict=True) if get is not None]
        # A transition that is the same at all times is written out once in front of them.
        self.still = len(moving) == 1 and not plan.pairs and not any(
            uses(one, {self.t}) for one in moving[0][0].replaced({moving[0][1]: Const(0)}).args
        )  # fmt: skip
        self.moving = moving
        # From both ends: every cell behind the first one is drawn by one site, with one transition.
        self.onward = f.fresh("onward_") if self.still and self.row.starts and len(self.row.steps) == 1 else ""
        self.ahead = f.fresh("ahead_") if self.onward else ""

    def write(self) -> None:
        """Write the whole update."""
        f, states = self.f, self.states
        f.line(f"{self.filtered} = np.empty((1, {states}))")
        f.line(f"{self.weight} = np.empty({states})")
        if self.weights.logs:
            f.line(f"{self.weights.logs} = np.empty({states})")
        for one in (self.moves, self.logs):
            if one:
                f.line(f"{one} = np.empty(({states}, {states}))")
        if self.onward:
            f.line(f"{self.onward} = np.zeros(({states}, {states}))")
            f.line(f"{self.ahead} = np.empty({states})")
        self.weights.tabulate(states, alike=len(set(self.plan.states.values())) == 1)
        front = int(bool(self.row.starts))
        with f.loops(self.row.outer, self.row.guards):
            low, high = f.fresh("low_"), f.fresh("high_")
            f.line(f"{low} = {f.value(self.row.time.low)}")
            f.line(f"{high} = {f.value(self.row.time.high)}")
            f.line(f"{self.rows} = max({high} - {low}, 0) + {front}")
            with f.block(f"if {self.filtered}.shape[0] < {self.rows}:"):
                f.line(f"{self.filtered} = np.empty(({self.rows}, {states}))")
            if self.still:
                self._transition(*self.moving[0], "0", self._size(self.moving[0][0]))
            for site in self.row.starts:
                with f.loops((), site.guards):
                    self._first(site, self.row.outer, "0")
            if self.onward:
                self._both_ways(low, high)
            else:
                self._forward(low, high, front)
                with f.block(f"if {self.rows} > 0:"):
                    self._backward(low, front)

    def _forward(self, low: str, high: str, front: int) -> None:
        f = self.f
        place = f.fresh("place_")
        with f.block(f"for {self.t} in range({low}, {high}):"):
            f.line(f"{place} = {self.t} - {low} + {front}")
            for site, before in zip(self.row.steps, self.row.before, strict=True):
                with f.loops((), site.guards):
                    if before is None:
                        self._first(site, self.row.loops, place)
                        continue
                    if not front:
                        # Nothing lies before the first cell of a row.
                        with f.block(f"if {place} == 0:"):
                            f.line(f"return 1 + {flat(f, self.variable, site.at)}")
                    size = self._size(site)
                    if not self.still:
                        self._transition(site, before, "0", size)
                    self._filter(site, self.row.loops, place, self._predicted(f"{place} - 1"))

    def _predicted(self, place: str):  # type: ignore[no-untyped-def]
        f = self.f

        def prior(k: str) -> Density:
            total, j = f.fresh("p_"), f.fresh("j_")
            f.line(f"{total} = 0.0")
            with f.block(f"for {j} in range({self.states}):"):
                f.line(f"{total} += {self.filtered}[{place}, {j}] * {self.moves}[{k}, {j}]")
            return total, None

        return prior

    def _first(self, site: Site, loops: Sequence[Loop], place: str) -> None:
        f, drawn = self.f, self.f.fresh("value_")
        start = settled(f, replace(site, value=Index(drawn), guards=()), lambda part: uses(part, {drawn}))
        self._filter(site, loops, place, lambda k: (_probability(f, replace(start, value=Index(k))), None))

    def _filter(self, site: Site, loops: Sequence[Loop], place: str, prior) -> None:  # type: ignore[no-untyped-def]
        """Write one row of the filter: prior or prediction, times consumers, normalised where it has to be."""
        f, size, k = self.f, self._size(site), self.f.fresh("k_")
        total = self.weights.weigh(site.at, loops, size, f"{self.filtered}[{place}, ", prior, summed=False)
        with f.block(f"if not {total} > 0.0:"):
            f.line(f"return 1 + {flat(f, self.variable, site.at)}")
        with (
            f.block(f"if not {LEAST_SUM!r} < {total} < {MOST_SUM!r}:"),
            f.block(f"for {k} in range({size}):"),
        ):
            f.line(f"{self.filtered}[{place}, {k}] /= {total}")
        if size != self.states:
            with f.block(f"for {k} in range({size}, {self.states}):"):
                f.line(f"{self.filtered}[{place}, {k}] = 0.0")

    def _transition(self, site: Site, before: Get, first: str, end: str) -> None:
        """Write `moves[k, j]`, from value j to value k, for the k of a range, neighbours' consumers included."""
        f, j, k = self.f, self.f.fresh("j_"), self.f.fresh("k_")
        heads = [f"for {k} in range({first}, {end}):", f"for {j} in range({self.states}):"]
        move = replace(site.replaced({before: Index(j)}), value=Index(k), guards=())
        move = settled(f, move, lambda part: uses(part, {j, k}))
        with f.block(heads[0]), f.block(heads[1]):
            f.line(f"{self.moves}[{k}, {j}] = {_probability(f, move)}")
            if self.logs:
                f.line(f"{self.logs}[{k}, {j}] = 0.0")
        for pair in self.plan.pairs:
            (walk,) = walks(pair.consumer, self.row.cell(), self.row.loops, lambda name: f.fresh(f"{name}_of_"))
            read = pair.consumer.site.replaced({pair.late: Index(k), pair.early: Index(j)}).replaced(walk.new)
            product, logs = f"{self.moves}[{k}, {j}]", f"{self.logs}[{k}, {j}]"
            multiply(
                f, read, walk.steps, heads, product, logs, lambda part: uses(part, {j, k}), scaled=walk.repeated
            )  # fmt: skip
        if self.logs:
            top = f.fresh("top_")
            f.line(f"{top} = -math.inf")
            with (
                f.block(heads[0]),
                f.block(heads[1]),
                f.block(f"if {self.moves}[{k}, {j}] > 0.0 and {self.logs}[{k}, {j}] > {top}:"),
            ):
                f.line(f"{top} = {self.logs}[{k}, {j}]")
            with f.block(heads[0]), f.block(heads[1]), f.block(f"if {self.moves}[{k}, {j}] > 0.0:"):
                f.line(f"{self.moves}[{k}, {j}] *= math.exp({self.logs}[{k}, {j}] - {top})")

    def _both_ways(self, low: str, high: str) -> None:
        """Write the filter from both ends to the middle of a row, and the draws from there."""
        f, (site, _) = self.f, self.moving[0]
        size, i, place = self._size(site), f.fresh("i_"), f.fresh("place_")
        half, middle = f.fresh("half_"), f.fresh("middle_")
        f.line(f"{half} = ({self.rows} - 1) // 2")
        f.line(f"{middle} = {self.rows} - 1 - {half}")
        self._turned(size)
        with f.block(f"for {i} in range({middle}):"):
            f.line(f"{place} = {i} + 1")
            f.line(f"{self.t} = {low} + {i}")
            self._filter(site, self.row.loops, place, self._predicted(f"{place} - 1"))
            with f.block(f"if {i} < {half}:"):
                f.line(f"{place} = {self.rows} - 1 - {i}")
                f.line(f"{self.t} = {high} - 1 - {i}")
                self._filter(site, self.row.loops, place, lambda k: (f"{self.ahead}[{k}]", None))
                self._look_ahead(place, size)
        left, right = f.fresh("state_"), f.fresh("state_")
        f.line(f"{self.t} = {low} - 1 + {middle}")
        self._sums(middle, lambda j: f"{self.ahead}[{j}]")
        f.line(f"{left} = {self._drawn(self.row.cell())}")
        f.line(f"{right} = {left}")
        with f.block(f"for {i} in range({middle}):"):
            f.line(f"{place} = {middle} - 1 - {i}")
            f.line(f"{self.t} = {low} + {place}")
            self._sums(place, lambda j: f"{self.moves}[{left}, {j}]")
            f.line(f"{left} = {self._drawn(self.row.cell(1))}")
            with f.block(f"if {i} < {half}:"):
                f.line(f"{place} = {middle} + 1 + {i}")
                f.line(f"{self.t} = {low} - 1 + {place}")
                self._sums(place, lambda j: f"{self.onward}[{right}, {j}]")
                f.line(f"{right} = {self._drawn(self.row.cell())}")

    def _turned(self, size: str) -> None:
        """Write `onward[j, k] = moves[k, j]`, and that nothing lies ahead of the last cell."""
        f, j, k = self.f, self.f.fresh("j_"), self.f.fresh("k_")
        with f.block(f"for {j} in range({self.states}):"):
            f.line(f"{self.ahead}[{j}] = 1.0")
            with f.block(f"for {k} in range({size}):"):
                f.line(f"{self.onward}[{j}, {k}] = {self.moves}[{k}, {j}]")

    def _look_ahead(self, place: str, size: str) -> None:
        """Write what a cell's filter from the right says of each value of the cell before it."""
        f, j, k, total = self.f, self.f.fresh("j_"), self.f.fresh("k_"), self.f.fresh("p_")
        with f.block(f"for {j} in range({self.states}):"):
            f.line(f"{total} = 0.0")
            with f.block(f"for {k} in range({size}):"):
                f.line(f"{total} += {self.filtered}[{place}, {k}] * {self.onward}[{j}, {k}]")
            f.line(f"{self.ahead}[{j}] = {total}")

    def _backward(self, low: str, front: int) -> None:
        f, row, place, state = self.f, self.row, self.f.fresh("place_"), self.f.fresh("state_")
        f.line(f"{self.t} = {low} - {front} + {self.rows} - 1")
        self._sums(f"{self.rows} - 1", None)
        f.line(f"{state} = {self._drawn(row.cell())}")
        with f.block(f"for {place} in range({self.rows} - 1, 0, -1):"):
            f.line(f"{self.t} = {low} - {front} + {place}")
            for site, before in zip(row.steps, row.before, strict=True):
                with f.loops((), site.guards):
                    if before is not None and not self.still:
                        self._transition(site, before, state, f"{state} + 1")
                    into = (lambda j: f"{self.moves}[{state}, {j}]") if before is not None else None
                    self._sums(f"{place} - 1", into)
            f.line(f"{state} = {self._drawn(row.cell(1))}")

    def _sums(self, place: str, into: Callable[[str], str] | None) -> None:
        """Write running sums of a filtered row, times what its neighbours say of each value where they do."""
        f, j = self.f, self.f.fresh("j_")
        f.line(f"{self.total} = 0.0")
        with f.block(f"for {j} in range({self.states}):"):
            times = f" * {into(j)}" if into is not None else ""
            f.line(f"{self.total} += {self.filtered}[{place}, {j}]{times}")
            f.line(f"{self.weight}[{j}] = {self.total}")

    def _drawn(self, at: Sequence[Expr]) -> str:
        """Write the draw of a cell from its running sums; return the name of its value."""
        f = self.f
        with f.block(f"if not {self.total} > 0.0:"):
            f.line(f"return 1 + {flat(f, self.variable, at)}")
        state = pick(f, self.weight, self.states, self.total)
        f.line(f"{f.cell(self.variable, at)} = {state}")
        return state

    def _size(self, site: Site) -> str:
        """Return the number of values of a site as text; the common name where it is the largest one."""
        size = self.plan.states[site.number]
        return self.states if size == self.plan.most else count(self.f, size)


def _probability(f: Writer, site: Site) -> str:
    factor, log = density(f, site)
    return factor if factor is not None else f"math.exp({log})"

"""Writing the weights of a cell's values: its prior times all that reads it.

Probabilities of labels are multiplied as they are; other densities are added as logarithms, of which the largest is
taken off before `exp`. A product over many iterations is scaled back whenever it has become very small or very large:
only ratios between the values of a cell matter.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Guard, Index, Loop, Site, Vector
from mlsysopt.infer.rules.finite import Consumer, uses, walks
from mlsysopt.infer.runtime import basics
from mlsysopt.infer.runtime.finite import inverse_or_nan

__all__ = ["Weights", "count", "density", "flat", "multiply", "pick", "settled"]

MANY = 8
"""Factors of a cell that are multiplied without looking at the size of the product."""
SMALL, LARGE = "1e-100", "1e100"

ROOT = "0.3989422804014327"
"""1 / sqrt(2 pi): not the same for all values where a condition takes the whole factor away."""

_LINEAR = {"Categorical", "Bernoulli", "BernoulliLogit"}
_NORMAL = {"Normal", "NormalVariance", "NormalPrecision"}

Density = tuple[str | None, str | None]


def needs_log(site: Site) -> bool:
    """Whether a part of a site's density is written as a logarithm."""
    return site.distribution is None or site.distribution.name not in _LINEAR


def inverse_spread(f: Writer, site: Site) -> str:
    """Return the text of 1 / standard deviation of a site of Normal's family; nan where that is none."""
    assert site.distribution is not None
    spread = f.value(site.args[1])
    match site.distribution.name:
        case "Normal":
            return f"{f.use(inverse_or_nan)}({spread})"
        case "NormalVariance":
            return f"math.sqrt({f.use(inverse_or_nan)}({spread}))"
        case _:
            return f"{f.use(basics.sqrt_or_nan)}({spread})"


def density(f: Writer, site: Site, inverse: str = "") -> Density:
    """Return the density of a site as a factor and as a logarithm that is left; either may be missing.

    Args:
        f: The function.
        site: What is weighed.
        inverse: Of Normal's family: text of 1 / standard deviation where that is known.
    """
    name = site.distribution.name if site.distribution is not None else ""
    if name == "BernoulliLogit":
        x = f.let(f.value(site.args[0]), "x_")
        logistic = f.use(basics.logistic)
        return f"({logistic}({x}) if {f.value(site.value)} == 1 else {logistic}(-{x}))", None
    if name in _NORMAL:
        inverse = f.let(inverse or inverse_spread(f, site), "i_")
        away = f.let(f"({f.value(site.value)} - {f.value(site.args[0])}) * {inverse}", "z_")
        return f"{ROOT} * {inverse}", f"-0.5 * ({away} * {away})"
    linear = f.linear_density(site)
    return (linear, None) if linear is not None else (None, f.log_density(site))


def settled(f: Writer, site: Site, changes: Callable[[Expr], bool]) -> Site:
    """Write the parts of a site that do not change in the loop to come in front of it."""

    def one(part: Expr) -> Expr:
        if isinstance(part, Vector | Const | Index) or changes(part):
            return part
        return Index(f.let(f.value(part), "x_"))

    if any(changes(guard.condition) for guard in site.guards):
        return site
    return replace(site, value=one(site.value), args=tuple(one(part) for part in site.args))


def flat(f: Writer, name: str, at: Sequence[Expr]) -> str:
    """Return the number of a cell."""
    one = f.variable(name)
    index = [f.value(part) for part in at]
    if one.ragged:
        return f"{f.array(f'at_{one.like or name}')}[{index[0]}] + {index[1]}"
    if len(index) == 2:
        return f"{index[0]} * {f.array(f'v_{name}')}.shape[1] + {index[1]}"
    return index[0] if index else "0"


def count(f: Writer, states: Expr) -> str:
    """Write a number of values; return its name. The trials of a Binomial may have come as floats."""
    text = f.value(states)
    return f.let(f"int({text})" if f.module.kind(states) == "float" else text, "states_")


def pick(f: Writer, sums: str, states: str, total: str) -> str:
    """Write a draw by running sums of weights; return the name of the value."""
    u, state, k = f.fresh("u_"), f.fresh("state_"), f.fresh("k_")
    f.line(f"{u} = rng.random() * {total}")
    f.line(f"{state} = 0")
    # Sums ascend: those that u has passed are counted, which takes no branch.
    with f.block(f"for {k} in range({states} - 1):"), f.block(f"if {sums}[{k}] <= {u}:"):
        f.line(f"{state} += 1")
    return state


@contextmanager
def _conditions(f: Writer, guards: Sequence[Guard]) -> Generator[None, None, None]:
    with f.loops((), guards):
        yield


@contextmanager
def _walked(f: Writer, steps: Sequence[Expr | Loop]) -> Generator[None, None, None]:
    if not steps:
        yield
        return
    head, *rest = steps
    if isinstance(head, Loop):
        with f.loops([head]), _walked(f, rest):
            yield
    else:
        with f.block(f"if {f.value(head)}:"), _walked(f, rest):
            yield


def multiply(
    f: Writer, site: Site, steps: Sequence[Expr | Loop], heads: Sequence[str], product: str, logs: str,
    changes: Callable[[Expr], bool], *, scaled: bool, first: str = "", inverse: str = "",
) -> None:  # fmt: skip
    """Write `product[...] *= density` and `logs[...] += log density` over the iterations of a consumer.

    Args:
        f: The function.
        site: The consumer, the variable replaced.
        steps: Its iterations, as of a `Walk`.
        heads: Loops over values.
        product: Text of one product.
        logs: Text of one logarithm.
        changes: Whether an expression changes with the values.
        scaled: Whether products are to be kept in range.
        first: A line at the beginning of the loop over values.
        inverse: As of `density`.
    """
    outside = [guard for guard in site.guards if not changes(guard.condition)]
    inside = [guard for guard in site.guards if changes(guard.condition)]
    with _walked(f, steps), _conditions(f, outside):
        site = settled(f, replace(site, guards=tuple(inside)), changes)
        scaled = scaled and (
            not needs_log(site) or (site.distribution is not None and site.distribution.name in _NORMAL)
        )
        top = f.fresh("top_")
        if scaled:
            f.line(f"{top} = 0.0")
        with _blocks(f, heads):
            if first:
                f.line(first)
            with _conditions(f, inside):
                factor, log = density(f, site, inverse)
                if factor is not None:
                    f.line(f"{product} *= {factor}")
                if log is not None:
                    f.line(f"{logs} += {log}")
            if scaled:
                with f.block(f"if {product} > {top}:"):
                    f.line(f"{top} = {product}")
        if scaled:
            with f.block(f"if {top} > 0.0 and ({top} < {SMALL} or {top} > {LARGE}):"), _blocks(f, heads):
                f.line(f"{product} /= {top}")


@contextmanager
def _blocks(f: Writer, heads: Sequence[str]) -> Generator[None, None, None]:
    if not heads:
        yield
        return
    with f.block(heads[0]), _blocks(f, heads[1:]):
        yield


class Weights:
    """The weights of one variable's cells in one function.

    Args:
        f: The function.
        variable: Name.
        gathered: Consumers that are walked from each cell.
        scattered: Consumers that are walked once, into a table of all cells.
        logs: Whether a prior is written as a logarithm.
    """

    def __init__(
        self,
        f: Writer,
        variable: str,
        gathered: Sequence[Consumer],
        scattered: Sequence[Consumer],
        *,
        logs: bool = False,
    ) -> None:
        self.f, self.variable, self.gathered, self.scattered = f, variable, tuple(gathered), tuple(scattered)
        self.logs = f.fresh("logs_") if logs or any(needs_log(one.site) for one in (*gathered, *scattered)) else ""
        self.table = f.fresh("table_") if scattered else ""
        self.log_table = f.fresh("table_") if any(needs_log(one.site) for one in scattered) else ""
        self.inverses: dict[Consumer, str] = {}

    def tabulate(self, states: str, *, alike: bool) -> None:
        """Write what all cells share: 1 / spread of each value, and each scattered consumer's walk of its own loops.

        Args:
            states: How many values a cell has at most.
            alike: Whether each cell has so many: else a value need not have a spread.
        """
        f = self.f
        for one in filter(self._has_spread_of_its_own, self.gathered if alike else ()):
            table, k = f.fresh("inverse_"), f.fresh("k_")
            f.line(f"{table} = np.empty({states})")
            with f.block(f"for {k} in range({states}):"):
                f.line(f"{table}[{k}] = {inverse_spread(f, self._of(one, k)[0])}")
            self.inverses[one] = table
        if not self.scattered:
            return
        array = f.array(f"v_{self.variable}")
        f.line(f"{self.table} = np.ones(({array}.size, {states}))")
        if self.log_table:
            f.line(f"{self.log_table} = np.zeros(({array}.size, {states}))")
        for one in self.scattered:
            assert one.get is not None
            k, cell = f.fresh("k_"), f.fresh("cell_")
            site, changes = self._of(one, k)
            outside = tuple(guard for guard in site.guards if not changes(guard.condition))
            with f.site(replace(site, guards=outside)):
                f.line(f"{cell} = {flat(f, self.variable, one.get.at)}")
                rest = tuple(guard for guard in site.guards if guard not in outside)
                heads = [f"for {k} in range({states}):"]
                product, logs = f"{self.table}[{cell}, {k}]", f"{self.log_table}[{cell}, {k}]"
                multiply(f, replace(site, guards=rest), (), heads, product, logs, changes, scaled=True)

    def weigh(
        self, at: Sequence[Expr], loops: Sequence[Loop], states: str, into: str, prior: Callable[[str], Density], *,
        summed: bool,
    ) -> str:  # fmt: skip
        """Write the weights of one cell's values; return the name of their total.

        Args:
            at: The cell.
            loops: Around it.
            states: How many values.
            into: Text of the array in front of a value's number, such as "weight[" or "filtered[i, ".
            prior: Writes what a value's number has as its prior, inside of the loop over values.
            summed: Whether running sums are wanted in place of the weights.
        """
        f = self.f
        k, total, weight = f.fresh("k_"), f.fresh("total_"), f.fresh("w_")
        heads = [f"for {k} in range({states}):"]
        every = [
            (one, way) for one in self.gathered for way in walks(one, at, loops, lambda name: f.fresh(f"{name}_of_"))
        ]
        first = [(one, way) for one, way in every if not way.steps and self._always(one, k)][:MANY]
        rest = [one for one in every if one not in first]
        cell = f"{f.cell(self.variable, at)} = {k}"
        number = f.let(flat(f, self.variable, at), "cell_") if self.table else ""
        sites = [(settled(f, site.replaced(way.new), changes), self._inverse(one, k))
                 for one, way in first for site, changes in [self._of(one, k)]]  # fmt: skip
        at_once = not rest and not self.logs
        top, log = f.fresh("top_"), f.fresh("log_")
        if self.logs:
            f.line(f"{top} = -math.inf")
        f.line(f"{total} = 0.0")
        with _blocks(f, heads):
            factor, said = prior(k)
            f.line(f"{weight} = {factor or '1.0'}")
            if self.logs:
                f.line(f"{log} = {said or '0.0'}")
            if self.table:
                f.line(f"{weight} *= {self.table}[{number}, {k}]")
            if self.log_table:
                f.line(f"{log} += {self.log_table}[{number}, {k}]")
            if any(one.get is None for one, _ in first):
                f.line(cell)
            for site, inverse in sites:
                with _conditions(f, site.guards):
                    factor, said = density(f, site, inverse)
                    if factor is not None:
                        f.line(f"{weight} *= {factor}")
                    if said is not None:
                        f.line(f"{log} += {said}")
            if at_once:
                f.line(f"{total} += {weight}")
            f.line(f"{into}{k}] = {total if at_once and summed else weight}")
            if self.logs:
                self._lift(k, weight, log, top if not rest else "")
        for one, way in rest:
            site, changes = self._of(one, k)
            multiply(
                f, site.replaced(way.new), way.steps, heads, f"{into}{k}]", f"{self.logs}[{k}]", changes,
                scaled=way.repeated or len(every) > MANY, first=cell if one.get is None else "",
                inverse=self._inverse(one, k),
            )  # fmt: skip
        if at_once:
            return total
        if self.logs and rest:
            with _blocks(f, heads):
                self._lift(k, f"{into}{k}]", f"{self.logs}[{k}]", top)
        with _blocks(f, heads):
            f.line(f"{weight} = {into}{k}]")
            if self.logs:
                f.line(f"{weight} *= math.exp({self.logs}[{k}] - {top})")
            f.line(f"{total} += {weight}")
            f.line(f"{into}{k}] = {total if summed else weight}")
        return total

    def _lift(self, k: str, weight: str, log: str, top: str) -> None:
        """Write a value's logarithm into its place; where all of it is known, also the largest of those possible.

        Numbers are chosen, not what to do: which value weighs most is news at every cell.
        """
        f = self.f
        if not top:
            f.line(f"{self.logs}[{k}] = {log}")
            return
        known = f.fresh("log_")
        f.line(f"{known} = {log} if {weight} > 0.0 else -math.inf")
        f.line(f"{self.logs}[{k}] = {known}")
        f.line(f"{top} = {known} if {known} > {top} else {top}")

    def _of(self, one: Consumer, k: str) -> tuple[Site, Callable[[Expr], bool]]:
        """Return a consumer in which the cell is a value, and what changes with the value."""
        if one.get is not None:
            return one.site.replaced({one.get: Index(k)}), lambda part: uses(part, {k})
        return one.site, lambda part: self.variable in reads(part)

    def _has_spread_of_its_own(self, one: Consumer) -> bool:
        """Whether a consumer is normal with a spread that follows from the value alone, in whatever cell.

        A guard may keep the spread from being read where it has no such cell.
        """
        site, k = one.site, "k"
        if one.get is None or site.guards or site.distribution is None or site.distribution.name not in _NORMAL:
            return False
        spread = self._of(one, k)[0].args[1]
        return self.variable not in reads(spread) and not uses(spread, site.indices)

    def _inverse(self, one: Consumer, k: str) -> str:
        return f"{self.inverses[one]}[{k}]" if one in self.inverses else ""

    def _always(self, one: Consumer, k: str) -> bool:
        """Whether a consumer's guards, if it has any, are asked in the loop over values."""
        site, changes = self._of(one, k)
        return all(changes(guard.condition) for guard in site.guards)

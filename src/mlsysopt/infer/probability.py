"""The log probability of given values: finite variables summed, the others averaged over draws."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.infer.analysis.blanket import fixed
from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.binding import Bound, evaluate
from mlsysopt.infer.emit.cache import Loaded, interpreted, jitted
from mlsysopt.infer.emit.entry import write_execute, write_log_joint
from mlsysopt.infer.emit.marginal import Sum, summable, write_sum
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.engine import Engine
from mlsysopt.infer.forward import FORWARD
from mlsysopt.infer.ir import Program, Site
from mlsysopt.infer.planning import Plan
from mlsysopt.infer.runtime.streams import stream
from mlsysopt.infer.sampling import ChainFailed

if TYPE_CHECKING:
    from mlsysopt.infer.compiled import Compiled
    from mlsysopt.infer.fit import Fit

__all__ = ["LogProbability", "probability"]

Array = NDArray[Any]

LEAST_EFFECTIVE = 50.0
FIRST = 64
"""Draws before the standard error is first looked at."""
PATIENCE_S = 3.0
"""Un-jitted seconds below which compiling would take longer than what it saves."""

SMALL = 300_000
"""Densities of one evaluation below which it is not compiled."""


@dataclass(frozen=True, slots=True)
class LogProbability:
    """An estimate of a log probability.

    Attributes:
        log_value: Its value.
        se: Standard error of it; 0 where it is exact.
        draws: Over how many it is averaged.
        effective: 1 / sum of squared weights: how many draws it really rests on.
        normalised: False where a factor(...), an improper prior or held `.ordered()` cells leave a constant unknown.
        exact: Whether nothing was drawn.
    """

    log_value: float
    se: float
    draws: int
    effective: float
    normalised: bool = True
    exact: bool = False

    @property
    def ok(self) -> bool:
        """Whether it may be believed: it is exact, or rests on at least 50 effective draws."""
        return self.exact or self.effective >= LEAST_EFFECTIVE

    def __str__(self) -> str:
        said = f"log probability {self.log_value:.6f}"
        said += ", exact" if self.exact else f" +- {self.se:.2g} ({self.draws} draws, {self.effective:.0f} effective)"
        if not self.normalised:
            said += ", unnormalised"
        if not self.ok:
            said += "\nnot proven: it rests on too few draws; fix more variables, fit the model first, or draws="
        return said


def probability(
    compiled: Compiled, values: Mapping[str, Any], *, tol: float = 0.05, seed: int = 0, most: int = 100_000
) -> LogProbability:
    """Estimate the log of the joint density of everything that is given, the other latents integrated out.

    Given are all observed inputs, those in `values` with their new values, and the latents in `values`; what is fixed
    is conditioned on and adds no density of its own. An input that is a `Shape` is left out.

    After a fit, and where only inputs are named, it is the log *predictive* density of those inputs: log of the mean of
    p(values | draw) over the fit's draws. Latents whose shape stays take the draws; the others are integrated out.

    Either way finite variables are summed exactly where they are independent cells or a first-order chain and all that
    reads them is given (in a fit too, whatever their shape); the rest is averaged over the fit's draws, or the prior's.

    Args:
        compiled: The model.
        values: Inputs to replace, or latents to hold, by name.
        tol: Standard error of the log at which drawing stops.
        seed: Of the draws.
        most: Draws at most.

    Raises:
        UsageError: an unknown name, a shape that does not fit, or an improper prior that would have to be drawn from.
    """
    asked = _Asked(compiled, values)
    module = asked.module()
    text, arrays, rng = module.text(), asked.arrays(), stream(seed, FORWARD, 2)
    signatures = {name: tuple(one.arrays) for name, one in module.written.items()}

    def call(functions: Loaded, name: str, *arguments: Any) -> Any:
        return functions[name](*arguments, *(arrays[one] for one in signatures[name]))

    if asked.exact:
        functions = interpreted(text) if asked.is_small() else jitted(text)
        value = float(call(functions, "weigh"))
        asked.valid(np.array([value]))
        return LogProbability(value, 0.0, 1, 1.0, asked.normalised, True)

    functions, compiles = interpreted(text), False
    draws = asked.posterior(rng)
    total = most if draws is None or asked.rest else min(most, draws.total)
    logs = np.zeros(0)
    while True:
        count = min(max(len(logs), FIRST), total - len(logs))
        clock, new = time.perf_counter(), np.full(count, np.nan)
        if draws is None:
            asked.drawn(int(call(functions, "estimate", rng, new)))
        else:
            for i in range(count):
                draws.put(arrays, len(logs) + i)
                asked.drawn(int(call(functions, "estimate", rng, new[i : i + 1])))
        asked.valid(new)
        each = (time.perf_counter() - clock) / count
        logs = np.concatenate([logs, new])
        found = _averaged(logs, None if draws is None else draws.order(len(logs)), asked.normalised)
        if len(logs) >= total or (found.se < tol and found.effective >= LEAST_EFFECTIVE):
            return found
        left = min(total, len(logs) * (found.se / tol) ** 2) - len(logs) if tol > 0 else total
        if not compiles and each * left > PATIENCE_S:
            # The same bits, faster.
            functions, compiles = jitted(text), True


def _averaged(logs: Array, order: Array | None, normalised: bool) -> LogProbability:
    """Return the log of the mean of exp(logs), its error by the delta method."""
    top = float(logs.max())
    if top == -math.inf:
        return LogProbability(top, math.inf, len(logs), 0.0, normalised)
    weights = np.exp(logs - top)
    mean, count = float(weights.mean()), len(logs)
    se = float(weights.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    if order is not None and count >= FIRST:
        # A chain's draws resemble their neighbours: means of batches do so much less.
        batches = np.array([one.mean() for one in np.array_split(weights[order], math.isqrt(count))])
        se = max(se, float(batches.std(ddof=1)) / math.sqrt(len(batches)))
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return LogProbability(top + math.log(mean), se / mean, count, effective, normalised)


class _Draws:
    """Posterior draws in random order."""

    def __init__(self, fit: Fit, names: Collection[str], rng: np.random.Generator) -> None:
        self.total = len(fit.chains) * fit.length
        self._values = {name: np.concatenate([one.draws[name][: fit.length] for one in fit.chains]) for name in names}
        self._places = rng.permutation(self.total)

    def put(self, arrays: Mapping[str, Array], number: int) -> None:
        """Put one draw into the arrays."""
        for name, values in self._values.items():
            arrays[f"v_{name}"][...] = values[self._places[number % self.total]].reshape(arrays[f"v_{name}"].shape)

    def order(self, count: int) -> Array:
        """Return the first draws in the order in which the chains came to them."""
        return np.argsort(np.resize(self._places, count), kind="stable")


class _Asked:
    """What is given, what is summed and what is drawn.

    Attributes:
        sums: Variables that are summed.
        taken: Variables that take a fit's draws.
        rest: Variables that are drawn from their prior.
    """

    def __init__(self, compiled: Compiled, values: Mapping[str, Any]) -> None:
        names = compiled.model.inputs
        inputs = {name: value for name, value in values.items() if name in names}
        new = compiled.bind(**inputs) if inputs else compiled
        self.bound: Bound = new.bound
        latents = [one.name for one in self.bound.program.latents]
        for name in values:
            if name not in names and name not in latents:
                known = near_misses(name, [*names, *latents], noun="input or variable")
                raise UsageError(f"{compiled.model.source.name} has no {name!r}; {known}")
        self.held = {name: new[name].shaped(value) for name, value in values.items() if name not in names}
        self.fixed = {name: value for name, value in new.fixed_values.items() if name not in self.held}
        for name, value in self.fixed.items():
            shape = self.bound.lengths(self.bound.program.variables[name])
            if value.shape != shape:
                raise UsageError(
                    f"{name} is fixed with the shape {value.shape}, and has {shape} with these values: .{name}.unfix()"
                )
        self.program: Program = fixed(self.bound.program, {*self.held, *self.fixed})
        self.fit = compiled.fitted if inputs and not self.held else None
        counted = {site.number for site in self.program.sites if self._counts(site, inputs)}
        if not counted:
            said = ", ".join(values) or "the inputs"
            raise UsageError(f"none of {said} is observed; name an observed input, or a variable to hold")
        self._choose(counted)

    def _counts(self, site: Site, inputs: Collection[str]) -> bool:
        """Whether a site's density is part of what is asked for."""
        if not site.observed or site.variable in self.fixed or site.variable in self.bound.shapes:
            return False
        return self.fit is None or bool(reads(site.value) & set(inputs))

    def _choose(self, counted: set[int]) -> None:
        program = self.program
        latents = {one.name for one in program.latents} - {*self.held, *self.fixed}
        needed, relevant = _needed(program, counted, latents)
        for site in relevant:
            for name in sorted(_reads(site) & self.bound.shapes):
                raise UsageError(f"{name} is a Shape and is read at line {site.line}: give its data, .bind({name}=...)")
        numbers = {site.number for site in relevant}
        free = set(counted)
        self.sums: list[Sum] = []
        for one in reversed(program.latents):
            if one.name in needed and not one.input:
                found = summable(program, one.name, numbers, free, lambda one: evaluate(one, self.bound))
                if isinstance(found, Sum):
                    self.sums.append(found)
                    free -= found.sites
        needed -= {one.variable for one in self.sums}
        self.taken = {name for name in needed if self._stays(name)}
        self.rest = needed - self.taken
        for site in program.sites:
            if (
                site.variable in self.rest
                and not site.observed
                and site.distribution is not None
                and site.distribution.improper
            ):
                raise UsageError(
                    f"{site.variable} has the improper prior {site.distribution.name} (line {site.line}) and cannot be "
                    f"averaged over; fit the model first, or hold it: probability({site.variable}=...)"
                )
        self.direct = [site for site in program.sites if site.number in free]

    def _stays(self, name: str) -> bool:
        """Whether a variable takes the fit's draws."""
        if self.fit is None:
            return False
        before, now = self.fit.compiled.bound, self.bound
        a, b = before.program.variables[name], now.program.variables[name]
        if a.input or before.lengths(a) != now.lengths(b):
            return False
        rows, others = before.starts_of(a), now.starts_of(b)
        if rows is not None and not np.array_equal(rows, others if others is not None else ()):
            return False
        if name not in self.fit.names:
            raise UsageError(f"{name} has no draws in the fit: .{name}.retain = 'samples' and fit again, or fix it")
        return True

    @property
    def exact(self) -> bool:
        """Whether nothing has to be drawn."""
        return not self.rest and not self.taken

    @property
    def normalised(self) -> bool:
        """Whether every density that is counted integrates to one."""
        return not any(
            site.distribution is None or (site.variable in self.held and (site.distribution.improper or site.ordered))
            for site in self.program.sites
        )

    def module(self) -> Module:
        """Return the file that draws and weighs."""
        module = Module(self.program)
        write_execute(module, "draw", lambda site: not site.observed and site.variable in self.rest)
        write_log_joint(module, "direct", self.direct)
        for i, one in enumerate(self.sums):
            write_sum(module, f"sum_{i}_{one.variable}", one)
        with module.function("weigh") as f:
            f.line(f"total, likelihood = {module.call('direct', f)}")
            for i, one in enumerate(self.sums):
                f.line(f"total += {module.call(f'sum_{i}_{one.variable}', f)}")
            f.line("return total")
        with module.function("estimate", ("rng", "out")) as f:
            with f.block("for i in range(out.shape[0]):"):
                f.line(f"status = {module.call('draw', f, 'rng')}")
                with f.block("if status != 0:"):
                    f.line("return status")
                f.line(f"out[i] = {module.call('weigh', f)}")
            f.line("return 0")
        return module

    def arrays(self) -> dict[str, Array]:
        """Return the arrays that the file works on."""
        return Engine(Plan(self.program, ()), self.bound, {}, {**self.fixed, **self.held}).arrays()

    def posterior(self, rng: np.random.Generator) -> _Draws | None:
        """Return the fit's draws of what takes them."""
        return _Draws(self.fit, self.taken, rng) if self.fit is not None and self.taken else None

    def is_small(self) -> bool:
        """Whether one evaluation is quicker than compiling."""
        work = sum(one.size for one in self.bound.arrays.values())
        for one in self.sums:
            states = evaluate(one.states, self.bound)
            cells = math.prod(self.bound.lengths(self.program.variables[one.variable]))
            work += cells * states * (states if one.step is not None else 1)
        return work < SMALL

    def drawn(self, status: int) -> None:
        """Raise where a draw from the prior failed."""
        if status:
            site = self.program.sites[status - 1]
            raise ChainFailed(
                f"{_file(self.program)}:{site.line}: {site.variable} cannot be drawn from its prior there; "
                "fix or hold what it depends on"
            )

    def valid(self, logs: Array) -> None:
        """Raise where a density is no number."""
        if np.isnan(logs).any():
            raise ChainFailed(
                f"{_file(self.program)}: the density is not a number; an argument of a distribution is not allowed "
                "for some draw"
            )


def _needed(program: Program, counted: Collection[int], latents: Collection[str]) -> tuple[set[str], list[Site]]:
    """Return the latents that the counted sites depend on, and all sites that matter."""
    needed: set[str] = set()
    while True:
        relevant = [
            site for site in program.sites if site.number in counted or (not site.observed and site.variable in needed)
        ]
        grown = {name for site in relevant for name in _reads(site)} & set(latents)
        if grown <= needed:
            return needed, relevant
        needed |= grown


def _reads(site: Site) -> set[str]:
    """Return what a site's density depends on, other than the cell that it is the density of."""
    parts = [*site.args, *site.at, *(guard.condition for guard in site.guards)]
    if not site.variable:
        parts.append(site.value)
    return {name for part in parts for name in reads(part)}


def _file(program: Program) -> str:
    return program.file.rpartition("/")[2]

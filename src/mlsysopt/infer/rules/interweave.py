"""Scales of a level, moved a second time along with the level: its cells keep their distance from the centre in scales.

Given its cells, the scale of a level hardly moves where data say little about each cell. After the usual update it is
drawn again with the standardised cells e = (a - m) / v held instead of the cells a: what reads a sees m + v e, and two
sums over the readers are all that the density of v needs.

References:
    Yu and Meng, To Center or Not to Center: That Is Not the Question, JCGS 20(3), 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlsysopt.infer.analysis.blanket import Analysis, visits
from mlsysopt.infer.analysis.linear import Linear, linear
from mlsysopt.infer.analysis.mentions import free_of
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Expr, Get, Index, Site, call
from mlsysopt.infer.rules.linear_gaussian import NORMALS
from mlsysopt.infer.rules.protocol import Update
from mlsysopt.infer.rules.statistics import precision_of

__all__ = ["interwoven"]

POWER = {"Normal": "1.0", "NormalVariance": "0.5", "NormalPrecision": "-0.5"}
"""Power of the parameter that the standard deviation goes with."""
STEPS, SHRINKS = 20, 100


@dataclass(frozen=True, slots=True)
class _Reader:
    """A site that reads cells of a level, in a mean that is linear in them."""

    site: Site
    mean: Linear


@dataclass(frozen=True, slots=True)
class _Level:
    """What hangs on one scale: sites that draw with it, and sites that read what they draw."""

    own: Site
    drawn: tuple[Site, ...]
    readers: tuple[_Reader, ...]
    power: str


def interwoven(update: Update, analysis: Analysis) -> Update:
    """Return an update with the second move behind it, where the variable is the scale of a level; else as it is."""
    level = _level(update, analysis)
    if level is None:
        return update
    cost = update.cost
    for site in (*level.drawn, *(one.site for one in level.readers)):
        cost = call("+", cost, visits(site))
    return replace(
        update,
        about=f"{update.about}, then with {_names(level)} held in units of it",
        cost=cost,
        write=lambda module, name: _write(module, name, update, level),
        exact=False,
    )


def _names(level: _Level) -> str:
    return ", ".join(dict.fromkeys(site.variable for site in level.drawn))


def _level(update: Update, analysis: Analysis) -> _Level | None:
    if update.rule not in ("slice", "conjugate") or len(update.variables) != 1:
        return None
    name = update.variables[0]
    blanket = analysis.blanket(name)
    if blanket.variable.rank or len(blanket.own) != 1 or blanket.own[0].guards:
        return None
    own = blanket.own[0]
    if own.distribution is None or own.distribution.support != "positive":
        return None
    drawn: list[Site] = []
    for mention in blanket.mentions:
        site = mention.site
        kind = site.distribution.name if site.distribution is not None else ""
        plain = kind in NORMALS and site.args[1:] == (Get(name),) and not site.observed and not site.ordered
        if not plain or analysis.program.variables[site.variable].input or not free_of(site.args[0], site.variable):
            return None
        drawn.append(site)
    levels = {site.variable for site in drawn}
    kinds = {site.distribution.name for site in drawn if site.distribution is not None}
    if len(kinds) != 1 or any(len(analysis.program.sites_of(one)) != 1 for one in levels):
        return None
    readers = _readers(levels, drawn, name, analysis)
    if not readers or any(not site.loops for site in drawn):
        return None
    return _Level(own, tuple(drawn), readers, POWER[kinds.pop()])


def _readers(levels: set[str], drawn: Sequence[Site], name: str, analysis: Analysis) -> tuple[_Reader, ...]:
    """Return the sites that read cells of the levels; nothing where one has no normal mean linear in them."""
    sites: dict[int, Site] = {}
    for one in levels:
        for mention in analysis.blanket(one).mentions:
            kind = mention.site.distribution.name if mention.site.distribution is not None else ""
            if kind not in NORMALS or mention.argument != 0 or mention.under:
                return ()
            sites[mention.site.number] = mention.site
    numbers = {site.number for site in drawn}
    found: list[_Reader] = []
    for site in sites.values():
        mean = linear(site.args[0], levels)
        if mean is None or site.number in numbers or not free_of(site.args[1], name):
            return ()
        found.append(_Reader(site, mean))
    return tuple(found)


def _write(module: Module, name: str, update: Update, level: _Level) -> None:
    update.write(module, f"{name}_alone")
    _write_density(module, f"{name}_density", level)
    with module.function(name, ("rng", "warm") if update.tuned else ("rng",)) as f:
        arguments = ("rng", "warm") if update.tuned else ("rng",)
        f.line(f"status = {module.call(f'{name}_alone', f, *arguments)}")
        with f.block("if status != 0:"):
            f.line("return status")
        _sums(f, level)
        _slice(f, module, f"{name}_density", level)
        f.line("return 0")


def _write_density(module: Module, name: str, level: _Level) -> None:
    """Write the log density of the scale's logarithm, given the two sums."""
    with module.function(name, ("u", "before", "square", "cross")) as f:
        f.line("x_ = math.exp(u)")
        f.line(f"s = {_power('x_ / before', level.power)}")
        prior = f.log_density(replace(level.own, value=Index("x_")))
        f.line(f"return {prior} + u + cross * s - 0.5 * square * s * s")


def _power(text: str, power: str) -> str:
    return {"1.0": text, "0.5": f"math.sqrt({text})", "-0.5": f"1.0 / math.sqrt({text})"}[power]


def _sums(f: Writer, level: _Level) -> None:
    """Write the deviations of the level's cells, and what the readers say about their scale: `square` and `cross`."""
    for variable in dict.fromkeys(site.variable for site in level.drawn):
        f.line(f"dev_{variable} = np.zeros({f.shape(variable)})")
    for site in level.drawn:
        with f.site(site):
            cell = f.cell(site.variable, site.at, "dev_")
            f.line(f"{cell} = {f.value(site.value)} - {f.value(site.args[0])}")
    f.line("square = 0.0")
    f.line("cross = 0.0")
    for one in level.readers:
        with f.site(one.site):
            w = f.let(f.value(precision_of(one.site)), "w")
            d = f.fresh("d")
            f.line(f"{d} = 0.0")
            for term in one.mean.terms:
                f.line(f"{d} += {f.value(term.coefficient)} * {f.cell(term.get.variable, term.get.at, 'dev_')}")
            r = f.let(f"{f.value(_residual(one.site))} + {d}", "r")
            f.line(f"square += {w} * {d} * {d}")
            f.line(f"cross += {w} * {d} * {r}")


def _residual(site: Site) -> Expr:
    return call("-", site.value, site.args[0])


def _slice(f: Writer, module: Module, density: str, level: _Level) -> None:
    """Write one slice step of the scale's logarithm, and the move of the cells with it."""
    scale = f.value(level.own.value)
    f.line(f"before = {scale}")

    def at(u: str) -> str:
        return module.call(density, f, u, "before", "square", "cross")

    f.line("here = math.log(before)")
    f.line(f"height = {at('here')} - rng.standard_exponential()")
    with f.block("if math.isnan(height) or height == -math.inf:"):
        f.line("return 1")
    f.line("low = here - rng.random()")
    f.line("high = low + 1.0")
    f.line(f"left = int({STEPS} * rng.random())")
    f.line(f"right = {STEPS} - 1 - left")
    with f.block(f"while left > 0 and {at('low')} > height:"):
        f.line("low -= 1.0")
        f.line("left -= 1")
    with f.block(f"while right > 0 and {at('high')} > height:"):
        f.line("high += 1.0")
        f.line("right -= 1")
    f.line("there = here")
    with f.block(f"for _ in range({SHRINKS}):"):
        f.line("u = low + (high - low) * rng.random()")
        with f.block(f"if {at('u')} > height:"):
            f.line("there = u")
            f.line("break")
        with f.block("if u < here:"):
            f.line("low = u")
        with f.block("else:"):
            f.line("high = u")
    f.line("x_ = math.exp(there)")
    f.line(f"s = {_power('x_ / before', level.power)}")
    f.line(f"{scale} = x_")
    for site in level.drawn:
        with f.site(site):
            dev = f.cell(site.variable, site.at, "dev_")
            f.line(f"{f.value(site.value)} += (s - 1.0) * {dev}")

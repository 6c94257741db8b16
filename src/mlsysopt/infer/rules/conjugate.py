"""Conjugate cells and rows: statistics are scattered by the consumers, each walked once, and the posterior is drawn.

Nothing asks which consumers touch a cell: every consumer adds to the cell that it read, `s[z[n]] += x[n]`, so all cells
cost one pass over the data. That is right only where each consumer reads the variable exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

from mlsysopt.infer.analysis.blanket import Analysis, Blanket, visits
from mlsysopt.infer.analysis.mentions import Mention
from mlsysopt.infer.emit.module import Module, Tuned
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Index, Site, Vector, call
from mlsysopt.infer.rules.conditional import neighbours
from mlsysopt.infer.rules.protocol import Refusal, Update
from mlsysopt.infer.rules.statistics import (
    NORMALS,
    ZERO,
    Gain,
    beta_gain,
    chosen,
    dirichlet_gain,
    flat_index,
    gamma_gain,
    inverse_gamma_gain,
    name_of,
    normal_gain,
    precision_of,
    shape_inside,
)
from mlsysopt.infer.runtime import draws, turning

__all__ = ["Conjugate", "precision_of"]

TURNS = ("t_", "t0_", "t1_", "t2_", "t3_")
"""Prefixes of arrays: how far each cell is turned, and what `turning.adapt_turns` has seen of it, in its order."""


class Conjugate:
    """Rule 4, the table of the posterior's updates.

    | prior | consumer | posterior |
    |---|---|---|
    | Beta(a, b) | Bernoulli, Binomial(n), Geometric, NegativeBinomial(r) | Beta(a + successes, b + failures) |
    | Dirichlet(alpha) | Categorical, Multinomial | Dirichlet(alpha + counts) |
    | Gamma(a, b) | Poisson(c v), Exponential(c v), Gamma(k, c v), Normal(precision = c v) | Gamma |
    | InverseGamma(a, b) | Normal(var = c v) | InverseGamma(a + n/2, b + sum (x-m)^2 / 2c) |
    | Normal, TruncatedNormal, ordered | Normal or LogNormal with a mean linear in v | precisions add up; truncated |

    HalfNormal, Flat and HalfFlat are normals that are cut off, or of precision 0, and go with the last row.

    Rows of a Dirichlet that are known by hidden values only are overrelaxed: see `runtime.turning`.
    """

    name: ClassVar[str] = "conjugate"

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Accept a variable that every consumer reads once, in the form that the table needs."""
        blanket = analysis.blanket(variable)
        if not blanket.consumers:
            return Refusal("nothing observed depends on it")
        priors = sorted({_prior(site) for site in blanket.own})
        if len(priors) > 1:
            return Refusal(f"its cells have different priors: {', '.join(priors)}", blanket.own[-1].line)
        family = _FAMILIES.get(priors[0])
        if family is None:
            return Refusal(f"{priors[0]} is no conjugate prior", blanket.own[0].line)
        for site in blanket.own:
            if site.ordered and priors[0] != "Normal":
                return Refusal("ordered cells are conjugate for normals only", site.line)
        refused = _shared(blanket)
        if refused is not None:
            return refused
        gains: list[Gain] = []
        for mention in blanket.mentions:
            gain = family.gain(mention)
            if isinstance(gain, Refusal):
                return gain
            gains.append(gain)
        names = sorted({name_of(gain.site) for gain in gains})
        event = blanket.variable.event
        cells = "row" if event else "cell" if blanket.variable.rank else "number"
        plural = "s" if blanket.variable.rank > event else ""
        about = f"conjugate {cells}{plural}, {name_of(blanket.own[0])} with {', '.join(names)}"
        cost: Expr = analysis.size(variable)
        for gain in gains:
            cost = call("+", cost, visits(gain.site))
        hidden = any(not one.site.observed or analysis.latents_read[one.site.number] - {variable} for one in gains)
        turned = family.turned is not None and hidden
        about += ", overrelaxed" if turned else ""
        return Update(
            self.name, (variable,), about, cost,
            lambda module, name: _write(module, name, blanket, family, gains, turned=turned),
            tuned=turned, exact=not turned,
        )  # fmt: skip


def _shared(blanket: Blanket) -> Refusal | None:
    """Refuse a variable that a consumer reads twice, in a place that is no argument, or in its own prior."""
    variable = blanket.variable
    for number, found in blanket.consumers.items():
        site = blanket.program.sites[number]
        if site.distribution is None:
            return Refusal("it is read by factor(...), whose form is unknown", site.line)
        for one in found:
            if one.place in ("index", "guard", "bound"):
                return Refusal(f"it is read in {'an' if one.place == 'index' else 'a'} {one.place}", site.line)
        if site.variable == variable.name and not site.observed:
            return Refusal("a cell is read in the prior of another cell", site.line)
        if len(found) > 1:
            rows = {one.get.at[: len(one.get.at) - variable.event] for one in found}
            times = f"{len(found)} times" if len(rows) > 1 else "twice" if len(found) == 2 else f"{len(found)} times"
            return Refusal(f"it is read {times} there", site.line)
        if not variable.event and any(one.under for one in found):
            return Refusal("several of its cells are read in one sum there", site.line)
    return None


@dataclass(frozen=True, slots=True)
class _Family:
    """One prior: what consumers add, and how the posterior is drawn.

    Attributes:
        gain: What a consumer adds, or why it does not fit.
        statistics: Name -> whether it holds whole numbers.
        posterior: Writes the draw of one cell: (writer, own site, statistics' cells as text); a cell without a valid
            posterior returns from there.
        row: Whether statistics have the dimension that a draw fills.
        turned: As `posterior`, from the present value on; None where a family has no such draw.
    """

    gain: Callable[[Mention], Gain | Refusal]
    statistics: dict[str, bool]
    posterior: Callable[[Writer, Site, list[str]], None]
    row: bool = False
    turned: Callable[[Writer, Site, list[str]], None] | None = None


def _prior(site: Site) -> str:
    """Return the name of a prior's family in the table."""
    name = name_of(site)
    return "Normal" if name in (*NORMALS, "TruncatedNormal", "HalfNormal", "Flat", "HalfFlat") else name


def _write(module: Module, name: str, blanket: Blanket, family: _Family, gains: list[Gain], *, turned: bool) -> None:
    variable = blanket.variable
    axes = variable.rank if family.row else variable.rank - variable.event
    with module.function(name, ("rng", "warm") if turned else ("rng",)) as f:
        for one, whole in family.statistics.items():
            shape = f.shape(variable.name, axes)
            zeros = f"np.zeros({shape}{', dtype=np.int64' if whole else ''})" if variable.rank else "0.0"
            f.line(f"{one}_{variable.name} = {zeros}")
        for gain in gains:
            with f.site(gain.site):
                at = gain.get.at[: variable.rank - variable.event]
                unsure = bool(at) and chosen(gain.site, gain.get)
                with f.block(f"if {shape_inside(f, variable.name, at)}:") if unsure else nullcontext():
                    _add(f, gain, family, at)
        for prefix in TURNS if turned else ():
            module.tune(Tuned(f"{prefix}{variable.name}", like=variable.name, start=0.0), f)
        posterior = family.turned if turned and family.turned is not None else family.posterior
        for site in blanket.own:
            with f.site(site):
                posterior(f, site, [_statistic(f, variable.name, site.at, one) for one in family.statistics])
        f.line("return 0")


def _add(f: Writer, gain: Gain, family: _Family, at: tuple[Expr, ...]) -> None:
    name = gain.get.variable
    if not family.row:
        texts = [f.value(one) for one in gain.adds]
        for one, text in zip(family.statistics, texts, strict=True):
            f.line(f"{_statistic(f, name, gain.get.at, one)} += {text}")
        return
    (counts,) = family.statistics
    value = gain.site.value
    if isinstance(value, Vector):
        index = f.fresh("c")
        with f.block(f"for {index} in range({f.value(value.size)}):"):
            f.line(f"{f.cell(name, (*at, index), f'{counts}_')} += {f.value(value.at(Index(index)))}")
        return
    f.line(f"{f.cell(name, (*at, value), f'{counts}_')} += 1")


def _statistic(f: Writer, name: str, at: tuple[Expr, ...], statistic: str) -> str:
    """Return the name of a cell's statistic; that of a single number is no array, which a processor adds up faster."""
    return f.cell(name, at, f"{statistic}_") if f.variable(name).rank else f"{statistic}_{name}"


def _unless(f: Writer, site: Site, good: str) -> None:
    """Write the way out of a cell that has no valid posterior."""
    with f.block(f"if not ({good}):"):
        f.line(f"return {flat_index(f, site.variable, site.at)} + 1")


def _draw_beta(f: Writer, site: Site, s: list[str]) -> None:
    a, b = _parameters(f, site, s)
    f.line(f"{f.value(site.value)} = {f.use(draws.beta_draw)}(rng, {a}, {b})")


def _draw_gamma(f: Writer, site: Site, s: list[str]) -> None:
    a, b = _parameters(f, site, s)
    f.line(f"{f.value(site.value)} = {f.use(draws.gamma_draw)}(rng, {a}, {b})")


def _draw_inverse_gamma(f: Writer, site: Site, s: list[str]) -> None:
    a, b = _parameters(f, site, s)
    f.line(f"{f.value(site.value)} = {f.use(draws.inverse_gamma_draw)}(rng, {a}, {b})")


def _parameters(f: Writer, site: Site, s: list[str]) -> tuple[str, str]:
    """Write the sums of the prior's two parameters and what the consumers added; both have to be positive."""
    first, second = f.arguments(site)
    a, b = f.let(f"{first} + {s[0]}", "a"), f.let(f"{second} + {s[1]}", "b")
    _unless(f, site, f"0.0 < {a} < math.inf and 0.0 < {b} < math.inf")
    return a, b


def _draw_dirichlet(f: Writer, site: Site, s: list[str]) -> None:
    row, alpha = _shapes(f, site)
    f.line(f"{f.use(draws.dirichlet_draw)}(rng, {row}, {alpha})")
    _unless(f, site, f"{row}[0] > 0.0")


def _turn_dirichlet(f: Writer, site: Site, s: list[str]) -> None:
    row, alpha = _shapes(f, site)
    turn, *seen = (f.cell(site.variable, site.at, prefix) for prefix in TURNS)
    with f.block("if warm:"):
        f.line(f"{f.use(turning.adapt_turns)}({', '.join([row, alpha, turn, *seen])})")
    f.line(f"{f.use(turning.turned_dirichlet_draw)}(rng, {row}, {alpha}, {turn})")
    _unless(f, site, f"{row}[0] > 0.0")


def _shapes(f: Writer, site: Site) -> tuple[str, str]:
    """Write the posterior's shapes; a shape that is not above 0 and finite makes the whole row nan."""
    assert isinstance(site.value, Vector) and isinstance(site.args[0], Vector)
    row = f.let(f.vector(site.value), "row")
    alpha, index = f.fresh("alpha"), f.fresh("c")
    size = f.let(f.value(site.value.size))
    f.line(f"{alpha} = np.empty({size})")
    with f.block(f"for {index} in range({size}):"):
        count = f.cell(site.variable, (*site.at, index), "n_")
        f.line(f"{alpha}[{index}] = {f.value(site.args[0].at(Index(index)))} + {count}")
    return row, alpha


def _draw_normal(f: Writer, site: Site, s: list[str]) -> None:
    precision, mean = _normal_prior(f, site)
    total = f.let(f"{precision} + {s[0]}", "w")
    _unless(f, site, f"0.0 < {total} < math.inf")
    weighted = f"({precision} * {mean} + {s[1]})" if mean != "0" else s[1]
    centre = f.let(f"{weighted} / {total}", "m")
    sd = f.let(f"math.sqrt(1.0 / {total})", "sd")
    cell = f.value(site.value)
    low = high = ""
    if name_of(site) == "TruncatedNormal":
        low, high = (f.let(f.value(one), "b") for one in site.args[2:])
    elif name_of(site) in ("HalfNormal", "HalfFlat"):
        low, high = "0.0", "math.inf"
    if site.ordered:
        low, high = neighbours(f, site, low, high)
    if low:
        f.line(f"{cell} = {f.use(draws.truncated_normal_draw)}(rng, {centre}, {sd}, {low}, {high})")
        _unless(f, site, f"{low} <= {cell} <= {high}")
    else:
        f.line(f"{cell} = {centre} + {sd} * rng.standard_normal()")
        _unless(f, site, f"-math.inf < {cell} < math.inf")


def _normal_prior(f: Writer, site: Site) -> tuple[str, str]:
    """Write precision and mean of a prior that is normal, cut off or flat."""
    match name_of(site):
        case "Flat" | "HalfFlat":
            return "0.0", "0"
        case "HalfNormal":
            (sd,) = site.args
            return f.let(f.value(call("/", Const(1.0), call("*", sd, sd))), "w"), "0"
        case _:
            mean = "0" if site.args[0] == ZERO else f.let(f.value(site.args[0]), "m")
            return f.let(f.value(precision_of(site)), "w"), mean


_FAMILIES: dict[str, _Family] = {
    "Beta": _Family(beta_gain, {"a": False, "b": False}, _draw_beta),
    "Dirichlet": _Family(dirichlet_gain, {"n": True}, _draw_dirichlet, row=True, turned=_turn_dirichlet),
    "Gamma": _Family(gamma_gain, {"a": False, "b": False}, _draw_gamma),
    "InverseGamma": _Family(inverse_gamma_gain, {"a": False, "b": False}, _draw_inverse_gamma),
    "Normal": _Family(normal_gain, {"w": False, "h": False}, _draw_normal),
}

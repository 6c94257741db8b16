"""What one reader of a variable adds to the statistics of the cell that it read.

Each of these is right only where the reader mentions the variable exactly once; who calls them has proved that.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysopt.infer.analysis.linear import linear
from mlsysopt.infer.analysis.mentions import Mention, free_of
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Call, Const, Expr, Get, Site, Vector, call, walk
from mlsysopt.infer.rules.protocol import Refusal

__all__ = [
    "Gain",
    "beta_gain",
    "chosen",
    "dirichlet_gain",
    "flat_index",
    "gamma_gain",
    "inverse_gamma_gain",
    "name_of",
    "normal_gain",
    "precision_of",
    "scale_gain",
    "shape_inside",
    "spread_gain",
]

ONE, ZERO = Const(1), Const(0)
NORMALS = ("Normal", "NormalVariance", "NormalPrecision")


@dataclass(frozen=True, slots=True)
class Gain:
    """What one reader adds, an expression for each statistic.

    Attributes:
        site: The reader.
        get: The cell that it reads.
        adds: One for each statistic.
        multiple: A factor of the variable there, which has to be positive.
        slope: Of a mean: its derivative by the variable times its precision, times the distance of what was seen from
            the mean as it stands.
    """

    site: Site
    get: Get
    adds: tuple[Expr, ...]
    multiple: Expr = ONE
    slope: Expr = ZERO


def beta_gain(mention: Mention) -> Gain | Refusal:
    """Return successes and failures."""
    site, x = mention.site, mention.site.value
    match name_of(site):
        case "Bernoulli" if _bare(mention, 0):
            return Gain(site, mention.get, (x, call("-", ONE, x)))
        case "Geometric" if _bare(mention, 0):
            return Gain(site, mention.get, (ONE, x))
        case "Binomial" if _bare(mention, 1):
            return Gain(site, mention.get, (x, call("-", site.args[0], x)))
        case "NegativeBinomial" if _bare(mention, 1):
            return Gain(site, mention.get, (site.args[0], x))
        case _:
            return _unfit(mention, "Beta", "the probability of Bernoulli, Binomial, Geometric or NegativeBinomial")


def dirichlet_gain(mention: Mention) -> Gain | Refusal:
    """Accept a whole row; the counts themselves are the values."""
    site = mention.site
    place = {"Categorical": 0, "Multinomial": 1}.get(name_of(site), -1)
    if place >= 0 and mention.argument == place:
        one = site.args[place]
        row = one.row() if isinstance(one, Vector) else None
        if row is not None and row == Get(mention.get.variable, mention.get.at[:-1]):
            return Gain(site, mention.get, ())
    return _unfit(mention, "Dirichlet", "a whole row of Categorical or Multinomial")


def gamma_gain(mention: Mention) -> Gain | Refusal:
    """Return (a, b) of a reader's `v^a exp(-b v)`."""
    site, x = mention.site, mention.site.value
    place = {"Poisson": 0, "Exponential": 0, "Gamma": 1, "NormalPrecision": 1}.get(name_of(site), -1)
    c = _multiple_of(site.args[place], mention.get) if place >= 0 and mention.argument == place else None
    if c is None:
        wanted = "`c * v` as a rate of Poisson, Exponential or Gamma, or as a Normal's precision"
        return _unfit(mention, "Gamma", wanted)
    match name_of(site):
        case "Poisson":
            # An exposure of 0 is allowed: it sees 0 for certain.
            return Gain(site, mention.get, (x, c))
        case "Exponential":
            return Gain(site, mention.get, (ONE, call("*", c, x)), c)
        case "Gamma":
            return Gain(site, mention.get, (site.args[0], call("*", c, x)), c)
        case _:
            half = call("*", Const(0.5), call("*", c, _squared(x, site.args[0])))
            return Gain(site, mention.get, (Const(0.5), half), c)


def inverse_gamma_gain(mention: Mention) -> Gain | Refusal:
    """Return (a, b) of a reader's `v^-a exp(-b / v)`."""
    site = mention.site
    variance: Expr | None = None
    if mention.argument == 1 and name_of(site) == "NormalVariance":
        variance = site.args[1]
    elif mention.argument == 1 and name_of(site) == "Normal":
        spread = site.args[1]
        variance = spread.args[0] if isinstance(spread, Call) and spread.function == "sqrt" else None
    c = _multiple_of(variance, mention.get) if variance is not None else None
    if c is None:
        return _unfit(mention, "InverseGamma", "`c * v` as a Normal's variance")
    half = call("*", Const(0.5), _squared(site.value, site.args[0]))
    return Gain(site, mention.get, (Const(0.5), call("/", half, c)), c)


def normal_gain(mention: Mention) -> Gain | Refusal:
    """Return precision and precision times mean, seen from the variable."""
    site = mention.site
    if name_of(site) not in (*NORMALS, "LogNormal") or mention.argument != 0:
        return _unfit(mention, "Normal", "the mean of Normal or LogNormal, linear in v")
    found = linear(site.args[0], {mention.get.variable})
    if found is None or len(found.terms) != 1 or found.terms[0].over:
        return Refusal("the mean is not linear in it there", site.line)
    term = found.terms[0]
    x = call("log", site.value) if name_of(site) == "LogNormal" else site.value
    scaled = call("*", term.coefficient, precision_of(site))
    adds = call("*", scaled, term.coefficient), call("*", scaled, call("-", x, found.constant))
    return Gain(site, mention.get, adds, slope=call("*", scaled, call("-", x, site.args[0])))


def scale_gain(mention: Mention) -> Gain | Refusal:
    """Return (1, ((x - m) / c)^2) of a reader's standard deviation `c v`."""
    site = mention.site
    place = {"Normal": 1, "LogNormal": 1, "HalfNormal": 0}.get(name_of(site), -1)
    c = _multiple_of(site.args[place], mention.get) if place >= 0 and mention.argument == place else None
    if c is None:
        return Refusal("it is no standard deviation `c * v` there", site.line)
    x = call("log", site.value) if name_of(site) == "LogNormal" else site.value
    distance = x if place == 0 else call("-", x, site.args[0])
    return Gain(site, mention.get, (ONE, Call("**", (call("/", distance, c), Const(2)))), c)


def spread_gain(mention: Mention) -> Gain | Refusal:
    """Return (a, b) of a reader's `v^-a exp(-b / v)`: a Normal's variance, or a Laplace's scale."""
    site = mention.site
    if name_of(site) != "Laplace" or mention.argument != 1:
        return inverse_gamma_gain(mention)
    c = _multiple_of(site.args[1], mention.get)
    if c is None:
        return Refusal("it is no scale `c * v` there", site.line)
    return Gain(site, mention.get, (ONE, call("/", call("abs", call("-", site.value, site.args[0])), c)), c)


def precision_of(site: Site) -> Expr:
    """Return 1 / variance of a site of Normal's family, or of LogNormal's logarithm."""
    spread = site.args[1]
    match name_of(site):
        case "NormalVariance":
            return call("/", Const(1.0), spread)
        case "NormalPrecision":
            return spread
        case _:
            return call("/", Const(1.0), call("*", spread, spread))


def name_of(site: Site) -> str:
    """Return the name of a site's distribution."""
    return site.distribution.name if site.distribution is not None else "factor"


def chosen(site: Site, get: Get) -> bool:
    """Whether a cell is read in one branch of a choice only, so that its index need not exist in the other."""
    return any(
        get in walk(branch)
        for expression in site.expressions()
        for one in walk(expression)
        if isinstance(one, Call) and one.function in ("select", "and", "or")
        for branch in one.args[1:]
    )


def flat_index(f: Writer, name: str, at: tuple[Expr, ...]) -> str:
    """Return the place of a cell, or of the first cell of a row, among all numbers of a variable."""
    one = f.variable(name)
    index = [f.value(part) for part in at]
    if not one.rank or not at:
        return "0"
    if one.ragged:
        start = f"{f.array(f'at_{one.like or name}')}[{index[0]}]"
        return f"{start} + {index[1]}" if len(index) > 1 else start
    if one.rank == 1:
        return index[0]
    row = f"{index[0]} * {f.array(f'v_{name}')}.shape[1]"
    return f"{row} + {index[1]}" if len(index) > 1 else row


def shape_inside(f: Writer, name: str, at: tuple[Expr, ...]) -> str:
    """Return the condition that an index lies inside of a variable."""
    one, array = f.variable(name), f.array(f"v_{name}")
    if one.ragged:
        return f"0 <= {flat_index(f, name, at)} < {array}.shape[0]"
    return " and ".join(f"0 <= {f.value(part)} < {array}.shape[{i}]" for i, part in enumerate(at)) or "True"


def _multiple_of(expression: Expr, get: Get) -> Expr | None:
    """Return c of an expression `c * get` with c free of the variable, else None."""
    found = linear(expression, {get.variable})
    if found is None or found.constant != ZERO or len(found.terms) != 1 or found.terms[0].over:
        return None
    term = found.terms[0]
    return term.coefficient if term.get == get and free_of(term.coefficient, get.variable) else None


def _bare(mention: Mention, argument: int) -> bool:
    return mention.argument == argument and mention.site.args[argument] == mention.get


def _squared(x: Expr, mean: Expr) -> Expr:
    return Call("**", (call("-", x, mean), Const(2)))


def _unfit(mention: Mention, prior: str, wanted: str) -> Refusal:
    return Refusal(
        f"a {prior} is conjugate only where it is {wanted}; there it is read by {name_of(mention.site)}", mention.line
    )

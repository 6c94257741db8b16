"""Sites as normal equations: `target = sum of coefficient * cell + noise`, each site once, whatever part it plays.

A site that draws a cell of a block and reads others is prior and consumer in one. As one equation, `value - mean =
noise` with the value's own cell among the terms, it cannot be counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.analysis.linear import Term, linear
from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.ir import Call, Const, Expr, Get, Index, Reduce, Site, Vector, call, substitute, walk
from mlsysopt.infer.rules.protocol import Refusal
from mlsysopt.infer.rules.statistics import precision_of

__all__ = [
    "MULTIVARIATE",
    "NORMALS",
    "Equation",
    "equations",
    "grown",
    "is_flat",
    "reached",
    "shifted",
    "unfit",
    "uses_index",
    "varies",
]

NORMALS = ("Normal", "NormalVariance", "NormalPrecision")
MULTIVARIATE = "MultivariateNormal"
PRIORS = (*NORMALS, MULTIVARIATE, "Flat")

ZERO, ONE, MINUS = Const(0), Const(1), Const(-1)


@dataclass(frozen=True, slots=True)
class Equation:
    """What one site says about the cells of a block.

    Attributes:
        site: Which.
        terms: Coefficients times cells.
        target: What their sum is, but for the noise; free of the block.
        precision: 1 / variance of the noise; None where the site is a vector with a covariance matrix.
        index: Of a vector, the index of its numbers, which `terms` and `target` hold.
    """

    site: Site
    terms: tuple[Term, ...]
    target: Expr
    precision: Expr | None
    index: str = ""


def is_flat(variable: str, analysis: Analysis) -> bool:
    """Whether some cell of a variable has no proper prior."""
    return any(_name(site) == "Flat" for site in analysis.program.sites_of(variable))


def unfit(variable: str, analysis: Analysis) -> Refusal | None:
    """Return why a variable's conditional is not Gaussian, None where it is."""
    program = analysis.program
    blanket = analysis.blanket(variable)
    for site in blanket.own:
        if _name(site) not in PRIORS:
            return Refusal(f"{_name(site)} is no Gaussian prior", site.line)
        if site.ordered:
            return Refusal("its cells must ascend", site.line)
    if not blanket.consumers:
        if is_flat(variable, analysis):
            why = "its prior is Flat and nothing observed depends on it: no distribution is left"
            return Refusal(why, blanket.own[0].line)
        return Refusal("nothing observed depends on it", blanket.own[0].line)
    if program.variables[variable].input:
        return Refusal("some of its cells are given", blanket.own[0].line)
    for mention in blanket.mentions:
        site = mention.site
        if site.distribution is None:
            return Refusal("it is read by factor(...), whose form is unknown", site.line)
        if mention.place in ("index", "guard", "bound"):
            return Refusal(f"it is read in {'an' if mention.place == 'index' else 'a'} {mention.place}", site.line)
        if _name(site) not in (*NORMALS, MULTIVARIATE, "LogNormal"):
            return Refusal(f"it is read by {_name(site)}, which is no Normal", site.line)
        if mention.argument != 0:
            return Refusal(f"it is read in the {site.distribution.parameters[mention.argument].name} there", site.line)
    for site in blanket.sites:
        if linear(_mean(site), {variable}) is None:
            return Refusal("the mean is not linear in it there", site.line)
    return None


def grown(
    variable: str, analysis: Analysis, joins: Sequence[str], forbids: Callable[[Sequence[Equation]], int]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the block of a variable, and for those that cannot join it the line that forbids it.

    Variables join one after another, nearest first, as long as every mean stays linear in all of them together.

    Args:
        variable: Where it starts.
        analysis: Of the program.
        joins: Who may join.
        forbids: Line at which the equations of a larger block have a form that is not wanted, else 0.
    """
    block, forbidden = [variable], dict[str, int]()
    while True:
        near = [one for one in _neighbours(block, analysis) if one in joins and one not in forbidden]
        if not near:
            break
        found = equations((*block, near[0]), analysis)
        line = found.line if isinstance(found, Refusal) else forbids(found)
        if line:
            forbidden[near[0]] = line
        else:
            block.append(near[0])
    return tuple(block), forbidden


def _neighbours(block: Sequence[str], analysis: Analysis) -> list[str]:
    """Return latents that share an equation with a block, in program order."""
    found: set[str] = set()
    for site in _sites(block, analysis):
        if site.distribution is not None and site.args and _name(site) != "Flat":
            found |= reads(_mean(site)) | ({site.variable} if not site.observed else set())
    return [one.name for one in analysis.program.latents if one.name in found and one.name not in block]


def _sites(block: Sequence[str], analysis: Analysis) -> list[Site]:
    numbers: set[int] = set()
    for one in block:
        blanket = analysis.blanket(one)
        numbers |= {site.number for site in blanket.own} | set(blanket.consumers)
    return [analysis.program.sites[number] for number in sorted(numbers)]


def equations(block: Collection[str], analysis: Analysis) -> tuple[Equation, ...] | Refusal:
    """Return what every site that draws or reads a block says about it; a Flat prior says nothing."""
    found: list[Equation] = []
    for site in _sites(tuple(block), analysis):
        if _name(site) == "Flat":
            continue
        one = _equation(site, set(block))
        if one is None:
            return Refusal("the mean is not linear in all of them together there", site.line)
        found.append(one)
    return tuple(found)


def _equation(site: Site, block: set[str]) -> Equation | None:
    mean = linear(_mean(site), block)
    if mean is None or reads(site.args[1]) & block:
        return None
    x, index = site.value, ""
    if isinstance(x, Vector):
        assert not isinstance(x.body, Vector)
        x, index = x.body, x.index
    precision = None if index else precision_of(site)
    if not site.observed and site.variable in block:
        assert isinstance(x, Get)
        terms = [Term(x, ONE), *(replace(one, coefficient=call("*", MINUS, one.coefficient)) for one in mean.terms)]
        return Equation(site, _merged(terms), mean.constant, precision, index)
    if _name(site) == "LogNormal":
        x = call("log", x)
    return Equation(site, _merged(mean.terms), call("-", x, mean.constant), precision, index)


def _mean(site: Site) -> Expr:
    """Return the mean of a site; of a vector, of its number at the index that its value has."""
    mean = site.args[0]
    if isinstance(mean, Vector) and isinstance(site.value, Vector):
        return mean.at(Index(site.value.index))
    return mean


def _merged(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Add up the coefficients of terms that are the same cell."""
    plain: dict[Get, Expr] = {}
    rest: list[Term] = []
    for one in terms:
        if one.over:
            rest.append(one)
        else:
            plain[one.get] = call("+", plain[one.get], one.coefficient) if one.get in plain else one.coefficient
    return (*(Term(get, coefficient) for get, coefficient in plain.items()), *rest)


def reached(term: Term) -> Get:
    """Return the cell of a term with an index that is valid even where a condition makes the coefficient 0.

    >>> x = Get("x", (call("-", Index("t"), ONE),))
    >>> print(reached(Term(x, call("select", call(">", Index("t"), ZERO), ONE, ZERO))))
    x[((t - 1) if (t > 0) else 0)]
    """
    get = term.get
    for condition in _conditions(term.coefficient):
        get = Get(get.variable, tuple(call("select", condition, one, ZERO) for one in get.at))
    return get


def _conditions(coefficient: Expr) -> Iterator[Expr]:
    match coefficient:
        case Call("select", (condition, part, Const(value=0))):
            yield from (*_conditions(part), condition)
        case Call("select", (condition, Const(value=0), part)):
            yield from (*_conditions(part), call("not", condition))
        case Call("*", (a, b)):
            yield from (*_conditions(a), *_conditions(b))
        case Call("/", (a, _)):
            yield from _conditions(a)
        case Call("+", (a, b)) if (one := [*_conditions(a)]) and (other := [*_conditions(b)]):
            yield call("or", _all(one), _all(other))
        case _:
            return


def _all(conditions: Sequence[Expr]) -> Expr:
    found = conditions[-1]
    for one in reversed(conditions[:-1]):
        found = call("and", found, one)
    return found


def varies(expression: Expr, site: Site) -> bool:
    """Whether an expression differs from one visit of a site to another, or is not safe to compute without one."""
    inside = {loop.index for loop in site.loops}
    for one in walk(expression):
        if isinstance(one, Reduce | Vector) or (isinstance(one, Index) and one.name in inside):
            return True
        if isinstance(one, Get) and one.at:
            return True
    return False


def shifted(index: Expr) -> tuple[Expr, int]:
    """Return an index as (base, whole number): `t - 1` is (t, -1), 3 is (0, 3)."""
    match index:
        case Const(value=int() as c):
            return ZERO, c
        case Call("+", (base, Const(value=int() as c))) | Call("+", (Const(value=int() as c), base)):
            return base, c
        case Call("-", (base, Const(value=int() as c))):
            return base, -c
        case _:
            return index, 0


def uses_index(expression: Expr, index: str) -> bool:
    """Whether an expression holds an index."""
    return substitute(expression, {Index(index): ZERO}) != expression


def _name(site: Site) -> str:
    return site.distribution.name if site.distribution is not None else "factor"

"""Linear-Gaussian chains: filter forwards, draw backwards, all cells of a chain at once in linear time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlsysopt.infer.analysis.blanket import Analysis, visits
from mlsysopt.infer.analysis.linear import Term
from mlsysopt.infer.analysis.mentions import Mention
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Get, call
from mlsysopt.infer.rules.linear_gaussian import (
    MULTIVARIATE,
    Equation,
    equations,
    grown,
    is_flat,
    reached,
    shifted,
    unfit,
    varies,
)
from mlsysopt.infer.rules.protocol import Refusal, Update
from mlsysopt.infer.runtime import gaussian

__all__ = ["LARGEST", "Kalman"]

LARGEST = 8
"""Numbers of a chain's state, over all arrays and all steps that are looked back."""

# Names of arrays in what is written: precisions and right hand sides, in the order of time.
DIAGONAL, BELOW, BAND, H = "chain_q", "chain_link", "chain_band", "chain_h"


@dataclass(frozen=True, slots=True)
class _Chain:
    """Arrays that follow one another along one dimension.

    Attributes:
        members: In program order; number k of D stands at place `t * D + k`.
        axis: Which dimension is time.
        back: How many steps the sites look back.
    """

    members: tuple[str, ...]
    axis: int
    back: int

    @property
    def width(self) -> int:
        """How far apart two numbers that share a site can stand."""
        return len(self.members) * (self.back + 1) - 1


class Kalman:
    """The part of rule 3 for chains `x[t] ~ Normal(c * x[t - 1] + d, s)`, with coefficients that may vary.

    Several arrays that are coupled, and several steps back, are one chain of larger state, up to dimension 8. What a
    chain knows of itself is a band of precisions, whose Cholesky factor is the filter in information form; what nobody
    observes adds nothing.
    """

    name: ClassVar[str] = "kalman"

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Accept an array whose cells follow one another, with the arrays that are coupled to it."""
        why, axis = self._refusal(variable, analysis)
        if why is not None:
            return why
        alone = equations((variable,), analysis)
        if isinstance(alone, Refusal):
            return alone
        found = _looks_back(alone, axis)
        if isinstance(found, Refusal):
            return found
        joins = [one.name for one in analysis.program.latents if self._joins(one.name, variable, axis, analysis)]
        block, _ = grown(variable, analysis, joins, lambda found: _too_far(found, axis))
        members = tuple(one.name for one in analysis.program.latents if one.name in block)
        sites = equations(members, analysis)
        assert not isinstance(sites, Refusal)
        back = _looks_back(sites, axis)
        assert isinstance(back, int)
        chain = _Chain(members, axis, max(back, 1))
        if len(members) * chain.back > LARGEST:
            line = analysis.blanket(variable).own[0].line
            return Refusal(f"its state has dimension {len(members) * chain.back}, and {LARGEST} is the most", line)
        cost: Expr = Const(0)
        for one in members:
            cost = call("+", cost, call("*", Const((chain.width + 1) ** 2), analysis.size(one)))
        for one in sites:
            cost = call("+", cost, visits(one.site))
        flat = frozenset(one for one in members if is_flat(one, analysis))
        about = f"linear-Gaussian chain of {', '.join(members)}, state of dimension {len(members) * chain.back}"
        ordered = (variable, *(one for one in members if one != variable))

        def write(module: Module, name: str) -> None:
            with module.function(name, ("rng",)) as f:
                _Writing(f, chain).write(sites, flat)

        return Update(self.name, ordered, about, cost, write)

    def _refusal(self, variable: str, analysis: Analysis) -> tuple[Refusal | None, int]:
        """Return why a variable is no chain, and the dimension along which it is one."""
        blanket = analysis.blanket(variable)
        why = unfit(variable, analysis)
        if why is not None:
            return why, 0
        if not blanket.self_references:
            return Refusal("its cells do not follow one another", blanket.own[0].line if blanket.own else 0), 0
        for site in (*blanket.own, *blanket.sites):
            if site.distribution is not None and site.distribution.name == MULTIVARIATE:
                return Refusal("its vectors are drawn as a whole there", site.line), 0
        followed = blanket.self_references
        axes = {_axis(one) for one in followed}
        if axes == {-1} or len(axes) > 1:
            line = next((one.line for one in followed if _axis(one) < 0), followed[0].line)
            return Refusal("which cell it follows is not `t - 1` of one dimension there", line), 0
        if analysis.program.variables[variable].ragged and axes != {1}:
            return Refusal("its rows have their own lengths, and it goes across them", followed[0].line), 0
        return None, axes.pop()

    def _joins(self, name: str, variable: str, axis: int, analysis: Analysis) -> bool:
        one, other = analysis.program.variables[name], analysis.program.variables[variable]
        if one.rank != other.rank or one.like != other.like or (one.rank == 2 and one.shape != other.shape):
            return False
        return self._refusal(name, analysis) == (None, axis)


def _axis(mention: Mention) -> int:
    """Return the dimension along which a cell reads another one at a known distance, -1 where there is none."""
    pairs = list(zip(mention.site.at, mention.get.at, strict=True))
    apart = [i for i, (a, b) in enumerate(pairs) if a != b]
    if len(apart) != 1:
        return -1
    (a, c), (b, d) = map(shifted, pairs[apart[0]])
    return apart[0] if a == b and c != d and not mention.under else -1


def _looks_back(found: Sequence[Equation], axis: int) -> int | Refusal:
    """Return how many steps lie between cells that share a site, at most."""
    back = 0
    for one in found:
        places: set[tuple[Expr, ...]] = set()
        shifts: list[int] = []
        for term in one.terms:
            if term.over:
                return Refusal("several of its cells are read in one sum there", one.site.line)
            base, c = shifted(term.get.at[axis])
            places.add((*term.get.at[:axis], base, *term.get.at[axis + 1 :]))
            shifts.append(c)
        if len(places) > 1:
            return Refusal("cells at a distance that is not known are read together there", one.site.line)
        back = max(back, max(shifts) - min(shifts))
    return back


def _too_far(found: Sequence[Equation], axis: int) -> int:
    """Return a line at which the coupled arrays are no chain of a small state, else 0."""
    back = _looks_back(found, axis)
    if isinstance(back, Refusal):
        return back.line
    members = {term.get.variable for one in found for term in one.terms}
    return found[0].site.line if len(members) * back > LARGEST else 0


class _Writing:
    def __init__(self, f: Writer, chain: _Chain) -> None:
        self.f, self.chain = f, chain
        self.number: Mapping[str, int] = {name: k for k, name in enumerate(chain.members)}

    def write(self, found: Sequence[Equation], flat: frozenset[str]) -> None:
        f, chain = self.f, self.chain
        lengths = [self._cells(one) for one in chain.members]
        n = f.let(lengths[0] if len(lengths) == 1 else f"max({', '.join(lengths)}) * {len(lengths)}", "n")
        if chain.width == 1:
            f.line(f"{DIAGONAL} = np.zeros({n})")
            f.line(f"{BELOW} = np.zeros({n})")
        else:
            f.line(f"{BAND} = np.zeros(({n}, {chain.width + 1}))")
        f.line(f"{H} = np.zeros({n})")
        for one in found:
            self._add(one)
        self._untouched(flat)
        if chain.width == 1:
            f.line(f"status = {f.use(gaussian.draw_tridiagonal)}(rng, {DIAGONAL}, {BELOW}, {H})")
        else:
            f.line(f"status = {f.use(gaussian.draw_banded)}(rng, {BAND}, {H})")
        with f.block("if status != 0:"):
            f.line("return status" if len(chain.members) == 1 else f"return 1 + (status - 1) // {len(chain.members)}")
        for name in chain.members:
            for site in f.module.program.sites_of(name):
                with f.site(site):
                    assert isinstance(site.value, Get)
                    place = self._place(site.value)
                    f.line(f"{f.value(site.value)} = {H}[{place}]")
        f.line("return 0")

    def _cells(self, name: str) -> str:
        one, array = self.f.variable(name), self.f.array(f"v_{name}")
        return f"{array}.shape[0]" + (f" * {array}.shape[1]" if one.rank == 2 and not one.ragged else "")

    def _place(self, get: Get) -> str:
        """Return the place of a cell in the order of time."""
        f, variable = self.f, self.f.variable(get.variable)
        texts = [f.value(one) for one in get.at]
        if variable.ragged:
            at = f"{f.array(f'at_{variable.like or get.variable}')}[{texts[0]}] + {texts[1]}"
        elif len(texts) == 2:
            time = self.chain.axis
            at = f"({texts[1 - time]}) * {f.array(f'v_{get.variable}')}.shape[{time}] + {texts[time]}"
        else:
            at = texts[0]
        size, k = len(self.chain.members), self.number[get.variable]
        return at if size == 1 else f"({at}) * {size}" + (f" + {k}" if k else "")

    def _order(self, term: Term) -> int:
        """Return where a term stands relative to the others of its site."""
        _, c = shifted(term.get.at[self.chain.axis])
        return c * len(self.chain.members) + self.number[term.get.variable]

    def _add(self, one: Equation) -> None:
        f = self.f
        assert one.precision is not None
        w = "" if varies(one.precision, one.site) else f.let(f.value(one.precision), "w")
        with f.site(one.site):
            w = w or f.let(f.value(one.precision), "w")
            r = f.let(f.value(one.target), "r")
            terms = sorted(one.terms, key=self._order)
            places = [f.let(self._place(reached(term)), "p") for term in terms]
            coefficients = [f.let(f.value(term.coefficient), "c") for term in terms]
            for i, term in enumerate(terms):
                scaled = f.let(_product(w, coefficients[i]), "c")
                f.line(f"{H}[{places[i]}] += {_product(scaled, r)}")
                for j in range(i + 1):
                    apart = self._order(term) - self._order(terms[j])
                    # The same cell in two spellings, `t + 1` and `1 + t`, meets itself twice.
                    twice = "2.0" if i != j and not apart else ""
                    f.line(f"{self._precision(places[i], apart)} += {_product(twice, scaled, coefficients[j])}")

    def _precision(self, place: str, apart: int) -> str:
        if self.chain.width == 1:
            return f"{BELOW if apart else DIAGONAL}[{place}]"
        return f"{BAND}[{place}, {apart}]"

    def _untouched(self, flat: frozenset[str]) -> None:
        """Give cells that no line draws a precision, so that they stand in nobody's way."""
        f, size = self.f, len(self.chain.members)
        for k, name in enumerate(self.chain.members):
            p = f.fresh("p")
            # Under a Flat prior, what has no precision is not known at all; only cells beyond the array are left.
            first = f"{self._cells(name)} * {size} + {k}" if name in flat else str(k)
            with f.block(f"for {p} in range({first}, {H}.shape[0], {size}):"):
                cell = self._precision(p, 0)
                with f.block(f"if {cell} == 0.0:"):
                    f.line(f"{cell} = 1.0")


def _product(*texts: str) -> str:
    """Return a product as text, without factors 1."""
    return " * ".join(one for one in texts if one not in ("1", "1.0", "")) or "1.0"

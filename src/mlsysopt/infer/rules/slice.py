"""Slice sampling of single numbers that no exact rule takes: on the line, its logarithm or logit, or whole."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.emit.module import Module, Tuned
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Site
from mlsysopt.infer.rules.conditional import Conditional, conditional, neighbours
from mlsysopt.infer.rules.protocol import Refusal, Update
from mlsysopt.infer.rules.statistics import flat_index
from mlsysopt.infer.runtime import slicing

__all__ = ["Slice"]

SUPPORTS = {"real": "", "positive": "on the log scale", "unit": "on the logit scale", "interval": "between its ends"}
TRIES = 40
AT, PHASE, VALUE, WIDTH = slicing.SLICE_AT, slicing.SLICE_PHASE, slicing.SLICE_VALUE, slicing.SLICE_WIDTH


class Slice:
    """Rule 7: step out and shrink, one number at a time.

    The width of the first bracket is adapted while warming up and stands still afterwards.

    References:
        Neal, Slice Sampling, Annals of Statistics 2003.
    """

    name: ClassVar[str] = "slice"

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Accept numbers on the line or a part of it, and counts; nothing may be indexed by them."""
        blanket = analysis.blanket(variable)
        one = blanket.variable
        for site in blanket.own:
            assert site.distribution is not None
            if one.event:
                return Refusal("it is a whole row, and a slice moves one number", site.line)
            if site.distribution.support not in (*SUPPORTS, "count"):
                return Refusal(f"{site.distribution.name} has a few values only, which are enumerated", site.line)
            if site.distribution.improper and not blanket.consumers:
                return Refusal(f"{site.distribution.name} is improper and nothing observed depends on it", site.line)
        found = conditional(blanket)
        if isinstance(found, Refusal):
            return found
        supports = {site.distribution.support for site in blanket.own if site.distribution is not None}
        whole = "count" in supports
        scales = {"over whole numbers" if one == "count" else SUPPORTS[one] for one in supports}
        words = ["slice", *sorted(scales - {""})]
        about = " ".join(words) + (f", {how}" if (how := found.how()) else "")
        cost = found.cost(analysis.size(variable))
        return Update(
            self.name, (variable,), about, cost, lambda module, name: _write(module, name, found),
            finite=whole, tuned=True, exact=False,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a cell may be, as text, and whether it is a whole number; no ends: the whole line."""

    low: str = ""
    high: str = ""
    whole: bool = False


def _write(module: Module, name: str, found: Conditional) -> None:
    variable = found.name
    with module.function(name, ("rng", "warm")) as f:
        width = module.tune(Tuned(f"t_{name}", like=variable), f)
        f.line(f"x_ = {f.array(f'v_{variable}')}.reshape(-1)")
        f.line(f"width_ = {width}.reshape(-1)")
        found.write_sums(f)
        least = "1.0" if any(_is_whole(site) for site in found.blanket.own) else "1e-300"
        (_write_together if found.together else _write_one_by_one)(f, found, least)
        f.line("return 0")


def _write_one_by_one(f: Writer, found: Conditional, least: str) -> None:
    """Write a loop over the cells, each moved until it is done, the next with its new value."""
    step = f.use(slicing.slice_step)
    f.line(f"s_ = np.zeros((1, {slicing.SLICE_COLUMNS}))")
    for site in found.blanket.own:
        with f.site(site):
            at = [f.let(f.value(one), "i") for one in site.at]
            cell = f.let(flat_index(f, found.name, site.at), "c")
            scale = _scale(f, site)
            before = f.let(f"x_[{cell}]", "before")
            _begin(f, site, scale, "0", cell)
            f.line("tries_ = 0")
            with f.block("while True:"):
                f.line("lp_ = -math.inf")
                with _moved(f, found, site, scale, "0", cell, "lp_"), f.block("if lp_ > -math.inf:"):
                    found.write_forms(f, cell, f"x_[{cell}]", before, "lp_")
                    found.write_readers(f, at, "lp_")
                f.line(f"status_ = {step}(rng, s_, 0, lp_)")
                with _larger(f, scale.whole, "0", cell, str(TRIES)), f.block("if status_ != 0:"):
                    f.line("break")
            with f.block("if status_ < 0:"):
                f.line(f"x_[{cell}] = {before}")
                f.line(f"return {cell} + 1")
            with f.block("if status_ == 2:"):
                f.line(f"x_[{cell}] = s_[0, {VALUE}]")
            with f.block("if warm:"):
                f.line(f"width_[{cell}] = {f.use(slicing.slice_width)}(s_, 0, {least})")


def _write_together(f: Writer, found: Conditional, least: str) -> None:
    """Write rounds: all cells that are not done look at one place each, in one pass over their readers."""
    step = f.use(slicing.slice_step)
    f.line(f"s_ = np.zeros((x_.shape[0], {slicing.SLICE_COLUMNS}))")
    f.line("lp_ = np.zeros(x_.shape[0])")
    f.line("before_ = x_.copy()")
    f.line("tries_ = 0")
    for site in found.blanket.own:
        with f.site(site):
            cell = f.let(flat_index(f, found.name, site.at), "c")
            _begin(f, site, _scale(f, site), cell, cell)
    f.line("left_ = 1")
    with f.block("while left_ > 0:"):
        for site in found.blanket.own:
            with f.site(site):
                cell = f.let(flat_index(f, found.name, site.at), "c")
                with f.block(f"if s_[{cell}, {PHASE}] != 0.0:"):
                    f.line(f"lp_[{cell}] = -math.inf")
                    f.line(f"x_[{cell}] = s_[{cell}, {VALUE}]")
                    with _moved(f, found, site, _scale(f, site), cell, cell, f"lp_[{cell}]"):
                        found.write_forms(f, cell, f"x_[{cell}]", f"before_[{cell}]", f"lp_[{cell}]")
        found.write_readers_together(f, lambda cell: f"s_[{cell}, {PHASE}] != 0.0 and lp_[{cell}] > -math.inf", "lp_")
        f.line("left_ = 0")
        with f.block("for c_ in range(x_.shape[0]):"), f.block(f"if s_[c_, {PHASE}] != 0.0:"):
            f.line(f"status_ = {step}(rng, s_, c_, lp_[c_])")
            whole = any(_is_whole(site) for site in found.blanket.own)
            with _larger(f, whole, "c_", "c_", f"{TRIES} * x_.shape[0]"), f.block("if status_ == 2:"):
                f.line(f"x_[c_] = s_[c_, {VALUE}]")
            with f.block("if status_ < 0:"):
                f.line("x_[:] = before_")
                f.line("return c_ + 1")
            with f.block("if status_ == 0:"):
                f.line("left_ += 1")
    with f.block("if warm:"), f.block("for c_ in range(x_.shape[0]):"), f.block(f"if s_[c_, {WIDTH}] > 0.0:"):
        f.line(f"width_[c_] = {f.use(slicing.slice_width)}(s_, c_, {least})")


@contextmanager
def _larger(f: Writer, whole: bool, row: str, cell: str, most: str) -> Generator[None, None, None]:
    """Write that a count without density is doubled while warming up, before what is done with other answers.

    A count drawn from its prior is often too small for what was counted of it.
    """
    if whole:
        with f.block(f"if status_ < 0 and warm and tries_ < {most}:"):
            f.line("tries_ += 1")
            f.line("status_ = 0")
            f.line(f"x_[{cell}] = 2 * x_[{cell}] + 1")
            f.line(f"{f.use(slicing.slice_begin)}(s_, {row}, x_[{cell}] + rng.random(), x_[{cell}], width_[{cell}])")
    yield


def _is_whole(site: Site) -> bool:
    return site.distribution is not None and site.distribution.discrete


def _scale(f: Writer, site: Site) -> _Scale:
    """Write the ends of a cell's interval, which its neighbours narrow where cells are ordered."""
    assert site.distribution is not None
    low = high = ""
    match site.distribution.support:
        case "count":
            return _Scale(whole=True)
        case "positive":
            low, high = "0.0", "math.inf"
        case "unit":
            low, high = "0.0", "1.0"
        case "interval":
            assert site.distribution.bounds is not None
            low, high = f.fresh("low"), f.fresh("high")
            bounds = f.use(site.distribution.bounds)
            f.line(f"{low}, {high} = {bounds}({', '.join(f.arguments(site))})")
        case _:
            pass
    if site.ordered:
        low, high = neighbours(f, site, low, high)
    return _Scale(low, high)


def _begin(f: Writer, site: Site, scale: _Scale, row: str, cell: str) -> None:
    if scale.whole:
        # A count k is the interval from k to k + 1, of density f(k): a slice of the line, whole numbers come out.
        at = f"x_[{cell}] + rng.random()"
    elif scale.low:
        at = f"{f.use(slicing.to_line)}(x_[{cell}], {scale.low}, {scale.high})"
    else:
        at = f"x_[{cell}]"
    f.line(f"{f.use(slicing.slice_begin)}(s_, {row}, {at}, x_[{cell}], width_[{cell}])")


@contextmanager
def _moved(
    f: Writer, found: Conditional, site: Site, scale: _Scale, row: str, cell: str, total: str
) -> Generator[None, None, None]:
    """Write that a cell stands where the slice looks, with the log density of its prior; below it, what else counts."""
    at = f.let(f"s_[{row}, {AT}]", "u")
    jacobian = ""
    if scale.whole:
        # Beyond 2^53 a double has no whole numbers of its own any more.
        inside, new = f"0.0 <= {at} < 9e15", f"math.floor({at})"
    elif scale.low:
        new = f.let(f"{f.use(slicing.from_line)}({at}, {scale.low}, {scale.high})", "new")
        inside = f"{scale.low} < {new} < {scale.high}"
        jacobian = f" + {f.use(slicing.line_jacobian)}({at}, {scale.low}, {scale.high})"
    else:
        inside, new = f"-math.inf < {at} < math.inf", at
    with f.block(f"if {inside}:"):
        f.line(f"x_[{cell}] = {new}")
        f.line(f"{total} = {f.log_density(site)}{jacobian}")
        yield

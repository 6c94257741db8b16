"""Every latent as numbers on the whole line: written out and back, with the logarithm of the determinant.

A site that draws takes the next numbers of `x_` for the cells that it fills, in the order of its loops; so cells that
are never drawn take none. Numbers lie between two bounds, which may be infinite; rows that add up to one are broken off
a stick; ascending cells are a first one and the logarithms of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Get, Index, Site, Vector, call, substitute
from mlsysopt.infer.rules.protocol import Refusal
from mlsysopt.infer.runtime import basics, smooth
from mlsysopt.infer.runtime.slicing import from_line, to_line

__all__ = ["Transform", "transform_of", "write_constrain", "write_dimensions", "write_slopes", "write_unconstrain"]

Kind = Literal["line", "ordered", "simplex", "vector"]
_LEAST, _MOST = Const(-math.inf), Const(math.inf)
_BOUNDS = {"real": (_LEAST, _MOST), "positive": (Const(0.0), _MOST), "unit": (Const(0.0), Const(1.0))}

Add = Callable[[Writer, Expr, str], None]


@dataclass(frozen=True, slots=True)
class Transform:
    """How the cells of one site lie on the line.

    Attributes:
        site: Which draws them.
        kind: "line" for a number between two bounds, which `low` and `high` are for.
    """

    site: Site
    kind: Kind
    low: Expr = _LEAST
    high: Expr = _MOST

    @property
    def bare(self) -> bool:
        """Whether a cell is its own number on the line."""
        return self.kind in ("line", "ordered") and self.low == _LEAST and self.high == _MOST

    @property
    def bounds(self) -> frozenset[str]:
        """Variables that the bounds depend on."""
        return frozenset(reads(self.low) | reads(self.high))

    @property
    def row(self) -> Vector:
        """The cells of a row."""
        assert isinstance(self.site.value, Vector)
        return self.site.value


def transform_of(site: Site) -> Transform | Refusal:
    """Return how the cells of a site that draws are taken to the line."""
    one = site.distribution
    assert one is not None
    if one.support == "simplex":
        return Transform(site, "simplex")
    if one.support == "vector":
        return Transform(site, "vector")
    if one.support == "interval":
        names = [parameter.name for parameter in one.parameters]
        if "low" not in names or "high" not in names:
            return Refusal(f"the bounds of {one.name} are unknown", site.line)
        low, high = (_number(site.args[names.index(end)]) for end in ("low", "high"))
    elif one.support in _BOUNDS:
        low, high = _BOUNDS[one.support]
    else:
        return Refusal("has finite variables; marginalisation is not part of this version", site.line)
    if not site.ordered:
        return Transform(site, "line", low, high)
    if not isinstance(low, Const) or high != _MOST:
        return Refusal(
            "ordered cells with an upper bound, or with bounds of their own, have no transform yet", site.line
        )
    return Transform(site, "ordered", low, high)


def _number(expression: Expr) -> Expr:
    return Const(float(expression.value)) if isinstance(expression, Const) else expression


def write_dimensions(f: Writer, transforms: Sequence[Transform]) -> None:
    """Write the body of `dimensions() -> int`: how many numbers all of them take."""
    f.line("p_ = 0")
    for one in transforms:
        with f.site(one.site):
            f.line(f"p_ += {_length(f, one)}")
    f.line("return p_")


def _length(f: Writer, one: Transform) -> str:
    if one.kind not in ("simplex", "vector"):
        return "1"
    size = f.value(one.row.size)
    return f"{size} - 1" if one.kind == "simplex" else size


def write_constrain(f: Writer, transforms: Sequence[Transform], total: str = "") -> list[str]:
    """Write the cells from `x_`; return the names of where each site's numbers start.

    Args:
        f: A function with `x_`.
        transforms: In program order: bounds may depend on what stands before them.
        total: Name that the logarithms of the determinants are added to; then a number beyond the range of a double
            makes the function return -inf.
    """
    starts: list[str] = []
    f.line("p_ = 0")
    for one in transforms:
        starts.append(f.fresh("p_"))
        f.line(f"{starts[-1]} = p_")
        with f.site(one.site):
            match one.kind:
                case "simplex":
                    row = f.let(f.vector(one.row), "row_")
                    made = f"{f.use(smooth.simplex_from_line)}(x_, p_, {row})"
                    f.line(f"{total} += {made}" if total else made)
                case "vector":
                    row, c = f.let(f.vector(one.row), "row_"), f.fresh("c_")
                    with f.block(f"for {c} in range({row}.shape[0]):"):
                        f.line(f"{row}[{c}] = x_[p_ + {c}]")
                case "ordered":
                    _constrain_ordered(f, one, total)
                case "line":
                    _constrain_number(f, one, total)
            f.line(f"p_ += {_length(f, one)}")
    return starts


def _constrain_number(f: Writer, one: Transform, total: str) -> None:
    cell = f.value(one.site.value)
    if one.bare:
        f.line(f"{cell} = x_[p_]")
        return
    low, high = f.let(f.value(one.low), "b_"), f.let(f.value(one.high), "b_")
    f.line(f"{cell} = {f.use(from_line)}(x_[p_], {low}, {high})")
    if total:
        with f.block(f"if not math.isfinite({cell}):"):
            f.line("return -math.inf")
        f.line(f"{total} += {f.use(smooth.log_stretch)}(x_[p_], {low}, {high})")


def _constrain_ordered(f: Writer, one: Transform, total: str) -> None:
    loop = one.site.loops[-1]
    with f.block(f"if {loop.index} == {f.value(loop.low)}:"):
        _constrain_number(f, one, total)
    with f.block("else:"):
        cell = f.value(one.site.value)
        f.line(f"{cell} = {f.value(_before(one.site))} + {f.use(basics.exp_or_inf)}(x_[p_])")
        if total:
            with f.block(f"if not math.isfinite({cell}):"):
                f.line("return -math.inf")
            f.line(f"{total} += x_[p_]")


def _before(site: Site) -> Expr:
    index = Index(site.loops[-1].index)
    return substitute(site.value, {index: call("-", index, Const(1))})


def write_unconstrain(f: Writer, transforms: Sequence[Transform]) -> None:
    """Write `x_` from the cells."""
    f.line("p_ = 0")
    for one in transforms:
        with f.site(one.site):
            match one.kind:
                case "simplex":
                    f.line(f"{f.use(smooth.simplex_to_line)}({f.vector(one.row)}, x_, p_)")
                case "vector":
                    row, c = f.let(f.vector(one.row), "row_"), f.fresh("c_")
                    with f.block(f"for {c} in range({row}.shape[0]):"):
                        f.line(f"x_[p_ + {c}] = {row}[{c}]")
                case "ordered":
                    loop = one.site.loops[-1]
                    with f.block(f"if {loop.index} == {f.value(loop.low)}:"):
                        _unconstrain_number(f, one)
                    with f.block("else:"):
                        cell, before = f.value(one.site.value), f.value(_before(one.site))
                        f.line(f"x_[p_] = {f.use(smooth.step_to_line)}({cell}, {before})")
                case "line":
                    _unconstrain_number(f, one)
            f.line(f"p_ += {_length(f, one)}")
    f.line("return p_")


def _unconstrain_number(f: Writer, one: Transform) -> None:
    cell = f.value(one.site.value)
    if one.bare:
        f.line(f"x_[p_] = {cell}")
    else:
        f.line(f"x_[p_] = {f.use(to_line)}({cell}, {f.value(one.low)}, {f.value(one.high)})")


def write_slopes(
    f: Writer,
    transforms: Sequence[Transform],
    starts: Sequence[str],
    slope: Callable[[Get], str],
    add: Add,
    latents: frozenset[str],
) -> None:
    """Write `gradient_` from the slopes by the cells, last site first: a bound's slope is whole before its own turn.

    Args:
        f: A function with `x_` and `gradient_`.
        transforms: In program order.
        starts: Where each one's numbers start.
        slope: Text of the slope by one cell.
        add: Adds to the slope by an expression.
        latents: What has a slope.
    """
    for one, start in reversed(list(zip(transforms, starts, strict=True))):
        site = one.site
        if one.kind == "ordered":
            _ordered_slopes(f, one, start, slope)
            continue
        f.line(f"p_ = {start}")
        with f.site(site):
            match one.kind:
                case "simplex":
                    row, slopes = f.vector(one.row), f.cell(site.variable, site.at, "g_")
                    f.line(f"{f.use(smooth.simplex_slopes)}(x_, p_, {row}, {slopes}, gradient_)")
                case "vector":
                    c = f.fresh("c_")
                    with f.block(f"for {c} in range({f.value(one.row.size)}):"):
                        f.line(f"gradient_[p_ + {c}] = {f.cell(site.variable, (*site.at, c), 'g_')}")
                case _:
                    assert isinstance(site.value, Get)
                    _number_slopes(f, one, slope(site.value), add, latents)
            f.line(f"p_ += {_length(f, one)}")


def _number_slopes(f: Writer, one: Transform, slope: str, add: Add, latents: frozenset[str], at: str = "p_") -> None:
    if one.bare:
        f.line(f"gradient_[{at}] = {slope}")
        return
    low, high = f.let(f.value(one.low), "b_"), f.let(f.value(one.high), "b_")
    names = ["_", "_"]
    ends = ((0, one.low), (1, one.high))
    for i, end in ends:
        if reads(end) & latents:
            names[i] = f.fresh("d_")
    f.line(f"gradient_[{at}], {names[0]}, {names[1]} = {f.use(smooth.line_slopes)}(x_[{at}], {low}, {high}, {slope})")
    for i, end in ends:
        if names[i] != "_":
            add(f, end, names[i])


def _ordered_slopes(f: Writer, one: Transform, start: str, slope: Callable[[Get], str]) -> None:
    """Write the slopes of ascending cells: a step moves all cells above it."""
    loop, value = one.site.loops[-1], one.site.value
    assert isinstance(value, Get)
    above, i = f.fresh("d_"), loop.index
    f.line(f"{above} = 0.0")
    with f.block(f"for {i} in range({f.value(loop.high)} - 1, -1, -1):"):
        f.line(f"{above} += {slope(value)}")
        with f.block(f"if {i} == 0:"):
            _number_slopes(f, one, above, lambda *_: None, frozenset(), f"{start} + {i}")
        with f.block("else:"):
            f.line(f"gradient_[{start} + {i}] = {above} * {f.use(basics.exp_or_inf)}(x_[{start} + {i}]) + 1.0")

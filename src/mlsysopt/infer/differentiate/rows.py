"""Sites over rows: Dirichlet, Multinomial and MultivariateNormal, whose slopes are rows too."""

from __future__ import annotations

from mlsysopt.infer.differentiate.tape import Tape
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Index, Site, Vector
from mlsysopt.infer.runtime import basics, numerics, smooth

__all__ = ["ROWS", "write_row_site"]

ROWS = frozenset({"Categorical", "Dirichlet", "Multinomial", "MultivariateNormal"})


def write_row_site(f: Writer, tape: Tape, site: Site) -> None:
    """Write the log density of a row onto `total_`, and its slopes."""
    one = site.distribution
    assert one is not None and isinstance(site.value, Vector)
    value = f.let(f.vector(site.value), "row_")
    args = [f.let(f.vector(arg) if isinstance(arg, Vector) else f.value(arg), "row_") for arg in site.args]
    f.line(f"total_ += {f.use(one.log_density)}({', '.join([value, *args])})")
    match one.name:
        case "Dirichlet":
            _dirichlet(f, tape, site, value, args[0])
        case "Multinomial":
            _multinomial(f, tape, site, value)
        case "MultivariateNormal":
            _normal(f, tape, site, value, *args)
        case _:
            raise ValueError(f"{one.name} has no derivative")


def _dirichlet(f: Writer, tape: Tape, site: Site, value: str, alpha: str) -> None:
    (shapes,) = site.args
    assert isinstance(shapes, Vector) and isinstance(site.value, Vector)
    c, total = f.fresh("c_"), ""
    if tape.shared.has_slope(shapes):
        total = f.fresh("d_")
        f.line(f"{total} = 0.0")
        with f.block(f"for {c} in range({alpha}.shape[0]):"):
            f.line(f"{total} += {alpha}[{c}]")
        f.line(f"{total} = {f.use(numerics.digamma)}({total})")
    with f.block(f"for {c} in range({alpha}.shape[0]):"):
        inner = Tape(tape.shared, tape)
        if not site.observed:
            inner.add(site.value.at(Index(c)), f"{f.use(basics.ratio)}({alpha}[{c}] - 1.0, {value}[{c}])")
        if total:
            digamma, log = f.use(numerics.digamma), f.use(basics.log_or_inf)
            inner.add(shapes.at(Index(c)), f"{total} - {digamma}({alpha}[{c}]) + {log}({value}[{c}])")
        inner.back()


def _multinomial(f: Writer, tape: Tape, site: Site, value: str) -> None:
    p = site.args[1]
    assert isinstance(p, Vector)
    c = f.fresh("c_")
    with f.block(f"for {c} in range({value}.shape[0]):"), f.block(f"if {value}[{c}] > 0:"):
        inner = Tape(tape.shared, tape)
        chance = p.at(Index(c))
        inner.add(chance, f"{f.use(basics.ratio)}({value}[{c}], {inner.value(chance)})")
        inner.back()


def _normal(f: Writer, tape: Tape, site: Site, value: str, mean: str, covariance: str) -> None:
    centre = site.args[0]
    assert isinstance(centre, Vector) and isinstance(site.value, Vector)
    pull, c = f.fresh("row_"), f.fresh("c_")
    f.line(f"{pull} = {f.use(smooth.pull_of_normal)}({value}, {mean}, {covariance})")
    with f.block(f"for {c} in range({pull}.shape[0]):"):
        inner = Tape(tape.shared, tape)
        if not site.observed:
            inner.add(site.value.at(Index(c)), f"-{pull}[{c}]")
        inner.add(centre.at(Index(c)), f"{pull}[{c}]")
        inner.back()

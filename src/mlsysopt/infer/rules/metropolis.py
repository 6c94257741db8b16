"""Random walks: rows of probabilities that are not conjugate, vectors, and on request single numbers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.emit.module import Module, Tuned
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Vector, call
from mlsysopt.infer.rules.conditional import Conditional, conditional, neighbours
from mlsysopt.infer.rules.protocol import Refusal, Update
from mlsysopt.infer.rules.statistics import flat_index
from mlsysopt.infer.runtime import walking

__all__ = ["Metropolis"]

ROWS = {"simplex": "rows of probabilities, by their log ratios", "vector": "vectors"}


class Metropolis:
    """Rule 8: propose a step, take it or leave it.

    A row's step is adapted while warming up, towards three accepted in ten, and stands still afterwards.

    Args:
        scalars: Whether to take single numbers too, by steps of a tenth of their size and with the correction for that
            size being another one where the step ends. Slices mix better: this is for comparison.
    """

    name: ClassVar[str] = "metropolis"

    def __init__(self, scalars: bool = False) -> None:
        self.scalars = scalars

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Accept rows on the simplex and vectors; nothing may be indexed by them."""
        blanket = analysis.blanket(variable)
        one = blanket.variable
        for site in blanket.own:
            assert site.distribution is not None
            if one.kind != "float":
                return Refusal(f"{site.distribution.name} draws whole numbers, and a walk needs a continuum", site.line)
            if one.event and site.distribution.support not in ROWS:
                return Refusal(f"no walk is known for the rows of {site.distribution.name}", site.line)
            if not one.event and not self.scalars:
                return Refusal("it is a number, which a slice moves better", site.line)
            if site.distribution.improper and not blanket.consumers:
                return Refusal(f"{site.distribution.name} is improper and nothing observed depends on it", site.line)
        found = conditional(blanket, sums=False)
        if isinstance(found, Refusal):
            return found
        size = analysis.size(variable)
        if not one.event:
            return Update(
                self.name, (variable,), "random walk, steps of a tenth", found.cost(size, 2, together=False),
                lambda module, name: _write_numbers(module, name, found), exact=False,
            )  # fmt: skip
        supports = {site.distribution.support for site in blanket.own if site.distribution is not None}
        about = f"random walk of {' and '.join(ROWS[one] for one in sorted(supports))}"
        width = call("+", one.shape[-1], Const(1))
        return Update(
            self.name, (variable,), about, call("*", width, found.cost(size, 1, together=False)),
            lambda module, name: _write_rows(module, name, found), tuned=True, exact=False,
        )  # fmt: skip


def _write_rows(module: Module, name: str, found: Conditional) -> None:
    """Write a walk of every row: as many steps as it has numbers."""
    with module.function(name, ("rng", "warm")) as f:
        size = module.tune(Tuned(f"t_{name}", like=found.name, start=0.5), f)
        f.line(f"size_ = {size}.reshape(-1)")
        for site in found.blanket.own:
            simplex = site.distribution is not None and site.distribution.support == "simplex"
            propose = f.use(walking.simplex_step if simplex else walking.vector_step)
            with f.site(site):
                assert isinstance(site.value, Vector)
                at = [f.let(f.value(one), "i") for one in site.at]
                cell = f.let(flat_index(f, found.name, site.at), "c")
                row = f.let(f.vector(site.value), "row")
                if simplex:
                    f.line(f"{f.use(walking.simplex_inside)}({row})")
                f.line(f"old_ = {row}.copy()")
                f.line("now_ = -math.inf")
                with _steps(f, f"{row}.shape[0] + 1"):
                    with f.block("if step_ > 0:"):
                        f.line(f"{propose}(rng, {row}, old_, size_[{cell}])")
                    f.line(f"lp_ = {f.log_density(site)}")
                    if simplex:
                        f.line(f"lp_ += {f.use(walking.simplex_log_volume)}({row})")
                    with f.block("if lp_ > -math.inf:"):
                        found.write_readers(f, at, "lp_")
                    with f.block("if step_ == 0:"):
                        _unless_finite(f, cell)
                        f.line("now_ = lp_")
                    with f.block("else:"):
                        f.line("taken_ = lp_ < math.inf and -rng.exponential(1.0) < lp_ - now_")
                        with f.block("if taken_:"):
                            f.line("now_ = lp_")
                            f.line(f"old_[:] = {row}")
                        with f.block("else:"):
                            f.line(f"{row}[:] = old_")
                        with f.block("if warm:"):
                            f.line(f"size_[{cell}] = {f.use(walking.step_size)}(size_[{cell}], taken_)")
        f.line("return 0")


def _write_numbers(module: Module, name: str, found: Conditional) -> None:
    """Write one step of every cell, the scale of the proposal hanging on where it starts."""
    with module.function(name, ("rng",)) as f:
        f.line(f"x_ = {f.array(f'v_{found.name}')}.reshape(-1)")
        for site in found.blanket.own:
            with f.site(site):
                at = [f.let(f.value(one), "i") for one in site.at]
                cell = f.let(flat_index(f, found.name, site.at), "c")
                low, high = neighbours(f, site, "", "") if site.ordered else ("", "")
                f.line(f"old_ = x_[{cell}]")
                f.line("now_ = -math.inf")
                with _steps(f, "2"):
                    with f.block("if step_ > 0:"):
                        f.line(f"x_[{cell}] = old_ + {f.use(walking.proposal_scale)}(old_) * rng.standard_normal()")
                    inside = f"{low} < x_[{cell}] < {high}" if low else f"-math.inf < x_[{cell}] < math.inf"
                    f.line("lp_ = -math.inf")
                    with f.block(f"if {inside}:"):
                        f.line(f"lp_ = {f.log_density(site)}")
                    with f.block("if lp_ > -math.inf:"):
                        found.write_readers(f, at, "lp_")
                    with f.block("if step_ == 0:"):
                        _unless_finite(f, cell)
                        f.line("now_ = lp_")
                    with f.block("else:"):
                        f.line(f"lp_ += {f.use(walking.proposal_log_ratio)}(old_, x_[{cell}])")
                        with f.block("if not (lp_ < math.inf and -rng.exponential(1.0) < lp_ - now_):"):
                            f.line(f"x_[{cell}] = old_")
        f.line("return 0")


@contextmanager
def _steps(f: Writer, count: str) -> Generator[None, None, None]:
    """Write the loop whose first round looks at where the walk stands, so that the density is written once."""
    with f.block(f"for step_ in range({count}):"):
        yield


def _unless_finite(f: Writer, cell: str) -> None:
    with f.block("if not -math.inf < lp_ < math.inf:"):
        f.line(f"return {cell} + 1")

"""The whole model by its gradient: legal where every latent is a number with a fraction and every site is smooth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.differentiate.reverse import latents_of, sites_of, transforms_of, write_smooth
from mlsysopt.infer.differentiate.rows import ROWS
from mlsysopt.infer.differentiate.tape import DIFFERENTIABLE, REDUCTIONS
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.ir import Call, Expr, Reduce, Site, Vector, walk
from mlsysopt.infer.rules.protocol import Refusal

if TYPE_CHECKING:
    import numpy as np

    from mlsysopt.infer.binding import Bound
    from mlsysopt.infer.planning import Plan

__all__ = ["Gradient", "WholeModel", "preferred", "wanted"]

MANY = 3
"""Numbers left to slice sampling from which on the gradient pays."""


@dataclass(frozen=True, slots=True)
class WholeModel:
    """A proved way of updating all latents at once.

    Attributes:
        variables: All that something observed depends on; the rest is drawn forward.
        about: A few words for `explain`.
        write: Writes `log_density_and_gradient` and what goes with it into a file.
    """

    variables: tuple[str, ...]
    about: str
    write: Callable[[Module], None]


class Gradient:
    """Rule 6. It takes the whole model or nothing, so it is not one of the rules that are tried per variable."""

    name: ClassVar[str] = "gradient"

    def propose_model(self, analysis: Analysis) -> WholeModel | Refusal:
        """Prove that the log density has a gradient, or refuse."""
        latents = latents_of(analysis)
        if not latents:
            return Refusal("nothing observed depends on anything that is drawn")
        transforms = transforms_of(analysis)
        if isinstance(transforms, Refusal):
            return transforms
        for site in sites_of(analysis):
            for refused in _unsmooth(site, latents):
                return refused
        names = tuple(one.name for one in analysis.program.latents if one.name in latents)
        return WholeModel(names, f"NUTS, {len(names)} variables", lambda module: write_smooth(module, analysis))


def preferred(plan: Plan, bound: Bound) -> WholeModel | Refusal | None:
    """Return what the gradient says of a model for which it would be the better choice; None where it would not."""
    return Gradient().propose_model(Analysis(plan.program)) if wanted(plan, bound) else None


def wanted(plan: Plan, bound: Bound) -> bool:
    """Whether enough numbers would be left to slice sampling or Metropolis for NUTS to be the better choice."""
    count = 0
    for choice in plan.choices:
        if choice.update.rule in ("slice", "metropolis"):
            count += sum(_cells(name, plan, bound) for name in choice.update.variables)
    return count >= MANY


def _cells(name: str, plan: Plan, bound: Bound) -> int:
    variable = plan.program.variables[name]
    if variable.kind != "float":
        return 0
    if variable.input:
        mask: np.ndarray | None = bound.arrays.get(f"{name}__missing")
        return int(mask.sum()) if mask is not None else 0
    count = 1
    for length in bound.lengths(variable):
        count *= length
    return count


def _unsmooth(site: Site, latents: frozenset[str]) -> Iterator[Refusal]:
    for guard in site.guards:
        for name in sorted(reads(guard.condition) & latents):
            yield Refusal(f"whether a line counts depends on {name}, and the density jumps there", guard.line)
    one = site.distribution
    drawn = not site.observed or one is None
    parts = (*site.args, *((site.value,) if drawn else ()))
    touched = drawn or any(reads(part) & latents for part in site.args)
    if one is not None and touched:
        rows = one.event or any(isinstance(arg, Vector) for arg in site.args)
        if rows and one.name not in ROWS:
            yield Refusal(f"the gradient of {one.name} is not known", site.line)
        if not rows and one.gradient is None and not one.improper:
            yield Refusal(f"the gradient of {one.name} is not known", site.line)
        if one.name == "MultivariateNormal" and reads(site.args[1]) & latents:
            yield Refusal("the covariance of a MultivariateNormal depends on what is drawn", site.line)
    for part in parts:
        yield from _rough(part, site, latents)


def _rough(expression: Expr, site: Site, latents: frozenset[str]) -> Iterator[Refusal]:
    for one in walk(expression):
        names = sorted(reads(one) & latents)
        if not names:
            continue
        match one:
            case Call("select", (condition, *_)) if reads(condition) & latents:
                name = sorted(reads(condition) & latents)[0]
                yield Refusal(f"a choice depends on {name}, and the density may jump there", site.line)
            case Call(function) if function not in DIFFERENTIABLE:
                yield Refusal(f"`{function}` of {names[0]} has no derivative", site.line)
            case Reduce(op) if op not in REDUCTIONS:
                remedy = "; write a product as exp of a sum of logarithms" if op == "mul" else ""
                yield Refusal(f"reduce({op}, ...) of {names[0]} has no derivative{remedy}", site.line)
            case _:
                pass

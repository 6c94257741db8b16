"""The log density of a smooth model, and its gradient, as one function of all latents on the whole line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.differentiate.rows import write_row_site
from mlsysopt.infer.differentiate.tape import Shared, Tape
from mlsysopt.infer.differentiate.transforms import (
    Transform,
    transform_of,
    write_constrain,
    write_dimensions,
    write_slopes,
    write_unconstrain,
)
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Call, Expr, Get, Site, Vector
from mlsysopt.infer.rules.protocol import Refusal
from mlsysopt.infer.runtime import smooth

__all__ = ["latents_of", "sites_of", "transforms_of", "write_smooth"]

_TOGETHER: dict[str, Callable[..., tuple[float, ...]]] = {"BernoulliLogit": smooth.bernoulli_logit_both}
"""Distributions whose density and gradient share what costs most."""


def latents_of(analysis: Analysis) -> frozenset[str]:
    """Return the latents that something observed depends on."""
    return frozenset(one.name for one in analysis.program.latents) - analysis.forward_only


def sites_of(analysis: Analysis) -> tuple[Site, ...]:
    """Return the sites that depend on such latents; the others add a constant."""
    latents = latents_of(analysis)
    return tuple(site for site in analysis.program.sites if _depends(site, latents))


def _depends(site: Site, latents: frozenset[str]) -> bool:
    if site.variable and not site.observed:
        return site.variable in latents
    read = {name for one in (*site.args, *(g.condition for g in site.guards)) for name in reads(one)}
    return bool((read if site.variable else read | reads(site.value)) & latents)


def transforms_of(analysis: Analysis) -> tuple[Transform, ...] | Refusal:
    """Return how every such latent is taken to the whole line, in program order."""
    latents = latents_of(analysis)
    found: list[Transform] = []
    for site in analysis.program.sites:
        if site.observed or site.variable not in latents:
            continue
        one = transform_of(site)
        if isinstance(one, Refusal):
            return Refusal(f"{site.variable} {one.reason}" if one.reason.startswith("has ") else one.reason, one.line)
        earlier = {before.site.variable for before in found}
        late = (one.bounds & latents) - earlier | one.bounds & {site.variable}
        if late:
            return Refusal(
                f"a bound of {site.variable} reads {sorted(late)[0]}, which is not drawn before it as a whole",
                site.line,
            )
        found.append(one)
    return tuple(found)


def write_smooth(module: Module, analysis: Analysis) -> None:
    """Write what NUTS needs into a file.

    `dimensions() -> int` counts the numbers on the line, `constrain(x)` writes the cells, `unconstrain(x)` reads them,
    `densities(out)` adds up each site's log density, and `log_density_and_gradient(x, gradient) -> float` is -inf where
    anything is not finite. All of them leave out sites that depend on no latent.
    """
    transforms = transforms_of(analysis)
    assert not isinstance(transforms, Refusal), str(transforms)
    with module.function("dimensions") as f:
        write_dimensions(f, transforms)
    with module.function("constrain", ("x_",)) as f:
        write_constrain(f, transforms)
        f.line("return 0")
    with module.function("unconstrain", ("x_",)) as f:
        write_unconstrain(f, transforms)
    sites = sites_of(analysis)
    with module.function("densities", ("out_",)) as f:
        for site in sites:
            with f.site(site):
                f.line(f"out_[{site.number}] += {f.log_density(site)}")
        f.line("return 0")
    with module.function("log_density_and_gradient", ("x_", "gradient_")) as f:
        _write_gradient(f, latents_of(analysis), sites, transforms)


def _write_gradient(f: Writer, latents: frozenset[str], sites: Sequence[Site], transforms: Sequence[Transform]) -> None:
    finite = f.use(smooth.all_finite)
    with f.block(f"if not {finite}(x_):"):
        f.line("return -math.inf")
    f.line("total_ = 0.0")
    starts = write_constrain(f, transforms, "total_")
    shared = Shared(f, latents)
    for name in sorted(latents):
        if f.variable(name).rank:
            f.line(f"{f.array(f'g_{name}')}.fill(0.0)")
        else:
            shared.value(Get(name))
    for site in sites:
        write_site(f, shared, site)
    shared.finish()

    def slope(get: Get) -> str:
        return f.cell(get.variable, get.at, "g_") if get.at else shared.slope(get)

    def add(f: Writer, bound: Expr, text: str) -> None:
        tape = Tape(shared, still=False)
        tape.add(bound, text)
        tape.back()

    write_slopes(f, transforms, starts, slope, add, latents)
    with f.block(f"if not math.isfinite(total_) or not {finite}(gradient_):"):
        f.line("return -math.inf")
    f.line("return total_")


def write_site(f: Writer, shared: Shared, site: Site) -> None:
    """Write a site's loops: its log density onto `total_`, its slopes onto those of the latents."""
    drawn = not site.observed
    for one in (*site.args, *((site.value,) if drawn or not site.variable else ())):
        shared.take(one)
    with f.site(site):
        tape = Tape(shared)
        one = site.distribution
        if one is None:
            f.line(f"total_ += {tape.value(site.value)}")
            tape.add(site.value, "1.0")
        elif one.name == "Categorical":
            (p,) = site.args
            assert isinstance(p, Vector) and not isinstance(site.value, Vector)
            chance = Call("log", (p.at(site.value),))
            f.line(f"total_ += {tape.value(chance)}")
            tape.add(chance, "1.0")
        elif one.event or any(isinstance(arg, Vector) for arg in site.args):
            write_row_site(f, tape, site)
        else:
            _write_numbers(f, tape, site)
        tape.back()


def _write_numbers(f: Writer, tape: Tape, site: Site) -> None:
    """Write a site of numbers: the density's own gradient gives the slopes by its value and parameters."""
    one = site.distribution
    assert one is not None
    value = f.let(f.value(site.value), "c_") if site.observed else tape.value(site.value)
    names = [value, *(tape.value(arg) for arg in site.args)]
    by = [not site.observed, *(tape.shared.has_slope(arg) for arg in site.args)]
    if one.name in _TOGETHER:
        density, slopes = f.fresh("v_"), [f.fresh("d_") if wanted else "_" for wanted in by]
        f.line(f"{', '.join([density, *slopes])} = {f.use(_TOGETHER[one.name])}({', '.join(names)})")
        f.line(f"total_ += {density}")
    else:
        f.line(f"total_ += {f.use(one.log_density)}({', '.join(names)})")
        if one.gradient is None or not any(by):
            return
        slopes = [f.fresh("d_") if wanted else "_" for wanted in by]
        f.line(f"{', '.join(slopes)}{',' if len(slopes) == 1 else ''} = {f.use(one.gradient)}({', '.join(names)})")
    for expression, slope in zip((site.value, *site.args), slopes, strict=True):
        if slope != "_":
            tape.add(expression, slope)

"""Entry points of a generated file: draw forward, evaluate the log joint, run sweeps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Block, Const, For, If, Index, Site, call, substitute
from mlsysopt.infer.rules.protocol import Update
from mlsysopt.infer.runtime import basics

__all__ = ["Retain", "update_names", "write_execute", "write_failure", "write_log_joint", "write_sweeps"]

Retain = Literal["none", "samples", "map", "both", "summary"]

TRIES = 10_000
"""Draws of ordered cells with priors of their own, until they ascend by themselves."""


def write_execute(module: Module, name: str, wanted: Callable[[Site], bool]) -> None:
    """Write `name(rng, ...)`: draw the wanted sites in program order; returns 0, or 1 + a failed site's number."""
    with module.function(name, ("rng",)) as f:
        _forward(f, module.program.body, wanted)
        f.line("return 0")


def _forward(f: Writer, block: Block, wanted: Callable[[Site], bool]) -> None:
    for one in block:
        match one:
            case Site():
                if wanted(one):
                    _drawn(f, one)
            case For(loop, body):
                if not any(wanted(site) for site in _sites(body)):
                    continue
                first = body[0]
                if isinstance(first, Site) and first.ordered:
                    _ordered(f, one, first)
                    continue
                with f.loops([loop]):
                    _forward(f, body, wanted)
            case If(guard, body, other):
                if any(wanted(site) for site in _sites(body)):
                    with f.block(f"if {f.value(guard.condition)}:"):
                        _forward(f, body, wanted)
                if any(wanted(site) for site in _sites(other)):
                    with f.block(f"if not {f.value(guard.condition)}:"):
                        _forward(f, other, wanted)


def _drawn(f: Writer, site: Site) -> None:
    f.draw(site)
    assert site.distribution is not None
    if site.distribution.event:
        first = f.value(site.value.at(Const(0)))  # type: ignore[union-attr]
        bad = f"{first} < 0" if site.distribution.discrete else f"math.isnan({first})"
    else:
        cell = f.value(site.value)
        bad = f"{cell} < 0" if site.distribution.discrete else f"math.isnan({cell})"
    with f.block(f"if {bad}:"):
        f.line(f"return {site.number + 1}")


def _ordered(f: Writer, loop: For, site: Site) -> None:
    """Draw cells that must ascend: sorted where they are alike, by rejection where they are not."""
    array, index = f.cell(site.variable, ()), loop.loop.index
    size = f.let(f.value(loop.loop.high))
    alike = all(substitute(one, {Index(index): Const(0)}) == one for one in site.args)
    if alike:
        with f.loops([loop.loop]):
            _drawn(f, site)
        f.line(f"{f.use(basics.sort_ascending)}({array}, {size})")
        return
    tries = f.fresh("tries")
    f.line(f"{tries} = 0")
    with f.block("while True:"):
        with f.loops([loop.loop]):
            _drawn(f, site)
        ascending = f.fresh("ascending")
        f.line(f"{ascending} = True")
        with f.block(f"for {index} in range(1, {size}):"), f.block(f"if {array}[{index} - 1] >= {array}[{index}]:"):
            f.line(f"{ascending} = False")
        with f.block(f"if {ascending}:"):
            f.line("break")
        f.line(f"{tries} += 1")
        with f.block(f"if {tries} == {TRIES}:"):
            f.line(f"return {site.number + 1}")


def write_log_joint(module: Module, name: str, sites: Sequence[Site]) -> None:
    """Write `name(...) -> (log joint, log likelihood)` over some sites; -inf where something is impossible."""
    with module.function(name) as f:
        f.line("prior = 0.0")
        f.line("likelihood = 0.0")
        for site in sites:
            total = "likelihood" if site.observed and site.distribution is not None else "prior"
            with f.site(site):
                f.line(f"{total} += {f.log_density(site)}")
                if site.ordered:
                    index = site.loops[-1].index
                    before = substitute(site.value, {Index(index): call("-", Index(index), Const(1))})
                    with f.block(
                        f"if {index} > {f.value(site.loops[-1].low)} and {f.value(before)} >= {f.value(site.value)}:"
                    ):
                        f.line("prior = -math.inf")
        f.line("return prior + likelihood, likelihood")


def write_sweeps(module: Module, updates: Sequence[Update], keep: Mapping[str, Retain], forward: bool) -> None:
    """Write `sweeps(rng, first, count, thin, offset, warm, at, failed, joint, ...) -> kept`.

    Runs `count` sweeps from number `first` on, each in the same order, finite variables first: a sweep that went back
    the way the last one came would draw what lies at the turn twice, given the same. Unless `warm`, every `thin`-th
    state after sweep `offset` is kept, from place `at` on: numbers in `k_<name>`, running means and squares in
    `mean_<name>` and `square_<name>`, the best state so far in `map_<name>`, log joint and log likelihood in `joint`.
    Where an update fails, `failed` gets its place among the updates + 1, the cell and the sweep.
    """
    names = update_names(updates)
    order = sorted(range(len(updates)), key=lambda i: not updates[i].finite)
    for one, name in zip(updates, names, strict=True):
        one.write(module, name)
    _write_keep(module, keep)
    # A sweep is no function of its own: LLVM compiles all that is called again with whatever calls it.
    with module.function(
        "sweeps", ("rng", "first", "count", "thin", "offset", "warm", "at", "failed", "joint", "best")
    ) as f:
        f.line("kept = at")
        with f.block("for number in range(first, first + count):"):
            for i in order:
                arguments = ("rng", "warm") if updates[i].tuned else ("rng",)
                f.line(f"status = {module.call(names[i], f, *arguments)}")
                write_failure(f, str(i + 1))
            if forward:
                f.line(f"status = {module.call('forward', f, 'rng')}")
                write_failure(f, "-1")
            with f.block("if not warm and (number - offset + 1) % thin == 0:"):
                f.line(f"kept += {module.call('keep', f, 'kept', 'joint', 'best')}")
        f.line("return kept")


def update_names(updates: Sequence[Update]) -> list[str]:
    """Return the names of the functions that hold updates, in program order."""
    return [f"update_{i}_{one.variables[0]}" for i, one in enumerate(updates)]


def write_failure(f: Writer, which: str) -> None:
    """Write: where `status` says that it failed, return what was kept; `failed` gets place, cell and sweep."""
    with f.block("if status != 0:"):
        f.line(f"failed[0] = {which}")
        f.line("failed[1] = status - 1")
        f.line("failed[2] = number")
        f.line("return kept")


def _write_keep(module: Module, keep: Mapping[str, Retain]) -> None:
    # Cells are copied in loops: an assignment of whole arrays costs seconds of compiling, for its error messages.
    with module.function("keep", ("kept", "joint", "best"), inner=True) as f:
        f.line(f"total, likelihood = {module.call('log_joint', f)}")
        f.line("joint[kept, 0] = total")
        f.line("joint[kept, 1] = likelihood")
        for name, how in keep.items():
            if how in ("samples", "both"):
                with _cells(f, name) as at:
                    f.line(f"{f.array(f'k_{name}')}[kept, {at}] = {f.array(f'v_{name}')}[{at}]")
            if how == "summary":
                _summary(f, name)
        best = [name for name, how in keep.items() if how in ("map", "both")]
        if best:
            with f.block("if total > best[0]:"):
                f.line("best[0] = total")
                for name in best:
                    with _cells(f, name) as at:
                        f.line(f"{f.array(f'map_{name}')}[{at}] = {f.array(f'v_{name}')}[{at}]")
        f.line("return 1")


@contextmanager
def _cells(f: Writer, name: str) -> Generator[str]:
    """Write loops over all cells of a variable's array; yields their index."""
    one = f.variable(name)
    rank = 1 if one.ragged or not one.rank else one.rank
    indices = [f.fresh("c") for _ in range(rank)]
    with ExitStack() as stack:
        for axis, index in enumerate(indices):
            stack.enter_context(f.block(f"for {index} in range({f.array(f'v_{name}')}.shape[{axis}]):"))
        yield ", ".join(indices)


def _summary(f: Writer, name: str) -> None:
    """Write running means and squared deviations, Welford's way."""
    mean, square = f.array(f"mean_{name}"), f.array(f"square_{name}")
    with _cells(f, name) as at:
        value = f"{f.array(f'v_{name}')}[{at}]"
        f.line(f"d = {value} - {mean}[{at}]")
        f.line(f"{mean}[{at}] += d / (kept + 1)")
        f.line(f"{square}[{at}] += d * ({value} - {mean}[{at}])")


def _sites(block: Block) -> list[Site]:
    found: list[Site] = []
    for one in block:
        match one:
            case Site():
                found.append(one)
            case For(_, body):
                found += _sites(body)
            case If(_, body, other):
                found += _sites(body) + _sites(other)
    return found

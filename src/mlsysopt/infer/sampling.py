"""Running chains: from a start through warming up to the last kept draw, in slices that can be watched and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import MlsysoptError
from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.diagnostics import cell_name
from mlsysopt.infer.engine import TRIAL_SWEEPS, Array, Backend, Chain, Engine, Failed
from mlsysopt.infer.runtime.streams import stream

__all__ = ["ChainFailed", "Request", "Sampled", "begin", "finish", "run_chain"]

SLICE_S = 0.5
"""Native time between two looks at the clock, at Ctrl-C and at what is to be saved."""

Start = Literal["auto", "prior"]
Progress = Callable[[int, int, int], None]


class ChainFailed(MlsysoptError):
    """A chain that came to a state without density: `file:line`, cell, chain, sweep and the values around it."""


@dataclass(frozen=True)
class Request:
    """What is asked of each chain.

    Attributes:
        draws: Kept states.
        warmup: Sweeps in front of them.
        thin: Sweeps for each kept state.
        seed: Of the fit; a chain's stream follows from it and the chain's number.
        start: "auto", "prior", or values by name.
        backend: Of one chain.
    """

    draws: int
    warmup: int
    thin: int = 1
    seed: int = 0
    start: Start | Mapping[str, Any] = "auto"
    backend: Backend = "single"

    @property
    def sweeps(self) -> int:
        """Sweeps of one chain in all."""
        return self.warmup + self.draws * self.thin


@dataclass
class Sampled:
    """What one chain left.

    Attributes:
        chain: Its number.
        draws: Name -> kept draws, (kept, *shape).
        joint: Log joint and log likelihood of each, (kept, 2).
        best: Name -> the kept state of highest log joint.
        moments: Name -> running (mean, squared deviations).
        seconds: CPU seconds of it.
        kept_s: Of these, after warming up.
        divergences: Of NUTS.
        error: Why it ended early, "" if it did not.
    """

    chain: int
    draws: dict[str, Array]
    joint: Array
    best: dict[str, Array] = field(default_factory=dict)
    moments: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    seconds: float = 0.0
    kept_s: float = 0.0
    divergences: int = 0
    error: str = ""


def begin(engine: Engine, request: Request, number: int) -> Chain:
    """Return a chain at its start.

    Raises:
        ChainFailed: nothing with a density was found.
    """
    rng = stream(request.seed, number)
    chain = Chain(engine, rng, draws=request.draws, thin=request.thin, backend=request.backend)
    if isinstance(request.start, Mapping):
        _set(chain, request.start)
        return chain
    improper = _improper(engine)
    if request.start == "prior" or improper:
        _prior(chain, number, improper)
        return chain
    state = [f"v_{one.name}" for one in engine.program.latents] + list(engine.tuned)
    tried: list[tuple[float, int, dict[str, Array]]] = []
    error: ChainFailed | None = None
    for place in range(engine.trials):
        _reset_tuning(chain)
        try:
            _prior(chain, number, improper)
        except ChainFailed as one:
            error = one
            continue
        tried.append((0.0, place, {name: chain.arrays[name].copy() for name in state}))
    # The better half goes on, for twice as long: a bad mode is often left only after a hundred sweeps.
    sweeps = TRIAL_SWEEPS
    while tried:
        rung: list[tuple[float, int, dict[str, Array]]] = []
        for _, place, values in tried:
            for name, array in values.items():
                chain.arrays[name][...] = array
            failed = chain.run(sweeps, warm=True)
            if failed is not None:
                error = explain_failure(chain, number, failed)
                chain.failed[:] = -1
                continue
            rung.append((chain.log_joint()[0], place, {name: chain.arrays[name].copy() for name in state}))
        tried = sorted(rung, key=lambda one: (-one[0], one[1]))[: max(1, len(rung) // 2)]
        sweeps *= 2
        if len(tried) == 1:
            for name, array in tried[0][2].items():
                chain.arrays[name][...] = array
            chain.sweeps = 0
            return chain
    assert error is not None
    raise error


def advance(chain: Chain, request: Request, number: int, count: int) -> None:
    """Run some more sweeps, through the end of warming up if it comes.

    Raises:
        ChainFailed: a state without density; what was kept before it stays.
    """
    while count > 0:
        warm = chain.sweeps < request.warmup
        now = min(count, request.warmup - chain.sweeps) if warm else count
        # Thinning counts from the end of warming up.
        if not warm and chain.offset is None:
            chain.offset = chain.sweeps
        began = time.thread_time()
        failed = chain.run(now, warm=warm)
        chain.kept_s += 0.0 if warm else time.thread_time() - began
        if failed is not None:
            raise explain_failure(chain, number, failed)
        count -= now


def run_chain(
    engine: Engine,
    request: Request,
    number: int,
    *,
    chain: Chain | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    save: Callable[[Chain, int, bool], None] | None = None,
) -> Sampled:
    """Run one chain to its end.

    Args:
        engine: Code and data.
        request: What is asked.
        number: Of the chain.
        chain: One that has been begun, or read back; None begins one.
        progress: Is told (chain, sweeps done, sweeps in all) after each slice.
        stop: Asked after each slice; true ends the chain with what it has.
        save: Is given the chain after each slice, and whether it is the last one.
    """
    began = time.thread_time()
    error = ""
    chain = begin(engine, request, number) if chain is None else chain
    step = 1
    try:
        while chain.sweeps < request.sweeps:
            clock = time.perf_counter()
            count = min(step, request.sweeps - chain.sweeps)
            advance(chain, request, number, count)
            spent = max(time.perf_counter() - clock, 1e-6)
            step = max(1, min(4 * step, int(count * SLICE_S / spent)))
            if progress is not None:
                progress(number, chain.sweeps, request.sweeps)
            stopped = stop is not None and stop()
            if save is not None:
                save(chain, number, stopped or chain.sweeps == request.sweeps)
            if stopped:
                error = "stopped"
                break
    except ChainFailed as failed:
        error = str(failed)
    return finish(chain, number, time.thread_time() - began, error)


def finish(chain: Chain, number: int, seconds: float, error: str = "") -> Sampled:
    """Return what a chain has kept."""
    keep = chain.engine.keep
    return Sampled(
        number,
        {name: chain.kept_of(name) for name, how in keep.items() if how in ("samples", "both")},
        chain.joint[: chain.kept],
        {name: chain.arrays[f"map_{name}"] for name, how in keep.items() if how in ("map", "both")},
        {
            name: (chain.arrays[f"mean_{name}"], chain.arrays[f"square_{name}"])
            for name, how in keep.items()
            if how == "summary"
        },
        seconds,
        chain.kept_s,
        0,
        error,
    )


def explain_failure(chain: Chain, number: int, failed: Failed) -> ChainFailed:
    """Return the error of a state without density, with the values that led to it."""
    engine = chain.engine
    if failed.update < 0:
        site = engine.program.sites[max(failed.cell, 0)]
        named = site.variable
    else:
        variable = engine.program.variables[engine.updates[failed.update][1][0]]
        site = engine.program.sites_of(variable.name)[0]
        shape = chain.arrays[f"v_{variable.name}"].shape
        rows = engine.bound.starts_of(variable) if variable.ragged else None
        named = cell_name(variable.name, shape[: len(shape) - variable.event], max(failed.cell, 0), rows)
    file = engine.program.file.rpartition("/")[2]
    around = sorted({one for part in site.args for one in reads(part)})
    values = ", ".join(f"{name} = {_short(chain.arrays[f'v_{name}'])}" for name in around)
    return ChainFailed(
        f"{file}:{site.line}: {named}: no value has a density (chain {number}, sweep "
        f"{failed.sweep}{'; ' + values if values else ''}); a prior that allows what is observed, or start=, may help"
    )


def _short(array: NDArray[Any]) -> str:
    return np.array2string(array.reshape(-1)[:6], precision=4, threshold=6) + ("..." if array.size > 6 else "")


def _prior(chain: Chain, number: int, improper: frozenset[str]) -> None:
    if improper:
        for name in improper:
            array = chain.arrays[f"v_{name}"]
            start = chain.rng.uniform(-2.0, 2.0, array.shape)
            positive = any(
                one.distribution is not None and one.distribution.support == "positive"
                for one in chain.engine.program.sites_of(name)
            )
            array[...] = np.exp(start) if positive else start
    status = chain.draw_prior()
    if status:
        raise explain_failure(chain, number, Failed(-1, status - 1, 0))


def _improper(engine: Engine) -> frozenset[str]:
    return frozenset(
        site.variable
        for site in engine.program.sites
        if site.distribution is not None and site.distribution.improper and not site.observed
    )


def _reset_tuning(chain: Chain) -> None:
    for name, tuned in chain.engine.tuned.items():
        chain.arrays[name][...] = tuned.start


def _set(chain: Chain, values: Mapping[str, Any]) -> None:
    status = 0 if {one.name for one in chain.engine.program.latents} <= set(values) else chain.draw_prior()
    if status:
        raise explain_failure(chain, 0, Failed(-1, status - 1, 0))
    for name, value in values.items():
        array = chain.arrays[f"v_{name}"]
        array[...] = np.asarray(value).reshape(array.shape)

"""Handing a smooth model to nutpie, a chain at a time: same seed and chain, same draws, whatever else runs."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.differentiate.reverse import latents_of, write_smooth
from mlsysopt.infer.emit.cache import interpreted, jitted
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.engine import Array, Backend, Engine
from mlsysopt.infer.runtime.streams import stream
from mlsysopt.infer.sampling import ChainFailed

__all__ = ["NutsChain", "Smooth", "sample"]

TRIES = 100
"""Prior draws among which a start of finite density has to be."""
FORWARD = 1
"""Key of the stream for what is drawn forward after each draw."""

LOOK_S = 0.5
"""Time between two looks at whether to stop."""

_IMPORTING = threading.Lock()
"""Filters of warnings are the process's: one thread at a time may change them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NutsChain:
    """What one chain left.

    Attributes:
        draws: Latent -> its draws, (draws, *shape); a number has the shape (1,).
        joint: Log joint and log likelihood of each draw, (draws, 2).
        divergences: Draws after warming up whose trajectory left the model.
        gradients: Evaluations of the gradient, warming up included.
        seconds: CPU seconds of the thread that sampled, and of the work around it.
        share: Of the steps, those that came after warming up.
    """

    draws: Mapping[str, Array]
    joint: Floats
    divergences: int
    gradients: int
    seconds: float
    share: float


class Smooth:
    """A smooth model as a function of the whole line, with arrays of its own.

    Args:
        engine: Code and data.
        backend: "single" for native code, "python" for the same file un-jitted.
    """

    def __init__(self, engine: Engine, backend: Backend = "single") -> None:
        analysis = Analysis(engine.program)
        module = Module(engine.program)
        write_smooth(module, analysis)
        self.engine, self.text = engine, module.text()
        self.plain, self.plain_model = interpreted(self.text), engine.functions("python")
        self.functions = self.plain if backend == "python" else jitted(self.text)
        self.model = engine.functions(backend)
        self.signatures = {name: tuple(one.arrays) for name, one in module.written.items()}
        self.arrays = engine.arrays()
        for name in latents_of(analysis):
            self.arrays[f"g_{name}"] = np.zeros_like(self.arrays[f"v_{name}"])
        self.dimensions = int(self.once("dimensions"))
        self.gradients = 0

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the smooth file."""
        return self.functions[name](*arguments, *(self.arrays[one] for one in self.signatures[name]))

    def once(self, name: str, *arguments: Any) -> Any:
        """Call a function of the smooth file that is not worth compiling."""
        return self.plain[name](*arguments, *(self.arrays[one] for one in self.signatures[name]))

    def of_model(self, name: str, *arguments: Any) -> Any:
        """Call a function of the engine's file, on these arrays."""
        return self.engine.call(self.model, name, self.arrays, *arguments)

    def log_density(self) -> Callable[[Floats], tuple[float, Floats]]:
        """Return the function `x -> (log density, gradient)`."""
        function = self.functions["log_density_and_gradient"]
        arrays = tuple(self.arrays[one] for one in self.signatures["log_density_and_gradient"])
        dimensions = self.dimensions

        def evaluate(x: Floats) -> tuple[float, Floats]:
            gradient = np.zeros(dimensions)
            self.gradients += 1
            try:
                return function(x, gradient, *arrays), gradient
            except (ArithmeticError, ValueError):
                # Far out, where numbers have no logarithm or floor; an exception would abort the sampler's thread.
                return -math.inf, gradient

        return evaluate

    def start(self, rng: np.random.Generator) -> Floats:
        """Return a prior draw of finite density; what has no proper prior starts uniformly in (-2, 2) of the line.

        Raises:
            UsageError: none was found; it names the first site without a density.
        """
        x, evaluate, finite = np.empty(self.dimensions), self.log_density(), False
        for _ in range(TRIES):
            x[:] = rng.uniform(-2.0, 2.0, self.dimensions)
            self.once("constrain", x)
            if int(self.engine.call(self.plain_model, "prior", self.arrays, rng)):
                continue
            self.once("unconstrain", x)
            density, gradient = evaluate(x)
            # Its first step sizes are one over the slopes: nutpie takes no start where one of them is zero.
            if np.isfinite(density) and np.all(gradient != 0.0):
                return x
            finite |= bool(np.isfinite(density))
        raise UsageError(self._why_no_start(finite))

    def _why_no_start(self, finite: bool) -> str:
        program = self.engine.program
        densities = np.zeros(len(program.sites))
        self.once("densities", densities)
        bad = np.flatnonzero(~np.isfinite(densities))
        site = program.sites[int(bad[0])] if len(bad) else program.sites[0]
        place, what = f"{program.file.rpartition('/')[2]}:{site.line}", site.variable or "factor(...)"
        if finite:
            return f"{place}: the density is flat in some direction at each of {TRIES} prior draws; use method='gibbs'"
        return (
            f"{place}: {what} has no finite density at any of {TRIES} draws from the prior, so NUTS cannot start; "
            "take a prior that allows what is observed, or method='gibbs'"
        )


def sample(
    engine: Engine,
    *,
    draws: int,
    warmup: int,
    seed: int,
    chain: int,
    backend: Backend = "single",
    stop: Callable[[], bool] | None = None,
) -> NutsChain:
    """Run one chain of NUTS.

    Args:
        engine: Of a model that `Gradient` accepts.
        draws: Kept states.
        warmup: States before them, which adapt.
        seed: Of the fit.
        chain: Number of the chain; its stream follows from both.
        backend: "single" or "python"; the draws do not depend on it.
        stop: Asked twice a second; true ends the chain with the draws it has.

    Raises:
        MissingExtra: nutpie is not installed.
        UsageError: no start has a finite density.
        ChainFailed: nutpie gave up.

    References:
        Hoffman and Gelman, The No-U-Turn Sampler, JMLR 2014; Seyboldt, Carlson and Carpenter, nutpie, 2025.
    """
    nutpie, from_pyfunc = _nutpie()
    began = time.thread_time()
    smooth = Smooth(engine, backend)
    start = smooth.start(stream(seed, chain))
    smooth.gradients = 0
    clock: list[float] = []

    def make_expand(*_: Any) -> Callable[[Floats], dict[str, Floats]]:
        def expand(x: Floats) -> dict[str, Floats]:
            # It runs on the sampler's own thread, whose clock nobody else can read.
            clock[1:] = [time.thread_time()]
            return {"x": x}

        clock[:] = [time.thread_time()] * 2
        return expand

    model = from_pyfunc(
        smooth.dimensions, smooth.log_density, make_expand, [np.dtype(np.float64)], [(smooth.dimensions,)], ["x"],
        make_initial_point_fn=lambda _: start,
    )  # fmt: skip
    own = int(np.random.SeedSequence(seed, spawn_key=(chain,)).generate_state(1, np.uint64)[0])
    running: Any = nutpie.sample(
        model, draws=draws, tune=warmup, chains=1, cores=1, seed=own, progress_bar=False, return_raw_trace=True,
        blocking=False,
    )  # fmt: skip
    (drawn,), (stats,) = _finished(running, chain, stop).get_arrow_trace()
    places = _column(drawn, "x").reshape(-1, smooth.dimensions)[warmup:]
    diverging = _column(stats, "diverging")[warmup:]
    kept, joint = _read(smooth, places, stream(seed, chain, FORWARD))
    seconds = clock[1] - clock[0] + time.thread_time() - began
    steps = _column(stats, "n_steps")
    share = float(steps[warmup:].sum() / max(steps.sum(), 1))
    return NutsChain(kept, joint, int(diverging.sum()), smooth.gradients, seconds, share)


def _finished(running: Any, chain: int, stop: Callable[[], bool] | None) -> Any:
    """Return the trace of a sampler when it is done, or what there is of it when it has to stop."""
    while True:
        try:
            return running.wait(timeout=LOOK_S)
        except TimeoutError:
            if stop is not None and stop():
                return running.abort()
        except RuntimeError as error:
            raise ChainFailed(f"NUTS stopped (chain {chain}): {str(error).partition(chr(10))[0]}") from error
        except KeyboardInterrupt:
            running.cancel()
            raise


def _nutpie() -> tuple[Any, Any]:
    """Return nutpie and its door for functions of Python."""
    try:
        # It imports arviz, which warns of its own future at every import.
        with _IMPORTING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nutpie
            from nutpie.compiled_pyfunc import from_pyfunc
    except ImportError:
        raise MissingExtra.of("sampling smooth models with NUTS", "infer") from None
    return nutpie, from_pyfunc


def _column(batch: Any, name: str) -> NDArray[Any]:
    """Return a column of an Arrow table, flat."""
    import pyarrow

    column: Any = pyarrow.array(batch.column(name))
    return (column.flatten() if hasattr(column, "flatten") else column).to_numpy(zero_copy_only=False)


def _read(smooth: Smooth, places: Floats, rng: np.random.Generator) -> tuple[dict[str, Array], Floats]:
    """Return the latents at each place, what is drawn forward included, and the log joint there."""
    engine, count = smooth.engine, len(places)
    names = [one.name for one in engine.program.latents if engine.keep.get(one.name, "samples") != "none"]
    kept = {name: np.empty((count, *smooth.arrays[f"v_{name}"].shape)) for name in names}
    joint = np.empty((count, 2))
    forward = "forward" in engine.signatures
    for i, x in enumerate(places):
        smooth.call("constrain", x)
        if forward:
            smooth.of_model("forward", rng)
        joint[i] = smooth.of_model("log_joint")
        for name in names:
            kept[name][i] = smooth.arrays[f"v_{name}"]
    return {name: one.astype(smooth.arrays[f"v_{name}"].dtype, copy=False) for name, one in kept.items()}, joint

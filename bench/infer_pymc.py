"""nutpie on a PyMC model, as a side of a duel."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bench.infer_duel import Run, flat, stopwatch

__all__ = ["PyMC", "present"]


def present() -> bool:
    """Whether PyMC is installed."""
    return importlib.util.find_spec("pymc") is not None


class PyMC:
    """Seed -> run: four chains one after another, 500 draws to adapt and 1000 to keep.

    The model is compiled in the first run, which is billed for it.

    Args:
        build: Adds the variables to the model that is open; is given the `pymc` module.
        names: Variables that are compared.
    """

    def __init__(self, build: Callable[[Any], None], names: Sequence[str]) -> None:
        self._build, self._names = build, tuple(names)
        self._compiled: Any = None

    def __call__(self, seed: int) -> Run:
        import nutpie
        import pymc as pm

        watch = stopwatch()
        if self._compiled is None:
            with pm.Model() as model:
                self._build(pm)
            self._compiled = nutpie.compile_pymc_model(model)
        compile_s = watch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace: Any = nutpie.sample(
                self._compiled, draws=1000, tune=500, chains=4, cores=1, seed=seed, progress_bar=False
            )
        whole = watch()
        draws = flat({name: trace.posterior[name].values for name in self._names})
        return Run(draws, (whole - compile_s) * _sampling_share(trace), whole)


def _sampling_share(trace: Any) -> float:
    """Return the share of the gradient evaluations that came after warming up."""
    kept = float(trace.sample_stats["n_steps"].sum())
    warm = float(trace.warmup_sample_stats["n_steps"].sum()) if "warmup_sample_stats" in trace else 0.0
    return kept / (kept + warm) if kept + warm else 1.0

"""Logistic regression with correlated regressors: `python -m bench.infer_smooth`. Bar infer.6: 0.8x PyMC + nutpie."""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

from bench.infer_duel import Run, cpu_s, duel, flat, stopwatch
from bench.infer_mixture import sampling_share
from bench.infer_models import logistic, logistic_data
from bench.protocol import Bench

NAMES = ("intercept", "beta")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.infer_smooth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    data = logistic_data(6)
    bench = Bench(
        "infer_smooth", "NUTS on our gradient keeps up with NUTS on PyMC's", "PyMC + nutpie, numba backend",
        f"p=10, N=500, pairwise correlation 0.7, {options.rounds} interleaved rounds, min bulk ESS per CPU-s",
    )  # fmt: skip
    if importlib.util.find_spec("pymc") is None:
        return bench.missing("pymc")
    low = duel(bench, lambda seed: _ours(data, seed), _Peer(data), bar="infer.6", least=0.8, rounds=options.rounds)
    bench.bar("infer.s6", low, ">=", 1.1, must=False, about="lower end; level with PyMC + nutpie is not enough here")
    return bench.finish()


def _ours(data: dict[str, Any], seed: int) -> Run:
    from mlsysopt.infer.differentiate import nuts

    engine = logistic(**data).engine()
    began = cpu_s()
    draws: list[dict[str, Any]] = []
    share = 1.0
    for chain in range(4):
        one = nuts.sample(engine, draws=1000, warmup=500, seed=seed, chain=chain, backend="single")
        draws.append(dict(one.draws))
        share = one.share
    import numpy as np

    whole = cpu_s() - began
    variables = engine.program.variables
    stacked = {name: np.stack([one[name] for one in draws]) for name in NAMES}
    stacked = {name: one if variables[name].rank else one.reshape(one.shape[:2]) for name, one in stacked.items()}
    return Run(flat(stacked), whole * share, whole)


class _Peer:
    def __init__(self, data: dict[str, Any]) -> None:
        self.data, self._compile_s = data, 0.0
        self._compiled: Any = None

    def __call__(self, seed: int) -> Run:
        import nutpie
        import pymc as pm

        if self._compiled is None:
            watch = stopwatch()
            with pm.Model() as model:
                intercept = pm.Normal("intercept", 0.0, 2.5)
                beta = pm.Normal("beta", 0.0, 2.5, shape=self.data["X"].shape[1])
                pm.Bernoulli("y", logit_p=intercept + self.data["X"] @ beta, observed=self.data["y"])
            self._compiled = nutpie.compile_pymc_model(model)
            self._compile_s = watch()
        watch = stopwatch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace: Any = nutpie.sample(
                self._compiled, draws=1000, tune=500, chains=4, cores=1, seed=seed, progress_bar=False
            )
        whole = watch()
        compile_s, self._compile_s = self._compile_s, 0.0
        draws = flat({name: trace.posterior[name].values for name in NAMES})
        return Run(draws, whole * sampling_share(trace), whole + compile_s)


if __name__ == "__main__":
    raise SystemExit(main())

"""Logistic regression with correlated regressors: `python -m bench.infer_smooth`. Bar infer.6: 0.8x PyMC + nutpie."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bench.infer_duel import Run, cpu_s, duel, flat
from bench.infer_models import logistic, logistic_data
from bench.infer_pymc import PyMC, present
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
    if not present():
        return bench.missing("pymc")
    peer = PyMC(lambda pm: _model(pm, data), NAMES)
    low = duel(bench, lambda seed: _ours(data, seed), peer, bar="infer.6", least=0.8, rounds=options.rounds)
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


def _model(pm: Any, data: dict[str, Any]) -> None:
    intercept = pm.Normal("intercept", 0.0, 2.5)
    beta = pm.Normal("beta", 0.0, 2.5, shape=data["X"].shape[1])
    pm.Bernoulli("y", logit_p=intercept + data["X"] @ beta, observed=data["y"])


if __name__ == "__main__":
    raise SystemExit(main())

"""Varying intercepts and one slope: `python -m bench.infer_hierarchy`. Bar infer.5: 3x nutpie's better form."""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

from bench.infer_duel import Run, duel, fitted, flat, stopwatch
from bench.infer_mixture import sampling_share
from bench.infer_models import hierarchy, hierarchy_data
from bench.protocol import Bench

NAMES = ("mu", "tau", "slope", "sigma", "alpha")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.infer_hierarchy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    data = hierarchy_data(5)
    bench = Bench(
        "infer_hierarchy",
        "one joint Gaussian block for all coefficients beats NUTS threefold",
        "nutpie on PyMC, the better of centred and non-centred",
        f"J=85, N=919, {options.rounds} interleaved rounds, min bulk ESS per CPU-s",
    )
    if importlib.util.find_spec("pymc") is None:
        return bench.missing("pymc")
    centred, other = Peer(data, centred=True), Peer(data, centred=False)
    pilots = {one: (run := one(99)).judged()[0] / run.sampling_s for one in (centred, other)}
    peer = max(pilots, key=lambda one: pilots[one])
    print(
        f"peer: {'centred' if peer is centred else 'non-centred'} "
        f"({pilots[centred]:.0f} and {pilots[other]:.0f} ESS/s in a pilot)",
        flush=True,
    )
    duel(
        bench,
        lambda seed: fitted(hierarchy(**data), NAMES, draws=4000, warmup=500, seed=seed),
        peer,
        bar="infer.5",
        least=3.0,
        rounds=options.rounds,
    )
    return bench.finish()


class Peer:
    """nutpie on PyMC's model in one of two forms; compiling is counted in the first run."""

    def __init__(self, data: dict[str, Any], *, centred: bool) -> None:
        self.data, self.centred = data, centred
        self._compiled: Any = None
        self._compile_s = 0.0

    def __call__(self, seed: int) -> Run:
        import nutpie
        import pymc as pm

        if self._compiled is None:
            watch = stopwatch()
            with pm.Model() as model:
                mu, slope = pm.Normal("mu", 0.0, 5.0), pm.Normal("slope", 0.0, 5.0)
                tau, sigma = pm.HalfNormal("tau", 2.0), pm.HalfNormal("sigma", 2.0)
                if self.centred:
                    alpha: Any = pm.Normal("alpha", mu, tau, shape=self.data["J"])
                else:
                    alpha = pm.Deterministic("alpha", mu + tau * pm.Normal("raw", 0.0, 1.0, shape=self.data["J"]))
                pm.Normal("y", alpha[self.data["county"]] + slope * self.data["x"], sigma, observed=self.data["y"])
            self._compiled = nutpie.compile_pymc_model(model)
            self._compile_s = watch()
        watch = stopwatch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace: Any = nutpie.sample(
                self._compiled, draws=1000, tune=500, chains=4, cores=1, seed=seed, progress_bar=False
            )
        whole = watch()
        draws = flat({name: trace.posterior[name].values for name in NAMES})
        compile_s, self._compile_s = self._compile_s, 0.0
        return Run(draws, whole * sampling_share(trace), whole + compile_s)


if __name__ == "__main__":
    raise SystemExit(main())

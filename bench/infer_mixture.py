"""A Gaussian mixture of three components: `python -m bench.infer_mixture`. Bars infer.4a (JAGS) and infer.4b (nutpie).

nutpie gets PyMC's marginalised mixture with ordered means; JAGS draws the labels and sorts the means.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bench import infer_pymc
from bench.infer_duel import Run, duel, fitted
from bench.infer_jags import jags, present
from bench.infer_models import mixture, mixture_data
from bench.infer_pymc import PyMC
from bench.protocol import Bench

JAGS = """model {
  weight ~ ddirch(two[1:K])
  for (k in 1:K) {
    two[k] <- 2
    raw[k] ~ dnorm(0, 0.04)
    precision[k] ~ dgamma(2, 2)
  }
  mu[1:K] <- sort(raw[1:K])
  for (n in 1:N) {
    z[n] ~ dcat(weight[1:K])
    x[n] ~ dnorm(mu[z[n]], precision[z[n]])
  }
}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.infer_mixture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    data = mixture_data(4)
    bench = Bench(
        "infer_mixture",
        "a swept mixture keeps up with NUTS on the marginalised one, and leaves label-wise Gibbs behind",
        "JAGS 4.3; nutpie on PyMC's marginalised mixture",
        f"K=3, N=1000, {options.rounds} interleaved rounds, min bulk ESS per CPU-s",
    )
    if not present():
        return bench.missing("jags")
    if not infer_pymc.present():
        return bench.missing("pymc")
    names = ("mu", "precision", "weight")

    def ours(seed: int) -> Run:
        compiled = mixture(**data)
        compiled.z.retain = "none"
        return fitted(compiled, names, draws=4000, warmup=500, seed=seed, thin=4)

    def with_jags(seed: int) -> Run:
        given = {"x": data["x"], "K": 3, "N": len(data["x"])}
        return jags(JAGS, given, list(names), draws=1500, warmup=500, seed=seed)

    peer = PyMC(lambda pm: _marginalised(pm, data), names)
    first = duel(
        bench, ours, with_jags, bar="infer.4a", least=15.0, rounds=options.rounds, converged=False, about="JAGS"
    )
    second = duel(bench, ours, peer, bar="infer.4b", least=1.0, rounds=options.rounds, about="nutpie, marginalised")
    bench.headline = f"at least {first:.1f}x JAGS and {second:.2f}x nutpie on the marginalised model (ESS per CPU-s)"
    return bench.finish()


def _marginalised(pm: Any, data: dict[str, Any]) -> None:
    from pymc.distributions.transforms import ordered

    weight = pm.Dirichlet("weight", [2.0, 2.0, 2.0])
    mu = pm.Normal("mu", 0.0, 5.0, shape=3, transform=ordered, initval=[-2.0, 0.0, 2.0])
    precision = pm.Gamma("precision", 2.0, 2.0, shape=3)
    pm.NormalMixture("x", weight, mu, tau=precision, observed=data["x"])


if __name__ == "__main__":
    raise SystemExit(main())

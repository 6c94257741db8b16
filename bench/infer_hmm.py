"""A hidden Markov chain: `python -m bench.infer_hmm --peer numpyro|jags`. Bars infer.1 and infer.2.

NumPyro runs NUTS on the model with the states summed out by the forward algorithm, its best formulation; JAGS draws the
states one by one, as it does. Both sides have the same priors, which tell the states apart.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from typing import Any

from bench.infer_duel import Run, duel, fitted, flat, stopwatch
from bench.infer_jags import jags, present
from bench.infer_models import hmm, hmm_data
from bench.protocol import Bench

JAGS = """model {
  for (k in 1:K) {
    move[k, 1:K] ~ ddirch(sticky[k, 1:K])
    emit[k, 1:M] ~ ddirch(typed[k, 1:M])
    start[k] <- 1 / K
  }
  z[1] ~ dcat(start[1:K])
  for (t in 2:T) { z[t] ~ dcat(move[z[t - 1], 1:K]) }
  for (t in 1:T) { y[t] ~ dcat(emit[z[t], 1:M]) }
}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.infer_hmm", description=__doc__)
    parser.add_argument("--peer", choices=["numpyro", "jags", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    if options.peer == "both":
        return max(main(["--peer", peer, "--rounds", str(options.rounds)]) for peer in ("numpyro", "jags"))
    data = hmm_data(20)
    if options.peer == "numpyro":
        bench = Bench(
            "infer_hmm_numpyro",
            "an exact chain block draws twenty times the effective draws of NUTS",
            "NumPyro NUTS, forward algorithm",
            f"K=4, M=8, T=2000, {options.rounds} interleaved rounds, min bulk ESS per CPU-s, peers on one thread",
        )
        if importlib.util.find_spec("numpyro") is None:
            return bench.missing("numpyro")
        duel(
            bench,
            lambda seed: _ours(data, seed),
            lambda seed: _numpyro(data, seed),
            bar="infer.1",
            least=20.0,
            rounds=options.rounds,
        )
    else:
        bench = Bench(
            "infer_hmm_jags",
            "an exact chain block draws a hundred times the effective draws of single states",
            "JAGS 4.3",
            f"K=4, M=8, T=2000, {options.rounds} interleaved rounds of about 60 s of JAGS, min bulk ESS per CPU-s",
        )
        if not present():
            return bench.missing("jags")
        duel(
            bench,
            lambda seed: _ours(data, seed),
            lambda seed: _jags(data, seed),
            bar="infer.2",
            least=100.0,
            rounds=options.rounds,
            converged=False,
        )
    return bench.finish()


def _ours(data: dict[str, Any], seed: int) -> Run:
    compiled = hmm(**data)
    compiled.z.retain = "none"
    return fitted(compiled, ("move", "emit"), draws=2500, warmup=1000, seed=seed, thin=10)


def _numpyro(data: dict[str, Any], seed: int) -> Run:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS

    jax.config.update("jax_enable_x64", True)
    y, K = jnp.asarray(data["y"]), data["K"]

    def model() -> None:
        with numpyro.plate("states", K):
            move = numpyro.sample("move", dist.Dirichlet(jnp.asarray(data["sticky"])))
            emit = numpyro.sample("emit", dist.Dirichlet(jnp.asarray(data["typed"])))
        log_move, log_emit = jnp.log(move), jnp.log(emit)

        def step(alpha: Any, label: Any) -> tuple[Any, None]:
            return jax.scipy.special.logsumexp(alpha[:, None] + log_move, axis=0) + log_emit[:, label], None

        first = -jnp.log(K) + log_emit[:, y[0]]
        last, _ = jax.lax.scan(step, first, y[1:])
        numpyro.factor("y", jax.scipy.special.logsumexp(last))

    watch = stopwatch()
    sampler = MCMC(
        NUTS(model), num_warmup=200, num_samples=150, num_chains=2, chain_method="sequential", progress_bar=False
    )
    sampler.warmup(jax.random.PRNGKey(seed))
    warm = watch()
    sampler.run(jax.random.PRNGKey(seed + 1000))
    draws = {name: np.asarray(one) for name, one in sampler.get_samples(group_by_chain=True).items()}
    return Run(flat(draws), watch() - warm, watch())


def _jags(data: dict[str, Any], seed: int) -> Run:
    given = {
        "y": data["y"] + 1,
        "K": data["K"],
        "M": data["M"],
        "T": len(data["y"]),
        "sticky": data["sticky"],
        "typed": data["typed"],
    }
    return jags(JAGS, given, ["move", "emit"], draws=4200, warmup=300, seed=seed)


if __name__ == "__main__":
    raise SystemExit(main())

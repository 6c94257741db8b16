"""Varying intercepts and one slope: `python -m bench.infer_hierarchy`. Bar infer.5: 3x nutpie's better form."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bench.infer_duel import duel, fitted
from bench.infer_models import hierarchy, hierarchy_data
from bench.infer_pymc import PyMC, present
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
    if not present():
        return bench.missing("pymc")
    centred = PyMC(lambda pm: _model(pm, data, centred=True), NAMES)
    other = PyMC(lambda pm: _model(pm, data, centred=False), NAMES)
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


def _model(pm: Any, data: dict[str, Any], *, centred: bool) -> None:
    mu, slope = pm.Normal("mu", 0.0, 5.0), pm.Normal("slope", 0.0, 5.0)
    tau, sigma = pm.HalfNormal("tau", 2.0), pm.HalfNormal("sigma", 2.0)
    if centred:
        alpha = pm.Normal("alpha", mu, tau, shape=data["J"])
    else:
        alpha = pm.Deterministic("alpha", mu + tau * pm.Normal("raw", 0.0, 1.0, shape=data["J"]))
    pm.Normal("y", alpha[data["county"]] + slope * data["x"], sigma, observed=data["y"])


if __name__ == "__main__":
    raise SystemExit(main())
